// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"hallig/appliance/clock"
	"hallig/appliance/steward"
)

func TestWords(t *testing.T) {
	de, en := view{Lang: "de"}, view{Lang: "en"}
	c := Clock{Source: "box b2.test", HeardAgo: "1m30s", Trusted: true}
	if got := de.ClockSource(c) + "|" + en.ClockSource(Clock{Source: "the operator", HeardAgo: "2s"}); got != "Box b2.test, vor einer Minute|the operator" {
		t.Errorf("sources: %s", got)
	}
	for q := range clock.Satellite + 1 {
		if got := de.ClockQuality(Clock{Quality: q.String()}); got == q.String() {
			t.Errorf("%q has no German words", got)
		}
	}
	if got := de.Join([]string{"box7.test", "hallig.local", "hallig-2.local", "hallig-mzwvei.local"}); got != "box7.test, hallig.local, hallig-mzwvei.local" {
		t.Errorf("names: %s", got)
	}
}

func TestClockForm(t *testing.T) {
	var set time.Time
	s := newSite(t, func(o *PageOptions) {
		o.SetClock = func(_ context.Context, at time.Time, sure bool) error {
			if at.Year() < 2026 {
				return &Refusal{Text: "that is before this program was made", DE: "Das ist zu früh."}
			}
			if at.Year() > 2026 && !sure {
				return &Refusal{Text: "Is that so?", DE: "Wirklich?", Ask: true}
			}
			set = at
			return nil
		}
	})
	csrf := s.signIn()
	s.post("/admin/clock", "csrf", csrf, "date", "2026-11-26", "time", "14:05", "zone", "+01:00")
	if want := time.Date(2026, 11, 26, 13, 5, 0, 0, time.UTC); !set.Equal(want) {
		t.Errorf("set to %v, want %v", set, want)
	}
	for _, date := range []string{"1970-01-01", "morgen"} {
		_, body, _ := s.post("/admin/clock", "csrf", csrf, "date", date, "time", "14:05", "zone", "+01:00")
		if !strings.Contains(body, `role="alert"`) {
			t.Errorf("%s was taken:\n%s", date, body)
		}
	}
	if _, body, _ := s.post("/admin/clock?lang=de", "csrf", csrf, "date", "1970-01-01", "time", "14:05", "zone", "+01:00"); !strings.Contains(body, "Das ist zu früh.") {
		t.Errorf("a German page refuses in another language:\n%s", body)
	}
	far := []string{"csrf", csrf, "date", "2062-11-26", "time", "14:05", "zone", "+01:00"}
	_, body, _ := s.post("/admin/clock?lang=de", far...)
	if set.Year() != 2026 || !strings.Contains(body, "Wirklich?") || !strings.Contains(body, `name="sure"`) || !strings.Contains(body, `value="2062-11-26"`) {
		t.Errorf("2062 was taken without a question, %v:\n%s", set, body)
	}
	checkPage(t, "the question", "de", body)
	if _, body, _ := s.post("/admin/clock?lang=de", append(far, "asked", "1")...); set.Year() != 2026 || !strings.Contains(body, "Häkchen") {
		t.Errorf("2062 was taken without a tick, %v:\n%s", set, body)
	}
	if s.post("/admin/clock", append(far, "asked", "1", "sure", "1")...); set.Year() != 2062 {
		t.Errorf("with a tick: %v", set)
	}
	for day, want := range map[string]bool{"2026-03-29T00:59:59Z": false, "2026-03-29T01:00:00Z": true, "2026-07-01T00:00:00Z": true, "2026-10-25T00:59:59Z": true, "2026-10-25T01:00:00Z": false, "2028-03-26T01:00:00Z": true} {
		at, err := time.Parse(time.RFC3339, day)
		if err != nil || centralEuropeanSummer(at) != want {
			t.Errorf("%s: summer %v, want %v", day, !want, want)
		}
	}
}

