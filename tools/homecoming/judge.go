// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// verdict is what one homecoming has come to.
type verdict struct {
	peer   string
	kills  int
	hub    bool
	night  *night
	joined time.Time

	took                       [2]time.Duration // until the side had all events of the other; 0: never
	newest                     [2][]time.Duration
	ahead                      []time.Duration // until people on the box were told of the newest message of a room
	sent, received             int64
	cpu                        time.Duration // of the central server; 0: not known
	atCentral, atBox           map[string]testpeer.Asked
	firstToCentral, firstToBox time.Time
	frontDoor                  map[string]int
	offAfter                   bool
	howAfter                   string

	live, paged, lost, twice, limited [2]int // of the events of the other side
	torn, broken                      bool   // the central server, or whoever was speaking with it, was killed, and it does not keep together what belongs together
	notShown, again                   int    // so it has events that it did not show in /sync, or gave out messages between devices twice
	toDevice, toDeviceTwice, receipts [2]int // arrived at the side
	sealed                            int    // encrypted messages that could be read on the box
	devices, told                     [2]bool
	claimed, counted                  [2]bool
	diff                              []string
}

// gapKinds are the requests by which a server looks for what it was not given.
var gapKinds = []string{"get_missing_events", "state_ids", "state", "event", "event_auth", "backfill"}

func (v *verdict) gaps() (n int) {
	for _, k := range gapKinds {
		n += v.atBox[k].Requests
	}
	return n
}

// count notes what has arrived at both sides by now.
func (v *verdict) count(w *world, n *night) {
	for s, f := range w.looks {
		want := n.events[1-s]
		v.live[s] = len(want) - len(f.missing(want))
		v.newest[s] = v.newest[s][:0]
		for _, t := range f.when(n.newest[1-s]) {
			if !t.IsZero() {
				v.newest[s] = append(v.newest[s], t.Sub(v.joined))
			}
		}
		slices.Sort(v.newest[s])
		f.mu.Lock()
		if s == onBox {
			v.ahead = v.ahead[:0]
			for _, nums := range n.newestTexts(onLand) {
				if i := slices.IndexFunc(nums, func(num int) bool { return !f.ahead[num].IsZero() }); i >= 0 {
					v.ahead = append(v.ahead, f.ahead[nums[i]].Sub(v.joined))
				}
			}
			slices.Sort(v.ahead)
		}
		v.twice[s], v.limited[s] = len(f.twice), f.limited
		v.toDevice[s], v.toDeviceTwice[s], v.receipts[s] = 0, 0, 0
		for _, num := range n.toDevice[1-s] {
			if f.toDevice[num] > 0 {
				v.toDevice[s]++
			}
			if f.toDevice[num] > 1 {
				v.toDeviceTwice[s]++
			}
		}
		for _, e := range n.receipts[1-s] {
			if f.receipts[e.room][w.people[1-s][0].UserID] == e.id {
				v.receipts[s]++
			}
		}
		if s == onBox {
			v.sealed = 0
			for _, num := range n.sealed {
				if f.sealed[num] {
					v.sealed++
				}
				if f.toDevice[num] > 1 {
					v.toDeviceTwice[s]++
				}
			}
		}
		v.told[s] = n.devices[1-s] == "" || f.changed[w.people[1-s][0].UserID]
		f.mu.Unlock()
	}
}

// arrivedRest says whether nothing is awaited any more; read receipts, which some central servers forget, only when patient.
func (v *verdict) arrivedRest(patient bool) bool {
	for s := range v.toDevice {
		if v.toDevice[s] < len(v.night.toDevice[1-s]) || patient && v.receipts[s] < len(v.night.receipts[1-s]) || !v.told[s] {
			return false
		}
	}
	return v.sealed == len(v.night.sealed)
}

// judge looks for what has not come, as people would: by paging back.
func (w *world) judge(ctx context.Context, n *night, v *verdict) (err error) {
	v.count(w, n)
	if v.diff, err = w.compare(ctx); err != nil {
		return err
	}
	if v.broken {
		v.again, v.toDeviceTwice[onLand] = v.toDeviceTwice[onLand], 0
	}
	for s, f := range w.looks {
		lack := f.missing(n.events[1-s])
		if len(lack) == 0 {
			continue
		}
		still, err := w.page(ctx, s, lack)
		if err != nil {
			return err
		}
		v.paged[s] = len(lack) - len(still)
		if s == onLand && v.torn {
			still = slices.DeleteFunc(still, func(e written) bool { return w.vouches(ctx, e) })
			v.notShown, v.paged[s] = len(lack)-len(still), 0
		}
		v.lost[s] = len(still)
		for _, e := range still[:min(len(still), 5)] {
			say("LOST at the %s: %s in %s", sides[s], e.id, e.room)
		}
	}
	return w.judgeKeys(ctx, n, v)
}

