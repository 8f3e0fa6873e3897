// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// incomingTransaction is the body of PUT /send as it comes in.
type incomingTransaction struct {
	PDUs []json.RawMessage `json:"pdus"`
	EDUs []edu             `json:"edus"`
}

// parseTransaction reads a body within the limits. The events are slices of it.
func parseTransaction(body []byte) (*incomingTransaction, error) {
	t, canonical := canonicalTransaction(body)
	if !canonical {
		t = incomingTransaction{}
		if err := json.Unmarshal(body, &t); err != nil {
			return nil, badJSON("the transaction does not have the form it should have")
		}
	}
	if len(t.PDUs) > MaxPDUs || len(t.EDUs) > MaxEDUs {
		return nil, badJSON("a transaction holds at most 50 PDUs and 100 EDUs")
	}
	return &t, nil
}

// CheckTransaction says whether the body of PUT /send has a form that its receiver can take in, and gives a sum of what it brings. The id alone does not tell one transaction from another: a Dendrite
// that had no answer sends the same id again with whatever it has to send by then.
func CheckTransaction(body []byte) (sum string, err error) {
	t, err := parseTransaction(body)
	if err != nil {
		return "", err
	}
	return t.sum(), nil
}

// sum is of the events alone: not of the time, which is another one each time.
func (t *incomingTransaction) sum() string {
	h := sha256.New()
	part := func(p []byte) {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	for _, p := range t.PDUs {
		part(p)
	}
	h.Write([]byte("edus"))
	for _, e := range t.EDUs {
		part([]byte(e.Kind))
		part(e.Content)
	}
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:16])
}

// canonicalTransaction reads a body that is canonical JSON, as most servers send it, at a third of the cost.
func canonicalTransaction(body []byte) (t incomingTransaction, ok bool) {
	ok = true
	canonical := event.Each(body, func(key, val []byte) bool {
		switch string(key) {
		case "pdus":
			ok = ok && event.Elements(val, func(v []byte) bool {
				t.PDUs = append(t.PDUs, v)
				return len(t.PDUs) <= MaxPDUs
			})
		case "edus":
			ok = ok && json.Unmarshal(val, &t.EDUs) == nil
		}
		return ok
	})
	return t, ok && canonical
}

// pduResult is what the sender hears of one PDU.
type pduResult struct {
	Error string `json:"error,omitempty"`
}

// send takes a transaction in. A 200 means: each PDU is decided or durably staged, each lasting EDU is kept. A repeated transaction gets
// the same answer; one with the same id that brings something else is another one, and what it brings once more is known. One transaction of a server is worked on at a time.
// https://spec.matrix.org/v1.16/server-server-api/#put_matrixfederationv1sendtxnid
func (h *Handler) send(ctx context.Context, r *request) (any, error) {
	txn := r.PathValue("txn")
	if len(txn) > 255 {
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "the transaction id is too long")
	}
	t, err := parseTransaction(r.body)
	if err != nil {
		return nil, err
	}
	known := txnKey(r.local, txn, t)
	unlock := h.turns.lock(r.origin)
	defer unlock()
	var before []byte
	err = h.c.DB.View(ctx, func(rd *store.Read) (err error) {
		before, err = rd.TxnAnswer(r.origin, known)
		return err
	})
	if err != nil {
		return nil, err
	}
	if before != nil {
		return json.RawMessage(before), nil
	}
	if len(t.PDUs) > 0 {
		// Its events wait for ancestors that cannot be had now: more of them would only be more to keep. It comes again with the same.
		if full, err := h.c.Intake.Full(ctx, r.origin); err != nil {
			return nil, err
		} else if full {
			r.w.Header().Set("Retry-After", "60")
			return nil, refuse(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "too many of your events wait for their ancestors here")
		}
	}
	// What has begun goes on when the sender hangs up: it will send the same again, and then everything is known.
	results, err := h.takePDUs(ctx, r.local, r.origin, t.PDUs)
	if err != nil {
		return nil, err
	}
	for _, e := range t.EDUs {
		if err := h.takeEDU(ctx, r.origin, e); err != nil {
			return nil, err
		}
	}
	answer, err := json.Marshal(map[string]any{"pdus": results})
	if err != nil {
		return nil, err
	}
	if len(t.PDUs)+len(t.EDUs) > 0 {
		// Lazily: if a power cut takes the answer back, the repetition finds every effect done and answers the same.
		h.c.DB.Lazy(func(tx *store.Tx) error { return tx.SaveTxnAnswer(r.origin, known, answer) })
	}
	return json.RawMessage(answer), nil
}

// txnKey keeps apart what a server sends to several of our names, or with other events, under the same id.
func txnKey(local Local, txn string, t *incomingTransaction) string {
	return local.Server + " " + txn + " " + t.sum()
}

// told gives the text for the sender of a PDU. stop: nothing could be decided (disk, shutdown), the transaction must come again.
func told(err error) (text string, stop bool) {
	if err == nil {
		return "", false
	}
	var known *room.Error
	var bad *badPDU
	switch {
	case errors.As(err, &bad):
		return bad.Error(), false
	case errors.As(err, &known):
		return known.Text, known.Code == "M_RESOURCE_LIMIT_EXCEEDED"
	}
	return "", true
}

// badPDU is a fault of the PDU itself.
type badPDU struct{ text string }

func (e *badPDU) Error() string { return e.text }

