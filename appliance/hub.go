// SPDX-License-Identifier: EUPL-1.2

package appliance

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
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/clock"
	"hallig/appliance/event"
	"hallig/appliance/health"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/identity"
	"hallig/sync/peer"
)

// This file is the box's side of its hub: a paired peer that is no box. It gets no parcels; requests to servers that are no boxes go through it, and what it hands on is
// answered as if it had come straight.

const (
	hubLook    = time.Second
	copySoon   = 3 * time.Second  // at least, so that what has waited is on its way
	copyLater  = 30 * time.Minute // at most, after the hub has come in reach
	backlog    = 50               // events of ours under way to a server: more wait behind them
	hubContact = 10 * time.Minute // the key document is signed afresh daily, and what waits there is shown
	hubAgain   = 30 * time.Second // after a contact that failed
	hubTries   = 4                // contacts in a row, when each brings news: a hub that does so without end is put off
	hubSilent  = 15 * time.Second // a request that the hub has not answered by then goes straight as well
)

// hubParts is what the box knows of its hub. The zero value is a box without one.
type hubParts struct {
	server string // the hub's name; "": there is none
	log    *slog.Logger

	mu      sync.Mutex
	up      bool
	since   time.Time // of up, or of the outage
	next    time.Time // of the next contact
	answer  *api.Answer
	heard   time.Time
	trouble string    // why the last contact failed
	silent  time.Time // until then other ways come first: it did not answer a request
	told    time.Time // when all that the hub may answer was there
	ahead   bool      // the hub's clock is, and was not believed
	without string    // why the hub cannot sign for the box though it is to, or that it wants to though it is not

	delegated identity.Delegated

	touched      touched               // users of whom something has changed since the hub was told
	refused      string                // what the hub does not take of it; "": nothing
	touchedRooms map[event.RoomID]bool // as touched

	straight map[string]time.Time // servers that the box reached and the hub did not: until when that counts

	lettersNext time.Time // of the next question for letters; of the loop that looks at the hub
	heededNext  time.Time // of the next word what was heard of them; of that loop

	users  deposited // of the loop that looks at the hub
	listed listed    // of the same loop
	reach  reachTold // of the same loop

	ferrying int // Plays that are being handed on now; mu

	beyond beyond

	offered offered // of the same loop

	dealtTold []byte // the hub knows that this came by stick; mu
}

// hub gives the hub when it is paired.
func (x *exchangeParts) hub() (peer.Peer, bool) {
	if x.post.server == "" {
		return peer.Peer{}, false
	}
	return x.everybody().ByServer(x.post.server)
}

// hubInReach says whether requests can go through the hub now.
func (x *exchangeParts) hubInReach() bool {
	return x.host != nil && x.post.server != "" && x.host.InReach(x.post.server)
}

// byHub takes a request to a server that is no box to it by way of the hub, as it was signed. What the hub does not reach may be in reach of the box itself, and so it is when the hub
// says nothing. source is how the way that it took proves the server's name.
func (x *exchangeParts) byHub(req *http.Request, public http.RoundTripper) (resp *http.Response, source string, err error) {
	h := &x.post
	hub, ok := x.hub()
	if !ok {
		resp, err = public.RoundTrip(req)
		return resp, federation.SourceTLS, err
	}
	sources := [2]string{federation.SourceBox + string(hub.ID), federation.SourceTLS}
	ways := [2]roundTrip{x.throughHub, public.RoundTrip}
	h.mu.Lock()
	straight := time.Now().Before(h.silent)
	h.mu.Unlock()
	if straight {
		slices.Reverse(ways[:])
		slices.Reverse(sources[:])
	}
	began := time.Now()
	resp, way, err := hedge(req, hubSilent, ways)
	if err == nil && !straight && way == 1 && time.Since(began) >= hubSilent {
		h.mu.Lock()
		h.silent = time.Now().Add(hubContact)
		h.mu.Unlock()
		x.post.log.Warn("the hub does not answer; for a while requests go straight", "hub", h.server)
	}
	if err == nil {
		h.went(req.URL.Host, sources[way] == federation.SourceTLS)
	}
	return resp, sources[way], err
}

