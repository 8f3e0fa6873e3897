// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/clock"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// dated says something and gives the time that the box wrote on it.
func (p *phone) dated(room string) time.Time {
	p.t.Helper()
	e, err := p.Event(p.t.Context(), room, p.say(room, "wie spät ist es?"))
	if err != nil {
		p.t.Fatal(err)
	}
	return time.UnixMilli(e.TS)
}

func nobody() (clock.Reading, bool) { return clock.Reading{}, false }

// TestEventsNeverLead: a box whose clock nobody vouches for dates its events by the last time that was known, through restarts of the program and of
// the machine, and by the right time as soon as somebody says it.
func TestEventsNeverLead(t *testing.T) {
	cfg := Config{Data: t.TempDir(), ServerName: "uhr.test", P2P: P2PConfig{Off: true}, Released: firstRelease.Add(time.Hour), system: nobody}
	box := startWith(t, cfg)
	anna := box.phone("anna")
	room, err := anna.CreateRoom(t.Context(), matrixclient.CreateRoom{})
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want time.Time, most time.Duration) {
		t.Helper()
		if lead := got.Sub(want); lead < 0 || lead > most {
			t.Errorf("%s: dated %v, want %v and at most %v more", what, got, want, most)
		}
	}
	near("a new box", anna.dated(room), cfg.Released, time.Minute)
	if s := box.clockStatus(); s.Trusted {
		t.Errorf("nobody vouched, and the status says %+v", s)
	}

	said := firstRelease.AddDate(0, 5, 0)
	set := box.adminOptions().SetClock
	var no *admin.Refusal
	if err := set(t.Context(), said, false); !errors.As(err, &no) || !no.Ask || !strings.Contains(no.DE, "150 Tage") {
		t.Errorf("five months ahead, without a question: %v", err)
	}
	if err := set(t.Context(), firstRelease.AddDate(36, 0, 0), true); !errors.As(err, &no) || no.Ask {
		t.Errorf("2062, and sure of it: %v", err)
	}
	if err := set(t.Context(), cfg.Released.Add(30*time.Hour), false); err != nil {
		t.Errorf("a day after the release: %v", err)
	}
	if err := set(t.Context(), said, true); err != nil {
		t.Fatal(err)
	}
	if err := set(t.Context(), said.Add(20*time.Hour), false); err != nil {
		t.Errorf("less than a day ahead: %v", err)
	}
	if err := set(t.Context(), said, false); err != nil {
		t.Errorf("back again: %v", err)
	}
	near("an operator has set it", anna.dated(room), said, time.Minute)
	if err := set(t.Context(), time.Unix(1000, 0), true); err == nil {
		t.Error("1970 was taken from an operator")
	}

	box.end()
	box = startWith(t, cfg)
	anna.HTTP.Transport = box
	anna.t = t
	near("the program was restarted", anna.dated(room), said, time.Minute)
	if s := box.clockStatus(); !s.Trusted {
		t.Errorf("the machine ran on, and the status says %+v", s)
	}

	// The machine was off for a day: the mark is of another start.
	box.end()
	db, err := store.Open(t.Context(), filepath.Join(cfg.Data, "hallig.db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Do(t.Context(), func(tx *store.Tx) error {
		m, err := tx.ClockMark()
		if err != nil {
			return err
		}
		m.Boot++
		return tx.SetClockMark(m)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	box = startWith(t, cfg)
	anna.HTTP.Transport = box
	near("the machine was restarted", anna.dated(room), said, 2*time.Minute)
	if s := box.clockStatus(); s.Trusted {
		t.Errorf("the machine was off, and the status says %+v", s)
	}
}

// TestTimeFromAPairedBox: a box that does not know the time takes it from a paired one that does, and passes it on to nobody.
func TestTimeFromAPairedBox(t *testing.T) {
	if !inside(t) {
		return
	}
	truth := firstRelease.AddDate(0, 3, 0)
	start := func(name string, system func() (clock.Reading, bool)) *running {
		return startWith(t, Config{Data: t.TempDir(), ServerName: name, P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}}, system: system})
	}
	a := start("a.test", func() (clock.Reading, bool) {
		return clock.Reading{Time: truth, Quality: clock.Exact, Source: "GPS"}, true
	})
	b := start("b.test", nobody)
	code, err := a.adminOptions().ShowCode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, ""); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(inTime); time.Now().Before(end); time.Sleep(50 * time.Millisecond) { // until the boxes have found each other
		if b.askBoxesForTime(t.Context()); b.clock.Trusted() {
			break
		}
	}
	s := b.clock.State()
	if s.Quality != clock.Told || s.Time.Before(truth) || s.Time.After(truth.Add(time.Minute)) {
		t.Errorf("b has %+v, want %v from a", s, truth)
	}
	w := httptest.NewRecorder()
	b.timed(b.fed.handler).ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/federation/v1/version", nil))
	if h := w.Header().Get(clockHeader); h != "" || w.Code != 200 {
		t.Errorf("b passes on what it was told: %q", h)
	}
}

// A hub that says 2099 sets no box's clock, also none that knows no better; one that says what may be does.
func TestHubDoesNotLeadTheClock(t *testing.T) {
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "uhr.test", P2P: P2PConfig{Off: true}, Hub: HubConfig{Server: "hub.test"}, system: nobody})
	before := b.clock.Now()
	b.hearHub(time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC))
	if s := b.clock.State(); s.Quality != clock.Untrusted || s.Time.Sub(before) > time.Minute || !b.exchange.post.ahead {
		t.Errorf("2099: %+v, noticed %v", s, b.exchange.post.ahead)
	}
	truth := firstRelease.AddDate(0, 3, 0)
	b.hearHub(truth)
	if s := b.clock.State(); s.Quality != clock.Told || s.Time.Before(truth) || b.exchange.post.ahead {
		t.Errorf("the right time: %+v, counts as wrong %v", s, b.exchange.post.ahead)
	}
}
