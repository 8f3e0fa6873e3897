-- SPDX-License-Identifier: EUPL-1.2
-- Core: counters and the interned names that all other tables refer to by number.

-- Counters and marks: pos_ceiling (the stream position may have been handed out up to here), clean (last shutdown was orderly).
CREATE TABLE meta (
	name  TEXT PRIMARY KEY NOT NULL,
	value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE server (
	nid  INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE usr (
	nid    INTEGER PRIMARY KEY,
	id     TEXT NOT NULL UNIQUE,
	server INTEGER NOT NULL
) STRICT;
CREATE INDEX usr_server ON usr (server);

CREATE TABLE etype (
	nid  INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
) STRICT;

-- A state key together with its event type: what a state map is keyed by.
CREATE TABLE skey (
	nid  INTEGER PRIMARY KEY,
	type INTEGER NOT NULL,
	key  TEXT NOT NULL,
	UNIQUE (type, key)
) STRICT;
