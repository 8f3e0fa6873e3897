-- SPDX-License-Identifier: EUPL-1.2
-- What the Server-Server API keeps: keys of other servers, what came in and waits, and how far others have our events.

-- Verify keys of other servers. expired_at <> 0: retired (old_verify_keys), good for what is dated before.
-- source: tls, box:ID or root:ID. document: the signed key document, kept with current keys only.
CREATE TABLE server_key (
	server      TEXT NOT NULL,
	key_id      TEXT NOT NULL,
	key         BLOB NOT NULL,
	valid_until INTEGER NOT NULL,        -- ms, as the document says
	expired_at  INTEGER NOT NULL,
	learnt_at   INTEGER NOT NULL,        -- ms, of the last attestation
	source      TEXT NOT NULL,
	document    BLOB,
	PRIMARY KEY (server, key_id)
) STRICT, WITHOUT ROWID;

-- PDUs that were answered with 200 and wait for ancestors or keys. Nothing here is pruned.
-- origin: whom to ask. verified: signatures are checked.
CREATE TABLE fed_in (
	n        INTEGER PRIMARY KEY,
	room     TEXT NOT NULL,
	id       TEXT NOT NULL,
	origin   TEXT NOT NULL,
	verified INTEGER NOT NULL,
	json     BLOB NOT NULL,
	UNIQUE (room, id)
) STRICT;

-- Answers to transactions, so that a repeated one gets the same answer and no second effect.
CREATE TABLE fed_txn (
	n      INTEGER PRIMARY KEY,
	origin TEXT NOT NULL,
	txn    TEXT NOT NULL,
	answer BLOB NOT NULL,
	UNIQUE (origin, txn)
) STRICT;

-- Up to which stream position a server has confirmed our events of a room. No row: nothing was ever owed.
CREATE TABLE fed_cursor (
	dest TEXT NOT NULL,
	room TEXT NOT NULL,
	pos  INTEGER NOT NULL,
	PRIMARY KEY (dest, room)
) STRICT, WITHOUT ROWID;
CREATE INDEX fed_cursor_room ON fed_cursor (room);

-- Events of other servers' users that were made through us (send_join, send_leave, send_knock): we owe them to the rest of the room.
CREATE TABLE fed_owed (
	room INTEGER NOT NULL,
	id   BLOB NOT NULL,
	PRIMARY KEY (room, id)
) STRICT, WITHOUT ROWID;

-- Events that a server does not take although it was sent them again and again; kept for the operator, and sent once more when the link comes up.
CREATE TABLE fed_parked (
	dest   TEXT NOT NULL,
	id     TEXT NOT NULL,
	room   TEXT NOT NULL,
	reason TEXT NOT NULL,
	PRIMARY KEY (dest, id)
) STRICT, WITHOUT ROWID;