// throughHub sends a request to the hub, which sends it on.
func (x *exchangeParts) throughHub(req *http.Request) (*http.Response, error) {
	out := req.Clone(req.Context())
	if out.Host == "" {
		out.Host = req.URL.Host // whom it is for
	}
	out.URL.Host = x.post.server // whom it is handed to
	resp, err := x.host.RoundTripper().RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("by the hub %s: %w", x.post.server, err)
	}
	if resp.StatusCode != http.StatusBadGateway {
		return resp, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	var refusal struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	if err == nil && json.Unmarshal(text, &refusal) == nil && refusal.Code == api.Unreachable {
		return nil, notTaken{errors.New(refusal.Text)}
	}
	resp.Body = io.NopCloser(bytes.NewReader(text)) // the server's own answer
	return resp, nil
}

// askHubForKeys learns a server's keys from the hub, which has verified what it hands on.
func (b *Box) askHubForKeys(ctx context.Context, server string) error {
	x := b.exchange
	if !x.hubInReach() || server == x.post.server {
		return errors.New("there is no hub in reach")
	}
	return b.fed.client.LearnFrom(ctx, x.post.server, server)
}

// fromHub separates what the hub hands on from what paired boxes ask. The one behind it may be anybody, so nothing but the Server-Server API is open to it; and the hub's word
// counts when it says at what time a request came in.
func (b *Box) fromHub(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.exchange.post.server == "" || r.RemoteAddr != b.exchange.post.server {
			next.ServeHTTP(w, r)
			return
		}
		if r.URL.Path == api.StandingPath { // its own word: it hands on no such path of others
			b.heardOfLetters(w, r)
			return
		}
		if r.URL.Path == api.PlayPath && r.Method == http.MethodPost { // and this
			b.played(w, r)
			return
		}
		if strings.HasPrefix(r.URL.Path, api.FerryPath) && r.Method == http.MethodPost { // for another box
			b.ferry(w, r)
			return
		}
		ms, _ := strconv.ParseInt(r.Header.Get(api.Received), 10, 64) // none: it comes in now
		b.answerHub(w, r, ms)
	})
}

// answerHub answers what somebody asks through the hub, which says when it came in; 0: now.
func (b *Box) answerHub(w http.ResponseWriter, r *http.Request, received int64) {
	if at := time.UnixMilli(received); received > 0 && at.Before(b.clock.Now()) {
		r = r.WithContext(federation.WithReceived(r.Context(), at))
	}
	b.fed.handler.ServeHTTP(w, r.WithContext(federation.WithGuest(r.Context(), b.exchange.post.server)))
}

// runHub tells the hub of the box whenever it comes in reach, and now and then.
func (b *Box) runHub(ctx context.Context, g *errgroup.Group) {
	h := &b.exchange.post
	if h.server == "" || b.exchange.host == nil {
		return
	}
	h.mu.Lock()
	h.since, h.touchedRooms = time.Now(), map[event.RoomID]bool{}
	h.mu.Unlock()
	b.takeKeyBack() // the end may have come between the pairing's and the key's
	b.db.OnCommit(h.changed)
	g.Go(func() error {
		every(ctx, hubLook, func() { b.lookAtHub(ctx) })
		return nil
	})
}

// changed notes of what the hub is to be told soon.
func (h *hubParts) changed(c store.Commit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.up {
		return // once it is in reach it is told of all
	}
	for _, user := range c.Users {
		h.touched.add(user)
	}
	for _, room := range c.Rooms {
		h.touchedRooms[room] = true
	}
}

func (b *Box) lookAtHub(ctx context.Context) {
	h := &b.exchange.post
	up, now := b.exchange.hubInReach(), time.Now()
	h.mu.Lock()
	came := up && !h.up
	if up != h.up {
		h.up, h.since, h.next = up, now, now
	}
	due := up && !now.Before(h.next)
	epoch := ""
	if h.answer != nil && h.trouble == "" {
		epoch = h.answer.Epoch
	}
	h.mu.Unlock()
	if due {
		asked := time.Now()
		answer, err := b.contactHub(ctx)
		if ctx.Err() != nil {
			return
		}
		b.noteContact(answer, err)
		if err == nil {
			epoch, h.users.next = answer.Epoch, now
			b.tellDealt(ctx, epoch)
			if answer.Letters != nil {
				h.lettersNext = now.Add(lettersAsked)
				b.fed.sender.Standing(*answer.Letters, asked)
			}
		}
	}
	if came {
		h.listed.all, h.listed.next = false, now
		h.offered.told, h.offered.next, h.offered.trouble = nil, now, "" // it may be another one
		b.log.Info("hub in reach", "hub", h.server)
		b.fed.sender.LinkUp("") // the box speaks first
	}
	if up {
		b.tellReach(ctx, came, now)
	}
	if up && epoch != "" {
		b.tellUsers(ctx, epoch, now)
		if !b.comingHome(now) {
			b.tellRooms(ctx, now)
			b.tellFiles(ctx, now)
		}
		b.askForLetters(ctx, now)
	}
}

