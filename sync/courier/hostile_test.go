// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// state is what must not change: events here, EDUs that had their effect, what is due to a.
func state(a, b *box) string {
	return fmt.Sprint(b.took(), b.pending(a), b.queued(a))
}

// TestHostileFiles changes each file of a's on a stick in many ways; nothing that b holds may change but by files that are whole.
func TestHostileFiles(t *testing.T) {
	w, a, b, id := pair(t)
	c := w.box("c.test") // paired with both, in no room
	place := t.TempDir()
	d := openStick(t, place)
	says(a, id, 3)
	a.queue(b, "m.direct_to_device", "", `{}`)
	a.export(d)
	c.queue(b, "m.direct_to_device", "", `{"c":1}`)
	c.export(d)
	b.roster = b.roster.Without(c.peer.ID) // a stranger to b, with files of the right form
	clean := snapshot(t, place)
	before := state(a, b)
	dice := rand.New(rand.NewPCG(7, 1))
	dir := filepath.Join(place, Folder)
	ours := brief(a.peer.ID)
	var theirs []byte
	for name, raw := range clean {
		if strings.HasPrefix(name, brief(c.peer.ID)) && strings.HasSuffix(name, ".seg") {
			theirs = raw
		}
	}
	ways := map[string]func(string, []byte) error{
		"cut short":     func(n string, raw []byte) error { return os.WriteFile(n, raw[:dice.IntN(len(raw))], 0o644) },
		"empty":         func(n string, _ []byte) error { return os.WriteFile(n, nil, 0o644) },
		"longer":        func(n string, raw []byte) error { return os.WriteFile(n, append(bytes.Clone(raw), 0), 0o644) },
		"huge":          func(n string, _ []byte) error { return os.Truncate(n, 1<<40) },
		"a stranger's":  func(n string, _ []byte) error { return os.WriteFile(n, theirs, 0o644) },
		"a folder":      func(n string, _ []byte) error { return os.Mkdir(n+".x", 0o755) },
		"a link":        func(n string, _ []byte) error { os.Remove(n); return os.Symlink("/etc/passwd", n) },
		"an inner link": func(n string, raw []byte) error { return os.Rename(n, n+".y") },
		"a pipe":        func(n string, _ []byte) error { os.Remove(n); return syscall.Mkfifo(n, 0o644) },
	}
	for i := range 8 {
		ways[fmt.Sprint("a bit ", i)] = func(n string, raw []byte) error {
			bad := bytes.Clone(raw)
			bad[dice.IntN(len(bad))] ^= 1 << dice.IntN(8)
			return os.WriteFile(n, bad, 0o644)
		}
	}
	for what, change := range ways {
		restore(t, place, clean)
		for name, raw := range clean {
			if !strings.HasPrefix(name, ours) {
				continue
			}
			if err := change(filepath.Join(dir, name), raw); err != nil {
				t.Fatal(err)
			}
			if what == "a folder" {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(filepath.Join(dir, name+".x"), filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
		}
		in := b.imports(d)
		if what != "an inner link" && len(in.Bad) == 0 {
			t.Errorf("%s: nothing is counted", what)
		}
		if in.Foreign != 1 {
			t.Errorf("%s: %d boxes that are not paired, want 1", what, in.Foreign)
		}
		if got := state(a, b); got != before || len(b.texts(id)) != 0 {
			t.Fatalf("%s: something changed: %s, before %s", what, got, before)
		}
		for name := range clean { // pipes and links would stop the next restore
			os.RemoveAll(filepath.Join(dir, name))
			os.RemoveAll(filepath.Join(dir, name+".y"))
		}
	}
	// Each segment damaged alone, under the right index: the others count.
	restore(t, place, clean)
	for _, e := range readIndex(d, a.peer.ID, func(n string, err error) { t.Error(n, err) }).entries {
		if e.reader != b.peer.ID.Brief() {
			continue
		}
		name := e.name(a.peer.ID)
		raw := clean[name]
		restore(t, place, clean)
		if err := b.db.Do(t.Context(), func(tx *store.Tx) error { return tx.ForgetSegments() }); err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(raw)
		bad[len(bad)/2] ^= 1
		if err := os.WriteFile(filepath.Join(dir, name), bad, 0o644); err != nil {
			t.Fatal(err)
		}
		if in := b.imports(d); in.Bad[errChanged.Error()] != 1 {
			t.Errorf("a changed segment: %v", in.Bad)
		}
	}
	restore(t, place, clean)
	b.imports(d)
	if len(b.texts(id)) != 3 || len(b.took()) != 1 {
		t.Errorf("from the clean stick: %d texts, %v", len(b.texts(id)), b.took())
	}
}

// crowded is a stick with a million files.
type crowded struct{ Disk }

func (crowded) Names(most int) (names []string, err error) {
	for i := range min(most, 1_000_000) {
		names = append(names, fmt.Sprintf("%016x-a.idx", i))
	}
	return names, nil
}

func TestMillionFiles(t *testing.T) {
	_, a, b, id := pair(t)
	d := openStick(t, t.TempDir())
	ids := says(a, id, 3)
	a.export(crowded{d})
	in := b.imports(crowded{d})
	if of(in, a).Events != 3 || in.Foreign == 0 {
		t.Errorf("%+v", in)
	}
	b.has(id, ids...)
}

// TestManyEDUs: more than one letter holds, of which the first is damaged: none may be overtaken.
func TestManyEDUs(t *testing.T) {
	_, a, b, _ := pair(t)
	place := t.TempDir()
	d := openStick(t, place)
	noise := make([]byte, 30_000)
	rng := rand.NewChaCha8([32]byte{1})
	for i := range 100 {
		rng.Read(noise)
		body, err := json.Marshal(map[string]any{"n": i, "x": base64.StdEncoding.EncodeToString(noise)})
		if err != nil {
			t.Fatal(err)
		}
		a.queue(b, "m.direct_to_device", "", string(body))
	}
	a.export(d)
	x := readIndex(d, a.peer.ID, func(n string, err error) { t.Error(n, err) })
	var letters []entry
	for _, e := range x.entries {
		if e.kind == kindLetter {
			letters = append(letters, e)
		}
	}
	if len(letters) < 2 {
		t.Fatalf("%d letters", len(letters))
	}
	name := filepath.Join(place, Folder, letters[0].name(a.peer.ID))
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, append([]byte{raw[0] ^ 1}, raw[1:]...), 0o644); err != nil {
		t.Fatal(err)
	}
	if in := b.imports(d); of(in, a).EDUs != 0 || len(b.took()) != 0 || of(in, a).Waiting == 0 {
		t.Errorf("%d EDUs overtook those that are lost: %+v", len(b.took()), of(in, a))
	}
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	b.imports(d)
	for i, e := range b.took() {
		if !strings.Contains(e, fmt.Sprintf(`"n":%d,`, i)) {
			t.Fatalf("number %d is %.60s", i, e)
		}
	}
	if len(b.took()) != 100 {
		t.Errorf("%d of 100", len(b.took()))
	}
}

// keys for the fuzz targets.
func fuzzKeys() (key ed25519.PrivateKey, from, self peer.ID) {
	key = ed25519.NewKeyFromSeed(seed("fuzz"))
	from = peer.IDOf(key.Public().(ed25519.PublicKey))
	return key, from, peer.IDOf(ed25519.NewKeyFromSeed(seed("reader")).Public().(ed25519.PublicKey))
}

// FuzzSegment signs whatever comes, as a paired box that lies could, and reads it.
func FuzzSegment(f *testing.F) {
	codec, err := parcel.NewCodec()
	if err != nil {
		f.Fatal(err)
	}
	key, from, self := fuzzKeys()
	reader := ed25519.NewKeyFromSeed(seed("reader"))
	id, err := identity(reader)
	if err != nil {
		f.Fatal(err)
	}
	session := codec.Session(1, 2)
	msg, _, _, err := session.Encode(perMessage, &parcel.EDU{Seq: 1, Type: "m.x", Content: []byte(`{}`)}, &parcel.Kept{EDUs: 4})
	if err != nil {
		f.Fatal(err)
	}
	s := segment{kind: kindLetter, exporter: from, reader: self, epoch: 7, serial: 1, nonce: [2]uint32{1, 2}, messages: [][]byte{msg, msg}}
	sealed, err := s.seal(codec, key)
	if err != nil {
		f.Fatal(err)
	}
	plain, err := decrypt(sealed, id)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain[:len(plain)-ed25519.SignatureSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseSegment(b, codec, self, from); err == nil {
			t.Error("an unsigned segment was taken")
		}
		b = append(bytes.Clone(b), ed25519.Sign(key, append([]byte(segmentContext), b...))...)
		s, err := parseSegment(b, codec, self, from)
		if err != nil {
			return
		}
		session := codec.Session(s.nonce[1], s.nonce[0])
		for _, m := range s.messages {
			session.Decode(m)
		}
	})
}

