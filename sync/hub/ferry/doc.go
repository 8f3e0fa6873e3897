// SPDX-License-Identifier: EUPL-1.2

// Package ferry is what a hub and a box that only another box reaches say to each other through that one: which bytes, under which seal. The hub's side of it is sync/hub, the sides of the two
// boxes are the composition of the box; what carries the bytes between the boxes is sync/link.
//
//	hub --libp2p--> box in between --parcels, 1200 bit/s perhaps--> box
//	    <---------                 <-------------------------------
//
// The box in between may belong to none of the rooms, and may be hostile: so both directions are sealed between the box keys of hub and box (peer.Seal), which know each other since they were paired. It
// sees lengths and times. It can keep, lose and repeat; it can neither read, nor say another time at which a request came in, nor say that the box has taken something.
//
// A sealed text is a random number of 8 bytes, which is never used twice, and the text under it. An answer is bound to the number of what it answers. A Play with requests
// brings the box's word (Nonce) of its last answer, and the box takes each word once: what was recorded before has no request done when it comes again, not even after a month. A Play without
// requests has no word: one that was recorded has the box say once more how it does, under its seal, and count the hub as heard.
//
// A text has two parts, numbers and what cannot be compressed (signatures, names of events) in the first, everything else packed in the second:
//
//	Play    version(1) flags(1) nonce(8) [about(8)]  n { flags(1) received lengths [signature(64)] [sum(8) n { length [name(5)] }* { length }*] }*  m { length }*   text
//	Answer  version(1) nonce(8) of(8) clock  n { status [length] }*  length   text
//
// An event that the box has already, because the box in between is in the same room and has given it, is named by the first 5 bytes of its id in place of its text. The sum says whether the body came out as
// it was; when it did not, the box answers Whole, and gets it whole later.
package ferry
