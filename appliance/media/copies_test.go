// SPDX-License-Identifier: EUPL-1.2

package media

import (
	"errors"
	"image/color"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"hallig/appliance/store"
)

// copyOf keeps a copy that was of use last so many hours after the beginning.
func copyOf(t *testing.T, m *Media, server, id, text string, hours int) error {
	t.Helper()
	at := time.UnixMilli(0).Add(time.Duration(hours) * time.Hour)
	return m.Cache(t.Context(), server, id, Info{Type: "text/plain", Used: at}, strings.NewReader(text))
}

func (m *Media) here(t *testing.T, server, id string) bool {
	t.Helper()
	f, err := m.Whole(t.Context(), server, id)
	if errors.Is(err, ErrAbsent) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	return true
}

// A copy takes no room from one that was of use later, and one server's copies none from another's.
func TestCopiesWithinBounds(t *testing.T) {
	m, dir := open(t, Options{Quota: 50, PerServer: 20})
	for id, hours := range map[string]int{"old": 1, "new": 3} {
		if err := copyOf(t, m, "a.example", id, id+" seven", hours); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyOf(t, m, "b.example", "b", "of another", 1); err != nil {
		t.Fatal(err)
	}
	for hours, want := range map[int]bool{0: false, 2: true} {
		if fits, err := m.Fits(t.Context(), "a.example", 10, time.UnixMilli(0).Add(time.Duration(hours)*time.Hour)); fits != want || err != nil {
			t.Errorf("ten bytes of hour %d fit: %v %v", hours, fits, err)
		}
	}
	if err := copyOf(t, m, "a.example", "older", "older one", 0); err == nil {
		t.Error("an older copy took the place of newer ones")
	}
	if err := copyOf(t, m, "a.example", "middle", "middle one", 2); err != nil {
		t.Error(err)
	}
	for id, want := range map[string]bool{"old": false, "middle": true, "new": true, "older": false} {
		if m.here(t, "a.example", id) != want {
			t.Errorf("%s is here: %v", id, !want)
		}
	}
	if !m.here(t, "b.example", "b") {
		t.Error("another server's copy gave way")
	}
	kept, err := m.Kept(t.Context())
	if want := (Kept{2, int64(len("middle one") + len("new seven"))}); err != nil || kept["a.example"] != want || kept["b.example"].Files != 1 {
		t.Errorf("%v %v", kept, err)
	}
	if n := count(t, dir); n != 3 {
		t.Errorf("%d files on the disk", n)
	}
	if err := m.Shrink(t.Context(), int64(len("new seven"))); err != nil {
		t.Fatal(err)
	}
	if !m.here(t, "a.example", "new") || m.here(t, "b.example", "b") || count(t, dir) != 1 {
		t.Errorf("after shrinking: %d files", count(t, dir))
	}
}

// The same file of two servers lies here once, and counts for each.
func TestSameFileOfTwoServers(t *testing.T) {
	m, dir := open(t, Options{Quota: 100, PerServer: 10})
	for _, server := range []string{"a.example", "b.example"} {
		if err := copyOf(t, m, server, "x", "ten bytes!", 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyOf(t, m, "a.example", "y", "ten others", 2); err != nil {
		t.Fatal(err)
	}
	if m.here(t, "a.example", "x") || !m.here(t, "a.example", "y") || !m.here(t, "b.example", "x") || count(t, dir) != 2 {
		t.Error("the file of one went with the other, or stayed")
	}
	if err := m.ForgetServer(t.Context(), "b.example"); err != nil || m.here(t, "b.example", "x") || !m.here(t, "a.example", "y") || count(t, dir) != 1 {
		t.Errorf("forgotten: %v, %d files", err, count(t, dir))
	}
}

// What is damaged on the disk, or gone from it, is given to nobody, and can be had anew.
func TestDamagedCopy(t *testing.T) {
	m, dir := open(t, Options{})
	damage := map[string]func(string) error{
		"changed": func(p string) error { return os.WriteFile(p, []byte("ten bytes?"), 0o600) },
		"short":   func(p string) error { return os.Truncate(p, 5) },
		"gone":    os.Remove,
	}
	for what, do := range damage {
		if err := copyOf(t, m, "a.example", "x", "ten bytes!", 1); err != nil {
			t.Fatal(err)
		}
		row, err := m.row(t.Context(), "a.example", "x")
		if err != nil {
			t.Fatal(err)
		}
		if err := do(m.path(row.Hash)); err != nil {
			t.Fatal(err)
		}
		if m.here(t, "a.example", "x") || count(t, dir) != 0 {
			t.Errorf("%s: it is here, or its file is", what)
		}
		if has, err := m.Has(t.Context(), "a.example", "x"); has || err != nil {
			t.Errorf("%s: %v %v", what, has, err)
		}
	}
	if err := copyOf(t, m, "a.example", "x", "ten bytes!", 1); err != nil {
		t.Fatal(err)
	}
	f, err := m.Whole(t.Context(), "a.example", "x")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if text, err := io.ReadAll(f); err != nil || string(text) != "ten bytes!" {
		t.Errorf("%q %v", text, err)
	}
}

// A thumbnail goes with its file, at once or, after a crash, at the next start.
func TestThumbnailGoesWithItsFile(t *testing.T) {
	m, dir := open(t, Options{})
	if err := m.Cache(t.Context(), "a.example", "x", Info{Type: "image/png"}, strings.NewReader(pngOf(t, picture(400, 300, color.White)))); err != nil {
		t.Fatal(err)
	}
	shrink := func() {
		t.Helper()
		f, err := m.Thumbnail(t.Context(), "a.example", "x", 32, 32, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil || count(t, dir) != 2 {
			t.Fatal(err, count(t, dir))
		}
	}
	shrink()
	if err := m.ForgetServer(t.Context(), "a.example"); err != nil || count(t, dir) != 0 {
		t.Errorf("%v, %d files are left", err, count(t, dir))
	}
	if err := m.Cache(t.Context(), "a.example", "x", Info{Type: "image/png"}, strings.NewReader(pngOf(t, picture(400, 300, color.White)))); err != nil {
		t.Fatal(err)
	}
	shrink()
	err := m.db.Do(t.Context(), func(tx *store.Tx) error { // and then the power fails
		_, _, err := tx.ForgetCopies("a.example", 10)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), m.db, server, dir, Options{}); err != nil || count(t, dir) != 0 {
		t.Errorf("%v, %d files are left", err, count(t, dir))
	}
}
