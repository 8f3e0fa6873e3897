-- SPDX-License-Identifier: EUPL-1.2

-- Rooms that were joined before all their members were known. event: our join; via: the server that was
-- joined through; pos: where the join stands in the stream; whole: where the rest of the state came, 0 while it is lacking. The row stays: a client whose token
-- is older than whole has yet to be shown the room.
CREATE TABLE partial (
	room  INTEGER PRIMARY KEY,
	event INTEGER NOT NULL,
	via   TEXT NOT NULL,
	pos   INTEGER NOT NULL,
	whole INTEGER NOT NULL
) STRICT;

-- The servers that are said to be in such a room while its members are lacking.
CREATE TABLE partial_server (
	room   INTEGER NOT NULL,
	server INTEGER NOT NULL,
	PRIMARY KEY (room, server)
) STRICT, WITHOUT ROWID;
CREATE INDEX partial_server_server ON partial_server (server);
