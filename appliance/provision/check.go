// SPDX-License-Identifier: EUPL-1.2

package provision

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hallig/appliance/event"
	"hallig/appliance/signet"
)

// ConfigFields are the names that "config" may hold: those of config.json. A test of the composition keeps the two lists equal.
var ConfigFields = []string{
	"server_name", "listen", "tls_listen", "public_url", "federation", "federation_host", "federation_tls", "open_registration", "organisation_key", "registration_shared_secret",
	"no_rate_limits", "presence", "appservice_files", "ca_file", "server_addresses", "private_addresses", "p2p", "hub", "serial", "clock", "clock_gps", "clock_ntp", "backup", "keep_for_boxes_bytes", "certificate", "room_version",
	"media_quota_bytes", "upload_limit_bytes", "metrics_token",
}

func wrong(field, de, en string) error {
	return Error{De: fmt.Sprintf("„%s“ %s.", field, de), En: fmt.Sprintf("%q %s.", field, en)}
}

// check refuses what cannot work, naming the field.
func (f *File) check() error {
	if f.Hallig != 1 {
		return wrong("hallig", "muss 1 sein: {\"hallig\": 1, ...}; so erkennt die Box ihre Datei", "must be 1: {\"hallig\": 1, ...}; this is how the box knows its file")
	}
	for _, c := range []func(*File) error{checkNames, checkNetwork, checkWiFi, checkSerial, checkBackup, checkCertificates, checkHub, checkLock} {
		if err := c(f); err != nil {
			return err
		}
	}
	return nil
}

// tokenGrammar is that of registration tokens: https://spec.matrix.org/v1.13/client-server-api/#token-authenticated-registration
var tokenGrammar = regexp.MustCompile(`^[A-Za-z0-9._~-]{8,64}$`)

func checkNames(f *File) error {
	for field, s := range map[string]string{"label": f.Label, "organisation.name": f.Organisation.Name} {
		if utf8.RuneCountInString(s) > 64 || strings.ContainsFunc(s, unicode.IsControl) {
			return wrong(field, "darf höchstens 64 Zeichen haben, alle in einer Zeile", "may have at most 64 characters, all in one line")
		}
	}
	if f.ServerName != "" {
		if err := checkServerName(f.ServerName); err != nil {
			return err
		}
	}
	if f.AdminCode != "" && !tokenGrammar.MatchString(f.AdminCode) {
		return wrong("admin_code", "muss 8 bis 64 Zeichen aus A-Z a-z 0-9 . _ ~ - haben, ohne Leerzeichen und Umlaute", "must have 8 to 64 characters of A-Z a-z 0-9 . _ ~ -, without blanks and umlauts")
	}
	return nil
}

// checkLock wants a code that nobody can try out: a thief has time.
func checkLock(f *File) error {
	n := 0
	for _, r := range f.Lock.Code {
		switch {
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			n++
		case r != ' ' && r != '-':
			return wrong("lock.code", "darf nur aus A-Z, 0-9, Leerzeichen und Bindestrichen bestehen, damit jede Tastatur ihn tippen kann", "may have A-Z, 0-9, blanks and hyphens only, so that any keyboard can type it")
		}
	}
	if f.Lock.Code != "" && (n < 16 || n > 128) {
		return wrong("lock.code", "braucht 16 bis 128 Buchstaben und Ziffern: wer die Box stiehlt, kann in Ruhe probieren", "needs 16 to 128 letters and digits: whoever steals the box can try at leisure")
	}
	return nil
}

func checkServerName(s string) error {
	const field = "server_name"
	host, _, _ := strings.Cut(s, ":")
	_, noAddress := netip.ParseAddr(strings.Trim(host, "[]"))
	switch {
	case strings.Contains(s, "://") || strings.Contains(s, "/"):
		return wrong(field, "ist ein Name, keine Adresse einer Seite: box7.feuerwehr.example, ohne https:// und ohne /", "is a name, not the address of a page: box7.feuerwehr.example, without https:// and without /")
	case strings.HasPrefix(s, "[") || noAddress == nil:
		return wrong(field, "muss ein Name sein, keine IP-Adresse: er ändert sich nie, Adressen schon", "must be a name, not an IP address: it never changes, addresses do")
	case s != strings.ToLower(s) && event.ValidServerName(s):
		return wrong(field, "muss klein geschrieben sein: "+strings.ToLower(s), "must be in lower case: "+strings.ToLower(s))
	}
	ok := event.ValidServerName(s) && len(s) <= 230 // a user id has at most 255 bytes
	for label := range strings.SplitSeq(host, ".") {
		ok = ok && label != "" && len(label) <= 63 && label[0] != '-' && label[len(label)-1] != '-'
	}
	if !ok {
		return wrong(field, "darf nur aus a-z, 0-9, Bindestrichen und Punkten bestehen, zum Beispiel box7.feuerwehr.example", "may have only a-z, 0-9, hyphens and dots, for example box7.feuerwehr.example")
	}
	return nil
}

