// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file sees one letter through.

// ErrNoSigner is what Config.Sign answers for a box that has let nobody sign for it.
var ErrNoSigner = errors.New("nobody else signs for this box")

// ErrBusy is what Config.Send answers when something else of the same origin is under way to a server, which would refuse a second transaction.
var ErrBusy = errors.New("another transaction is under way there")

// moreWays is how many further transaction ids another signer is asked for.
const moreWays = 2

// work does what can be done now for the oldest letter of a queue.
func (m *Mail) work(ctx context.Context, l *line) {
	due, gone := m.turnOf(ctx, l)
	m.over(l, due, gone)
}

// turnOf says when the queue's next turn is, or that this node has nothing to do there.
func (m *Mail) turnOf(ctx context.Context, l *line) (due time.Time, gone bool) {
	if _, good := m.c.Boxes(l.q.Box); !good {
		l.trip = nil
		return time.Time{}, true // whoever may have the box now writes nothing in its name any more
	}
	lease, ok, err := m.c.Spool.Acquire(ctx, l.q.Box, m.c.Node, m.c.Now(), m.c.Lease, m.c.Alone)
	if errors.Is(err, spool.ErrUnknown) {
		l.trip = nil
		return time.Time{}, true // the box is gone
	}
	if err == nil && !ok { // another node has the box and brings its letters, for as long as it lives
		l.trip = nil
		m.stands(l, "", 0)
		m.c.Log.Debug("another node brings the letters of a box", "box", l.q.Box, "to", l.q.Other, "until", lease.Until)
		m.mu.Lock()
		l.elsewhere = true
		m.mu.Unlock()
		due = m.c.Now().Add(lookEvery)
		if lease.Until.Before(due) {
			due = lease.Until.Add(time.Millisecond)
		}
		return due, false
	}
	if err == nil && lease.Token != l.lease.Token {
		m.c.Log.Debug("this node brings the letters of a box now", "box", l.q.Box, "to", l.q.Other)
	}
	l.lease = lease
	var rs []spool.Request
	if err == nil {
		rs, err = m.c.Spool.Next(ctx, l.q, 0, 1)
	}
	if err != nil {
		return m.later(ctx, l, "the hub cannot read its spool now", 0, err, waitMost), false
	}
	if len(rs) == 0 {
		l.trip = nil
		m.stands(l, "", 0)
		m.swept(ctx, l.q)
		return time.Time{}, true
	}
	letter, err := api.ReadLetter(rs[0].Body)
	if err != nil { // it was read when it was taken
		m.c.Log.Error("a letter in the spool cannot be read; it is dropped, and the box leaves it anew", "box", l.q.Box, "to", l.q.Other, "err", err)
		return m.cross(ctx, l, rs[0].Seq), false
	}
	if l.trip == nil || l.seq != rs[0].Seq {
		skip, err := m.settled(ctx, l.q, letter)
		if err != nil {
			return m.later(ctx, l, "the hub cannot read its spool now", 0, err, waitMost), false
		}
		if skip {
			return m.cross(ctx, l, rs[0].Seq), false
		}
		if !m.claim(l, roomsOf(letter)) {
			return m.c.Now().Add(roomTaken), false
		}
		more := 0
		if m.c.Sign != nil && !letter.Once {
			more = moreWays
		}
		l.seq, l.errs, l.resign, l.ended = rs[0].Seq, nil, false, false
		l.trip = newTrip(len(letter.Sends), more, len(letter.Asks), !letter.Once)
	}
	return m.along(ctx, l, letter), false
}

func roomsOf(letter api.Letter) (rooms []string) {
	for _, a := range letter.Asks {
		rooms = append(rooms, a.Room)
	}
	return rooms
}

// along goes the letter's way as far as it goes now.
func (m *Mail) along(ctx context.Context, l *line, letter api.Letter) time.Time {
	for {
		var due time.Time
		var on bool
		switch a := l.trip.next(m.c.Now()); a.kind {
		case rest:
			return a.at
		case put:
			due, on = m.put(ctx, l, letter, a.n)
		case repair:
			due, on = m.repair(ctx, l, letter)
		case ask:
			due, on = m.ask(ctx, l, letter.Asks[a.n])
		case done:
			return m.finish(ctx, l, letter)
		}
		if !on {
			return due
		}
	}
}

