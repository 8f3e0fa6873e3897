// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"hallig/appliance/provision"
)

// column is one that a table may have.
type column struct {
	name   string   // as in the documentation
	german []string // how else it may be called
	help   provision.Error
}

// Columns of a table; all but label may be left out, and be empty in a line. Names do not mind case, blanks, hyphens and underscores.
var columns = []column{
	{"label", []string{"bezeichnung", "name", "box"}, provision.Error{De: "was auf der Box steht; der Ordner heißt danach", En: "what is written on the box; names its folder"}},
	{"server_name", []string{"servername", "matrixname"}, provision.Error{De: "Name hinter dem Doppelpunkt, für immer", En: "name behind the colon, for ever"}},
	{"organisation", []string{"organization"}, provision.Error{De: "wem die Box gehört", En: "whose box it is"}},
	{"admin_code", []string{"admincode", "code"}, provision.Error{De: "Code der ersten Administratorin; leer: wird gewürfelt", En: "code of the first administrator; empty: is drawn"}},
	{"mode", []string{"netz", "netzart", "modus"}, provision.Error{De: "auto, guest, host, static, off", En: "auto, guest, host, static, off"}},
	{"address", []string{"adresse", "ip", "ipadresse"}, provision.Error{De: "192.168.7.1/24", En: "192.168.7.1/24"}},
	{"gateway", []string{"router"}, provision.Error{De: "Router, mit fester Adresse", En: "router, with a fixed address"}},
	{"dns", nil, provision.Error{De: "Adressen, durch Leerzeichen getrennt", En: "addresses, separated by blanks"}},
	{"ntp", []string{"zeitserver"}, provision.Error{De: "Zeitserver, durch Leerzeichen getrennt", En: "time servers, separated by blanks"}},
	{"wifi_ssid", []string{"wlan", "wlanname", "ssid", "wifi"}, provision.Error{De: "Name des WLAN, das der Zugangspunkt (Router) an der Box macht; steht nur auf dem Blatt", En: "name of the Wi-Fi of the access point (router) at the box; only on the sheet"}},
	{"wifi_passphrase", []string{"wlanpasswort", "wlanschluessel", "wlanschlüssel", "passphrase"}, provision.Error{De: "sein Passwort; leer: wird gewürfelt und ist am Zugangspunkt einzustellen", En: "its password; empty: is drawn, and must be set at the access point"}},
	{"serial", []string{"funk", "seriell", "anschluss", "device"}, provision.Error{De: "Anschluss des Funkgeräts, /dev/hallig/...", En: "port of the radio, /dev/hallig/..."}},
	{"serial_baud", []string{"baud"}, provision.Error{De: "Bit/s des Anschlusses", En: "bit/s of the port"}},
	{"serial_bits_per_second", []string{"bitspersecond", "funkrate"}, provision.Error{De: "Bit/s in der Luft", En: "bit/s on the air"}},
	{"serial_modem", []string{"modem"}, provision.Error{De: "Art des Modems: transparent, null, rs485, at, kiss, rnode, meshcore", En: "kind of modem: transparent, null, rs485, at, kiss, rnode, meshcore"}},
	{"serial_band", []string{"band"}, provision.Error{De: "Band: eu868-10, amateur, licensed, ...", En: "band: eu868-10, amateur, licensed, ..."}},
	{"serial_call_sign", []string{"rufzeichen", "callsign"}, provision.Error{De: "Rufzeichen dieser Box", En: "call sign of this box"}},
	{"serial_number", []string{"rufnummer", "telefon"}, provision.Error{De: "Nummer, die ein AT-Modem anruft", En: "number that an AT modem calls"}},
	{"serial_half_duplex", []string{"halbduplex", "halfduplex"}, provision.Error{De: "ja: ein Kanal für beide Richtungen", En: "yes: one channel for both directions"}},
	{"hub_mode", []string{"hubmodus", "vollmacht"}, provision.Error{De: "versiegelt (der Hub hat keinen Schlüssel der Box; so auch, wenn leer) oder vollmacht (er kann in ihrem Namen unterschreiben); den Hub nennt --base", En: "sealed (the hub has no key of the box; so too when empty) or delegate (it can sign in its name); --base names the hub"}},
	{"note", []string{"bemerkung", "notiz", "ort", "einsatzort"}, provision.Error{De: "steht nur auf dem Blatt", En: "only on the sheet"}},
}

// Help lists the columns for people.
func Help(lang string) string {
	var b strings.Builder
	for _, c := range columns {
		help := c.help.En
		if lang == "de" {
			help = c.help.De
		}
		names := ""
		if len(c.german) > 0 {
			names = " (" + strings.Join(c.german, ", ") + ")"
		}
		fmt.Fprintf(&b, "  %-24s %s%s\n", c.name, help, names)
	}
	return b.String()
}

// row is one line of a table by the names of its columns.
type row struct {
	line  int
	has   map[string]bool // columns of the table
	value map[string]string
}

