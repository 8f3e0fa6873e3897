// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// readOnly is a stick with its switch on.
type readOnly struct{ Disk }

func (*readOnly) Create(string) (File, error) { return nil, syscall.EROFS }
func (*readOnly) Rename(string, string) error { return syscall.EROFS }
func (*readOnly) Remove(string) error         { return syscall.EROFS }

func snapshot(t testing.TB, place string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	entries, err := os.ReadDir(filepath.Join(place, Folder))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(place, Folder, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = b
	}
	return out
}

func restore(t testing.TB, place string, files map[string][]byte) {
	t.Helper()
	dir := filepath.Join(place, Folder)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
