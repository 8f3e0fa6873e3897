// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"hallig/sync/hub/spool"
)

const (
	leaseLife = 30 * time.Second // as in sync/hub
	hands     = 32               // of a node: how many boxes it works for at a time
)

// spoolAlone tells the story of nodes that share one memory: each holds its share of the boxes, takes out what comes for them, and takes over from a node that dies.
func spoolAlone(ctx context.Context, o *options) (err error) {
	f := &fleet{o: o, dirs: []string{o.dir}}
	defer func() { err = errors.Join(err, f.stop()) }()
	if o.nodes < 2 {
		return errors.New("the nodes' memory is looked at where there are several: want -nodes 2 or more")
	}
	at, err := f.fillSpool(ctx)
	if err != nil {
		return err
	}
	s, err := spool.Connect(ctx, at, spool.Limits{}, nil) // takes in what comes, as any node would
	if err != nil {
		return err
	}
	defer s.Close()
	begin := time.Now()
	for n := range o.nodes {
		share := o.boxes / o.nodes // of the first node, which dies: each of the others gets a part
		others := o.nodes - 1
		p, err := startRole("node", "-at", at, "-name", fmt.Sprint("node", n), "-from", strconv.Itoa(n*o.boxes/o.nodes), "-to", strconv.Itoa((n+1)*o.boxes/o.nodes),
			"-then-from", strconv.Itoa(max(0, n-1)*share/others), "-then-to", strconv.Itoa(n*share/others))
		if err != nil {
			return err
		}
		f.nodes = append(f.nodes, p)
	}
	held := func() (n int64) {
		for _, p := range f.nodes {
			n += p.count("held")
		}
		return n
	}
	if _, err := until("all boxes to be held", 5*time.Minute, func() bool { return held() >= int64(o.boxes) }); err != nil {
		return err
	}
	say("spool_acquire_per_s", float64(o.boxes)/time.Since(begin).Seconds(), "1/s", fmt.Sprintf("%d boxes that all come at once, %d nodes, PostgreSQL", o.boxes, o.nodes))
	nodes, database, idle := f.nodeCPU(), f.databaseCPU(), time.Now()
	pause(ctx, o.idle)
	wall := time.Since(idle).Seconds()
	say("spool_idle_cpu_percent", 100*(f.nodeCPU()-nodes).Seconds()/wall, "%", fmt.Sprintf("of a core, %d nodes together, %d boxes held and quiet", o.nodes, o.boxes))
	say("spool_idle_database_cpu_percent", 100*(f.databaseCPU()-database).Seconds()/wall, "%", "of a core, PostgreSQL's processes meanwhile")
	say("spool_rss_per_1000_boxes_mb", float64(f.rss())/(1<<20)*1000/float64(o.boxes), "MB", "VmRSS of the nodes, memory and leases alone")
	if err := f.spoolLoad(ctx, s); err != nil {
		return err
	}
	return f.spoolLose(ctx, s, held)
}

// spoolLoad puts in as fast as it goes for a while, and waits until all of it was taken out.
func (f *fleet) spoolLoad(ctx context.Context, s spool.Spool) error {
	nodes, database, begin := f.nodeCPU(), f.databaseCPU(), time.Now()
	n, err := f.put(ctx, s, hands, f.o.step)
	if err != nil {
		return err
	}
	wall := time.Since(begin)
	lag, err := until("all that was put in to be settled by a node", 2*time.Minute, func() bool {
		settled := int64(0)
		for _, p := range f.nodes {
			settled += p.count("settled")
		}
		return settled >= n
	})
	if err != nil {
		return err
	}
	say("spool_through_per_s", float64(n)/(wall+lag).Seconds(), "1/s", fmt.Sprintf("transactions of 2 kB put in by %d at once on one node as fast as it goes, taken out and settled on all; %.1f s from the last one in to the last one out; CPU in percent of a core: nodes %.0f, database %.0f",
		hands, lag.Seconds(), 100*(f.nodeCPU()-nodes).Seconds()/(wall+lag).Seconds(), 100*(f.databaseCPU()-database).Seconds()/(wall+lag).Seconds()))
	return nil
}

// put appends to random boxes until the time is over, and gives how many there are in all now.
func (f *fleet) put(ctx context.Context, s spool.Spool, atOnce int, d time.Duration) (int64, error) {
	end := time.Now().Add(d)
	var next atomic.Int64
	next.Store(f.sent)
	body := make([]byte, 1800)
	for i := range body {
		body[i] = byte(rand.IntN(256))
	}
	err := many(atOnce, 1<<30, func(int) error {
		if time.Now().After(end) || ctx.Err() != nil {
			return errDone
		}
		n := next.Add(1)
		q := spool.Queue{Box: boxName(rand.IntN(f.o.boxes)), Other: farName, In: true}
		_, err := s.Append(ctx, q, time.Now(), spool.Request{Key: fmt.Sprint(n), Method: "PUT", URI: fmt.Sprint("/_matrix/federation/v1/send/", n), Authorization: "X-Matrix", Body: body})
		return err
	})
	f.sent = next.Load()
	if err != nil && !errors.Is(err, errDone) {
		return 0, err
	}
	return f.sent, ctx.Err()
}

var errDone = errors.New("the time is over")

// waiting counts what waits.
func waiting(ctx context.Context, s spool.Spool) (n int64, err error) {
	ws, err := s.Waiting(ctx, "")
	for _, w := range ws {
		n += w.Count
	}
	return n, err
}

// spoolLose kills a node while things come; its boxes go to the others, as boxes would that have lost their connection.
func (f *fleet) spoolLose(ctx context.Context, s spool.Spool, held func() int64) error {
	put := make(chan error)
	go func() {
		_, err := f.put(ctx, s, 4, f.o.step)
		put <- err
	}()
	pause(ctx, f.o.step/4)
	orphans := f.nodes[0].count("held")
	f.nodes[0].kill()
	f.nodes = f.nodes[1:]
	begin := time.Now()
	for i, p := range f.nodes { // each takes its share
		if err := p.cmd.Process.Signal(takeOver); err != nil {
			return fmt.Errorf("node %d: %w", i, err)
		}
	}
	if _, err := until("the boxes to be held again", time.Minute, func() bool { return held() >= int64(f.o.boxes) }); err != nil {
		return err
	}
	say("spool_move_s", time.Since(begin).Seconds(), "s", fmt.Sprintf("until %d boxes of a node that was killed were held by the others, things coming in all the while", orphans))
	if err := <-put; err != nil {
		return err
	}
	if _, err := until("all that was put in to be taken out", 2*time.Minute, func() bool {
		n, err := waiting(ctx, s)
		return err == nil && n == 0
	}); err != nil {
		return err
	}
	fmt.Printf("hubsim: %d boxes on %d nodes, %d transactions kept, none waits\n", f.o.boxes, f.o.nodes, f.sent)
	return nil
}
