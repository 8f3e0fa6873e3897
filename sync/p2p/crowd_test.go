// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	libpeer "github.com/libp2p/go-libp2p/core/peer"

	"hallig/sync/peer"
)

// Each address gets its turn, each is first now and then, and no more than two wait for long.
func TestInTurn(t *testing.T) {
	var texts []string
	for i := range 5 {
		texts = append(texts, fmt.Sprintf("/ip4/192.0.2.%d/tcp/4001", i))
	}
	addrs, err := parseAddrs(texts)
	if err != nil {
		t.Fatal(err)
	}
	first := map[string]int{}
	for range 2000 {
		got := inTurn(addrs)
		all := map[string]bool{}
		for i, a := range got {
			all[a.Addr.String()] = true
			if want := []time.Duration{0, turnAfter, 2 * turnAfter, 2 * turnAfter, 2 * turnAfter}[i]; a.Delay != want {
				t.Fatalf("address %d waits for %v, want %v", i, a.Delay, want)
			}
		}
		if len(got) != len(addrs) || len(all) != len(addrs) {
			t.Fatalf("%d addresses, %d different ones, want %d", len(got), len(all), len(addrs))
		}
		first[got[0].Addr.String()]++
	}
	for _, a := range texts {
		if n := first[a]; n < 200 || n > 600 {
			t.Errorf("%s was first %d times of 2000, want about 400", a, n)
		}
	}
	if got := inTurn(nil); len(got) != 0 {
		t.Errorf("of no addresses: %v", got)
	}
}

// A box that loses its hub comes back after a time of its own; to lose another box delays nothing.
func TestScatter(t *testing.T) {
	hub := newHub(t, Relaying{})
	box := behind(t, hub, true)
	other := newHost(t, func(c *Config) { c.Static = box.Addrs() })
	knows(box, other)
	if up := await(t, "up", box.up); up != string(other.ID()) {
		t.Fatalf("%s is up, want %s", up, other.ID())
	}
	rest := func() (of, ofOther time.Time) {
		box.mu.Lock()
		defer box.mu.Unlock()
		return box.rests[hub.ID()], box.rests[other.ID()]
	}
	other.stop()
	await(t, "down", box.down)
	before := time.Now()
	hub.stop()
	await(t, "down", box.down)
	got, of := rest()
	if got.Before(before) || got.After(time.Now().Add(scatterMost)) {
		t.Errorf("the next attempt at the hub is %v after it was lost, want up to %v", got.Sub(before), scatterMost)
	}
	if !of.IsZero() {
		t.Errorf("the next attempt at another box is put off until %v", of)
	}
}

// A box that is connected to two nodes of its hub at once stays with one of them.
func TestOneNodeOfTheHub(t *testing.T) {
	hub := newHub(t, Relaying{})
	box := behind(t, hub, true)
	for !peer.Initiates(hub.ID(), box.ID()) { // the nodes open the stream: each would replace the other's
		box = behind(t, hub, true)
	}
	second := newHost(t, func(c *Config) { c.Meeting, c.Box, c.Statement = true, hub.cfg.Box, hub.cfg.Statement })
	knows(second, box)
	info, err := libpeer.AddrInfoFromString(box.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := second.host.Connect(t.Context(), *info); err != nil {
		t.Fatal(err)
	}
	await(t, "up at the second node", second.up)
	await(t, "down at the first one", hub.down)
	eventually(t, "one connection to be left", func() bool { return len(box.host.Network().ConnsToPeer(box.far(hub))) == 1 })
	eventually(t, "the first node to be left", func() bool { return len(hub.host.Network().ConnsToPeer(hub.far(box))) == 0 })
	if len(second.down) > 0 {
		t.Error("the node that has the box lost it to the other one")
	}
}

// However many come at once, a hub spends a tenth of its time at most on looking at all of them; a box that has few to look at looks whenever something changes.
func TestCrowdIsLookedAtSeldom(t *testing.T) {
	for took, want := range map[time.Duration][2]int{10 * time.Millisecond: {9, 11}, time.Second: {1, 1}, 0: {900, 1010}} {
		synctest.Test(t, func(t *testing.T) {
			h := &Host{kick: make(chan struct{}, 1), ctx: t.Context()}
			ctx, stop := context.WithTimeout(t.Context(), time.Second)
			defer stop()
			var kicks sync.WaitGroup
			defer kicks.Wait()
			kicks.Go(func() {
				for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
					h.look()
				}
			})
			looks := 0
			for ; ctx.Err() == nil; looks++ {
				time.Sleep(took) // it looks
				h.untilNextLook(ctx, nil, took)
			}
			if looks < want[0] || looks > want[1] {
				t.Errorf("a look takes %v: it looked %d times in a second, want %v", took, looks, want)
			}
		})
	}
}
