// SPDX-License-Identifier: EUPL-1.2

// Package fleet prepares many boxes at one desk: from a table with one line for each box it makes the provisioning files, one
// sheet of paper per box for the people who unpack it, and a list of the secrets for the safe.
//
// It promises that all names and codes of a fleet differ, that a wrong table is refused with line, column and a sentence in
// German and English before anything is written, and that the folder appears whole or not at all and never over another one:
//
//	DIR/index.html              all boxes at a glance, without secrets
//	DIR/sheets.html             all sheets, one A4 page per box, to be printed at once
//	DIR/secrets.csv             codes and passphrases, for the safe
//	DIR/FOLDER/hallig.json      the provisioning file; FOLDER is the label in letters that every stick can hold
//	DIR/FOLDER/sheet.html       the sheet of this box
//
// The Wi-Fi of a sheet is that of the access point which a box is plugged into; no box has one of its own, and its file says nothing of it. The
// passphrase of a name is one for all lines, as one access point may serve several boxes.
//
// KeySheet makes the sheet for the key of the backups.
//
// Everything has mode 0600 in folders of 0700. It draws secrets from the system's random numbers and makes no network request; the sheets load
// nothing from elsewhere.
package fleet

import (
	"cmp"
	"crypto/rand"
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode/utf8"

	"hallig/appliance/provision"
)

// Options is what all boxes of a fleet have in common.
type Options struct {
	Lang   string         // "de" or "en", of the sheets
	Base   provision.File // every box's file before its line of the table is laid over it
	Domain string         // gives a box without a server_name one: its label under this domain
	Lock   bool           // gives each box a code that locks its data
}

// Box is one prepared box.
type Box struct {
	Folder string
	File   provision.File
	Note   string         // of the table, for the sheet
	WiFi   provision.WiFi // of the access point that the box is plugged into, for the sheet

	provisioning []byte
	sheet        []byte
}

// Address is where a phone on the box's network opens its page.
func (b Box) Address() string { return "http://hallig.local/" }

// ByNumber is the same without names; "": the address is not fixed.
func (b Box) ByNumber() string {
	if ip, _, ok := strings.Cut(b.File.Network.Address, "/"); ok {
		return "http://" + ip + "/"
	}
	return ""
}

// Prepare reads a table and makes the boxes, with new secrets where the table names none. The error is a provision.Error when the table is wrong.
func Prepare(table []byte, o Options) ([]Box, error) {
	rows, err := readTable(table)
	if err != nil {
		return nil, err
	}
	var boxes []Box
	given, drawn := map[string]string{}, map[string]string{} // Wi-Fi name -> passphrase
	for _, row := range rows {
		if v := row.value["wifi_passphrase"]; v != "" {
			given[row.value["wifi_ssid"]] = v
		}
	}
	seen := map[string]int{} // what must differ -> line
	for _, row := range rows {
		b, err := o.box(row)
		if err != nil {
			return nil, err
		}
		if w := &b.WiFi; w.SSID != "" && w.Passphrase == "" && row.has["wifi_passphrase"] {
			if drawn[w.SSID] == "" {
				drawn[w.SSID] = cmp.Or(given[w.SSID], strings.ToLower(secret(4)))
			}
			w.Passphrase = drawn[w.SSID]
		}
		for kind, v := range map[string]string{"label": strings.ToLower(b.Folder), "server_name": b.File.ServerName, "admin_code": bare(b.File.AdminCode), "lock.code": bare(b.File.Lock.Code)} {
			if v == "" {
				continue
			}
			if first := seen[kind+" "+v]; first > 0 {
				return nil, row.wrong(kind, fmt.Sprintf("ist gleich wie in Zeile %d; jede Box braucht etwas Eigenes", first), fmt.Sprintf("is the same as in line %d; each box needs its own", first))
			}
			seen[kind+" "+v] = row.line
		}
		if b.sheet, err = sheets([]Box{b}, o); err != nil {
			return nil, err
		}
		boxes = append(boxes, b)
	}
	return boxes, nil
}

// box makes the box of one line.
func (o Options) box(row row) (b Box, err error) {
	f := o.Base
	f.Hallig = 1
	if err := row.lay(&f); err != nil {
		return Box{}, err
	}
	b = Box{Folder: folder(f.Label), Note: row.value["note"]}
	if b.Folder == "" {
		return b, row.wrong("label", "fehlt oder hat weder Buchstaben noch Ziffern; so heißt die Box auf ihrem Blatt und ihr Ordner", "is missing or has neither letters nor digits; it names the box on its sheet and its folder")
	}
	if utf8.RuneCountInString(b.Note) > 120 {
		return b, row.wrong("note", "darf höchstens 120 Zeichen haben", "may have at most 120 characters")
	}
	if f.ServerName == "" && o.Domain != "" {
		f.ServerName = strings.ToLower(strings.NewReplacer("_", "-", ".", "-").Replace(b.Folder)) + "." + o.Domain
	}
	if f.ServerName == "" {
		return b, row.wrong("server_name", "fehlt; der Name steht in jeder Adresse und ändert sich nie, oder --domain feuerwehr.example gibt jeder Box einen", "is missing; the name is part of each address and never changes, or --domain feuerwehr.example gives one to each box")
	}
	if f.AdminCode == "" {
		f.AdminCode = secret(3)
	}
	if o.Lock {
		f.Lock.Code = secret(5)
	}
	if b.WiFi, err = row.wifi(f.Network.WiFi); err != nil {
		return b, err
	}
	f.Network.WiFi = provision.WiFi{}
	b.File = f
	if b.provisioning, err = f.Marshal(); err != nil {
		e := provision.ErrorOf(err)
		return b, provision.Error{De: fmt.Sprintf("Zeile %d: %s", row.line, e.De), En: fmt.Sprintf("Line %d: %s", row.line, e.En)}
	}
	return b, nil
}

