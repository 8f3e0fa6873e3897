// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/ferry"
	"hallig/sync/hub/fleet"
	"hallig/sync/hub/spool"
	"hallig/sync/peer"
)

// This file hands on what waits for a box that is not connected, through one that is and has a line to it (hub/ferry). One Play at a time is under way to a box: its line is narrow, and belongs to
// the people there.

const (
	ferryLook    = 30 * time.Minute  // so often a box is asked how it does when nothing waits for it
	ferryContact = 6 * time.Hour     // and so often for all that it says of itself
	ferryTime    = 15 * time.Second  // of the line, for what is handed over at once
	ferryLeast   = 600               // bytes of that, on the narrowest line
	ferryRoom    = api.FerryMost / 4 // and on the widest: a Play with it crosses in one go, and its texts fit what a box unpacks
	ferryWorth   = time.Hour         // of the line, for one request: what takes longer waits for another way
	ferryPrompt  = 20 * time.Second  // an answer's clock is that of now
	ferryFirst   = 10 * time.Second  // until a box in between is tried again
	ferryLast    = 10 * time.Minute
	ferryPassed  = 8  // so often longer requests let others go first
	ferryQueues  = 16 // far servers of which one is chosen
	ferryWait    = 3  // so often events are named in vain, before they are sent
)

// ferryman serves one box that others reach.
type ferryman struct {
	h      *Hub
	box    string
	id     peer.ID
	log    *slog.Logger
	seal   *peer.Seal
	wake   chan struct{}
	cancel context.CancelFunc
	ended  chan struct{}

	curious atomic.Bool // it is to say all of itself

	// The rest belongs to run.
	lease   spool.Lease
	word    ferry.Word
	greeted bool      // word is the box's
	heard   time.Time // when it last answered
	told    time.Time // when it last said all of itself
	sent    *shipment // what has had no answer
	rest    map[string]rested
	turns   map[string]*ferryTurn // by far server
}

// shipment is a Play with requests.
type shipment struct {
	number uint64
	queue  spool.Queue
	rs     []spool.Request
}

// rested is a box in between that did not answer for the far one.
type rested struct {
	at    time.Time
	wait  time.Duration
	until time.Time
}

// ferryTurn is how the queue of one far server does.
type ferryTurn struct {
	passed int // so often others went first
	wait   time.Duration
	until  time.Time // not before then
	vain   int       // so often its first request named events that the box had not
	keys   bool      // the box may lack the server's keys
	seq    int64     // of its first request: vain is about that
}

func (h *Hub) newFerryman(ctx context.Context, box string) (*ferryman, context.Context, error) {
	e, ok := h.box(box)
	if !ok {
		return nil, nil, spool.ErrUnknown
	}
	key, err := e.ID.Key()
	if err != nil {
		return nil, nil, err
	}
	seal, err := peer.NewSeal(h.id.Box, key)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	return &ferryman{h: h, box: box, id: e.ID, log: h.log.With("box", box), seal: seal, wake: make(chan struct{}, 1), cancel: cancel, ended: make(chan struct{}), rest: map[string]rested{}, turns: map[string]*ferryTurn{}}, ctx, nil
}

// over says that a ferryman has ended.
func (f *ferryman) over() {
	f.cancel()
	f.h.mu.Lock()
	delete(f.h.ferries, f.box) // there is never a second one
	f.h.mu.Unlock()
	close(f.ended)
	poke(f.h.reached)
}

// run serves the box until ctx ends.
func (f *ferryman) run(ctx context.Context) {
	defer f.letGo(ctx)
	for ctx.Err() == nil {
		again, err := f.step(ctx)
		if err != nil && ctx.Err() == nil && f.h.seldom.may("ferry "+f.box, f.h.now()) {
			f.log.Warn("what waits for a box could not be handed on through another one; it is tried again", "err", err)
		}
		if again > 0 {
			pause(ctx, again, f.wake)
		}
	}
}

func (f *ferryman) letGo(ctx context.Context) {
	if f.lease.Token == 0 {
		return
	}
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	if err := f.h.spool.Release(ctx, f.lease); err != nil {
		f.log.Debug("release a box", "err", err) // it ends by itself
	}
	f.lease = spool.Lease{}
}

