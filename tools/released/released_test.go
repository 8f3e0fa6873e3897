// SPDX-License-Identifier: EUPL-1.2

package released

import (
	"os"
	"path/filepath"
	"testing"
)

func TestList(t *testing.T) {
	for text, want := range map[string]int{
		"# nothing yet\n\n":                          0,
		"v1.0 10 8 abc # the first\nv1.1 20 8 def\n": 2,
		"v1.0 10 8\n":                                -1,
		"v1.0 10 8 abc more\n":                       -1,
		"v1.0 10 8 abc\nv1.1 10 8 def\n":             -1,
		"v1.0 10 8 abc\nv1.1 11 7 def\n":             -1,
		"v1.0 ten 8 abc\n":                           -1,
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "image"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, File), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := List(dir)
		if (err != nil) != (want < 0) || err == nil && len(list) != want {
			t.Errorf("%q: %v, %v", text, list, err)
		}
	}
	if _, err := List("../.."); err != nil {
		t.Errorf("the list of this repository: %v", err)
	}
}