func (r row) wrong(column, de, en string) error {
	return provision.Error{De: fmt.Sprintf("Zeile %d: „%s“ %s.", r.line, column, de), En: fmt.Sprintf("Line %d: %q %s.", r.line, column, en)}
}

// maxTable bounds a table: thousands of boxes.
const maxTable = 4 << 20

// readTable reads CSV as spreadsheets write it: comma, semicolon or tab, with or without a byte order mark.
func readTable(raw []byte) ([]row, error) {
	if bytes.HasPrefix(raw, []byte{0xff, 0xfe}) || bytes.HasPrefix(raw, []byte{0xfe, 0xff}) || !utf8.Valid(raw) || bytes.IndexByte(raw, 0) >= 0 {
		return nil, provision.Error{De: "Die Tabelle ist nicht in UTF-8; in der Tabellenkalkulation „Speichern unter“, „CSV UTF-8“ wählen.", En: "The table is not in UTF-8; in the spreadsheet choose \"Save as\", \"CSV UTF-8\"."}
	}
	if len(raw) > maxTable {
		return nil, provision.Error{De: "Die Tabelle ist zu groß; höchstens 4 MiB.", En: "The table is too large; at most 4 MiB."}
	}
	raw = bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf"))
	r := csv.NewReader(bytes.NewReader(raw))
	r.FieldsPerRecord = -1
	r.TrimLeadingSpace = true
	r.Comma = separator(raw)
	head, err := r.Read()
	if errors.Is(err, io.EOF) {
		return nil, provision.Error{De: "Die Tabelle ist leer; die erste Zeile nennt die Spalten, dann folgt eine Zeile für jede Box.", En: "The table is empty; the first line names the columns, then comes one line for each box."}
	}
	if err != nil {
		return nil, badCSV(err)
	}
	names, err := header(head)
	if err != nil {
		return nil, err
	}
	has := map[string]bool{}
	for _, name := range names {
		has[name] = true
	}
	var rows []row
	for {
		cells, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badCSV(err)
		}
		line, _ := r.FieldPos(0)
		row := row{line: line, has: has, value: map[string]string{}}
		empty := true
		for i, cell := range cells {
			cell = strings.TrimSpace(cell)
			if i >= len(names) && cell != "" {
				return nil, row.wrong(cell, "steht in einer Spalte ohne Überschrift; steckt ein Trennzeichen in einem Feld, gehört das Feld in Anführungszeichen", "is in a column without a heading; a field that holds a separator belongs in quotation marks")
			}
			if i < len(names) && cell != "" {
				row.value[names[i]], empty = cell, false
			}
		}
		if !empty {
			rows = append(rows, row)
		}
	}
	if len(rows) == 0 {
		return nil, provision.Error{De: "Die Tabelle hat Spalten, aber keine Box; jede Box bekommt eine Zeile.", En: "The table has columns but no box; each box gets a line."}
	}
	return rows, nil
}

func badCSV(err error) error {
	var p *csv.ParseError
	line := 0
	if errors.As(err, &p) {
		line = p.Line
	}
	return provision.Error{De: fmt.Sprintf("Zeile %d: ein Anführungszeichen ist zu viel oder fehlt.", line), En: fmt.Sprintf("Line %d: a quotation mark is too many or missing.", line)}
}

// separator is the one that the first line has most of.
func separator(raw []byte) rune {
	first, _, _ := bytes.Cut(raw, []byte("\n"))
	best, most := ',', 0
	for _, c := range ",;\t" {
		if n := bytes.Count(first, []byte(string(c))); n > most {
			best, most = c, n
		}
	}
	return best
}

func header(cells []string) ([]string, error) {
	plain := func(s string) string {
		return strings.NewReplacer(" ", "", "-", "", "_", "", ".", "").Replace(strings.ToLower(strings.TrimSpace(s)))
	}
	known := map[string]string{}
	var list []string
	for _, c := range columns {
		known[plain(c.name)] = c.name
		for _, g := range c.german {
			known[plain(g)] = c.name
		}
		list = append(list, c.name)
	}
	var names []string
	seen := map[string]bool{}
	for i, cell := range cells {
		name := known[plain(cell)]
		if name == "" && strings.TrimSpace(cell) == "" && i == len(cells)-1 {
			break // a separator at the end of the line
		}
		if name == "" {
			return nil, provision.Error{
				De: fmt.Sprintf("Zeile 1: eine Spalte „%s“ gibt es nicht; es gibt: %s.", cell, strings.Join(list, ", ")),
				En: fmt.Sprintf("Line 1: there is no column %q; there are: %s.", cell, strings.Join(list, ", ")),
			}
		}
		if seen[name] {
			return nil, provision.Error{De: fmt.Sprintf("Zeile 1: die Spalte „%s“ gibt es zweimal.", name), En: fmt.Sprintf("Line 1: the column %q is there twice.", name)}
		}
		seen[name] = true
		names = append(names, name)
	}
	return names, nil
}

