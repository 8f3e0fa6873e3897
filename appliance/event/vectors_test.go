// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

// The test values of https://spec.matrix.org/v1.16/appendices/.

func specKey(t testing.TB) Key {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed)}
}

func TestCanonical(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n  \"one\": 1,\n  \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{`{"b": "2", "a": "1"}`, `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{`{"auth":{"success":true,"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"medium":"email","address":"john.doe@example.org"},{"medium":"msisdn","address":"123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2, "日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
		{`{"a": -0, "b": 1e10}`, `{"a":0,"b":10000000000}`},
		// Beyond the specification's list.
		{`{"a":"\u0000\u0008\u0009\u000A\u000b\u000C\u000D\u001F\u007f\/\"\\"}`, "{\"a\":\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f\x7f/\\\"\\\\\"}"},
		{`{"\u0062":1,"a\n":2,"a":3}`, `{"a":3,"a\n":2,"b":1}`},
		{"{\"\\n\":1,\"\\u000b\":2,\"\\t\":3}", `{"\t":3,"\n":1,"\u000b":2}`},
		{`["\ud83d\ude00",  {"é":1,"z":2, "\ufb33":3, "😀":4, "\u20ac":5}]`, `["😀",{"z":2,"é":1,"€":5,"` + "\ufb33" + `":3,"😀":4}]`},
		{`{"a":9007199254740991,"b":-9007199254740991}`, `{"a":9007199254740991,"b":-9007199254740991}`},
		{` [ ] `, `[]`}, {` "x" `, `"x"`}, {`true `, `true`}, {`{"A":1,"a":2}`, `{"A":1,"a":2}`},
	} {
		got, err := Canonical([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("Canonical(%s) = %s, %v; want %s", c.in, got, err, c.want)
		}
		again, err := Canonical(got)
		if err != nil || &again[0] != &got[0] {
			t.Errorf("Canonical(%s) did not see that it is canonical: %s, %v", got, again, err)
		}
	}
}

