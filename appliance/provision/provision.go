// SPDX-License-Identifier: EUPL-1.2

// Package provision reads hallig.json, the small file by which whoever prepares a box says what it shall be: its name, its organisation,
// the network it meets, its radio lines, the code of the first administrator. The file lies on the first partition of the box's
// disk or on a USB stick; it is written by hand, or by the hundred by `hallig fleet prepare`.
//
// It promises that a file is taken whole or not at all, and that a refusal is one sentence in German and English which names
// the field and says what is right, because it is read on a screen in a cellar. It knows no file names, reads no disk and takes
// no decision; it is used by the init process as well, and therefore has no dependency but the standard library, the grammar of server names and the text of keys.
//
// The form is JSON, UTF-8 (a byte order mark is put up with), at most 64 KiB:
//
//	{
//	  "hallig": 1,
//	  "label": "Box 7",
//	  "server_name": "box7.feuerwehr.example",
//	  "organisation": {"name": "Freiwillige Feuerwehr", "ca": "-----BEGIN CERTIFICATE-----..."},
//	  "admin_code": "k7mq-2fxv-9tdp",
//	  "network": {"mode": "auto", "address": "192.168.7.1/24", "wifi": {"ssid": "Feuerwehr 7", "passphrase": "...", "country": "DE", "channel": 6}},
//	  "serial": [{"device": "/dev/hallig/radio", "modem": "transparent", "baud": 9600, "bits_per_second": 1200, "band": "licensed"}],
//	  "backup": {"recipients": ["age1..."], "to": "stick", "every": "24h", "keep": 7},
//	  "updates": {"automatic": true, "window": "02:00-05:00"},
//	  "config": {"room_version": "12"}
//	}
//
// Every field but "hallig" may be left out. Fields that nobody knows are refused, with the name that was probably meant.
//
// The same reader explains what is wrong in a box's config.json (Explain).
package provision

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// FileName is how the file is called, in the root of the partition or stick.
const FileName = "hallig.json"

// MaxBytes bounds a file.
const MaxBytes = 64 << 10

// File is what a provisioning file says. The zero value of a field means that the file does not speak of it.
type File struct {
	Hallig       int             `json:"hallig"`                // version of the form: 1
	Label        string          `json:"label,omitempty"`       // what is written on the box
	ServerName   string          `json:"server_name,omitempty"` // the part behind the colon; fixed with the first account
	Organisation Organisation    `json:"organisation,omitzero"` //
	AdminCode    string          `json:"admin_code,omitempty"`  // registration token of the first administrator, once
	Network      Network         `json:"network,omitzero"`      //
	Serial       []Serial        `json:"serial,omitempty"`      // lines to other boxes
	Backup       Backup          `json:"backup,omitzero"`       //
	Restore      Restore         `json:"restore,omitzero"`      //
	Certificate  Certificate     `json:"certificate,omitzero"`  //
	Lock         Lock            `json:"lock,omitzero"`         // encrypts the data; taken from a stick at the first start only
	Updates      *Updates        `json:"updates,omitempty"`     // nil: nothing is said
	Config       json.RawMessage `json:"config,omitempty"`      // any fields of config.json; what that file says itself wins
}

// Organisation is whose box it is.
type Organisation struct {
	Name string `json:"name,omitempty"`
	CA   string `json:"ca,omitempty"`  // PEM, one or more certificates of authorities to trust
	Key  string `json:"key,omitempty"` // "hallig-organisation-1 BASE64 NAME": who signs what holds for all its boxes
}

// Network says how the box behaves on its LAN.
type Network struct {
	// Mode: "auto" or "" (a guest where somebody serves DHCP, otherwise the host), "guest", "host", "static", "off".
	Mode    string   `json:"mode,omitempty"`
	Address string   `json:"address,omitempty"` // of the box with the prefix length, 192.168.7.1/24: as host and when static
	Gateway string   `json:"gateway,omitempty"`
	DNS     []string `json:"dns,omitempty"` // addresses
	NTP     []string `json:"ntp,omitempty"` // addresses; names go into "clock_ntp" of config
	WiFi    WiFi     `json:"wifi,omitzero"` // for boards that bring an access point; no image has one yet, and the device page says so
}

// WiFi is an access point.
type WiFi struct {
	SSID       string `json:"ssid,omitempty"`
	Passphrase string `json:"passphrase,omitempty"`
	Country    string `json:"country,omitempty"` // ISO 3166, for the channels that are allowed
	Channel    int    `json:"channel,omitempty"`
}

// Backup says where the encrypted backup goes, how often, and who can open it.
type Backup struct {
	Recipients []string `json:"recipients,omitempty"` // age public keys, age1...
	To         string   `json:"to,omitempty"`         // "stick", "folder", "peer"
	Folder     string   `json:"folder,omitempty"`     // for "folder": an absolute path
	Every      string   `json:"every,omitempty"`      // 24h
	Keep       int      `json:"keep,omitempty"`       // how many backups stay; 0: 7
}

// Interval is Every as a duration; 0: not said.
func (b Backup) Interval() time.Duration {
	d, _ := time.ParseDuration(b.Every) // Parse has looked already
	return d
}

// Restore has a new box take over from a backup that lies on the same stick, before its first account exists.
type Restore struct {
	Identity string `json:"identity,omitempty"` // age secret key, AGE-SECRET-KEY-1...
}

// Certificate says where the certificate for browsers comes from. Without it the box makes its own authority.
type Certificate struct {
	ACME ACME   `json:"acme,omitzero"`
	PEM  string `json:"pem,omitempty"` // chain and private key in one text
}