// lay puts the line over a file.
func (r row) lay(f *provision.File) error {
	text := map[string]*string{
		"label": &f.Label, "server_name": &f.ServerName, "organisation": &f.Organisation.Name, "admin_code": &f.AdminCode, "mode": &f.Network.Mode,
		"address": &f.Network.Address, "gateway": &f.Network.Gateway,
	}
	for name, into := range text {
		if v, ok := r.value[name]; ok {
			*into = v
		}
	}
	for name, into := range map[string]*[]string{"dns": &f.Network.DNS, "ntp": &f.Network.NTP} {
		if v, ok := r.value[name]; ok {
			*into = strings.Fields(strings.ReplaceAll(v, ",", " "))
		}
	}
	if err := r.layHub(f); err != nil {
		return err
	}
	return r.layLine(f)
}

// layHub says in the configuration of all boxes, which names their hub, how it serves this one.
func (r row) layHub(f *provision.File) error {
	modes := map[string]string{"sealed": "sealed", "versiegelt": "sealed", "delegate": "delegate", "vollmacht": "delegate", "mit vollmacht": "delegate"}
	v := r.value["hub_mode"]
	if v == "" {
		return nil
	}
	mode := modes[strings.ToLower(v)]
	if mode == "" {
		return r.wrong("hub_mode", "muss versiegelt oder vollmacht sein", "must be sealed or delegate")
	}
	config, hub := map[string]json.RawMessage{}, map[string]any{}
	if len(f.Config) > 0 && json.Unmarshal(f.Config, &config) != nil || config["hub"] != nil && json.Unmarshal(config["hub"], &hub) != nil || hub["server"] == nil {
		return r.wrong("hub_mode", "braucht einen Hub: in der Datei von --base unter \"config\" \"hub\" mit \"server\" eintragen", "needs a hub: enter \"hub\" with \"server\" under \"config\" in the file of --base")
	}
	hub["mode"] = mode
	var err error
	if config["hub"], err = json.Marshal(hub); err != nil {
		return err
	}
	f.Config, err = json.Marshal(config)
	return err
}

// layLine lays the columns of the radio over the one line that all boxes have, or makes it.
func (r row) layLine(f *provision.File) error {
	line, given := provision.Serial{}, false
	if len(f.Serial) == 1 {
		line = f.Serial[0]
	}
	for name, into := range map[string]*string{
		"serial": &line.Device, "serial_modem": &line.Modem, "serial_band": &line.Band, "serial_call_sign": &line.CallSign, "serial_number": &line.Number,
	} {
		if v := r.value[name]; v != "" {
			*into, given = v, true
		}
	}
	for name, into := range map[string]*int{"serial_baud": &line.Baud, "serial_bits_per_second": &line.BitsPerSecond} {
		v, ok := r.value[name]
		if !ok {
			continue
		}
		n, err := strconv.Atoi(v)
		if err != nil {
			return r.wrong(name, "muss eine ganze Zahl sein, nicht „"+v+"“", "must be a whole number, not \""+v+"\"")
		}
		*into, given = n, true
	}
	switch v := strings.ToLower(r.value["serial_half_duplex"]); v {
	case "ja", "j", "yes", "y", "x", "1", "true", "wahr":
		line.HalfDuplex, given = true, true
	case "nein", "n", "no", "0", "false", "falsch":
		line.HalfDuplex, given = false, true
	case "":
	default:
		return r.wrong("serial_half_duplex", "muss ja oder nein sein", "must be yes or no")
	}
	switch {
	case !given:
	case line.Device == "":
		return r.wrong("serial", "fehlt; ohne Anschluss hat das Funkgerät keine Leitung", "is missing; without a port the radio has no line")
	default:
		f.Serial = []provision.Serial{line}
	}
	return nil
}

// hexKey is a passphrase in the form of the key itself.
var hexKey = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)

// wifi is the line's access point, laid over the one of all boxes.
func (r row) wifi(w provision.WiFi) (provision.WiFi, error) {
	if v := r.value["wifi_ssid"]; v != "" && v != w.SSID {
		w = provision.WiFi{SSID: v} // another access point, another passphrase
	}
	if v := r.value["wifi_passphrase"]; v != "" {
		w.Passphrase = v
	}
	if w.SSID == "" && w.Passphrase != "" {
		return w, r.wrong("wifi_ssid", "fehlt; ein Passwort ohne Namen findet kein WLAN", "is missing; a password without a name finds no Wi-Fi")
	}
	if len(w.SSID) > 32 || strings.ContainsFunc(w.SSID, unicode.IsControl) {
		return w, r.wrong("wifi_ssid", "darf höchstens 32 Zeichen haben (ein Umlaut zählt doppelt)", "may have at most 32 characters (an umlaut counts twice)")
	}
	ascii := !strings.ContainsFunc(w.Passphrase, func(r rune) bool { return r < ' ' || r > '~' })
	if n := len(w.Passphrase); n > 0 && !hexKey.MatchString(w.Passphrase) && (n < 8 || n > 63 || !ascii) {
		return w, r.wrong("wifi_passphrase", "muss 8 bis 63 Zeichen haben, ohne Umlaute", "must have 8 to 63 characters, without umlauts")
	}
	return w, nil
}
