// SPDX-License-Identifier: EUPL-1.2

package shelf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/update"
)

var now = time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC)

// file makes an update file.
func file(t *testing.T, board, version string, release int64, keys ...update.PrivateKey) []byte {
	t.Helper()
	var b bytes.Buffer
	data := []byte(strings.Repeat(version, 1000))
	if _, err := update.Write(&b, update.Manifest{Product: update.Product, Board: board, Version: version, Release: release, De: "Neu.", En: "New."},
		[]update.Source{{File: update.RootPart, Data: bytes.NewReader(data), Size: int64(len(data))}}, keys...); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(t *testing.T, dir, keys string) *Shelf {
	t.Helper()
	s, err := Open(dir, keys, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What no box would take is not kept, and leaves nothing behind.
func TestAdd(t *testing.T) {
	a, b, stranger := update.GenerateKey("a"), update.GenerateKey("b"), update.GenerateKey("x")
	dir, trust := t.TempDir(), filepath.Join(t.TempDir(), "keys.json")
	raw, err := json.Marshal(update.Keys{Threshold: 2, Keys: []update.PublicKey{a.Public(), b.Public()}})
	if err == nil {
		err = os.WriteFile(trust, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir, trust)
	good := file(t, "amd64", "1.2.0", 7, a, b)
	bad := bytes.Clone(good)
	bad[len(bad)-100] ^= 1
	for name, tt := range map[string]struct {
		raw  []byte
		want string
	}{
		"nothing": {nil, "not an update file"}, "something else": {[]byte("hallo, das ist ein Brief an Anna"), "not an update file"}, "cut off": {good[:len(good)-10], "damaged"}, "one bit": {bad, "damaged"},
		"more behind": {append(bytes.Clone(good), 0), "damaged"}, "nobody's": {file(t, "amd64", "1.2.0", 7), "Nobody has validly signed"}, "too few": {file(t, "amd64", "1.2.0", 7, a), "1 of the 2 signatures"},
		"a stranger's": {file(t, "amd64", "1.2.0", 7, a, stranger), "1 of the 2 signatures"}, "odd board": {file(t, "../x", "1.2.0", 7, a, b), "no board"},
	} {
		if f, err := s.Add(t.Context(), bytes.NewReader(tt.raw)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v %v, want %q", name, f, err, tt.want)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	f, err := s.Add(t.Context(), bytes.NewReader(good))
	if err != nil || f.Version != "1.2.0" || f.Bytes != int64(len(good)) || !f.Trusted || len(f.SignedBy) != 2 || f.Share != 0 || f.DE != "Neu." {
		t.Fatalf("%+v %v", f, err)
	}
	if _, err := s.Add(t.Context(), bytes.NewReader(good)); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("twice: %v", err)
	}
	if _, ok := s.For("box1.test", "amd64", 1); ok {
		t.Error("a box is told of what was only laid down")
	}
	if got := open(t, dir, trust).Files(); len(got) != 1 || got[0].Release != 7 || !got[0].Added.Equal(now) {
		t.Errorf("after a restart: %+v", got)
	}
	if err := os.WriteFile(filepath.Join(dir, halfDone+"1"), good, 0o600); err != nil { // it was killed
		t.Fatal(err)
	}
	open(t, dir, trust)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("after a kill: %v %v", left, err)
	}
	if err := os.Truncate(s.path(f), 10); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, trust, time.Now); err == nil || !strings.Contains(err.Error(), "add it again") {
		t.Errorf("a file that was cut: %v", err)
	}
}

// A box is told of the newest that was rolled out to it, and of nothing that failed.
func TestRollOut(t *testing.T) {
	key := update.GenerateKey("a")
	dir := t.TempDir()
	s := open(t, dir, "")
	for _, f := range []struct {
		board, version string
		release        int64
	}{{"amd64", "1.2.0", 7}, {"amd64", "1.10.0", 9}, {"rpi", "1.2.0", 7}} {
		got, err := s.Add(t.Context(), bytes.NewReader(file(t, f.board, f.version, f.release, key)))
		if err != nil || got.Trusted {
			t.Fatalf("%+v %v", got, err)
		}
	}
	told := func(box, board string, running int64) string {
		f, ok := s.For(box, board, running)
		if !ok {
			return ""
		}
		return f.Version
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(s.Roll("", "1.2.0", 100, nil))
	must(s.Roll("amd64", "1.10.0", 0, []string{"box1.test"}))
	for _, tt := range []struct {
		box, board string
		running    int64
		want       string
	}{
		{"box1.test", "amd64", 5, "1.10.0"}, {"box2.test", "amd64", 5, "1.2.0"}, {"box1.test", "amd64", 9, ""}, {"box1.test", "rpi", 5, "1.2.0"}, {"box1.test", "arm64", 5, ""}, {"box2.test", "amd64", 7, ""},
	} {
		if got := told(tt.box, tt.board, tt.running); got != tt.want {
			t.Errorf("%+v: told of %q", tt, got)
		}
	}
	// A share is of all boxes, and grows without leaving any out.
	var before []string
	for _, share := range []int{10, 30, 100} {
		must(s.Roll("amd64", "1.10.0", share, nil))
		var in []string
		for i := range 2000 {
			if box := fmt.Sprintf("box%d.test", i); told(box, "amd64", 7) != "" {
				in = append(in, box)
			}
		}
		if n := len(in) / 20; n < share-4 || n > share+4 {
			t.Errorf("%d of 2000 boxes are a share of %d %%", len(in), share)
		}
		for _, box := range before {
			if !slices.Contains(in, box) {
				t.Fatalf("%s is not in the larger share", box)
			}
		}
		before = in
	}
	// A failure stops it for all, once; who goes on knows why it failed.
	if stopped, err := s.Failed("box5.test", "amd64", 8, "kein Platz"); stopped || err != nil {
		t.Errorf("of a release that is not here: %v %v", stopped, err)
	}
	if stopped, err := s.Failed("box5.test", "amd64", 9, "no answer on trial"); !stopped || err != nil {
		t.Errorf("%v %v", stopped, err)
	}
	if got := told("box6.test", "amd64", 7) + told("box5.test", "amd64", 7); got != "" {
		t.Errorf("told of a version that was stopped: %q", got)
	}
	if _, _, err := s.Give("box6.test", "amd64", 9); !errors.Is(err, ErrNone) {
		t.Errorf("given: %v", err)
	}
	s = open(t, dir, "")
	if f := s.Files()[0]; f.Stopped != "box5.test: no answer on trial" || f.Failed["box5.test"] == "" {
		t.Errorf("after a restart: %+v", f)
	}
	must(s.Roll("amd64", "1.10.0", 100, nil))
	if stopped, err := s.Failed("box5.test", "amd64", 9, "no answer on trial"); stopped || err != nil || told("box6.test", "amd64", 7) != "1.10.0" || told("box5.test", "amd64", 7) != "" {
		t.Errorf("the same box stops it again: %v %v", stopped, err)
	}
	f, r, err := s.Give("box6.test", "amd64", 9)
	must(err)
	got, err := io.ReadAll(r)
	must(errors.Join(err, r.Close()))
	if int64(len(got)) != f.Bytes {
		t.Errorf("given %d bytes of %d", len(got), f.Bytes)
	}
	must(s.Stop("", "1.2.0", "nicht mehr"))
	if told("box1.test", "rpi", 5) != "" {
		t.Error("told of what was stopped by hand")
	}
	for _, err := range []error{s.Roll("", "9.9", 1, nil), s.Roll("", "1.2.0", 101, nil), s.Stop("rpi", "1.10.0", "x"), s.Remove("", "9.9")} {
		if r := (*Refusal)(nil); !errors.As(err, &r) || r.DE == "" {
			t.Errorf("%v", err)
		}
	}
	must(s.Remove("", "1.2.0"))
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 || len(s.Files()) != 1 {
		t.Errorf("%v %v", left, err)
	}
}
