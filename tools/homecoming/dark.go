// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"hallig/tools/matrixclient"
)

// written is an event that a server answered for.
type written struct {
	id, room string
	n        int // its number; 0: state
	side     int
	text     bool // a message that people read, no reaction and no edit
}

// night is what was written while the link was cut.
type night struct {
	events   [2][]written
	newest   [2][]written // the last in each room
	toDevice [2][]int     // numbers of the messages between devices that each side sent
	receipts [2][]written // what the first person of each side has read
	devices  [2]string    // the device that somebody has logged in with meanwhile
	off      bool         // the central server had given the box up
	how      string

	sealed    []int // numbers of encrypted messages to the box
	unclaimed int   // one-time keys of the box that were asked for in vain
}

const (
	toDeviceEach = 30
	weeks        = 3
)

// write has people on both sides write n events each, in all rooms, and returns when both have.
func (w *world) write(ctx context.Context, n, part int) (out [2][]written, err error) {
	var wg sync.WaitGroup
	var errs [2]error
	for s := range out {
		seed, first := w.r.Uint64(), w.wrote+1
		w.wrote += n
		wg.Go(func() { out[s], errs[s] = w.writeOn(ctx, s, n, first, part, rand.New(rand.NewPCG(seed, 1))) })
	}
	wg.Wait()
	for s, err := range errs {
		if err != nil {
			return out, fmt.Errorf("write at the %s: %w", sides[s], err)
		}
	}
	return out, nil
}

// job is one event to be written.
type job struct {
	room, n int
	kind    int // of 100
}

// writeOn has the people of one side write.
func (w *world) writeOn(ctx context.Context, side, n, first, part int, r *rand.Rand) (out []written, err error) {
	jobs := make([]job, n)
	for i := range jobs {
		jobs[i] = job{room: i % len(w.rooms), n: first + i, kind: r.IntN(100)}
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for k, c := range w.people[side] {
		wg.Go(func() {
			last := map[int]string{}
			for i := k; i < len(jobs) && ctx.Err() == nil; i += len(w.people[side]) {
				j := jobs[i]
				e, err := w.writeOne(ctx, c, side, j, part, last[j.room], k == 0)
				if err != nil {
					stop(err)
					return
				}
				last[j.room] = e.id
				mu.Lock()
				out = append(out, e)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out, context.Cause(ctx)
}

// writeOne writes a message, now and then a reaction, an edit or, by who may, a topic.
func (w *world) writeOne(ctx context.Context, c *matrixclient.Client, side int, j job, part int, before string, warden bool) (written, error) {
	id := w.rooms[j.room]
	text := fmt.Sprintf("Meldung %d der %d. Woche: Der Pegel steht bei %d cm, der Deich hält, wir bleiben.", j.n, part+1, j.n%700)
	content := map[string]any{"msgtype": "m.text", "body": text, "n": j.n}
	typ := "m.room.message"
	plain := false
	switch {
	case j.kind < 2 && warden:
		e, err := c.SetState(ctx, id, "m.room.topic", "", map[string]any{"topic": text, "n": j.n})
		return written{id: e, room: id, n: j.n, side: side}, err
	case j.kind < 7 && before != "":
		typ, content = "m.reaction", map[string]any{"n": j.n, "m.relates_to": map[string]string{"rel_type": "m.annotation", "event_id": before, "key": "👍"}}
	case j.kind < 10 && before != "":
		content["m.new_content"] = map[string]string{"msgtype": "m.text", "body": text}
		content["m.relates_to"] = map[string]string{"rel_type": "m.replace", "event_id": before}
	default:
		plain = true
	}
	for {
		e, err := c.Send(ctx, id, typ, fmt.Sprintf("t%d", j.n), content)
		if matrixclient.Status(err) == http.StatusTooManyRequests && pause(ctx, time.Second) {
			continue
		}
		return written{id: e, room: id, n: j.n, side: side, text: plain}, err
	}
}

// newestTexts gives, by room, the numbers of the newest messages that people of a side wrote, the greatest first: as many as write at the same time, since which of them is the last one the server decides.
func (n *night) newestTexts(side int) map[string][]int {
	out := map[string][]int{}
	for _, e := range n.events[side] {
		if e.text {
			out[e.room] = append(out[e.room], e.n)
		}
	}
	for id, nums := range out {
		slices.SortFunc(nums, func(a, b int) int { return b - a })
		out[id] = nums[:min(len(nums), writers)]
	}
	return out
}

// goDark cuts the link and lets three weeks pass.
func (w *world) goDark(ctx context.Context, round int) (*night, error) {
	n := &night{}
	if err := w.stock(ctx); err != nil {
		return nil, err
	}
	w.box.CutCentre(true)
	say("the link is cut; %d events on each side", w.o.events)
	at := time.Now()
	if err := w.beforeGivingUp(ctx, n, round); err != nil {
		return nil, err
	}
	for week := range weeks {
		if w.o.lag && round == 0 {
			if err := w.clock(ctx, dark-time.Duration(week)*7*24*time.Hour); err != nil {
				return nil, err
			}
		}
		if err := w.lookAtBackOff(ctx, n); err != nil {
			return nil, err
		}
		share := w.o.events/weeks + min(1, max(0, w.o.events%weeks-week))
		part, err := w.write(ctx, share, week)
		if err != nil {
			return nil, err
		}
		for s := range part {
			n.events[s] = append(n.events[s], part[s]...)
		}
	}
	if w.o.lag && round == 0 {
		if err := w.clock(ctx, 0); err != nil {
			return nil, err
		}
	}
	if err := w.lastThings(ctx, n); err != nil {
		return nil, err
	}
	if err := w.writeSealed(ctx, n); err != nil {
		return nil, err
	}
	off, how, err := w.central.backedOff(ctx, w.box.Server)
	if off || !n.off {
		n.off, n.how = off, how
	}
	say("dark for %.0f s of real time; of the central server: %s", time.Since(at).Seconds(), n.how)
	return n, err
}

// lastThings finds the newest event of each room, and has the first person of each side read it.
func (w *world) lastThings(ctx context.Context, n *night) error {
	for s := range n.events {
		last := map[string]written{}
		for _, e := range n.events[s] {
			if e.n > last[e.room].n {
				last[e.room] = e
			}
		}
		for _, id := range w.rooms {
			e, ok := last[id]
			if !ok {
				continue
			}
			n.newest[s] = append(n.newest[s], e)
			c := w.people[s][0]
			if err := c.Do(ctx, "POST", matrixclient.Path("rooms", id, "receipt", "m.read", e.id), map[string]any{}, nil); err != nil {
				return fmt.Errorf("read at the %s: %w", sides[s], err)
			}
			n.receipts[s] = append(n.receipts[s], e)
		}
	}
	return nil
}
