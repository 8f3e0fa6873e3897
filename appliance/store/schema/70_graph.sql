-- SPDX-License-Identifier: EUPL-1.2
-- What is undecided in rooms' graphs, and what the intake of other servers' events has yet to do.

-- Events that are rejected only because an authorising event (id) is missing, or is rejected for that reason itself: child is looked at again when it comes.
-- history: child was fetched as history, not as news.
CREATE TABLE auth_wait (
	room    INTEGER NOT NULL,
	id      BLOB NOT NULL,
	child   INTEGER NOT NULL,
	history INTEGER NOT NULL,
	PRIMARY KEY (room, id, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX auth_wait_child ON auth_wait (child);

-- Placed events whose verdict, or the state before which, may change when such an event is looked at again: the event itself and what descends from it,
-- ancestors first. given: 1 the state before it was told by somebody and is not made of its prev events, 2 an accepted event named it before it came.
CREATE TABLE unsure (
	n     INTEGER PRIMARY KEY,
	room  INTEGER NOT NULL,
	event INTEGER NOT NULL UNIQUE,
	given INTEGER NOT NULL
) STRICT;
CREATE INDEX unsure_room ON unsure (room);

-- Placed events that may have a lower number than their ancestors: the state before them was told, for want of ancestors, or they were known by name first.
CREATE TABLE early (
	event INTEGER PRIMARY KEY,
	room  INTEGER NOT NULL
) STRICT;
CREATE INDEX early_room ON early (room);

-- Staged events (fed_in) that are to be tried; those without a row wait for others.
CREATE TABLE fed_todo (
	room TEXT NOT NULL,
	n    INTEGER NOT NULL,
	PRIMARY KEY (room, n)
) STRICT, WITHOUT ROWID;

-- What staged events were found to lack when they were tried. kind: 0 a prev event, 1 an authorising event, 2 a key (id is empty).
CREATE TABLE fed_lack (
	room  TEXT NOT NULL,
	id    TEXT NOT NULL,
	child INTEGER NOT NULL,
	kind  INTEGER NOT NULL,
	PRIMARY KEY (room, id, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX fed_lack_child ON fed_lack (child);
CREATE INDEX fed_in_origin ON fed_in (origin);
