// SPDX-License-Identifier: EUPL-1.2

// Package courier carries what is due to other boxes on a USB stick, or in any folder: everything pending for any number of boxes, and their answers
// back. It moves no cursor when it exports; only the receipt that the far box wrote after its commit does, whichever way that comes.
//
// # On the stick
//
// One directory, hallig-courier, with names that FAT32 takes; BOX is the exporter's brief id, 16 hexadecimal digits:
//
//	BOX-a.idx, BOX-b.idx   what the box has put there; of the two, the valid one with the higher number counts, and the other is written next
//	BOX-HASH.seg           a segment: named by its SHA-256, never changed, at most 8 MiB
//	BOX.tmp                what is being written; without meaning
//	LIESMICH.txt           for who finds the stick
//
// An index is signed by the box key, and lists each segment with its reader, kind, hash and size. A segment is encrypted to its one reader with age and,
// within that, names exporter and reader and is signed by the exporter, so that it can neither be read by the finder of a stick nor be passed on
// under another name. The recipient of age is the reader's box key itself, in its X25519 form as in the handshakes of peer: whoever is
// paired is a recipient, without a further key that would have to be certified, sent round and rotated. The price: who loses the box key loses the secrecy of old
// sticks, as with the backup.
//
// The body of a segment is messages of package parcel in one session of its own. There are letters, written anew with each export (where this box stands, as on a link;
// its statement; EDUs in order; what it asks for), and segments of events, which stay until their reader has said that it keeps all of
// them. How far they reach is noted in the index, readable to the exporter only: so an export goes on where the last one on the same stick
// ended, and the box needs no memory of its sticks.
//
// # A stick that is pulled
//
// Files are written under a temporary name, flushed, renamed, and only then is an index written that names them, in the slot that is not in force;
// only when that is flushed are files removed that it does not name. What is cut short has no meaning and is made again. An import writes
// nothing to the stick. A segment counts as taken when all of it is in the store, so one that was half taken is taken again.
//
// # Everything from a stick is hostile
//
// Names are never taken from the directory: a box looks for the two indexes of each box in its roster, and opens what these name, without following links, regular files
// of the said size only. What does not verify changes nothing and is counted (Report.Bad). An old letter put back on a stick does nothing.
//
// Sealed parcels that the box carries for others go along, to their reader and, as copies, to paired boxes (custody.go). Only for these a box also looks at indexes of
// boxes that it does not know, 64 at most.
//
// Files that people sent go along up to a size (media.go), cut into segments that follow each other.
//
// Invites, joins and leaves travel as questions and answers, each export with all that are open (ask.go).
//
// # Texts on paper
//
// A Sheet is the same kind of segment as text for QR codes (sheet.go).
package courier
