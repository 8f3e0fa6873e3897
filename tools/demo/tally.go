// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"hallig/tools/matrixclient"
)

// tally is what must come out: the events that some server has acknowledged to a sender, and what each server's
// users have seen of them in their timelines.
type tally struct {
	mu       sync.Mutex
	expected map[string]entry // by event id
	seen     map[string]map[string]int
	changed  chan struct{} // closed and replaced at each change
}

// entry is an acknowledged event.
type entry struct{ place, what string }

func newTally() *tally {
	return &tally{expected: map[string]entry{}, seen: map[string]map[string]int{}, changed: make(chan struct{})}
}

func (t *tally) poke() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// acknowledged notes an event that a server has answered for, and where it was written.
func (t *tally) acknowledged(id, place, what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expected[id] = entry{place, what}
	t.poke()
}

func (t *tally) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.expected)
}

// follow reads /sync as server's user until ctx ends and counts each timeline event of the room. A limited timeline is
// closed by paging back, as clients do.
func (t *tally) follow(ctx context.Context, server string, c *matrixclient.Client, room string) error {
	t.mu.Lock()
	t.seen[server] = map[string]int{}
	t.mu.Unlock()
	const filter = `{"room":{"timeline":{"limit":2000}}}`
	since, newest := "", ""
	for {
		r, err := c.Sync(ctx, matrixclient.SyncOptions{Since: since, Timeout: 20 * time.Second, Filter: filter})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// A central server that is busy answers 500 now and then; the token stays good.
			select {
			case <-time.After(300 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		since = r.NextBatch
		joined, ok := r.Rooms.Join[room]
		if !ok {
			continue
		}
		events := joined.Timeline.Events
		if joined.Timeline.Limited && newest != "" {
			gap, err := t.gap(ctx, server, c, room, joined.Timeline.PrevBatch)
			if err != nil {
				return fmt.Errorf("%s: close a gap in the timeline: %w", server, err)
			}
			events = append(gap, events...)
		}
		t.saw(server, events)
		if len(events) > 0 {
			newest = events[len(events)-1].ID
		}
	}
}

// gap pages back from a limited timeline until an event that was already seen.
func (t *tally) gap(ctx context.Context, server string, c *matrixclient.Client, room, from string) ([]matrixclient.Event, error) {
	var out []matrixclient.Event
	for from != "" {
		page, err := c.Messages(ctx, room, from, "b", 100)
		if err != nil {
			return nil, err
		}
		for _, e := range page.Chunk {
			t.mu.Lock()
			known := t.seen[server][e.ID] > 0
			t.mu.Unlock()
			if known {
				return out, nil
			}
			out = append(out, e)
		}
		from = page.End
	}
	return out, nil
}

func (t *tally) saw(server string, events []matrixclient.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range events {
		t.seen[server][e.ID]++
	}
	t.poke()
}

// missing counts, for one server, the acknowledged events that its user has not seen.
func (t *tally) missing(server string) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for id := range t.expected {
		if t.seen[server][id] == 0 {
			out = append(out, id)
		}
	}
	return out
}

// missingOf counts what server's user has not seen of the events written at another place.
func (t *tally) missingOf(server, place string) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, e := range t.expected {
		if e.place == place && t.seen[server][id] == 0 {
			n++
		}
	}
	return n
}

// what tells of an event, for the report.
func (t *tally) what(id string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.expected[id]
	return id + " of " + e.place + ": " + e.what
}

// audit reads the timeline afresh, as a client that logs in does, and counts what the running /sync was not given. Central
// servers skip an event of a fork in a running /sync now and then and show it in a fresh one (Dendrite 0.15.2 does: measured
// here, with the event in its timeline table); a box must never, so boxes are not audited.
func (t *tally) audit(ctx context.Context, server string, c *matrixclient.Client, room string) (found int, err error) {
	r, err := c.Sync(ctx, matrixclient.SyncOptions{Filter: `{"room":{"timeline":{"limit":5000}}}`})
	if err != nil {
		return 0, fmt.Errorf("read the timeline of %s afresh: %w", server, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range r.Rooms.Join[room].Timeline.Events {
		if t.seen[server][e.ID] == 0 {
			t.seen[server][e.ID] = 1
			found++
		}
	}
	t.poke()
	return found, nil
}

// duplicated counts timeline entries beyond the first of each event.
func (t *tally) duplicated() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, seen := range t.seen {
		for _, times := range seen {
			n += times - 1
		}
	}
	return n
}

// wait returns when ok says so, or an error when patience ends. ok is asked after each change and once a second.
func (t *tally) wait(ctx context.Context, patience time.Duration, ok func() bool) error {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		t.mu.Lock()
		changed := t.changed
		t.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited %s: %w", patience, ctx.Err())
		}
	}
}

// stateOf is the current state as the server tells it to its user: (type, key) -> event id.
func stateOf(ctx context.Context, c *matrixclient.Client, room string) (map[string]string, error) {
	events, err := c.State(ctx, room)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, e := range events {
		key := ""
		if e.StateKey != nil {
			key = *e.StateKey
		}
		out[e.Type+"|"+key] = e.ID
	}
	return out, nil
}

// stateEqual compares the state on all servers and says where they differ.
func stateEqual(ctx context.Context, observers map[string]*matrixclient.Client, room string) (bool, string, error) {
	var first map[string]string
	var firstName string
	for _, name := range slices.Sorted(maps.Keys(observers)) {
		state, err := stateOf(ctx, observers[name], room)
		if err != nil {
			return false, "", fmt.Errorf("read state on %s: %w", name, err)
		}
		if first == nil {
			first, firstName = state, name
			continue
		}
		for key := range mergeKeys(first, state) {
			if first[key] != state[key] {
				return false, fmt.Sprintf("%s is %q on %s and %q on %s", key, first[key], firstName, state[key], name), nil
			}
		}
	}
	return true, "", nil
}

func mergeKeys(a, b map[string]string) map[string]bool {
	out := map[string]bool{}
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// contentOf reads an event's content, to see whether a redaction has emptied it.
func contentOf(ctx context.Context, c *matrixclient.Client, room, id string) (map[string]json.RawMessage, error) {
	e, err := c.Event(ctx, room, id)
	if err != nil {
		return nil, err
	}
	var content map[string]json.RawMessage
	return content, json.Unmarshal(e.Content, &content)
}
