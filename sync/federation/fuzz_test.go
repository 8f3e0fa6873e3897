// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"encoding/json"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Whatever strangers answer or write into rooms is read without harm. FuzzAuthorization, FuzzTransaction, FuzzKeyDocument and FuzzKeyQuery lie beside their parsers.

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"matrix.example:443"}`), "public, max-age=3600")
	f.Add([]byte(`{"m.server":"[::1]:8448"}`), "max-age=-1")
	f.Fuzz(func(t *testing.T, raw []byte, cache string) {
		if keep := wellKnownLife(cache); keep < wellKnownFailed || keep > wellKnownMax {
			t.Fatalf("%q is kept for %v", cache, keep)
		}
		name, err := readWellKnown(raw)
		if err != nil {
			return
		}
		host, port := "", ""
		if host, port, _ = splitName(name); host == "" || strings.ContainsAny(host+port, "/@?# ") {
			t.Fatalf("%q leads to %q %q", raw, host, port)
		}
	})
}

func FuzzMediaAnswer(f *testing.F) {
	f.Add("multipart/mixed; boundary=x", []byte("--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\nContent-Type: image/png\r\nContent-Disposition: attachment; filename=a.png\r\n\r\nPNG\r\n--x--\r\n"))
	f.Add("multipart/mixed", []byte("--\r\n\r\n--\r\n\r\n"))
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		part, err := FilePart(typ, bytes.NewReader(body))
		if err != nil {
			return
		}
		if n, _ := io.Copy(io.Discard, part); n > int64(len(body)) {
			t.Fatalf("%d bytes of a file out of %d", n, len(body))
		}
	})
}

func FuzzEventIDs(f *testing.F) {
	f.Add([]byte(`["$a","$b"]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		ids, err := eventIDs(raw)
		if err != nil {
			return
		}
		for _, id := range ids {
			if !strings.HasPrefix(string(id), "$") || len(id) > 255 {
				t.Fatalf("%q gives %q", raw, id)
			}
		}
	})
}

func FuzzACL(f *testing.F) {
	f.Add([]byte(`{"allow":["*"],"deny":["evil.example","*.evil.?xample"],"allow_ip_literals":false}`), "a.evil.example:8448")
	f.Fuzz(func(t *testing.T, raw []byte, server string) {
		parseACL(raw).allows(server)
	})
}

// FuzzGlob compares the matcher with a regular expression.
func FuzzGlob(f *testing.F) {
	f.Add("*.ev?l*.example", "a.evil.b.example")
	f.Fuzz(func(t *testing.T, glob, s string) {
		if len(glob) > 200 || len(s) > 1000 || strings.ContainsFunc(glob+s, func(r rune) bool { return r < ' ' || r > '~' }) {
			return
		}
		pattern := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(glob))
		want := regexp.MustCompile(`\A(?:` + pattern + `)\z`).MatchString(s)
		began := time.Now()
		if got := globMatch(glob, s); got != want {
			t.Fatalf("%q and %q: %v, want %v", glob, s, got, want)
		}
		if spent := time.Since(began); spent > 20*time.Second {
			t.Fatalf("%q and %q took %v", glob, s, spent)
		}
	})
}

func FuzzRefusal(f *testing.F) {
	f.Add(500, []byte(`{"errcode":"M_X","error":"no"}`))
	f.Fuzz(func(t *testing.T, status int, raw []byte) {
		r := refusal("a.example", status, raw)
		told, err := json.Marshal(toldAbout("it", r))
		if err != nil || len(told) == 0 || r.Error() == "" {
			t.Fatalf("%d %q: %v", status, raw, err)
		}
	})
}
