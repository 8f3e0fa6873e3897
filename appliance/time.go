// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/clock"
	"hallig/appliance/store"
)

// This file asks the sources of time that there are, and hands time on to other boxes.

// firstRelease is the floor of programs that do not know when they were made.
var firstRelease = time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)

const (
	askSystem = 15 * time.Second
	askBoxes  = time.Minute
	// clockHeader carries the time of a box that does not have it from a box itself: "QUALITY MILLISECONDS".
	clockHeader = "Hallig-Clock"
	// clockLate is how long an answer may have taken. The time in it lags by the way back.
	clockLate = 10 * time.Second
)

// openClock starts the clock from what the store remembers, before anything is dated.
func (b *Box) openClock(ctx context.Context) error {
	var m store.ClockMark
	err := b.db.View(ctx, func(r *store.Read) (err error) {
		m, err = r.ClockMark()
		return err
	})
	if err != nil {
		return fmt.Errorf("read what time it was: %w", err)
	}
	b.clock = clock.New(clock.Config{
		Released: b.released(), Mark: clock.Mark{Time: m.Time, Quality: clock.Quality(m.Quality), Boot: m.Boot, Uptime: m.Uptime},
	})
	b.readSystem()
	b.readHardware()
	b.db.OnCommit(func(store.Commit) { // it rides along with what is written anyway
		if m, due := b.clock.Due(); due {
			b.db.Lazy(func(tx *store.Tx) error { return tx.SetClockMark(marked(m)) })
		}
	})
	if s := b.clock.State(); s.Quality == clock.Untrusted {
		b.log.Warn("nobody vouches for the time: events are dated by the last time that was known and lag behind, and nothing expires; say what time it is with: hallig clock TIME", "time", s.Time.UTC().Format(time.RFC3339))
	}
	return nil
}

// released is when the program was made.
func (b *Box) released() time.Time {
	if b.cfg.Released.Before(firstRelease) {
		return firstRelease
	}
	return b.cfg.Released
}

func marked(m clock.Mark) store.ClockMark {
	return store.ClockMark{Time: m.Time, Quality: int64(m.Quality), Boot: m.Boot, Uptime: m.Uptime}
}

// keepTime stores the time now.
func (b *Box) keepTime(ctx context.Context) error {
	m := b.clock.Mark()
	if err := b.db.DoSmall(ctx, func(tx *store.Tx) error { return tx.SetClockMark(marked(m)) }); err != nil {
		return fmt.Errorf("keep the time: %w", err)
	}
	return nil
}

// systemClock gives the system's clock when the kernel or the configuration vouches for it.
func (c *Config) systemClock() (clock.Reading, bool) {
	r, ok := clock.System()
	if !ok && (c.Clock == "system" || c.OpenRegistration) {
		return clock.Reading{Time: time.Now(), Quality: clock.Entered, Source: "the system's clock, as configured"}, true
	}
	return r, ok
}

func (b *Box) readSystem() {
	if r, ok := b.cfg.system(); ok {
		b.heardTime(r)
	}
}

// heardTime takes a reading, and tells when the box has not known the time before.
func (b *Box) heardTime(r clock.Reading) bool {
	before := b.clock.State()
	if !b.clock.Set(r) {
		return false
	}
	if step := r.Time.Sub(before.Time); before.Quality == clock.Untrusted || step.Abs() > time.Minute {
		b.log.Info("the time is known", "source", r.Source, "step", step.Round(time.Second))
	}
	return true
}

// likely is the best guess at the time, for judging certificates only: an untrusted system clock may be right, and a certificate from before the
// last time that was known tells more than nothing.
func (b *Box) likely() time.Time {
	now := b.clock.Now()
	if wall := time.Now(); !b.clock.Trusted() && wall.After(now) {
		return wall
	}
	return now
}

// runClock asks the sources until ctx ends.
func (b *Box) runClock(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error {
		every(ctx, askSystem, func() { b.readSystem() })
		return nil
	})
	g.Go(func() error {
		every(ctx, askBoxes, func() {
			b.askBoxesForTime(ctx)
			b.askBoxesForKeys(ctx)
		})
		return nil
	})
	b.runSources(ctx, g)
}

// every calls f until ctx ends.
func every(ctx context.Context, gap time.Duration, f func()) {
	t := time.NewTicker(gap)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}

// askBoxesForTime asks paired boxes in reach while there is no better source. Any answer carries the time.
func (b *Box) askBoxesForTime(ctx context.Context) {
	x := b.exchange
	if x.host == nil || b.clock.State().Quality > clock.Told {
		return
	}
	for _, p := range x.paired().All() {
		if !x.host.InReach(p.Server) {
			continue
		}
		ctx, stop := context.WithTimeout(ctx, clockLate)
		err := b.fed.client.Version(ctx, p.Server)
		stop()
		if err != nil {
			b.log.Debug("box not asked for the time", "server", p.Server, "err", err)
		}
	}
}

