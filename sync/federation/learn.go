// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// This file takes in the state of a room that another server tells, however big: it is read as it comes, kept compressed, verified and stored by name a batch at a
// time, authorising events before those that rest on them.

// learnBatch is how many events are verified and stored together.
const learnBatch = 400

// askLong sends a request whose answer may be long. The answer is kept, and walked while it comes unless each is nil.
func (c *Client) askLong(ctx context.Context, server string, q call, lists, values []string, each func(key string, n int, raw json.RawMessage) error) (*spool, error) {
	s := newSpool()
	err := c.askStream(ctx, server, q, func(body io.Reader) error {
		if each == nil {
			_, err := io.Copy(s, body)
			return err
		}
		return walkAnswer(io.TeeReader(body, s), lists, values, each)
	})
	if err != nil {
		return nil, err
	}
	return s, s.done()
}

// askStream sends a request and hands the answer on as it comes.
func (c *Client) askStream(ctx context.Context, server string, q call, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience(server, q))
	defer cancel()
	resp, err := c.send(ctx, server, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		raw, err := readBounded(resp.Body, maxAnswer)
		if err != nil {
			return fmt.Errorf("read answer of %s: %w", server, err)
		}
		return refusal(server, resp.StatusCode, raw)
	}
	if err := read(&metered{r: resp.Body, left: int(q.limit)}); err != nil {
		return fmt.Errorf("read answer of %s: %w", server, err)
	}
	return nil
}

// learner stores the events of an answer.
type learner struct {
	c      *Client
	server string
	room   event.RoomID
	v      *event.Version
	create *event.PDU // verified
	wanted []event.ID // sorted: only these are of interest. nil: all are.

	seed  maphash.Seed
	here  map[uint64]struct{} // hashes of ids, for there may be very many: in the database; of others that is not known
	bad   map[event.ID]bool   // cannot be verified
	later int                 // of these: for want of a key that may come
	taken map[string][]bool   // by list and place: done with
}

func (c *Client) learner(server string, id event.RoomID, v *event.Version, create *event.PDU) *learner {
	return &learner{c: c, server: server, room: id, v: v, create: create, seed: maphash.MakeSeed(), here: map[uint64]struct{}{}, bad: map[event.ID]bool{}, taken: map[string][]bool{}}
}

func (l *learner) isHere(id event.ID) bool {
	_, ok := l.here[maphash.String(l.seed, string(id))]
	return ok
}

func (l *learner) noteHere(id event.ID) { l.here[maphash.String(l.seed, string(id))] = struct{}{} }

func (l *learner) isWanted(id event.ID) bool {
	if l.wanted == nil {
		return true
	}
	_, ok := slices.BinarySearch(l.wanted, id)
	return ok
}

// learn stores the events of the lists of an answer. It reads them until nothing is left that rests on what has not come yet; what then remains waits in the
// room for its authorising events.
func (l *learner) learn(ctx context.Context, s *spool, lists ...string) error {
	for last := false; ; {
		b := &learning{learner: l, ctx: ctx, all: last, batch: map[event.ID]bool{}}
		err := walkAnswer(s.read(), lists, nil, b.element)
		if err == nil {
			err = b.flush()
		}
		if err != nil || last || !b.left {
			return err
		}
		last = !b.progress
	}
}

// learning is one reading of an answer.
type learning struct {
	*learner
	ctx      context.Context
	all      bool // take also what rests on events that did not come
	left     bool
	progress bool
	pdus     []*event.PDU
	batch    map[event.ID]bool
}

func (b *learning) element(list string, n int, raw json.RawMessage) error {
	if n < 0 {
		return nil
	}
	taken := b.taken[list]
	if n < len(taken) && taken[n] {
		return nil
	}
	for len(taken) <= n {
		taken = append(taken, false)
	}
	b.taken[list] = taken
	p, err := event.Parse(b.v, bytes.Clone(raw))
	if err == nil && p.RoomID != b.room {
		err = errors.New("it belongs to another room")
	}
	if err != nil {
		taken[n] = true
		b.c.log.Info("event left out", "server", b.server, "room", b.room, "err", err)
		return nil
	}
	if !b.isWanted(p.ID) || b.isHere(p.ID) || b.bad[p.ID] || b.batch[p.ID] {
		taken[n] = true
		return nil
	}
	if !b.all {
		for _, id := range p.Auth {
			if b.isHere(id) || b.batch[id] || b.bad[id] {
				continue
			}
			ok, err := b.known(id)
			if err != nil {
				return err
			}
			if !ok {
				b.left = true
				return nil
			}
		}
	}
	taken[n], b.progress = true, true
	b.batch[p.ID] = true
	if b.pdus = append(b.pdus, p); len(b.pdus) >= learnBatch {
		return b.flush()
	}
	return nil
}

// known asks the database.
func (b *learning) known(id event.ID) (bool, error) {
	lack, err := b.c.c.Rooms.Lacks(b.ctx, []event.ID{id})
	if err != nil || len(lack) > 0 {
		return false, err
	}
	b.noteHere(id)
	return true, nil
}

// flush verifies what has been gathered, and stores it.
func (b *learning) flush() error {
	pdus := b.pdus
	b.pdus = nil
	clear(b.batch)
	if len(pdus) == 0 {
		return nil
	}
	ids := make([]event.ID, len(pdus))
	for i, p := range pdus {
		ids[i] = p.ID
	}
	lack, err := b.c.c.Rooms.Lacks(b.ctx, ids)
	if err != nil {
		return err
	}
	missing := make(map[event.ID]bool, len(lack))
	for _, id := range lack {
		missing[id] = true
	}
	var check []*event.PDU
	for _, p := range pdus {
		if missing[p.ID] {
			check = append(check, p)
		} else {
			b.noteHere(p.ID)
		}
	}
	good, later, err := b.c.verifyMany(b.ctx, b.server, check)
	if err != nil {
		return err
	}
	b.later += len(later)
	var store []*event.PDU
	for _, p := range check {
		if g := good[p.ID]; g != nil {
			store = append(store, g)
		} else {
			b.bad[event.ID(strings.Clone(string(p.ID)))] = true
		}
	}
	if len(store) == 0 {
		return nil
	}
	if err := b.c.c.Rooms.Learn(b.ctx, b.v, b.create, store, room.Source{Kind: "federation", Server: b.server}); err != nil {
		return fmt.Errorf("store a part of the state: %w", err)
	}
	for _, p := range store {
		b.noteHere(p.ID)
	}
	return nil
}
