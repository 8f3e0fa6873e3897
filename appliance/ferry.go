// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/ferry"
	"hallig/sync/link"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/relay"
)

// This file lets a box that nothing but a line to another box leads to have what waits for it at the hub, and lets that other box hand it on. See sync/hub/ferry.

const (
	beyondFresh = time.Hour // so long after it was heard through a box, the hub counts as in reach through it: it speaks twice in that time
	ferryAtOnce = 8         // Plays that a box hands on at a time, for all boxes behind it
	reachSoon   = 5 * time.Second
	reachAgain  = 2 * time.Minute
)

// beyond is what this box hears of its hub through another one. The zero value has heard nothing.
type beyond struct {
	work sync.Mutex // one Play at a time; before mu

	mu      sync.Mutex
	codec   *parcel.Codec
	word    ferry.Word
	number  uint64          // of the last Play with requests
	answers []api.PlayedOne // to it
	by      string          // the box in between
	at      time.Time
	said    time.Time // when the log last had a refusal
}

// last says through whom the hub was last heard, and when.
func (y *beyond) last() (by string, at time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.by, y.at
}

// ferried answers what the hub has a box in between bring, and hands all else to next.
func (b *Box) ferried(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := strings.CutPrefix(r.RemoteAddr, "box:")
		if !ok || r.URL.Path != api.FerriedPath || r.Method != http.MethodPost {
			next.ServeHTTP(w, r)
			return
		}
		from, ok := b.exchange.paired().ByID(peer.ID(id))
		hub, paired := b.exchange.hub()
		if !ok || !paired {
			refusePassage(w, http.StatusNotFound, "M_UNRECOGNIZED", "this box has no hub, or is not paired with the box that asks")
			return
		}
		b.hearHubThrough(w, r, hub, from)
	})
}

// hearHubThrough reads what the hub has sealed, does it, and seals what is to be said to it. Only the hub can have made it: who is in between is asked for nothing, and believed in nothing.
func (b *Box) hearHubThrough(w http.ResponseWriter, r *http.Request, hub, from peer.Peer) {
	y := &b.exchange.post.beyond
	sealed, err := io.ReadAll(io.LimitReader(r.Body, api.FerryMost+1))
	if err != nil || len(sealed) > api.FerryMost {
		refusePassage(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "this is more than a hub hands on through a box")
		return
	}
	seal, err := peer.NewSeal(b.id.Box, hub.BoxKey)
	var codec *parcel.Codec
	if err == nil {
		codec, err = y.packer()
	}
	var text []byte
	var number uint64
	var p *ferry.Play
	if err == nil {
		text, number, err = ferry.OpenPlay(seal, sealed)
	}
	if err == nil {
		p, err = ferry.ReadPlay(codec, text)
	}
	if err != nil {
		if y.maySay(time.Now()) {
			b.log.Warn("what a box brought as its hub's is not the hub's, and is not taken. If it goes on, forget that box: hallig forget", "box", from.Server, "err", err)
		}
		refusePassage(w, http.StatusForbidden, "M_FORBIDDEN", "this is not sealed by the hub of this box")
		return
	}
	if !y.work.TryLock() { // the hub asks again; what is being worked on it may ask about then
		refusePassage(w, http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "this box is at work on what came before")
		return
	}
	defer y.work.Unlock()
	a, err := b.answerPlay(r.Context(), y, p, number)
	if err == nil {
		y.heard(from.Server, time.Now())
		sealed, err = ferry.CloseAnswer(seal, number, a.Pack(codec))
	}
	if err != nil {
		b.log.Error("answer the hub through another box; it asks again", "by", from.Server, "err", err)
		refusePassage(w, http.StatusServiceUnavailable, "M_UNKNOWN", "this box cannot do it now")
		return
	}
	_, _ = w.Write(sealed) // it is asked for again when it does not arrive
}

