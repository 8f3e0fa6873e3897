-- SPDX-License-Identifier: EUPL-1.2

-- Invites to users of servers that were out of reach: the wish of a user, not an event yet, for an invite holds only when the other server has signed it too.
-- content: of the member event, JSON; since: when it was first asked for, ms.
CREATE TABLE invite_wait (
	room    TEXT NOT NULL,
	user    TEXT NOT NULL,
	sender  TEXT NOT NULL,
	content BLOB NOT NULL,
	since   INTEGER NOT NULL,
	PRIMARY KEY (room, user)
) STRICT, WITHOUT ROWID;
