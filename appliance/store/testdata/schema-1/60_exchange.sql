-- SPDX-License-Identifier: EUPL-1.2
-- What the exchange with other boxes keeps, and the queue of EDUs towards every other server.

-- EDUs wait here until the destination has kept them. key '' appends (to-device, device lists that must
-- all arrive); any other key replaces the waiting EDU of the same kind and key (receipts).
-- seq rises per destination and is never used twice.
CREATE TABLE edu_out (
	dest TEXT NOT NULL,
	seq  INTEGER NOT NULL,
	kind TEXT NOT NULL,
	key  TEXT NOT NULL DEFAULT '',
	body BLOB NOT NULL,          -- the EDU's content, JSON
	PRIMARY KEY (dest, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX edu_out_key ON edu_out (dest, kind, key) WHERE key <> '';

CREATE TABLE edu_seq (
	dest TEXT PRIMARY KEY,
	last INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- This box's own numbering: a new random epoch at the first start and after any restore.
CREATE TABLE exchange_self (
	one   INTEGER PRIMARY KEY CHECK (one = 1),
	box   INTEGER NOT NULL REFERENCES box (n),
	epoch INTEGER NOT NULL
) STRICT;

-- Short numbers for box ids (peer id text), never reused.
CREATE TABLE box (
	n  INTEGER PRIMARY KEY,
	id TEXT NOT NULL UNIQUE
) STRICT;

-- The roster: paired boxes. record is the peer as sync/peer writes it.
CREATE TABLE peer (
	box    INTEGER PRIMARY KEY REFERENCES box (n),
	server TEXT NOT NULL UNIQUE,
	record BLOB NOT NULL
) STRICT;

-- A log: the events of one room that one box took in first, in one epoch. kept is the highest contiguous
-- seq this box is done with (stored, rejected, or declared not for us). Of our own log it stays 0: the
-- entries say how far it goes, and a plain message writes one page less.
CREATE TABLE log (
	n     INTEGER PRIMARY KEY,
	room  INTEGER NOT NULL,
	box   INTEGER NOT NULL REFERENCES box (n),
	epoch INTEGER NOT NULL,
	kept  INTEGER NOT NULL DEFAULT 0,
	UNIQUE (room, box, epoch)
) STRICT;

-- event: the event's number here, which rises in order of arrival; 0: we are done with it but have not
-- got it. gap: how many numbers before seq the giver declared to be not for this box.
CREATE TABLE log_entry (
	log   INTEGER NOT NULL,
	seq   INTEGER NOT NULL,
	event INTEGER NOT NULL,
	gap   INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (log, seq)
) STRICT, WITHOUT ROWID;

-- What a peer has told us it keeps of a log: the cursor.
CREATE TABLE peer_kept (
	box  INTEGER NOT NULL,
	log  INTEGER NOT NULL,
	kept INTEGER NOT NULL,
	PRIMARY KEY (box, log)
) STRICT, WITHOUT ROWID;

-- When a server was in a room, counted in our event numbers: entries with first < event <= last are due
-- to it; last NULL: it is in the room. A server without a row was there before us: all is due to it.
CREATE TABLE span (
	server TEXT NOT NULL,
	room   INTEGER NOT NULL,
	first  INTEGER NOT NULL,
	last   INTEGER,
	PRIMARY KEY (server, room, first)
) STRICT, WITHOUT ROWID;

-- EDUs taken from a peer: everything up to kept of that epoch has had its effect.
CREATE TABLE edu_in (
	box   INTEGER NOT NULL,
	epoch INTEGER NOT NULL,
	kept  INTEGER NOT NULL,
	PRIMARY KEY (box, epoch)
) STRICT, WITHOUT ROWID;