// step does the next thing, and says in how long to look again; 0: at once.
func (f *ferryman) step(ctx context.Context) (again time.Duration, err error) {
	p, again, ok := f.passage(time.Now())
	if !ok {
		f.letGo(ctx) // another node may reach it
		return again, nil
	}
	alone := f.h.cfg.Database == "" // then an older life of this node holds it
	l, held, err := f.h.spool.Acquire(ctx, f.box, f.h.node, f.h.now(), leaseLife, alone)
	switch {
	case err != nil:
		return ferryFirst, fmt.Errorf("take over a box that others reach: %w", err)
	case !held: // it is connected to another node, or that one brings its letters
		return min(max(l.Until.Sub(f.h.now()), ferryFirst), time.Minute), nil
	}
	f.lease = l
	if !f.greeted || f.sent != nil || f.curious.Load() || time.Since(f.heard) >= ferryLook {
		return 0, f.greet(ctx, p)
	}
	s, keys, again, err := f.next(ctx, p)
	if s == nil || err != nil {
		return cmp.Or(again, ferryLook), err
	}
	return 0, f.ship(ctx, p, s, keys)
}

func (f *ferryman) turn(other string) *ferryTurn {
	t := f.turns[other]
	if t == nil {
		t = &ferryTurn{}
		f.turns[other] = t
	}
	return t
}

// passage chooses the box in between. false: none is to be tried before again.
func (f *ferryman) passage(now time.Time) (p passage, again time.Duration, ok bool) {
	again = ferryLook
	for _, p := range f.h.passages(f.box) {
		r := f.rest[p.by]
		if !r.until.After(now) || p.said.After(r.at) { // or its line has come anew
			return p, 0, true
		}
		again = min(again, r.until.Sub(now))
	}
	return p, again, false
}

// greet asks whether the box is there, and what became of what has had no answer.
func (f *ferryman) greet(ctx context.Context, p passage) error {
	curious := f.curious.Swap(false)
	play := &ferry.Play{Contact: curious || time.Since(f.told) > ferryContact}
	if f.sent != nil {
		play.About = f.sent.number
	}
	_, a, err := f.speak(ctx, p, play)
	if err != nil {
		return err
	}
	s := f.sent
	f.sent = nil
	if s == nil || a.Of != s.number {
		return nil
	}
	return f.settle(ctx, s, a)
}

// ship hands something over.
func (f *ferryman) ship(ctx context.Context, p passage, s *shipment, keys []string) error {
	play := &ferry.Play{Word: f.word, Keys: keys}
	t := f.turn(s.queue.Other)
	for i, r := range s.rs {
		play.Requests = append(play.Requests, f.write(ctx, r, p, i == 0 && t.vain >= ferryWait))
	}
	f.greeted = false // until it has answered nobody knows its word
	f.sent = s
	number, a, err := f.speak(ctx, p, play)
	if s.number = number; err != nil {
		return err
	}
	f.sent = nil
	if a.Of != s.number {
		return nil // its word was another one: it has that now
	}
	return f.settle(ctx, s, a)
}

// write gives a request as it crosses.
func (f *ferryman) write(ctx context.Context, r spool.Request, p passage, whole bool) ferry.Request {
	q := api.Waited{Method: r.Method, URI: r.URI, Authorization: r.Authorization, Body: string(r.Body), Received: r.Received.UnixMilli()}
	return ferry.Narrow(q, func(id event.RoomID) *event.Version {
		if whole {
			return nil
		}
		return f.h.replica.Shared(ctx, id, f.box, p.by) // the box in between gives them to it as parcels
	})
}

