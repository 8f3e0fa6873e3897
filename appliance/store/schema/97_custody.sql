-- SPDX-License-Identifier: EUPL-1.2
-- What this box carries for boxes that its neighbours do not reach: sealed, so it reads nothing of it. Boxes are named by their keys,
-- for they need not be known here.

-- n is never given twice: neighbours' answers that are under way, and sticks, go by it.
-- until and at: seconds that this program has run, all its lives together (custody_run); until 0: it does not expire.
-- mark is of the whole text: parcels of one name may be several, for a name is proved to nobody but the reader.
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
	mark     INTEGER NOT NULL UNIQUE
) STRICT;
CREATE INDEX custody_name ON custody (dest, source, epoch, seq);
CREATE INDEX custody_dest ON custody (dest, priority, n);

-- Boxes that had a carried parcel already.
CREATE TABLE custody_given (
	n   INTEGER NOT NULL,
	box BLOB NOT NULL,
	PRIMARY KEY (n, box)
) STRICT, WITHOUT ROWID;

-- Parcels that were met, to know them again after they have gone, by sync/relay's mark of their whole text. giver is a mark, too; until and hops are the best head
-- that came.
CREATE TABLE custody_mark (
	mark  INTEGER PRIMARY KEY,
	giver INTEGER NOT NULL,
	until INTEGER NOT NULL,
	hops  INTEGER NOT NULL,
	at    INTEGER NOT NULL
) STRICT;
CREATE INDEX custody_mark_giver ON custody_mark (giver, at);

-- Numbers that this box has read of each life of another one: spans as pairs of uvarints (distance from the span before, length).
CREATE TABLE custody_read (
	source BLOB NOT NULL,
	epoch  INTEGER NOT NULL,
	at     INTEGER NOT NULL,
	spans  BLOB NOT NULL,
	PRIMARY KEY (source, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE custody_run (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	seconds INTEGER NOT NULL
) STRICT;
