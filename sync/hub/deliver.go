// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/sync/peer"
)

// This file hands on what waits for a box while it is connected here.

// carrier serves one connected box.
type carrier struct {
	h      *Hub
	box    string
	id     peer.ID
	log    *slog.Logger
	wake   chan struct{}
	news   chan struct{} // of its letters
	cancel context.CancelFunc
	ended  chan struct{}
	lease  spool.Lease
	single atomic.Bool // the box takes one request at a time only
}

const (
	playPatience = 2 * time.Minute // for a transaction that the box works on
	playBytes    = 2 << 20         // of one queue in memory: one turn
	againFirst   = 200 * time.Millisecond
	againMost    = time.Minute
)

// boxUp begins to serve a box that has come in reach.
func (h *Hub) boxUp(ctx context.Context, id peer.ID) {
	e, ok := h.boxByID(id)
	if !ok || e.revoked != "" {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &carrier{h: h, box: e.Server, id: id, log: h.log.With("box", e.Server), wake: make(chan struct{}, 1), news: make(chan struct{}, 1), cancel: cancel, ended: make(chan struct{})}
	h.mu.Lock()
	old, ferried := h.carriers[e.Server], h.ferries[e.Server]
	h.carriers[e.Server] = c
	h.mu.Unlock()
	if old != nil {
		old.cancel()
	}
	if ferried != nil {
		ferried.cancel() // its own way is the better one
	}
	h.depot.Came(e.Server)
	h.carrying.Go(func() {
		defer c.over()
		if old != nil {
			<-old.ended // one at a time plays to a box
		}
		if ferried != nil {
			<-ferried.ended
		}
		c.run(ctx)
	})
}

// over says that a carrier has ended.
func (c *carrier) over() {
	c.cancel()
	close(c.ended)
	c.h.mu.Lock()
	gone := c.h.carriers[c.box] == c
	if gone {
		delete(c.h.carriers, c.box)
	}
	c.h.mu.Unlock()
	if gone {
		c.h.noteReach(c.box, nil) // it says anew whom it reaches
		poke(c.h.reached)
	}
}

// poke wakes a loop.
func poke(wake chan struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// boxDown ends what serves a box that is out of reach. The roster is not asked: a box that was deleted is not in it any more.
func (h *Hub) boxDown(id peer.ID) { h.endCarriers(func(c *carrier) bool { return c.id == id }) }

// endCarriers ends some. It does not wait.
func (h *Hub) endCarriers(which func(*carrier) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.carriers {
		if which(c) {
			c.cancel()
		}
	}
}

// stopCarriers waits until nobody plays any more.
func (h *Hub) stopCarriers() {
	h.endCarriers(func(*carrier) bool { return true })
	h.carrying.Wait()
}

// wakeCarriers hands on word of what has come in, through this node or another.
func (h *Hub) wakeCarriers(ctx context.Context) {
	for box := range h.spool.Changes(ctx) {
		h.mu.Lock()
		c, f := h.carriers[box], h.ferries[box]
		h.mu.Unlock()
		if c != nil {
			poke(c.wake)
		}
		if f != nil {
			poke(f.wake)
		}
	}
}

// run takes the box's lease and plays its queues until ctx ends or another node takes the box.
func (c *carrier) run(ctx context.Context) {
	for wait := againFirst; ; wait = min(2*wait, againMost) {
		var err error
		if c.lease, _, err = c.h.spool.Acquire(ctx, c.box, c.h.node, c.h.now(), leaseLife, true); err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		c.log.Error("take over a box that has come; it is tried again", "err", err)
		if !pause(ctx, wait, nil) {
			return
		}
	}
	defer func() {
		ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer stop()
		if err := c.h.spool.Release(ctx, c.lease); err != nil {
			c.log.Debug("release a box", "err", err) // it ends by itself
		}
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { c.tell(ctx) })
	c.h.mail.Look(ctx, c.box) // another node may have brought them until now
	turns := newTurns()
	ended := make(chan struct{}, 1)
	for wait := againFirst; ; {
		waiting, err := c.h.spool.Waiting(ctx, c.box)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.log.Error("look what waits for a box; it is tried again", "err", err)
			if !pause(ctx, wait, nil) {
				return
			}
			wait = min(2*wait, againMost)
			continue
		}
		wait = againFirst
		begin, again := turns.next(waiting, time.Now())
		for _, q := range begin {
			wg.Go(func() {
				moved, err := c.play(ctx, q)
				if errors.Is(err, spool.ErrFenced) && ctx.Err() == nil {
					c.log.Info("another node has the box now", "err", err)
					cancel()
				}
				turns.over(q.Other, moved, err != nil, time.Now())
				poke(ended)
			})
		}
		var rested <-chan time.Time
		if again > 0 {
			rested = time.After(again)
		}
		select {
		case <-c.wake:
		case <-ended:
		case <-rested:
		case <-ctx.Done():
			return
		}
	}
}

// pause waits; false: ctx has ended.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-early:
	case <-ctx.Done():
		return false
	}
	return true
}

// play hands on the oldest of one queue, in order, as much as one turn is. moved: the box has some of it. An error: the box did not take the next, or, ErrFenced, another node has the box.
func (c *carrier) play(ctx context.Context, q spool.Queue) (moved bool, err error) {
	rs, err := c.h.spool.Next(ctx, q, 0, playBytes)
	for len(rs) > 0 && err == nil {
		var n int
		if n, err = c.some(ctx, rs); n > 0 {
			// The box has them. When we die here it gets the same once more, and knows them.
			if serr := c.h.spool.Settle(ctx, q, rs[n-1].Seq, c.h.now(), c.lease); serr != nil {
				err = errors.Join(fmt.Errorf("note what the box has: %w", serr), err)
				break
			}
			moved = true
		}
		rs = rs[n:]
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, spool.ErrFenced) && c.h.seldom.may("play "+c.box+" "+q.Other, c.h.now()) {
		c.log.Warn("a box does not take what waits for it; it is tried again", "from", q.Other, "err", err)
	}
	return moved, err
}

// one hands on one request. No error: the box has it, or has refused it for good.
func (c *carrier) one(ctx context.Context, r spool.Request) error {
	req, err := verbatim(c.box, sealed{method: r.Method, uri: r.URI, authorization: []string{r.Authorization}, body: r.Body})
	if err != nil {
		return err
	}
	req.Header.Set(api.Received, received(r.Received))
	ctx, stop := context.WithTimeout(ctx, playPatience)
	defer stop()
	resp, err := c.h.p2p.RoundTripper().RoundTrip(req.WithContext(ctx))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read the box's answer: %w", err)
	}
	return c.h.judge(ctx, c.box, r, resp.StatusCode, text)
}

// judge says what a box's answer means. No error: the box has the request, or has refused it for good.
func (h *Hub) judge(ctx context.Context, box string, r spool.Request, status int, text []byte) error {
	switch {
	case status == http.StatusOK:
		h.count.delivered.Add(1)
		return nil
	case api.Settled(r.URI, status, text):
		h.count.refused.Add(1)
		h.log.Warn("a box refuses what waited for it for good; it is dropped", "box", box, "uri", r.URI, "status", status, "answer", fmt.Sprintf("%.200q", text))
		if isInvite(r.URI) {
			h.refusedInvite(ctx, box, r)
		}
		return nil
	}
	return fmt.Errorf("it answered %d %.200q", status, text)
}
