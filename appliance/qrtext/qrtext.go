// SPDX-License-Identifier: EUPL-1.2

// Package qrtext draws QR codes as text, for terminals with light text on a dark ground: two modules in each character cell, the quiet zone being part of
// the picture. It is used by the homeserver's terminal and by the screen of the image.
package qrtext

import (
	"strings"

	"rsc.io/qr"
)

// Draw draws a text as a code; "" when it does not fit into any.
func Draw(text string) string {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return ""
	}
	const quiet = 2
	var b strings.Builder
	black := func(x, y int) bool { return x >= 0 && y >= 0 && x < code.Size && y < code.Size && code.Black(x, y) }
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("  ")
		for x := -quiet; x < code.Size+quiet; x++ {
			switch top, bottom := black(x, y), black(x, y+1); {
			case top && bottom:
				b.WriteString(" ")
			case top:
				b.WriteString("▄")
			case bottom:
				b.WriteString("▀")
			default:
				b.WriteString("█")
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
