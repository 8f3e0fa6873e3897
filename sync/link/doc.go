// SPDX-License-Identifier: EUPL-1.2

// Package link is the scheduler of the exchange between boxes: whom to serve next over which transport.
//
// It keeps, per peer, which transports have it in reach, and lets the fastest one carry; the others
// stand by. It greets (hello), wakes on every commit, asks the outbox for what the peer still lacks,
// hands what comes in to the inbox, and answers with cumulative receipts that ride on reverse traffic.
// Requests that need an answer travel as parcels too and look like HTTP on both ends.
//
// It promises that nothing durable depends on its memory: what is in flight is forgotten at every change
// of transport and at every restart, and comes again from the log vectors.
//
// It leaves to others: what events are (outbox, inbox), how bytes are framed (the transports), who a peer
// is (peer), how parcels look (parcel).
package link