// FuzzIndex does the same with indexes.
func FuzzIndex(f *testing.F) {
	key, from, _ := fuzzKeys()
	x := index{epoch: 3, serial: 9, entries: []entry{{kind: kindEvents, size: 100, events: 3}, {kind: kindLetter, size: 5}}}
	raw, err := x.seal(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:len(raw)-ed25519.SignatureSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := parseIndex(b, from); err == nil {
			t.Error("an unsigned index was taken")
		}
		b = append(bytes.Clone(b), ed25519.Sign(key, append([]byte(indexContext), b...))...)
		x, err := parseIndex(b, from)
		if err == nil && len(x.entries) > maxEntries {
			t.Errorf("%d entries", len(x.entries))
		}
	})
}

// TestEmptyMessages: a few bytes on a stick cannot become many messages in memory.
func TestEmptyMessages(t *testing.T) {
	codec, err := parcel.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	key, from, self := fuzzKeys()
	id, err := identity(ed25519.NewKeyFromSeed(seed("reader")))
	if err != nil {
		t.Fatal(err)
	}
	for count, want := range map[int]error{maxCount: nil, maxCount + 1: errMalformed, maxBody: errMalformed} {
		s := segment{kind: kindSealed, exporter: from, reader: self, messages: make([][]byte, count)}
		raw, err := s.seal(codec, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := unseal(raw, codec, id, self, from); err != want {
			t.Errorf("%d empty messages in %d bytes: %v", count, len(raw), err)
		}
	}
}
