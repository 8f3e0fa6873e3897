// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// This file copies a room from a server that is in it, for one that has nobody there.

// Copy makes a room known here as a server has it: its newest events, at most most of them, above the state before the oldest of these, or from its creation where they
// reach so far. tips are what the server says are its newest. The room must not be here yet. What the lanes have to do afterwards goes on behind.
func (in *Intake) Copy(ctx context.Context, server string, id event.RoomID, v *event.Version, tips []event.ID, most int) error {
	c := in.c.Client
	if here, err := in.c.Rooms.Knows(ctx, id); here || err != nil {
		return errors.Join(fmt.Errorf("copy room %s: it is here", id), err)
	}
	pdus, err := c.recent(ctx, server, id, v, tips, most)
	if err != nil {
		return fmt.Errorf("copy room %s: %w", id, err)
	}
	if len(pdus) == 0 {
		return fmt.Errorf("copy room %s: %s gives none of what it says are its newest events", id, server)
	}
	good, later, err := c.verifyMany(ctx, server, pdus)
	if err != nil {
		return err
	}
	if len(later) > 0 {
		return fmt.Errorf("copy room %s: %w for %d of its events", id, ErrKeyUnavailable, len(later))
	}
	if len(good) == 0 {
		return fmt.Errorf("copy room %s: no event of it can be verified", id)
	}
	order := make([]*event.PDU, 0, len(good))
	for _, p := range good {
		order = append(order, p)
	}
	slices.SortFunc(order, func(a, b *event.PDU) int { return cmp.Or(cmp.Compare(a.Depth, b.Depth), cmp.Compare(a.ID, b.ID)) })
	i, err := c.oldestWithState(ctx, server, id, order)
	if err != nil {
		return fmt.Errorf("copy room %s: %w", id, err)
	}
	base := order[i]
	if err := in.plant(ctx, server, id, v, base); err != nil {
		return fmt.Errorf("copy room %s: %w", id, err)
	}
	err = in.stage(ctx, server, true, slices.DeleteFunc(order, func(p *event.PDU) bool { return p.Depth <= base.Depth })...)
	in.Want(id, server, tips)
	return err
}

// oldestWithState finds the first of a room's events, sorted by depth, before which a server knows the state: of those from before its own time in the room it does not.
func (c *Client) oldestWithState(ctx context.Context, server string, id event.RoomID, order []*event.PDU) (int, error) {
	knows := func(i int) (bool, error) {
		if order[i].Is("m.room.create", "") {
			return true, nil
		}
		err := c.ask(ctx, server, call{method: http.MethodHead, path: v1("state_ids", string(id)), query: url.Values{"event_id": {string(order[i].ID)}}}, nil)
		if final(err) {
			return false, nil
		}
		return err == nil, err
	}
	lacks, has := -1, len(order) // the first is mostly the one
	for at := 0; has-lacks > 1; at = (lacks + has) / 2 {
		ok, err := knows(at)
		switch {
		case err != nil:
			return 0, err
		case ok:
			has = at
		default:
			lacks = at
		}
	}
	if has == len(order) {
		return 0, fmt.Errorf("%s knows no state before any of its newest events", server)
	}
	return has, nil
}

// recent gets the newest events of a room, unverified, each once.
func (c *Client) recent(ctx context.Context, server string, id event.RoomID, v *event.Version, tips []event.ID, most int) ([]*event.PDU, error) {
	var out []*event.PDU
	got, asked := map[event.ID]bool{}, map[event.ID]bool{}
	for pages := 4 * (1 + most/askAtOnce); pages > 0 && len(out) < most; pages-- {
		from := tips
		if len(out) > 0 {
			from = nil
			for _, p := range slices.Backward(out) {
				for _, prev := range p.Prev {
					if !got[prev] && !asked[prev] && len(from) < 50 {
						asked[prev] = true
						from = append(from, prev)
					}
				}
			}
		}
		if len(from) == 0 {
			break
		}
		page, err := c.History(ctx, server, id, v, from, min(askAtOnce, most-len(out)))
		if err != nil {
			return nil, err
		}
		before := len(out)
		for _, p := range page {
			if !got[p.ID] {
				got[p.ID] = true
				out = append(out, p)
			}
		}
		if len(out) == before {
			break
		}
	}
	return out, nil
}

// plant makes an event the beginning of a room, with the state that a server says was before it.
func (in *Intake) plant(ctx context.Context, server string, id event.RoomID, v *event.Version, p *event.PDU) error {
	c := in.c.Client
	a := room.Arrival{Version: v, Join: p, From: room.Source{Kind: "federation", Server: server}}
	if p.Is("m.room.create", "") {
		if err := c.checkCreation(ctx, server, v, id, p); err != nil {
			return err
		}
		return c.c.Rooms.Arrive(ctx, a)
	}
	var create *event.PDU
	var state []event.ID
	q := call{method: http.MethodGet, path: v1("state", string(id)), query: url.Values{"event_id": {string(p.ID)}}, limit: maxJoin, patient: true}
	told, err := c.askLong(ctx, server, q, []string{"pdus", "auth_chain"}, nil, func(key string, n int, raw json.RawMessage) error {
		if n < 0 || key != "pdus" {
			return nil
		}
		s, err := event.Parse(v, bytes.Clone(raw))
		if err != nil || s.RoomID != id {
			return nil // it is left out, and said so, when it is to be stored
		}
		state = append(state, event.ID(strings.Clone(string(s.ID))))
		if create == nil && s.Is("m.room.create", "") {
			create = s
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.checkCreation(ctx, server, v, id, create); err != nil {
		return err
	}
	l := c.learner(server, id, v, create)
	if err := l.learn(ctx, told, "auth_chain", "pdus"); err != nil {
		return err
	}
	for _, s := range state {
		if l.isHere(s) {
			a.State = append(a.State, s)
		}
	}
	return c.c.Rooms.Arrive(ctx, a)
}
