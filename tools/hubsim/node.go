// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallig/sync/hub/spool"
)

// takeOver tells a node that boxes of a dead one come to it.
const takeOver = syscall.SIGUSR1

// nodeRole does what a node of the hub does with its memory, less the boxes: it holds them, hears of what comes, takes it out and settles it.
func nodeRole(args []string) error {
	f := flag.NewFlagSet("node", flag.ContinueOnError)
	at, name := f.String("at", "", "database"), f.String("name", "", "")
	from, to := f.Int("from", 0, ""), f.Int("to", 0, "")
	thenFrom, thenTo := f.Int("then-from", 0, "boxes that come at the signal"), f.Int("then-to", 0, "")
	if err := f.Parse(args); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	more := make(chan os.Signal, 1)
	signal.Notify(more, takeOver)
	s, err := spool.Connect(ctx, *at, spool.Limits{}, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	n := &simNode{s: s, name: *name, leases: make(map[string]spool.Lease), due: make(map[string]bool), work: make(chan string)}
	var loops sync.WaitGroup
	for range hands {
		loops.Go(func() { n.serve(ctx) })
	}
	loops.Go(func() { n.hear(ctx) })
	loops.Go(func() { n.renew(ctx) })
	loops.Go(func() { n.hold(ctx, *from, *to) })
	for tick := time.NewTicker(100 * time.Millisecond); ctx.Err() == nil; {
		fmt.Printf("held %d\nsettled %d\n", n.held(), n.settled.Load())
		select {
		case <-tick.C:
		case <-more:
			loops.Go(func() { n.hold(ctx, *thenFrom, *thenTo) })
		case <-ctx.Done():
		}
	}
	loops.Wait()
	return nil
}

type simNode struct {
	s       spool.Spool
	name    string
	settled atomic.Int64
	work    chan string // boxes for which something may wait

	mu     sync.Mutex
	leases map[string]spool.Lease
	due    map[string]bool // somebody is about to look
}

func (n *simNode) held() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.leases)
}

// hold takes boxes that have come.
func (n *simNode) hold(ctx context.Context, from, to int) {
	err := many(hands, to-from, func(i int) error {
		box := boxName(from + i)
		l, _, err := n.s.Acquire(ctx, box, n.name, time.Now(), leaseLife, true)
		if err != nil {
			return err
		}
		n.mu.Lock()
		n.leases[box] = l
		n.mu.Unlock()
		n.look(ctx, box)
		return nil
	})
	if err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "hold:", err)
	}
}

func (n *simNode) hear(ctx context.Context) {
	for box := range n.s.Changes(ctx) {
		n.look(ctx, box)
	}
}

// look has somebody look what waits for a box.
func (n *simNode) look(ctx context.Context, box string) {
	n.mu.Lock()
	_, mine := n.leases[box]
	already := n.due[box]
	if mine {
		n.due[box] = true
	}
	n.mu.Unlock()
	if !mine || already {
		return
	}
	select {
	case n.work <- box:
	case <-ctx.Done():
	}
}

func (n *simNode) serve(ctx context.Context) {
	for {
		select {
		case box := <-n.work:
			n.mu.Lock()
			l := n.leases[box]
			delete(n.due, box)
			n.mu.Unlock()
			if err := n.empty(ctx, box, l); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "serve:", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// empty takes out what waits for a box, one after the other as a hub does that plays it to a box.
func (n *simNode) empty(ctx context.Context, box string, l spool.Lease) error {
	q := spool.Queue{Box: box, Other: farName, In: true}
	for after := int64(0); ; {
		rs, err := n.s.Next(ctx, q, after, 1<<20)
		if err != nil || len(rs) == 0 {
			return err
		}
		for _, r := range rs {
			err := n.s.Settle(ctx, q, r.Seq, time.Now(), l)
			if errors.Is(err, spool.ErrFenced) {
				return nil // another node has the box now
			}
			if err != nil {
				return err
			}
			n.settled.Add(1)
			after = r.Seq
		}
	}
}

func (n *simNode) renew(ctx context.Context) {
	tick := time.NewTicker(leaseLife / 3)
	defer tick.Stop()
	for {
		if err := n.s.Renew(ctx, n.name, time.Now(), leaseLife); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "renew:", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
