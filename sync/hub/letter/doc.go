// SPDX-License-Identifier: EUPL-1.2

// Package letter is the hub's side of letters: transactions that a box has signed and left, to be brought to other servers although the box is away, or the server is.
//
// It keeps them in the spool, in order, one queue for each box and server. It promises: what Take has answered without an error is on the disk, and stays there until the
// server has shown that it knows the last event of each room in it (a signed GET /event), says that it will not tell, or has taken it in every way there is and does
// not know it; of that the box hears. One letter of a queue is under way at a time, and of all boxes one that has events of a room, so that no server gets more than fifty unconfirmed events of
// a room: it would throw them away. A server that is out of reach is asked by one letter at a time, seldom; nothing is dropped for age.
//
// What a kill may repeat (a letter that was brought and not yet crossed out) goes again under the same transaction id, by which servers know it.
//
// It leaves to others: how requests travel and who signs for the hub (Config), and what a letter looks like (hub/api).
package letter
