// SPDX-License-Identifier: EUPL-1.2

package page

import (
	"net/http/httptest"
	"testing"
	"time"
)

// A session ends by idling and by age, and there are not more than fit.
func TestSessionsEnd(t *testing.T) {
	var s Sessions
	now := time.Unix(0, 0)
	token := s.Begin("anna", now)
	for range 24 { // a click every 29 minutes
		now = now.Add(29 * time.Minute)
		if _, ok := s.Find(token, now); !ok {
			t.Fatalf("ended after %v", now.Sub(time.Unix(0, 0)))
		}
	}
	if _, ok := s.Find(token, now.Add(29*time.Minute)); ok {
		t.Error("a session lives longer than twelve hours")
	}
	token = s.Begin("anna", now)
	if _, ok := s.Find(token, now.Add(31*time.Minute)); ok {
		t.Error("an idle session lives")
	}
	first := s.Begin("anna", now)
	for i := range maxSessions {
		s.Begin("anna", now.Add(time.Duration(i+1)*time.Second))
	}
	if _, ok := s.Find(first, now); ok || len(s.open) != maxSessions {
		t.Errorf("%d sessions, the oldest lives: %v", len(s.open), ok)
	}
	other := s.Begin("carl", now)
	s.EndOf("anna")
	if got, ok := s.Find(other, now); !ok || got.User != "carl" || len(s.open) != 1 || !got.Signed(got.CSRF) || got.Signed("") || (Session{}).Signed("") {
		t.Errorf("%+v %v, %d are left", got, ok, len(s.open))
	}
}

func TestWish(t *testing.T) {
	for _, tt := range []struct{ query, cookie, header, want string }{
		{"", "", "", "de"}, {"", "", "fr, en-GB;q=0.8, de", "en"}, {"", "en", "de", "en"}, {"de", "en", "en", "de"}, {"xx", "yy", "DE", "de"},
	} {
		r := httptest.NewRequest("GET", "/?lang="+tt.query, nil)
		r.Header.Set("Cookie", cookie+"="+tt.cookie)
		r.Header.Set("Accept-Language", tt.header)
		if got := Wish(r); string(got) != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

func TestWords(t *testing.T) {
	de, en := Lang("de"), Lang("en")
	for n, want := range map[int64][2]string{0: {"0 Boxen", "0 boxes"}, 1: {"1 Box", "1 box"}, 9999: {"9999 Boxen", "9999 boxes"}, 10_000: {"10.000 Boxen", "10,000 boxes"}, 1_234_567: {"1.234.567 Boxen", "1,234,567 boxes"}} {
		if got := [2]string{de.Some(n, "Box", "Boxen", "box", "boxes"), en.Some(n, "Box", "Boxen", "box", "boxes")}; got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration][2]string{
		time.Second: {"eben", "just now"}, 90 * time.Second: {"vor einer Minute", "a minute ago"}, 5 * time.Minute: {"vor 5 Minuten", "5 minutes ago"},
		time.Hour: {"vor einer Stunde", "an hour ago"}, 47 * time.Hour: {"vor 47 Stunden", "47 hours ago"}, 50 * time.Hour: {"vor 2 Tagen", "2 days ago"},
	} {
		if got := [2]string{de.Since(d), en.Since(d)}; got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
	if got := de.Bytes(13.04e9) + en.Bytes(13.04e9) + de.Bytes(41e6) + de.Bytes(999); got != "13,0 GB13.0 GB41 MB999 B" {
		t.Errorf("sizes: %s", got)
	}
}
