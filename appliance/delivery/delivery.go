// SPDX-License-Identifier: EUPL-1.2

// Package delivery tells people how far an event has got: stored here, left for another box and by which way, kept by a box or a server,
// shown to a device of somebody, read by them. It keeps nothing that could be wrong after a restart or a merge: every answer is computed from
// receipts that are cumulative, those of boxes (peer_kept), of servers (fed_cursor), of people (m.read), and what boxes pass on of each other
// (reached). What a power cut takes of the last ones is told again.
//
// "Seen" says that a device of the user has synchronised past the event: its app has been given it, or has been told that there is more to
// fetch. Whether a person looked is what "read" says, and only where they let others know (m.read, not m.read.private).
//
// What a box says of itself and its users is its word; what it passes on of others is shown with who said it (reported_by), for it may be wrong or a lie. Nothing else
// depends on either: no cursor moves by what is shown here.
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
	"hallig/appliance/priority"
	"hallig/appliance/store"
)

// Config of New. DB and Server must be set.
type Config struct {
	DB     *store.DB
	Server string
	// Boxes gives the paired boxes: server name by box id. nil: there are none.
	Boxes func() map[string]string
	// Level says how urgent an event is now. nil: all are routine.
	Level func(*store.Read, *store.Event) (priority.Level, error)
	// Expect says when an event would be at a paired box. May be nil: nothing can be said.
	Expect func(Due) Outlook
	// Notice says whether the text of an event has gone to a paired box ahead of the event. May be nil: none ever does.
	Notice func(server string, id event.ID) (Notice, bool)
	// Moved is told when users of this box were shown more, for other boxes; not more often than every few seconds. May be nil.
	Moved func()
}

// Due is an event that a paired box lacks.
type Due struct {
	Server string
	Room   event.RoomID
	Level  priority.Level
	Ahead  int // events before it that the box lacks, too
	Bytes  int // of its JSON
}

// Outlook is when something would be there if nothing changed.
type Outlook struct {
	In       time.Duration // with all that it waits for; 0: nothing can be said
	WaitsFor string        // what it waits for before it goes; "": its turn
}

// What an event may wait for.
const (
	WaitsForLink  = "link"       // no way leads to the box now
	WaitsForOther = "other_link" // the way that does may not carry the room (amateur radio, and the room is encrypted)
	WaitsForQuiet = "quiet"      // a flash keeps routine and bulk off narrow links
)

// Notice is a text that went ahead of its event and is shown over there as not yet verified.
type Notice struct {
	Via     string
	At      int64 // ms, when it left; 0: not known
	Arrived bool  // the transport has acknowledged it
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
	// Notice says that so far only the text has gone ahead: "left", or "arrived" when the transport has acknowledged it.
	Notice string `json:"notice,omitempty"`
	// ReportedBy are the servers whose boxes say that it is kept, where the server has not said so itself to this box.
	ReportedBy []string `json:"reported_by,omitempty"`
	// ExpectedIn is in how many ms it would arrive if nothing changes; only while it waits or is on its way, and something can be said. WaitsFor is what it waits for before
	// it goes, if for something.
	ExpectedIn int64  `json:"expected_in_ms,omitempty"`
	WaitsFor   string `json:"waits_for,omitempty"`

	ahead int // events before it in the log that the box lacks
}

// Person is another member of the room. Those of whom nothing is known are not listed.
type Person struct {
	User  event.UserID `json:"user_id"`
	State string       `json:"state"`        // seen or read
	At    int64        `json:"ts,omitempty"` // ms
	// ReportedBy are the servers whose boxes say so, where that is not the user's own.
	ReportedBy []string `json:"reported_by,omitempty"`
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
	level  priority.Level
	places []store.Place
	reach  map[string]reach  // who has got as far as the event
	boxes  map[string]string // server by box id
	shown  map[event.UserID]int64
	ahead  map[string]int // events before it that a box lacks
}

// reach is that somebody has got as far as the event.
type reach struct {
	at int64    // ms; 0: not known
	by []string // who says so; nil: it is their own word
}

