// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf16"
)

const (
	recipient = "age1gg7c9upvm3wdypgkpmkjfwamlxz9tx64fl3a2mej97pemrwx5a0qfdw38c"
	identity  = "AGE-SECRET-KEY-1HNT0GV9AUX3FJVE7QTL906VD643QYRV70ZWXJ0FSW854FRE3Q9TSX0RDVR"
)

// certificate makes a self-signed certificate; key: with its private key behind it.
func certificate(t testing.TB, ca, key bool) string {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Stadt Musterhausen"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: ca, BasicConstraintsValid: true, DNSNames: []string{"box7.feuerwehr.example"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	out := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if key {
		der, err := x509.MarshalPKCS8PrivateKey(priv)
		if err != nil {
			t.Fatal(err)
		}
		out += string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	return out
}

func full(t testing.TB) File {
	return File{
		Hallig: 1, Label: "Box 7 & Anhänger", ServerName: "box7.feuerwehr.example", AdminCode: "k7mq-2fxv-9tdp",
		Organisation: Organisation{Name: "Freiwillige Feuerwehr Musterhausen", CA: certificate(t, true, false)},
		Network: Network{
			Mode: "static", Address: "192.168.7.1/24", Gateway: "192.168.7.254", DNS: []string{"192.168.7.254", "fd00::1"}, NTP: []string{"192.168.7.254"},
			WiFi: WiFi{SSID: "Feuerwehr Süd", Passphrase: "acht oder mehr", Country: "DE", Channel: 36},
		},
		Serial:      []Serial{{Device: "/dev/hallig/radio", Baud: 9600, BitsPerSecond: 1200, HalfDuplex: true, RTSCTS: true, TurnDelayMS: 300, Band: "eu868-10"}},
		Backup:      Backup{Recipients: []string{recipient}, To: "folder", Folder: "/mnt/nas", Every: "24h", Keep: 7},
		Restore:     Restore{Identity: identity},
		Certificate: Certificate{PEM: certificate(t, false, true)},
		Lock:        Lock{Code: "K7MQ-2FXV-9TDP-44AB"}, Updates: &Updates{Automatic: true, Window: "22:30-05:00", NoHub: true}, Config: json.RawMessage(`{"room_version":"11","p2p":{"off":true}}`),
	}
}

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]File{
		"full": full(t), "least": {Hallig: 1},
		"acme": {Hallig: 1, Certificate: Certificate{ACME: ACME{Directory: "https://ca.example/dir", Email: "it@stadt.example", Provider: "rfc2136", Settings: map[string]string{"server": "10.0.0.1", "key": "box7", "secret": "c2VjcmV0"}}}},
	} {
		raw, err := want.Marshal()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := Parse(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var a, b bytes.Buffer
		if len(want.Config) > 0 && (json.Compact(&a, got.Config) != nil || json.Compact(&b, want.Config) != nil || a.String() != b.String()) {
			t.Errorf("%s: config %s, want %s", name, &a, &b)
		}
		got.Config, want.Config = nil, nil
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v\nwant %+v", name, got, want)
		}
	}
}

