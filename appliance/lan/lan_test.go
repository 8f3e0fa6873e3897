// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"encoding/json"
	"strings"
	"testing"

	"hallig/appliance/provision"
)

func TestParseConfig(t *testing.T) {
	for _, c := range []struct{ text, wrong string }{
		{`{}`, ""},
		{`{"mode":"auto","wifi":{"ssid":"Wache","passphrase":"geheim12","country":"DE","channel":6}}`, ""},
		{`{"mode":"static","address":"192.168.7.2/24","gateway":"192.168.7.1","dns":["192.168.7.1"],"ntp":[]}`, ""},
		{`{"mode":"host","address":"192.168.7.1/24"}`, ""},
		{`{"mode":"host"}`, ""},
		{`{"mode":"auto","address":"192.168.7.1/24"}`, ""},
		{`{"mode":"static","address":"192.168.7.2/24","ntp":["ptbtime1.ptb.de","192.168.7.1"]}`, ""},
		{``, "EOF"},
		{`{"mode":"router"}`, "not known"},
		{`{"mod":"auto"}`, "unknown field"},
		{`{"mode":"static"}`, "needs an address"},
		{`{"mode":"static","address":"192.168.7.2"}`, "want an IPv4"},
		{`{"mode":"static","address":"192.168.7.0/24"}`, "cannot be"},
		{`{"mode":"static","address":"192.168.7.255/24"}`, "cannot be"},
		{`{"mode":"static","address":"224.0.0.1/24"}`, "cannot be"},
		{`{"mode":"host","address":"10.0.0.1/7"}`, "cannot be"},
		{`{"mode":"static","address":"192.168.7.2/24","gateway":"192.168.8.1"}`, "gateway"},
		{`{"mode":"static","address":"192.168.7.2/24","dns":["ns.example"]}`, "dns"},
		{`{"mode":"auto"} {}`, "after the settings"},
	} {
		_, err := ParseConfig([]byte(c.text))
		switch {
		case c.wrong == "" && err != nil:
			t.Errorf("%s: %v", c.text, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: error %v, want one with %q", c.text, err, c.wrong)
		}
	}
}

// TestProvisioned: what the provisioning file may say of the network is understood here.
func TestProvisioned(t *testing.T) {
	for _, text := range []string{
		`{}`, `{"mode":"auto"}`, `{"mode":"guest","address":"192.168.7.1/24","gateway":"192.168.7.254"}`, `{"mode":"host","address":"10.1.2.3/8"}`,
		`{"address":"192.168.7.1/30"}`, `{"mode":"off"}`,
		`{"mode":"static","address":"192.168.7.1/24","gateway":"192.168.7.254","dns":["192.168.7.254","2001:db8::1"],"ntp":["192.168.7.254","2001:db8::2"]}`,
		`{"wifi":{"ssid":"Wache","passphrase":"geheim1234","country":"DE","channel":6}}`,
	} {
		f, err := provision.Parse([]byte(`{"hallig":1,"network":` + text + `}`))
		if err != nil {
			t.Errorf("%s: provision: %v", text, err)
			continue
		}
		raw, err := json.Marshal(f.Network)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := ParseConfig(raw); err != nil || string(c.Mode) != f.Network.Mode || c.Address != f.Network.Address || c.WiFi.SSID != f.Network.WiFi.SSID {
			t.Errorf("%s: %+v, %v", raw, c, err)
		}
	}
}

func TestParseNames(t *testing.T) {
	n, err := ParseNames([]byte(`{"names":["Hallig.local.","box1.feuerwehr.example"],"portal":"https://box1.feuerwehr.example/portal"}`))
	if err != nil || n.Names[0] != "hallig.local" || n.Names[1] != "box1.feuerwehr.example" {
		t.Errorf("names %v, %v", n, err)
	}
	for _, bad := range []string{``, `{"names":["hallig"]}`, `{"names":["-a.local"]}`, `{"names":["a..local"]}`, `{"names":["a b.local"]}`,
		`{"names":["a.local"],"portal":"http://x.example"}`, `{"names":["` + strings.Repeat("a", 64) + `.local"]}`} {
		if _, err := ParseNames([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"mode":"static","address":"192.168.7.2/24","gateway":"192.168.7.1","dns":["192.168.7.1"]}`))
	f.Add([]byte(`{"mode":"host","address":"192.168.7.1/24"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig(data)
		if err != nil {
			return
		}
		p, err := c.plan()
		if err != nil {
			t.Fatalf("taken, but %v", err)
		}
		if p.addr.IsValid() && (!usable(p.addr) || p.gateway.IsValid() && !p.addr.Contains(p.gateway)) {
			t.Fatalf("taken: %+v", p)
		}
	})
}

func FuzzParseNames(f *testing.F) {
	f.Add([]byte(`{"names":["hallig.local","box1.feuerwehr.example"],"portal":"https://x.example"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ParseNames(data)
		for _, name := range n.Names {
			if err == nil && (len(name) > 253 || strings.Contains(name, "..") || strings.ToLower(name) != name) {
				t.Fatalf("taken: %q", name)
			}
		}
	})
}
