// SPDX-License-Identifier: EUPL-1.2

// Package delivery tells people how far an event has got: stored here, left for another box and by which way, kept by a box or a server,
// shown to a device of somebody, read by them. It keeps nothing that could be wrong after a restart or a merge: every answer is computed from
// receipts that are cumulative, those of boxes (peer_kept), of servers (fed_cursor), of people (m.read), and what boxes pass on of each other
// (reached). What a power cut takes of the last ones is told again.
//
// "Seen" says that a device of the user has synchronised past the event: its app has been given it, or has been told that there is more to
// fetch. Whether a person looked is what "read" says, and only where they let others know (m.read, not m.read.private).
//
// Who may see an event may see how far it has got. That tells members which other members' devices are switched on, as receipts do.
package delivery

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Config of New. DB and Server must be set.
type Config struct {
	DB     *store.DB
	Server string
	// Boxes gives the paired boxes: server name by box id. nil: there are none.
	Boxes func() map[string]string
	// Expect says in what time an event of so many bytes of JSON would have arrived at a paired box that lacks so many events before it; false
	// when nothing can be said. May be nil.
	Expect func(server string, ahead, bytes int) (time.Duration, bool)
	// Moved is told when users of this box were shown more, for other boxes; not more often than every few seconds. May be nil.
	Moved func()
}

// Delivery is safe for concurrent use.
type Delivery struct {
	c Config

	mu    sync.Mutex
	shown map[event.UserID]int64 // stream position up to which devices were shown everything
	fresh map[event.UserID]int64 // what of it is not stored yet
	wake  chan struct{}          // capacity 1
}

// New makes a Delivery. It starts nothing.
func New(c Config) *Delivery {
	if c.Boxes == nil {
		c.Boxes = func() map[string]string { return nil }
	}
	return &Delivery{c: c, shown: make(map[event.UserID]int64), fresh: make(map[event.UserID]int64), wake: make(chan struct{}, 1)}
}

// Ladder is how far one event has got.
type Ladder struct {
	Room    event.RoomID `json:"room_id"`
	Event   event.ID     `json:"event_id"`
	Stored  bool         `json:"stored"` // always: it is on this box's disk
	Servers []Server     `json:"servers"`
	People  []Person     `json:"people"`
	Summary Summary      `json:"summary"`
}

// The steps of the ladder.
const (
	Waiting = "waiting" // it has not left towards there
	Left    = "left"    // it left; whether it arrived is not known
	Kept    = "kept"    // it is on a disk there
	Seen    = "seen"    // a device was shown it
	Read    = "read"
)

// Server is another server of the room.
type Server struct {
	Name   string `json:"server_name"`
	Box    bool   `json:"box"` // a paired box
	State  string `json:"state"`
	Via    string `json:"via,omitempty"`     // the way by which it left last: "p2p", "serial:ttyUSB0", "relay", "federation"; not by stick, which moves nothing until its receipt
	LeftAt int64  `json:"left_ts,omitempty"` // ms
	KeptAt int64  `json:"kept_ts,omitempty"` // ms, when this became known here
	// ExpectedIn is in how many ms it would arrive if nothing changes; only while it waits or is on its way, and something can be said.
	ExpectedIn int64 `json:"expected_in_ms,omitempty"`

	ahead int // events before it in the log that the box lacks
}

// Person is another member of the room. Those of whom nothing is known are not listed.
type Person struct {
	User  event.UserID `json:"user_id"`
	State string       `json:"state"`        // seen or read
	At    int64        `json:"ts,omitempty"` // ms
}

// Summary counts.
type Summary struct {
	Servers int `json:"servers"`
	Kept    int `json:"kept"`
	Members int `json:"members"` // joined, without the sender
	Seen    int `json:"seen"`    // those who have read it among them
	Read    int `json:"read"`
}

// look is one ladder in the making.
type look struct {
	r      *store.Read
	e      *store.Event
	places []store.Place
	reach  map[string]store.Reach // who has got as far as the event
	boxes  map[string]string      // server by box id
	shown  map[event.UserID]int64
	ahead  map[string]int // events before it that a box lacks
}

// Ladder tells how far an event has got; false when it is not here. Whether the asker may see the event is the caller's matter.
func (d *Delivery) Ladder(ctx context.Context, room event.RoomID, id event.ID) (Ladder, bool, error) {
	out := Ladder{Room: room, Event: id, Stored: true, Servers: []Server{}, People: []Person{}}
	found := false
	size := 0
	err := d.c.DB.View(ctx, func(r *store.Read) error {
		e, err := r.Event(id)
		if err != nil || e == nil || e.Room != room {
			return err
		}
		found, size = true, len(e.JSON)
		l := look{r: r, e: e, boxes: d.c.Boxes(), shown: d.Shown(), reach: map[string]store.Reach{}, ahead: map[string]int{}}
		if l.places, err = r.PlacesOf(room, e.NID); err != nil {
			return err
		}
		if err := l.reached(); err != nil {
			return err
		}
		if out.Servers, err = l.servers(d.c.Server); err != nil {
			return err
		}
		out.People, out.Summary.Members, err = l.people()
		return err
	})
	if err != nil || !found {
		return Ladder{}, false, wrap(err)
	}
	d.expect(out.Servers, size)
	out.count()
	return out, true, nil
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look how far an event has got: %w", err)
}

