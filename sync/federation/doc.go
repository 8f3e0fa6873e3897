// SPDX-License-Identifier: EUPL-1.2

// Package federation speaks Matrix's Server-Server API, in both directions.
//
// It keeps: the ring of other servers' keys (KeyRing), what came in and waits for its ancestors (Intake), and how far
// each server that is not a box has our events (Sender). It promises:
//
//   - an answered /send is durable: each PDU is accepted or staged in the database before the 200, and what is staged stays
//     until its graph has closed or the law has refused it; nothing is pruned, no server is ever given up;
//   - our own events go out oldest first, at most 50 in a transaction and at most 50 unconfirmed per room, to every kind of server: the newest event alone, with
//     get_missing_events answered in full, saves a Synapse a fifth of its CPU time (19 ms an event in place of 23) and costs it a gap request per room, and a Dendrite
//     loses all of it without a word (0 of 400 events; figures in sync/README.md);
//   - after a partition the box speaks first and pulls until both graphs agree, since central servers throw away bursts and
//     strand queues without telling anyone; what is pulled this way is live timeline, not history;
//   - who we are is an argument of each request (Local, found through Locals), never a global, so that one process can answer under several names.
//
// It leaves to others: the law and the storage of rooms (appliance/room), users' keys and devices (an interface,
// declared in users.go), and how bytes travel: a http.RoundTripper is handed in, which may be HTTPS with
// discovery (Discovery, in this package), HTTP over libp2p, or request parcels over a radio. Handler answers all three alike.
//
// Specification: https://spec.matrix.org/v1.16/server-server-api/
package federation

import "time"

// Limits of one transaction.
// https://spec.matrix.org/v1.16/server-server-api/#transactions
const (
	MaxPDUs = 50
	MaxEDUs = 100
)

// Scheme is the URL scheme of requests between servers: the host is a server name, not an address; the transport that
// is handed to NewClient finds the way.
const Scheme = "matrix-federation"

func millis(t time.Time) int64 { return t.UnixMilli() }
