// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// verdict is what the last line tells.
type verdict struct {
	events, lost int
	barred       int // by the law, at some server: counted apart
	centralFault int // the central server took it and shows it to nobody
	centralState int // state keys that the central server alone decides otherwise, though it has what the boxes hold
	difference   []string
}

func (v *verdict) String() string {
	state := "state equal"
	if len(v.difference) > 0 {
		state = fmt.Sprintf("state differs in %d places, first %s", len(v.difference), v.difference[0])
	}
	return fmt.Sprintf("chaos: %d events, lost %d, %s", v.events, v.lost, state)
}

func (v *verdict) failure() error {
	if v.lost > 0 || len(v.difference) > 0 {
		return errors.New("the servers did not come together")
	}
	return nil
}

const (
	quietMost = 8 * time.Minute
	quietLook = 2 * time.Second
)

// judge waits until nothing changes any more and counts.
func (w *world) judge(ctx context.Context) (*verdict, error) {
	healed := time.Now()
	var missing [3]map[string]acked
	var diff []difference
	var unread error
	for i := range missing {
		missing[i] = map[string]acked{}
		for _, a := range w.acked {
			missing[i][a.id] = a
		}
	}
	last, lastSum, since := time.Now(), -1, time.Now()
	for {
		sum := 0
		for s := range missing {
			if err := w.look(ctx, s, missing[s]); err != nil && ctx.Err() != nil {
				return nil, err
			}
			sum += len(missing[s])
		}
		if diff, unread = w.compareStates(ctx); unread != nil && ctx.Err() != nil {
			return nil, unread
		}
		if sum == 0 && len(diff) == 0 && unread == nil {
			break
		}
		if sum != lastSum {
			lastSum, since = sum, time.Now()
		}
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			say("… boxes lack %d and %d, the centre %d; state differs in %d places", len(missing[0]), len(missing[1]), len(missing[2]), len(diff))
		}
		calm := time.Since(since)
		boxesAgree := !slices.ContainsFunc(diff, func(d difference) bool { return d.held[0] != d.held[1] })
		if boxesAgree && unread == nil && calm > 75*time.Second || calm > 3*time.Minute || time.Since(healed) > quietMost {
			break // what is still missing must be explained by the law
		}
		select {
		case <-time.After(quietLook):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	say("quiet after %.0f s", time.Since(healed).Seconds())
	if unread != nil {
		return nil, unread
	}
	return w.count(ctx, missing, diff)
}

// look strikes out what a server's warden can read.
func (w *world) look(ctx context.Context, s int, missing map[string]acked) error {
	c := w.people[s][0]
	for _, r := range w.rooms {
		want := 0
		for _, a := range missing {
			if a.room == r.id {
				want++
			}
		}
		if want == 0 {
			continue
		}
		if want > 20 {
			events, err := c.AllMessages(ctx, r.id)
			for _, e := range events {
				delete(missing, e.ID)
			}
			if err != nil && s != centre { // the central server answers 500 while it pages across forks
				return err
			}
		}
		for id, a := range missing {
			if a.room != r.id {
				continue
			}
			if _, err := c.Event(ctx, r.id, id); err == nil {
				delete(missing, id)
			} else if matrixclient.Status(err) != http.StatusNotFound && matrixclient.Status(err) != http.StatusForbidden {
				return err
			}
		}
	}
	return nil
}

// difference is a state key that is held by different events.
type difference struct {
	room *room
	key  string
	held [3]string
}

func (d difference) String() string {
	return fmt.Sprintf("%s in the room of version %s (%s): %q, %q and %q", d.key, d.room.version, d.room.id, d.held[0], d.held[1], d.held[centre])
}

// compareStates lists the state keys that are held by different events.
func (w *world) compareStates(ctx context.Context) (diff []difference, err error) {
	for _, r := range w.rooms {
		var states [3]map[string]string
		for s := range states {
			if states[s], err = stateOf(ctx, w.people[s][0], r.id); err != nil {
				return nil, fmt.Errorf("state of the room of version %s at server %d: %w", r.version, s, err)
			}
		}
		keys := map[string]bool{}
		for _, st := range states {
			for k := range st {
				keys[k] = true
			}
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			if states[0][k] != states[1][k] || states[0][k] != states[centre][k] && !w.fights {
				diff = append(diff, difference{r, k, [3]string{states[0][k], states[1][k], states[centre][k]}})
			}
		}
	}
	return diff, nil
}

func stateOf(ctx context.Context, c *matrixclient.Client, id string) (map[string]string, error) {
	events, err := c.State(ctx, id)
	out := make(map[string]string, len(events))
	for _, e := range events {
		key := ""
		if e.StateKey != nil {
			key = *e.StateKey
		}
		out[e.Type+"|"+key] = e.ID
	}
	return out, err
}

// count sorts what is missing into what the law bars, what the central server has swallowed, and what is lost.
func (w *world) count(ctx context.Context, missing [3]map[string]acked, diff []difference) (*verdict, error) {
	v := &verdict{events: len(w.acked)}
	has := make([]bool, len(diff)) // the central server has what the boxes hold
	for i, d := range diff {
		_, err := w.people[centre][0].Event(ctx, d.room.id, d.held[0])
		has[i] = err == nil
	}
	if err := w.compareRedactions(ctx, v); err != nil {
		return v, err
	}
	for _, b := range w.boxes {
		if err := b.Stop(); err != nil {
			return v, err
		}
	}
	dbs, err := openBoxes(ctx, [2]string{w.boxes[0].Dir, w.boxes[1].Dir})
	if err != nil {
		return v, err
	}
	rooms := make([]string, len(w.rooms))
	for i, r := range w.rooms {
		rooms[i] = r.id
	}
	err = withGraphs(ctx, dbs, rooms, func(graphs map[string]*graph) error {
		if err := w.countMissing(v, graphs, missing); err != nil {
			return err
		}
		for i, d := range diff {
			w.countDifference(v, d, has[i])
		}
		return countFaults(v, graphs, w.rooms)
	})
	say("%d times the law bars an event at a server; %d are refused by the central server alone; it alone decides %d state keys otherwise", v.barred, v.centralFault, v.centralState)
	return v, errors.Join(err, dbs[0].Close(), dbs[1].Close())
}

// countDifference tells a difference of the boxes from a decision of the central server alone. That the boxes decide as the law does, countFaults sees to.
func (w *world) countDifference(v *verdict, d difference, has bool) {
	if d.held[0] != d.held[1] || !has && !w.swallowed(d.held[0]) {
		v.difference = append(v.difference, d.String())
		say("DIFFERENT: %s", d)
		return
	}
	v.centralState++
	if has {
		say("CENTRAL SERVER: it has what the boxes hold, as the law does, and decides otherwise: %s", d)
	} else {
		say("CENTRAL SERVER: it refuses what the boxes hold, as the law does: %s", d)
	}
}

// countFaults looks for what a box has decided otherwise than the law.
func countFaults(v *verdict, graphs map[string]*graph, rooms []*room) error {
	for _, r := range rooms {
		for box := range 2 {
			faults, err := graphs[r.id].faults(box)
			if err != nil {
				return err
			}
			for _, f := range faults {
				f = fmt.Sprintf("box %d in the room of version %s (%s): %s", box, r.version, r.id, f)
				say("UNLAWFUL: %s", f)
				v.difference = append(v.difference, f)
			}
		}
	}
	return nil
}

// countMissing sorts what servers do not show.
func (w *world) countMissing(v *verdict, graphs map[string]*graph, missing [3]map[string]acked) error {
	for s := range missing {
		for _, id := range slices.Sorted(maps.Keys(missing[s])) {
			a := missing[s][id]
			if w.untold(a, missing) {
				if s == centre {
					v.centralFault++
					say("CENTRAL SERVER: it answered for %s of %s (%s), refused it in the same breath (its log) and told nobody", id, a.sender, a.what)
				}
				continue
			}
			bars, err := graphs[a.room].bars(event.ID(id), s)
			if err != nil {
				return err
			}
			refused := s == centre && w.swallowed(id)
			switch {
			case bars:
				v.barred++
			case s == centre && a.server == centre:
				v.centralFault++
				say("CENTRAL SERVER: it made %s of %s (%s), answered for it, gave it to others and does not show it", id, a.sender, a.what)
			case refused, s == centre && a.what == "redaction" && w.version(a.room) != "10":
				v.centralFault++
				say("CENTRAL SERVER: %s of %s (%s) is refused, or passed over, by it alone", id, a.sender, a.what)
			default:
				why, err := graphs[a.room].holds(event.ID(id), s)
				if err != nil {
					return err
				}
				v.lost++
				say("LOST at server %d: %s of %s (%s, acknowledged by server %d): %s", s, id, a.sender, a.what, a.server, why)
			}
		}
	}
	return nil
}

func (w *world) version(id string) string {
	for _, r := range w.rooms {
		if r.id == id {
			return r.version
		}
	}
	return ""
}

// untold says whether the central server gave its user an id, then refused the event itself: the user had been removed between the two steps. It shows
// such an event to nobody and sends it to nobody, so neither box can have it; an event that one of the boxes has is judged as any other.
func (w *world) untold(a acked, missing [3]map[string]acked) bool {
	for s := range missing {
		if _, lacks := missing[s][a.id]; !lacks {
			return false
		}
	}
	return a.server == centre && w.swallowed(a.id)
}

// swallowed says whether the central server's own log tells that it refused the event.
func (w *world) swallowed(id string) bool {
	for line := range strings.SplitSeq(w.central.LogTail(1<<30), "\n") {
		if strings.Contains(line, id) && (strings.Contains(line, "rejected") || strings.Contains(line, "reject") || strings.Contains(line, "soft")) {
			return true
		}
	}
	return false
}

// compareRedactions looks whether what was taken back can still be read anywhere, in the room whose redactions the central server follows.
func (w *world) compareRedactions(ctx context.Context, v *verdict) error {
	for _, r := range w.rooms {
		if r.version != "10" {
			continue
		}
		for _, id := range r.redacted {
			var bodies [3]string
			for s := range w.people {
				e, err := w.people[s][0].Event(ctx, r.id, id)
				if err != nil && matrixclient.Status(err) == 0 {
					return err
				}
				bodies[s] = e.Body()
			}
			if bodies[0] != bodies[1] || bodies[0] != bodies[centre] {
				d := fmt.Sprintf("redacted message %s: %q, %q and %q", id, bodies[0], bodies[1], bodies[centre])
				say("DIFFERENT: %s", d)
				v.difference = append(v.difference, d)
			}
		}
	}
	return nil
}