// put sends the letter's transaction. on: the way goes on; otherwise it is tried again when due.
func (m *Mail) put(ctx context.Context, l *line, letter api.Letter, n int) (due time.Time, on bool) {
	uri, auth := furtherURI(letter, n), ""
	if n < len(letter.Sends) {
		uri, auth = letter.Sends[n].URI, letter.Sends[n].Auth
	}
	status, text, err := m.signed(ctx, l, http.MethodPut, uri, auth, letter.Body)
	if errors.Is(err, ErrNoSigner) {
		l.trip.skip()
		return time.Time{}, true
	}
	if due, ok := m.judge(ctx, l, status, text, err); !ok {
		return due, false
	}
	if n > 0 {
		m.Count.Spares.Add(1)
		m.c.Log.Info("a server does not know what it took; it was sent the same under another id", "box", l.q.Box, "to", l.q.Other, "try", n+1)
	}
	if l.errs == nil {
		l.errs = errorsOf(text)
	}
	l.trip.took(m.c.Now(), len(letter.Events))
	return time.Time{}, true
}

// furtherURI is that of the same transaction under an id that the box has not signed.
func furtherURI(letter api.Letter, n int) string { return fmt.Sprintf("%s.%d", letter.Sends[0].URI, n) }

// signed sends a request of the box: as the box signed it, or as somebody else does who may.
func (m *Mail) signed(ctx context.Context, l *line, method, uri, auth string, body []byte) (status int, text []byte, err error) {
	if auth != "" && !l.resign {
		status, text, err = m.send(ctx, l.q.Other, method, uri, auth, body)
		if err != nil || status != http.StatusUnauthorized || m.c.Sign == nil {
			return status, text, err
		}
	}
	if m.c.Sign == nil {
		return 0, nil, ErrNoSigner
	}
	other, serr := m.c.Sign(ctx, l.q.Box, l.q.Other, method, uri, body)
	switch {
	case serr == nil:
	case status != 0:
		return status, text, nil // as the server answered
	case auth != "": // who signed for it until now does so no more
		l.resign = false
		return m.send(ctx, l.q.Other, method, uri, auth, body)
	default:
		return 0, nil, ErrNoSigner
	}
	l.resign = l.resign || auth != ""
	return m.send(ctx, l.q.Other, method, uri, other, body)
}

func (m *Mail) send(ctx context.Context, to, method, uri, auth string, body []byte) (int, []byte, error) {
	ctx, stop := context.WithTimeout(ctx, sendWait)
	defer stop()
	return m.c.Send(ctx, to, method, uri, auth, body)
}