// takePDUs takes in all that can be read. What belongs to no room of ours gets no answer: without the room's version there is not even an id.
func (h *Handler) takePDUs(ctx context.Context, local Local, origin string, raws []json.RawMessage) (map[event.ID]pduResult, error) {
	results := make(map[event.ID]pduResult, len(raws))
	note := func(id event.ID, err error) error {
		text, stop := told(err)
		if stop {
			return err
		}
		results[id] = pduResult{Error: text}
		return nil
	}
	var pdus []*event.PDU
	rooms := map[event.RoomID]*entrance{}
	for _, raw := range raws {
		id := roomOf(raw)
		e := rooms[id]
		if e == nil {
			var err error
			if e, err = h.entrance(ctx, id, local, origin); err != nil {
				return nil, err
			}
			rooms[id] = e
		}
		if e.version == nil {
			if id != "" {
				h.c.Trouble.Note(origin, ForeignRoom, id, "", errors.New("the room is not known here"))
			} else {
				h.c.Trouble.Note(origin, Malformed, "", "", errors.New("it names no room"))
			}
			continue
		}
		p, err := event.Parse(e.version, raw)
		if err != nil {
			h.c.Trouble.Note(origin, Malformed, id, "", err)
			continue
		}
		refused := e.bars(p, local)
		if refused == nil {
			pdus = append(pdus, p)
			continue
		}
		h.c.Trouble.Note(origin, Barred, id, p.ID, refused)
		if err = note(p.ID, refused); err != nil {
			return nil, err
		}
	}
	for i, err := range h.c.Intake.TakeAll(ctx, origin, pdus) {
		if err := note(pdus[i].ID, err); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// roomOf reads the room that a PDU names; "" if it names none.
func roomOf(raw json.RawMessage) event.RoomID {
	if val, ok := event.Field(raw, "room_id"); ok {
		id, _ := event.Text(val)
		return event.RoomID(id)
	}
	var head struct { // a text that is not canonical
		Room event.RoomID `json:"room_id"`
	}
	if json.Unmarshal(raw, &head) != nil {
		return ""
	}
	return head.Room
}

// entrance is how a room stands to the server that sends, asked once for a transaction.
type entrance struct {
	version  *event.Version // nil: the room is not ours to know
	refused  error          // what the server hears of its events
	resident bool           // we have somebody in the room
}

// bars gives the reason why an event may not come in. Where we have nobody in the room it may be about the membership of one of our users: an invite is
// taken back, a knock refused.
func (e *entrance) bars(p *event.PDU, local Local) error {
	if e.refused != nil || e.resident || p.Type == "m.room.member" && p.StateKey != nil && event.UserID(*p.StateKey).Server() == local.Server {
		return e.refused
	}
	return errNotResident
}

func (h *Handler) entrance(ctx context.Context, id event.RoomID, local Local, origin string) (*entrance, error) {
	if id == "" {
		return &entrance{}, nil
	}
	st, err := h.c.Rooms.Standing(ctx, id, local.Server)
	var unknown *room.Error
	if errors.As(err, &unknown) || err == nil && st.Version.Readable {
		return &entrance{}, nil
	}
	if err != nil {
		return nil, err
	}
	e := &entrance{version: st.Version, resident: st.Resident}
	if st.ACL {
		e.refused = h.checkACL(ctx, id, origin)
	}
	return e, nil
}

// takeEDU hands an EDU on. What a server may not say for somebody else's users is dropped by Users.
func (h *Handler) takeEDU(ctx context.Context, origin string, e edu) error {
	if h.c.Users == nil {
		return nil
	}
	content, err := h.admitted(ctx, origin, e)
	if content == nil || err != nil {
		return err
	}
	err = h.c.Users.EDU(ctx, origin, e.Kind, content)
	var bad *room.Error
	if errors.As(err, &bad) && bad.Code != "M_RESOURCE_LIMIT_EXCEEDED" {
		h.log.Info("EDU refused", "origin", origin, "kind", e.Kind, "err", err)
		return nil
	}
	return err
}

// admitted leaves out of an EDU what belongs to rooms whose access list shuts the server out; nil when nothing is left.
// https://spec.matrix.org/v1.19/server-server-api/#server-access-control-lists-acls
func (h *Handler) admitted(ctx context.Context, origin string, e edu) (json.RawMessage, error) {
	shut := func(id event.RoomID) (bool, error) {
		err := h.checkACL(ctx, id, origin)
		var no *room.Error
		if errors.As(err, &no) {
			return true, nil
		}
		return false, err
	}
	switch e.Kind {
	case "m.typing":
		var c struct {
			Room event.RoomID `json:"room_id"`
		}
		if json.Unmarshal(e.Content, &c) != nil {
			return nil, nil
		}
		if out, err := shut(c.Room); out || err != nil {
			return nil, err
		}
	case "m.receipt":
		var rooms map[event.RoomID]json.RawMessage
		if json.Unmarshal(e.Content, &rooms) != nil {
			return nil, nil
		}
		all := len(rooms)
		for id := range rooms {
			out, err := shut(id)
			if err != nil {
				return nil, err
			}
			if out {
				delete(rooms, id)
			}
		}
		if len(rooms) < all {
			return json.Marshal(rooms)
		}
	}
	return e.Content, nil
}

// turns lets one transaction of a server in at a time.
type turns struct {
	mu sync.Mutex
	by map[string]*turn
}

type turn struct {
	sync.Mutex
	users int
}

func (t *turns) lock(origin string) (unlock func()) {
	t.mu.Lock()
	if t.by == nil {
		t.by = map[string]*turn{}
	}
	u := t.by[origin]
	if u == nil {
		u = &turn{}
		t.by[origin] = u
	}
	u.users++
	t.mu.Unlock()
	u.Lock()
	return func() {
		u.Unlock()
		t.mu.Lock()
		if u.users--; u.users == 0 {
			delete(t.by, origin)
		}
		t.mu.Unlock()
	}
}
