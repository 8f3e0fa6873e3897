-- SPDX-License-Identifier: EUPL-1.2
-- What the courier keeps: what travels between boxes on sticks.

-- The number that the newest index of this box carries; it rises with every export, whatever the stick.
CREATE TABLE courier_self (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	serial INTEGER NOT NULL
) STRICT;

-- The newest letter of a box: its epoch, the number of its index, and the epochs that it has left (4 bytes each), so that an old
-- letter is known as one.
CREATE TABLE courier_far (
	box    INTEGER PRIMARY KEY REFERENCES box (n),
	epoch  INTEGER NOT NULL,
	serial INTEGER NOT NULL,
	left   BLOB NOT NULL
) STRICT;

-- Segments whose whole content is here for good, by their SHA-256; n rises, the oldest are forgotten.
CREATE TABLE courier_taken (
	hash BLOB PRIMARY KEY NOT NULL,
	box  INTEGER NOT NULL,
	n    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX courier_taken_n ON courier_taken (n);
