// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"crypto/rand"
	"math/bits"
	mrand "math/rand/v2"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/recon"
)

// audit is how two boxes find out that what they hold differs although their logs say that it does not: once a day, and
// when a greeting shows it. One asks, the other answers with sums; where a sum differs the asking end sends a sketch of
// its events until the other end has found the difference, and both name to each other what the other lacks. From there
// on it is the usual way: who lacks an event wants it.
//
// It belongs to the loop, apart from what the work on a part of it uses meanwhile. A lie costs the one it is told the
// time of one comparison: answers are bounded in number (answersHourly), sketches by what was answered.
type audit struct {
	timer *time.Timer
	due   bool                // all rooms, as soon as the far end can be asked
	rooms map[recon.Room]bool // some rooms, likewise
	heads map[recon.Room]time.Time

	ask      *asking
	give     *giving
	answered *answered
	take     *taking
	busy     bool // an answer is being worked out
	answers  int  // since
	since    time.Time
}

// asking is an audit under way at the asking end.
type asking struct {
	all      bool // of all rooms
	salt     recon.Salt
	rest     []event.RoomID // not asked yet
	differ   []recon.Holding
	deadline *time.Timer
}

// answered is what the far end may send sketches of.
type answered struct {
	salt  recon.Salt
	rooms map[recon.Room]recon.Holding
}

const (
	auditEvery    = 24 * time.Hour
	auditFirst    = 2 * time.Hour    // after the first greeting, and as much again by chance
	auditRooms    = 32               // in one question
	auditPatient  = 30 * time.Minute // for an answer, or for a sketch to end
	answersHourly = 100
	headsEvery    = time.Hour // the same room, when only the newest events differ
	headsWait     = time.Minute
)

func (a *audit) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
	a.end()
	a.give, a.take, a.answered = nil, nil, nil
}

// end forgets the audit under way.
func (a *audit) end() {
	if a.ask != nil && a.ask.deadline != nil {
		a.ask.deadline.Stop()
	}
	a.ask = nil
}

// interrupted notes that the conversation was: an audit under way begins again with the next greeting.
func (a *audit) interrupted() {
	if a.ask != nil {
		if a.ask.all {
			a.due = true
		}
		for _, h := range a.ask.differ {
			a.want(h.Room)
		}
	}
	if a.give != nil {
		a.want(a.give.room)
	}
	a.end()
	a.give, a.take, a.answered = nil, nil, nil
}

func (a *audit) want(r recon.Room) {
	if a.rooms == nil {
		a.rooms = map[recon.Room]bool{}
	}
	a.rooms[r] = true
}

// auditGreeted looks at what a greeting has shown.
func (f *far) auditGreeted(ahead bool, heads []recon.Heads) {
	a := &f.audit
	now := time.Now()
	if ahead {
		f.l.log.Warn("a paired box has more of what was written here than this box: was this box set back to an earlier day, or does the other one err? Comparing", "peer", f.p.Server)
		a.due = true
		f.l.claimed(now)
	}
	for _, h := range heads { // the newest events are asked for at once; what they do not lead to is found by comparing
		if now.Sub(a.heads[h.Room]) < headsEvery {
			continue
		}
		if a.heads == nil || len(a.heads) > 1000 {
			a.heads = map[recon.Room]time.Time{}
		}
		a.heads[h.Room] = now
		room := h.Room
		wait := headsWait
		if f.l.self > f.p.ID { // one of the two is enough; what the other has found by then is found
			wait *= 5
		}
		f.l.after(wait, func() {
			a.want(room)
			f.auditNext()
		})
	}
	if a.timer == nil {
		f.auditIn(auditFirst)
	}
	f.auditNext()
}

// auditStuck asks about rooms in which something goes no further because the far end may be owed what is not here.
func (f *far) auditStuck() {
	rooms := f.feed.Stuck()
	if len(rooms) == 0 {
		return
	}
	f.l.after(headsWait, func() { // it may just be coming
		for _, id := range rooms {
			f.audit.want(recon.RoomOf(id))
		}
		f.auditNext()
	})
}

// auditIn lets the next audit of all rooms be due in d or up to twice that.
func (f *far) auditIn(d time.Duration) {
	if f.audit.timer != nil {
		f.audit.timer.Stop()
	}
	d += time.Duration(mrand.Int64N(int64(min(d, auditFirst))))
	f.audit.timer = f.l.after(d, func() {
		f.audit.due = true
		f.auditIn(auditEvery)
		f.auditNext()
	})
}