// answerPlay does what a Play asks for. The caller holds y.work.
func (b *Box) answerPlay(ctx context.Context, y *beyond, p *ferry.Play, number uint64) (*ferry.Answer, error) {
	a := &ferry.Answer{Clock: b.clock.Now().UnixMilli()}
	if p.Contact {
		c, err := b.report(ctx)
		if err != nil {
			return nil, err
		}
		c.Proposal = nil // another key of the box is agreed upon when it meets its hub
		if a.Contact, err = json.Marshal(c); err != nil {
			return nil, err
		}
	}
	switch {
	case len(p.Requests) > 0 && y.takes(p.Word):
		for _, doc := range p.Keys {
			if err := b.fed.ring.Learn(ctx, []byte(doc), federation.SourceBox+string(b.hubID())); err != nil {
				b.log.Info("a key document that the hub has sent was not taken", "err", err)
			}
		}
		answers, err := b.playRequests(ctx, p.Requests)
		if err != nil {
			return nil, err
		}
		y.done(number, answers)
		a.Of, a.Played = number, answers
	case p.About != 0:
		if answers, ok := y.about(p.About); ok {
			a.Of, a.Played = p.About, answers
		}
	}
	a.Word = y.next()
	return a, nil
}

func (b *Box) hubID() peer.ID {
	hub, _ := b.exchange.hub()
	return hub.ID
}

// playRequests answers requests one after the other, as if each had come by itself, up to the first that is not dealt with.
func (b *Box) playRequests(ctx context.Context, rs []ferry.Request) (out []api.PlayedOne, err error) {
	r := (&http.Request{RemoteAddr: b.exchange.post.server}).WithContext(ctx)
	for _, q := range rs {
		var whole bool
		var one api.Waited
		err := b.db.View(ctx, func(rd *store.Read) (err error) {
			one, whole, err = q.Fill(func(id [5]byte) ([]byte, error) {
				row, err := rd.EventBeginning(id)
				if row == nil || err != nil {
					return nil, err
				}
				return row.JSON, nil
			})
			return err
		})
		if err != nil {
			return nil, err
		}
		if !whole {
			return append(out, api.PlayedOne{Status: ferry.Whole}), nil
		}
		a := ferry.Short(b.playedOne(r, one))
		out = append(out, a)
		if !dealtWith(a) || ctx.Err() != nil {
			break
		}
	}
	return out, nil
}

// packer makes the codec when it is first needed: few boxes are ever reached like this.
func (y *beyond) packer() (c *parcel.Codec, err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.codec == nil {
		y.codec, err = parcel.NewCodec()
	}
	return y.codec, err
}

// takes says whether a Play brings the word that is due. It is due once.
func (y *beyond) takes(word ferry.Word) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	ok := word == y.word && y.word != ferry.Word{}
	if ok {
		y.word = ferry.Word{}
	}
	return ok
}

// next gives the word that is due.
func (y *beyond) next() ferry.Word {
	y.mu.Lock()
	defer y.mu.Unlock()
	for y.word == (ferry.Word{}) {
		_, _ = rand.Read(y.word[:]) // never fails
	}
	return y.word
}

func (y *beyond) done(number uint64, answers []api.PlayedOne) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.number, y.answers = number, answers
}

func (y *beyond) about(number uint64) ([]api.PlayedOne, bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.answers, y.number == number
}

func (y *beyond) heard(by string, now time.Time) {
	y.mu.Lock()
	defer y.mu.Unlock()
	y.by, y.at = by, now
}

func (y *beyond) maySay(now time.Time) bool {
	y.mu.Lock()
	defer y.mu.Unlock()
	ok := now.Sub(y.said) > 10*time.Minute
	if ok {
		y.said = now
	}
	return ok
}

