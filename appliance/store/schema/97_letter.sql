-- SPDX-License-Identifier: EUPL-1.2
-- Transactions that were left with a hub for a server and are not known to have arrived.

CREATE TABLE fed_letter (
	n      INTEGER PRIMARY KEY AUTOINCREMENT,
	dest   TEXT NOT NULL,
	series TEXT NOT NULL,
	place  INTEGER NOT NULL,  -- in its series, for this server
	epoch  TEXT NOT NULL,     -- the hub's memory that it was left with
	key    TEXT NOT NULL,     -- id of the key that signed it
	txn    TEXT NOT NULL,
	edu_to INTEGER NOT NULL,  -- it brings the EDUs up to this one; 0: events
	events BLOB NOT NULL,     -- by room, JSON
	body   BLOB               -- of EDUs, which must be the same in each repetition
) STRICT;
CREATE INDEX fed_letter_dest ON fed_letter (dest);

-- Those among them that travel on sticks, whole: each stick has them until the hub says that they are through.
CREATE TABLE fed_bag (
	dest TEXT NOT NULL,
	txn  TEXT NOT NULL,
	raw  BLOB NOT NULL,
	UNIQUE (dest, txn)
) STRICT;

-- What is remembered of sticks to and from the hub: up to which place of its memory the box has dealt with what waited there, and which stick came last. JSON.
CREATE TABLE hub_stick (
	one   INTEGER PRIMARY KEY CHECK (one = 1),
	state BLOB NOT NULL
) STRICT;
