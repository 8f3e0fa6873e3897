// SPDX-License-Identifier: EUPL-1.2

// Package testacme gives tests a certificate authority that speaks ACME (Pebble of Let's Encrypt, a program nobody here wrote, built in the module tools/pebble) and
// the name server which that authority asks: authoritative for one zone, with updates by TSIG and nothing else.
package testacme

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"hallig/tools/testport"
)

const (
	KeyName = "box7-key."
	Secret  = "c2VjcmV0IG9mIGJveCA3IGZvciB0ZXN0cyBvbmx5ISE="
)

// Zone is a name server for feuerwehr.example that takes updates signed with the key, and nothing else.
type Zone struct {
	t    testing.TB
	Addr string

	mu    sync.Mutex
	txt   map[string][]string
	CNAME map[string]string
	Web   string // port of loopback where the authority looks for proofs by HTTP; "": nowhere
	Lag   int    // questions for TXT that are answered with nothing first: a secondary that follows late
}

// NewZone starts it on loopback.
func NewZone(t testing.TB) *Zone {
	t.Helper()
	z := &Zone{t: t, txt: map[string][]string{}, CNAME: map[string]string{}}
	z.Addr = FreeAddr(t) // for both
	l, err := net.Listen("tcp", z.Addr)
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", z.Addr)
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{KeyName: Secret}
	for _, s := range []*dns.Server{
		{Listener: l, Handler: z, TsigSecret: secrets, MsgAcceptFunc: acceptAll},
		{PacketConn: p, Handler: z, TsigSecret: secrets, MsgAcceptFunc: acceptAll},
	} {
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }() // the clean-up waits for it
		t.Cleanup(func() {
			_ = s.Shutdown() // it may have failed to start, which done tells
			if err := <-done; err != nil {
				t.Errorf("name server: %v", err)
			}
		})
	}
	return z
}

// acceptAll takes updates too, which the library refuses by itself.
func acceptAll(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }

func (z *Zone) ServeDNS(w dns.ResponseWriter, m *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	answer := new(dns.Msg).SetReply(m)
	answer.Authoritative = true
	name := dns.CanonicalName(m.Question[0].Name)
	if m.Opcode == dns.OpcodeUpdate {
		z.update(w, m, answer, name)
	} else {
		z.question(m.Question[0], name, answer)
	}
	if t := answer.IsTsig(); t != nil && t.Error != 0 { // WriteMsg would sign it
		raw, err := answer.Pack()
		if err == nil {
			_, err = w.Write(raw)
		}
		if err != nil {
			z.t.Errorf("answer: %v", err)
		}
		return
	}
	if err := w.WriteMsg(answer); err != nil {
		z.t.Errorf("answer: %v", err)
	}
}

func (z *Zone) update(w dns.ResponseWriter, m, answer *dns.Msg, name string) {
	sig := m.IsTsig()
	switch {
	case name != "feuerwehr.example.":
		answer.Rcode = dns.RcodeNotAuth
	case sig == nil:
		answer.Rcode = dns.RcodeRefused
	case w.TsigStatus() != nil: // RFC 8945, section 5.2: NOTAUTH, and in an unsigned TSIG record why
		answer.Rcode = dns.RcodeNotAuth
		why := uint16(dns.RcodeBadSig)
		if dns.CanonicalName(sig.Hdr.Name) != KeyName {
			why = dns.RcodeBadKey
		}
		answer.Extra = append(answer.Extra, &dns.TSIG{Hdr: dns.RR_Header{Name: sig.Hdr.Name, Rrtype: dns.TypeTSIG, Class: dns.ClassANY}, Algorithm: sig.Algorithm,
			Fudge: 300, OrigId: m.Id, Error: why})
	default:
		answer.SetTsig(sig.Hdr.Name, sig.Algorithm, 300, time.Now().Unix())
		for _, rr := range m.Ns {
			t, ok := rr.(*dns.TXT)
			if !ok {
				answer.Rcode = dns.RcodeRefused
				return
			}
			at := dns.CanonicalName(t.Hdr.Name)
			value := strings.Join(t.Txt, "")
			switch t.Hdr.Class {
			case dns.ClassINET:
				z.txt[at] = append(z.txt[at], value)
			case dns.ClassNONE:
				var kept []string
				for _, v := range z.txt[at] {
					if v != value {
						kept = append(kept, v)
					}
				}
				z.txt[at] = kept
			}
		}
	}
}

