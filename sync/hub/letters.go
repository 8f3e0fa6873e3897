// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/letter"
	"hallig/sync/hub/spool"
)

// This file joins letters (hub/letter) to the hub: who may leave them, how they travel, and what boxes hear of them.

func (h *Hub) openMail() {
	h.mail = letter.New(letter.Config{
		Spool: h.spool, Node: h.node, Lease: leaseLife, Alone: h.cfg.Database == "", Local: h.local, Send: h.sendLetter, Log: h.log.With("room", "mail"), Now: h.now, Changed: h.lettersChanged,
		May: func(ctx context.Context, box, room string) bool {
			return h.replica.MayWrite(ctx, event.RoomID(room), box)
		},
		Key: func(box, keyID string) ed25519.PublicKey { return h.signingKey(box, keyID) },
		Boxes: func(server string) (ours, good bool) {
			e, ok := h.box(server)
			return ok, ok && e.revoked == ""
		},
		Sign: func(ctx context.Context, box, to, method, uri string, body []byte) (string, error) {
			l, ok := h.delegated(ctx, box)
			if !ok {
				return "", letter.ErrNoSigner
			}
			a, err := federation.SignRequest(l, to, method, uri, body)
			return a.String(), err
		},
	})
}

// singleWait is how long a letter waits for a transaction that is under way; then it is tried again.
const singleWait = 5 * time.Second

// sendLetter brings one signed request of a letter to its server. letter.ErrBusy: another transaction of the same origin is under way there.
func (h *Hub) sendLetter(ctx context.Context, to, method, uri, authorization string, body []byte) (int, []byte, error) {
	if method != http.MethodPut {
		status, _, text, err := h.bring(ctx, to, method, uri, authorization, body)
		return status, text, err
	}
	a, err := federation.ParseAuthorization(authorization)
	if err != nil {
		return 0, nil, err
	}
	wait, stop := context.WithTimeout(ctx, singleWait)
	defer stop()
	ended := func(int, http.Header, []byte) {}
	if hasEDUs(body) { // the box may have sent it straight before it left it
		k := onceOf(a.Origin, to, uri, body)
		t, mine := h.once.begin(k, h.now())
		if !mine {
			select {
			case <-t.done:
				if t.status == http.StatusOK {
					return t.status, t.body, nil
				}
			case <-wait.Done():
			}
			return 0, nil, letter.ErrBusy
		}
		ended = func(status int, head http.Header, text []byte) { h.once.end(k, t, status, head, text) }
	}
	leave, err := h.singles.enter(wait, a.Origin, to)
	if err != nil {
		ended(0, nil, nil)
		return 0, nil, letter.ErrBusy
	}
	defer leave()
	status, head, text, err := h.bring(ctx, to, method, uri, authorization, body)
	ended(status, head, text)
	return status, text, err
}

// bring sends a request as it was signed, and gives the answer; of a long one the beginning.
func (h *Hub) bring(ctx context.Context, to, method, uri, authorization string, body []byte) (int, http.Header, []byte, error) {
	req, err := verbatim(to, sealed{method: method, uri: uri, authorization: []string{authorization}, body: body})
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header["Idempotency-Key"] = []string{} // lets net/http repeat it when a kept connection turns out to be dead
	resp, err := h.discovery.RoundTrip(req.WithContext(ctx))
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // what is longer is an event that was asked for: nobody reads it
	if err != nil {
		return 0, nil, nil, fmt.Errorf("read the answer of %s: %w", to, err)
	}
	return resp.StatusCode, resp.Header, text, nil
}

// letter takes a letter of a box, or has those of a series not go any more.
func (h *Hub) letter(w http.ResponseWriter, r *http.Request, from entry) {
	if r.Method == http.MethodDelete {
		q := r.URL.Query()
		h.sayTaken(w, from, h.mail.TakeBack(r.Context(), from.Server, q.Get("to"), q.Get("series")))
		return
	}
	if r.Method != http.MethodPut {
		refuse(w, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "want PUT or DELETE")
		return
	}
	raw, release, ok := h.body(w, r)
	if !ok {
		return
	}
	defer release()
	// What has begun goes on when the box hangs up: it leaves the same again.
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), 30*time.Second)
	defer stop()
	err := h.mail.Take(ctx, from.Server, raw)
	if l, bad := api.ReadLetter(raw); err == nil && bad == nil {
		h.replica.Passed(from.Server, from.Server, l.Body)
	}
	h.sayTaken(w, from, err)
}

