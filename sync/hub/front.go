// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/depot"
	"hallig/sync/hub/spool"
)

// This file is the front of a box: what the hub answers to others under the box's name.

const sendPath = "/_matrix/federation/v1/send/"

// kindKey is the deposit with the box's key document.
const kindKey = "key_document"

// front answers a request for a box of ours.
func (h *Hub) front(w http.ResponseWriter, r *http.Request, to entry) {
	switch {
	case to.revoked != "":
		h.count.turnedAway.Add(1)
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", to.Server+" is out of service for good")
	case r.URL.Path == wellKnownPath:
		if h.cfg.Host == "" {
			refuse(w, http.StatusNotFound, "M_NOT_FOUND", "this server publishes no federation address")
			return
		}
		answer(w, http.StatusOK, map[string]string{"m.server": h.cfg.Host})
	case !between(r.URL):
		refuse(w, http.StatusNotFound, "M_UNRECOGNIZED", "there is no such route")
	case strings.HasPrefix(r.URL.Path, sendPath):
		h.takeIn(w, r, to)
	case isKeyDocument(r):
		h.keyDocument(w, r, to)
	default:
		body, release, err := h.verifier(r).Body(w, r)
		if err != nil {
			refuse(w, http.StatusNotFound, "M_NOT_FOUND", "the request did not arrive as a whole")
			return
		}
		defer release()
		if !h.ask(w, r, to, body) {
			h.instead(w, r, to, body)
		}
	}
}

const wellKnownPath = "/.well-known/matrix/server"

// takeIn keeps a transaction for a box, and only then says that it has it.
// https://spec.matrix.org/v1.16/server-server-api/#put_matrixfederationv1sendtxnid
func (h *Hub) takeIn(w http.ResponseWriter, r *http.Request, to entry) {
	if r.Method != http.MethodPut || len(r.URL.Path) > len(sendPath)+255 {
		refuse(w, http.StatusBadRequest, "M_INVALID_PARAM", "want PUT and a transaction id of at most 255 characters")
		return
	}
	body, release, ok := h.body(w, r)
	if !ok {
		return
	}
	defer release()
	now := h.now()
	a, header, err := h.verifier(r).Verify(r, body, now, func(a federation.Authorization) error {
		return meant(a, to.Server)
	})
	switch {
	case errors.Is(err, federation.ErrBusy), errors.Is(err, federation.ErrKeyUnavailable):
		if h.seldom.may("key", now) {
			h.log.Warn("a transaction waits at its sender: its signing key cannot be had now; is the sender's name in reach of this hub?", "box", to.Server, "err", err)
		}
		comeAgain(w, "the signing key of the origin could not be had")
		return
	case err != nil:
		h.count.refused.Add(1)
		h.log.Info("transaction refused", "box", to.Server, "reason", err)
		refuse(w, http.StatusUnauthorized, "M_UNAUTHORIZED", err.Error())
		return
	}
	sum, err := federation.CheckTransaction(body)
	if err != nil {
		h.count.refused.Add(1)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	h.ring.Reachable(a.Origin)
	h.mail.Heard(a.Origin)
	uri := federation.SignedURI(r)
	// What has begun goes on when the sender hangs up: it will send the same again.
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), 30*time.Second)
	defer stop()
	q := spool.Queue{Box: to.Server, Other: a.Origin, In: true}
	fresh, err := h.spool.Append(ctx, q, now, spool.Request{Key: uri + " " + sum, Method: r.Method, URI: uri, Authorization: header, Body: body, Received: now})
	switch {
	case errors.Is(err, spool.ErrUnknown):
		refuse(w, http.StatusNotFound, "M_NOT_FOUND", "no server of this name is here")
		return
	case errors.Is(err, spool.ErrFull):
		h.count.full.Add(1)
		if h.seldom.may("full "+to.Server+" "+a.Origin, now) {
			h.log.Error("no more is taken for a box: too much waits for it; bring the box in contact with the hub, or turn it away with hallig-hub revoke", "box", to.Server, "from", a.Origin)
		}
		comeAgain(w, "too much waits for this server")
		return
	case err != nil:
		h.count.full.Add(1)
		if h.seldom.may("spool", now) {
			h.log.Error("nothing is taken that cannot be kept: the hub's disk or database does not take it; see to its space and start the hub again", "box", to.Server, "err", err)
		}
		comeAgain(w, "this cannot be kept now")
		return
	}
	if fresh > 0 {
		h.count.taken.Add(1)
		h.replica.Passed(to.Server, a.Origin, body)
	}
	h.spoke(ctx, to.Server, a.Origin, now)
	answer(w, http.StatusOK, map[string]any{"pdus": struct{}{}})
}

// ask asks the box itself, for a file only when that is not here.
func (h *Hub) ask(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	if _, ok := depot.Asked(r.URL); ok {
		return h.file(w, r, to, body)
	}
	return h.live(w, r, to, body)
}

