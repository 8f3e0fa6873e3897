// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallig/appliance/herald"
	"hallig/tools/matrixclient"
)

// follower is a client that was there before and syncs all the time. It never pages back: what /sync does not bring is not live.
type follower struct {
	c    *matrixclient.Client
	ring *keyring // of one-time keys, to read what was written under them
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	live     map[string]time.Time // event ids of the timeline
	ahead    map[int]time.Time    // numbers of messages that the box told of in a letter before they came
	number   map[int]string       // the number that a message bears, and the event that bore it first
	twice    map[string]bool      // events, and numbers, that came more than once
	limited  int
	toDevice map[int]int  // number of a message between devices: how often it came
	sealed   map[int]bool // number of one that was encrypted: it could be read
	receipts map[string]map[string]string
	changed  map[string]bool // users whose devices changed
	oneTime  int             // one-time keys left, as the server tells
	last     time.Time       // when something came
}

// wholeTimeline asks for as much as servers give.
const wholeTimeline = `{"room":{"timeline":{"limit":1000}}}`

func follow(ctx context.Context, c *matrixclient.Client, ring *keyring) (*follower, error) {
	r, err := c.Sync(ctx, matrixclient.SyncOptions{Filter: wholeTimeline})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	f := &follower{c: c, ring: ring, stop: stop, done: make(chan struct{})}
	f.forget()
	go f.run(ctx, r.NextBatch) // close waits for it
	return f, nil
}

// forget begins a new round.
func (f *follower) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.live, f.number, f.twice = map[string]time.Time{}, map[int]string{}, map[string]bool{}
	f.toDevice, f.receipts, f.changed, f.limited = map[int]int{}, map[string]map[string]string{}, map[string]bool{}, 0
	f.sealed, f.ahead = map[int]bool{}, map[int]time.Time{}
	f.last = time.Now()
}

func (f *follower) close() {
	f.stop()
	<-f.done
}

func (f *follower) run(ctx context.Context, since string) {
	defer close(f.done)
	for ctx.Err() == nil {
		once, stop := context.WithTimeout(ctx, 40*time.Second)
		r, err := f.c.Sync(once, matrixclient.SyncOptions{Since: since, Filter: wholeTimeline, Timeout: 10 * time.Second})
		stop()
		if err != nil {
			pause(ctx, 200*time.Millisecond) // it was killed, and will be back
			continue
		}
		since = r.NextBatch
		f.take(r)
	}
}

// numbered is what we write: each message, and each message between devices, bears a number.
type numbered struct {
	N int `json:"n"`
}

func (f *follower) take(r *matrixclient.SyncResponse) {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, room := range r.Rooms.Join {
		if room.Timeline.Limited {
			f.limited++
		}
		for _, e := range room.Timeline.Events {
			f.event(e, now)
		}
		for _, e := range room.Ephemeral.Events {
			if e.Type == "m.receipt" {
				f.receipt(id, e.Content)
				f.last = now
			}
		}
	}
	for _, e := range r.ToDevice.Events {
		var n numbered
		if json.Unmarshal(e.Content, &n) != nil || n.N == 0 {
			continue
		}
		f.toDevice[n.N]++
		f.last = now
		if e.Type == typeSealed && f.toDevice[n.N] == 1 {
			f.sealed[n.N] = f.ring.opens(f.c, n.N, e.Content)
		}
	}
	for _, u := range r.DeviceLists.Changed {
		f.changed[u] = true
	}
	if n, ok := r.OneTimeKeys["signed_curve25519"]; ok {
		f.oneTime = n
	}
}

// numberOf finds the numbers of messages (writeOne) in a letter of the box.
var numberOf = regexp.MustCompile(`Meldung ([0-9]{1,9}) der`)

func (f *follower) event(e matrixclient.Event, now time.Time) {
	if _, there := f.live[e.ID]; there {
		f.twice[e.ID] = true
		return
	}
	f.live[e.ID] = now
	if strings.HasPrefix(e.Sender, "@"+herald.Reserved[0]+":") {
		for _, m := range numberOf.FindAllStringSubmatch(e.Body(), -1) {
			if n, _ := strconv.Atoi(m[1]); f.ahead[n].IsZero() { // digits
				f.ahead[n] = now
			}
		}
		return
	}
	f.last = now
	var n numbered
	if json.Unmarshal(e.Content, &n) != nil || n.N == 0 {
		return
	}
	if first := f.number[n.N]; first != "" && first != e.ID {
		f.twice[e.ID] = true
	}
	f.number[n.N] = e.ID
}

func (f *follower) receipt(room string, raw json.RawMessage) {
	var content map[string]map[string]map[string]json.RawMessage
	if json.Unmarshal(raw, &content) != nil {
		return
	}
	for event, kinds := range content {
		for user := range kinds["m.read"] {
			if f.receipts[room] == nil {
				f.receipts[room] = map[string]string{}
			}
			f.receipts[room][user] = event
		}
	}
}

// quiet is for how long nothing has come.
func (f *follower) quiet() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.last)
}

// missing gives what has not come.
func (f *follower) missing(want []written) (out []written) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range want {
		if _, ok := f.live[e.id]; !ok {
			out = append(out, e)
		}
	}
	return out
}

// when gives when events came, the zero time for those that did not.
func (f *follower) when(want []written) []time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]time.Time, len(want))
	for i, e := range want {
		out[i] = f.live[e.id]
	}
	return out
}