// A box that was set back to an earlier day without a word gives out numbers that others know already; it has to begin a new epoch. All that it hears of it
// is a peer's word that it has more of our logs than we, and any peer may lie. So the first such word is believed at once, and whether it was true shows in
// what comes back: events of ours, signed, that are not here. As long as nothing has, each word more has to wait twice as long as the one before, in days
// that this box has run: whoever lies all the time gets some nine epochs in a year. A word that was not believed is as soon as such an event comes.

// claimed takes a peer's word that it has more of our logs than we.
func (l *Link) claimed(now time.Time) {
	last, wait := l.renewed, auditEvery
	if n := l.out.Unproven(); n > 0 {
		wait <<= min(n-1, 12)
		if last.IsZero() {
			last = l.began
		}
	}
	if l.doubted = !last.IsZero() && now.Sub(last) < wait; !l.doubted {
		l.renewed = now
		l.renew(false)
	}
}

// returned takes note of something of ours that has come back.
func (l *Link) returned() {
	if l.doubted {
		l.log.Warn("what was written here and is not here has come back: this box was set back to an earlier day")
		l.doubted, l.renewed = false, time.Now()
		l.renew(true)
		return
	}
	if l.out.Unproven() == 0 {
		return
	}
	l.work(func(ctx context.Context) func() {
		err := l.out.Proven(ctx)
		return func() {
			if err != nil && ctx.Err() == nil {
				l.log.Error("an epoch counts as not needed still", "err", err)
			}
		}
	})
}

// renew begins a new epoch.
func (l *Link) renew(proven bool) {
	l.work(func(ctx context.Context) func() {
		err := l.out.Renew(ctx, draw(), proven)
		return func() {
			if err != nil {
				l.log.Error("no new epoch", "err", err)
				return
			}
			for _, f := range l.fars {
				if f.active != nil {
					f.begin(f.active)
				}
			}
		}
	})
}

// auditNext asks for what is due, if the far end can be asked now.
func (f *far) auditNext() {
	a := &f.audit
	if f.closed || a.ask != nil || a.give != nil || !a.due && len(a.rooms) == 0 || f.active == nil || f.active.mail != nil || f.session == nil || !f.agreed || f.heard == 0 ||
		f.features&parcel.FeatureSketch == 0 {
		return
	}
	ask := &asking{all: a.due}
	only := a.rooms
	a.due, a.rooms, a.ask = false, nil, ask
	f.l.work(func(ctx context.Context) func() {
		rooms, err := f.l.out.Shared(ctx, f.p)
		return func() {
			if a.ask != ask || err != nil {
				f.auditFailed(ask, err)
				return
			}
			ask.rest = rooms
			if !ask.all {
				ask.rest = slices.DeleteFunc(rooms, func(id event.RoomID) bool { return !only[recon.RoomOf(id)] })
			}
			f.auditAsk(ask)
		}
	})
}

func (f *far) auditFailed(ask *asking, err error) {
	if err != nil && f.l.ctx.Err() == nil {
		f.l.log.Error("rooms could not be compared", "peer", f.p.Server, "err", err)
	}
	if f.audit.ask == ask {
		f.audit.end()
	}
}

// auditAsk asks about the next rooms.
func (f *far) auditAsk(ask *asking) {
	a := &f.audit
	if len(ask.rest) == 0 {
		a.end()
		f.auditNext()
		return
	}
	rooms := ask.rest[:min(auditRooms, len(ask.rest))]
	ask.rest = ask.rest[len(rooms):]
	_, _ = rand.Read(ask.salt[:]) // never fails
	f.l.work(func(ctx context.Context) func() {
		q, err := f.l.out.Ask(ctx, ask.salt, rooms)
		return func() {
			if a.ask != ask || err != nil {
				f.auditFailed(ask, err)
				return
			}
			f.auditPatience(ask)
			f.enqueue(parcel.Bulk, &parcel.Sketch{Body: q.Append(nil)}, nil)
			f.pump()
		}
	})
}

// auditPatience gives up an audit on which nothing happens.
func (f *far) auditPatience(ask *asking) {
	if ask.deadline != nil {
		ask.deadline.Stop()
	}
	ask.deadline = f.l.after(auditPatient, func() {
		if f.audit.ask == ask {
			f.audit.end()
			f.audit.give = nil
			f.auditNext()
		}
	})
}

func (f *far) receiveSketch(p *parcel.Sketch) {
	v, err := recon.ParseSketch(p.Body)
	if err != nil {
		f.l.log.Warn("sketch could not be read", "peer", f.p.Server, "bytes", len(p.Body), "err", err)
		return
	}
	switch v := v.(type) {
	case recon.Audit:
		if v.Answer {
			f.auditAnswered(v)
		} else {
			f.auditAnswer(v)
		}
	case recon.Sketch:
		f.takeSketch(v)
	case recon.Found:
		f.sketchFound(v)
	case recon.Pull:
		f.pulled(v)
	}
}