// page pages back through the rooms in which something lacks, three times, as servers fetch on request.
func (w *world) page(ctx context.Context, side int, lack []written) ([]written, error) {
	c := w.people[side][0]
	for range 3 {
		rooms, seen := map[string]bool{}, map[string]bool{}
		for _, e := range lack {
			rooms[e.room] = true
		}
		for id := range rooms {
			events, err := c.AllMessages(ctx, id)
			if err != nil && matrixclient.Status(err) == 0 {
				return nil, err
			}
			for _, e := range events {
				seen[e.ID] = true
			}
		}
		lack = slices.DeleteFunc(lack, func(e written) bool { return seen[e.id] })
		if len(lack) == 0 {
			break
		}
		pause(ctx, 2*time.Second)
	}
	return lack, nil
}

// judgeKeys looks whether each side knows the other's new device, gets a one-time key, and whether its owner learns that it is gone.
func (w *world) judgeKeys(ctx context.Context, n *night, v *verdict) error {
	if n.devices == [2]string{} { // a later round
		v.devices, v.claimed, v.counted = [2]bool{true, true}, [2]bool{true, true}, [2]bool{true, true}
		return nil
	}
	for s := range w.people {
		devices, err := w.devicesOf(ctx, s)
		if err != nil && matrixclient.Status(err) == 0 {
			return err
		}
		_, v.devices[s] = devices[n.devices[1-s]]
		owner := w.looks[1-s]
		owner.mu.Lock()
		before := owner.oneTime
		owner.mu.Unlock()
		for until := time.Now().Add(20 * time.Second); !v.claimed[s]; pause(ctx, time.Second) { // who was killed may not be back yet, and people try again
			id, _, err := w.claim(ctx, s)
			if v.claimed[s] = id != "" && err == nil; err != nil && matrixclient.Status(err) == 0 {
				return err
			}
			if v.kills == 0 || time.Now().After(until) {
				break
			}
		}
		for until := time.Now().Add(20 * time.Second); !v.counted[1-s] && time.Now().Before(until); pause(ctx, 100*time.Millisecond) {
			owner.mu.Lock()
			v.counted[1-s] = owner.oneTime < before
			owner.mu.Unlock()
		}
	}
	return nil
}

