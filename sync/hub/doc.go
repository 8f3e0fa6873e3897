// SPDX-License-Identifier: EUPL-1.2

// Package hub is the post office beside the central server, as a value: Open makes it from a Config, Run lives until its context ends, Close lets go of the disk. It has
// the names of its boxes on the Internet, takes what the world sends to them, keeps it, and hands it on when the box is in reach. DESIGN.md says why it is like
// this, and what is to come.
//
// It promises: what was answered 200 is in the spool, and stays there until the box has answered 200 itself, or refuses it with an answer that the same request will
// always get; per server in order, one at a time. To the world it answers no query with 401, 429 or 5xx, as central servers leave a name alone for that. What a box sends out
// goes out as the box signed it. It has no key of a box, unless the box gives it one (DESIGN.md, Modes).
//
// It leaves to others: what is durable (hub/spool), what boxes leave for servers (hub/letter), the boxes' rooms (hub/replica), the line between nodes (hub/nodes), who has signed what (federation), how boxes are reached (p2p). A box verifies all by itself that the hub hands on.
//
// State lives under Config.Data: box.key and signing.key (written once), hallig.db (keys of other servers, copies of the boxes' rooms; lost with it: nothing), and the spool.
package hub
