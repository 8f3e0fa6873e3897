// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

// FuzzCanonical: what is canonical once stays so, means the same as before to an independent reader, and the fast and the slow way agree.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{`{"b": [1, -0, 1e3, {"a\u0041": "\ud83d\ude00\n"}], "a": null}`, `{}`, `[[[]]]`, `"\u001f\u007f"`, `{"a":1,"a":2}`, "\xff", `{"a\n":1,"a":true,"a\t":false}`, `1.5`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, numbers := range []int{exact, normalise, verbatim} {
			out, err := canonical(raw, numbers)
			slow, slowErr := rewrite(raw, numbers)
			if (err == nil) != (slowErr == nil) || err == nil && !bytes.Equal(out, slow) {
				t.Fatalf("fast %q %v, slow %q %v", out, err, slow, slowErr)
			}
			if err != nil {
				continue
			}
			again, err := canonical(out, numbers)
			if err != nil || !bytes.Equal(again, out) {
				t.Fatalf("%q becomes %q: %v", out, again, err)
			}
			var a, b any
			if err := json.Unmarshal(raw, &a); err != nil {
				var wide *json.UnmarshalTypeError // a number beyond float64
				if numbers != verbatim || !json.Valid(raw) {
					t.Fatalf("took %q, which is not JSON: %v %T", raw, err, wide)
				}
				continue
			}
			if err := json.Unmarshal(out, &b); err != nil || !reflect.DeepEqual(a, b) {
				t.Fatalf("%q means something else than %q: %v", out, raw, err)
			}
		}
	})
}

// FuzzParse: no input crashes; what is taken is stable, and its redaction keeps the id and is idempotent.
func FuzzParse(f *testing.F) {
	f.Add("12", message(f).JSON())
	f.Add("3", raw(f))
	f.Add("1", raw(f, `event_id="$x:y"`, `prev_events=[["$p",{}]]`, `auth_events=[]`))
	f.Add("11", raw(f, `type="m.room.member"`, `state_key="\u0000"`, `content={"third_party_invite":{"signed":{}},"membership":1}`))
	f.Add("11", raw(f, `type="m.room.redaction"`, `content={"redacts":"$\n"}`, `unsigned={}`))
	f.Add("12", raw(f, `type="m.room.create"`, `room_id=`))
	f.Fuzz(func(t *testing.T, id string, raw []byte) {
		v, ok := Lookup(id)
		if !ok {
			return
		}
		p, err := Parse(v, raw)
		if err != nil {
			return
		}
		q, err := Parse(v, p.JSON())
		if err != nil || !bytes.Equal(q.JSON(), p.JSON()) || q.ID != p.ID {
			t.Fatalf("%s is not stable: %v", p.JSON(), err)
		}
		s, err := ParseTrusted(v, p.ID, p.JSON())
		if err != nil {
			t.Fatal(err)
		}
		s.Unsigned, p.Unsigned = nil, nil
		s.hashed = p.hashed // which only Parse finds out
		if !reflect.DeepEqual(s, p) {
			t.Fatalf("from the store: %+v, before: %+v", s, p)
		}
		r, err := p.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		rr, err := r.Redacted()
		if err != nil || !bytes.Equal(r.JSON(), rr.JSON()) || r.ID != p.ID {
			t.Fatalf("redaction of %s: %s, then %s: %v", p.JSON(), r.JSON(), rr.JSON(), err)
		}
		if again, err := Parse(v, r.JSON()); err != nil || again.ID != p.ID {
			t.Fatalf("a redacted copy has another id: %v", err)
		}
		p.Signatures()
		p.SignedBy()
		p.Hash()
		if p.CheckHash() == nil && !bytes.Contains(raw, []byte("sha256")) {
			t.Fatal("hash out of nothing")
		}
	})
}

// randomJSON writes a random value in a random spelling, and canonically.
func randomJSON(r *rand.Rand, depth int) any {
	switch n := r.IntN(8); {
	case n == 0 && depth > 0, depth > 3:
		return r.Int64N(2*maxInteger) - maxInteger
	case n == 1:
		return r.IntN(2) == 0
	case n == 2:
		return nil
	case n < 5:
		s := make([]rune, r.IntN(6))
		for i := range s {
			s[i] = []rune{'a', 'Z', '"', '\\', '\n', 1, 0x1f, 0x7f, 'é', '€', 0xfffd, '😀', 0x2028, '/'}[r.IntN(14)]
		}
		return string(s)
	case n == 5:
		l := make([]any, r.IntN(4))
		for i := range l {
			l[i] = randomJSON(r, depth+1)
		}
		return l
	}
	m := map[string]any{}
	for range r.IntN(5) {
		k, _ := randomJSON(r, 9).(int64)
		m[string([]rune{rune('a' + k&3), rune(0x40 + k>>2&0xff)})] = randomJSON(r, depth+1)
	}
	return m
}

// TestCanonicalAgainstStandard compares with encoding/json, which sorts keys too but escapes more: its output must come out with the same meaning,
// and all spellings of one value must come out as the same bytes.
func TestCanonicalAgainstStandard(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		v := randomJSON(r, 0)
		plain, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, plain, " ", "\t"); err != nil {
			t.Fatal(err)
		}
		a, err := Canonical(plain)
		if err != nil {
			t.Fatalf("%s: %v", plain, err)
		}
		b, err := Canonical(pretty.Bytes())
		if err != nil || !bytes.Equal(a, b) {
			t.Fatalf("%s and %s: %v", a, b, err)
		}
		var back any
		d := json.NewDecoder(bytes.NewReader(a))
		d.UseNumber()
		if err := d.Decode(&back); err != nil {
			t.Fatal(err)
		}
		if again, _ := json.Marshal(back); !bytes.Equal(again, plain) {
			t.Fatalf("%s came back as %s", plain, again)
		}
	}
}

// FuzzServerName: what passes as a server's name can be dialled and can stand in a URL and a header without an escape.
func FuzzServerName(f *testing.F) {
	for _, s := range []string{"a.example", "a.example:8448", "[::1]:80", "192.0.2.1", "a:", "[::1%25eth0]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !ValidServerName(s) {
			return
		}
		u, err := url.Parse("https://" + s + "/")
		if err != nil || u.Host != s || u.Path != "/" || strings.ContainsAny(s, "\"\\ \t\r\n,;/@") {
			t.Fatalf("%q as a URL: %+v, %v", s, u, err)
		}
		if id, err := ParseUserID("@u:" + s); err == nil && id.Server() != s {
			t.Fatalf("user of %q lives at %q", s, id.Server())
		}
	})
}