func (z *Zone) question(q dns.Question, name string, answer *dns.Msg) {
	head := func(kind uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: kind, Class: dns.ClassINET, Ttl: 1}
	}
	switch {
	case q.Qtype == dns.TypeSOA && name == "feuerwehr.example.":
		answer.Answer = append(answer.Answer, &dns.SOA{Hdr: head(dns.TypeSOA), Ns: "ns.feuerwehr.example.", Mbox: "root.feuerwehr.example.", Serial: 1})
	case q.Qtype == dns.TypeCNAME && z.CNAME[name] != "":
		answer.Answer = append(answer.Answer, &dns.CNAME{Hdr: head(dns.TypeCNAME), Target: z.CNAME[name]})
	case q.Qtype == dns.TypeA:
		answer.Answer = append(answer.Answer, &dns.A{Hdr: head(dns.TypeA), A: net.IPv4(127, 0, 0, 1)})
	case q.Qtype == dns.TypeTXT:
		if to := z.CNAME[name]; to != "" {
			answer.Answer = append(answer.Answer, &dns.CNAME{Hdr: head(dns.TypeCNAME), Target: to})
			q.Name, name = to, to
		}
		if z.Lag > 0 && len(z.txt[name]) > 0 {
			z.Lag--
			return
		}
		for _, v := range z.txt[name] {
			answer.Answer = append(answer.Answer, &dns.TXT{Hdr: head(dns.TypeTXT), Txt: []string{v}})
		}
	}
}

// Left counts the TXT records.
func (z *Zone) Left() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	n := 0
	for _, v := range z.txt {
		n += len(v)
	}
	return n
}

// EABKeyID and EABKey are the binding that an authority with binding wants.
const (
	EABKeyID = "kid-1"
	EABKey   = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
)

// Authority is a running one.
type Authority struct {
	Directory string // URL
	CA        string // PEM, to trust the directory by
}

// Start starts an authority that asks the zone; with binding it takes no account without one.
func Start(t testing.TB, z *Zone, binding bool) Authority {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	ca := servingPair(t, dir)
	addr, manage := FreeAddr(t), FreeAddr(t)
	web := 5002
	if z.Web != "" {
		if web, err = strconv.Atoi(z.Web); err != nil {
			t.Fatal(err)
		}
	}
	settings := map[string]any{
		"listenAddress": addr, "managementListenAddress": manage, "certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"),
		"httpPort": web, "tlsPort": 5001, "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "90 days", "validityPeriod": 7776000}},
	}
	if binding {
		settings["externalAccountBindingRequired"] = true
		settings["externalAccountMACKeys"] = map[string]string{EABKeyID: EABKey}
	}
	raw, err := json.Marshal(map[string]any{"pebble": settings})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pebble.json"), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-config", filepath.Join(dir, "pebble.json"), "-dnsserver", z.Addr, "-strict")
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_WFE_NONCEREJECT=5")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // killed
		if t.Failed() {
			t.Logf("authority: %s", log.String())
		}
	})
	a := Authority{Directory: "https://" + addr + "/dir", CA: ca}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca))
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}
	for range 200 {
		resp, err := client.Get(a.Directory)
		if err == nil {
			resp.Body.Close()
			return a
		}
		time.Sleep(50 * time.Millisecond) // another process is starting
	}
	t.Fatal("the authority does not answer")
	return a
}

// build gives the path of the program, after building it if need be.
func build() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		raw, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.HasPrefix(raw, []byte("module hallig\n")) {
			break
		}
		if filepath.Dir(dir) == dir {
			return "", fmt.Errorf("no module hallig above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	dir = filepath.Join(dir, "tools", "pebble")
	program := filepath.Join(dir, "out", "pebble")
	if _, err := os.Stat(program); err == nil {
		return program, nil
	}
	out, err := exec.Command("make", "-C", dir, "build").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build the authority (make -C tools/pebble build): %w\n%s", err, out)
	}
	return program, nil
}

// FreeAddr is an address on loopback where nobody listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	addr, err := testport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// servingPair writes the certificate of the authority's own port.
func servingPair(t testing.TB, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "pebble"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, raw := range map[string][]byte{"cert.pem": chain, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})} {
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return string(chain)
}