func TestCanonicalRefuses(t *testing.T) {
	for _, in := range []string{
		``, ` `, `{`, `}`, `{"a"}`, `{"a":}`, `{"a":1,}`, `[1,]`, `[1 2]`, `{"a":1 "b":2}`, `{a:1}`, `{"a":1}x`, `nul`, `nulll`, `tru`, `"`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`,
		"\"\n\"", "\"\x00\"", "\"\xff\"", "\"\xc3\"", "\"\xed\xa0\x80\"", `"\ud800"`, `"\udc00\ud800"`, `"\ud83dx"`,
		`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"x":{"b":1,"a":2,"b":3}}`,
		`1.0`, `1.5`, `0.0`, `1e-1`, `9007199254740992`, `-9007199254740992`, `1e400`, `99999999999999999999`, `01`, `-01`, `+1`, `-`, `.5`, `1.`, `1e`, `NaN`, `Infinity`,
		strings.Repeat("[", 20000), strings.Repeat("[", 20000) + strings.Repeat("]", 20000), strings.Repeat(`{"a":`, 2000),
	} {
		if got, err := Canonical([]byte(in)); err == nil {
			t.Errorf("Canonical(%.40q) = %.40q, want an error", in, got)
		}
	}
}

func TestNumbersOfOlderVersions(t *testing.T) {
	in := `{"f":1.50,"e":1E5,"g":0.0,"z":-0,"big":123456789012345678901234567890}`
	want := `{"big":123456789012345678901234567890,"e":1E5,"f":1.50,"g":0.0,"z":-0}`
	if got, err := CanonicalLoose([]byte(in)); err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	v5, _ := Lookup("5")
	v6, _ := Lookup("6")
	for _, lit := range []string{"1.0", "1e5", "-0", "9007199254740992"} {
		if _, err := v5.Canonical([]byte(lit)); err != nil {
			t.Errorf("version 5 refuses %s: %v", lit, err)
		}
		if got, err := v6.Canonical([]byte(lit)); err == nil {
			t.Errorf("version 6 takes %s as %s", lit, got)
		}
	}
}

func TestSignJSON(t *testing.T) {
	k := specKey(t)
	pub := k.Private.Public().(ed25519.PublicKey)
	for _, c := range []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	} {
		got, err := SignJSON([]byte(c.in), "domain", k)
		if err != nil || string(got) != c.want {
			t.Fatalf("SignJSON(%s) = %s, %v; want %s", c.in, got, err, c.want)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", pub); err != nil {
			t.Error(err)
		}
		twice, err := SignJSON([]byte(strings.Replace(string(got), "{", `{"unsigned":{"age":1.5},`, 1)), "other", k)
		if err != nil {
			t.Fatal(err)
		}
		for _, server := range []string{"domain", "other"} {
			if err := VerifyJSON(twice, server, "ed25519:1", pub); err != nil {
				t.Errorf("after the second signature: %v", err)
			}
		}
		for _, bad := range []struct{ obj, server, key string }{
			{strings.Replace(string(got), "{", `{"x":1,`, 1), "domain", "ed25519:1"}, {string(got), "domain", "ed25519:2"}, {string(got), "Domain", "ed25519:1"}, {`{}`, "domain", "ed25519:1"},
			{`[]`, "domain", "ed25519:1"}, {`{"signatures":{"domain":{"ed25519:1":"!"}}}`, "domain", "ed25519:1"}, {`{"signatures":{"domain":1}}`, "domain", "ed25519:1"},
		} {
			if VerifyJSON([]byte(bad.obj), bad.server, bad.key, pub) == nil {
				t.Errorf("VerifyJSON took %+v", bad)
			}
		}
	}
}

// specEvents are the two signed events of the appendix. The first fits version 3, the second is from before.
func TestSpecSignedEvent(t *testing.T) {
	k := specKey(t)
	pub := k.Private.Public().(ed25519.PublicKey)
	v3, _ := Lookup("3")
	p, err := Build(v3, Proto{RoomID: "!x:domain", Sender: "@a:domain", Origin: "domain", TS: 1000000, Type: "X", Depth: 3}, "domain", k)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"auth_events":[],"content":{},"depth":3,"hashes":{"sha256":"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos"},"origin":"domain","origin_server_ts":1000000,"prev_events":[],"room_id":"!x:domain","sender":"@a:domain","signatures":{"domain":{"ed25519:1":"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"}},"type":"X"}`
	if string(p.JSON()) != want {
		t.Errorf("got  %s\nwant %s", p.JSON(), want)
	}
	if err := p.CheckHash(); err != nil {
		t.Error(err)
	}
	if err := p.VerifySignature("domain", "ed25519:1", pub); err != nil {
		t.Error(err)
	}

	// The second lacks fields that an event must have, so only its hash and signature are computed.
	v1, _ := Lookup("1")
	in := []byte(`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,"room_id":"!r:domain","sender":"@u:domain","type":"m.room.message"}`)
	m, ok := membersOf(in, exact, nil)
	if !ok {
		t.Fatal("test event is not canonical")
	}
	h := contentHash(&m)
	if got := base64.RawStdEncoding.EncodeToString(h[:]); got != "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g" {
		t.Errorf("content hash is %s", got)
	}
	m, _ = membersOf(with(&m, "hashes", []byte(`{"sha256":"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g"}`)), exact, nil)
	sig := ed25519.Sign(k.Private, redact(v1, &m, []byte("m.room.message"), false))
	if got := base64.RawStdEncoding.EncodeToString(sig); got != "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA" {
		t.Errorf("signature is %s", got)
	}
	if _, err := Parse(v1, in); err == nil || errors.Is(err, ErrTooLarge) {
		t.Errorf("Parse took an event without depth: %v", err)
	}
}
