// SPDX-License-Identifier: EUPL-1.2

package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Update writes records by dynamic update (RFC 2136), signed with a shared key (RFC 8945).
type Update struct {
	Server    string // HOST or HOST:PORT of the primary
	Key       string // name of the TSIG key
	Secret    string // base64
	Algorithm string // as dns.Hmac...; empty: HMAC-SHA256
	Zone      string // empty: found by its SOA record
	Record    string // the name that is written; empty: _acme-challenge.NAME, or where its CNAME leads

	now func() time.Time
}

// record is a name in a zone.
type record struct{ name, zone string }

const (
	proofTTL  = 60
	awaitStep = time.Second
	awaitAll  = 90 * time.Second // for secondaries to follow
)

func algorithm(s string) (string, error) {
	known := []string{dns.HmacSHA256, dns.HmacSHA512, dns.HmacSHA384, dns.HmacSHA224, dns.HmacSHA1}
	if a := dns.CanonicalName(s); slices.Contains(known, a) {
		return a, nil
	}
	return "", fmt.Errorf("%q is none of hmac-sha256, hmac-sha512, hmac-sha384, hmac-sha224, hmac-sha1", s)
}

func (u Update) server() string {
	if _, _, err := net.SplitHostPort(u.Server); err == nil {
		return u.Server
	}
	return net.JoinHostPort(strings.Trim(u.Server, "[]"), "53")
}

func (u Update) put(ctx context.Context, host, value string) (record, error) {
	r, err := u.find(ctx, host)
	if err != nil {
		return r, err
	}
	m := new(dns.Msg).SetUpdate(r.zone)
	m.Insert([]dns.RR{r.txt(value)})
	return r, u.send(ctx, m)
}

func (u Update) remove(ctx context.Context, r record, value string) error {
	m := new(dns.Msg).SetUpdate(r.zone)
	m.Remove([]dns.RR{r.txt(value)})
	return u.send(ctx, m)
}

func (r record) txt(value string) dns.RR {
	return &dns.TXT{Hdr: dns.RR_Header{Name: r.name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: proofTTL}, Txt: []string{value}}
}

// find says which name is to be written in which zone.
func (u Update) find(ctx context.Context, host string) (record, error) {
	r := record{name: dns.CanonicalName(u.Record), zone: dns.CanonicalName(u.Zone)}
	if u.Record == "" {
		r.name = dns.CanonicalName("_acme-challenge." + host)
		if answer, err := u.ask(ctx, u.server(), r.name, dns.TypeCNAME); err == nil {
			for _, rr := range answer.Answer {
				if c, ok := rr.(*dns.CNAME); ok {
					r.name = dns.CanonicalName(c.Target)
				}
			}
		}
	}
	if u.Zone != "" {
		if !dns.IsSubDomain(r.zone, r.name) {
			return r, fmt.Errorf("%s is not in the zone %s", r.name, r.zone)
		}
		return r, nil
	}
	for at, end := 0, false; !end; at, end = dns.NextLabel(r.name, at) {
		zone := r.name[at:]
		answer, err := u.ask(ctx, u.server(), zone, dns.TypeSOA)
		if err != nil {
			return r, err
		}
		for _, rr := range answer.Answer {
			if soa, ok := rr.(*dns.SOA); ok && dns.CanonicalName(soa.Hdr.Name) == zone {
				r.zone = zone
				return r, nil
			}
		}
	}
	return r, fmt.Errorf("the server knows no zone of %s; name it with the setting \"zone\"", r.name)
}

// send signs and sends an update.
func (u Update) send(ctx context.Context, m *dns.Msg) error {
	key := dns.CanonicalName(u.Key)
	alg := u.Algorithm
	if alg == "" {
		alg = dns.HmacSHA256
	}
	m.SetTsig(key, alg, 300, u.now().Unix())
	client := &dns.Client{Net: "tcp", Timeout: 20 * time.Second, TsigSecret: map[string]string{key: u.Secret}}
	answer, _, err := client.ExchangeContext(ctx, m, u.server())
	if answer != nil && answer.Rcode != dns.RcodeSuccess { // says more than that its signature is missing
		err = refusal(answer)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", m.Question[0].Name, err)
	}
	return nil
}

func refusal(answer *dns.Msg) error {
	if t := answer.IsTsig(); t != nil && t.Error != 0 {
		switch t.Error {
		case dns.RcodeBadKey:
			return errors.New("the server does not know the key (setting \"key\")")
		case dns.RcodeBadSig:
			return errors.New("the server has another secret for the key (setting \"secret\")")
		case dns.RcodeBadTime:
			return errors.New("the clocks of box and server are more than five minutes apart")
		}
	}
	return fmt.Errorf("the server answers %s", dns.RcodeToString[answer.Rcode])
}

func (u Update) ask(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	m := new(dns.Msg).SetQuestion(name, kind)
	client := &dns.Client{Net: "tcp", Timeout: 10 * time.Second}
	answer, _, err := client.ExchangeContext(ctx, m, server)
	if err != nil {
		return nil, fmt.Errorf("ask %s for %s: %w", server, name, err)
	}
	return answer, nil
}

// await gives the servers of the zone time to take the record over: the authority asks any of them. Who cannot be found or asked from here is not waited for.
func (u Update) await(ctx context.Context, r record, value string) {
	ctx, stop := context.WithTimeout(ctx, awaitAll)
	defer stop()
	servers := []string{u.server()}
	if answer, err := u.ask(ctx, u.server(), r.zone, dns.TypeNS); err == nil {
		for _, rr := range answer.Answer {
			if ns, ok := rr.(*dns.NS); ok {
				addrs, err := net.DefaultResolver.LookupHost(ctx, ns.Ns)
				if err != nil {
					continue // a closed network
				}
				for _, a := range addrs {
					servers = append(servers, net.JoinHostPort(a, "53"))
				}
			}
		}
	}
	for _, s := range servers {
		for u.lacks(ctx, s, r.name, value) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(awaitStep):
			}
		}
	}
}

// lacks says whether a server that answers does not have the record yet.
func (u Update) lacks(ctx context.Context, server, name, value string) bool {
	answer, err := u.ask(ctx, server, name, dns.TypeTXT)
	if err != nil {
		return false
	}
	for _, rr := range answer.Answer {
		if t, ok := rr.(*dns.TXT); ok && strings.Join(t.Txt, "") == value {
			return false
		}
	}
	return true
}
