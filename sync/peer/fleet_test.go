// SPDX-License-Identifier: EUPL-1.2

package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func seeded(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

// member makes a box of a fleet.
func member(t testing.TB, name string) Member {
	t.Helper()
	box := seeded(name)
	b, err := State(box, Peer{Server: name + ".test", Serial: 1, SigningKeys: map[string]ed25519.PublicKey{"ed25519:1": seeded(name + " signs").Public().(ed25519.PublicKey)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ReadStatement(b)
	if err != nil {
		t.Fatal(err)
	}
	return Member{Peer: p, Label: "Box " + name}
}

func lost(t testing.TB, name string) Revocation {
	return Revocation{ID: member(t, name).ID, Server: name + ".test", Reason: "gestohlen"}
}

func testFleet(t testing.TB) (ed25519.PrivateKey, Fleet, []byte) {
	t.Helper()
	root := seeded("root")
	f := Fleet{Serial: 7, Issued: 1795750000, Boxes: []Member{member(t, "a"), member(t, "b"), member(t, "c")}, Revoked: []Revocation{lost(t, "x"), lost(t, "y")}}
	b, err := SignFleet(root, f)
	if err != nil {
		t.Fatal(err)
	}
	return root, f, b
}

func TestFleet(t *testing.T) {
	root, f, b := testFleet(t)
	public := root.Public().(ed25519.PublicKey)
	got, err := ReadFleet(b, public)
	if err != nil {
		t.Fatal(err)
	}
	if got.Serial != f.Serial || got.Issued != f.Issued || len(got.Boxes) != 3 || len(got.Revoked) != 2 || !got.Root.Equal(public) {
		t.Errorf("read %+v", got)
	}
	for _, m := range f.Boxes {
		if in, ok := got.Member(m.ID); !ok || !in.Equal(m.Peer) || in.Label != m.Label {
			t.Errorf("%s is %+v", m.Server, in)
		}
	}
	for _, r := range f.Revoked {
		if in, ok := got.Revocation(r.ID); !ok || in != r {
			t.Errorf("%s is %+v", r.Server, in)
		}
		if _, ok := got.Member(r.ID); ok {
			t.Errorf("%s is a member", r.Server)
		}
	}
	again, err := SignFleet(root, got)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("one content has two forms: %v", err)
	}
	// The bytes of version 1 stay as they are: rosters lie on sticks.
	const want = "37f539cd"
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:4]) != want {
		t.Errorf("the roster's bytes are %x..., want %s", sum[:4], want)
	}
	for _, m := range f.Boxes {
		line := FormatMember(m)
		if again, err := ParseMember(line + "\n"); err != nil || !again.Equal(m.Peer) || again.Label != m.Label {
			t.Errorf("%s: %+v, %v", line, again, err)
		}
		for n := range line {
			if _, err := ParseMember(line[:n]); err == nil {
				t.Errorf("the first %d bytes of %s are a box", n, line)
			}
		}
	}
}

// Nothing but the very bytes that the root has signed is a roster.
func TestFleetRefused(t *testing.T) {
	root, f, b := testFleet(t)
	public := root.Public().(ed25519.PublicKey)
	for i := range b {
		forged := bytes.Clone(b)
		forged[i] ^= 1
		if _, err := ReadFleet(forged, public); err == nil {
			t.Errorf("byte %d may be any", i)
		}
	}
	for n := range b {
		if _, err := ReadFleet(b[:n], public); err == nil {
			t.Errorf("the first %d bytes are a roster", n)
		}
	}
	if _, err := ReadFleet(append(bytes.Clone(b), 0), public); err == nil {
		t.Error("more bytes are a roster")
	}
	if _, err := ReadFleet(b, seeded("another").Public().(ed25519.PublicKey)); !errors.Is(err, ErrOtherRoot) {
		t.Errorf("another root: %v", err)
	}
	for name, change := range map[string]func(*Fleet){
		"no serial":       func(f *Fleet) { f.Serial = 0 },
		"twice":           func(f *Fleet) { f.Boxes = append(f.Boxes, f.Boxes[0]) },
		"both":            func(f *Fleet) { f.Revoked = append(f.Revoked, lost(t, "a")) },
		"revoked twice":   func(f *Fleet) { f.Revoked = append(f.Revoked, f.Revoked[0]) },
		"no box":          func(f *Fleet) { f.Revoked[0].ID = "x" },
		"no server":       func(f *Fleet) { f.Revoked[0].Server = "" },
		"lines in reason": func(f *Fleet) { f.Revoked[0].Reason = "a\nb" },
		"lines in label":  func(f *Fleet) { f.Boxes[0].Label = "a\nb" },
		"long label":      func(f *Fleet) { f.Boxes[0].Label = strings.Repeat("x", 65) },
		"no statement":    func(f *Fleet) { f.Boxes[0].Statement = nil },
		"one name": func(f *Fleet) {
			box := seeded("d")
			s, err := State(box, Peer{Server: "a.test", SigningKeys: f.Boxes[0].SigningKeys})
			if err != nil {
				t.Fatal(err)
			}
			p, err := ReadStatement(s)
			if err != nil {
				t.Fatal(err)
			}
			f.Boxes = append(f.Boxes, Member{Peer: p})
		},
		"too many": func(f *Fleet) {
			for i := range maxMembers {
				key := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
				f.Revoked = append(f.Revoked, Revocation{ID: IDOf(key[:]), Server: "r.test"})
			}
		},
	} {
		g := f
		g.Boxes, g.Revoked = append([]Member(nil), f.Boxes...), append([]Revocation(nil), f.Revoked...)
		change(&g)
		if _, err := SignFleet(root, g); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// FuzzFleet gives whatever bytes, signed: a root that was taken over crashes no box either.
func FuzzFleet(f *testing.F) {
	root, _, b := testFleet(f)
	f.Add(b[:len(b)-ed25519.SignatureSize])
	f.Add([]byte(fleetMagic))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := ReadFleet(raw, nil); err == nil {
			t.Fatal("a roster without a signature was read")
		}
		signed := append(bytes.Clone(raw), ed25519.Sign(root, append([]byte(fleetContext), raw...))...)
		got, err := ReadFleet(signed, nil)
		if err != nil {
			return
		}
		if !got.Root.Equal(root.Public()) {
			t.Fatalf("root %x", got.Root)
		}
		again, err := SignFleet(root, got)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, signed) {
			t.Fatalf("%x and %x say the same", signed, again)
		}
		if back, err := ReadFleet(again, got.Root); err != nil || !reflect.DeepEqual(back, got) {
			t.Fatalf("%+v, %v", back, err)
		}
	})
}
