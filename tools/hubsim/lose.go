// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"hallig/sync/hub"
)

const (
	perBox    = 100 * time.Second // while a node dies each box is sent one in so much time, all together no less than leastRate a second
	leastRate = 20
	moveMost  = 2 * time.Minute
)

// loseNode takes a node away while transactions come, at some moment, and starts it again when its boxes are with the others: by SIGKILL, of which the kernel tells the boxes, or by SIGSTOP, as when a machine hangs
// or has no power any more, of which nobody tells them.
func (f *fleet) loseNode(ctx context.Context, n int, how syscall.Signal) error {
	there, err := f.connectedTo(ctx, n)
	if err != nil {
		return err
	}
	contacts := f.sum("contacts")
	rate := max(leastRate, float64(f.o.boxes)/perBox.Seconds())
	var moved atomic.Bool
	flooded := make(chan error, 1)
	go func() {
		_, err := f.floodWhile(ctx, rate, func(time.Duration) bool { return !moved.Load() })
		flooded <- err
	}()
	pause(ctx, f.o.step/4+rand.N(f.o.step/4))
	f.far.gone[n].Store(true)
	f.far.client.CloseIdleConnections()
	begin := time.Now()
	if err := f.nodes[n].cmd.Process.Signal(how); err != nil {
		return err
	}
	var half, with time.Duration
	asked := begin
	took, err := until("the boxes of the node that is gone to be with others", moveMost, func() bool {
		came := f.sum("contacts") - contacts
		if half == 0 && came >= there/2 {
			half = time.Since(begin)
		}
		if with == 0 && time.Since(asked) > time.Second && f.sum("connected") >= int64(f.o.boxes) {
			asked = time.Now()
			if f.atOthers(ctx, n) {
				with = asked.Sub(begin)
			}
		}
		return with > 0 && came >= there && f.sum("heard") >= int64(f.o.boxes)
	})
	moved.Store(true)
	if err := errors.Join(err, <-flooded); err != nil {
		return fmt.Errorf("%w: %d of %d connected, %d of %d came over", err, f.sum("heard"), f.o.boxes, f.sum("contacts")-contacts, there)
	}
	name, did := "move", "kill -9 of"
	if how == syscall.SIGSTOP {
		name, did = "move_silent", "no more word from"
	}
	say(name+"_s", with.Seconds(), "s", fmt.Sprintf("from %s node %d with %d boxes until each of them was with another node; asked once a second; %.0f transactions a second all the while", did, n, there, rate))
	say(name+"_heard_s", took.Seconds(), "s", fmt.Sprintf("until each of them had made contact there as well, half after %.1f s; %d boxes of other nodes had to come again", half.Seconds(), f.sum("contacts")-contacts-there))
	if _, err := f.arrived(); err != nil {
		return err
	}
	if err := f.account(); err != nil {
		return err
	}
	f.nodes[n].kill()
	if err := errors.Join(f.startNode(n), f.answers(n)); err != nil {
		return err
	}
	f.far.gone[n].Store(false)
	return nil
}

// fullest is the node with the most boxes.
func (f *fleet) fullest(ctx context.Context) (at int, err error) {
	most := int64(-1)
	for n := range f.nodes {
		there, err := f.connectedTo(ctx, n)
		if err != nil {
			return 0, err
		}
		if there > most {
			at, most = n, there
		}
	}
	return at, nil
}

// atOthers says whether all boxes are connected to the nodes but one.
func (f *fleet) atOthers(ctx context.Context, gone int) bool {
	all := int64(0)
	for n := range f.nodes {
		if n == gone {
			continue
		}
		there, err := f.connectedTo(ctx, n)
		if err != nil {
			return false // it is asked again
		}
		all += there
	}
	return all >= int64(f.o.boxes)
}

// connectedTo counts the boxes at a node.
func (f *fleet) connectedTo(ctx context.Context, n int) (there int64, err error) {
	var s hub.Status
	if err := hub.Ask(ctx, f.dirs[n], "GET", "/status", nil, &s); err != nil {
		return 0, err
	}
	for _, b := range s.Boxes {
		if b.Connected {
			there++
		}
	}
	return there, nil
}
