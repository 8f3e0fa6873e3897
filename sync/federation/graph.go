// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

// This file asks other servers for parts of a room's graph. What comes back is parsed and belongs to the room that was
// asked for; signatures are checked by whoever takes it in.

// pdusAnswer is the common form of answers that carry events.
type pdusAnswer struct {
	PDUs      []json.RawMessage `json:"pdus"`
	Events    []json.RawMessage `json:"events"`
	AuthChain []json.RawMessage `json:"auth_chain"`
}

// Tips asks a server for the newest events of a room that it knows: the prev_events of the event that it would have us
// make for one of our members. Asking for a join of who is joined changes nothing.
func (c *Client) Tips(ctx context.Context, server string, room event.RoomID, v *event.Version, member event.UserID) ([]event.ID, error) {
	var out struct {
		Event struct {
			Prev json.RawMessage `json:"prev_events"`
		} `json:"event"`
	}
	err := c.ask(ctx, server, call{method: http.MethodGet, path: v1("make_join", string(room), string(member)), query: url.Values{"ver": {v.ID}}}, &out)
	if final(err) { // some servers do not make a join for who is joined; a leave is always possible
		err = c.ask(ctx, server, call{method: http.MethodGet, path: v1("make_leave", string(room), string(member))}, &out)
	}
	if err != nil {
		return nil, err
	}
	return eventIDs(out.Event.Prev)
}

// eventIDs reads a list of event ids.
func eventIDs(raw json.RawMessage) ([]event.ID, error) {
	var ids []event.ID
	if err := json.Unmarshal(raw, &ids); err != nil {
		return nil, errors.New("no list of event ids")
	}
	for _, id := range ids {
		if !isEventID(id) {
			return nil, errors.New("no event id")
		}
	}
	return ids, nil
}

// eventID reads one.
func eventID(raw json.RawMessage) (id event.ID, err error) {
	if err := json.Unmarshal(raw, &id); err != nil || !isEventID(id) {
		return "", errors.New("no event id")
	}
	return id, nil
}

func isEventID(id event.ID) bool { return strings.HasPrefix(string(id), "$") && len(id) <= 255 }

// Missing asks for the events between earliest (which we have) and latest.
func (c *Client) Missing(ctx context.Context, server string, room event.RoomID, v *event.Version, earliest, latest []event.ID, limit int) ([]*event.PDU, error) {
	body := map[string]any{"earliest_events": earliest, "latest_events": latest, "limit": limit, "min_depth": 0}
	var out pdusAnswer
	err := c.ask(ctx, server, call{method: http.MethodPost, path: v1("get_missing_events", string(room)), body: body, limit: maxEvents}, &out)
	if err != nil {
		return nil, err
	}
	return c.parse(v, room, out.Events, server), nil
}

// History asks for the events from and what came before them, up to limit.
func (c *Client) History(ctx context.Context, server string, room event.RoomID, v *event.Version, from []event.ID, limit int) ([]*event.PDU, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, id := range from[:min(len(from), 50)] {
		q.Add("v", string(id))
	}
	var out pdusAnswer
	if err := c.ask(ctx, server, call{method: http.MethodGet, path: v1("backfill", string(room)), query: q, limit: maxEvents}, &out); err != nil {
		return nil, err
	}
	return c.parse(v, room, out.PDUs, server), nil
}