// TestEncodings: editors write marks and line ends of their own.
func TestEncodings(t *testing.T) {
	plain := "{\n\"hallig\": 1,\n\"label\": \"Anhänger Süd\"\n}\n"
	for name, raw := range map[string]string{"plain": plain, "mark": "\xef\xbb\xbf" + plain, "crlf": strings.ReplaceAll(plain, "\n", "\r\n")} {
		if f, err := Parse([]byte(raw)); err != nil || f.Label != "Anhänger Süd" {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	wide := []byte{0xff, 0xfe}
	for _, u := range utf16.Encode([]rune(plain)) {
		wide = binary.LittleEndian.AppendUint16(wide, u)
	}
	refused(t, wide, "UTF-8")
	refused(t, wide[2:], "UTF-8")
	refused(t, []byte("{\n\"hallig\": 1,\n\"label\": \"Anh\xe4nger\"}"), "Zeile 3", "Line 3", "UTF-8")
}

// refused wants the words in either language's sentence.
func refused(t *testing.T, raw []byte, words ...string) {
	t.Helper()
	f, err := Parse(raw)
	var e Error
	if !errors.As(err, &e) {
		t.Errorf("%.200q: got %+v, %v; want an Error", raw, f, err)
		return
	}
	if !reflect.DeepEqual(f, File{}) {
		t.Errorf("%.200q: a refused file left %+v", raw, f)
	}
	for _, s := range []string{e.De, e.En} {
		if strings.Contains(s, "%!") || !strings.HasSuffix(s, ".") && !strings.HasSuffix(s, "?") {
			t.Errorf("no sentence: %s", s)
		}
	}
	for _, w := range words {
		if !strings.Contains(e.De, w) && !strings.Contains(e.En, w) {
			t.Errorf("%.200q:\n  %s\n  %s\nwant %q in it", raw, e.De, e.En, w)
		}
	}
}

func TestRefusals(t *testing.T) {
	text := map[string][]string{
		``:                               {"leer", "empty"},
		"\xef\xbb\xbf \n":                {"leer"},
		`[]`:                             {"{ }"},
		`1`:                              {"{ }"},
		`{`:                              {"hört mittendrin auf", "missing"},
		`{"hallig":1`:                    {"hört mittendrin auf"},
		`{"hallig":1,`:                   {"hört mittendrin auf"},
		`{"hallig":1,"label":"Box`:       {"hört mittendrin auf"},
		`{"hallig":1}x`:                  {"Zeile 1", "follows"},
		"{\"hallig\":1}\n\n{}":           {"Zeile 3", "follows"},
		"{\n\"hallig\":1,\n}":            {"Zeile 3", "Komma zu viel"},
		"{\"hallig\":1,\"serial\":[1,]}": {"serial[0]"},
		"{\"hallig\":1,\"network\":{\"dns\":[\"1.1.1.1\",\n]}}":  {"Komma zu viel"},
		"{\n\"hallig\":1\n\"label\":\"x\"}":                      {"Zeile 3", "Komma"},
		`{„hallig“:1}`:                                           {"gerade"},
		`{"hallig":1,"label":„x“}`:                               {"gerade"},
		`{'hallig':1}`:                                           {"gerade"},
		"{\n// Box 7\n\"hallig\":1}":                             {"Zeile 2", "Kommentare"},
		`{hallig:1}`:                                             {"JSON"},
		`{"hallig":1,"hallig":1}`:                                {"hallig", "zweimal", "twice"},
		`{"hallig":1,"network":{"dns":[],"dns":[]}}`:             {"network.dns", "twice"},
		`{"hallig":1,"config":{"p2p":{"off":true,"off":false}}}`: {"config.p2p.off", "twice"},
		`{"hallig":"1"}`:                                         {"hallig", "Zahl"},
		`{"hallig":1.5}`:                                         {"hallig", "Zahl"},
		`{"hallig":2}`:                                           {"hallig", "muss 1 sein"},
		"{\"hallig\": 1,\n \"label\": \"Süd\", \"serial\": [{\"device\": \"/dev/a\", \"baud\": \"9600\"}]}": {"Zeile 2, Spalte 58:", "Line 2, column 58:", "serial[0].baud"},
		"{\"hallig\": 1,\n  \"serial\": [{\"rate\": 9600}]}":                                                {"Zeile 2, Spalte 15:", "serial[0].rate"},
		`{"hallig":1,"serial":[{"airtime_limit_long":"10"}]}`:                                               {"serial[0].airtime_limit_long", "with a point"},
		`{"hallig":1,"serial":[{"airtime_limit_long":1e999}]}`:                                              {"serial[0].airtime_limit_long", "with a point"},
		`{}`:                        {"hallig", "must be 1"},
		`{"hallig":1,"label":null}`: {"label", "null"},
		`{"hallig":1,"label":7}`:    {"label", "Anführungszeichen"},
		`{"hallig":1,"organisation":{"key":"hallig-update-1 x"}}`: {"organisation.key", "hallig policy key"},
		`{"hallig":1,"updates":{"window":"nachts"}}`:              {"updates.window", "02:00-05:00"}, `{"hallig":1,"updates":{"window":"02:00-25:00"}}`: {"updates.window", "02:00-05:00"},
		`{"hallig":1,"updates":{"window":"02:00-02:00"}}`:   {"updates.window", "02:00-05:00"},
		`{"hallig":1,"lock":{"code":"kurz"}}`:               {"lock.code", "16"},
		`{"hallig":1,"lock":{"code":"schlüsselschlüssel"}}`: {"lock.code", "A-Z"},
		`{"hallig":1,"serial":{}}`:                          {"serial", "Liste"},
		`{"hallig":1,"network":"auto"}`:                     {"network", "Block"},
		`{"hallig":1,"config":[]}`:                          {"config", "Block"},
		`{"hallig":1,"servername":"a"}`:                     {"servername", "server_name"},
		`{"hallig":1,"Server_Name":"a"}`:                    {"Server_Name", "server_name"},
		`{"hallig":1,"organization":{}}`:                    {"organisation"},
		`{"hallig":1,"network":{"wifi":{"pasphrase":"x"}}}`: {"network.wifi.pasphrase", `"passphrase"`},
		`{"hallig":1,"passwort":"x"}`:                       {"passwort", "admin_code, network"},
		`{"hallig":1,"config":{"listn":"x"}}`:               {"config.listn", "listen"},
		`{"hallig":1,"config":{"p2p":` + strings.Repeat("[", 40) + strings.Repeat("]", 40) + `}}`: {"verschachtelt"},
		`{"hallig":1,"label":"` + strings.Repeat("x", MaxBytes) + `"}`:                            {"64 KiB"},
	}
	for raw, words := range text {
		refused(t, []byte(raw), words...)
	}
	ca, leaf, key := certificate(t, true, false), certificate(t, false, false), certificate(t, true, true)
	for _, c := range []struct {
		field string
		edit  func(*File)
		words []string
	}{
		{"label", func(f *File) { f.Label = strings.Repeat("ä", 65) }, nil},
		{"label", func(f *File) { f.Label = "a\nb" }, nil},
		{"organisation.name", func(f *File) { f.Organisation.Name = strings.Repeat("x", 65) }, nil},
		{"server_name", func(f *File) { f.ServerName = "https://box7.example" }, []string{"https://"}},
		{"server_name", func(f *File) { f.ServerName = "Box7.example" }, []string{"box7.example"}},
		{"server_name", func(f *File) { f.ServerName = "box 7" }, nil},
		{"server_name", func(f *File) { f.ServerName = "süd.example" }, nil},
		{"server_name", func(f *File) { f.ServerName = "box..example" }, nil},
		{"server_name", func(f *File) { f.ServerName = "-box.example" }, nil},
		{"server_name", func(f *File) { f.ServerName = "box_7.example" }, nil},
		{"server_name", func(f *File) { f.ServerName = "192.168.7.1" }, []string{"IP"}},
		{"server_name", func(f *File) { f.ServerName = "[::1]:80" }, []string{"IP"}},
		{"server_name", func(f *File) { f.ServerName = strings.Repeat("a.", 120) + "example" }, nil},
		{"admin_code", func(f *File) { f.AdminCode = "kurz" }, nil},
		{"admin_code", func(f *File) { f.AdminCode = "mit leer zeichen" }, nil},
		{"admin_code", func(f *File) { f.AdminCode = strings.Repeat("x", 65) }, nil},
		{"organisation.ca", func(f *File) { f.Organisation.CA = "x" }, nil},
		{"organisation.ca", func(f *File) { f.Organisation.CA = leaf }, []string{"Musterhausen"}},
		{"organisation.ca", func(f *File) { f.Organisation.CA = key }, []string{"privaten Schlüssel"}},
		{"organisation.ca", func(f *File) { f.Organisation.CA = ca + "rest" }, nil},
		{"organisation.ca", func(f *File) { f.Organisation.CA = strings.Replace(ca, "MI", "MM", 1) }, nil},
		{"network.mode", func(f *File) { f.Network.Mode = "dhcp" }, nil},
		{"network.address", func(f *File) { f.Network.Address = "" }, []string{"static"}},
		{"network.address", func(f *File) { f.Network.Address = "192.168.7.1" }, []string{"/24"}},
		{"network.address", func(f *File) { f.Network.Address = "192.168.7.0/24" }, []string{"192.168.7.1/24"}},
		{"network.address", func(f *File) { f.Network.Address = "192.168.7.255/24" }, []string{"192.168.7.1/24"}},
		{"network.address", func(f *File) { f.Network.Address = "192.168.7.1/32" }, nil},
		{"network.address", func(f *File) { f.Network.Address = "127.0.0.1/8" }, nil},
		{"network.address", func(f *File) { f.Network.Address = "fd00::1/64" }, nil},
		{"network.gateway", func(f *File) { f.Network.Gateway = "192.168.8.1" }, nil},
		{"network.gateway", func(f *File) { f.Network.Gateway = "192.168.7.1" }, nil},
		{"network.gateway", func(f *File) { f.Network.Gateway = "router" }, nil},
		{"network.dns[1]", func(f *File) { f.Network.DNS[1] = "dns.example" }, nil},
		{"network.ntp[0]", func(f *File) { f.Network.NTP[0] = "ntp.example" }, []string{"clock_ntp"}},
		{"network.wifi.ssid", func(f *File) { f.Network.WiFi.SSID = "" }, nil},
		{"network.wifi.ssid", func(f *File) { f.Network.WiFi.SSID = strings.Repeat("ü", 17) }, nil},
		{"network.wifi.passphrase", func(f *File) { f.Network.WiFi.Passphrase = "" }, nil},
		{"network.wifi.passphrase", func(f *File) { f.Network.WiFi.Passphrase = "1234567" }, nil},
		{"network.wifi.passphrase", func(f *File) { f.Network.WiFi.Passphrase = "größer als acht" }, nil},
		{"network.wifi.passphrase", func(f *File) { f.Network.WiFi.Passphrase = strings.Repeat("z", 64) }, nil},
		{"network.wifi.country", func(f *File) { f.Network.WiFi.Country = "Deutschland" }, nil},
		{"network.wifi.country", func(f *File) { f.Network.WiFi.Country = "" }, nil},
		{"network.wifi.channel", func(f *File) { f.Network.WiFi.Channel = 14 }, nil},
		{"serial[0].device", func(f *File) { f.Serial[0].Device = "" }, nil},
		{"serial[0].device", func(f *File) { f.Serial[0].Device = "/dev/../etc/passwd" }, nil},
		{"serial[1].device", func(f *File) { f.Serial = append(f.Serial, f.Serial[0]) }, nil},
		{"serial[0].correction", func(f *File) { f.Serial[0].Correction = "maybe" }, nil},
		{"serial[0].correction", func(f *File) { f.Serial[0].Modem, f.Serial[0].HalfDuplex, f.Serial[0].Correction = "kiss", false, "on" }, nil},
		{"serial[0].band", func(f *File) { f.Serial[0].Band = "lpd" }, nil},
		{"serial[0].baud", func(f *File) { f.Serial[0].Baud = -1 }, nil},
		{"backup.recipients[0]", func(f *File) { f.Backup.Recipients[0] = strings.Replace(recipient, "gg7", "g7g", 1) }, nil},
		{"backup.recipients[0]", func(f *File) { f.Backup.Recipients[0] = identity }, nil},
		{"backup.recipients", func(f *File) { f.Backup.Recipients = nil }, nil},
		{"backup.to", func(f *File) { f.Backup.To = "usb" }, nil},
		{"backup.folder", func(f *File) { f.Backup.To = "stick" }, nil},
		{"backup.folder", func(f *File) { f.Backup.Folder = "nas" }, nil},
		{"backup.every", func(f *File) { f.Backup.Every = "daily" }, nil},
		{"backup.every", func(f *File) { f.Backup.Every = "1m" }, nil},
		{"backup.keep", func(f *File) { f.Backup.Keep = -1 }, nil},
		{"restore.identity", func(f *File) { f.Restore.Identity = recipient }, nil},
		{"restore.identity", func(f *File) { f.Restore.Identity = identity[:len(identity)-1] + "Q" }, nil},
		{"certificate.pem", func(f *File) { f.Certificate.PEM = leaf[:len(leaf)/2] }, nil},
		{"certificate.pem", func(f *File) {
			f.Certificate.PEM = leaf + f.Certificate.PEM[strings.Index(f.Certificate.PEM, "-----BEGIN PRIVATE"):]
		}, nil},
		{"certificate.acme.settings", func(f *File) { f.Certificate = Certificate{ACME: ACME{Provider: "rfc2136"}} }, nil},
		{"certificate.acme.settings.sever", func(f *File) {
			f.Certificate = Certificate{ACME: ACME{Provider: "rfc2136", Settings: map[string]string{"server": "a", "key": "b", "secret": "c", "sever": "d"}}}
		}, nil},
		{"certificate.acme.provider", func(f *File) { f.Certificate = Certificate{ACME: ACME{Provider: "route53"}} }, nil},
		{"certificate", func(f *File) { f.Certificate.ACME.Provider = "rfc2136" }, nil},
		{"certificate.acme.provider", func(f *File) { f.Certificate = Certificate{ACME: ACME{Email: "a@b"}} }, nil},
		{"certificate.acme.directory", func(f *File) {
			f.Certificate = Certificate{ACME: ACME{Provider: "rfc2136", Directory: "http://ca.example"}}
		}, nil},
		{"certificate.acme.ca", func(f *File) { f.Certificate = Certificate{ACME: ACME{Provider: "rfc2136", CA: leaf}} }, nil},
	} {
		f := full(t)
		c.edit(&f)
		raw, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		refused(t, raw, append(c.words, fmt.Sprintf("„%s“", c.field), fmt.Sprintf("%q", c.field))...)
		if _, err := f.Marshal(); err == nil {
			t.Errorf("%s: Marshal wrote what Parse refuses", c.field)
		}
	}
}

func FuzzParse(f *testing.F) {
	raw, err := full(f).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	for _, s := range []string{`{"hallig":1}`, `{`, `{"hallig":1,}`, "\xef\xbb\xbf{}", `{"hallig":1,"serial":[{"device":"/dev/a"}]}`, `{"a":„`, `{"hallig":1,"config":{"p2p":{"off":[1,{"x":null}]}}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := Parse(raw)
		if err != nil {
			var e Error
			if !errors.As(err, &e) || e.De == "" || e.En == "" {
				t.Fatalf("no sentence: %v", err)
			}
			return
		}
		out, err := got.Marshal()
		if err != nil {
			if len(raw) > MaxBytes/4 {
				return // indented it may be too long
			}
			t.Fatalf("taken, but not written again: %v", err)
		}
		if again, err := Parse(out); err != nil || again.ServerName != got.ServerName || len(again.Serial) != len(got.Serial) {
			t.Fatalf("written and read again: %+v, %v", again, err)
		}
	})
}

func TestUpdateWindow(t *testing.T) {
	at := func(hour, minute int) time.Time { return time.Date(2026, 11, 27, hour, minute, 30, 0, time.UTC) }
	for _, tt := range []struct {
		window string
		at     time.Time
		want   bool
	}{
		{"", at(12, 0), true}, {"02:00-05:00", at(1, 59), false}, {"02:00-05:00", at(2, 0), true}, {"02:00-05:00", at(4, 59), true}, {"02:00-05:00", at(5, 0), false},
		{"22:30-05:00", at(22, 29), false}, {"22:30-05:00", at(23, 0), true}, {"22:30-05:00", at(0, 0), true}, {"22:30-05:00", at(5, 0), false},
	} {
		if got := (Updates{Window: tt.window}).In(tt.at); got != tt.want {
			t.Errorf("%s at %s: %v", tt.window, tt.at.Format("15:04"), got)
		}
	}
}
