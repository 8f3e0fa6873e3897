-- SPDX-License-Identifier: EUPL-1.2

-- How far an event has got, for people to see; lost with no harm, and told again by the others.

-- Up to which stream position a device of a user of this box was shown everything.
CREATE TABLE shown (
	user TEXT PRIMARY KEY NOT NULL,
	pos  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The furthest place of a log that somebody elsewhere is known to have: who is a server name (its box keeps it) or a user id (a device of
-- theirs was shown it). at: when this became known here, ms, 0 while the clock was not to be trusted.
CREATE TABLE reached (
	log  INTEGER NOT NULL,
	who  TEXT NOT NULL,
	upto INTEGER NOT NULL,
	at   INTEGER NOT NULL,
	PRIMARY KEY (log, who)
) STRICT, WITHOUT ROWID;

-- By which way the places first to last of a log left towards a box, and when the last of them did. Ranges of one box do not overlap:
-- what is sent again counts by its last way.
CREATE TABLE left_by (
	box   INTEGER NOT NULL,
	log   INTEGER NOT NULL,
	last  INTEGER NOT NULL,
	first INTEGER NOT NULL,
	way   TEXT NOT NULL,
	at    INTEGER NOT NULL,
	PRIMARY KEY (box, log, last)
) STRICT, WITHOUT ROWID;
