// SPDX-License-Identifier: EUPL-1.2

package muster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"hallig/sync/peer"
)

func key(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func member(t *testing.T, name string) peer.Member {
	t.Helper()
	b, err := peer.State(key(name), peer.Peer{Server: name + ".test", SigningKeys: map[string]ed25519.PublicKey{"ed25519:1": key(name).Public().(ed25519.PublicKey)}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.ReadStatement(b)
	if err != nil {
		t.Fatal(err)
	}
	return peer.Member{Peer: p}
}

func signed(t *testing.T, root string, serial uint64, names ...string) []byte {
	t.Helper()
	f := peer.Fleet{Serial: serial}
	for _, n := range names {
		f.Boxes = append(f.Boxes, member(t, n))
	}
	b, err := peer.SignFleet(key(root), f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

type told struct{ old, now uint64 }

func open(t *testing.T, file string) (*Keeper, *[]told) {
	t.Helper()
	var all []told
	k, err := Open(Config{File: file, Root: key("root").Public().(ed25519.PublicKey), Changed: func(old, now peer.Fleet) {
		raw, err := os.ReadFile(file)
		if f, ferr := peer.ReadFleet(raw, nil); err != nil || ferr != nil || f.Serial != now.Serial {
			t.Errorf("roster %d is told before it is kept", now.Serial)
		}
		all = append(all, told{old.Serial, now.Serial})
	}})
	if err != nil {
		t.Fatal(err)
	}
	return k, &all
}

// The newest roster of the root stays, whoever brings whatever, also over a restart.
func TestTake(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fleet.roster")
	k, all := open(t, file)
	two := signed(t, "root", 2, "a", "b")
	forged := bytes.Clone(two)
	forged[len(forged)-1] ^= 1
	for _, tt := range []struct {
		what    string
		raw     []byte
		changed bool
		err     error
		serial  uint64
	}{
		{"first", two, true, nil, 2},
		{"again", two, false, nil, 2},
		{"older", signed(t, "root", 1, "a", "b", "thief"), false, ErrOlder, 2},
		{"twin", signed(t, "root", 2, "a"), false, ErrTwin, 2},
		{"another root", signed(t, "thief", 9, "thief"), false, peer.ErrOtherRoot, 2},
		{"newer", signed(t, "root", 4, "a"), true, nil, 4},
		{"the first once more", two, false, ErrOlder, 4},
	} {
		changed, err := k.Take(tt.raw, "somebody")
		if changed != tt.changed || !errors.Is(err, tt.err) || k.Fleet().Serial != tt.serial {
			t.Errorf("%s: changed %v, %v, serial %d", tt.what, changed, err, k.Fleet().Serial)
		}
	}
	if _, err := k.Take(forged, "somebody"); err == nil || k.Fleet().Serial != 4 {
		t.Errorf("a forged one: %v, serial %d", err, k.Fleet().Serial)
	}
	if len(*all) != 2 || (*all)[0] != (told{0, 2}) || (*all)[1] != (told{2, 4}) {
		t.Errorf("told %v", *all)
	}
	if k.Refused() != 2 {
		t.Errorf("%d refused, want 2", k.Refused())
	}
	again, _ := open(t, file)
	if again.Fleet().Serial != 4 || len(again.Fleet().Boxes) != 1 {
		t.Errorf("after a restart: %+v", again.Fleet())
	}
	if _, err := again.Take(two, "somebody"); !errors.Is(err, ErrOlder) {
		t.Errorf("an older one after a restart: %v", err)
	}
	if err := os.WriteFile(file, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if broken, _ := open(t, file); broken.Fleet().Serial != 0 {
		t.Errorf("a broken file: %+v", broken.Fleet())
	}
	none, err := Open(Config{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none.Take(two, "somebody"); !errors.Is(err, ErrNoRoot) {
		t.Errorf("without a root: %v", err)
	}
}

// What cannot be kept does not count.
func TestTakeFullDisk(t *testing.T) {
	k, all := open(t, filepath.Join(t.TempDir(), "gone", "fleet.roster"))
	if changed, err := k.Take(signed(t, "root", 1, "a"), "somebody"); changed || err == nil || k.Fleet().Serial != 0 || len(*all) != 0 {
		t.Errorf("%v, %v, serial %d", changed, err, k.Fleet().Serial)
	}
}

// handled is a way to one handler.
type handled struct{ http.Handler }

func (h handled) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), nil
}

// Two that meet both have the newer roster afterwards, whichever asks; a stranger's is taken by neither.
func TestCompare(t *testing.T) {
	dir := t.TempDir()
	a, _ := open(t, filepath.Join(dir, "a"))
	b, _ := open(t, filepath.Join(dir, "b"))
	meet := func(from, to *Keeper, want uint64) {
		t.Helper()
		if err := from.Compare(t.Context(), handled{to}, "b.test"); err != nil {
			t.Error(err)
		}
		if from.Fleet().Serial != want || to.Fleet().Serial != want {
			t.Errorf("%d and %d, want %d", from.Fleet().Serial, to.Fleet().Serial, want)
		}
	}
	meet(a, b, 0)
	if _, err := a.Take(signed(t, "root", 3, "a"), ""); err != nil {
		t.Fatal(err)
	}
	meet(a, b, 3)
	if _, err := a.Take(signed(t, "root", 5, "a"), ""); err != nil {
		t.Fatal(err)
	}
	meet(b, a, 5)
	meet(b, a, 5)
	stranger, err := Open(Config{File: filepath.Join(dir, "c"), Root: key("thief").Public().(ed25519.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Take(signed(t, "thief", 9, "thief"), ""); err != nil {
		t.Fatal(err)
	}
	if err := a.Compare(t.Context(), handled{stranger}, "c.test"); !errors.Is(err, peer.ErrOtherRoot) {
		t.Errorf("a asks a stranger: %v", err)
	}
	if err := stranger.Give(t.Context(), handled{a}, "a.test"); err == nil || a.Fleet().Serial != 5 {
		t.Errorf("a stranger brings its own: %v, serial %d", err, a.Fleet().Serial)
	}
	if a.Refused() != 2 {
		t.Errorf("%d refused, want 2", a.Refused())
	}
	w := httptest.NewRecorder()
	a.ServeHTTP(w, httptest.NewRequest("PUT", Path, bytes.NewReader(make([]byte, peer.MaxFleet+1))))
	if w.Code != http.StatusBadRequest {
		t.Errorf("too long a body: %d", w.Code)
	}
}