// errorsOf reads what a server says against single events.
func errorsOf(text []byte) map[string]string {
	var out struct {
		PDUs map[string]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	errs := map[string]string{}
	if json.Unmarshal(text, &out) != nil {
		return errs
	}
	for id, p := range out.PDUs {
		if p.Error != "" {
			errs[id] = p.Error
		}
	}
	return errs
}

// ask asks for an event.
func (m *Mail) ask(ctx context.Context, l *line, q api.Ask) (due time.Time, on bool) {
	status, text, err := m.signed(ctx, l, http.MethodGet, q.URI, q.Auth, nil)
	switch {
	case err == nil && status == http.StatusNotFound:
		m.reached(l.q.Other, true)
		l.trip.answered(open)
		return time.Time{}, true
	case err == nil && status/100 == 4 && status != http.StatusUnauthorized && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout:
		m.reached(l.q.Other, true)
		l.trip.answered(barred)
		return time.Time{}, true
	}
	if due, ok := m.judge(ctx, l, status, text, err); !ok {
		return due, false
	}
	l.trip.answered(known)
	return time.Time{}, true
}

// judge says whether a server has taken a request, or when to try it again.
func (m *Mail) judge(ctx context.Context, l *line, status int, text []byte, err error) (due time.Time, ok bool) {
	switch {
	case ctx.Err() != nil:
		return m.c.Now().Add(waitMost), false
	case errors.Is(err, ErrBusy): // which says nothing of the server
		return m.later(ctx, l, "another transaction of the same server is under way there", 0, nil, waitMost), false
	case err != nil, status == http.StatusBadGateway, status == http.StatusServiceUnavailable, status == http.StatusGatewayTimeout:
		why := fmt.Sprintf("it answers %d", status)
		if err != nil {
			why = err.Error()
		}
		l.trip = nil // what it took may be lost with it: it gets the same once more
		m.stands(l, fmt.Sprintf("%s: %.200s", away, why), 0)
		m.reached(l.q.Other, false)
		return m.c.Now(), false // when it is asked again
	}
	m.reached(l.q.Other, true)
	if status == http.StatusOK {
		l.wait = 0
		m.stands(l, "", 0)
		return time.Time{}, true
	}
	most := waitLong
	if status == http.StatusTooManyRequests || status/100 == 5 {
		most = waitMost
	}
	return m.later(ctx, l, fmt.Sprintf("%s answers %d %.200s", l.q.Other, status, oneLine(text)), status, nil, most), false
}

func oneLine(text []byte) string { return strings.Join(strings.Fields(string(text)), " ") }

// later plans the next try after one that failed: the letter begins anew, unless all that lacks is its note.
func (m *Mail) later(ctx context.Context, l *line, why string, status int, err error, most time.Duration) time.Time {
	if !l.ended {
		l.trip = nil
	}
	if ctx.Err() == nil {
		m.stands(l, why, status)
		if err != nil {
			m.c.Log.Error(why, "box", l.q.Box, "to", l.q.Other, "err", err)
		}
	}
	if l.wait = 2 * l.wait; l.wait == 0 {
		l.wait = waitFirst
	}
	l.wait = min(l.wait, most)
	return m.c.Now().Add(l.wait)
}

// finish notes how far the box's letters have come, and only then crosses the letter out: when we die in between, it goes once more and is known.
// What cannot be told keeps its letter: the box would take for arrived what did not arrive.
func (m *Mail) finish(ctx context.Context, l *line, letter api.Letter) time.Time {
	l.ended = true
	var amiss []api.Amiss
	for i, f := range l.trip.asks {
		what := ""
		switch f {
		case barred:
			what = api.Barred
		case unkept:
			what = api.Unkept
		default:
			continue
		}
		amiss = append(amiss, api.Amiss{Series: letter.Series, N: letter.N, Event: letter.Asks[i].Event, What: what})
	}
	err := m.note(ctx, l.q.Box, l.q.Other, func(e *entry) error { return e.done(letter.Series, letter.N, amiss) })
	if errors.Is(err, ErrUnheard) {
		m.stands(l, unheard, 0)
		return m.c.Now().Add(waitLong) // or when the box has heard
	}
	if err != nil {
		return m.later(ctx, l, "the hub cannot write its spool now", 0, err, waitMost)
	}
	l.ended = false
	m.stands(l, "", 0)
	for _, a := range amiss {
		if a.What == api.Barred {
			m.Count.Barred.Add(1)
			continue
		}
		m.Count.Unkept.Add(1)
		m.c.Log.Warn("a server takes events and does not keep them; the box hears of it and offers them again", "box", l.q.Box, "to", l.q.Other, "event", a.Event, "said", l.errs[a.Event])
	}
	m.Count.Done.Add(1)
	due := m.cross(ctx, l, l.seq)
	m.c.Changed(l.q.Box)
	return due
}

// unheard is what people read of a queue that waits for its box.
const unheard = "what the server did not take of the letters before has to be told to the box first; it goes on when the box has been here"

// cross removes a letter from the queue.
func (m *Mail) cross(ctx context.Context, l *line, seq int64) time.Time {
	err := m.c.Spool.Settle(ctx, l.q, seq, m.c.Now(), l.lease)
	if errors.Is(err, spool.ErrFenced) { // the box has come or gone meanwhile; the next turn finds out who has it, and that the letter is done
		l.trip = nil
		return time.Time{}
	}
	if err != nil {
		return m.later(ctx, l, "the hub cannot write its spool now", 0, err, waitMost)
	}
	l.trip, l.wait = nil, 0
	return time.Time{}
}
