// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"

	"rsc.io/qr"

	"hallig/appliance/admin"
	"hallig/appliance/qrtext"
)

// makeSheet puts messages of a room for a box on paper: to the terminal, or into a file, as a page to print or as a picture of each code.
func makeSheet(ctx context.Context, dir string, order admin.CourierOrder, file string, asJSON bool, out, errOut io.Writer) error {
	r, err := askCourier(ctx, dir, order, errOut)
	if err != nil {
		return err
	}
	lang := language(os.Getenv)
	switch ext := filepath.Ext(file); {
	case asJSON:
		return printJSON(out, r)
	case ext == ".html":
		page, err := sheetPage(r, lang)
		if err == nil {
			err = os.WriteFile(file, page, 0o600)
		}
		if err != nil {
			return fmt.Errorf("write the sheet: %w", err)
		}
	case ext == ".png":
		for i, text := range r.Codes {
			name := file
			if len(r.Codes) > 1 {
				name = fmt.Sprintf("%s-%d.png", strings.TrimSuffix(file, ext), i+1)
			}
			code, err := qr.Encode(text, qr.L)
			if err == nil {
				err = os.WriteFile(name, code.PNG(), 0o600)
			}
			if err != nil {
				return fmt.Errorf("write the code: %w", err)
			}
		}
	case file != "":
		return fmt.Errorf("%w: --out takes a file that ends in .html or .png", errUsage)
	default:
		for i, text := range r.Codes {
			fmt.Fprintf(out, "%d/%d\n%s\n%s\n\n", i+1, len(r.Codes), qrtext.Draw(text), text)
		}
	}
	_, err = fmt.Fprintln(out, r.Sentence.In(lang))
	return err
}

// sheetPage is the page to print, one code a page.
func sheetPage(r admin.CourierReport, lang string) ([]byte, error) {
	type code struct {
		Picture template.URL
		Text    string
	}
	data := struct {
		Lang, Sentence, Private string
		Codes                   []code
	}{lang, r.Sentence.In(lang), "Encrypted; only the other box can read it.", nil}
	if lang == "de" {
		data.Private = "Verschlüsselt; nur die andere Box kann es lesen."
	}
	for _, text := range r.Codes {
		c, err := qr.Encode(text, qr.L)
		if err != nil {
			return nil, err
		}
		data.Codes = append(data.Codes, code{template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(c.PNG())), text})
	}
	var b bytes.Buffer
	err := sheetTemplate().Execute(&b, data)
	return b.Bytes(), err
}

func sheetTemplate() *template.Template {
	return template.Must(template.New("").Parse(`<!DOCTYPE html><html lang="{{.Lang}}"><meta charset="utf-8"><title>Hallig</title>
<style>body{font:14px sans-serif}img{width:17cm;max-width:100%;image-rendering:pixelated}section{break-after:page}code{font-size:7px;word-break:break-all}</style>
<p>{{.Sentence}} {{.Private}}</p>{{range .Codes}}<section><img src="{{.Picture}}" alt=""><p><code>{{.Text}}</code></p></section>{{end}}
`))
}

// readSheet takes in what was scanned: from files, - for what is typed or piped in.
func readSheet(ctx context.Context, dir string, files []string, asJSON bool, out, errOut io.Writer) error {
	var all bytes.Buffer
	for _, name := range files {
		var raw []byte
		var err error
		switch {
		case strings.HasPrefix(strings.ToUpper(name), "HALLIG:"):
			raw = []byte(name)
		case name == "-":
			fmt.Fprintln(errOut, "The texts of the codes, one a line, then Ctrl-D:")
			raw, err = io.ReadAll(io.LimitReader(os.Stdin, 64<<10))
		default:
			raw, err = os.ReadFile(name)
		}
		if err != nil {
			return fmt.Errorf("read the codes: %w", err)
		}
		all.Write(raw)
		all.WriteByte('\n')
	}
	if all.Len() > 60<<10 {
		return errors.New("that is more than sixteen codes hold; read in one sheet after the other")
	}
	r, err := askCourier(ctx, dir, admin.CourierOrder{Do: "read", Text: all.String()}, errOut)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, r)
	}
	printCourier(out, "import", r, language(os.Getenv))
	return nil
}
