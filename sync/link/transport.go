// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"time"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// Transport carries messages between this box and far ends in reach. It uses standard types only, so
// that a radio fits it without knowing what is said over it.
//
// All callbacks may be called from any goroutine, but never while the transport holds a lock that Send
// or Free needs. Callbacks return at once.
type Transport interface {
	// Name names the transport for people and statistics: "p2p", "serial:ttyUSB0".
	Name() string

	// Serve runs until ctx ends; an unplugged port or a lost network is not an end.
	//
	// addr is, for p2p, the peer id text; for a radio, a name of the far end ("ttyUSB0#far"), the same
	// for the life of the port.
	Serve(ctx context.Context,
		up func(addr string, bitsPerSecond int, mtu int), // a far end is in reach (radio: it answered); repeated after each outage
		down func(addr string), // it is out of reach; every message not yet arrived has been given up
		received func(addr string, message []byte), // one whole message, once, in any order across priorities; the receiver owns the slice
		ready func(addr string), // there is room for more
	) error

	// Send queues one message of at most 64 KiB; the transport fragments it. Priority 0 is flash,
	// 1 immediate, 2 priority, 3 routine, 4 bulk; a higher one overtakes at frame boundaries.
	// done is called exactly once: nil means arrived in the far end's memory, an error means given up
	// (down, closed). The transport owns message from here on.
	Send(addr string, priority int, message []byte, done func(error))

	// Free says how many bytes the transport would take now for addr at that priority without building
	// a queue of more than about one turn; when it is 0 or less, wait for ready.
	Free(addr string, priority int) int
}

// Keyed is implemented by transports that protect frames with keys agreed above them (radio). send and
// receive are 32-byte secrets; nil clears them and the frames go back to a plain checksum.
type Keyed interface {
	SetKeys(addr string, send, receive []byte) error
}

// Mail is implemented by a transport whose messages may be days under way, over boxes in between (relay). It proves who is at the far
// end, and its done means that the far end has read the message. Nobody is greeted over it and nothing is asked for before it is used:
// every message can be read by itself, and by one that has forgotten all before it.
type Mail interface {
	// Post is Send for a message that is worth nothing when life has passed; 0: it is good for ever.
	Post(addr string, priority int, life time.Duration, message []byte, done func(error))
	// Outlook says how many messages wait for the far end's answer, how long answers took lately (0: not known), and whether a way is
	// known now, which makes it minutes, not days.
	Outlook(addr string) (waiting int, answer time.Duration, near bool)
	// Nearer says that a neighbour is nearer to a far end than this box.
	Nearer(neighbour, addr peer.ID) bool
}

// Relay gives and takes what boxes carry for others, over the links of this one. Its methods return at once.
type Relay interface {
	// Begin is called once, before the others: wake is to be called when Next has something for a neighbour that it had not.
	Begin(wake func(neighbour peer.ID))
	// Neighbour says that a box that carries for others is in direct reach over a way of so many bit/s; 0: no longer.
	Neighbour(id peer.ID, bitsPerSecond int)
	// Next gives a parcel for a neighbour; nil: none of that priority. size is what a message should still take. done is called once.
	Next(id peer.ID, priority, size int) (p parcel.Parcel, done func(arrived bool))
	// Take takes a parcel of kind sealed or forward that a neighbour sent.
	Take(from peer.ID, p parcel.Parcel)
}

// Broadcaster is implemented by transports on which several far ends hear the same transmission.
type Broadcaster interface {
	// Together says how long a message may be that is sent to all of these far ends at once now; 0: it cannot be.
	Together(addrs []string) int
	// Broadcast sends a message to several far ends at once; done is called exactly once for each, as that of Send. No key protects the message.
	Broadcast(addrs []string, priority int, message []byte, done func(addr string, err error))
	// ToAll says whose broadcasts come in under an address; false: it is an ordinary one.
	ToAll(addr string) (from string, ok bool)
}

// unsealed is implemented by transports over which nothing may travel that others cannot read (amateur radio).
type unsealed interface {
	Open(addr string) bool
}
