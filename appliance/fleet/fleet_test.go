// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/provision"
)

// table is one of n boxes, as a German spreadsheet writes it.
func table(n int) []byte {
	var b strings.Builder
	b.WriteString("\ufeffBezeichnung;Servername;WLAN;WLAN-Passwort;Adresse;Funk;Baud;Halbduplex;Bemerkung\r\n")
	for i := range n {
		fmt.Fprintf(&b, "Löschzug %d;box%d.feuerwehr.example;Feuerwehr %d;;192.168.7.1/24;/dev/hallig/radio;9600;ja;\"Gerätehaus; Tor %d\"\r\n", i+1, i+1, i+1, i+1)
	}
	return []byte(b.String())
}

func options() Options {
	return Options{Lang: "de", Base: provision.File{Organisation: provision.Organisation{Name: "Feuerwehr <Musterhausen>"}}, Lock: true}
}

// lockCode is five groups of 31 letters and digits that nobody confuses: 99 bits.
var lockCode = regexp.MustCompile(`^[A-HJKMNP-Z2-9]{4}(-[A-HJKMNP-Z2-9]{4}){4}$`)

// TestHundredBoxes: each has its own folder, name and secrets, and each file is one that a box takes.
func TestHundredBoxes(t *testing.T) {
	boxes, err := Prepare(table(100), options())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "out", "fleet")
	if err := Write(dir, boxes, options()); err != nil {
		t.Fatal(err)
	}
	differ := map[string]map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	byFolder := map[string]Box{}
	for _, b := range boxes {
		byFolder[b.Folder] = b
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		n++
		wifi := byFolder[e.Name()].WiFi
		raw, err := os.ReadFile(filepath.Join(dir, e.Name(), "hallig.json"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := provision.Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		for kind, v := range map[string]string{"label": f.Label, "name": f.ServerName, "code": f.AdminCode, "lock": f.Lock.Code, "ssid": wifi.SSID, "passphrase": wifi.Passphrase} {
			if differ[kind] == nil {
				differ[kind] = map[string]bool{}
			}
			differ[kind][v] = true
		}
		if len(f.AdminCode) < 14 || len(wifi.Passphrase) < 19 || f.Network.WiFi != (provision.WiFi{}) || !lockCode.MatchString(f.Lock.Code) || f.Organisation.Name != "Feuerwehr <Musterhausen>" || len(f.Serial) != 1 || !f.Serial[0].HalfDuplex || f.Serial[0].Baud != 9600 {
			t.Errorf("%s: %+v", e.Name(), f)
		}
		sheet, err := os.ReadFile(filepath.Join(dir, e.Name(), "sheet.html"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{f.Label, f.ServerName, f.AdminCode, f.Lock.Code, wifi.SSID, wifi.Passphrase, "http://192.168.7.1/", "Musterhausen&gt;", "Gerätehaus; Tor"} {
			if !strings.Contains(string(sheet), want) {
				t.Errorf("%s: the sheet lacks %q", e.Name(), want)
			}
		}
		if strings.Contains(string(sheet), "<Musterhausen>") || strings.Contains(string(sheet), "ZgotmplZ") {
			t.Errorf("%s: the sheet is not escaped", e.Name())
		}
	}
	if n != 100 {
		t.Fatalf("%d boxes, want 100", n)
	}
	for kind, seen := range differ {
		if len(seen) != 100 {
			t.Errorf("%d different %s, want 100", len(seen), kind)
		}
	}
	list, err := os.Open(filepath.Join(dir, "secrets.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	r := csv.NewReader(list)
	r.Comma = ';'
	if rows, err := r.ReadAll(); err != nil || len(rows) != 101 || rows[100][2] != boxes[99].File.AdminCode || rows[100][4] != boxes[99].WiFi.Passphrase || rows[100][5] != boxes[99].File.Lock.Code {
		t.Errorf("the list of secrets has %d lines, %v", len(rows), err)
	}
	err = filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		info, ierr := d.Info()
		if err != nil || ierr != nil {
			return errors.Join(err, ierr)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	overview, _ := os.ReadFile(filepath.Join(dir, "index.html"))
	for _, b := range boxes {
		if s := string(overview); !strings.Contains(s, b.File.ServerName) || strings.Contains(s, b.File.AdminCode) || strings.Contains(s, b.WiFi.Passphrase) || strings.Contains(s, b.File.Lock.Code) {
			t.Fatalf("the overview lacks %s or tells its secrets", b.File.ServerName)
		}
	}
}

// TestNothingHalf: a folder that is there stays as it is, and what fails leaves nothing.
func TestNothingHalf(t *testing.T) {
	boxes, err := Prepare(table(3), options())
	if err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	dir := filepath.Join(top, "fleet")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, boxes, options()); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("over an existing folder: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	boxes[2].Folder = boxes[0].Folder // fails in the middle
	if err := Write(dir, boxes, options()); err == nil {
		t.Error("two boxes in one folder were written")
	}
	if left, _ := os.ReadDir(top); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTables(t *testing.T) {
	for name, text := range map[string]string{
		"comma":     "label,server_name,ntp\nBox 1,box1.example,10.0.0.1 10.0.0.2\n",
		"semicolon": "label;server_name;ntp;\nBox 1;box1.example;\"10.0.0.1, 10.0.0.2\";\n;;;\n",
		"tab":       "Label\tServer-Name\tZeitserver\nBox 1\tbox1.example\t10.0.0.1 10.0.0.2",
		"domain":    "\ufeffName,NTP\n Box 1 ,10.0.0.1 10.0.0.2\n",
	} {
		o := Options{Lang: "en"}
		want := "box1.example"
		if name == "domain" {
			o.Domain, want = "example", "box-1.example"
		}
		boxes, err := Prepare([]byte(text), o)
		if err != nil || len(boxes) != 1 {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f := boxes[0].File
		if f.Label != "Box 1" || f.ServerName != want || !slices.Equal(f.Network.NTP, []string{"10.0.0.1", "10.0.0.2"}) || boxes[0].Folder != "Box-1" {
			t.Errorf("%s: got %+v", name, f)
		}
		if raw := string(boxes[0].provisioning); strings.Contains(raw, "wifi") || strings.Contains(raw, "lock") {
			t.Errorf("%s: %s", name, raw)
		}
		if s := string(boxes[0].sheet); !strings.Contains(s, "Join the same network") || strings.Contains(s, "WLAN") || strings.Contains(s, "Lock code") || !strings.Contains(s, "by a network cable") {
			t.Errorf("%s: a sheet without Wi-Fi in English says otherwise", name)
		}
	}
}

func TestTablesRefused(t *testing.T) {
	head := "label,server_name,wifi_ssid,address,serial,serial_half_duplex,serial_baud\n"
	for text, words := range map[string][]string{
		"":                                  {"leer"},
		head:                                {"keine Box"},
		"label,colour\na,b\n":               {"colour", "wifi_ssid"},
		"label,Bezeichnung\na,b\n":          {"label", "zweimal"},
		head + "A,a.example\nB,a.example\n": {"Zeile 3", "server_name", "Zeile 2"},
		head + "A,a.example\na,b.example\n": {"Zeile 3", "label"},
		head + "Ä 1,a.example\nAe-1,b.example\n":                            {"Zeile 3", "label"},
		head + "A,a.example," + strings.Repeat("ü", 17):                     {"Zeile 2", "wifi_ssid"},
		"label,server_name,wifi_passphrase\nA,a.example,12345678\n":         {"wifi_ssid"},
		"label,server_name,wifi_ssid,wifi_passphrase\nA,a.example,W,kurz\n": {"wifi_passphrase"},
		head + ",a.example\n":                       {"Zeile 2", "label"},
		head + "!!,a.example\n":                     {"label"},
		head + "A\n":                                {"server_name", "--domain"},
		head + "A,https://a\n":                      {"Zeile 2", "server_name", "https"},
		head + "A,a.example,,192.168.7.0/24\n":      {"network.address", "192.168.7.1/24"},
		head + "A,a.example,,,,ja\n":                {"serial"},
		head + "A,a.example,,,/dev/x,vielleicht\n":  {"serial_half_duplex"},
		head + "A,a.example,,,,,sechs\n":            {"serial_baud", "sechs"},
		head + "A,a.example,,,,,,mehr\n":            {"mehr", "Überschrift"},
		"label,note\nA," + strings.Repeat("x", 121): {"note", "120"},
		head + "A,\"a.example\n":                    {"Anführungszeichen"},
		"label\nGer\xe4t\n":                         {"UTF-8"},
		"\xff\xfel\x00a\x00":                        {"UTF-8"},
	} {
		_, err := Prepare([]byte(text), Options{Lang: "de"})
		var e provision.Error
		if !errors.As(err, &e) {
			t.Errorf("%q: got %v", text, err)
			continue
		}
		for _, w := range words {
			if !strings.Contains(e.De, w) {
				t.Errorf("%q: %s\nwant %q in it", text, e.De, w)
			}
		}
		if e.En == "" || strings.Contains(e.En+e.De, "%!") {
			t.Errorf("%q: %s", text, e.En)
		}
	}
}

// TestAccessPoint: boxes at one access point share its passphrase, and where none is known none is invented.
func TestAccessPoint(t *testing.T) {
	o := Options{Lang: "de", Domain: "example"}
	for text, want := range map[string][]string{
		"label,wifi_ssid\nA,W\nB,\n":                                 {"", ""},
		"label,wifi_ssid,wifi_passphrase\nA,W,\nB,W,geheim-1\nC,,\n": {"geheim-1", "geheim-1", ""},
		"label,wifi_ssid,wifi_passphrase\nA,W,\nB,W,\n":              nil,
	} {
		boxes, err := Prepare([]byte(text), o)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		var got []string
		for _, b := range boxes {
			got = append(got, b.WiFi.Passphrase)
			s := string(b.sheet)
			if named, code := strings.Contains(s, "WLAN des Zugangspunkts, der an der Box steckt"), strings.Count(s, "<svg") == 2; named != (b.WiFi.SSID != "") || code != (b.WiFi.Passphrase != "") {
				t.Errorf("%q: the sheet of %s: names the access point %v, has its code %v", text, b.Folder, named, code)
			}
		}
		if want == nil && (len(got[0]) != 19 || got[0] != got[1]) || want != nil && !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	o.Base.Network.WiFi = provision.WiFi{SSID: "W", Passphrase: "geheim-1", Country: "DE"}
	boxes, err := Prepare([]byte("label,wifi_ssid\nA,\nB,V\n"), o)
	if err != nil || boxes[0].WiFi.Passphrase != "geheim-1" || boxes[1].WiFi != (provision.WiFi{SSID: "V"}) || boxes[0].File.Network.WiFi.SSID != "" {
		t.Errorf("over a common access point: %+v, %v", boxes, err)
	}
}

// TestOneLockForAll: a code that is the same in two boxes is none.
func TestOneLockForAll(t *testing.T) {
	o := Options{Domain: "example", Base: provision.File{Lock: provision.Lock{Code: "ABCD-EFGH-JKMN-PQRS"}}}
	if _, err := Prepare([]byte("label\nA\nB\n"), o); err == nil || !strings.Contains(err.Error(), "lock.code") {
		t.Errorf("one code for two boxes: %v", err)
	}
	o.Lock = true
	boxes, err := Prepare([]byte("label\nA\nB\n"), o)
	if err != nil || boxes[0].File.Lock.Code == boxes[1].File.Lock.Code || !strings.Contains(string(boxes[0].sheet), "USB") {
		t.Errorf("%+v, %v", boxes, err)
	}
}

func TestCopyToStick(t *testing.T) {
	boxes, err := Prepare(table(2), options())
	if err != nil {
		t.Fatal(err)
	}
	dir, stick := filepath.Join(t.TempDir(), "fleet"), t.TempDir()
	if err := Write(dir, boxes, options()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is there already
		if err := CopyToStick(dir, "Löschzug 1", stick); err != nil {
			t.Fatal(err)
		}
	}
	got, _ := os.ReadFile(filepath.Join(stick, "hallig.json"))
	if f, err := provision.Parse(got); err != nil || f.ServerName != "box1.feuerwehr.example" {
		t.Errorf("on the stick: %+v, %v", f, err)
	}
	if err := CopyToStick(dir, "Loeschzug-2", stick); err == nil {
		t.Error("another box's file was overwritten")
	}
	if err := CopyToStick(dir, "../fleet/Loeschzug-2", t.TempDir()); err == nil {
		t.Error("a path was taken for a box")
	}
	if err := CopyToStick(dir, "Loeschzug-2", filepath.Join(stick, "none")); err == nil {
		t.Error("copied to a stick that is not there")
	}
	if left, _ := os.ReadDir(stick); len(left) != 1 {
		t.Errorf("on the stick: %v", left)
	}
}

// TestWiFiCode: the text of the code, with the characters that end fields.
func TestWiFiCode(t *testing.T) {
	b := Box{WiFi: provision.WiFi{SSID: `a;b:c\d"e,f`, Passphrase: "x;y"}}
	if got, want := wifiText(b), `WIFI:T:WPA;S:a\;b\:c\\d\"e\,f;P:x\;y;;`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestPrinted prints three boxes, one with everything as long as it may be, and counts the pages: one for each box.
func TestPrinted(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil || testing.Short() {
		t.Skip("no chromium to print with")
	}
	text := string(table(2)) + strings.Repeat("Ü", 64) + ";" + strings.Repeat("abcdefghi.", 18) + "example;" + strings.Repeat("W", 32) + ";" + strings.Repeat("w", 63) + ";10.100.100.100/24;;;;" + strings.Repeat("Bemerkung ", 12) + "\n"
	o := options()
	o.Base.Organisation.Name = strings.Repeat("Ö", 64)
	for _, lang := range []string{"de", "en"} {
		o.Lang = lang
		boxes, err := Prepare([]byte(text), o)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(t.TempDir(), "fleet")
		if err := Write(dir, boxes, o); err != nil {
			t.Fatal(err)
		}
		pdf := filepath.Join(t.TempDir(), "sheets.pdf")
		cmd := exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--user-data-dir="+t.TempDir(), "--print-to-pdf="+pdf, filepath.Join(dir, "sheets.html"))
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("print: %v\n%s", err, out)
		}
		raw, err := os.ReadFile(pdf)
		if err != nil {
			t.Fatal(err)
		}
		if keep := os.Getenv("KEEP_PDF"); keep != "" {
			os.WriteFile(filepath.Join(keep, "sheets-"+lang+".pdf"), raw, 0o600)
		}
		if n := len(regexp.MustCompile(`/Type\s*/Page[^s]`).FindAll(raw, -1)); n != len(boxes) {
			t.Errorf("%s: %d pages for %d boxes", lang, n, len(boxes))
		}
		if !regexp.MustCompile(`/MediaBox\s*\[0 0 59[45]\.?\d* 84[12]\.?\d*\]`).Match(raw) {
			t.Errorf("%s: the pages are not A4", lang)
		}
		// What does not fit is cut off without a word: the browser measures.
		page, err := os.ReadFile(filepath.Join(dir, "sheets.html"))
		if err != nil {
			t.Fatal(err)
		}
		measured := filepath.Join(t.TempDir(), "measured.html")
		script := `<script>document.body.textContent = "ROOM " + [...document.querySelectorAll(".public, .page")].map(p => p.clientHeight - p.scrollHeight).join(" ") + " END"</script></body>`
		if err := os.WriteFile(measured, []byte(strings.Replace(string(page), "</body>", script, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd = exec.CommandContext(t.Context(), chromium, "--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir="+t.TempDir(), "--dump-dom", measured)
		cmd.WaitDelay = time.Second
		dom, err := cmd.Output()
		m := regexp.MustCompile(`ROOM ([-0-9 ]+) END`).FindSubmatch(dom)
		if err != nil || m == nil {
			t.Fatalf("measure: %v\n%s", err, dom)
		}
		if room := strings.Fields(string(m[1])); len(room) != 2*len(boxes) || strings.Contains(string(m[1]), "-") {
			t.Errorf("%s: text is cut off: %q pixels are left", lang, room)
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add(table(2))
	f.Add([]byte("label\n\"a\""))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 10_000 {
			return
		}
		rows, err := readTable(raw)
		var e provision.Error
		if err != nil && (!errors.As(err, &e) || e.De == "" || e.En == "") {
			t.Fatalf("no sentence: %v", err)
		}
		for _, r := range rows {
			if _, err := (Options{Domain: "example"}).box(r); err != nil && !errors.As(err, &e) {
				t.Fatalf("no sentence: %v", err)
			}
		}
	})
}
