// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"strings"
	"unicode/utf8"

	"rsc.io/qr"
)

//go:embed sheet.html
var sheetHTML string

// sheets makes the page of each box, in one document.
func sheets(boxes []Box, o Options) ([]byte, error) { return page("sheets", boxes, o) }

// index makes the overview, without secrets.
func index(boxes []Box, o Options) ([]byte, error) { return page("index", boxes, o) }

func page(name string, boxes []Box, o Options) ([]byte, error) {
	return render(name, o, map[string]any{"Boxes": boxes})
}

func render(name string, o Options, data map[string]any) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{
		"qr": qrSVG, "wifi": wifiText,
		"long": func(s string, n int) template.HTMLAttr { // smaller letters, so that the page stays one
			if utf8.RuneCountInString(s) > n {
				return ` class="long"`
			}
			return ""
		},
		"t": func(de, en string) string {
			if o.Lang == "en" {
				return en
			}
			return de
		},
	}).Parse(sheetHTML)
	if err != nil {
		return nil, fmt.Errorf("read sheet: %w", err)
	}
	data["Lang"] = "de"
	if o.Lang == "en" {
		data["Lang"] = "en"
	}
	var out bytes.Buffer
	if err := t.ExecuteTemplate(&out, name, data); err != nil {
		return nil, fmt.Errorf("write sheet: %w", err)
	}
	return out.Bytes(), nil
}

// wifiText is what the cameras of phones read as a Wi-Fi network; these three fields all of them know.
func wifiText(b Box) string {
	escape := strings.NewReplacer(`\`, `\\`, `;`, `\;`, `,`, `\,`, `"`, `\"`, `:`, `\:`)
	w := b.WiFi
	return "WIFI:T:WPA;S:" + escape.Replace(w.SSID) + ";P:" + escape.Replace(w.Passphrase) + ";;"
}

// qrSVG draws a code as one path, with the quiet zone of four modules.
func qrSVG(text string) (template.HTML, error) {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "", fmt.Errorf("draw code: %w", err)
	}
	var path strings.Builder
	for y := range code.Size {
		for x := 0; x < code.Size; x++ {
			n := 0
			for x+n < code.Size && code.Black(x+n, y) {
				n++
			}
			if n > 0 {
				fmt.Fprintf(&path, "M%d %dh%dv1h-%dz", x+4, y+4, n, n)
				x += n
			}
		}
	}
	return template.HTML(fmt.Sprintf(`<svg class="qr" viewBox="0 0 %d %d" shape-rendering="crispEdges" role="img"><path fill="#fff" d="M0 0h%[1]dv%[1]dH0z"/><path d="%[3]s"/></svg>`, code.Size+8, code.Size+8, path.String())), nil
}

// KeySheet is the sheet with the key of the backups, for the safe.
func KeySheet(public, secret, lang string) ([]byte, error) {
	var lines []string
	for rest := secret; rest != ""; {
		n := min(len(rest), 20)
		lines, rest = append(lines, rest[:n]), rest[n:]
	}
	return render("key", Options{Lang: lang}, map[string]any{"Public": public, "Secret": secret, "Lines": lines})
}