// tell prints the measurements.
func (v *verdict) tell() {
	for s := range sides {
		say("%s: %d of %d events live in /sync, %d only by paging, %d lost, %d twice, %d limited answers; newest message of a room after %s",
			sides[s], v.live[s], len(v.night.events[1-s]), v.paged[s], v.lost[s], v.twice[s], v.limited[s], spread(v.newest[s]))
		say("%s: %d of %d messages between devices (%d twice), %d of %d receipts, new device %s, one-time key %s, count told to its owner %s", sides[s], v.toDevice[s], len(v.night.toDevice[1-s]),
			v.toDeviceTwice[s], v.receipts[s], len(v.night.receipts[1-s]), yes(v.devices[s] && v.told[s]), yes(v.claimed[s]), yes(v.counted[s]))
	}
	if len(v.ahead) > 0 {
		say("people on the box were told of the newest message in %d rooms while these were being caught up, after %s", len(v.ahead), spread(v.ahead))
	}
	if v.hub {
		say("encrypted messages to people on the dark box: %d keys given, each once, %d refused; %d of %d could be read", len(v.night.sealed), v.night.unclaimed, v.sealed, len(v.night.sealed))
	}
	if v.notShown+v.again > 0 {
		say("CENTRAL SERVER: after the kills it does not show %d events live that it tells the box it has, and gave %d messages between devices out twice; counted apart", v.notShown, v.again)
	}
	say("box to central server %d kB, back %d kB", v.sent/1000, v.received/1000)
	if n := len(v.night.events[onBox]); v.cpu > 0 && n > 0 {
		say("the central server took %.1f s of CPU, %.1f ms for an event of the box", v.cpu.Seconds(), float64(v.cpu.Milliseconds())/float64(n))
	}
	say("asked of the central server: %s", list(v.atCentral))
	if v.frontDoor != nil {
		var all []string
		for _, k := range slices.Sorted(maps.Keys(v.frontDoor)) {
			all = append(all, fmt.Sprintf("%s %d", k, v.frontDoor[k]))
		}
		say("as its front door counts: %s", strings.Join(all, ", "))
	}
	say("asked of the box: %s", list(v.atBox))
	order := "the box spoke first"
	if v.hub {
		order = "the hub answers"
	} else if !v.firstToBox.IsZero() && (v.firstToCentral.IsZero() || v.firstToBox.Before(v.firstToCentral)) {
		order = "THE CENTRAL SERVER SPOKE FIRST"
	}
	say("back-off: in the dark %s; %s, %.1f s after the link was back; now %s", v.night.how, order, v.firstToCentral.Sub(v.joined).Seconds(), v.howAfter)
	for _, d := range v.diff[:min(len(v.diff), 10)] {
		say("DIFFERENT: %s", d)
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "NO"
}

func spread(d []time.Duration) string {
	if len(d) == 0 {
		return "never"
	}
	return fmt.Sprintf("%.1f s in the first, %.1f s in the middle, %.1f s in the last", d[0].Seconds(), d[len(d)/2].Seconds(), d[len(d)-1].Seconds())
}

func list(asked map[string]testpeer.Asked) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(asked)) {
		a := asked[k]
		text := fmt.Sprintf("%s %d", k, a.Requests)
		if a.Failed > 0 {
			text += fmt.Sprintf(" (%d failed)", a.Failed)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// failure says what was not as it must be. That the central server asks for gaps after somebody was killed is its right.
func (v *verdict) failure() error {
	var errs []error
	bad := func(is bool, what string) {
		if is {
			errs = append(errs, errors.New(what))
		}
	}
	bad(v.lost != [2]int{}, "events were lost")
	bad(v.paged != [2]int{}, "events came only by paging back")
	bad(v.twice != [2]int{} || v.toDeviceTwice != [2]int{}, "something came twice")
	bad(len(v.diff) > 0, "the state of a room differs")
	bad(v.gaps() > 0 && v.kills == 0, "the central server had to ask for gaps")
	bad(v.offAfter, "the central server is still in back-off")
	bad(v.hub && v.kills == 0 && v.night.off, "the central server has given the box up, in spite of the hub")
	bad(v.hub && v.kills == 0 && v.receipts[onBox] < len(v.night.receipts[onLand]), "read receipts were lost, in spite of the hub")
	bad(v.night.unclaimed > 0, "one-time keys of people on the dark box were not given")
	bad(v.sealed < len(v.night.sealed), "encrypted messages could not be read")
	for s := range sides {
		bad(v.toDevice[s] < len(v.night.toDevice[1-s]), "messages between devices were lost at the "+sides[s])
		bad(!v.devices[s] || !v.told[s], "the "+sides[s]+" does not know a new device")
		// A hub that was killed over the claim tells its box at the next contact, which may be ten minutes away.
		bad(!v.claimed[s] || !v.counted[s] && (v.kills == 0 || !v.hub), "one-time keys")
	}
	return errors.Join(errs...)
}

// sum is the last line, over all homecomings.
func sum(all []*verdict) string {
	least, lost, paged, twice, gaps, diff := -1, 0, 0, 0, 0, 0
	for _, v := range all {
		for s := range sides {
			if n := len(v.night.events[s]); least < 0 || n < least {
				least = n
			}
			lost += v.lost[s]
			paged += v.paged[s]
			twice += v.twice[s] + v.toDeviceTwice[s]
		}
		gaps += v.gaps()
		diff += len(v.diff)
	}
	state := "state equal"
	if diff > 0 {
		state = fmt.Sprintf("state differs in %d places", diff)
	}
	notLive := ""
	if paged > 0 {
		notLive = fmt.Sprintf(" (and %d not live)", paged)
	}
	line := fmt.Sprintf("homecoming: %d events each way, lost %d%s, duplicated %d, gap requests %d, %s", least, lost, notLive, twice, gaps, state)
	if len(all) > 1 {
		line = fmt.Sprintf("homecoming: %d times, ", len(all)) + strings.TrimPrefix(line, "homecoming: ")
	}
	return line
}
