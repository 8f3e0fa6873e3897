-- SPDX-License-Identifier: EUPL-1.2
-- Texts that came over a narrow link ahead of their signature: what clients are shown as not yet verified. No events: what is in the room's graph is never here.

-- log, seq: the place that the event will have; when that is filled the notice is gone.
-- expired: nothing came for so long that people are told so.
CREATE TABLE notice (
	log     INTEGER NOT NULL REFERENCES log (n),
	seq     INTEGER NOT NULL,
	sender  TEXT NOT NULL,
	ts      INTEGER NOT NULL,          -- ms, as the sender's box said
	content BLOB NOT NULL,             -- JSON
	since   INTEGER NOT NULL,          -- ms, when it came
	expired INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (log, seq)
) STRICT, WITHOUT ROWID;

-- The stream position at which the notices of a room changed last.
CREATE TABLE notice_change (
	room INTEGER PRIMARY KEY,
	pos  INTEGER NOT NULL
) STRICT;
