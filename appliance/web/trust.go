// SPDX-License-Identifier: EUPL-1.2

package web

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	texttemplate "text/template"
	"time"
)

// Trust is what the page about trusting the box shows.
type Trust struct {
	CA      *x509.Certificate // of the box; devices are asked to trust it
	Outside bool              // the certificate shown now comes from outside
	Public  bool              // and everybody's devices know its issuer; otherwise only those of the organisation do
	Issuer  string            // of that
	Names   []string          // of the box that the certificate shown now holds for
	Expires time.Time         // of that
	Lapsed  time.Time         // the end of a certificate from outside that is over; zero: there is none
	Port    string            // of the TLS port; "" or "443": the usual one
}

// address is the best one over TLS for a device that trusts the box, or knows public authorities: the one by which the visitor came, where that certificate covers it,
// since it surely works. The certificate of an organisation leads to none: local names show the box's own all the time.
func (t *Trust) address(localName, baseURL, host string) string {
	name := host
	switch {
	case strings.HasPrefix(baseURL, "https://"):
		return baseURL
	case (t.Public || !t.Outside) && slices.Contains(t.Names, host):
	case t.Public && len(t.Names) > 0:
		name = t.Names[0]
	case localName != "":
		name = localName
	}
	return address(true, name, t.Port)
}

// trustView is the page about trusting the box.
type trustView struct {
	view
	Systems []system
	SHA256  []string // in lines that a phone shows whole
	SHA1Sum []string // which is what Windows shows

	AuthorityName string // as systems list it
	Limits        string // the names that it may speak for
	Until         string
}

// system is the way of one operating system.
type system struct {
	ID, Name string
	Open     bool // the visitor's own
	File     string
	FileText string
	Steps    []step
	Note     string
}

// step is one thing to do, with a drawing of what the system shows.
type step struct {
	Text    string
	Picture template.HTML
}

func (h *site) trust(w http.ResponseWriter, r *http.Request) {
	v := trustView{view: h.see(r)}
	if t := v.Trust; t != nil {
		s256, s1 := sha256.Sum256(t.CA.Raw), sha1.Sum(t.CA.Raw)
		v.SHA256 = []string{colons(s256[:8]), colons(s256[8:16]), colons(s256[16:24]), colons(s256[24:])}
		v.SHA1Sum = []string{colons(s1[:10]), colons(s1[10:])}
		v.AuthorityName = t.CA.Subject.CommonName
		v.Until = day(t.CA.NotAfter, v.German)
		v.Limits = strings.Join(t.CA.PermittedDNSDomains[:min(3, len(t.CA.PermittedDNSDomains))], ", ")
		v.Systems = systems(v.German, v.AuthorityName)
		if mine := guess(r.UserAgent()); mine != "" {
			for i := range v.Systems {
				v.Systems[i].Open = v.Systems[i].ID == mine
			}
		}
	}
	h.show(w, "trust", v.Lang, v)
}

// guess names the system of a browser; "" when it does not say. The steps of the others stay one tap away.
func guess(agent string) string {
	for _, g := range [][2]string{{"iPhone", "ios"}, {"iPad", "ios"}, {"Android", "android"}, {"Windows", "windows"}, {"Mac OS X", "macos"}, {"Linux", "linux"}} {
		if strings.Contains(agent, g[0]) {
			return g[1]
		}
	}
	return ""
}

func colons(sum []byte) string { return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":") }

// authority gives the certificate to download, or answers 404.
func (h *site) authority(w http.ResponseWriter, r *http.Request) *x509.Certificate {
	if h.Trust != nil {
		if t := h.Trust(); t != nil {
			return t.CA
		}
	}
	http.NotFound(w, r)
	return nil
}

func download(w http.ResponseWriter, typ, name string, body []byte) {
	head := w.Header()
	head.Set("Content-Type", typ)
	if name != "" {
		head.Set("Content-Disposition", `attachment; filename="`+name+`"`)
	}
	head.Set("Cache-Control", "no-cache")
	head.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // a browser that has gone asks again
}

func (h *site) der(w http.ResponseWriter, r *http.Request) {
	if c := h.authority(w, r); c != nil {
		download(w, "application/x-x509-ca-cert", "hallig.crt", c.Raw)
	}
}

func (h *site) pem(w http.ResponseWriter, r *http.Request) {
	if c := h.authority(w, r); c != nil {
		download(w, "application/x-pem-file", "hallig.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
}

//go:embed profile.xml
var profile string

// profile is Apple's configuration profile with the authority in it, unsigned. Its identifiers come from the certificate, so that it replaces itself
// and not that of another box.
func (h *site) profile(w http.ResponseWriter, r *http.Request) {
	c := h.authority(w, r)
	if c == nil {
		return
	}
	body, err := mobileconfig(c, h.ServerName, language(r).German)
	if err != nil {
		http.Error(w, "the profile cannot be made", http.StatusInternalServerError)
		return
	}
	// No "attachment": Safari offers to install what it shows.
	download(w, "application/x-apple-aspen-config", "", body)
}

func mobileconfig(c *x509.Certificate, server string, german bool) ([]byte, error) {
	var esc = func(s string) (string, error) {
		var b bytes.Buffer
		texttemplate.HTMLEscape(&b, []byte(s))
		return b.String(), nil
	}
	t, err := texttemplate.New("profile").Funcs(texttemplate.FuncMap{"xml": esc}).Parse(profile)
	if err != nil {
		return nil, fmt.Errorf("make profile: %w", err)
	}
	sum := sha256.Sum256(c.Raw)
	about := "Lets this device trust the Hallig box " + server + ", and nobody else."
	if german {
		about = "Damit vertraut dieses Gerät der Hallig-Box " + server + " und sonst niemandem."
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]string{
		"Name": c.Subject.CommonName, "About": about, "ID": fmt.Sprintf("hallig.box.%x", sum[:8]),
		"Outer": uuid(sum[:16]), "Inner": uuid(sum[16:]), "DER": base64.StdEncoding.EncodeToString(c.Raw),
	})
	if err != nil {
		return nil, fmt.Errorf("make profile: %w", err)
	}
	return b.Bytes(), nil
}

// uuid gives sixteen bytes the form of a version 8 UUID (RFC 9562, section 5.8: one's own making).
func uuid(b []byte) string {
	u := [16]byte(b)
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return strings.ToUpper(fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]))
}