// One asks for one event.
func (c *Client) One(ctx context.Context, server string, room event.RoomID, v *event.Version, id event.ID) (*event.PDU, error) {
	var out pdusAnswer
	if err := c.ask(ctx, server, call{method: http.MethodGet, path: v1("event", string(id))}, &out); err != nil {
		return nil, err
	}
	for _, p := range c.parse(v, room, out.PDUs, server) {
		if p.ID == id {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s gave another event than %s", server, id)
}

// StateIDs asks for the state before an event, as ids.
func (c *Client) StateIDs(ctx context.Context, server string, room event.RoomID, id event.ID) (state, auth []event.ID, err error) {
	q := call{method: http.MethodGet, path: v1("state_ids", string(room)), query: url.Values{"event_id": {string(id)}}, limit: maxEvents, patient: true}
	lists := map[string]*[]event.ID{"pdu_ids": &state, "auth_chain_ids": &auth}
	err = c.askStream(ctx, server, q, func(body io.Reader) error {
		return walkAnswer(body, slices.Collect(maps.Keys(lists)), nil, func(key string, n int, raw json.RawMessage) error {
			list := lists[key]
			if n < 0 {
				*list = []event.ID{}
				return nil
			}
			id, err := eventID(raw)
			*list = append(*list, id)
			return err
		})
	})
	if err == nil && (state == nil || auth == nil) {
		err = fmt.Errorf("%s told no state", server)
	}
	if err != nil {
		return nil, nil, err
	}
	return state, auth, nil
}

// StateEvents asks for the state before an event and its auth chain, as events.
func (c *Client) StateEvents(ctx context.Context, server string, room event.RoomID, v *event.Version, id event.ID) (state, auth []*event.PDU, err error) {
	var out pdusAnswer
	q := call{method: http.MethodGet, path: v1("state", string(room)), query: url.Values{"event_id": {string(id)}}, limit: maxJoin, patient: true}
	if err := c.ask(ctx, server, q, &out); err != nil {
		return nil, nil, err
	}
	return c.parse(v, room, out.PDUs, server), c.parse(v, room, out.AuthChain, server), nil
}

// EventAuth asks for all events that authorise one, directly or through others.
func (c *Client) EventAuth(ctx context.Context, server string, room event.RoomID, v *event.Version, id event.ID) ([]*event.PDU, error) {
	var out pdusAnswer
	if err := c.ask(ctx, server, call{method: http.MethodGet, path: v1("event_auth", string(room), string(id)), limit: maxEvents}, &out); err != nil {
		return nil, err
	}
	return c.parse(v, room, out.AuthChain, server), nil
}

// Knows asks whether a server is done with an event of ours. nil, true: yes; a 404 is false; anything else is an error.
func (c *Client) Knows(ctx context.Context, server string, id event.ID) (bool, error) {
	err := c.ask(ctx, server, call{method: http.MethodGet, path: v1("event", string(id))}, nil)
	var ref *Refusal
	if errors.As(err, &ref) && ref.Status == http.StatusNotFound {
		return false, nil
	}
	return err == nil, err
}

// transaction is the body of PUT /send.
type transaction struct {
	Origin string            `json:"origin"`
	TS     int64             `json:"origin_server_ts"`
	PDUs   []json.RawMessage `json:"pdus"`
	EDUs   []edu             `json:"edus,omitempty"`
}

type edu struct {
	Kind    string          `json:"edu_type"`
	Content json.RawMessage `json:"content"`
}

// Push sends a transaction; the answer holds the errors of single PDUs.
func (c *Client) Push(ctx context.Context, server, txn string, body json.RawMessage) (map[event.ID]string, error) {
	var out struct {
		PDUs map[event.ID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if err := c.ask(ctx, server, call{method: http.MethodPut, path: v1("send", txn), body: body}, &out); err != nil {
		return nil, err
	}
	errs := map[event.ID]string{}
	for id, r := range out.PDUs {
		if r.Error != "" {
			errs[id] = r.Error
		}
	}
	return errs, nil
}

// parse reads events of a room; what cannot be read, or belongs elsewhere, is left out and logged: one bad event of an
// old room must not spoil the rest.
func (c *Client) parse(v *event.Version, room event.RoomID, raws []json.RawMessage, server string) []*event.PDU {
	out := make([]*event.PDU, 0, len(raws))
	for _, raw := range raws {
		p, err := event.Parse(v, raw)
		if err == nil && p.RoomID != room {
			err = errors.New("it belongs to another room")
		}
		if err != nil {
			c.log.Info("event left out", "server", server, "room", room, "err", err)
			continue
		}
		out = append(out, p)
	}
	return out
}

// VerifyPDU checks that everybody who must have signed an event has, with a key that was theirs when it was made.
// ErrKeyUnavailable: undecided, try again later.
func (c *Client) VerifyPDU(ctx context.Context, p *event.PDU) error {
	return verifyPDU(ctx, c.c.Ring, p)
}

func verifyPDU(ctx context.Context, ring *KeyRing, p *event.PDU) error {
	at := p.TS
	if !p.Version.KeyValidity { // https://spec.matrix.org/v1.16/rooms/v5/#signing-key-validity-period
		at = 0
	}
	sigs := p.Signatures()
	for _, server := range p.SignedBy() {
		err := fmt.Errorf("not signed by %s", server)
		for _, s := range sigs {
			if s.Server != server {
				continue
			}
			pub, kerr := ring.Key(ctx, server, s.KeyID, at)
			if kerr != nil {
				err = kerr
				continue
			}
			if err = p.VerifySignature(server, s.KeyID, pub); err == nil {
				break
			}
		}
		if err != nil {
			return fmt.Errorf("verify %s: %w", p.ID, err)
		}
	}
	return nil
}

// checked verifies an event that a server gave us, and gives the form that is to be taken in: redacted when its content was changed on the way.
// A key that its own server cannot be asked for now is asked of the giver.
func (c *Client) checked(ctx context.Context, giver string, p *event.PDU) (*event.PDU, error) {
	err := c.VerifyPDU(ctx, p)
	if errors.Is(err, ErrKeyUnavailable) && c.notarised(ctx, giver, p) {
		err = c.VerifyPDU(ctx, p)
	}
	if err != nil {
		return nil, err
	}
	return hashed(p)
}

// hashed gives the redacted form of an event whose content does not match its hash.
// https://spec.matrix.org/v1.16/server-server-api/#checks-performed-on-receipt-of-a-pdu
func hashed(p *event.PDU) (*event.PDU, error) {
	if err := p.CheckHash(); err != nil {
		return p.Redacted()
	}
	return p, nil
}