func (h *Hub) sayTaken(w http.ResponseWriter, from entry, err error) {
	switch {
	case err == nil:
		answer(w, http.StatusOK, struct{}{})
	case errors.Is(err, letter.ErrBad):
		h.log.Warn("a letter was not taken", "box", from.Server, "err", err)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
	case errors.Is(err, letter.ErrEpoch):
		refuse(w, http.StatusConflict, api.OtherMemory, err.Error())
	case errors.Is(err, spool.ErrFull):
		if h.seldom.may("letters "+from.Server, h.now()) {
			h.log.Warn("no more letters are taken of a box for now: as many wait as are kept for one; is the server in reach of this hub?", "box", from.Server)
		}
		refuse(w, http.StatusTooManyRequests, api.NoRoom, "as many letters wait as are kept for one box")
	case errors.Is(err, letter.ErrUnheard):
		if h.seldom.may("unheard "+from.Server, h.now()) {
			h.log.Warn("letters that a box takes back are not noted yet: it has to hear first what went wrong with others; it does so while it is here", "box", from.Server)
		}
		refuse(w, http.StatusTooManyRequests, api.NoRoom, err.Error())
	default:
		if h.seldom.may("spool", h.now()) {
			h.log.Error("nothing is taken that cannot be kept: the hub's disk or database does not take it; see to its space and start the hub again", "box", from.Server, "err", err)
		}
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot keep it now")
	}
}

// letters says how far a box's letters have come, and takes in what of that it has heard.
func (h *Hub) letters(w http.ResponseWriter, r *http.Request, from entry) {
	if r.Method == http.MethodPut {
		raw, release, ok := h.body(w, r)
		if !ok {
			return
		}
		defer release()
		heard, err := api.ReadLetters(raw)
		if err != nil {
			refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
			return
		}
		if err := h.mail.Heeded(r.Context(), from.Server, heard); err != nil {
			refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot write its spool now")
			return
		}
	}
	out, err := h.mail.Standing(r.Context(), from.Server)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot read its spool now")
		return
	}
	answer(w, http.StatusOK, out)
}

// lettersChanged has a box told that is connected here.
func (h *Hub) lettersChanged(box string) {
	h.mu.Lock()
	c := h.carriers[box]
	h.mu.Unlock()
	if c != nil {
		select {
		case c.news <- struct{}{}:
		default:
		}
	}
}

const (
	tellGather = 100 * time.Millisecond // many letters, one word
	tellWait   = 20 * time.Second
)

// tell lets a connected box know how far its letters have come, whenever they have come further. What it does not hear it hears at its next contact.
func (c *carrier) tell(ctx context.Context) {
	for {
		select {
		case <-c.news:
		case <-ctx.Done():
			return
		}
		if err := c.tellOnce(ctx); err != nil && ctx.Err() == nil {
			c.log.Debug("a box was not told of its letters", "err", err)
		}
		if !pause(ctx, tellGather, nil) {
			return
		}
	}
}

func (c *carrier) tellOnce(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, tellWait)
	defer stop()
	out, err := c.h.mail.Standing(ctx, c.box)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(out)
	if err != nil {
		return err
	}
	req, err := verbatim(c.box, sealed{method: http.MethodPut, uri: api.StandingPath, body: raw})
	if err != nil {
		return err
	}
	resp, err := c.h.p2p.RoundTripper().RoundTrip(req.WithContext(ctx))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

const missingPath = "/_matrix/federation/v1/get_missing_events/"

// underOwnName answers what the world asks the hub itself: its keys, and what lacks before events that it has sent in its own name.
func (h *Hub) underOwnName(w http.ResponseWriter, r *http.Request) {
	room, ok := strings.CutPrefix(r.URL.Path, missingPath)
	if !ok || r.Method != http.MethodPost {
		h.notary.ServeHTTP(w, r)
		return
	}
	body, release, err := h.verifier(r).Body(w, r)
	if err != nil {
		refuse(w, http.StatusNotFound, "M_NOT_FOUND", "the request did not arrive as a whole")
		return
	}
	defer release()
	a, _, err := h.verifier(r).Verify(r, body, h.now(), func(a federation.Authorization) error { return meant(a, h.id.Server) })
	var q struct {
		Latest   []string `json:"latest_events"`
		Earliest []string `json:"earliest_events"`
	}
	if err == nil {
		err = json.Unmarshal(body, &q)
	}
	if err != nil {
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", err.Error())
		return
	}
	events := h.mail.Missing(a.Origin, room, q.Latest, q.Earliest)
	if events == nil {
		events = []json.RawMessage{}
	}
	answer(w, http.StatusOK, map[string]any{"events": events})
}
