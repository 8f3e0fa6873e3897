-- SPDX-License-Identifier: EUPL-1.2
-- The hub's spool in one file. Times are microseconds since 1970, 0: none. Counters in tally start at spool.floor and never go back.

CREATE TABLE spool (
	one   INTEGER PRIMARY KEY CHECK (one = 1),
	epoch TEXT NOT NULL,    -- another one after a loss or a restore
	floor INTEGER NOT NULL, -- what a new box's counters start at: beyond those of every box that was removed
	clean INTEGER NOT NULL  -- the last stop was orderly
) STRICT;

CREATE TABLE box (
	n         INTEGER PRIMARY KEY,
	server    TEXT NOT NULL UNIQUE,
	id        TEXT NOT NULL UNIQUE,
	statement BLOB NOT NULL,
	mode      TEXT NOT NULL,
	revoked   TEXT NOT NULL,
	added     INTEGER NOT NULL
) STRICT;

-- What a box said of itself when it was last here. Written lazily.
CREATE TABLE contact (
	box     INTEGER PRIMARY KEY,
	seen    INTEGER NOT NULL,
	way     TEXT NOT NULL,
	version TEXT NOT NULL,
	health  BLOB
) STRICT;

-- What changes often: how much waits for a box, the last numbers given out, who holds it.
CREATE TABLE tally (
	box   INTEGER PRIMARY KEY,
	count INTEGER NOT NULL,
	bytes INTEGER NOT NULL,
	place INTEGER NOT NULL, -- of requests
	taken INTEGER NOT NULL, -- place of one-time keys given away
	token INTEGER NOT NULL, -- of leases
	node  TEXT,             -- NULL: nobody ever held it
	held  INTEGER NOT NULL  -- 0: released
) STRICT;

-- A node is there until its time is over, and with it every lease that it holds.
CREATE TABLE node (
	name  TEXT PRIMARY KEY NOT NULL,
	until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE queue (
	n       INTEGER PRIMARY KEY,
	box     INTEGER NOT NULL,
	inward  INTEGER NOT NULL,
	other   TEXT NOT NULL,
	settled INTEGER NOT NULL, -- everything up to this place was settled
	count   INTEGER NOT NULL,
	bytes   INTEGER NOT NULL,
	last    INTEGER NOT NULL, -- when something came or was settled
	UNIQUE (box, inward, other)
) STRICT;

-- A settled request keeps its row, emptied, for as long as its key is remembered. hash is of the key: far servers choose how long a key is.
CREATE TABLE request (
	queue    INTEGER NOT NULL,
	seq      INTEGER NOT NULL,
	hash     BLOB NOT NULL,
	settled  INTEGER NOT NULL, -- when; 0: it waits
	received INTEGER NOT NULL,
	size     INTEGER NOT NULL,
	key      TEXT NOT NULL,
	method   TEXT NOT NULL,
	uri      TEXT NOT NULL,
	auth     TEXT NOT NULL,
	body     BLOB,
	PRIMARY KEY (queue, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX request_hash ON request (queue, hash);

CREATE TABLE deposit (
	box   INTEGER NOT NULL,
	kind  TEXT NOT NULL,
	key   TEXT NOT NULL,
	value BLOB NOT NULL,
	PRIMARY KEY (box, kind, key)
) STRICT, WITHOUT ROWID;

-- One-time keys in the order in which they came. What was given away stays known, without the key.
CREATE TABLE onetime (
	n         INTEGER PRIMARY KEY,
	box       INTEGER NOT NULL,
	user      TEXT NOT NULL,
	device    TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	id        TEXT NOT NULL,
	value     BLOB,
	taken     INTEGER, -- place; NULL: it is here
	UNIQUE (box, user, device, id)
) STRICT;
CREATE INDEX onetime_here ON onetime (box, user, device, algorithm, n) WHERE taken IS NULL;
CREATE INDEX onetime_taken ON onetime (box, taken) WHERE taken IS NOT NULL;
