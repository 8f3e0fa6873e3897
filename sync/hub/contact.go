// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"hallig/appliance/health"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/fleet"
	"hallig/sync/peer"
)

// contact takes what a box says of itself.
func (h *Hub) contact(w http.ResponseWriter, r *http.Request, from entry) {
	raw, release, ok := h.putBody(w, r)
	if !ok {
		return
	}
	defer release()
	c, err := api.ReadContact(raw)
	if err == nil {
		err = h.learn(r.Context(), from, c)
	}
	if err != nil {
		h.log.Warn("what a box says of itself was not taken", "box", from.Server, "err", err)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	key, err := h.delegate(r.Context(), from, c)
	if err != nil {
		h.log.Error("see to the key for a box; it asks again", "box", from.Server, "err", err)
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot see to its key for the box now")
		return
	}
	h.spool.Saw(from.Server, h.now(), wayNet, c.Version, saidIn(c))
	if off := h.now().Sub(time.UnixMilli(c.Clock)); off.Abs() > time.Minute && c.ClockGood && h.seldom.may("clock "+from.Server, h.now()) {
		h.log.Warn("the clock of a box and that of the hub differ; one of them is wrong", "box", from.Server, "box_lags", off.Round(time.Second))
	}
	from, _ = h.box(from.Server)
	h.heardOfUpdate(from.Server, c)
	h.answerContact(w, r, from, api.Answer{Update: h.updateFor(from.Server, c.Board, c.Release), Policy: h.policyFor(c), Delegated: key})
}

// dealt takes what a box has dealt with that came to it by a stick: it is not handed on once more.
func (h *Hub) dealt(w http.ResponseWriter, r *http.Request, from entry) {
	raw, release, ok := h.putBody(w, r)
	if !ok {
		return
	}
	defer release()
	d, err := api.ReadDealt(raw)
	if err != nil {
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	epoch, err := h.spool.Epoch(r.Context())
	if err == nil && d.Epoch != epoch {
		refuse(w, http.StatusConflict, "M_UNKNOWN", "the hub's memory was replaced")
		return
	}
	var n int64
	if err == nil {
		n, err = h.crossDealt(r.Context(), from, d)
	}
	if err != nil {
		h.log.Error("note what a box has dealt with; it says so again", "box", from.Server, "err", err)
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot write its spool now")
		return
	}
	if n > 0 {
		h.log.Info("a box has dealt with what waited for it, which came by a stick", "box", from.Server, "requests", n)
	}
	answer(w, http.StatusOK, struct{}{})
}

// saidIn gives what a box says of itself as it is kept beside its last contact.
func saidIn(c api.Contact) json.RawMessage {
	own, err := json.Marshal(fleet.Said{State: health.State(c.Health), Sentence: c.Sentence, SentenceDE: c.SentenceDE, Clock: c.Clock, ClockGood: c.ClockGood, ClockQuality: c.ClockQuality,
		Board: c.Board, Release: c.Release, Update: c.Update, Policy: c.Policy, PolicyRefused: c.PolicyRefused})
	if err != nil {
		return nil // plain values always marshal
	}
	return own
}

// learn takes in the box's statement and key document, when they are its own and not older than what is here.
func (h *Hub) learn(ctx context.Context, from entry, c api.Contact) error {
	p, err := peer.ReadStatement(c.Statement)
	switch {
	case err != nil:
		return err
	case p.ID != from.ID || p.Server != from.Server:
		return errForeign
	case p.Serial < from.Serial:
		return errOlder
	case p.Serial > from.Serial || !bytes.Equal(p.Statement, from.Statement):
		if err := h.addBox(p, h.modeOf(c.Mode)); err != nil {
			return err
		}
		h.log.Info("a box has a new signing key", "box", p.Server)
	case h.modeOf(c.Mode) != from.mode:
		if err := h.addBox(from.Peer, h.modeOf(c.Mode)); err != nil {
			return err
		}
		h.log.Info("a box is served in another mode", "box", p.Server, "mode", h.modeOf(c.Mode), "asked", c.Mode)
	}
	if err := federation.CheckDocument(c.KeyDocument, from.Server); err != nil {
		return err
	}
	old, err := h.spool.Deposited(ctx, from.Server, kindKey, "")
	if err != nil {
		return err
	}
	if bytes.Equal(old, c.KeyDocument) || old != nil && endOf(old).After(endOf(c.KeyDocument)) && sameKeys(old, c.KeyDocument) {
		return nil // a box whose clock lags promises less than it has promised before
	}
	return h.keepDocument(ctx, from, c.KeyDocument)
}

// keepDocument takes in a box's key document, and shows it to others from now on.
func (h *Hub) keepDocument(ctx context.Context, from entry, doc []byte) error {
	if err := h.ring.Learn(ctx, doc, federation.SourceBox+string(from.ID)); err != nil {
		return err
	}
	if err := h.spool.Deposit(ctx, from.Server, kindKey, "", doc); err != nil {
		return err
	}
	h.mail.Hurry(from.Server) // letters may have waited for it
	return nil
}

// errOlder is answered to a box that was put back from a backup which is older than its last key: others refuse what the old key signs.
var errOlder = errors.New("the box shows a signing key that it has given up since: it was put back from an older backup; give it a new key with: hallig key rotate")

// errForeign is answered to who brings another box's papers.
var errForeign = errors.New("the statement is another box's")

// sameKeys says whether two documents list the same current keys.
func sameKeys(a, b []byte) bool {
	var da, db struct {
		Keys json.RawMessage `json:"verify_keys"`
	}
	return json.Unmarshal(a, &da) == nil && json.Unmarshal(b, &db) == nil && bytes.Equal(da.Keys, db.Keys)
}

// answerContact says what waits for the box, beside what out says already.
func (h *Hub) answerContact(w http.ResponseWriter, r *http.Request, from entry, out api.Answer) {
	out, err := h.answerTo(r.Context(), from, out)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot read its spool now")
		return
	}
	answer(w, http.StatusOK, out)
}

// answerTo adds to an answer what the hub has for the box.
func (h *Hub) answerTo(ctx context.Context, from entry, out api.Answer) (api.Answer, error) {
	waiting, err := h.spool.Waiting(ctx, from.Server)
	if err != nil {
		return out, err
	}
	letters, err := h.mail.Standing(ctx, from.Server)
	if err != nil {
		return out, err
	}
	out.Server, out.Version, out.Mode, out.Time, out.Epoch = h.id.Server, h.cfg.Version, string(from.mode), h.now().UnixMilli(), letters.Epoch
	out.Letters, out.Waiting = &letters, []api.Waiting{}
	for _, q := range waiting {
		if q.In {
			out.Waiting = append(out.Waiting, api.Waiting{From: q.Other, Count: q.Count, Bytes: q.Bytes, Oldest: q.Oldest})
		}
	}
	return out, nil
}
