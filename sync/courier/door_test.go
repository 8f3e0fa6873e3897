// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

var errDisk = errors.New("the disk of the box fails")

// shakyDoor fails once, at a chosen act, before or after it has happened.
type shakyDoor struct {
	*room.Rooms
	left int // acts until it fails; 0: it does not
	way  int
}

func (s *shakyDoor) act() (do bool, err error) {
	if s.left == 0 {
		return true, nil
	}
	if s.left--; s.left > 0 {
		return true, nil
	}
	return s.way == notTold, errDisk
}

func (s *shakyDoor) Accept(ctx context.Context, in room.Incoming) (room.Result, error) {
	do, err := s.act()
	if !do {
		return room.Result{}, err
	}
	res, rerr := s.Rooms.Accept(ctx, in)
	return res, errors.Join(err, rerr)
}

func (s *shakyDoor) AcceptAll(ctx context.Context, ins []room.Incoming) ([]room.Result, error) {
	do, err := s.act()
	if !do {
		return nil, err
	}
	res, rerr := s.Rooms.AcceptAll(ctx, ins)
	return res, errors.Join(err, rerr)
}

// TestBoxFailsAtEveryAct: the box that takes in fails at each act of an import, before or after it has happened, and takes the stick again.
func TestBoxFailsAtEveryAct(t *testing.T) {
	_, a, b, id := pair(t)
	d := openStick(t, t.TempDir())
	var ids []event.ID
	edus, failed := 0, 0
	for _, way := range []int{notDone, notTold} {
		for act := 1; ; act++ {
			for range 3 { // several segments, and events in a letter's company
				ids = append(ids, a.say(id, fmt.Sprint("Pegel ", len(ids))))
				a.export(d)
			}
			a.queue(b, "m.direct_to_device", "", fmt.Sprint(edus))
			a.queue(b, "m.direct_to_device", "", fmt.Sprint(edus+1))
			edus += 2
			a.export(d)
			b.door.left, b.door.way = act, way
			if _, err := b.courier.Import(t.Context(), d, nil); err != nil && !errors.Is(err, errDisk) {
				t.Fatal(err)
			}
			done := b.door.left > 0
			b.door.left = 0
			if !done {
				failed++
			}
			b.visit(d)
			b.has(id, ids...)
			a.visit(d)
			if a.pending(b) != 0 || a.queued(b) != 0 {
				t.Fatalf("act %d, way %d: %d events and %d EDUs are still due", act, way, a.pending(b), a.queued(b))
			}
			if done {
				break
			}
		}
	}
	if failed < 8 {
		t.Errorf("only %d acts failed", failed)
	}
	// An EDU whose effect happened and was not told comes again, at once: handlers know it by its id.
	if got := slices.Compact(b.took()); len(got) != edus {
		t.Errorf("%d of %d messages between devices, or out of order", len(got), edus)
	}
}
