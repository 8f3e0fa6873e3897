// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"syscall"

	"filippo.io/age"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/inbox"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// Config is what a Courier needs. All fields without "may be nil" must be set.
type Config struct {
	Key    ed25519.PrivateKey // box key
	Server string             // our Matrix server name
	DB     *store.DB
	Inbox  *inbox.Inbox
	Outbox *outbox.Outbox
	Codec  *parcel.Codec
	Roster func() peer.Roster // paired boxes, as of now

	// Statement is this box's newest statement about itself, and Learn is told of a newer one of a paired box. May be nil.
	Statement func() []byte
	Learn     func(peer.Peer)
	// KeyDocument is the key document held of a server, nil if none; LearnKeys takes one that a paired box attests. May be nil.
	KeyDocument func(ctx context.Context, server string) []byte
	LearnKeys   func(ctx context.Context, from peer.Peer, document []byte) error
	// Receipt is told what a box says that it keeps; Longer, which logs have become longer by what a box gave. May be nil.
	Receipt func(peer.ID, *parcel.Kept)
	Longer  func(from peer.ID, logs []parcel.Vector)
	// Sealed takes a parcel that is sealed to this box or is to be carried on, whoever brings it. It must not block. May be nil.
	Sealed func(from peer.ID, p *parcel.Sealed)
	// OpenMedia opens a file of this box's users; KeepMedia keeps a copy of another server's. May be nil: no files travel.
	OpenMedia func(ctx context.Context, id string) (*MediaFile, error)
	KeepMedia func(ctx context.Context, server, id, typ, name string, body io.Reader) error
	// Handler answers questions of paired boxes (federation's). May be nil: there are no answers then.
	Handler http.Handler
	// Came is told that a stick is here, before what is asked is put on it. May be nil.
	Came func()
	// Ahead is told when a box has more of our logs than we. May be nil.
	Ahead func()
	// Returned is told when something of ours came back that was lost here. May be nil.
	Returned func()
	// Observe is told what travels; it must not block. May be nil.
	Observe func(Moved)
	Log     *slog.Logger // nil: silent
}

// Moved is one thing that happened to what is carried.
type Moved struct {
	What   string // "sent": it is on the stick; "taken"; "kept"
	Peer   peer.Peer
	Event  event.ID
	Room   event.RoomID
	Events int    // many, instead of Event
	Bytes  int    // of those
	Note   string // of taken: the outcome
}

// Progress tells how far an export or import is.
type Progress struct {
	Step   string `json:"step"` // "letters", "events", "import"
	Box    string `json:"box,omitempty"`
	Events int    `json:"events"`
	Bytes  int64  `json:"bytes"`
}

// ErrBusy says that an export or import is under way already.
var ErrBusy = errors.New("the courier is at work already")

// Courier exports and imports. One at a time; a second one is told ErrBusy.
type Courier struct {
	c    Config
	log  *slog.Logger
	self peer.ID
	id   age.Identity

	busy sync.Mutex // held while one is under way; it protects the rest
	asks map[peer.ID][]*parcel.Want
	owed map[peer.ID][]*parcel.Want
	has  map[peer.ID]map[mediaShort]bool // files of ours that a box has, as it said last

	questions questions
}

// New makes a courier.
func New(c Config) (*Courier, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observe == nil {
		c.Observe = func(Moved) {}
	}
	public, ok := c.Key.Public().(ed25519.PublicKey)
	if !ok || len(c.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("make courier: no box key")
	}
	id, err := identity(c.Key)
	if err != nil {
		return nil, fmt.Errorf("make courier: %w", err)
	}
	return &Courier{c: c, log: c.Log, self: peer.IDOf(public), id: id, asks: map[peer.ID][]*parcel.Want{}, owed: map[peer.ID][]*parcel.Want{},
		has: map[peer.ID]map[mediaShort]bool{}, questions: newQuestions()}, nil
}

// Report is what an export or import did.
type Report struct {
	Boxes    []BoxReport    `json:"boxes"`
	Full     bool           `json:"full,omitempty"`      // the stick had no room for all
	ReadOnly bool           `json:"read_only,omitempty"` // it cannot be written to
	Bad      map[string]int `json:"bad,omitempty"`       // what was not taken, by why
	Foreign  int            `json:"foreign,omitempty"`   // boxes on the stick that are not paired with this one
	BadFiles []string       `json:"bad_files,omitempty"` // some of their names
	Bytes    int64          `json:"bytes"`               // written or read
}

// BoxReport is the part of one box.
type BoxReport struct {
	Server   string `json:"server"`
	Segments int    `json:"segments"`          // written, or read anew
	Events   int    `json:"events"`            // written, or new here
	Again    int    `json:"again,omitempty"`   // events that were here already
	Refused  int    `json:"refused,omitempty"` // events that the room did not take
	Waiting  int    `json:"waiting,omitempty"` // segments of which something is still missing here
	Asked    int    `json:"asked,omitempty"`   // invites, joins and leaves that the box asked for
	Answers  int    `json:"answers,omitempty"` // to what was asked here
	Files    int    `json:"files,omitempty"`   // that people sent
	Large    int    `json:"large,omitempty"`   // files that stay here for their size
	Carried  int    `json:"carried,omitempty"` // sealed parcels of others that came
	EDUs     int    `json:"edus,omitempty"`    // messages between devices, receipts, device lists
	Known    int    `json:"known,omitempty"`   // segments that had been taken before, or were there already
	Receipt  bool   `json:"receipt,omitempty"` // the box told newly what it keeps
}

func (r *Report) note(name string, err error) {
	if r.Bad == nil {
		r.Bad = map[string]int{}
	}
	r.Bad[reason(err)]++
	if len(r.BadFiles) < 10 {
		r.BadFiles = append(r.BadFiles, name)
	}
}

// reason groups what can be wrong with a file.
func reason(err error) string {
	for _, known := range []error{errSize, errNotOurs, errForged, errMalformed, errChanged, errParcel} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	if isAbsent(err) {
		return "it is missing"
	}
	return "it cannot be read"
}

var errParcel = errors.New("something in it cannot be understood")

func isAbsent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// errFull says that the stick has no room for a segment.
var errFull = fmt.Errorf("the stick is full: %w", syscall.ENOSPC)

// isFull and isReadOnly say why a stick takes nothing more.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
func isReadOnly(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM)
}

// told is an event of which the observer hears.
type told struct {
	room event.RoomID
	id   event.ID
	note string
}

// observe tells of each event, or of a crowd in one word.
func (c *Courier) observe(what string, p peer.Peer, es []told, bytes int) {
	const crowd = 200
	if len(es) > crowd {
		c.c.Observe(Moved{What: what, Peer: p, Events: len(es), Bytes: bytes})
		return
	}
	for _, t := range es {
		c.c.Observe(Moved{What: what, Peer: p, Event: t.id, Room: t.room, Note: t.note})
	}
}

// Marked says whether a stick bears the mark of this box or of a paired one, has mail for this one, or is an empty courier's folder that somebody made by hand.
func (c *Courier) Marked(d Disk) (ours bool, err error) {
	names, err := d.Names(8)
	if err != nil {
		return false, fmt.Errorf("look at the stick: %w", err)
	}
	if len(names) == 0 {
		return true, nil
	}
	for _, p := range append(c.c.Roster().All(), peer.Peer{ID: c.self}) {
		if readIndex(d, p.ID, func(string, error) {}) != nil {
			return true, nil
		}
	}
	return c.mailFromStrangers(d), nil
}

// draw gives a random number.
func draw() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:])
}
