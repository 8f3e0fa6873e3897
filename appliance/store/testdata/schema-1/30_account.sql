-- SPDX-License-Identifier: EUPL-1.2
-- Users of this box, their devices, keys and data. Positions (pos) are from the one stream that /sync follows.

CREATE TABLE account (
  user_id     TEXT PRIMARY KEY,
  password    TEXT,                        -- argon2id in PHC form; NULL: no password login
  admin       INTEGER NOT NULL DEFAULT 0,
  guest       INTEGER NOT NULL DEFAULT 0,
  deactivated INTEGER NOT NULL DEFAULT 0,
  created     INTEGER NOT NULL             -- ms, for people only
) STRICT, WITHOUT ROWID;

CREATE TABLE profile (
  user_id TEXT NOT NULL,
  field   TEXT NOT NULL,                   -- displayname, avatar_url, m.tz, ...
  value   BLOB NOT NULL,                   -- JSON
  PRIMARY KEY (user_id, field)
) STRICT, WITHOUT ROWID;

CREATE TABLE device (
  user_id   TEXT NOT NULL,
  device_id TEXT NOT NULL,
  name      TEXT NOT NULL DEFAULT '',
  created   INTEGER NOT NULL,
  seen      INTEGER NOT NULL DEFAULT 0,    -- ms, lazily written
  ip        TEXT NOT NULL DEFAULT '',
  keys      BLOB,                          -- device keys as uploaded, canonical JSON
  PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
  hash      BLOB PRIMARY KEY,              -- SHA-256; the token itself is never kept
  user_id   TEXT NOT NULL,
  device_id TEXT NOT NULL,
  refresh   INTEGER NOT NULL DEFAULT 0,    -- 1: a refresh token
  expires   INTEGER NOT NULL DEFAULT 0,    -- ms; 0: never
  FOREIGN KEY (user_id, device_id) REFERENCES device (user_id, device_id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX token_device ON token (user_id, device_id);

CREATE TABLE registration_token (
  token   TEXT PRIMARY KEY,
  uses    INTEGER NOT NULL DEFAULT 0,      -- allowed; 0: unlimited
  used    INTEGER NOT NULL DEFAULT 0,
  expires INTEGER NOT NULL DEFAULT 0,      -- ms; 0: never
  admin   INTEGER NOT NULL DEFAULT 0,      -- grants administration
  enrol   INTEGER NOT NULL DEFAULT 0       -- 1: the code of the first administrator
) STRICT, WITHOUT ROWID;

CREATE TABLE account_data (
  user_id TEXT NOT NULL,
  room_id TEXT NOT NULL,                   -- '': global
  type    TEXT NOT NULL,
  content BLOB NOT NULL,
  pos     INTEGER NOT NULL,
  PRIMARY KEY (user_id, room_id, type)
) STRICT, WITHOUT ROWID;
CREATE INDEX account_data_pos ON account_data (user_id, pos);

CREATE TABLE filter (
  user_id TEXT NOT NULL,
  n       INTEGER NOT NULL,
  body    BLOB NOT NULL,
  PRIMARY KEY (user_id, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE pusher (
  user_id   TEXT NOT NULL,
  app_id    TEXT NOT NULL,
  pushkey   TEXT NOT NULL,
  device_id TEXT NOT NULL,                 -- the device that set it; goes with it
  body      BLOB NOT NULL,
  PRIMARY KEY (user_id, app_id, pushkey)
) STRICT, WITHOUT ROWID;

-- One-time keys are given out in the order of their upload: seq.
CREATE TABLE one_time_key (
  user_id   TEXT NOT NULL,
  device_id TEXT NOT NULL,
  algorithm TEXT NOT NULL,
  seq       INTEGER NOT NULL,
  key_id    TEXT NOT NULL,                 -- "signed_curve25519:AAAA"
  body      BLOB NOT NULL,
  PRIMARY KEY (user_id, device_id, algorithm, seq),
  UNIQUE (user_id, device_id, key_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE fallback_key (
  user_id   TEXT NOT NULL,
  device_id TEXT NOT NULL,
  algorithm TEXT NOT NULL,
  key_id    TEXT NOT NULL,
  body      BLOB NOT NULL,
  used      INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (user_id, device_id, algorithm)
) STRICT, WITHOUT ROWID;

CREATE TABLE cross_signing_key (
  user_id TEXT NOT NULL,
  usage   TEXT NOT NULL,                   -- master, self_signing, user_signing
  body    BLOB NOT NULL,                   -- as uploaded
  PRIMARY KEY (user_id, usage)
) STRICT, WITHOUT ROWID;

-- Signatures that came by /keys/signatures/upload, added to the key when it is answered.
CREATE TABLE key_signature (
  target_user TEXT NOT NULL,
  target_key  TEXT NOT NULL,               -- device id or public cross-signing key
  signer      TEXT NOT NULL,
  key_id      TEXT NOT NULL,               -- "ed25519:..."
  signature   TEXT NOT NULL,
  PRIMARY KEY (target_user, target_key, signer, key_id)
) STRICT, WITHOUT ROWID;

-- Latest change of anybody's device list, local or remote.
CREATE TABLE device_list (
  user_id TEXT PRIMARY KEY,
  pos     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX device_list_pos ON device_list (pos);

-- What other servers were told last of a local user's devices: each update names its predecessor.
CREATE TABLE device_list_out (
  user_id   TEXT PRIMARY KEY,
  stream_id INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Remote users whose devices are kept here, and up to where.
CREATE TABLE remote_list (
  user_id   TEXT PRIMARY KEY,
  stream_id INTEGER NOT NULL,
  stale     INTEGER NOT NULL,              -- 1: a gap was seen, fetch again
  pos       INTEGER NOT NULL               -- when it was fetched: good while a room has been shared since then
) STRICT, WITHOUT ROWID;

CREATE TABLE remote_device (
  user_id   TEXT NOT NULL,
  device_id TEXT NOT NULL,
  name      TEXT NOT NULL DEFAULT '',
  keys      BLOB,
  PRIMARY KEY (user_id, device_id)
) STRICT, WITHOUT ROWID;

-- Mail between devices: kept until the device's next since shows that it has arrived.
CREATE TABLE to_device (
  user_id   TEXT NOT NULL,
  device_id TEXT NOT NULL,
  pos       INTEGER NOT NULL,
  body      BLOB NOT NULL,                 -- the event as /sync shows it
  PRIMARY KEY (user_id, device_id, pos)
) STRICT, WITHOUT ROWID;

-- What was taken already: from servers by message id, from own devices by transaction id (origin = user|device). The
-- newest of each origin are kept, by count and not by time: a clock may be wrong, and a repetition may be months late.
CREATE TABLE to_device_seen (
  origin     TEXT NOT NULL,
  message_id TEXT NOT NULL,
  n          INTEGER NOT NULL,             -- counts the origin's messages
  PRIMARY KEY (origin, message_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX to_device_seen_n ON to_device_seen (origin, n);

CREATE TABLE receipt (
  room_id  TEXT NOT NULL,
  type     TEXT NOT NULL,                  -- m.read, m.read.private
  user_id  TEXT NOT NULL,
  thread   TEXT NOT NULL,                  -- '': unthreaded
  event_id TEXT NOT NULL,
  ts       INTEGER NOT NULL,
  pos      INTEGER NOT NULL,
  PRIMARY KEY (room_id, type, user_id, thread)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_pos ON receipt (room_id, pos);

CREATE TABLE backup (
  user_id   TEXT NOT NULL,
  version   INTEGER NOT NULL,
  algorithm TEXT NOT NULL,
  auth_data BLOB NOT NULL,
  etag      INTEGER NOT NULL DEFAULT 0,
  deleted   INTEGER NOT NULL DEFAULT 0,    -- numbers are never given twice
  PRIMARY KEY (user_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE backup_key (
  user_id    TEXT NOT NULL,
  version    INTEGER NOT NULL,
  room_id    TEXT NOT NULL,
  session_id TEXT NOT NULL,
  body       BLOB NOT NULL,
  PRIMARY KEY (user_id, version, room_id, session_id)
) STRICT, WITHOUT ROWID;