// expect says when what is not kept may arrive.
func (d *Delivery) expect(servers []Server, size int) {
	if d.c.Expect == nil {
		return
	}
	for i := range servers {
		s := &servers[i]
		if s.State == Kept {
			continue
		}
		if !s.Box {
			continue
		}
		if in, ok := d.c.Expect(s.Name, s.ahead, size); ok {
			s.ExpectedIn = max(1, in.Milliseconds())
		}
	}
}

func (l *Ladder) count() {
	l.Summary.Servers = len(l.Servers)
	for _, s := range l.Servers {
		if s.State == Kept {
			l.Summary.Kept++
		}
	}
	for _, p := range l.People {
		l.Summary.Seen++
		if p.State == Read {
			l.Summary.Read++
		}
	}
}

// reached finds who has got as far as the event.
func (l *look) reached() error {
	for _, p := range l.places {
		got, err := l.r.Reached(p.Log.N)
		if err != nil {
			return err
		}
		for _, x := range got {
			if x.Upto >= p.Seq {
				l.note(x)
			}
		}
		kept, err := l.r.KeptBy(p.Log.N)
		if err != nil {
			return err
		}
		for box, upto := range kept {
			server, ok := l.boxes[box]
			if ok && upto >= p.Seq {
				l.note(store.Reach{Who: server})
			} else if ok {
				l.ahead[server] = int(p.Seq - upto - 1)
			}
		}
		if server, ok := l.boxes[p.Log.Box]; ok {
			l.note(store.Reach{Who: server}) // it gave the event to us
		}
	}
	return nil
}

// note takes the earliest time of those that are known.
func (l *look) note(x store.Reach) {
	if old, ok := l.reach[x.Who]; ok && (x.At == 0 || old.At != 0 && old.At < x.At) {
		return
	}
	l.reach[x.Who] = x
}

// servers says where the event stands with each other server of the room.
func (l *look) servers(self string) ([]Server, error) {
	names, err := l.r.Servers(l.e.Room)
	if err != nil {
		return nil, err
	}
	left := map[string]store.Leave{}
	for _, p := range l.places {
		leaves, err := l.r.Left(p.Log.N, p.Seq)
		if err != nil {
			return nil, err
		}
		for _, x := range leaves {
			if server := l.boxes[x.Box]; left[server].At <= x.At {
				left[server] = x
			}
		}
	}
	paired := slices.Collect(maps.Values(l.boxes))
	out := make([]Server, 0, len(names))
	for _, name := range names {
		if name == self {
			continue
		}
		s := Server{Name: name, Box: slices.Contains(paired, name), State: Waiting, ahead: l.ahead[name]}
		if x, ok := left[name]; ok {
			s.State, s.Via, s.LeftAt = Left, x.Way, x.At
		}
		if x, ok := l.reach[name]; ok || name == l.e.Sender.Server() {
			s.State, s.KeptAt = Kept, x.At
		} else if !s.Box {
			pos, ok, err := l.r.ConfirmedUpTo(name, l.e.Room)
			if err != nil {
				return nil, err
			}
			if ok && l.e.Pos > 0 && l.e.Pos <= pos {
				s.State, s.Via = Kept, "federation"
			}
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// people says which members have seen or read the event.
func (l *look) people() (out []Person, members int, err error) {
	all, err := l.r.Members(l.e.Room, "join")
	if err != nil {
		return nil, 0, err
	}
	read, err := l.readers()
	if err != nil {
		return nil, 0, err
	}
	out = []Person{}
	for _, m := range all {
		if m.User == l.e.Sender {
			continue
		}
		members++
		if at, ok := read[m.User]; ok {
			out = append(out, Person{m.User, Read, at})
		} else if x, ok := l.reach[string(m.User)]; ok {
			out = append(out, Person{m.User, Seen, x.At})
		} else if l.e.Pos > 0 && l.shown[m.User] >= l.e.Pos {
			out = append(out, Person{m.User, Seen, 0})
		}
	}
	slices.SortFunc(out, func(a, b Person) int { return strings.Compare(string(a.User), string(b.User)) })
	return out, members, nil
}

// readers lists whose public receipts stand at the event or behind it.
func (l *look) readers() (map[event.UserID]int64, error) {
	rows, err := l.r.Receipts(l.e.Room, 0, 1<<62)
	if err != nil {
		return nil, err
	}
	out := map[event.UserID]int64{}
	for _, x := range rows {
		if x.Type != "m.read" {
			continue
		}
		at, err := l.r.Event(x.Event)
		if err != nil {
			return nil, err
		}
		if at == nil || at.Room != l.e.Room || at.Pos < l.e.Pos {
			continue
		}
		if old, ok := out[x.User]; !ok || x.TS < old {
			out[x.User] = x.TS
		}
	}
	return out, nil
}