// live asks the box itself, at this node or another. False: it is not connected, does not answer in time, or has an answer that central servers hold against its name.
func (h *Hub) live(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	if !h.p2p.InReach(to.Server) {
		_, passed := r.Context().Value(passedKey{}).(bool)
		return !passed && h.askElsewhere(w, r, to, body)
	}
	if !h.enter(to.Server) {
		return false
	}
	defer h.leave(to.Server)
	req, err := verbatim(to.Server, sealedOf(r, body))
	if err != nil {
		return false
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	patience := time.AfterFunc(patienceFor(r), cancel)
	defer patience.Stop()
	resp, err := h.p2p.RoundTripper().RoundTrip(req.WithContext(ctx))
	if err != nil {
		h.log.Debug("box did not answer", "box", to.Server, "path", r.URL.Path, "err", err)
		return false
	}
	defer func() { resp.Body.Close() }() // it may be another one by then
	if !fit(resp.StatusCode) {
		h.log.Info("a box's answer was not passed on, as central servers leave a name alone for it", "box", to.Server, "path", r.URL.Path, "status", resp.StatusCode)
		return false
	}
	patience.Reset(bodyPatience)
	h.depot.Passes(r, to.Server, resp)
	passOn(w, resp)
	return true
}

// fit says whether an answer of a box may be passed on: for others central servers leave a name alone.
func fit(status int) bool {
	return status < 500 && status != http.StatusUnauthorized && status != http.StatusTooManyRequests
}

// patienceFor is how long the first word of an answer may take.
func patienceFor(r *http.Request) time.Duration {
	if r.Method == http.MethodPut || strings.Contains(r.URL.Path, "/media/") || strings.Contains(r.URL.Path, "/make_") {
		return joinPatience
	}
	return askPatience
}

// enter takes one of a box's places for requests.
func (h *Hub) enter(server string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asking[server] >= askAtOnce {
		return false
	}
	h.asking[server]++
	return true
}

func (h *Hub) leave(server string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asking[server]--; h.asking[server] == 0 {
		delete(h.asking, server)
	}
}

// instead is the answer while the box is away: none that central servers hold against its name.
func (h *Hub) instead(w http.ResponseWriter, r *http.Request, to entry, body []byte) {
	what := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/_matrix/federation/"), "/", 3)
	h.log.Debug("asked for a box that is away", "box", to.Server, "method", r.Method, "path", r.URL.Path)
	word := ""
	if len(what) > 1 {
		word = what[1]
	}
	switch word {
	case "query", "user":
		if h.aboutUsers(w, r, to, body) {
			return
		}
	case "event", "event_auth", "state", "state_ids", "backfill", "get_missing_events":
		if h.aboutRooms(w, r, to, body) {
			return
		}
	case "version":
		row, err := h.spool.Box(r.Context(), to.Server)
		if err == nil && row.Version != "" {
			answer(w, http.StatusOK, map[string]any{"server": map[string]string{"name": "Hallig", "version": row.Version}})
			return
		}
	case "invite":
		h.inviteAway(w, r, to, body)
		return
	case "media":
		refuse(w, http.StatusNotFound, "M_NOT_FOUND", "this server is not in reach at the moment, and its hub does not have the file; try again when it is back")
		return
	case "make_join", "send_join", "make_knock", "send_knock":
		h.refuseAway(w, to, http.StatusForbidden, "M_FORBIDDEN")
		return
	case "make_leave", "send_leave": // a server that is refused has its user leave without us
		h.refuseAway(w, to, http.StatusNotFound, "M_NOT_FOUND")
		return
	}
	refuse(w, http.StatusNotFound, "M_NOT_FOUND", "this server is not in reach at the moment, and its hub does not have what was asked for")
}

// refuseAway refuses what people have asked for, in a sentence that their clients show them.
func (h *Hub) refuseAway(w http.ResponseWriter, to entry, status int, code string) {
	refuse(w, status, code, to.Server+" is not in reach at the moment. Please try again when it is back. / "+to.Server+" ist gerade nicht erreichbar. Bitte später noch einmal versuchen.")
}

func isKeyDocument(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.URL.Path == keyPath || strings.HasPrefix(r.URL.Path, keyPath+"/"))
}

const keyPath = "/_matrix/key/v2/server"

// keyDocument answers from the deposit while that is good, and else asks the box. One that has ended is better than none: events of its time are still verified with it.
func (h *Hub) keyDocument(w http.ResponseWriter, r *http.Request, to entry) {
	doc, err := h.spool.Deposited(r.Context(), to.Server, kindKey, "")
	if err != nil && h.seldom.may("spool", h.now()) {
		h.log.Error("read a deposit", "box", to.Server, "err", err)
	}
	if doc != nil && endOf(doc).After(h.now().Add(time.Hour)) || !h.live(w, r, to, nil) {
		if doc == nil {
			refuse(w, http.StatusNotFound, "M_NOT_FOUND", "this server has not been in contact with its hub yet")
			return
		}
		answer(w, http.StatusOK, json.RawMessage(doc))
	}
}

// endOf is until when a key document is good.
func endOf(doc []byte) time.Time {
	var d struct {
		Until int64 `json:"valid_until_ts"`
	}
	_ = json.Unmarshal(doc, &d) // what cannot be read has ended
	return time.UnixMilli(d.Until)
}

// watchKeys says which boxes' key documents have ended, or will soon.
func (h *Hub) watchKeys(ctx context.Context) {
	documents, err := h.spool.DepositedOf(ctx, kindKey)
	if err != nil {
		if ctx.Err() == nil {
			h.log.Error("look for key documents that end; it is tried again in an hour", "err", err)
		}
		return
	}
	for server, e := range h.roster.Load().by {
		doc := documents[server]
		if e.revoked != "" || doc == nil {
			continue
		}
		if end := endOf(doc); end.Before(h.now().Add(14*24*time.Hour)) && h.seldom.may("key document "+server, h.now()) {
			h.log.Warn("the key document of a box ends: afterwards other servers refuse what it signs; bring the box in contact with the hub, with the right time (hallig clock)", "box", server, "ends", end)
		}
	}
}