// comingHome says that the line to the hub is needed for what has waited: the hub's copy of the rooms, as long as the backlog itself, is for when the box is away again.
func (b *Box) comingHome(now time.Time) bool {
	h := &b.exchange.post
	h.mu.Lock()
	up := now.Sub(h.since)
	h.mu.Unlock()
	return up < copySoon || up < copyLater && slices.ContainsFunc(b.fed.sender.Status(), func(s federation.Status) bool { return !s.Failing && s.Unconfirmed >= backlog })
}

// tellUsers brings the hub up to date about users: all of them now and then, those of whom something has changed soon.
func (b *Box) tellUsers(ctx context.Context, epoch string, now time.Time) {
	h := &b.exchange.post
	all := !now.Before(h.users.next)
	h.mu.Lock()
	some := h.touched
	if !all && (some.none() || now.Sub(h.users.last) < usersSoon) {
		h.mu.Unlock()
		return
	}
	h.touched = touched{}
	h.mu.Unlock()
	h.users.last = now
	if all = all || some.all; all {
		h.users.next, some.users = now.Add(usersEvery), nil
	}
	err := b.depositUsers(ctx, epoch, some.users)
	if err != nil && ctx.Err() == nil {
		h.users.next = now.Add(hubAgain)
		b.log.Info("not all of what the hub may answer about users is there yet; it is tried again", "hub", h.server, "err", err)
	}
	if err == nil {
		h.mu.Lock()
		h.told = now
		h.mu.Unlock()
	}
}

// noteContact remembers how a contact went.
func (b *Box) noteContact(answer *api.Answer, err error) {
	h := &b.exchange.post
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.trouble, h.next, h.answer, h.heard = "", time.Now().Add(hubContact), answer, time.Now()
		return
	}
	if h.trouble == "" {
		b.log.Warn("the hub does not take what the box says of itself; it is tried again", "hub", h.server, "err", err)
	}
	h.trouble, h.next = err.Error(), time.Now().Add(hubAgain)
}

// noteWithout remembers why the mode is not as it is to be.
func (h *hubParts) noteWithout(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.without = ""
	if err != nil {
		h.without = err.Error()
	}
}

// contactHub tells the hub who and how the box is, and again when its answer has changed that: the box knows the time now, has another key in its document, or follows a newer policy.
func (b *Box) contactHub(ctx context.Context) (a *api.Answer, err error) {
	for again, tries := true, 0; again && err == nil && tries < hubTries; tries++ {
		a, again, err = b.speakWithHub(ctx)
	}
	return a, err
}

// speakWithHub is one contact; again says that there is news to tell.
func (b *Box) speakWithHub(ctx context.Context) (_ *api.Answer, again bool, _ error) {
	c, err := b.report(ctx)
	if err != nil {
		return nil, false, err
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, false, fmt.Errorf("write contact: %w", err)
	}
	asked := time.Now()
	text, err := b.hubAnswer(ctx, http.MethodPut, api.ContactPath, raw)
	if err != nil {
		return nil, false, err
	}
	a, err := api.ReadAnswer(text)
	if err != nil {
		return nil, false, err
	}
	if a.Time > 0 && time.Since(asked) < clockLate {
		again = b.hearHub(time.UnixMilli(a.Time))
	}
	if len(a.Policy) > 0 && b.policies.key != nil && b.takePolicy(a.Policy) == nil {
		again = true
	}
	listed, err := b.hearDelegated(&a, c.Proposal)
	if listed && err == nil {
		return &a, true, nil // the next document lists the key
	}
	b.exchange.post.noteWithout(err)
	return &a, again, nil
}

