// SPDX-License-Identifier: EUPL-1.2

// Package released reads image/released.txt, the list of the versions that boxes in the field may run. Tests take each of them to the version that is being
// built: package store opens each one's database schema, tools/imagetest boots each one's image and updates it.
//
// A line is VERSION RELEASE SCHEMA COMMIT, oldest first; # begins a comment. Whoever releases adds the line in the commit after the tag, with what
// `hallig update check FILE` says of the released file.
package released

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// File is the list, from the root of the repository.
const File = "image/released.txt"

// Version is one that was released.
type Version struct {
	Name    string // as its tag
	Release int64
	Schema  int64 // of the database
	Commit  string
}

// List reads the list of the repository at dir. Releases must rise, and schemas must not fall.
func List(dir string) ([]Version, error) {
	f, err := os.Open(filepath.Join(dir, File))
	if err != nil {
		return nil, fmt.Errorf("read the list of released versions: %w", err)
	}
	defer f.Close()
	var list []Version
	var last Version
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		var v Version
		if k, err := fmt.Sscan(text, &v.Name, &v.Release, &v.Schema, &v.Commit); err != nil || k != 4 || len(strings.Fields(text)) != 4 {
			return nil, fmt.Errorf("%s, line %d: want VERSION RELEASE SCHEMA COMMIT, got %q", File, n, text)
		}
		if v.Release <= last.Release || v.Schema < last.Schema || v.Schema < 1 {
			return nil, fmt.Errorf("%s, line %d: release %d with schema %d comes after release %d with schema %d", File, n, v.Release, v.Schema, last.Release, last.Schema)
		}
		list, last = append(list, v), v
	}
	return list, lines.Err()
}
