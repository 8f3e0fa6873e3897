// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Errors that callers tell apart.
var (
	ErrUnknown = errors.New("no such box at this hub")
	ErrTaken   = errors.New("another box has that name or that key at this hub")
	ErrFenced  = errors.New("another node holds the box now")
	ErrFull    = errors.New("too much waits for this box at this hub")
	ErrTooMuch = errors.New("the box has deposited as much as this hub keeps for one box")
	ErrNewer   = errors.New("the spool was written by a newer version; start that one")
	ErrNoSpace = errors.New("the disk of the hub's spool is full; delete what is not needed on it, or enlarge it")
	ErrAway    = errors.New("the database of the hub does not answer") // nothing is known of what was asked: ask again, each act may be asked twice
	ErrClosed  = errors.New("the spool is closed")
	ErrInUse   = errors.New("nodes of the hub are running; stop all of them first, then say it again")
)

// Mode is what a hub may do under a box's name.
type Mode string

// Sealed: the hub has no key of the box. Delegate: the box lists a second key that the hub holds.
const (
	Sealed   Mode = "sealed"
	Delegate Mode = "delegate"
)

// Box is one entry of the roster.
type Box struct {
	Server    string // Matrix server name; the key of the entry
	ID        string // peer id of the box key
	Statement []byte // the box's signed statement about itself
	Mode      Mode
	Revoked   string // why it was turned away; "": it was not
	Added     time.Time

	// What the box said of itself at its last contact, and how it came. Lazy: a crash may take back the last minutes.
	Seen    time.Time
	Way     string          // "p2p", through another box "radio:NAME", "relay:NAME" or "net:NAME", "stick"; "": never
	Version string          // of its program
	Health  json.RawMessage // for the fleet page; nil: unknown
}

// Request is one signed request, as it was on the wire.
type Request struct {
	Seq           int64  // place, given by the spool: grows within the queue in the order of the commits, with holes
	Key           string // what tells it from others of its queue, chosen by the caller
	Method, URI   string // the path and query that the signature covers
	Authorization string // X-Matrix header
	Body          []byte
	Received      time.Time // zero: the time of Append
}

// Queue names one queue. Box is the server name of a box of this hub; Other is the far server. In: from Other to Box; otherwise letters of Box for Other.
type Queue struct {
	Box   string
	Other string
	In    bool
}

// Waiting says what waits in one queue.
type Waiting struct {
	Queue
	Count  int64
	Bytes  int64
	Oldest time.Time
}

// Lease says that a node holds a box. Token grows with each change of the holder and with each release.
type Lease struct {
	Box   string
	Node  string // a running program: it takes another name with each start
	Token int64
	Until time.Time // when the node counts as gone, unless it renews; zero: released
}

