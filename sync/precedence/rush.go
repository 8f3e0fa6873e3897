// SPDX-License-Identifier: EUPL-1.2

package precedence

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
)

// What an urgent event builds on goes with it, as urgent as itself. Everything that was in the room here before the event came is what it builds on, or is at most a little
// more than that; so the raised events of a room are remembered with their numbers, and what has a smaller number is as urgent as the most urgent of those behind it.
// After a restart they are looked for once, among the newest of the room.

// Raised is an event that is raised now.
type Raised struct {
	Event  event.ID
	NID    int64
	Level  priority.Level
	Sender event.UserID
}

// Rush is the raised events of one room.
type Rush []Raised

// Of is the most urgent of what builds on what has a number, or is that itself; its Level is Routine when there is none.
func (x Rush) Of(nid int64) Raised {
	out := Raised{Level: priority.Routine}
	for _, e := range x {
		if e.NID >= nid && e.Level < out.Level {
			out = e
		}
	}
	return out
}

// Behind lists what is raised and has a greater number.
func (x Rush) Behind(nid int64) Rush {
	return slices.DeleteFunc(slices.Clone(x), func(e Raised) bool { return e.NID <= nid })
}

type raised struct {
	id     event.ID
	nid    int64
	level  priority.Level // granted
	since  time.Time
	sender event.UserID
}

// The bounds of what is remembered of rooms: what is forgotten goes in its turn.
const (
	maxRushed = 64  // events of a room
	maxLooked = 256 // newest events of a room that are looked at after a restart
	fewLooked = 8   // of which one must be young, or the room is at rest
)

// rushed remembers a raised event of a room. The caller holds mu.
func (j *Judge) rushed(id event.RoomID, x raised) {
	if _, ok := j.rush[id]; !ok && len(j.rush) >= maxRooms {
		clear(j.rush)
		clear(j.looked)
	}
	of := slices.DeleteFunc(j.rush[id], func(o raised) bool { return o.id == x.id })
	if len(of) >= maxRushed {
		of = of[1:]
	}
	j.rush[id] = append(of, x)
}

// Rush gives what is raised in a room now. While a text is here ahead of its event, whatever the room has is as urgent as immediate: the event builds on it.
func (j *Judge) Rush(r *store.Read, id event.RoomID) (Rush, error) {
	s, err := j.standing(r, id)
	if s == nil || err != nil {
		return nil, err
	}
	if err := j.look(r, id, s); err != nil {
		return nil, err
	}
	known, err := j.stored(r, id)
	if err != nil {
		return nil, err
	}
	var out Rush
	now := time.Now()
	for _, x := range known {
		if s.policy.Left(x.level, now.Sub(x.since)) == 0 {
			j.calmed(id, x.id)
		} else if l := s.policy.May(x.level, s.power(x.sender)); l < priority.Routine {
			out = append(out, Raised{x.id, x.nid, l, x.sender})
		}
	}
	notices, err := r.Notices(id)
	if err != nil {
		return nil, err
	}
	for _, n := range notices {
		if !n.Expired {
			out = append(out, Raised{NID: math.MaxInt64, Level: priority.Immediate, Sender: n.Sender})
		}
	}
	return out, nil
}

// calmed forgets an event that has run out.
func (j *Judge) calmed(room event.RoomID, id event.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.rush[room] = slices.DeleteFunc(j.rush[room], func(x raised) bool { return x.id == id }); len(j.rush[room]) == 0 {
		delete(j.rush, room)
	}
}

// Rushes says without a look at the store whether something is remembered of a room, and whether what came before this program was started has been looked for.
func (j *Judge) Rushes(id event.RoomID) (some, looked bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.rush[id]) > 0, j.looked[id]
}

// stored gives what is remembered of a room and in the store: an event is noted before its transaction has come through.
func (j *Judge) stored(r *store.Read, id event.RoomID) (out []raised, err error) {
	j.mu.Lock()
	all := slices.Clone(j.rush[id])
	j.mu.Unlock()
	for _, x := range all {
		nid, err := r.EventNID(x.id)
		if err != nil {
			return nil, err
		}
		if nid == x.nid {
			out = append(out, x)
		}
	}
	return out, nil
}

// look finds the raised events of a room that came before this program was started.
func (j *Judge) look(r *store.Read, id event.RoomID, s *standing) error {
	j.mu.Lock()
	done := j.looked[id]
	j.mu.Unlock()
	if done {
		return nil
	}
	longest := slices.Max(s.policy.Lifetime[:])
	old := func(e *store.Event) bool { return time.Since(time.UnixMilli(e.TS)) > longest }
	rows, err := r.RoomEventsBetween(id, 0, math.MaxInt64, fewLooked, true)
	if err == nil && slices.ContainsFunc(rows, func(e *store.Event) bool { return !old(e) }) {
		rows, err = r.RoomEventsBetween(id, 0, math.MaxInt64, maxLooked, true)
	}
	if err != nil {
		return fmt.Errorf("look for what is raised in %s: %w", id, err)
	}
	for _, row := range slices.Backward(rows) { // the oldest first: limits count in that order
		if old(row) || row.StateKey != nil || !bytes.Contains(row.JSON, []byte(priority.Type)) && !(speaks(row.Type) && s.policy.Default < priority.Routine) {
			continue
		}
		p, err := event.ParseTrusted(s.version, row.ID, row.JSON)
		if err != nil {
			return fmt.Errorf("look for what is raised in %s: %w", id, err)
		}
		l, err := j.Level(r, p)
		if err != nil {
			return err
		}
		if l < priority.Routine {
			j.mu.Lock()
			j.rushed(id, raised{row.ID, row.NID, l, j.raised[row.ID].since, row.Sender})
			j.mu.Unlock()
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.looked) >= 4*maxRooms {
		clear(j.looked)
	}
	j.looked[id] = true
	return nil
}
