// SPDX-License-Identifier: EUPL-1.2

// Package outbox says what a peer still needs from this box, in which order. It reads the logs that the store keeps,
// compares them with what the peer has said it keeps, and makes parcels of the difference: ancestors before children,
// the rooms in turn, those first in which something urgent waits; what an urgent event builds on is as urgent as itself. Its cursor towards a peer moves by the peer's receipts only; what is under way is remembered in
// memory, and forgotten (Rewind) whenever it may have been lost.
//
// Which entries are due: those of rooms in which the peer's server has a joined member, from the base of its join on.
// What lies before is an ancestor of the join, and the peer got the state there when it joined. Logs of other boxes are
// passed on as well, but a hole in our own copy of one is never called a gap: only a log's own box knows that.
//
// An event that this box only passes on is first named by a short id (recon.Have), because the peer mostly has it from
// elsewhere; its body follows when the peer wants it.
package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/precedence"
	"hallig/sync/recon"
)

// Outbox reads what peers need. Its methods may be called from any goroutine.
type Outbox struct {
	db     *store.DB
	self   peer.ID
	server string
	judge  *precedence.Judge

	// Clock is read for what is shown to people; the zero time: it is not known. nil: time.Now. Set it before anything else is called.
	Clock func() time.Time

	mu       sync.Mutex
	epoch    uint32
	unproven int
	states   map[int64]uint32 // fingerprints of state groups
}