// Spool is a hub's durable memory. Safe for concurrent use. All that changes something returns after the commit, unless it says "lazy".
// Times are given by the caller (now) so that tests move them, and kept to the microsecond; nodes of one hub must agree on the time within a few seconds.
// Whatever names a box answers ErrUnknown when there is none, unless it says otherwise; ErrAway, ErrNoSpace and ErrClosed may come from anything.
type Spool interface {
	// PutBox adds a box or replaces the statement and the mode of the entry of the same Server and ID; ErrTaken when the name or the id belongs to another entry.
	// What is known of its contacts, Added and a revocation stay: who was turned away comes back by Remove alone.
	PutBox(ctx context.Context, b Box) error
	// Box gives one entry; ErrUnknown.
	Box(ctx context.Context, server string) (Box, error)
	// Boxes lists all, by name.
	Boxes(ctx context.Context) ([]Box, error)
	// Revoke turns a box away for good, with the reason; its queues stay until Remove.
	Revoke(ctx context.Context, server, reason string) error
	// Remove forgets a box with all its queues, deposits and leases.
	Remove(ctx context.Context, server string) error
	// Saw notes a contact, lazily; this node's own answers know it at once. An older contact than the one known is passed over.
	Saw(server string, at time.Time, way, version string, health json.RawMessage)

	// Append puts requests at the end of a queue, all or none, and gives how many were new: a request whose Key is in the queue, or was settled there
	// within the last 48 hours, is known and passed over. ErrFull: the box's queues would exceed Limits, or this one more than half of them, so
	// that one far server that floods leaves room to the others.
	Append(ctx context.Context, q Queue, now time.Time, rs ...Request) (fresh int, err error)
	// Next gives the oldest requests after a place, as many as fit into max bytes, at least one when there is one; none of a box that is not known.
	Next(ctx context.Context, q Queue, after int64, max int) ([]Request, error)
	// Settle removes the requests up to and including a place. A lease, if given (Token > 0), must still be the newest of its box: ErrFenced.
	Settle(ctx context.Context, q Queue, through int64, now time.Time, l Lease) error
	// Waiting lists queues that are not empty, by box, direction and far server: of one box, or of all with "".
	Waiting(ctx context.Context, box string) ([]Waiting, error)

	// Deposit keeps a value of a box under a kind and a key, in place of an older one; nil removes it. ErrTooMuch: the box's values would exceed Limits, and nothing is changed; the values with
	// an empty key count for nothing there, as there is one per kind, and are always kept.
	Deposit(ctx context.Context, box, kind, key string, value []byte) error
	// Amend replaces a value by what change makes of it, as one act whatever other nodes do: change is given the old value, nil for none, and gives the new one, nil to remove it.
	// It may be called more than once and must not call the spool; its error is Amend's, and nothing is changed then. ErrTooMuch as with Deposit.
	Amend(ctx context.Context, box, kind, key string, change func(old []byte) ([]byte, error)) error
	// Deposited gives a value; nil: none.
	Deposited(ctx context.Context, box, kind, key string) ([]byte, error)
	// DepositedOf gives the values of a kind that have an empty key, by box.
	DepositedOf(ctx context.Context, kind string) (map[string][]byte, error)
	// PutKeys keeps one-time keys of a device, by key id ("signed_curve25519:AAAAHg"); those that it has already stay as they are, and one that was taken is never kept again.
	// ErrTooMuch: one is longer than a key can be, or the box's keys would exceed Limits; then none of the call is kept.
	PutKeys(ctx context.Context, box, user, device string, keys map[string]json.RawMessage) error
	// TakeKey gives one one-time key of an algorithm away, once for ever; "" when none is left.
	TakeKey(ctx context.Context, box, user, device, algorithm string) (id string, key json.RawMessage, err error)
	// CountKeys counts what is left, by algorithm.
	CountKeys(ctx context.Context, box, user, device string) (map[string]int, error)
	// KeyStock says how the one-time keys of boxes stand, by box: of one, or of all with ""; who never had one is not in it.
	KeyStock(ctx context.Context, box string) (map[string]Stock, error)
	// TakenKeys lists, in the order in which they went, which keys were given away after a place, so that the box crosses them out.
	TakenKeys(ctx context.Context, box string, after int64, most int) (taken []Taken, err error)
	// ForgetTaken forgets keys that were given away, up to and including a place: the box has crossed them out and will not put them again.
	ForgetTaken(ctx context.Context, box string, through int64) error

	// Acquire makes a node the holder of a box: when nobody holds it, the holder's time is over, it is the holder already, or steal is set (the box
	// itself has come to this node). ok false: another node holds it, which the lease names. It renews, too, when less than half of ttl is left.
	Acquire(ctx context.Context, box, node string, now time.Time, ttl time.Duration, steal bool) (l Lease, ok bool, err error)
	// Renew moves the end of all leases of a node to now+ttl, in one small write however many there are; it never moves it back.
	Renew(ctx context.Context, node string, now time.Time, ttl time.Duration) error
	// Release gives a lease up, when it is still the newest; otherwise nothing happens.
	Release(ctx context.Context, l Lease) error
	// Holder gives the newest lease of a box, also one whose time is over or that was released; Token 0: nobody ever held it, or the box is not known.
	Holder(ctx context.Context, box string) (Lease, error)

	// Changes is told names of boxes for which something came into a queue or whose holder has changed, by any node. Names may come twice, or for nothing, or late: by a second, and by
	// some when a node dies or the database is away. When the receiver is slow they are merged, never lost. It ends with ctx or with Close.
	Changes(ctx context.Context) <-chan string

	// Epoch names this memory; another one after it was lost or put back from a copy. Places, tokens and keys that others know (TakenKeys) hold within one epoch.
	Epoch(ctx context.Context) (string, error)
	// Restored is said once, before any node starts, after the database was put back from an older copy: the epoch changes, every place and token from now on is beyond all that may have been
	// given out since the copy, nobody holds a box, and one-time keys count as taken, since they may have been given away. ErrInUse: other nodes are at work on it.
	Restored(ctx context.Context) error

	// Bounds gives the limits in force.
	Bounds() Limits

	Close() error
}

// Stock counts one-time keys of a box.
type Stock struct {
	Devices int64 // that have some left
	Left    int64
	Given   int64 // given away, as far as it is remembered
}

// Taken is a one-time key that was given away.
type Taken struct {
	Place        int64
	User, Device string
	ID           string
}

// Limits bound what is kept for one box.
type Limits struct {
	Bytes    int64 // of what waits, in and out together; 0: 1 GiB
	Requests int64 // the same; 0: 200,000

	DepositBytes int64 // of all deposited values; 0: 256 MiB
	Deposits     int64 // of these; 0: 20,000
	Keys         int64 // one-time keys that are left, of all its devices; 0: 50,000
}
