// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"hallig/sync/peer"
)

func bagKey(name string) (ed25519.PrivateKey, peer.ID) {
	key := ed25519.NewKeyFromSeed(seed("bag " + name))
	return key, peer.IDOf(key.Public().(ed25519.PublicKey))
}

// makeBag writes one with these bodies, the last as its end.
func makeBag(t testing.TB, w io.Writer, key ed25519.PrivateKey, to peer.ID, serial int64, bodies ...string) {
	t.Helper()
	b, err := NewBagWriter(w, key, to, serial)
	if err != nil {
		t.Fatal(err)
	}
	for i, body := range bodies {
		write := b.Part
		if i == len(bodies)-1 {
			write = b.End
		}
		if err := write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
}

// readBag gives what one can read, up to an error.
func readBag(raw []byte, key ed25519.PrivateKey, from peer.ID) (bodies []string, whole bool, err error) {
	r, err := ReadBag(bytes.NewReader(raw))
	if err == nil {
		err = r.Open(key, from)
	}
	for err == nil {
		var body []byte
		if body, whole, err = r.Next(); err == nil {
			bodies = append(bodies, string(body))
		}
		if whole {
			return bodies, true, nil
		}
	}
	return bodies, false, err
}

func TestBag(t *testing.T) {
	hub, hubID := bagKey("hub")
	box, boxID := bagKey("box")
	other, otherID := bagKey("other")
	var buf bytes.Buffer
	makeBag(t, &buf, hub, boxID, 7, "head", "one", "", "end")
	raw := buf.Bytes()
	if got, whole, err := readBag(raw, box, hubID); err != nil || !whole || fmt.Sprint(got) != "[head one  end]" {
		t.Errorf("%q, %v, %v", got, whole, err)
	}
	for what, tt := range map[string]struct {
		key  ed25519.PrivateKey
		from peer.ID
		want error
	}{"a stranger": {other, hubID, ErrBagForeign}, "said to be another's": {box, otherID, ErrBagForged}} {
		if got, _, err := readBag(raw, tt.key, tt.from); !errors.Is(err, tt.want) || len(got) > 0 {
			t.Errorf("%s reads %q, %v", what, got, err)
		}
	}
	for _, key := range []ed25519.PrivateKey{hub, box} { // who wrote it can say what lies there
		r, err := ReadBag(bytes.NewReader(raw))
		if err == nil {
			err = r.Open(key, hubID)
		}
		if err != nil {
			t.Fatal(err)
		}
		if first, last, err := r.Ends(); err != nil || string(first) != "head" || string(last) != "end" {
			t.Errorf("%q, %q, %v", first, last, err)
		}
	}
	// The stranger's own words under the hub's name.
	forged := bytes.Clone(raw)
	var own bytes.Buffer
	makeBag(t, &own, other, boxID, 7, "head", "end")
	forged = append(forged[:bagHead], own.Bytes()[bagHead:]...)
	if got, _, err := readBag(forged, box, hubID); !errors.Is(err, ErrBagForged) || len(got) > 0 {
		t.Errorf("forged: %q, %v", got, err)
	}
	// A part of another bag of the same two.
	var later bytes.Buffer
	makeBag(t, &later, hub, boxID, 8, "head", "two", "end")
	mixed := append(bytes.Clone(raw[:bagHead]), later.Bytes()[bagHead:]...)
	if got, _, err := readBag(mixed, box, hubID); !errors.Is(err, ErrBagDamaged) || len(got) > 0 {
		t.Errorf("parts of a newer bag: %q, %v", got, err)
	}
	// Whatever is cut off or changed, what was read before was written so.
	dice := rand.New(rand.NewPCG(3, 4))
	want := []string{"head", "one", "", "end"}
	for i := 0; i < len(raw); i += 1 + dice.IntN(60) {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << dice.IntN(8)
		for what, b := range map[string][]byte{"cut": raw[:i], "changed": bad} {
			got, whole, err := readBag(b, box, hubID)
			if err == nil && whole {
				t.Fatalf("%s at %d: read as whole", what, i)
			}
			for j := range got {
				if got[j] != want[j] {
					t.Fatalf("%s at %d: %q", what, i, got)
				}
			}
		}
	}
	if _, err := NewBagWriter(io.Discard, hub, boxID, 0); err == nil {
		t.Error("a bag without a serial")
	}
	b, err := NewBagWriter(io.Discard, hub, boxID, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Part(make([]byte, MaxPart+1)); err == nil {
		t.Error("a part that nobody reads")
	}
	noise := make([]byte, MaxPart)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	var large bytes.Buffer
	makeBag(t, &large, hub, boxID, 1, string(noise), "")
	if got, whole, err := readBag(large.Bytes(), box, hubID); err != nil || !whole || got[0] != string(noise) {
		t.Errorf("the largest part: %d, %v, %v", len(got), whole, err)
	}
	if n := NextSerial(5, 9, 1<<60); n != 10 {
		t.Errorf("serial %d", n)
	}
}

// stowed puts a bag with one word onto a stick.
func stowed(d Disk, key ed25519.PrivateKey, self, to peer.ID, word string) error {
	return Stow(d, self, to, func(w io.Writer, room, after int64) (bool, error) {
		b, err := NewBagWriter(w, key, to, after+1)
		if err == nil {
			err = b.Part([]byte(word))
		}
		if err == nil {
			err = b.End(nil)
		}
		return true, err
	})
}

// inForce reads the newest good bag on a stick; "" when there is none.
func inForce(t *testing.T, d Disk, key ed25519.PrivateKey, from peer.ID) string {
	t.Helper()
	files, err := Bags(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, err := d.Read(f.Name, f.Size, MaxBag)
		if err != nil {
			t.Fatal(err)
		}
		if got, whole, _ := readBag(raw, key, from); whole {
			return got[0]
		}
	}
	return ""
}

// A stick that is pulled at any act has the bag from before or the new one, whole; the next visit goes as ever.
func TestStowPulled(t *testing.T) {
	hub, hubID := bagKey("hub")
	box, boxID := bagKey("box")
	dice := rand.New(rand.NewPCG(1, 2))
	for way := range ways {
		for cut := 0; ; cut++ {
			d := openStick(t, t.TempDir())
			for _, word := range []string{"older", "old"} {
				if err := stowed(d, hub, hubID, boxID, word); err != nil {
					t.Fatal(err)
				}
			}
			s := &shaky{Disk: d, cut: cut, way: way, dice: dice}
			err := stowed(s, hub, hubID, boxID, "new")
			got := inForce(t, s.crash(), box, hubID)
			if got != "old" && got != "new" || err == nil && got != "new" {
				t.Fatalf("pulled at act %d, way %d: %q is there, after %v", cut, way, got, err)
			}
			if err == nil {
				break
			}
			if err := stowed(d, hub, hubID, boxID, "next"); err != nil {
				t.Fatal(err)
			}
			if files, err := Bags(d); err != nil || len(files) != 1 || inForce(t, d, box, hubID) != "next" {
				t.Fatalf("after that: %v, %v", files, err)
			}
		}
	}
}

// What does not fit beside the older bag is written once more in its place; a stick without any room says so and keeps what it has.
func TestStowFull(t *testing.T) {
	hub, hubID := bagKey("hub")
	_, boxID := bagKey("box")
	d := openStick(t, t.TempDir())
	if err := stowed(d, hub, hubID, boxID, "old"); err != nil {
		t.Fatal(err)
	}
	var rooms []int64
	err := Stow(d, hubID, boxID, func(w io.Writer, room, after int64) (bool, error) {
		rooms = append(rooms, room)
		b, err := NewBagWriter(w, hub, boxID, after+1)
		if err == nil {
			err = b.End(nil)
		}
		return false, err
	})
	if err != nil || len(rooms) != 2 {
		t.Errorf("written %d times, %v", len(rooms), err)
	}
	if err := stowed(&small{Disk: d, left: 10}, hub, hubID, boxID, "x"); !IsFull(err) {
		t.Errorf("a full stick: %v", err)
	}
	if err := stowed(&small{Disk: d, left: 300, lies: true}, hub, hubID, boxID, "x"); !IsFull(err) {
		t.Errorf("a stick that lies: %v", err)
	}
	if err := stowed(&readOnly{Disk: d}, hub, hubID, boxID, "x"); !IsReadOnly(err) {
		t.Errorf("a stick with its switch on: %v", err)
	}
	if files, err := Bags(d); err != nil || len(files) != 1 {
		t.Errorf("%v, %v", files, err)
	}
}

func FuzzBag(f *testing.F) {
	hub, hubID := bagKey("hub")
	box, boxID := bagKey("box")
	var buf bytes.Buffer
	makeBag(f, &buf, hub, boxID, 7, "head", "one", "end")
	f.Add(buf.Bytes())
	f.Add(buf.Bytes()[:bagHead+4])
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, _, _ := readBag(raw, box, hubID)
		for i, body := range got {
			if body != []string{"head", "one", "end"}[i] {
				t.Errorf("%q was never written", body)
			}
		}
		if r, err := ReadBag(bytes.NewReader(raw)); err == nil && r.Open(hub, hubID) == nil {
			_, _, _ = r.Ends()
		}
	})
}

// FuzzBagPart looks at what stands within the seal: whoever is paired may write it.
func FuzzBagPart(f *testing.F) {
	hub, hubID := bagKey("hub")
	_, boxID := bagKey("box")
	f.Add([]byte("hallig bag part 1\n"), uint32(0))
	f.Fuzz(func(t *testing.T, plain []byte, number uint32) {
		var buf bytes.Buffer
		w, err := NewBagWriter(&buf, hub, boxID, 7)
		if err != nil {
			t.Fatal(err)
		}
		signed := append(bytes.Clone(plain), ed25519.Sign(hub, append([]byte(partContext), plain...))...)
		sealed, err := encryptTo(signed, w.self)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ReadBag(bytes.NewReader(buf.Bytes()))
		if err == nil {
			err = r.Open(hub, hubID)
		}
		if err != nil {
			t.Fatal(err)
		}
		if body, _, err := r.unseal(sealed, number); err == nil && len(body) > MaxPart {
			t.Error("too much")
		}
	})
}
