// SPDX-License-Identifier: EUPL-1.2

package zone

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

var box = Zone{Names: []string{"hallig.local", "box1.feuerwehr.example"}, Self: netip.MustParseAddr("10.83.7.1")}

func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		data  string // of the answer; "": none
	}{
		{"hallig.local.", dns.TypeA, dns.RcodeSuccess, "10.83.7.1"},
		{"Box1.Feuerwehr.EXAMPLE.", dns.TypeA, dns.RcodeSuccess, "10.83.7.1"},
		{"box1.feuerwehr.example.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"box1.feuerwehr.example.", dns.TypeHTTPS, dns.RcodeSuccess, ""},
		{"feuerwehr.example.", dns.TypeA, dns.RcodeSuccess, ""},
		{"box2.feuerwehr.example.", dns.TypeA, dns.RcodeNameError, ""},
		{"captive.apple.com.", dns.TypeA, dns.RcodeSuccess, "10.83.7.1"},
		{"connectivitycheck.gstatic.com.", dns.TypeA, dns.RcodeSuccess, "10.83.7.1"},
		{"www.msftconnecttest.com.", dns.TypeA, dns.RcodeSuccess, "10.83.7.1"},
		{"detectportal.firefox.com.", dns.TypeA, dns.RcodeSuccess, "10.83.7.1"},
		{"detectportal.firefox.com.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"www.example.org.", dns.TypeA, dns.RcodeNameError, ""},
		{".", dns.TypeNS, dns.RcodeNameError, ""},
		{"1.7.83.10.in-addr.arpa.", dns.TypePTR, dns.RcodeSuccess, "hallig.local."},
		{"2.7.83.10.in-addr.arpa.", dns.TypePTR, dns.RcodeNameError, ""},
	} {
		q := new(dns.Msg)
		q.SetQuestion(c.name, c.qtype)
		m := box.Answer(q)
		data := ""
		if len(m.Answer) > 0 {
			switch rr := m.Answer[0].(type) {
			case *dns.A:
				data = rr.A.String()
			case *dns.PTR:
				data = rr.Ptr
			}
			if m.Answer[0].Header().Name != c.name {
				t.Errorf("%s: the answer is for %s", c.name, m.Answer[0].Header().Name)
			}
		}
		if m.Rcode != c.rcode || data != c.data || m.Id != q.Id || !m.Response {
			t.Errorf("%s %s: %d %q, want %d %q", c.name, dns.TypeToString[c.qtype], m.Rcode, data, c.rcode, c.data)
		}
	}
	for _, p := range portals {
		if p != strings.ToLower(p) || strings.HasSuffix(p, ".") {
			t.Errorf("portal %q is not in the form that is compared", p)
		}
	}
	if sorted := slices.Compact(slices.Sorted(slices.Values(portals))); len(sorted) != len(portals) {
		t.Error("a portal is listed twice")
	}
}

func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"hallig.local.", "captive.apple.com.", "www.example.org."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		q.SetEdns0(1232, true)
		b, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var q dns.Msg
		if q.Unpack(b) != nil {
			return
		}
		out, err := box.Answer(&q).Pack()
		if err == nil && len(out) > 1232 {
			t.Fatalf("an answer of %d bytes", len(out))
		}
	})
}
