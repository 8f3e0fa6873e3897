// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"cmp"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	libpeer "github.com/libp2p/go-libp2p/core/peer"
	pbv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"
)

// Relaying bounds what a meeting place carries between boxes that do not reach each other. The zero value is right for a machine with a good line; a value that is 0 takes its default.
// What is carried is encrypted from box to box: the meeting place sees who speaks with whom, when and how much.
type Relaying struct {
	Off      bool          // carry nothing
	Boxes    int           // that can be reached this way; 10,000
	Circuits int           // at once, in all; 4,096
	PerBox   int           // at once, of one box; 64
	Bytes    int64         // of one circuit in one direction, then it ends and may be opened anew; 256 MiB
	Duration time.Duration // of one circuit, likewise; 1 h
}

const reservationLife = time.Hour

// Relayed counts what a meeting place has carried since its start.
type Relayed struct {
	Circuits int   // open now
	Opened   int64 // all of them
	Refused  int64 // to boxes that are not paired, or beyond a limit; not: to whom nobody answers
	Bytes    int64
}

// relay lets paired boxes speak through this host.
type relay struct {
	h        *Host
	service  *relayv2.Relay
	most     int64
	circuits atomic.Int64
	opened   atomic.Int64
	refused  atomic.Int64
	bytes    atomic.Int64
}

func newRelay(h *Host, on host.Host, r Relaying) (*relay, error) {
	out := &relay{h: h, most: int64(cmp.Or(r.Circuits, 4096))}
	boxes := cmp.Or(r.Boxes, 10_000)
	service, err := relayv2.New(on, relayv2.WithACL(out), relayv2.WithMetricsTracer(out), relayv2.WithResources(relayv2.Resources{
		Limit:          &relayv2.RelayLimit{Duration: cmp.Or(r.Duration, time.Hour), Data: cmp.Or(r.Bytes, 256<<20)},
		ReservationTTL: reservationLife, MaxReservations: boxes, MaxCircuits: cmp.Or(r.PerBox, 64), BufferSize: 4096,
		MaxReservationsPerIP: boxes, MaxReservationsPerASN: boxes, // a town's boxes come from behind one address
	}))
	out.service = service
	return out, err
}

// Relayed counts what this host has carried between boxes.
func (h *Host) Relayed() Relayed {
	r := h.relay
	if r == nil {
		return Relayed{}
	}
	return Relayed{Circuits: int(r.circuits.Load()), Opened: r.opened.Load(), Refused: r.refused.Load(), Bytes: r.bytes.Load()}
}

// AllowReserve lets a paired box be reached through this host.
func (r *relay) AllowReserve(p libpeer.ID, _ ma.Multiaddr) bool {
	_, ok := r.h.paired(p)
	return ok
}

// AllowConnect lets one paired box reach another.
func (r *relay) AllowConnect(from libpeer.ID, _ ma.Multiaddr, to libpeer.ID) bool {
	_, a := r.h.paired(from)
	_, b := r.h.paired(to)
	return a && b && r.circuits.Load() < r.most
}

// The rest is how libp2p tells what it does.

func (r *relay) RelayStatus(bool) {}
func (r *relay) ConnectionOpened() {
	r.circuits.Add(1)
	r.opened.Add(1)
}
func (r *relay) ConnectionClosed(time.Duration)               { r.circuits.Add(-1) }
func (r *relay) ConnectionRequestHandled(status pbv2.Status)  { r.count(status) }
func (r *relay) ReservationAllowed(bool)                      {}
func (r *relay) ReservationClosed(int)                        {}
func (r *relay) ReservationRequestHandled(status pbv2.Status) { r.count(status) }
func (r *relay) BytesTransferred(n int)                       { r.bytes.Add(int64(n)) }

func (r *relay) count(status pbv2.Status) {
	switch status {
	case pbv2.Status_PERMISSION_DENIED, pbv2.Status_RESOURCE_LIMIT_EXCEEDED, pbv2.Status_RESERVATION_REFUSED:
		r.refused.Add(1)
	}
}