// askBoxesForKeys gets the key documents of the boxes in reach before they are needed: a third box, that is not paired with them, has to learn their
// keys from us while they are away.
func (b *Box) askBoxesForKeys(ctx context.Context) {
	for _, p := range b.exchange.link.Status() {
		if p.Carries == "" {
			continue
		}
		if err := b.fed.ring.Attest(ctx, p.Peer.Server); err != nil {
			b.log.Debug("key document of a box not fetched", "server", p.Peer.Server, "err", err)
		}
	}
}

// timed adds our time to answers to other boxes, when we do not have it from one of them: what boxes have heard from each other would go in circles.
func (b *Box) timed(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := b.clock.State(); s.Quality > clock.Told {
			w.Header().Set(clockHeader, strconv.Itoa(int(s.Quality))+" "+strconv.FormatInt(s.Time.UnixMilli(), 10))
		}
		h.ServeHTTP(w, r)
	})
}

// hearBox takes the time out of a paired box's answer. The way proves who it is; pairing says that it may be believed.
func (b *Box) hearBox(server string, asked time.Time, resp *http.Response) {
	quality, ms, ok := strings.Cut(resp.Header.Get(clockHeader), " ")
	q, err := strconv.Atoi(quality)
	t, terr := strconv.ParseInt(ms, 10, 64)
	if !ok || err != nil || terr != nil || q <= int(clock.Told) || time.Since(asked) > clockLate {
		return
	}
	b.heardTime(clock.Reading{Time: time.UnixMilli(t), Quality: clock.Told, Source: "box " + server})
}

const (
	clockForward = 24 * time.Hour     // a step forward that an operator is asked about
	clockRoom    = 2 * 24 * time.Hour // after the release: what a new box is surely set to
	clockLimit   = 10                 // years after the release: nothing later is taken
	clockYear    = 365 * 24 * time.Hour
)

// setClock is the operator's word. A time that lies far ahead cannot be taken back: what was dated by it is refused by other servers, and ends what expires.
func (b *Box) setClock(ctx context.Context, t time.Time, sure bool) error {
	if t.IsZero() {
		t = time.Now()
	}
	if err := b.doubtClock(t, sure); err != nil {
		return err
	}
	if !b.heardTime(clock.Reading{Time: t, Quality: clock.Entered, Source: "the operator"}) {
		source := b.clock.State().Source
		return &admin.Refusal{Text: "The box has the time from a better source: " + source + ".", DE: "Die Box hat die Zeit aus einer besseren Quelle: " + source + "."}
	}
	return b.keepTime(ctx)
}

// doubtClock refuses times that cannot be, and asks about those that are hard to believe.
func (b *Box) doubtClock(t time.Time, sure bool) error {
	const de = "02.01.2006"
	known, released := b.clock.Now().UTC(), b.released().UTC()
	step := t.Sub(known)
	switch {
	case t.Before(released):
		return &admin.Refusal{Text: "That is before this program was made (" + released.Format(time.DateOnly) + ").", DE: "Das ist vor dem Tag, an dem dieses Programm gemacht wurde (" + released.Format(de) + ")."}
	case t.After(released.AddDate(clockLimit, 0, 0)):
		return &admin.Refusal{
			Text: fmt.Sprintf("That is more than %d years after this program was made (%s), and is not taken.", clockLimit, released.Format(time.DateOnly)),
			DE:   fmt.Sprintf("Das ist mehr als %d Jahre nach dem Tag, an dem dieses Programm gemacht wurde (%s), und wird nicht angenommen.", clockLimit, released.Format(de)),
		}
	case sure || step <= clockForward || t.Sub(released) <= clockRoom:
		return nil
	}
	far, weit := "more than a day", "mehr als einen Tag"
	if n := int(step / clockYear); n >= 2 {
		far, weit = fmt.Sprintf("%d years", n), fmt.Sprintf("%d Jahre", n)
	} else if n := int(step / (24 * time.Hour)); n >= 2 {
		far, weit = fmt.Sprintf("%d days", n), fmt.Sprintf("%d Tage", n)
	}
	t = t.UTC()
	return &admin.Refusal{
		Ask:  true,
		Text: fmt.Sprintf("%s is %s after the last time that the box knows (%s). Is that so? Other servers refuse messages from the future for good.", t.Format(time.DateOnly), far, known.Format(time.DateOnly)),
		DE:   fmt.Sprintf("Der %s ist %s nach der letzten Zeit, die die Box kennt (%s). Wirklich? Nachrichten aus der Zukunft nehmen andere Server nie an.", t.Format(de), weit, known.Format(de)),
	}
}

// setClocks sets the machine's clocks as well, so that the box wakes up with the time the next time.
func (b *Box) setClocks(ctx context.Context, t time.Time, sure bool) error {
	if err := b.setClock(ctx, t, sure); err != nil || b.steward == nil || t.IsZero() {
		return err
	}
	if err := b.steward.SetClock(ctx, t); err != nil {
		b.log.Warn("the machine's own clock is not set", "err", err)
	}
	return nil
}

func (b *Box) clockStatus() admin.Clock {
	s := b.clock.State()
	return admin.Clock{Time: s.Time, Quality: s.Quality.String(), Source: s.Source, Trusted: s.Quality > clock.Untrusted, HeardAgo: s.Age.Round(time.Second).String(), Notes: b.clockNotes()}
}
