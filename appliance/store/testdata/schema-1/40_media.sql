-- SPDX-License-Identifier: EUPL-1.2

-- Files that media ids point to. The bytes lie in DIR/media under the hash; they are on disk before the row is.
CREATE TABLE media_file (
    hash BLOB NOT NULL PRIMARY KEY,     -- SHA-256 of the content
    size INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What mxc://server/id means here. hash is NULL while an id is announced but its file has not come.
CREATE TABLE media (
    server   TEXT NOT NULL,
    id       TEXT NOT NULL,
    hash     BLOB REFERENCES media_file (hash),
    type     TEXT NOT NULL,             -- content type as the uploader named it
    name     TEXT NOT NULL,             -- file name as the uploader named it, may be empty
    uploader TEXT NOT NULL,             -- user id; empty for media of other servers
    created  INTEGER NOT NULL,          -- ms
    used     INTEGER NOT NULL,          -- ms, day-grained; the least used copies of others' media go first
    PRIMARY KEY (server, id)
) STRICT, WITHOUT ROWID;

CREATE INDEX media_by_hash ON media (hash);
CREATE INDEX media_by_use ON media (used) WHERE uploader = '';
CREATE INDEX media_pending ON media (uploader) WHERE hash IS NULL;