func checkNetwork(f *File) error {
	n := f.Network
	if !slices.Contains([]string{"", "auto", "guest", "host", "static", "off"}, n.Mode) {
		return wrong("network.mode", "muss auto, guest, host, static oder off sein", "must be auto, guest, host, static or off")
	}
	var own netip.Prefix
	if n.Address != "" {
		var err error
		own, err = netip.ParsePrefix(n.Address)
		switch {
		case err != nil || !own.Addr().Is4():
			return wrong("network.address", "muss eine IPv4-Adresse mit Netzlänge sein, zum Beispiel 192.168.7.1/24", "must be an IPv4 address with the length of the network, for example 192.168.7.1/24")
		case own.Bits() < 8 || own.Bits() > 30:
			return wrong("network.address", "braucht eine Netzlänge von /8 bis /30, üblich ist /24", "needs a network length from /8 to /30, /24 is usual")
		case own.Addr() == own.Masked().Addr() || own.Addr() == last(own):
			return wrong("network.address", "ist die Adresse des ganzen Netzes; gemeint ist wohl "+own.Masked().Addr().Next().String()+fmt.Sprintf("/%d", own.Bits()),
				"is the address of the whole network; "+own.Masked().Addr().Next().String()+fmt.Sprintf("/%d", own.Bits())+" was probably meant")
		case own.Addr().IsLoopback() || own.Addr().IsMulticast() || own.Addr().IsUnspecified() || own.Addr().IsLinkLocalUnicast():
			return wrong("network.address", "kann keine Adresse einer Box sein; üblich ist 192.168.7.1/24", "cannot be the address of a box; 192.168.7.1/24 is usual")
		}
	}
	if n.Mode == "static" && n.Address == "" {
		return wrong("network.address", "fehlt; mit \"mode\": \"static\" braucht die Box ihre Adresse, zum Beispiel 192.168.7.1/24", "is missing; with \"mode\": \"static\" the box needs its address, for example 192.168.7.1/24")
	}
	if n.Gateway != "" {
		gw, err := netip.ParseAddr(n.Gateway)
		if err != nil || !gw.Is4() {
			return wrong("network.gateway", "muss eine IPv4-Adresse sein, zum Beispiel 192.168.7.254", "must be an IPv4 address, for example 192.168.7.254")
		}
		if !own.IsValid() || !own.Contains(gw) || gw == own.Addr() {
			return wrong("network.gateway", "muss im Netz von network.address liegen und darf nicht die Box selbst sein", "must lie in the network of network.address and may not be the box itself")
		}
	}
	for i, s := range n.DNS {
		if _, err := netip.ParseAddr(s); err != nil || i >= 8 {
			return wrong(fmt.Sprintf("network.dns[%d]", i), "muss eine IP-Adresse sein, und höchstens acht sind möglich", "must be an IP address, and at most eight are possible")
		}
	}
	for i, s := range n.NTP {
		if _, err := netip.ParseAddr(s); err != nil || i >= 8 {
			return wrong(fmt.Sprintf("network.ntp[%d]", i), "muss eine IP-Adresse sein, und höchstens acht sind möglich; Namen von Zeitservern gehören in config.clock_ntp", "must be an IP address, and at most eight are possible; names of time servers belong in config.clock_ntp")
		}
	}
	return nil
}

// last is the highest address of a network, its broadcast address.
func last(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.AddrFrom4(a)
}

var (
	hex64   = regexp.MustCompile(`^[0-9A-Fa-f]{64}$`)
	country = regexp.MustCompile(`^[A-Z]{2}$`)
	channel = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 36, 40, 44, 48, 52, 56, 60, 64, 100, 104, 108, 112, 116, 120, 124, 128, 132, 136, 140}
)

func checkWiFi(f *File) error {
	w := f.Network.WiFi
	if w == (WiFi{}) {
		return nil
	}
	if w.SSID == "" || len(w.SSID) > 32 || strings.ContainsFunc(w.SSID, unicode.IsControl) {
		return wrong("network.wifi.ssid", "muss 1 bis 32 Zeichen haben (ein Umlaut zählt doppelt)", "must have 1 to 32 characters (an umlaut counts twice)")
	}
	ascii := !strings.ContainsFunc(w.Passphrase, func(r rune) bool { return r < ' ' || r > '~' })
	if !hex64.MatchString(w.Passphrase) && (len(w.Passphrase) < 8 || len(w.Passphrase) > 63 || !ascii) {
		return wrong("network.wifi.passphrase", "muss 8 bis 63 Zeichen haben, ohne Umlaute", "must have 8 to 63 characters, without umlauts")
	}
	if w.Country != "" && !country.MatchString(w.Country) {
		return wrong("network.wifi.country", "muss aus zwei großen Buchstaben bestehen, für Deutschland DE", "must be two capital letters, for Germany DE")
	}
	if !slices.Contains(channel, w.Channel) {
		return wrong("network.wifi.channel", "muss ein Kanal von 1 bis 13 oder von 36 bis 140 sein", "must be a channel from 1 to 13 or from 36 to 140")
	}
	if w.Channel > 13 && w.Country == "" {
		return wrong("network.wifi.country", "fehlt; auf 5 GHz hängt vom Land ab, welche Kanäle erlaubt sind", "is missing; on 5 GHz the country decides which channels are allowed")
	}
	return nil
}