// settle crosses out what the box has, and notes what it has not.
func (f *ferryman) settle(ctx context.Context, s *shipment, a *ferry.Answer) (err error) {
	t := f.turn(s.queue.Other)
	t.wait = min(max(2*t.wait, ferryFirst), ferryLast)
	t.until = time.Now().Add(t.wait) // whatever goes wrong, the line is not filled with the same again and again
	if len(a.Played) > len(s.rs) {
		return fmt.Errorf("it gave %d answers to %d requests", len(a.Played), len(s.rs))
	}
	done := 0
	for i, one := range a.Played {
		if one.Status == ferry.Whole {
			if i == 0 {
				t.vain++
			}
			err = errWhole
			break
		}
		if err = f.h.judge(ctx, f.box, s.rs[i], one.Status, []byte(one.Text)); err != nil {
			t.keys = t.keys || one.Status == http.StatusUnauthorized
			break
		}
		done++
	}
	if done > 0 {
		// The box has them. When we die here it gets the same once more, and knows them.
		if serr := f.h.spool.Settle(ctx, s.queue, s.rs[done-1].Seq, f.h.now(), f.lease); serr != nil {
			return fmt.Errorf("note what the box has: %w", serr)
		}
		t.wait = ferryFirst
		t.until = time.Now().Add(t.wait)
	}
	if err == nil && len(a.Played) > 0 {
		t.keys, t.wait, t.until = false, 0, time.Time{}
		return nil
	}
	if errors.Is(err, errWhole) {
		return nil // its events are on their way to the box, or it gets them whole
	}
	return err
}

var errWhole = errors.New("the box lacks events that were named")

// next chooses what is handed over now: of one far server, in order, the shortest first, as messages between devices and receipts mostly are. nil: nothing waits, or not before again.
func (f *ferryman) next(ctx context.Context, p passage) (s *shipment, keys []string, again time.Duration, err error) {
	waiting, err := f.h.spool.Waiting(ctx, f.box)
	if err != nil {
		return nil, nil, ferryFirst, fmt.Errorf("look what waits for a box: %w", err)
	}
	there := map[string]bool{}
	now := time.Now()
	var ready []spool.Queue
	for _, q := range waiting {
		if !q.In {
			continue
		}
		there[q.Other] = true
		t := f.turn(q.Other)
		if left := t.until.Sub(now); left > 0 {
			if again == 0 || left < again {
				again = left
			}
			continue
		}
		ready = append(ready, q.Queue)
	}
	for other := range f.turns {
		if !there[other] {
			delete(f.turns, other)
		}
	}
	slices.SortStableFunc(ready, func(a, b spool.Queue) int { return cmp.Compare(f.turns[b.Other].passed, f.turns[a.Other].passed) })
	room := roomOn(p.rate)
	var best *shipment
	for _, q := range ready[:min(len(ready), ferryQueues)] {
		rs, err := f.h.spool.Next(ctx, q, 0, 16*room)
		if err != nil {
			return nil, nil, ferryFirst, err
		}
		if len(rs) == 0 {
			continue
		}
		t := f.turns[q.Other]
		if t.seq != rs[0].Seq {
			t.seq, t.vain = rs[0].Seq, 0
		}
		if t.passed++; best != nil && len(best.rs[0].Body) <= len(rs[0].Body) && t.passed <= ferryPassed {
			continue
		}
		if best = (&shipment{queue: q, rs: rs}); t.passed > ferryPassed {
			break
		}
	}
	if best == nil {
		return nil, nil, again, nil
	}
	t := f.turns[best.queue.Other]
	t.passed = 0
	if best.rs = f.together(ctx, best.rs, p, room, t.vain >= ferryWait); len(best.rs) == 0 {
		t.until = now.Add(ferryLook)
		if f.h.seldom.may("ferry long "+f.box, f.h.now()) {
			f.log.Info("what waits for a box is too long for the line on which another one reaches it, and waits until it is connected", "from", best.queue.Other, "by", p.by, "bit_per_s", p.rate)
		}
		return nil, nil, time.Millisecond, nil // what others have sent may be short enough
	}
	if t.keys {
		docs, err := f.h.ring.Documents(ctx, best.queue.Other)
		if err == nil && len(docs) > 0 {
			keys = append(keys, string(docs[len(docs)-1]))
		}
	}
	return best, keys, 0, nil
}

// together gives as many of the first requests as cross in one go; none: the first is too long for the line.
func (f *ferryman) together(ctx context.Context, rs []spool.Request, p passage, room int, whole bool) []spool.Request {
	size := 0
	for i, r := range rs[:min(len(rs), ferry.Most)] {
		q := f.write(ctx, r, p, whole && i == 0)
		size += len((&ferry.Play{Requests: []ferry.Request{q}}).Pack(f.h.codec))
		if i == 0 && int64(size) > min(api.FerryMost/2, int64(p.rate)*int64(ferryWorth/time.Second)/8) {
			return nil
		}
		if i > 0 && size > room {
			return rs[:i]
		}
	}
	return rs[:min(len(rs), ferry.Most)]
}

