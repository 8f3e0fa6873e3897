// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func text(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const isc = `Copyright (c) 2020 Somebody

Permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the
above copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY
DAMAGES WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION,
ARISING OUT OF OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`

func TestModuleLicence(t *testing.T) {
	gpl := text(t, "../../image/licences/GPL-3.0-or-later.txt")
	lgpl := text(t, "../../image/licences/LGPL-2.1-or-later.txt")
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string // licence, or what the error says
	}{
		{"one text", map[string]string{"LICENSE": isc, "main.go": gpl}, "ISC"},
		{"two texts apply together", map[string]string{"LICENSE": isc, "LICENSE-zstd": strings.ReplaceAll(lgpl, "\n", "\r\n")}, "ISC AND LGPL-2.1"},
		{"a text that says what it means", map[string]string{"LICENSE.md": "Either of two.\n\nSPDX-License-Identifier: Apache-2.0 OR MIT\n"}, "Apache-2.0 OR MIT"},
		{"none", map[string]string{"README": isc}, "no licence is recognised"},
		{"one of its own making", map[string]string{"LICENSE": "All rights reserved; ask the author before you switch it on."}, "no licence is recognised"},
		{"one that may not go in", map[string]string{"COPYING": gpl}, "may not be linked"},
	} {
		dir := t.TempDir()
		for name, body := range c.files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := moduleLicence(dir)
		if err != nil {
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		if !strings.HasPrefix(l.expression, c.want) {
			t.Errorf("%s: %q, want %q", c.name, l.expression, c.want)
		}
	}
}

// TestLicenceTextsAreComplete: each text stands there once, under the names of all that it applies to.
func TestLicenceTextsAreComplete(t *testing.T) {
	out := string(licenceTexts([]component{
		{name: "a", version: "1", licence: licence{"ISC", []string{isc}}},
		{name: "b", version: "2", licence: licence{"ISC", []string{strings.ReplaceAll(isc, "\n", "\r\n")}}},
		{name: "c", version: "3", licence: licence{"MIT", []string{"other"}}},
	}))
	if strings.Count(out, "Copyright (c) 2020 Somebody") != 1 || !strings.Contains(out, "a 1\nb 2\n") || !strings.Contains(out, "c 3\n==") {
		t.Error(out)
	}
}
