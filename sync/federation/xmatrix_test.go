// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
)

func testKey(seed byte) event.Key {
	return event.Key{ID: "ed25519:t" + string('a'+rune(seed)), Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat(string('a'+rune(seed)), 32)))}
}

func TestParseAuthorization(t *testing.T) {
	want := Authorization{Origin: "a.example:8448", Destination: "b.example", Key: "ed25519:k", Sig: "AAAA"}
	for name, header := range map[string]string{
		"quoted":            `X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k",sig="AAAA"`,
		"old, unquoted":     `X-Matrix origin=a.example:8448,destination=b.example,key="ed25519:k",sig=AAAA`,
		"spaces":            `X-Matrix  origin = "a.example:8448" , destination="b.example" ,key="ed25519:k", sig="AAAA"`,
		"case":              `x-matrix ORIGIN="a.example:8448",Destination="b.example",Key="ed25519:k",sig="AAAA"`,
		"escapes":           `X-Matrix origin="a.ex\ample:8448",destination="b.example",key="ed25519\:k",sig="AAAA"`,
		"unknown parameter": `X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k",sig="AAAA",more="x,y"`,
	} {
		got, err := ParseAuthorization(header)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
	}
	for name, header := range map[string]string{
		"empty": "", "scheme": `Bearer abc`, "no origin": `X-Matrix key="ed25519:k",sig="AAAA"`, "no end": `X-Matrix origin="a.example`,
		"no comma": `X-Matrix origin="a.example" key="ed25519:k",sig="AAAA"`, "twice": `X-Matrix origin="a.example",origin="b.example",key="ed25519:k",sig="A"`,
		"bad name": `X-Matrix origin="a b",key="ed25519:k",sig="AAAA"`, "algorithm": `X-Matrix origin="a.example",key="rsa:k",sig="AAAA"`,
		"no value": `X-Matrix origin`, "ends in escape": `X-Matrix origin="a\`, "too long": `X-Matrix origin="` + strings.Repeat("a", 5000),
	} {
		if got, err := ParseAuthorization(header); err == nil {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}

func TestSignedRequestsVerify(t *testing.T) {
	l := Local{Server: "a.example", Key: testKey(0)}
	pub := l.Key.Private.Public().(ed25519.PublicKey)
	body := []byte(`{"b":[1,2,{"x":"<&>\u00e4"}],"a":-5}`)
	a, err := SignRequest(l, "b.example", "PUT", "/_matrix/federation/v1/send/1?x=%2F", body)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseAuthorization(a.String())
	if err != nil || back != a {
		t.Fatalf("header does not survive: %+v, %v", back, err)
	}
	if err := VerifyRequest(a, "PUT", "/_matrix/federation/v1/send/1?x=%2F", []byte(`{ "a": -5, "b": [1,2,{"x":"<&>ä"}]}`), pub); err != nil {
		t.Errorf("other white space and order: %v", err)
	}
	for name, bad := range map[string]func() error{
		"method": func() error { return VerifyRequest(a, "POST", "/_matrix/federation/v1/send/1?x=%2F", body, pub) },
		"path":   func() error { return VerifyRequest(a, "PUT", "/_matrix/federation/v1/send/2?x=%2F", body, pub) },
		"body":   func() error { return VerifyRequest(a, "PUT", "/_matrix/federation/v1/send/1?x=%2F", []byte(`{}`), pub) },
		"none":   func() error { return VerifyRequest(a, "PUT", "/_matrix/federation/v1/send/1?x=%2F", nil, pub) },
		"destination": func() error {
			b := a
			b.Destination = "c.example"
			return VerifyRequest(b, "PUT", "/_matrix/federation/v1/send/1?x=%2F", body, pub)
		},
		"key": func() error {
			return VerifyRequest(a, "PUT", "/_matrix/federation/v1/send/1?x=%2F", body, testKey(1).Private.Public().(ed25519.PublicKey))
		},
	} {
		if bad() == nil {
			t.Errorf("changed %s: still good", name)
		}
	}
}

func FuzzAuthorization(f *testing.F) {
	f.Add(`X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:k",sig="AAAA"`)
	f.Add(`X-Matrix origin=a,key=ed25519:1,sig=x`)
	f.Add(`X-Matrix origin="a\"b",key="ed25519:1"`)
	f.Fuzz(func(t *testing.T, header string) {
		a, err := ParseAuthorization(header)
		if err != nil {
			return
		}
		if a.Origin == "" || a.Key == "" || a.Sig == "" || !event.ValidServerName(a.Origin) {
			t.Errorf("%q taken as %+v", header, a)
		}
		if strings.ContainsAny(a.Key+a.Sig, `"\`) {
			return // String does not escape: we never make such values
		}
		if back, err := ParseAuthorization(a.String()); err != nil || back != a {
			t.Errorf("%q: %+v does not survive: %+v, %v", header, a, back, err)
		}
	})
}

func FuzzTransaction(f *testing.F) {
	f.Add([]byte(`{"origin":"a","pdus":[{"room_id":"!a:b"}],"edus":[{"edu_type":"m.typing","content":{}}]}`))
	f.Add([]byte(`{"pdus":null}`))
	f.Add([]byte(`[]`))
	f.Add([]byte(`{"edus":[],"origin":"a","pdus":[{"content":{"a":[1,{}]},"room_id":"!a:b"},3]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		tr, err := parseTransaction(body)
		if c, ok := canonicalTransaction(body); ok { // the short way reads what the long way reads
			var long map[string]json.RawMessage
			var pdus []json.RawMessage
			if json.Unmarshal(body, &long) != nil || long["pdus"] != nil && json.Unmarshal(long["pdus"], &pdus) != nil || !slices.EqualFunc(c.PDUs, pdus, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
				t.Errorf("%q: PDUs %q, want %q", body, c.PDUs, pdus)
			}
		}
		if err != nil {
			return
		}
		if len(tr.PDUs) > MaxPDUs || len(tr.EDUs) > MaxEDUs {
			t.Errorf("%d PDUs and %d EDUs", len(tr.PDUs), len(tr.EDUs))
		}
		for _, raw := range tr.PDUs {
			for _, id := range event.Known() {
				v, _ := event.Lookup(id)
				if p, err := event.Parse(v, raw); err == nil {
					_ = p.SignedBy()
					_, _ = p.Redacted()
				}
			}
		}
	})
}