func checkBackup(f *File) error {
	if id := f.Restore.Identity; id != "" && !validAge(id, "AGE-SECRET-KEY-") {
		return wrong("restore.identity", "ist kein geheimer Schlüssel von age (AGE-SECRET-KEY-1 und 58 weitere Zeichen), oder es ist ein Zeichen falsch", "is no secret key of age (AGE-SECRET-KEY-1 and 58 more characters), or a character is wrong")
	}
	return f.Backup.Check()
}

// Check refuses what cannot work; the error is an Error that names the field as it is called in a file.
func (b Backup) Check() error {
	for i, r := range b.Recipients {
		if !validAge(r, "age") {
			return wrong(fmt.Sprintf("backup.recipients[%d]", i), "ist kein öffentlicher Schlüssel von age (age1 und 58 weitere Zeichen), oder es ist ein Zeichen falsch", "is no public key of age (age1 and 58 more characters), or a character is wrong")
		}
	}
	if !slices.Contains([]string{"", "stick", "folder", "peer"}, b.To) {
		return wrong("backup.to", "muss stick, folder oder peer sein", "must be stick, folder or peer")
	}
	if (b.To == "folder") != (b.Folder != "") || b.Folder != "" && (!path.IsAbs(b.Folder) || path.Clean(b.Folder) != b.Folder) {
		return wrong("backup.folder", "muss der ganze Pfad eines Ordners sein, und nur mit \"to\": \"folder\"", "must be the whole path of a folder, and only with \"to\": \"folder\"")
	}
	if b.To != "" && len(b.Recipients) == 0 {
		return wrong("backup.recipients", "fehlt; ohne Schlüssel könnte niemand das Backup öffnen (hallig backup key macht einen)", "is missing; without a key nobody could open the backup (hallig backup key makes one)")
	}
	if d, err := time.ParseDuration(b.Every); b.Every != "" && (err != nil || d < 15*time.Minute || d > 366*24*time.Hour) {
		return wrong("backup.every", "muss eine Dauer in Stunden sein, zum Beispiel 24h, mindestens 15m", "must be a duration in hours, for example 24h, at least 15m")
	}
	if b.Keep < 0 || b.Keep > 1000 {
		return wrong("backup.keep", "muss eine Zahl von 1 bis 1000 sein", "must be a number from 1 to 1000")
	}
	return nil
}

func checkCertificates(f *File) error {
	if f.Organisation.CA != "" {
		if err := checkAuthorities("organisation.ca", f.Organisation.CA); err != nil {
			return err
		}
	}
	if f.Updates != nil {
		if err := f.Updates.Check(); err != nil {
			return err
		}
	}
	if f.Organisation.Key != "" {
		if _, err := signet.Organisation.Parse(f.Organisation.Key); err != nil {
			return wrong("organisation.key", "muss die Zeile sein, die hallig policy key zeigt: hallig-organisation-1 …", "must be the line that hallig policy key shows: hallig-organisation-1 …")
		}
	}
	return f.Certificate.Check()
}

// Check refuses what cannot work; the error is an Error that names the field.
func (u Updates) Check() error {
	if from, to, ok := u.window(); u.Window != "" && (!ok || from == to) {
		return wrong("updates.window", "muss wie 02:00-05:00 aussehen", "must look like 02:00-05:00")
	}
	return nil
}

// acmeSettings are those of the provider "rfc2136", as package acme reads them, and whether they are needed.
var acmeSettings = map[string]bool{"server": true, "key": true, "secret": true, "algorithm": false, "zone": false, "record": false, "eab_kid": false, "eab_key": false}

// Wanted says whether a certificate is to be asked for.
func (a ACME) Wanted() bool {
	return a.Directory != "" || a.Email != "" || a.CA != "" || a.Provider != "" || len(a.Settings) > 0
}

