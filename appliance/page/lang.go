// SPDX-License-Identifier: EUPL-1.2

package page

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hallig/appliance/health"
)

// Lang is the language of a page: "de", or English for everything else. Its methods are what templates say in it.
type Lang string

const cookie = "hallig_lang"

// Wish takes ?lang=, then the choice that the browser remembers, then its languages; German otherwise.
func Wish(r *http.Request) Lang {
	wish := []string{r.URL.Query().Get("lang")}
	if c, err := r.Cookie(cookie); err == nil {
		wish = append(wish, c.Value)
	}
	for _, part := range append(wish, strings.Split(r.Header.Get("Accept-Language"), ",")...) {
		tag, _, _ := strings.Cut(strings.TrimSpace(part), ";")
		tag, _, _ = strings.Cut(strings.ToLower(tag), "-")
		if tag == "de" || tag == "en" {
			return Lang(tag)
		}
	}
	return "de"
}

// Remember has the browser keep the language that ?lang= names.
func Remember(w http.ResponseWriter, r *http.Request) {
	if wish := r.URL.Query().Get("lang"); wish == "de" || wish == "en" {
		http.SetCookie(w, &http.Cookie{Name: cookie, Value: wish, Path: "/", MaxAge: 365 * 24 * 3600, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	}
}

// Other is the query that leads to the same page in the other language.
func (l Lang) Other(r *http.Request) string {
	query := r.URL.Query()
	query.Set("lang", l.T("en", "de"))
	return "?" + query.Encode()
}

// T takes the text in the page's language.
func (l Lang) T(de, en string) string {
	if l == "de" {
		return de
	}
	return en
}

// S takes a sentence in it.
func (l Lang) S(s health.Sentence) string { return l.T(s.DE, s.EN) }

// LampText names a state for those who do not see the colour.
func (l Lang) LampText(s health.State) string {
	switch s {
	case health.OK:
		return l.T("in Ordnung", "fine")
	case health.Look:
		return l.T("bitte ansehen", "please look")
	}
	return l.T("Störung", "trouble")
}

// Lamp is a sign that can be told apart without colours.
func (Lang) Lamp(s health.State) string {
	switch s {
	case health.OK:
		return "✓"
	case health.Look:
		return "!"
	}
	return "✕"
}

// Time shows a moment in the zone of the system; images are made for Central Europe.
func (l Lang) Time(t time.Time) string {
	if t.IsZero() {
		return l.T("noch nie", "never")
	}
	return t.Local().Format(l.T("02.01.2006 15:04 MST", "2006-01-02 15:04 MST"))
}

// N shows a number, in groups of three digits from 10,000 on.
func (l Lang) N(n int64) string {
	digits := strconv.FormatInt(n, 10)
	if n < 10_000 {
		return digits
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + l.T(".", ",") + digits[i:]
	}
	return digits
}

// Some shows a number of things, with the word for one or for several.
func (l Lang) Some(n int64, one, several, oneEN, severalEN string) string {
	if n == 1 {
		return "1 " + l.T(one, oneEN)
	}
	return l.N(n) + " " + l.T(several, severalEN)
}

// Bytes shows a size.
func (l Lang) Bytes(n int64) string {
	switch {
	case n >= 1e9:
		return strings.Replace(fmt.Sprintf("%.1f GB", float64(n)/1e9), ".", l.T(",", "."), 1)
	case n >= 1e6:
		return fmt.Sprintf("%.0f MB", float64(n)/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.0f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%d B", n)
}

// Since says how long ago something was.
func (l Lang) Since(d time.Duration) string {
	count := func(n int, one, many, oneEN, manyEN string) string {
		if n == 1 {
			return l.T("vor "+one, oneEN+" ago")
		}
		return l.T(fmt.Sprintf("vor %d %s", n, many), fmt.Sprintf("%d %s ago", n, manyEN))
	}
	switch {
	case d < time.Minute:
		return l.T("eben", "just now")
	case d < time.Hour:
		return count(int(d.Minutes()), "einer Minute", "Minuten", "a minute", "minutes")
	case d < 48*time.Hour:
		return count(int(d.Hours()), "einer Stunde", "Stunden", "an hour", "hours")
	}
	return count(int(d.Hours()/24), "einem Tag", "Tagen", "a day", "days")
}