// bare is a code as it counts.
func bare(code string) string {
	return strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
}

// secret gives groups of four letters and digits, close to 20 bits each, free of what looks alike in either case.
func secret(groups int) string {
	const alphabet = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
	var b strings.Builder
	for i := 0; i < groups*4; {
		var raw [1]byte
		_, _ = rand.Read(raw[:]) // never fails
		c := int(raw[0] & 31)
		if c == len(alphabet) {
			continue
		}
		if i > 0 && i%4 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(alphabet[c])
		i++
	}
	return b.String()
}

// folder is a label in letters that every file system holds.
func folder(label string) string {
	var b strings.Builder
	plain := strings.NewReplacer("ä", "ae", "ö", "oe", "ü", "ue", "Ä", "Ae", "Ö", "Oe", "Ü", "Ue", "ß", "ss").Replace(label)
	for _, r := range plain {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '_', r == '-', r == '.':
			b.WriteRune(r)
		default:
			b.WriteByte('-')
		}
	}
	name := b.String()
	for strings.Contains(name, "--") {
		name = strings.ReplaceAll(name, "--", "-")
	}
	return strings.Trim(name, "-.")
}

// Write makes the folder. It fails when dir exists, and leaves nothing behind when it fails.
func Write(dir string, boxes []Box, o Options) (err error) {
	dir = filepath.Clean(dir)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return provision.Error{De: dir + " gibt es schon und wird nicht überschrieben; einen neuen Ordner nennen oder diesen wegräumen.", En: dir + " exists already and is not overwritten; name a new folder, or move this one away."}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("write fleet: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+"-*")
	if err != nil {
		return fmt.Errorf("write fleet: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	all, err := sheets(boxes, o)
	if err != nil {
		return err
	}
	overview, err := index(boxes, o)
	if err != nil {
		return err
	}
	list, err := secrets(boxes)
	if err != nil {
		return err
	}
	files := map[string][]byte{"index.html": overview, "sheets.html": all, "secrets.csv": list}
	for _, b := range boxes {
		if err := os.Mkdir(filepath.Join(tmp, b.Folder), 0o700); err != nil {
			return fmt.Errorf("write fleet: %w", err)
		}
		files[filepath.Join(b.Folder, provision.FileName)] = b.provisioning
		files[filepath.Join(b.Folder, "sheet.html")] = b.sheet
	}
	for name, raw := range files {
		if err := writeSynced(filepath.Join(tmp, name), raw); err != nil {
			return fmt.Errorf("write fleet: %w", err)
		}
	}
	if err := rename(tmp, dir); err != nil {
		return fmt.Errorf("write fleet: %w", err)
	}
	return nil
}

// rename moves a folder to a name that nobody else took meanwhile.
func rename(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil { // fails when it exists; an empty folder is what rename may replace
		return err
	}
	if err := syscall.Rename(from, to); err != nil {
		return errors.Join(&fs.PathError{Op: "rename", Path: to, Err: err}, os.Remove(to))
	}
	return nil
}

func writeSynced(name string, raw []byte) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	return f.Sync()
}

// secrets is the list for the safe, as spreadsheets in German read it.
func secrets(boxes []Box) ([]byte, error) {
	var b strings.Builder
	b.WriteString("\ufeff")
	w := csv.NewWriter(&b)
	w.Comma, w.UseCRLF = ';', true
	rows := [][]string{{"label", "server_name", "admin_code", "wifi_ssid", "wifi_passphrase", "lock_code"}}
	for _, x := range boxes {
		rows = append(rows, []string{x.File.Label, x.File.ServerName, x.File.AdminCode, x.WiFi.SSID, x.WiFi.Passphrase, x.File.Lock.Code})
	}
	if err := w.WriteAll(rows); err != nil {
		return nil, fmt.Errorf("write list of secrets: %w", err)
	}
	return []byte(b.String()), nil
}

// CopyToStick puts the provisioning file of one prepared box into the root of a mounted stick. A different hallig.json that lies there stays.
func CopyToStick(dir, box, stick string) error {
	noBox := provision.Error{De: fmt.Sprintf("„%s“ ist keine Box in %s; die Ordner darin sind die Boxen.", box, dir), En: fmt.Sprintf("%q is no box of %s; the folders in it are the boxes.", box, dir)}
	if filepath.Base(box) != box {
		return noBox
	}
	raw, err := os.ReadFile(filepath.Join(dir, folder(box), provision.FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return noBox
	}
	if err != nil {
		return fmt.Errorf("copy to stick: %w", err)
	}
	if s, err := os.Stat(stick); err != nil || !s.IsDir() {
		return provision.Error{De: stick + " ist kein Ordner; wo ist der Stick eingehängt?", En: stick + " is no folder; where is the stick mounted?"}
	}
	name := filepath.Join(stick, provision.FileName)
	old, err := os.ReadFile(name)
	switch {
	case err == nil && string(old) == string(raw):
		return nil
	case err == nil:
		return provision.Error{De: name + " gehört einer anderen Box; zuerst löschen.", En: name + " is of another box; remove it first."}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("copy to stick: %w", err)
	}
	tmp := name + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("copy to stick: %w", err)
	}
	if err := writeSynced(tmp, raw); err != nil {
		return errors.Join(fmt.Errorf("copy to stick: %w", err), os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, name); err != nil {
		return errors.Join(fmt.Errorf("copy to stick: %w", err), os.RemoveAll(tmp))
	}
	return nil
}