// report is what the box says of itself.
func (b *Box) report(ctx context.Context) (*api.Contact, error) {
	doc, err := b.fed.ring.Document(b.local())
	if err != nil {
		return nil, err
	}
	proposal, err := b.proposal()
	if err != nil {
		return nil, err
	}
	statement, err := b.id.Statement()
	if err != nil {
		return nil, err
	}
	tree := b.recentHealth(ctx)
	var board string
	var release int64
	var update *api.UpdateState
	if s, err := b.stewardState(ctx); err == nil { // else the box does not run from the image
		board, release = s.Machine.Board, s.Release
		why := s.Update.Error
		update = &api.UpdateState{State: s.Update.State, Version: s.Update.Version, Release: s.Update.Release, Error: strings.ToValidUTF8(why.En[:min(len(why.En), 500)], ""), ErrorDE: strings.ToValidUTF8(why.De[:min(len(why.De), 500)], "")}
	}
	c := &api.Contact{
		Version: b.cfg.Version, Mode: b.cfg.Hub.mode(), Statement: statement, KeyDocument: doc, Proposal: proposal, Health: string(tree.State), Sentence: tree.Public().Sentence.EN,
		SentenceDE: tree.Public().Sentence.DE, Clock: b.clock.Now().UnixMilli(), ClockGood: b.clock.Trusted(), ClockQuality: b.clock.State().Quality.String(), Board: board, Release: release, Update: update,
	}
	if p := b.policyStatus(); p != nil {
		c.Policy, c.PolicyRefused = &p.Serial, strings.ToValidUTF8(p.Refused[:min(len(p.Refused), 500)], "")
	}
	return c, nil
}

// hearHub takes the hub's time, when it may be believed, and says when it may not. It says whether the box knows the time better now.
func (b *Box) hearHub(t time.Time) (better bool) {
	h := &b.exchange.post
	before := b.clock.State()
	taken := b.heardTime(clock.Reading{Time: t, Quality: clock.Told, Source: "hub " + h.server})
	ahead := t.Sub(b.clock.Now()).Round(time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	wrong := !taken && ahead > time.Minute
	if wrong && !h.ahead {
		b.log.Warn("the hub's clock is ahead of the box's, and is not believed; one of them is wrong: see to the hub's time server, or say what time it is with: hallig clock TIME", "hub", h.server,
			"hub_says", t.UTC().Format(time.RFC3339), "ahead", ahead)
	}
	h.ahead = wrong
	return taken && (before.Quality == clock.Untrusted || t.Sub(before.Time).Abs() > time.Minute)
}

// hubStatus is what people are shown; nil: there is no hub.
func (b *Box) hubStatus() *admin.Hub {
	h := &b.exchange.post
	if h.server == "" {
		return nil
	}
	_, paired := b.exchange.hub()
	var others []string
	if !paired {
		for _, p := range b.exchange.byCode().All() {
			if len(others) < 5 { // so many boxes are prepared by somebody who sees the names
				others = append(others, p.Server)
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	out := &admin.Hub{ServerName: h.server, Paired: paired, InReach: h.up, Since: h.since, Mode: b.cfg.Hub.mode(), Key: h.delegated.ID, Trouble: cmp.Or(h.trouble, h.refused), ModeTrouble: h.without, Others: others}
	if by, at := h.beyond.last(); by != "" && !h.up {
		out.Through, out.ThroughAt = by, at
	}
	if h.answer != nil {
		out.Version, out.Heard, out.Told = h.answer.Version, h.heard, h.told
		for _, q := range h.answer.Waiting {
			out.Waiting += q.Count
			if out.Oldest.IsZero() || q.Oldest.Before(out.Oldest) {
				out.Oldest = q.Oldest
			}
		}
	}
	return out
}

// hubFacts is the same for the health tree.
func (b *Box) hubFacts(now time.Time) *health.HubFacts {
	s := b.hubStatus()
	if s == nil {
		return nil
	}
	f := &health.HubFacts{Name: s.ServerName, Paired: s.Paired, Err: s.Trouble, Mode: s.ModeTrouble}
	switch {
	case s.InReach:
	case s.Through != "" && now.Sub(s.ThroughAt) < beyondFresh:
		f.Through = s.Through
	default:
		f.Away = now.Sub(later(s.Since, s.ThroughAt))
	}
	return f
}