// Open makes the outbox of a box; judge says what may go before the rest, and draw is a random number that becomes the epoch of a new database.
func Open(ctx context.Context, db *store.DB, judge *precedence.Judge, self peer.ID, server string, draw uint32) (*Outbox, error) {
	o := &Outbox{db: db, judge: judge, self: self, server: server, states: make(map[int64]uint32)}
	err := db.Do(ctx, func(tx *store.Tx) (err error) {
		if o.epoch, err = tx.OpenExchange(string(self), draw|1); err != nil {
			return err
		}
		o.unproven, err = tx.UnprovenEpochs()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open outbox: %w", err)
	}
	return o, nil
}

// now is the time in ms, 0 when it is not known.
func (o *Outbox) now() int64 {
	t := time.Now()
	if o.Clock != nil {
		t = o.Clock()
	}
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Epoch is the epoch of this box's own logs and EDUs.
func (o *Outbox) Epoch() uint32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.epoch
}

// Renew begins a new epoch: numbers of the present one may have been given away twice. proven says that this is more than somebody's word.
func (o *Outbox) Renew(ctx context.Context, draw uint32, proven bool) error {
	unproven := o.Unproven() + 1
	if proven {
		unproven = 0
	}
	err := o.db.Do(ctx, func(tx *store.Tx) error {
		if err := tx.NewEpoch(draw | 1); err != nil {
			return err
		}
		return tx.SetUnprovenEpochs(unproven)
	})
	if err != nil {
		return fmt.Errorf("begin a new epoch: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.epoch, o.unproven = draw|1, unproven
	return nil
}

// Unproven counts the epochs that were begun by somebody's word alone, since the last proof that one was needed.
func (o *Outbox) Unproven() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.unproven
}

// Proven notes that the last epoch had to be begun: something of ours has come back that was lost here.
func (o *Outbox) Proven(ctx context.Context) error {
	if o.Unproven() == 0 {
		return nil
	}
	if err := o.db.Do(ctx, func(tx *store.Tx) error { return tx.SetUnprovenEpochs(0) }); err != nil {
		return fmt.Errorf("note that an epoch was needed: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unproven = 0
	return nil
}

// Greeting says where this box stands in the rooms it shares with a peer, for recon.Hello; session and statement are
// the caller's to fill in.
func (o *Outbox) Greeting(ctx context.Context, p peer.Peer) (recon.Hello, error) {
	h := recon.Hello{Epoch: o.Epoch(), Last: true}
	err := o.db.View(ctx, func(r *store.Read) error {
		err := r.EDUEpochs(string(p.ID), func(epoch uint32, kept uint64) {
			h.EDUs = append(h.EDUs, recon.EDUKept{Epoch: epoch, Kept: kept})
		})
		if err != nil {
			return err
		}
		rooms, err := r.DueRooms(p.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			s, err := o.roomState(r, id)
			if err != nil {
				return fmt.Errorf("room %s: %w", id, err)
			}
			h.Rooms = append(h.Rooms, s)
		}
		return nil
	})
	if err != nil {
		return recon.Hello{}, fmt.Errorf("greet %s: %w", p.ID.Short(), err)
	}
	return h, nil
}

func (o *Outbox) roomState(r *store.Read, id event.RoomID) (recon.RoomState, error) {
	s := recon.RoomState{Room: recon.RoomOf(id)}
	logs, err := r.Logs(id)
	if err != nil {
		return s, err
	}
	for _, l := range logs {
		s.Logs = append(s.Logs, recon.LogKept{Box: recon.Box(peer.ID(l.Box).Brief()), Epoch: l.Epoch, Kept: l.Top})
	}
	tips, err := r.Tips(id)
	if err != nil {
		return s, err
	}
	var heads []event.ID
	for _, e := range tips {
		heads = append(heads, e.ID)
	}
	s.Frontier = recon.FrontierOf(heads, nil)
	s.Frontier.State, err = o.stateFingerprint(r, id)
	return s, err
}

// stateFingerprint is that of the room's current state; states are shared by many events, so it is kept by group.
func (o *Outbox) stateFingerprint(r *store.Read, id event.RoomID) (uint32, error) {
	row, err := r.Room(id)
	if row == nil || err != nil {
		return 0, err
	}
	o.mu.Lock()
	sum, ok := o.states[row.Cur]
	o.mu.Unlock()
	if ok {
		return sum, nil
	}
	state, err := r.CurrentState(id)
	if err != nil {
		return 0, err
	}
	ids := make([]event.ID, 0, len(state))
	for _, e := range state {
		eid, err := r.EventID(e.Event)
		if err != nil {
			return 0, err
		}
		ids = append(ids, eid)
	}
	sum = recon.FrontierOf(nil, ids).State
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.states) > 1000 {
		clear(o.states)
	}
	o.states[row.Cur] = sum
	return sum, nil
}

// Item is one thing to send to a peer: a parcel or a part of a note, and the place of the log that it fills.
type Item struct {
	Event    *parcel.Event // nil: only a note
	Skip     *recon.Range  // goes before the event
	Have     *recon.Have   // instead of the event
	Room     event.RoomID
	ID       event.ID
	Priority int
	For      event.ID // the raised event for whose sake it goes as that, or itself; "": none, or one that is not here
	ForOwn   bool     // that is of a user of this box

	Box peer.ID // whose log Skip and Have speak of

	log   int64
	epoch uint32 // of the log
	seq   uint64
	nid   int64 // of the event in the store
}

// load makes an event parcel of a row.
func (o *Outbox) load(r *store.Read, row *store.Event) (*parcel.Event, error) {
	room, err := r.Room(row.Room)
	if err != nil {
		return nil, err
	}
	if room == nil {
		return nil, fmt.Errorf("event %s is of a room without a row", row.ID)
	}
	v, ok := event.Lookup(room.Version)
	if !ok {
		return nil, fmt.Errorf("event %s: room version %q is not known", row.ID, room.Version)
	}
	pdu, err := event.ParseTrusted(v, row.ID, row.JSON)
	if err != nil {
		return nil, fmt.Errorf("event %s: %w", row.ID, err)
	}
	level, err := o.judge.Level(r, pdu)
	if err != nil {
		return nil, err
	}
	return &parcel.Event{PDU: pdu, Lift: parcel.Routine - int(level)}, nil
}

// reconLog is the wire name of a log.
func reconLog(room event.RoomID, l store.Log) recon.Log {
	return recon.Log{Room: recon.RoomOf(room), Box: recon.Box(peer.ID(l.Box).Brief()), Epoch: l.Epoch}
}

func peerID(s string) peer.ID { return peer.ID(s) }

// historyShared reads an m.room.history_visibility event: may members see what was before them?
func historyShared(raw []byte) bool {
	var e struct {
		Content struct {
			Visibility string `json:"history_visibility"`
		} `json:"content"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return true
	}
	return e.Content.Visibility != "joined" && e.Content.Visibility != "invited"
}
