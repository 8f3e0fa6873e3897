// SPDX-License-Identifier: EUPL-1.2

package qrtext

import (
	"strings"
	"testing"
	"unicode/utf8"

	"rsc.io/qr"
)

// TestDraw reads the drawing back, module by module, as a camera would.
func TestDraw(t *testing.T) {
	const text = "http://192.168.7.1/"
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimRight(Draw(text), "\n"), "\n")
	if want := (code.Size + 4 + 1) / 2; len(lines) != want {
		t.Fatalf("%d lines, want %d", len(lines), want)
	}
	for y := range code.Size {
		row := []rune(lines[(y+2)/2])
		for x := range code.Size {
			c := row[2+2+x]
			upper := (y+2)%2 == 0
			black := c == ' ' || upper && c == '▄' || !upper && c == '▀'
			if black != code.Black(x, y) {
				t.Fatalf("module %d,%d is drawn as %q", x, y, c)
			}
		}
	}
	if w := utf8.RuneCountInString(lines[0]); w != code.Size+6 {
		t.Errorf("width %d", w)
	}
	if Draw(strings.Repeat("x", 5000)) != "" {
		t.Error("5000 bytes are drawn, and no code holds them")
	}
}
