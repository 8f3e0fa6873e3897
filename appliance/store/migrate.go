// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"fmt"
	"path/filepath"

	"hallig/appliance/wayback"
)

// migrations[i] brings schema i+1 to i+2. What a released program may have applied is never changed.
var migrations = [schemaVersion - 1]string{
	`-- 2: event.json may be compact (package compact). Rows stay as they are; an older program must not read new ones.`,
	`-- 3: what is undecided in rooms' graphs. All that is staged is to be tried.
CREATE TABLE auth_wait (
	room    INTEGER NOT NULL,
	id      BLOB NOT NULL,
	child   INTEGER NOT NULL,
	history INTEGER NOT NULL,
	PRIMARY KEY (room, id, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX auth_wait_child ON auth_wait (child);
CREATE TABLE unsure (
	n     INTEGER PRIMARY KEY,
	room  INTEGER NOT NULL,
	event INTEGER NOT NULL UNIQUE,
	given INTEGER NOT NULL
) STRICT;
CREATE INDEX unsure_room ON unsure (room);
CREATE TABLE fed_todo (
	room TEXT NOT NULL,
	n    INTEGER NOT NULL,
	PRIMARY KEY (room, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE fed_lack (
	room  TEXT NOT NULL,
	id    TEXT NOT NULL,
	child INTEGER NOT NULL,
	kind  INTEGER NOT NULL,
	PRIMARY KEY (room, id, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX fed_lack_child ON fed_lack (child);
CREATE INDEX fed_in_origin ON fed_in (origin);
INSERT INTO fed_todo (room, n) SELECT room, n FROM fed_in;`,
	`-- 4: what is on its way to other servers.
CREATE TABLE fed_out (
	dest   TEXT PRIMARY KEY NOT NULL,
	id     TEXT NOT NULL,
	edu_to INTEGER NOT NULL,
	body   BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE edu_parked (
	dest   TEXT NOT NULL,
	seq    INTEGER NOT NULL,
	kind   TEXT NOT NULL,
	body   BLOB NOT NULL,
	reason TEXT NOT NULL,
	PRIMARY KEY (dest, seq)
) STRICT, WITHOUT ROWID;`,
	`-- 5: where a paired box was reached last.
CREATE TABLE peer_address (
	box     INTEGER PRIMARY KEY REFERENCES box (n),
	address TEXT NOT NULL
) STRICT;`,
	`-- 6: events that may have a lower number than their ancestors.
CREATE TABLE early (
	event INTEGER PRIMARY KEY,
	room  INTEGER NOT NULL
) STRICT;
CREATE INDEX early_room ON early (room);`,
	`-- 7: rooms that were joined before all their members were known.
CREATE TABLE partial (
	room  INTEGER PRIMARY KEY,
	event INTEGER NOT NULL,
	via   TEXT NOT NULL,
	pos   INTEGER NOT NULL,
	whole INTEGER NOT NULL
) STRICT;
CREATE TABLE partial_server (
	room   INTEGER NOT NULL,
	server INTEGER NOT NULL,
	PRIMARY KEY (room, server)
) STRICT, WITHOUT ROWID;
CREATE INDEX partial_server_server ON partial_server (server);`,
	`-- 8: invites to users of servers that were out of reach.
CREATE TABLE invite_wait (
	room    TEXT NOT NULL,
	user    TEXT NOT NULL,
	sender  TEXT NOT NULL,
	content BLOB NOT NULL,
	since   INTEGER NOT NULL,
	PRIMARY KEY (room, user)
) STRICT, WITHOUT ROWID;`,
	`-- 9: parcels that are carried for other boxes.
CREATE TABLE custody (
	n        INTEGER PRIMARY KEY AUTOINCREMENT,
	dest     BLOB NOT NULL,
	source   BLOB NOT NULL,
	epoch    INTEGER NOT NULL,
	seq      INTEGER NOT NULL,
	giver    BLOB NOT NULL,
	priority INTEGER NOT NULL,
	hops     INTEGER NOT NULL,
	until    INTEGER NOT NULL,
	at       INTEGER NOT NULL,
	body     BLOB NOT NULL,
	mark     INTEGER NOT NULL UNIQUE
) STRICT;
CREATE INDEX custody_name ON custody (dest, source, epoch, seq);
CREATE INDEX custody_dest ON custody (dest, priority, n);
CREATE TABLE custody_given (
	n   INTEGER NOT NULL,
	box BLOB NOT NULL,
	PRIMARY KEY (n, box)
) STRICT, WITHOUT ROWID;
CREATE TABLE custody_mark (
	mark  INTEGER PRIMARY KEY,
	giver INTEGER NOT NULL,
	until INTEGER NOT NULL,
	hops  INTEGER NOT NULL,
	at    INTEGER NOT NULL
) STRICT;
CREATE INDEX custody_mark_giver ON custody_mark (giver, at);
CREATE TABLE custody_read (
	source BLOB NOT NULL,
	epoch  INTEGER NOT NULL,
	at     INTEGER NOT NULL,
	spans  BLOB NOT NULL,
	PRIMARY KEY (source, epoch)
) STRICT, WITHOUT ROWID;
CREATE TABLE custody_run (
	one     INTEGER PRIMARY KEY CHECK (one = 1),
	seconds INTEGER NOT NULL
) STRICT;`,
	`-- 10: sticks.
CREATE TABLE courier_self (
	one    INTEGER PRIMARY KEY CHECK (one = 1),
	serial INTEGER NOT NULL
) STRICT;
CREATE TABLE courier_far (
	box    INTEGER PRIMARY KEY REFERENCES box (n),
	epoch  INTEGER NOT NULL,
	serial INTEGER NOT NULL,
	left   BLOB NOT NULL
) STRICT;
CREATE TABLE courier_taken (
	hash BLOB PRIMARY KEY NOT NULL,
	box  INTEGER NOT NULL,
	n    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX courier_taken_n ON courier_taken (n);`,
	`-- 11: how far events have got.
CREATE TABLE shown (
	user TEXT PRIMARY KEY NOT NULL,
	pos  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE reached (
	log  INTEGER NOT NULL,
	who  TEXT NOT NULL,
	upto INTEGER NOT NULL,
	at   INTEGER NOT NULL,
	PRIMARY KEY (log, who)
) STRICT, WITHOUT ROWID;
CREATE TABLE left_by (
	box   INTEGER NOT NULL,
	log   INTEGER NOT NULL,
	last  INTEGER NOT NULL,
	first INTEGER NOT NULL,
	way   TEXT NOT NULL,
	at    INTEGER NOT NULL,
	PRIMARY KEY (box, log, last)
) STRICT, WITHOUT ROWID;`,
	`-- 12: texts ahead of their signature.
CREATE TABLE notice (
	log     INTEGER NOT NULL REFERENCES log (n),
	seq     INTEGER NOT NULL,
	sender  TEXT NOT NULL,
	ts      INTEGER NOT NULL,
	content BLOB NOT NULL,
	since   INTEGER NOT NULL,
	expired INTEGER NOT NULL DEFAULT 0,
	PRIMARY KEY (log, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE notice_change (
	room INTEGER PRIMARY KEY,
	pos  INTEGER NOT NULL
) STRICT;`,
	`-- 13: what people are to be told after a partition.
CREATE TABLE conflict (
	room   INTEGER PRIMARY KEY,
	since  INTEGER NOT NULL,
	ours   INTEGER NOT NULL,
	theirs INTEGER NOT NULL
) STRICT;
CREATE TABLE conflict_unshown (
	room INTEGER NOT NULL,
	usr  INTEGER NOT NULL,
	n    INTEGER NOT NULL,
	told INTEGER NOT NULL,
	PRIMARY KEY (room, usr)
) STRICT, WITHOUT ROWID;
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
CREATE TABLE conflict_count (
	what TEXT PRIMARY KEY NOT NULL,
	n    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE letter (
	n    INTEGER PRIMARY KEY AUTOINCREMENT,
	user TEXT NOT NULL,
	body BLOB NOT NULL
) STRICT;`,
	`-- 14: claims to have more of this box's logs than it wrote.
CREATE TABLE exchange_claim (
	one      INTEGER PRIMARY KEY CHECK (one = 1),
	unproven INTEGER NOT NULL
) STRICT;`,
	`-- 15: who says how far others have got, and since when. What is known without that goes; the others tell it again.
CREATE TABLE word (
	log  INTEGER NOT NULL,
	who  TEXT NOT NULL,
	by   TEXT NOT NULL,
	upto INTEGER NOT NULL,
	at   INTEGER NOT NULL,
	PRIMARY KEY (log, who, by, upto)
) STRICT, WITHOUT ROWID;
DROP TABLE reached;`,
	`-- 16: servers that refuse to say whether they have our events.
CREATE TABLE conflict_barred (
	room   INTEGER NOT NULL,
	server TEXT NOT NULL,
	first  INTEGER NOT NULL,
	last   INTEGER NOT NULL,
	told   INTEGER NOT NULL,
	PRIMARY KEY (room, server)
) STRICT, WITHOUT ROWID;`,
	`-- 17: transactions that were left with a hub.
CREATE TABLE fed_letter (
	n      INTEGER PRIMARY KEY AUTOINCREMENT,
	dest   TEXT NOT NULL,
	series TEXT NOT NULL,
	place  INTEGER NOT NULL,
	epoch  TEXT NOT NULL,
	key    TEXT NOT NULL,
	txn    TEXT NOT NULL,
	edu_to INTEGER NOT NULL,
	events BLOB NOT NULL,
	body   BLOB
) STRICT;
CREATE INDEX fed_letter_dest ON fed_letter (dest);`,
	`-- 18: sticks to and from a hub.
CREATE TABLE fed_bag (
	dest TEXT NOT NULL,
	txn  TEXT NOT NULL,
	raw  BLOB NOT NULL,
	UNIQUE (dest, txn)
) STRICT;
CREATE TABLE hub_stick (
	one   INTEGER PRIMARY KEY CHECK (one = 1),
	state BLOB NOT NULL
) STRICT;`,
}

