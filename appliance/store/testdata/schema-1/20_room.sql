-- SPDX-License-Identifier: EUPL-1.2
-- Rooms: events, the graph's ends, state, membership, aliases, the directory, transaction ids.

CREATE TABLE room (
	nid     INTEGER PRIMARY KEY,
	id      TEXT NOT NULL UNIQUE,
	version TEXT NOT NULL,
	-- Group of the current state; 0: we hold no state (only an invite, a knock, or we never were in).
	cur     INTEGER NOT NULL DEFAULT 0,
	-- Forward extremities, 8 bytes each; NULL: the one shown event with the greatest position, so that a plain message writes no row here.
	tips    BLOB
) STRICT;

-- One row per event, in order of arrival. before and after are state groups (0: unknown); after is kept for state events only.
-- pos: NULL not in the timeline (outlier, rejected, soft-failed); > 0 stream position; < 0 history that was fetched later, rising with depth.
CREATE TABLE event (
	nid      INTEGER PRIMARY KEY,
	id       BLOB NOT NULL,
	room     INTEGER NOT NULL,
	type     INTEGER NOT NULL,
	sender   INTEGER NOT NULL,
	skey     INTEGER,
	depth    INTEGER NOT NULL,
	ts       INTEGER NOT NULL,
	pos      INTEGER,
	before   INTEGER NOT NULL,
	after    INTEGER NOT NULL,
	flags    INTEGER NOT NULL,
	redacted INTEGER,
	txn      TEXT,
	reason   TEXT,
	json     BLOB NOT NULL
) STRICT;
-- Eight bytes of a hash find the row; the row holds the whole id. Half the bytes of a full index, and this is the index that every message dirties at random.
CREATE INDEX event_id ON event (substr(id, 1, 8));
CREATE INDEX event_room_pos ON event (room, pos) WHERE pos IS NOT NULL;

-- Prev events we lack, and the event that names them.
CREATE TABLE gap (
	room  INTEGER NOT NULL,
	id    BLOB NOT NULL,
	child INTEGER NOT NULL,
	PRIMARY KEY (room, id, child)
) STRICT, WITHOUT ROWID;

-- Redactions that came before the event they redact.
CREATE TABLE redaction_wait (
	target    BLOB NOT NULL,
	redaction INTEGER NOT NULL,
	PRIMARY KEY (target, redaction)
) STRICT, WITHOUT ROWID;

-- A state group is its parent with changes, or (parent 0) the whole map. body: pairs of uvarint (state key distance, event), event 0 removes.
CREATE TABLE sgroup (
	nid    INTEGER PRIMARY KEY,
	room   INTEGER NOT NULL,
	parent INTEGER NOT NULL,
	hops   INTEGER NOT NULL,
	body   BLOB NOT NULL
) STRICT;

-- How the current state changed: what /sync tells a client that was away.
CREATE TABLE state_log (
	room  INTEGER NOT NULL,
	pos   INTEGER NOT NULL,
	skey  INTEGER NOT NULL,
	event INTEGER NOT NULL,
	old   INTEGER NOT NULL,
	PRIMARY KEY (room, pos, skey)
) STRICT, WITHOUT ROWID;

-- membership: 1 invite, 2 join, 3 knock, 4 leave, 5 ban. pos: stream position of the last change.
CREATE TABLE member (
	room       INTEGER NOT NULL,
	usr        INTEGER NOT NULL,
	membership INTEGER NOT NULL,
	event      INTEGER NOT NULL,
	pos        INTEGER NOT NULL,
	forgotten  INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (room, usr)
) STRICT, WITHOUT ROWID;
CREATE INDEX member_usr ON member (usr, membership);

-- The stripped state that came with an invite or a knock to a room we may not know.
CREATE TABLE stripped (
	room INTEGER NOT NULL,
	usr  INTEGER NOT NULL,
	body BLOB NOT NULL,
	PRIMARY KEY (room, usr)
) STRICT, WITHOUT ROWID;

-- key: 12 bytes of the hash of device, path and transaction id.
CREATE TABLE txn (
	usr   INTEGER NOT NULL,
	key   BLOB NOT NULL,
	event INTEGER NOT NULL,
	PRIMARY KEY (usr, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE alias (
	alias   TEXT PRIMARY KEY NOT NULL,
	room    INTEGER NOT NULL,
	creator INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX alias_room ON alias (room);

CREATE TABLE published (
	room INTEGER PRIMARY KEY
) STRICT;