// auditAnswer compares at the asked end.
func (f *far) auditAnswer(q recon.Audit) {
	a := &f.audit
	now := time.Now()
	if now.Sub(a.since) > time.Hour {
		a.answers, a.since = 0, now
	}
	if a.answers++; a.busy || a.answers > answersHourly {
		return
	}
	a.busy = true
	if len(q.Rooms) > 2*auditRooms {
		q.Rooms = q.Rooms[:2*auditRooms]
	}
	f.l.work(func(ctx context.Context) func() {
		answer, owed, err := f.l.out.Answer(ctx, f.p, f.feed, q)
		if err == nil {
			err = f.feed.Compared(ctx, q)
		}
		return func() {
			a.busy = false
			if err != nil || f.closed {
				f.auditFailed(nil, err)
				return
			}
			a.take = nil
			a.answered = &answered{q.Salt, make(map[recon.Room]recon.Holding, len(answer.Rooms))}
			for _, h := range answer.Rooms {
				a.answered.rooms[h.Room] = h
			}
			f.auditIn(auditEvery) // that was it, for both
			f.offer(owed)
			f.enqueue(parcel.Bulk, &parcel.Sketch{Body: answer.Append(nil)}, nil)
			f.touchAll() // it may be further than we knew
		}
	})
}

// offer names places again of which the far end believes that they are not for it.
func (f *far) offer(owed []recon.Have) {
	for _, h := range owed {
		f.l.log.Info("naming events that the far end was told to leave out", "peer", f.p.Server, "events", len(h.Places))
		for places := h.Places; len(places) > 0; {
			n := min(namesAtOnce, len(places))
			f.nameTo(outbox.Named{Box: f.l.self, Have: recon.Have{Log: h.Log, Places: places[:n]}})
			places = places[n:]
		}
	}
}

// namesAtOnce is how many events one note names.
const namesAtOnce = 64

func (f *far) nameTo(n outbox.Named) {
	note := recon.Note{Haves: []recon.Have{n.Have}}
	f.introduce(&note, n.Box)
	f.enqueue(parcel.Routine, &parcel.EDU{Type: eduNote, Content: note.Append(nil)}, nil)
}

// auditAnswered looks at the sums of the other end.
func (f *far) auditAnswered(answer recon.Audit) {
	a := &f.audit
	ask := a.ask
	if ask == nil || answer.Salt != ask.salt || a.give != nil || ask.differ != nil {
		return
	}
	ask.differ = []recon.Holding{} // the answer is here
	f.l.work(func(ctx context.Context) func() {
		differ, owed, err := f.l.out.Differing(ctx, f.p, f.feed, answer)
		if err == nil {
			err = f.feed.Compared(ctx, answer)
		}
		return func() {
			if a.ask != ask || err != nil {
				f.auditFailed(ask, err)
				return
			}
			f.l.c.Observe(Event{What: "compared", Peer: f.p, Note: compared(len(answer.Rooms), len(differ))})
			f.offer(owed)
			ask.differ = differ
			f.sketchNext(ask)
			f.touchAll() // it may be further than we knew
		}
	})
}

// sketchNext sends a sketch of the next room that differs, or asks on.
func (f *far) sketchNext(ask *asking) {
	a := &f.audit
	if len(ask.differ) == 0 {
		ask.differ = nil
		f.auditAsk(ask)
		return
	}
	h := ask.differ[0]
	ask.differ = ask.differ[1:]
	g := &giving{id: draw(), room: h.Room, salt: ask.salt}
	a.give = g
	f.auditPatience(ask)
	f.l.work(func(ctx context.Context) func() {
		set, err := f.l.out.SetOf(ctx, f.p, ask.salt, h)
		return func() {
			if a.give != g || err != nil {
				a.give = nil
				f.auditFailed(ask, err)
				return
			}
			f.l.log.Warn("events differ although the logs do not; comparing them", "peer", f.p.Server, "room", set.Room, "events", len(set.Elements))
			g.set = set
			f.giveMore(g)
		}
	})
}

// sketchPart is how many bytes one part of a sketch may have.
func (f *far) sketchPart() int {
	if f.active != nil && f.active.slow() {
		return max(200, f.active.limit()-20)
	}
	return 16 << 10
}

// windowOf is how many symbols are coded in one go from number at on, for at least n: twice as many each time.
func windowOf(at, n int) int {
	return min(max(256, at, 1<<bits.Len(uint(n))), recon.MaxSymbols-at)
}