// SchemaVersion is the schema that this program keeps: user_version of the file.
const SchemaVersion = schemaVersion

// version is the schema that this program keeps.
func (db *DB) version() int64 { return schemaVersion + int64(len(db.opt.newer)) }

// migrate brings an older schema to ours in one transaction, after the database was copied: the copy is the way back to the older program.
func (db *DB) migrate(from int64) error {
	if from < 1 {
		return fmt.Errorf("no migration from schema %d", from)
	}
	if err := db.copyBefore(from); err != nil {
		return err
	}
	if err := db.w.script("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	steps := append(migrations[:len(migrations):len(migrations)], db.opt.newer...)
	for i, step := range steps[from-1:] {
		if err := db.w.script(step); err != nil {
			return errors.Join(fmt.Errorf("bring schema %d to %d: %w", int(from)+i, int(from)+i+1, err), db.w.script("ROLLBACK"))
		}
	}
	if err := db.w.script(fmt.Sprintf(`PRAGMA user_version=%d; COMMIT`, db.version())); err != nil {
		return err
	}
	db.log.Info("database brought to a newer schema; the one before is kept beside it", "from", from, "to", db.version())
	return nil
}

// copyBefore makes the copy. On trial it leaves the note that lets the older program put it back by itself.
func (db *DB) copyBefore(schema int64) error {
	if err := db.w.script(`PRAGMA wal_checkpoint(TRUNCATE)`); err != nil {
		return err
	}
	free, err := db.opt.Free(filepath.Dir(db.path))
	if err != nil {
		return err
	}
	// db.lock is open on the file already: to close another descriptor would drop SQLite's own locks
	if err := wayback.Make(db.lock, db.path, schema, free-max(db.opt.Reserve, 0)); err != nil {
		return err
	}
	if !db.opt.Trial {
		return nil
	}
	return wayback.Leave(db.path, wayback.Note{Act: wayback.Trial, Schema: schema})
}

// errNewer says that the file's schema is newer than the program's, and that the copy may be put back.
var errNewer = errors.New("newer schema with a way back")

// newer decides what becomes of a database that a newer program has changed.
func (db *DB) newer(schema int64) error {
	if n := db.note; n.Act != "" && n.Schema <= db.version() {
		return errNewer
	}
	text := "start the newer program again, or restore the backup made before the update"
	if c, ok, err := wayback.For(db.path, db.version()); err == nil && ok {
		text = fmt.Sprintf("start the newer program again, or go back to the copy that was made before the update, of %s, without what came since: hallig update back --data %s",
			c.Made.Local().Format("2006-01-02 15:04"), filepath.Dir(db.path))
	}
	return fmt.Errorf("schema %d is newer than this program's %d: %s", schema, db.version(), text)
}

// putBack puts the copy in the database's place. The write connection is closed for it.
func (db *DB) putBack() error {
	err := db.w.script(`PRAGMA wal_checkpoint(TRUNCATE)`)
	err = errors.Join(err, db.w.close())
	db.w = nil
	if err != nil {
		return err
	}
	if err := wayback.Put(db.path, db.note); err != nil {
		return err
	}
	if db.note.Act == wayback.Trial {
		db.log.Warn("an update did not come through its trial: the database is again what it was before; nothing was lost")
	} else {
		db.log.Warn("gone back to the database from before an update; what came since was set aside", "file", db.path+".after-*")
	}
	return nil
}

// settleNote looks at a note once the database can be read as it is.
func (db *DB) settleNote() error {
	switch n := db.note; {
	case n.Act == "":
	case n.Act == wayback.Back && n.Restored:
		db.restored = true
	case n.Act == wayback.Trial && db.opt.Trial: // this very trial was started before
	default: // the firmware boots this program, so its trial was confirmed; or nobody needs to go back any more
		return wayback.Settle(db.path)
	}
	return nil
}

// Restored says that this database is a copy that somebody went back to on purpose: numbers that others already know must not be given out again. It stays true, over
// restarts, until Settle.
func (db *DB) Restored() bool { return db.restored }

// Settle ends what Restored says.
func (db *DB) Settle() error { return wayback.Settle(db.path) }

// Confirm ends a trial: from now on no older program puts its copy back by itself. What is kept of copies is what leads back from this trial.
func (db *DB) Confirm() error {
	n, err := wayback.ReadNote(db.path)
	if err != nil {
		return err
	}
	if err := wayback.Settle(db.path); err != nil {
		return err
	}
	return wayback.Forget(db.path, n.Schema)
}
