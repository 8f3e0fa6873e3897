// SPDX-License-Identifier: EUPL-1.2

package link

import "context"

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
