-- SPDX-License-Identifier: EUPL-1.2
-- The hub's spool in PostgreSQL, in a schema of its own (hallig_hub). Times are microseconds since 1970, 0: none.
-- Counters in tally start at spool.floor and never go back. Whoever changes something of a box locks its row of tally first: so places are given out in the order of the commits.

CREATE TABLE spool (
	one     bigint PRIMARY KEY CHECK (one = 1),
	epoch   text NOT NULL,   -- another one after a loss or a restore
	floor   bigint NOT NULL, -- what a new box's counters start at: beyond those of every box that was removed
	version bigint NOT NULL  -- of this schema
);

CREATE TABLE box (
	n         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	server    text COLLATE "C" NOT NULL UNIQUE,
	id        text COLLATE "C" NOT NULL UNIQUE,
	statement bytea NOT NULL,
	mode      text NOT NULL,
	revoked   text NOT NULL,
	added     bigint NOT NULL
);

-- What a box said of itself when it was last here. Written lazily.
CREATE TABLE contact (
	box     bigint PRIMARY KEY,
	seen    bigint NOT NULL,
	way     text NOT NULL,
	version text NOT NULL,
	health  bytea
);

-- What changes often: how much waits for a box, the last numbers given out, who holds it.
CREATE TABLE tally (
	box     bigint PRIMARY KEY,
	count   bigint NOT NULL,
	bytes   bigint NOT NULL,
	place   bigint NOT NULL,  -- of requests
	taken   bigint NOT NULL,  -- place of one-time keys given away
	token   bigint NOT NULL,  -- of leases
	node    text,             -- NULL: nobody ever held it
	held    boolean NOT NULL, -- false: released
	changes bigint NOT NULL   -- grows with each change that other nodes want to hear of
) WITH (fillfactor = 40);     -- rows change in place

-- A node is there until its time is over, and with it every lease that it holds.
CREATE TABLE node (
	name  text COLLATE "C" PRIMARY KEY,
	until bigint NOT NULL
) WITH (fillfactor = 40);

CREATE TABLE queue (
	n       bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	box     bigint NOT NULL,
	inward  boolean NOT NULL,
	other   text COLLATE "C" NOT NULL,
	settled bigint NOT NULL, -- everything up to this place was settled
	count   bigint NOT NULL,
	bytes   bigint NOT NULL,
	last    bigint NOT NULL, -- when something came or was settled
	UNIQUE (box, inward, other)
) WITH (fillfactor = 60);

-- A settled request keeps its row, emptied, for as long as its key is remembered. hash is of the key: far servers choose how long a key is. What comes from outside need not be text.
CREATE TABLE request (
	queue    bigint NOT NULL,
	seq      bigint NOT NULL,
	settled  bigint NOT NULL, -- when; 0: it waits
	received bigint NOT NULL,
	size     bigint NOT NULL,
	hash     bytea NOT NULL,
	key      bytea NOT NULL,
	method   bytea NOT NULL,
	uri      bytea NOT NULL,
	auth     bytea NOT NULL,
	body     bytea,
	PRIMARY KEY (queue, seq)
);
CREATE UNIQUE INDEX request_hash ON request (queue, hash);

CREATE TABLE deposit (
	box   bigint NOT NULL,
	kind  text COLLATE "C" NOT NULL,
	key   text COLLATE "C" NOT NULL,
	value bytea NOT NULL,
	PRIMARY KEY (box, kind, key)
);

-- One-time keys in the order in which they came. What was given away stays known, without the key.
CREATE TABLE onetime (
	n         bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
	box       bigint NOT NULL,
	usr       text COLLATE "C" NOT NULL,
	device    text COLLATE "C" NOT NULL,
	algorithm text COLLATE "C" NOT NULL,
	id        text COLLATE "C" NOT NULL,
	value     bytea,
	taken     bigint, -- place; NULL: it is here
	UNIQUE (box, usr, device, id)
);
CREATE INDEX onetime_here ON onetime (box, usr, device, algorithm, n) WHERE taken IS NULL;
CREATE INDEX onetime_taken ON onetime (box, taken) WHERE taken IS NOT NULL;