// ferry hands what the hub has sealed to a box that this one reaches, and its answer back.
func (b *Box) ferry(w http.ResponseWriter, r *http.Request) {
	name, err := url.PathUnescape(strings.TrimPrefix(r.URL.EscapedPath(), api.FerryPath))
	if err == nil && !b.exchange.isBox(name) {
		err = errors.New("no box of that name is paired with this one")
	}
	if err == nil && !b.exchange.leadsTo(name) {
		err = errors.New("that box is not in reach of this one")
	}
	if err != nil {
		refusePassage(w, http.StatusBadGateway, api.Unreachable, err.Error())
		return
	}
	sealed, err := io.ReadAll(io.LimitReader(r.Body, api.FerryMost+1))
	if err != nil || len(sealed) > api.FerryMost {
		refusePassage(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "this is more than is handed on at once")
		return
	}
	if !b.exchange.post.enter() {
		refusePassage(w, http.StatusBadGateway, api.Unreachable, "too much is being handed on already")
		return
	}
	defer b.exchange.post.leave()
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, federation.Scheme+"://"+name+api.FerriedPath, bytes.NewReader(sealed))
	if err != nil {
		refusePassage(w, http.StatusBadGateway, api.Unreachable, err.Error())
		return
	}
	resp, err := b.exchange.link.RoundTripper().RoundTrip(req)
	if err != nil {
		refusePassage(w, http.StatusBadGateway, api.Unreachable, err.Error())
		return
	}
	bringBack(w, resp)
}

// bringBack hands the far box's answer to the hub, as far as it is one.
func bringBack(w http.ResponseWriter, resp *http.Response) {
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, api.FerryAnswer+1))
	if err != nil || len(answer) > api.FerryAnswer || resp.StatusCode < 200 || resp.StatusCode > 599 { // a line carries any number, and net/http dies of some
		refusePassage(w, http.StatusBadGateway, api.Unreachable, "its answer did not arrive, or is none")
		return
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer) // the hub asks about it when it does not arrive
}

// enter takes one of the places for what is handed on.
func (h *hubParts) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ferrying >= ferryAtOnce {
		return false
	}
	h.ferrying++
	return true
}

func (h *hubParts) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ferrying--
}

// leadsTo says whether a line that may carry everything leads to a box now.
func (x *exchangeParts) leadsTo(server string) bool {
	for _, s := range x.link.Status() {
		if s.Peer.Server == server {
			return s.Carries != "" && !s.Open
		}
	}
	return false
}

// inLine lists the boxes to which such a line leads, for the hub.
func (x *exchangeParts) inLine() (out []api.Reached) {
	for _, s := range x.link.Status() {
		if s.Carries == "" || s.Open || s.BitsPerSecond <= 0 || len(out) == api.MaxReach {
			continue
		}
		way := api.ByRadio
		switch {
		case s.Carries == relay.Name:
			way = api.ByRelay
		case x.host != nil && s.Carries == link.Transport(x.host).Name():
			way = api.ByNet
		}
		out = append(out, api.Reached{Server: s.Peer.Server, Rate: s.BitsPerSecond, Way: way})
	}
	return out
}

// reachTold is what the hub was told of the boxes in reach. Only the loop that looks at the hub uses it.
type reachTold struct {
	said string
	at   time.Time
	old  bool // the hub does not know what that is
}

// tellReach tells the hub which boxes this one reaches: when it has come in reach, when that changes, and now and then.
func (b *Box) tellReach(ctx context.Context, came bool, now time.Time) {
	t := &b.exchange.post.reach
	if came {
		*t = reachTold{}
	}
	l := api.Reach{Boxes: b.exchange.inLine()}
	raw, err := json.Marshal(l)
	if err != nil {
		return // plain values always marshal
	}
	same := string(raw) == t.said || t.said == "" && len(l.Boxes) == 0
	if t.old || now.Sub(t.at) < reachSoon || same && (len(l.Boxes) == 0 || now.Sub(t.at) < reachAgain) {
		return
	}
	t.at = now
	_, err = b.hubAnswer(ctx, http.MethodPut, api.ReachPath, raw)
	var refused *hubRefusal
	switch {
	case err == nil:
		t.said = string(raw)
	case errors.As(err, &refused):
		t.old = refused.status == http.StatusNotFound
		b.log.Info("the hub does not take which boxes this one reaches; what waits for them there waits until they are connected", "hub", b.exchange.post.server, "err", err)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