// Check refuses what cannot work; the error is an Error that names the field as it is called in a file.
func (c Certificate) Check() error {
	a := c.ACME
	if a.Wanted() && c.PEM != "" {
		return wrong("certificate", "hat acme und pem; nur eines davon geht", "has acme and pem; only one of them works")
	}
	if c.PEM != "" {
		return checkPair(c.PEM)
	}
	if !a.Wanted() {
		return nil
	}
	if a.Provider == "" {
		return wrong("certificate.acme.provider", "fehlt; der Name wird über das DNS bewiesen, mit \"rfc2136\"", "is missing; the name is proven by DNS, with \"rfc2136\"")
	}
	if a.Provider != "rfc2136" {
		return wrong("certificate.acme.provider", "muss rfc2136 sein: ein DNS-Server, der signierte Änderungen annimmt", "must be rfc2136: a DNS server that takes signed updates")
	}
	if u, err := url.Parse(a.Directory); a.Directory != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return wrong("certificate.acme.directory", "muss mit https:// beginnen", "must begin with https://")
	}
	if a.Email != "" && !strings.Contains(a.Email, "@") {
		return wrong("certificate.acme.email", "muss eine E-Mail-Adresse sein", "must be an e-mail address")
	}
	if a.CA != "" {
		if err := checkAuthorities("certificate.acme.ca", a.CA); err != nil {
			return err
		}
	}
	for name, needed := range acmeSettings {
		if needed && a.Settings[name] == "" {
			return wrong("certificate.acme.settings", "braucht server (den DNS-Server), key (den Namen des TSIG-Schlüssels) und secret (ihn selbst)", "needs server (the DNS server), key (the name of the TSIG key) and secret (the key itself)")
		}
	}
	for name := range a.Settings {
		if _, known := acmeSettings[name]; !known {
			return wrong("certificate.acme.settings."+name, "ist keine Einstellung von rfc2136", "is no setting of rfc2136")
		}
	}
	return nil
}

// checkPair takes a chain with its key, or a chain alone whose key the box has made itself (hallig cert csr).
func checkPair(text string) error {
	if strings.Contains(text, "PRIVATE KEY-----") {
		if pair, err := tls.X509KeyPair([]byte(text), []byte(text)); err == nil && pair.Leaf != nil {
			return nil
		}
	} else if block, _ := pem.Decode([]byte(text)); block != nil && block.Type == "CERTIFICATE" {
		if _, err := x509.ParseCertificate(block.Bytes); err == nil {
			return nil
		}
	}
	return wrong("certificate.pem", "muss Zertifikat und Zwischenzertifikate als PEM enthalten, Zeilenenden als \\n, dazu den passenden privaten Schlüssel, wenn die Box ihn nicht selbst gemacht hat",
		"must hold certificate and intermediate certificates as PEM, line ends as \\n, and the matching private key unless the box has made it itself")
}

// checkAuthorities takes one or more PEM certificates that may sign others, and nothing else.
func checkAuthorities(field, text string) error {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return wrong(field, "enthält einen privaten Schlüssel; der gehört auf keine Box, nur das Zertifikat", "holds a private key; that belongs on no box, only the certificate does")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return wrong(field, "enthält ein beschädigtes Zertifikat; es als PEM (Base64) neu ausgeben", "holds a damaged certificate; write it anew as PEM (Base64)")
		}
		if !cert.IsCA {
			return wrong(field, "enthält ein Zertifikat, das keine anderen ausstellen darf ("+cert.Subject.CommonName+"); gebraucht wird das der Zertifizierungsstelle", "holds a certificate that may not issue others ("+cert.Subject.CommonName+"); that of the authority is needed")
		}
		n++
	}
	if n == 0 || len(bytes.TrimSpace(rest)) > 0 {
		return wrong(field, "muss ein Zertifikat als PEM sein (-----BEGIN CERTIFICATE-----), Zeilenenden als \\n geschrieben", "must be a certificate as PEM (-----BEGIN CERTIFICATE-----), line ends written as \\n")
	}
	return nil
}

// validAge checks a key of age: Bech32 with the prefix hrp and 32 bytes (BIP 173). So a mistyped letter is found at the desk.
func validAge(s, hrp string) bool {
	lower := strings.ToLower(s)
	if s != lower && s != strings.ToUpper(s) || (hrp == strings.ToLower(hrp)) != (s == lower) {
		return false
	}
	data, ok := strings.CutPrefix(lower, strings.ToLower(hrp)+"1")
	if !ok || len(data) != 52+6 {
		return false
	}
	sum := uint32(1)
	step := func(v byte) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	prefix := strings.ToLower(hrp)
	for i := range len(prefix) {
		step(prefix[i] >> 5)
	}
	step(0)
	for i := range len(prefix) {
		step(prefix[i] & 31)
	}
	for i := range len(data) {
		v := strings.IndexByte("qpzry9x8gf2tvdw0s3jn54khce6mua7l", data[i])
		if v < 0 {
			return false
		}
		step(byte(v))
	}
	return sum == 1
}
