-- SPDX-License-Identifier: EUPL-1.2

-- How far an event has got, for people to see; lost with no harm, and told again by the others.

-- Up to which stream position a device of a user of this box was shown everything.
CREATE TABLE shown (
	user TEXT PRIMARY KEY NOT NULL,
	pos  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- How far in a log somebody elsewhere is known to have come, and when this became known here: who is a server name (its box keeps the log up to there) or a user id (a
-- device of theirs was shown it). by: the server whose box says so, empty where it is their own. at: ms, 0 while the clock was not to be trusted. The newest moves of each
-- are kept (keptMoves); the last of them counts, the others say when an older event was there.
CREATE TABLE word (
	log  INTEGER NOT NULL,
	who  TEXT NOT NULL,
	by   TEXT NOT NULL,
	upto INTEGER NOT NULL,
	at   INTEGER NOT NULL,
	PRIMARY KEY (log, who, by, upto)
) STRICT, WITHOUT ROWID;

-- By which way the places first to last of a log left towards a box, and when the first of them did, within two seconds. Ranges of one box do not overlap:
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