// roomOn is how many bytes are handed over at once on a line of so many bit/s.
func roomOn(rate int) int {
	return min(max(ferryLeast, rate/8*int(ferryTime/time.Second)), ferryRoom)
}

// speak brings a Play through the box in between, and reads what the far one says to it.
func (f *ferryman) speak(ctx context.Context, p passage, play *ferry.Play) (number uint64, a *ferry.Answer, err error) {
	sealed, number, err := ferry.ClosePlay(f.seal, play.Pack(f.h.codec))
	if err != nil {
		return 0, nil, err
	}
	began := time.Now()
	a, err = f.cross(ctx, p, sealed, number)
	f.log.Debug("spoke with a box through another one", "by", p.name(), "bytes", len(sealed), "requests", len(play.Requests), "asked_about_the_last", play.About != 0, "answer", summary(a), "took", time.Since(began).Round(time.Millisecond), "err", err)
	if err != nil {
		if ctx.Err() == nil {
			w := min(max(2*f.rest[p.by].wait, ferryFirst), ferryLast)
			f.rest[p.by] = rested{f.h.now(), w, time.Now().Add(w)}
		}
		return number, nil, fmt.Errorf("through %s: %w", p.by, err)
	}
	delete(f.rest, p.by)
	f.word, f.greeted, f.heard = a.Word, true, time.Now()
	f.saw(ctx, p, a, time.Since(began) < ferryPrompt)
	return number, a, nil
}

// summary is what the log says of an answer: the statuses.
func summary(a *ferry.Answer) string {
	switch {
	case a == nil:
		return "none"
	case a.Of == 0:
		return "heard"
	}
	counts := map[int]int{}
	for _, p := range a.Played {
		counts[p.Status]++
	}
	return fmt.Sprint(counts)
}

// cross is the way there and back.
func (f *ferryman) cross(ctx context.Context, p passage, sealed []byte, number uint64) (*ferry.Answer, error) {
	// What is live on the line goes first; so it may take some times as long as it would take alone.
	patience := 5*time.Minute + 8*time.Duration(len(sealed)*8/max(p.rate, 1))*time.Second
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, federation.Scheme+"://"+p.by+api.FerryPath+url.PathEscape(f.box), bytes.NewReader(sealed))
	if err != nil {
		return nil, err
	}
	resp, err := f.h.p2p.RoundTripper().RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, api.FerryAnswer+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("it answered %d %.200q", resp.StatusCode, body)
	case len(body) > api.FerryAnswer:
		return nil, errors.New("its answer is too long")
	}
	text, err := ferry.OpenAnswer(f.seal, number, body)
	if err != nil {
		f.h.count.refused.Add(1)
		return nil, fmt.Errorf("what it gave for the box's answer is none: %w", err)
	}
	return ferry.ReadAnswer(f.h.codec, text)
}

// saw notes the contact. What was long on its way says nothing of the box's clock now.
func (f *ferryman) saw(ctx context.Context, p passage, a *ferry.Answer, prompt bool) {
	if !prompt {
		a.Clock = 0
	}
	row, err := f.h.spool.Box(ctx, f.box)
	if err != nil {
		return // it is said when something is to be kept
	}
	version, said := row.Version, row.Health
	if len(a.Contact) > 0 {
		c, err := api.ReadContact(a.Contact)
		if e, ok := f.h.box(f.box); err == nil && ok {
			err = f.h.learn(ctx, e, c)
		}
		if err != nil {
			f.log.Warn("what a box says of itself was not taken", "by", p.by, "err", err)
		} else {
			if !prompt {
				c.Clock = 0
			}
			version, said = c.Version, saidIn(c)
		}
		f.told = time.Now()
	} else if said != nil {
		own := fleet.ReadSaid(said)
		own.Clock = a.Clock
		if raw, err := json.Marshal(own); err == nil {
			said = raw
		}
	}
	f.h.spool.Saw(f.box, f.h.now(), p.name(), version, said)
}