// Ladder tells how far an event has got; false when it is not here. Whether the asker may see the event is the caller's matter.
func (d *Delivery) Ladder(ctx context.Context, room event.RoomID, id event.ID) (Ladder, bool, error) {
	out := Ladder{Room: room, Event: id, Stored: true, Servers: []Server{}, People: []Person{}}
	found := false
	l := look{boxes: d.c.Boxes(), shown: d.Shown(), reach: map[string]reach{}, ahead: map[string]int{}, level: priority.Routine}
	if err := d.c.DB.Hasten(ctx); ctx.Err() != nil { // receipts that this box has taken are shown at once; a full disk shows what it has
		return Ladder{}, false, wrap(err)
	}
	err := d.c.DB.View(ctx, func(r *store.Read) error {
		e, err := r.Event(id)
		if err != nil || e == nil || e.Room != room {
			return err
		}
		found, l.r, l.e = true, r, e
		if d.c.Level != nil {
			if l.level, err = d.c.Level(r, e); err != nil {
				return err
			}
		}
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
	d.underway(&l, out.Servers)
	out.count()
	return out, true, nil
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("look how far an event has got: %w", err)
}

// underway says of what is not kept what has gone ahead of it, and when it may arrive.
func (d *Delivery) underway(l *look, servers []Server) {
	for i := range servers {
		s := &servers[i]
		if s.State == Kept || !s.Box {
			continue
		}
		if d.c.Notice != nil {
			s.noticed(d.c.Notice(s.Name, l.e.ID))
		}
		if d.c.Expect != nil {
			o := d.c.Expect(Due{Server: s.Name, Room: l.e.Room, Level: l.level, Ahead: s.ahead, Bytes: len(l.e.JSON)})
			s.WaitsFor = o.WaitsFor
			if o.In > 0 {
				s.ExpectedIn = max(1, o.In.Milliseconds())
			}
		}
	}
}

// noticed takes it that the text has gone ahead: it has left, though its event may wait.
func (s *Server) noticed(n Notice, ok bool) {
	if !ok {
		return
	}
	if s.Notice = "left"; n.Arrived {
		s.Notice = "arrived"
	}
	if s.State == Waiting {
		s.State, s.Via, s.LeftAt = Left, n.Via, n.At
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
		got, err := l.r.ReachedPlace(p.Log.N, p.Seq)
		if err != nil {
			return err
		}
		kept, err := l.r.KeptBy(p.Log.N)
		if err != nil {
			return err
		}
		for box, upto := range kept {
			server, ok := l.boxes[box]
			if ok && upto >= p.Seq {
				l.note(server, "", 0)
			} else if ok {
				l.ahead[server] = int(p.Seq - upto - 1)
			}
		}
		if server, ok := l.boxes[p.Log.Box]; ok {
			l.note(server, "", 0) // it gave the event to us
		}
		for _, x := range got {
			if x.By == "" || l.pairs(x.By) { // what somebody said who is no longer paired counts no more
				l.note(x.Who, x.By, x.At)
			}
		}
	}
	return nil
}

// pairs says whether a server's box is paired.
func (l *look) pairs(server string) bool {
	for _, s := range l.boxes {
		if s == server {
			return true
		}
	}
	return false
}

// note takes that somebody has got as far. Their own word counts before others'; of times the earliest that is known.
func (l *look) note(who, by string, at int64) {
	old, ok := l.reach[who]
	switch {
	case !ok || by == "" && old.by != nil:
		old = reach{at: at}
	case by != "" && old.by == nil:
		return
	case at != 0 && (old.at == 0 || at < old.at):
		old.at = at
	}
	if by != "" && !slices.Contains(old.by, by) {
		old.by = append(old.by, by)
	}
	l.reach[who] = old
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
		if x, ok := l.reach[name]; name == l.e.Sender.Server() {
			s.State = Kept // it is theirs
		} else if ok {
			s.State, s.KeptAt, s.ReportedBy = Kept, x.at, x.by
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
			out = append(out, Person{User: m.User, State: Read, At: at})
		} else if x, ok := l.reach[string(m.User)]; ok {
			out = append(out, Person{m.User, Seen, x.at, x.by})
		} else if l.e.Pos > 0 && l.shown[m.User] >= l.e.Pos {
			out = append(out, Person{User: m.User, State: Seen})
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
