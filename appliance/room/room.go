// SPDX-License-Identifier: EUPL-1.2

// Package room is the one door into a room's history: every event, from a phone, a radio frame, a stick or another server, is checked, authorised, placed in the
// graph, stored in one transaction and announced here.
//
// It promises: what Send, Create, Accept and Adopt have answered is on the disk; the outcome depends on the event, its ancestors and the room's state, never on
// the way it came; senders of one room do not wait for each other's flush (an event is prepared under a short lock and queued; the writer keeps the order).
// It leaves to others: signatures and keys (the caller has verified them), the law itself (rules), rows (store), what a client may see (feed).
//
// Lock order: live.mu, then the caches' own locks; the store's writer goroutine takes neither live.mu nor any lock that is held while waiting for it.
package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Identity is the server that local users' events are made and signed for.
type Identity struct {
	Server string
	Key    event.Key
}

// Options of New. The zero value is right.
type Options struct {
	Clock func() time.Time // origin_server_ts of our events; nil: the system's
	// Version is that of new rooms whose creator names none; nil: event.Default.
	Version *event.Version
	Log     *slog.Logger
	// OnAppend runs in the transaction that stores an event; its error undoes the event. It must not ask Rooms anything.
	OnAppend func(tx *store.Tx, e AppendInfo) error
	// OnFork runs in the transaction that stores an event by which branches of a room are seen to differ in their state: after a partition, and now and then when two
	// act in the same moment. It must not ask Rooms anything. nil: nobody wants to know.
	OnFork func(tx *store.Tx, f Fork) error
	// OnWhole runs in the transaction by which all members of a room become known that was joined without them; since is where that join stands in the stream.
	OnWhole func(tx *store.Tx, room event.RoomID, since int64) error
	// Vet shows an event of a local user to the room's policy server, where there is one, and gives it back with that server's signature, or without
	// one when the server is out of reach. An error is for the client. nil: policy servers are not asked.
	Vet func(ctx context.Context, p *event.PDU) (*event.PDU, error)
}

// AppendInfo is what OnAppend is told.
type AppendInfo struct {
	PDU      *event.PDU
	NID      int64
	Pos      int64 // 0: not in the timeline
	Room     event.RoomID
	From     Source
	Log      *LogRef  // what the giver named; nil: first taken in here
	Servers  []string // with a joined member before the event, plus those it makes join
	Outcome  Outcome  // Accepted, SoftFailed or Rejected
	Again    bool     // it was rejected before, for want of an authorising event
	Backfill bool
	Outlier  bool
}

// LogRef names an event's place in the log of the box that took it in first.
type LogRef struct {
	Box     string
	Epoch   uint64
	Seq     uint64
	ByOwner bool // that box itself says so: its word stands against others'
}

// Rooms is the door. All methods may be called from any goroutine.
type Rooms struct {
	db    *store.DB
	id    Identity
	opt   Options
	log   *slog.Logger
	thins *thinCache
	txns  *txnMemory

	resolutions atomic.Int64 // how often the law had to resolve states
	rethought   atomic.Int64 // how often placed events were looked at again
	whole       wholeBell

	mu      sync.Mutex
	live    map[event.RoomID]*live
	created int64 // origin_server_ts of the newest room made here
}

