// SPDX-License-Identifier: EUPL-1.2

// Package zone is what DNS answers on a network where the box is host: its own names, and those names that phones and computers look up to find
// out whether a network leads somewhere. All of them lead to the box, so that the page with the way into it opens by itself. Every other name
// does not exist: the box routes nowhere, and an answer that nobody can reach would let each program on a phone wait until it gives up. Nothing
// is asked of others, nothing is kept. Answers are valid for seconds only, so that no phone carries them into another network.
package zone

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// Zone is what the box is on one network.
type Zone struct {
	Names []string // of the box, lower case, without a dot at the end
	Self  netip.Addr
}

const (
	ownTTL    = 60
	portalTTL = 5
	udpSize   = 1232
)

// portals are the names by which systems look for a captive portal. Names that people type (www.google.com, www.apple.com) are not among them,
// though some systems try them too: whoever types one shall hear that it does not exist, not see a certificate that is wrong.
var portals = []string{
	// Apple
	"captive.apple.com", "gsp1.apple.com", "www.appleiphonecell.com", "www.airport.us", "www.ibook.info", "www.itools.info",
	"www.thinkdifferent.us",
	// Android and Chrome, and makers of their own
	"connectivitycheck.gstatic.com", "connectivitycheck.android.com", "clients1.google.com", "clients3.google.com",
	"play.googleapis.com", "connect.rom.miui.com", "connectivitycheck.platform.hicloud.com",
	"connectivity.samsung.com.cn", "wifi.vivo.com.cn", "conn1.oppomobile.com", "conn2.oppomobile.com", "connectivitycheck.grapheneos.network",
	"captiveportal.kuketz.de", "204.ecloud.global", "fireoscaptiveportal.com", "spectrum.s3.amazonaws.com",
	// Windows
	"www.msftconnecttest.com", "www.msftncsi.com",
	// Firefox, desktops
	"detectportal.firefox.com", "nmcheck.gnome.org", "networkcheck.kde.org", "network-test.debian.org", "connectivity-check.ubuntu.com",
	"fedoraproject.org", "conncheck.opensuse.org", "ping.archlinux.org", "neverssl.com",
}

// Portal says whether systems look up a name to find a captive portal.
func Portal(name string) bool { return slices.Contains(portals, name) }

// Answer answers one question. Only the first one of a message counts, as everywhere.
func (z Zone) Answer(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	if q.Response || len(q.Question) != 1 {
		m.SetRcodeFormatError(q)
		return m
	}
	m.SetReply(q)
	m.RecursionAvailable = true
	if q.IsEdns0() != nil {
		m.SetEdns0(udpSize, false)
	}
	if q.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	ask := q.Question[0]
	if ask.Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeRefused
		return m
	}
	name := strings.TrimSuffix(strings.ToLower(ask.Name), ".")
	own := slices.Contains(z.Names, name)
	switch {
	case own || Portal(name):
		m.Authoritative = own
		if ask.Qtype == dns.TypeA || ask.Qtype == dns.TypeANY {
			seconds := uint32(portalTTL)
			if own {
				seconds = ownTTL
			}
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: ask.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: seconds}, A: z.Self.AsSlice()}}
		}
	case ask.Qtype == dns.TypePTR && name+"." == reverse(z.Self) && len(z.Names) > 0:
		m.Authoritative = true
		m.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: ask.Name, Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: ownTTL}, Ptr: z.Names[0] + "."}}
	case slices.ContainsFunc(z.Names, func(n string) bool { return strings.HasSuffix(n, "."+name) }): // it has no records, but is not nothing
	default:
		m.Rcode = dns.RcodeNameError // without SOA, so that nobody remembers it (RFC 2308 section 5)
	}
	return m
}

func reverse(a netip.Addr) string {
	r, err := dns.ReverseAddr(a.String())
	if err != nil {
		return ""
	}
	return r
}
