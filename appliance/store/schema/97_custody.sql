-- SPDX-License-Identifier: EUPL-1.2
-- What this box carries for boxes that its neighbours do not reach: sealed, so it reads nothing of it. Boxes are named by their keys,
-- for they need not be known here.

-- n is never given twice: neighbours' answers that are under way, and sticks, go by it.
-- until and at: seconds that this program has run, all its lives together (custody_run); until 0: it does not expire.
CREATE TABLE custody (
	n        INTEGER PRIMARY KEY AUTOINCREMENT,
	dest     BLOB NOT NULL,
	source   BLOB NOT NULL,
	epoch    INTEGER NOT NULL,
	seq      INTEGER NOT NULL,
	giver    BLOB NOT NULL,
	priority INTEGER NOT NULL,
	hops     INTEGER NOT NULL,
	until    INTEGER NOT NULL,
	at       INTEGER NOT NULL,
	body     BLOB NOT NULL,
	UNIQUE (dest, source, epoch, seq)
) STRICT;
CREATE INDEX custody_dest ON custody (dest, priority, n);

-- Boxes that had a carried parcel already.
CREATE TABLE custody_given (
	n   INTEGER NOT NULL,
	box BLOB NOT NULL,
	PRIMARY KEY (n, box)
) STRICT, WITHOUT ROWID;

-- Numbers that were met, to know a parcel again after it has gone: spans as pairs of uvarints (distance from the span before, length).
CREATE TABLE custody_met (
	dest   BLOB NOT NULL,
	source BLOB NOT NULL,
	epoch  INTEGER NOT NULL,
	giver  BLOB NOT NULL,
	at     INTEGER NOT NULL,
	spans  BLOB NOT NULL,
	PRIMARY KEY (dest, source, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE custody_run (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	seconds INTEGER NOT NULL
) STRICT;