// New makes the door over a database.
func New(db *store.DB, id Identity, opt Options) *Rooms {
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if opt.Version == nil {
		opt.Version = event.Default()
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Rooms{db: db, id: id, opt: opt, log: opt.Log, thins: newThinCache(8 << 20), txns: newTxnMemory(4096), live: make(map[event.RoomID]*live)}
}

// Server is our server name.
func (r *Rooms) Server() string { return r.id.Server }

// DefaultVersion is the version of new rooms whose creator names none.
func (r *Rooms) DefaultVersion() *event.Version { return r.opt.Version }

// Error is what a client or a server may be told.
type Error struct {
	Code   string // M_...
	Status int
	Text   string

	RoomVersion string // of M_INCOMPATIBLE_ROOM_VERSION: the version that is not spoken

	cause error
}

func (e *Error) Error() string { return e.Code + ": " + e.Text }

// Unwrap gives the cause that is not for the client, such as *store.Full.
func (e *Error) Unwrap() error { return e.cause }

func refuse(status int, code, format string, a ...any) *Error {
	return &Error{Code: code, Status: status, Text: fmt.Sprintf(format, a...)}
}

func forbidden(format string, a ...any) *Error {
	return refuse(http.StatusForbidden, "M_FORBIDDEN", format, a...)
}

func notFound(format string, a ...any) *Error {
	return refuse(http.StatusNotFound, "M_NOT_FOUND", format, a...)
}

// tellable turns a full disk into what a client may be told.
func tellable(err error) error {
	var full *store.Full
	if errors.As(err, &full) {
		e := refuse(http.StatusForbidden, "M_RESOURCE_LIMIT_EXCEEDED", "this box's disk is full")
		e.cause = full
		return e
	}
	return err
}

// Txn makes a request repeatable: the same user, device, path and id answer the same event.
type Txn struct {
	Device string
	ID     string
	Path   string
}

// Draft is an event that a user of this server wants to exist.
type Draft struct {
	Room     event.RoomID
	Sender   event.UserID
	Type     string
	StateKey *string
	Content  json.RawMessage
	Redacts  event.ID
	TS       int64 // 0: now
	Txn      *Txn
	// Through is the server whose power to invite a restricted join stands in; "": this one.
	Through string
}

// StateDraft is one entry of CreateRequest.InitialState.
type StateDraft struct {
	Type     string
	StateKey string
	Content  json.RawMessage
}

// CreateRequest describes a new room.
type CreateRequest struct {
	Creator         event.UserID
	Version         string // "": the default
	Preset          string // "": by Visibility
	Visibility      string // "public" lists the room in the directory
	Name, Topic     string
	AliasLocalpart  string
	Invite          []event.UserID // local ones are invited here; remote ones only count for trusted_private_chat
	IsDirect        bool
	InitialState    []StateDraft
	CreationContent json.RawMessage
	PowerOverride   json.RawMessage
	Profile         func(event.UserID) (displayname, avatar string)
}

// Source says who handed an event in.
type Source struct {
	Kind   string // "local", "federation", "link", "stick"
	Server string
}

// Outcome is what became of an event.
type Outcome int

const (
	Accepted   Outcome = iota + 1
	SoftFailed         // stored, an ancestor for others, not shown
	Rejected           // stored (if the room is known), never shown
	Duplicate          // we have it already
	Missing            // ancestors or authorising events are unknown: nothing was stored
)

func (o Outcome) String() string {
	switch o {
	case Accepted:
		return "accepted"
	case SoftFailed:
		return "soft-failed"
	case Rejected:
		return "rejected"
	case Duplicate:
		return "duplicate"
	case Missing:
		return "missing"
	}
	return fmt.Sprintf("outcome %d", int(o))
}

// Result of Accept.
type Result struct {
	Outcome Outcome
	Reason  string
	Missing []event.ID // unknown prev or auth events, or state events named in Incoming.State
	Pos     int64
}

// Incoming is an event that is handed in. Its signatures are verified; its content hash is checked here.
type Incoming struct {
	PDU      *event.PDU
	From     Source
	State    []event.ID // the state before the event, when its prev events cannot be had, without effect when they are here; all of them known (outliers will do)
	Backfill bool       // history: placed before everything that came live
	Outlier  bool       // known by name only: an authorising event or a part of some state
	NoAuth   bool       // authorising events that we lack cannot be had now: the event is rejected until they come
	Unwanted string     // why it is not to be shown although the law allows it: a policy server's refusal
	Log      *LogRef
	ExtraTx  func(*store.Tx) error // committed together with the event; also runs when the event is a duplicate

	txn *Txn // of our own user's request
}

// Meta says what we think of an event.
type Meta struct {
	NID        int64
	Pos        int64
	Outlier    bool
	Rejected   bool
	SoftFailed bool
	RedactedBy event.ID
	Reason     string
}

// view runs f on a snapshot.
func (r *Rooms) view(ctx context.Context, f func(*store.Read) error) error { return r.db.View(ctx, f) }
