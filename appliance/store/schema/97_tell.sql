-- SPDX-License-Identifier: EUPL-1.2
-- What people of this box are to be told after a partition, and have not been told yet.

-- Rooms in which branches met whose states differ. since: the stream position at which they did; what has less was here before. ours: the state in force until then.
-- theirs: the event by which the other branch came.
CREATE TABLE conflict (
	room   INTEGER PRIMARY KEY,
	since  INTEGER NOT NULL,
	ours   INTEGER NOT NULL,
	theirs INTEGER NOT NULL
) STRICT;

-- Events of others that the current state refuses: how many there were since what was told last, and when that was (ms).
CREATE TABLE conflict_unshown (
	room INTEGER NOT NULL,
	usr  INTEGER NOT NULL,
	n    INTEGER NOT NULL,
	told INTEGER NOT NULL,
	PRIMARY KEY (room, usr)
) STRICT, WITHOUT ROWID;

-- Users who are to be brought into the room that replaces another. via: servers, JSON. tries, at: of the last try, ms.
CREATE TABLE conflict_follow (
	room  TEXT NOT NULL,
	user  TEXT NOT NULL,
	next  TEXT NOT NULL,
	by    TEXT NOT NULL,
	via   TEXT NOT NULL,
	tries INTEGER NOT NULL,
	at    INTEGER NOT NULL,
	PRIMARY KEY (room, user)
) STRICT, WITHOUT ROWID;

-- What was found, for whoever runs the box: counts only.
CREATE TABLE conflict_count (
	what TEXT PRIMARY KEY NOT NULL,
	n    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Texts to users that are not in their room yet. A number is never given twice: it is what makes a repetition no second message.
CREATE TABLE letter (
	n    INTEGER PRIMARY KEY AUTOINCREMENT,
	user TEXT NOT NULL,
	body BLOB NOT NULL
) STRICT;

-- Servers that refuse to say whether they have our events of a room: the stream positions of the first and the last event since that was told; 0: none. told: when it was, ms.
CREATE TABLE conflict_barred (
	room   INTEGER NOT NULL,
	server TEXT NOT NULL,
	first  INTEGER NOT NULL,
	last   INTEGER NOT NULL,
	told   INTEGER NOT NULL,
	PRIMARY KEY (room, server)
) STRICT, WITHOUT ROWID;
