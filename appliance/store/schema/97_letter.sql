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