// ACME asks a certificate authority, proving the name by DNS.
type ACME struct {
	Directory string            `json:"directory,omitempty"` // https://...; empty: Let's Encrypt
	Email     string            `json:"email,omitempty"`
	CA        string            `json:"ca,omitempty"`       // PEM, to trust the directory itself by
	Provider  string            `json:"provider,omitempty"` // of the DNS zone
	Settings  map[string]string `json:"settings,omitempty"` // of the provider
}

// Lock encrypts the data of a box: it opens with the stick that the file came on, or with the code.
type Lock struct {
	Code string `json:"code,omitempty"` // at least 16 letters and digits; case, blanks and hyphens do not count
}

// Updates says how updates come.
type Updates struct {
	Automatic bool `json:"automatic,omitempty"`
	// Window is when the box does so: "02:00-05:00", by the box's clock in the zone of its system; it may pass midnight. Empty: at any time.
	Window string `json:"window,omitempty"`
	// NoHub keeps the box from taking systems from its hub, also when somebody presses the button.
	NoHub bool `json:"no_hub,omitempty"`
}

// In says whether a moment is within the window; always when there is none.
func (u Updates) In(t time.Time) bool {
	from, to, ok := u.window()
	if !ok {
		return true
	}
	at := t.Hour()*60 + t.Minute()
	if from <= to {
		return at >= from && at < to
	}
	return at >= from || at < to
}

// window gives its ends in minutes since midnight; false: there is none that can be read.
func (u Updates) window() (from, to int, ok bool) {
	a, b, found := strings.Cut(u.Window, "-")
	start, err := time.Parse("15:04", a)
	end, err2 := time.Parse("15:04", b)
	if !found || err != nil || err2 != nil {
		return 0, 0, false
	}
	return start.Hour()*60 + start.Minute(), end.Hour()*60 + end.Minute(), true
}

// Error is why a file is refused: one sentence for people, in two languages.
type Error struct{ De, En string }

func (e Error) Error() string { return e.En }

// ErrorOf gives the sentences of an error of this package, and for every other error its text under a heading in both languages.
func ErrorOf(err error) Error {
	var e Error
	if errors.As(err, &e) {
		return e
	}
	return Error{De: fmt.Sprintf("hallig.json kann nicht gelesen werden: %v", err), En: fmt.Sprintf("hallig.json cannot be read: %v", err)}
}

// Parse reads a file. The error, if any, is an Error.
func Parse(raw []byte) (File, error) {
	var f File
	raw, err := text(raw)
	if err != nil {
		return f, err
	}
	if err := newReader(raw).walk(reflect.TypeFor[File]()); err != nil {
		return f, err
	}
	if err := json.Unmarshal(raw, &f); err != nil { // cannot happen: walk has seen the types
		return File{}, Error{De: "Die Datei kann nicht gelesen werden: " + err.Error(), En: "The file cannot be read: " + err.Error()}
	}
	if err := f.check(); err != nil {
		return File{}, err
	}
	return f, nil
}

// Marshal writes a file as Parse reads it, and refuses what Parse would refuse.
func (f File) Marshal() ([]byte, error) {
	f.Hallig = 1
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("write provisioning file: %w", err)
	}
	if _, err := Parse(out.Bytes()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// text refuses what is no UTF-8 text of a sensible size and takes the byte order mark off.
func text(raw []byte) ([]byte, error) {
	switch {
	case len(raw) > MaxBytes:
		return nil, Error{
			De: fmt.Sprintf("Die Datei hat mehr als %d KiB; eine hallig.json ist viel kleiner. Ist es die richtige Datei?", MaxBytes>>10),
			En: fmt.Sprintf("The file is larger than %d KiB; a hallig.json is much smaller. Is it the right file?", MaxBytes>>10),
		}
	case bytes.HasPrefix(raw, []byte{0xff, 0xfe}), bytes.HasPrefix(raw, []byte{0xfe, 0xff}), bytes.IndexByte(raw, 0) >= 0:
		return nil, Error{
			De: "Die Datei ist nicht als UTF-8 gespeichert (sondern als UTF-16 oder gar nicht als Text). Im Editor von Windows: Datei, Speichern unter, Codierung UTF-8.",
			En: "The file is not saved as UTF-8 (but as UTF-16, or it is no text). In Windows Notepad: File, Save as, Encoding UTF-8.",
		}
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	if !utf8.Valid(raw) {
		at := 0
		for at < len(raw) {
			r, n := utf8.DecodeRune(raw[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
		return nil, place(raw, at, Error{
			De: "ein Zeichen ist nicht in UTF-8 geschrieben, meist ein Umlaut; die Datei als UTF-8 speichern",
			En: "a character is not written in UTF-8, most often an umlaut; save the file as UTF-8",
		})
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, Error{De: "Die Datei ist leer; mindestens {\"hallig\": 1} muss darin stehen.", En: "The file is empty; at least {\"hallig\": 1} must be in it."}
	}
	return raw, nil
}

// place puts line and column in front of a sentence. Columns count characters, as editors do.
func place(raw []byte, at int, e Error) Error {
	before := raw[:min(max(at, 0), len(raw))]
	line, column := 1+bytes.Count(before, []byte("\n")), 1+utf8.RuneCount(before[1+bytes.LastIndexByte(before, '\n'):])
	return Error{De: fmt.Sprintf("Zeile %d, Spalte %d: %s.", line, column, e.De), En: fmt.Sprintf("Line %d, column %d: %s.", line, column, e.En)}
}