// TestAccessible: every page in both languages is whole, has one heading, a language, a viewport, and a label for each field; buttons have a text.
func TestAccessible(t *testing.T) {
	s := newSite(t, nil)
	csrf := s.signIn()
	s.post("/admin/users/token", "csrf", csrf, "uses", "20")
	tokens, err := s.Accounts.RegistrationTokens(t.Context())
	if err != nil || len(tokens) == 0 {
		t.Fatal(err)
	}
	paths := append(slices.Clone(adminPages), "/status", "/admin/login", "/source", "/admin/users/sheet?token="+tokens[0].Token)
	bodies := map[string]string{}
	paths = slices.DeleteFunc(paths, func(path string) bool { return path == "/admin/certificate/request" })
	for _, lang := range []string{"de", "en"} {
		for _, path := range paths {
			sep := "?"
			if strings.Contains(path, "?") {
				sep = "&"
			}
			_, body, _ := s.get(path + sep + "lang=" + lang)
			bodies[path+" "+lang] = body
			checkPage(t, path+" "+lang, lang, body)
		}
	}
	for _, state := range []string{steward.UpdateWriting, steward.UpdateTrial, steward.UpdateDone, steward.UpdateFailed, steward.UpdateNone} {
		s.init.mu.Lock()
		s.init.state.Update.State = state
		s.init.mu.Unlock()
		_, body, _ := s.get("/admin/update")
		checkPage(t, "update "+state, "en", body)
	}
	// A trial that a power cut ended can be started again, as its sentence says; a file that was refused cannot.
	for whole, want := range map[float64]bool{0: false, 1: true} {
		s.init.mu.Lock()
		s.init.state.Update.State, s.init.state.Update.Progress = steward.UpdateFailed, whole
		s.init.mu.Unlock()
		_, body, _ := s.get("/admin/update")
		checkPage(t, "update failed", "en", body)
		if got := strings.Contains(body, `value="start"`); got != want {
			t.Errorf("failed, progress %v: the page offers a trial: %v, want %v", whole, got, want)
		}
	}
	for _, path := range paths {
		if path != "/admin/log" && bodies[path+" de"] == bodies[path+" en"] {
			t.Errorf("%s is the same in both languages", path)
		}
	}
}

func checkPage(t *testing.T, name, lang, body string) {
	t.Helper()
	doc, err := html.Parse(strings.NewReader(body))
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if strings.Contains(body, "no value") || strings.Contains(body, "%!") || strings.Contains(body, "<script") || !strings.HasSuffix(body, "</html>\n") {
		t.Errorf("%s is broken:\n%s", name, body)
	}
	labels, fields, headings := map[string]bool{}, map[string]bool{}, 0
	for n := range doc.Descendants() {
		if n.Type != html.ElementNode {
			continue
		}
		a := map[string]string{}
		for _, at := range n.Attr {
			a[at.Key] = at.Val
		}
		switch n.Data {
		case "html":
			if a["lang"] != lang {
				t.Errorf("%s: lang %q", name, a["lang"])
			}
		case "h1":
			headings++
		case "label":
			labels[a["for"]] = true
		case "input", "select", "textarea":
			if a["type"] == "hidden" || n.Parent.Data == "label" {
				continue
			}
			fields[a["id"]] = true
		case "button":
			if n.FirstChild == nil && a["aria-label"] == "" {
				t.Errorf("%s: a button without a text", name)
			}
		case "form":
			if a["method"] == "post" && a["action"] != "/admin/login" && !strings.Contains(inner(n), `name="csrf"`) {
				t.Errorf("%s: a form without a token: %s", name, a["action"])
			}
		}
	}
	if headings != 1 {
		t.Errorf("%s: %d headings of the first rank", name, headings)
	}
	for id := range fields {
		if id == "" || !labels[id] {
			t.Errorf("%s: the field %q has no label", name, id)
		}
	}
}

func inner(n *html.Node) string {
	var b strings.Builder
	if err := html.Render(&b, n); err != nil {
		return err.Error()
	}
	return b.String()
}
