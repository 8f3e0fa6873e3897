-- SPDX-License-Identifier: EUPL-1.2
-- What is on its way to other servers.

-- A transaction under way to a server, as it was sent first. What it brings is appended there (to-device), so a repetition must be the same one, after a restart as well.
CREATE TABLE fed_out (
	dest   TEXT PRIMARY KEY NOT NULL,
	id     TEXT NOT NULL,
	edu_to INTEGER NOT NULL,      -- it brings the EDUs up to this one
	body   BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- EDUs that a server refuses although it takes others; kept for the operator, and offered once more when the link comes up.
CREATE TABLE edu_parked (
	dest   TEXT NOT NULL,
	seq    INTEGER NOT NULL,
	kind   TEXT NOT NULL,
	body   BLOB NOT NULL,
	reason TEXT NOT NULL,
	PRIMARY KEY (dest, seq)
) STRICT, WITHOUT ROWID;
