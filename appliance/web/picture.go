// SPDX-License-Identifier: EUPL-1.2

package web

import (
	"fmt"
	"html/template"
	"strings"
	"unicode/utf8"

	"rsc.io/qr"
)

// This file draws: the code of an address, and what the dialogs of phones and computers look like. The drawings are our own, plain SVG without script or
// outside reference, in the colours of the page.

// code is the QR code of a text; empty when it is too long for one.
func code(text string) template.HTML {
	c, err := qr.Encode(text, qr.M)
	if err != nil {
		return ""
	}
	const quiet = 4
	var b strings.Builder
	size := c.Size + 2*quiet
	fmt.Fprintf(&b, `<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="QR"><path fill="#fff" d="M0 0h%dv%dH0z"/><path fill="#000" shape-rendering="crispEdges" d="`, size, size, size, size)
	for y := range c.Size {
		for x := 0; x < c.Size; {
			run := 0
			for x+run < c.Size && c.Black(x+run, y) {
				run++
			}
			if run > 0 {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x+quiet, y+quiet, run, run)
			}
			x += max(run, 1)
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String()) // numbers only
}

type rowKind uint8

const (
	item  rowKind = iota // a line of a list, with an arrow
	plain                // a line of a list, without
	title                // the head of a screen or window
	words                // running text
	button
	pair // two buttons side by side: "left|right", the right one is meant
	on   // a switch that is on
	field
)

// row is one element of a drawn dialog; mark is what to press.
type row struct {
	kind rowKind
	text string
	mark bool
}

const (
	wide  = 264 // of the drawing
	pad   = 12
	perLn = 34 // characters of running text in a line
)

// dialog draws what a system shows. phone rounds the corners more.
func dialog(label string, phone bool, rows ...row) template.HTML {
	var b strings.Builder
	y := 6
	for _, r := range rows {
		y += r.draw(&b, y)
	}
	y += 6
	corner := 6
	if phone {
		corner = 18
	}
	return template.HTML(fmt.Sprintf(`<svg class="shot" viewBox="0 0 %d %d" role="img" aria-label="%s"><rect class="frame" x="1" y="1" width="%d" height="%d" rx="%d"/>%s</svg>`,
		wide, y, template.HTMLEscapeString(label), wide-2, y-2, corner, b.String()))
}

// draw writes one row and gives its height.
func (r row) draw(b *strings.Builder, y int) int {
	text := func(class, anchor string, x, y int, s string) {
		fmt.Fprintf(b, `<text class="%s" text-anchor="%s" x="%d" y="%d">%s</text>`, class, anchor, x, y, template.HTMLEscapeString(s))
	}
	ring := func(x, y, w, h int) {
		if r.mark {
			fmt.Fprintf(b, `<rect class="ring" x="%d" y="%d" width="%d" height="%d" rx="8"/>`, x, y, w, h)
		}
	}
	const h = 38
	switch r.kind {
	case title:
		text("t b", "middle", wide/2, y+22, r.text)
		fmt.Fprintf(b, `<path class="line" d="M1 %dH%d"/>`, y+34, wide-1)
		return h
	case words:
		ls := wrap(r.text, perLn)
		for i, l := range ls {
			text("t s", "start", pad, y+16+i*17, l)
		}
		return 8 + len(ls)*17
	case button:
		text("t a b", "middle", wide/2, y+24, r.text)
		ring(pad, y+3, wide-2*pad, h-6)
		return h
	case pair:
		left, right, _ := strings.Cut(r.text, "|")
		if utf8.RuneCountInString(right) > 10 { // one above the other
			above := row{kind: button, text: right, mark: r.mark}
			return above.draw(b, y) + row{kind: button, text: left}.draw(b, y+h)
		}
		text("t a", "middle", wide/4, y+24, left)
		text("t a b", "middle", wide*3/4, y+24, right)
		fmt.Fprintf(b, `<path class="line" d="M%d %dv%d"/>`, wide/2, y+2, h-4)
		ring(wide/2+6, y+3, wide/2-14, h-6)
		return h
	case field:
		fmt.Fprintf(b, `<rect class="box" x="%d" y="%d" width="%d" height="26" rx="5"/>`, pad, y+5, wide-2*pad)
		text("t s", "start", pad+8, y+23, r.text)
		ring(pad-5, y+1, wide-2*pad+10, 34)
		return h
	}
	fit := 31
	if r.kind == on {
		fit = 25
	}
	ls := wrap(r.text, fit)
	height := 20 + 18*len(ls)
	for i, l := range ls {
		text("t", "start", pad+4, y+24+i*18, l)
	}
	switch r.kind {
	case item:
		text("t s", "end", wide-pad-4, y+24, "›")
	case on:
		fmt.Fprintf(b, `<rect class="on" x="%d" y="%d" width="40" height="22" rx="11"/><circle class="knob" cx="%d" cy="%d" r="9"/>`, wide-pad-44, y+8, wide-pad-15, y+19)
	}
	if !r.mark {
		fmt.Fprintf(b, `<path class="line" d="M%d %dH%d"/>`, pad, y+height, wide-pad)
	}
	ring(5, y+3, wide-10, height-6)
	return height
}

// wrap breaks text into lines of about n characters.
func wrap(s string, n int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > n {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
