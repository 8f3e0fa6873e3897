// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
)

// custodyThen is step 9 as it was before the first release, in place of what it makes now.
const custodyThen = `DROP TABLE custody; DROP TABLE custody_given; DROP TABLE custody_mark; DROP TABLE custody_read; DROP TABLE custody_run;
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
	UNIQUE (dest, source, epoch, seq)
) STRICT;
CREATE INDEX custody_dest ON custody (dest, priority, n);
CREATE TABLE custody_given (n INTEGER NOT NULL, box BLOB NOT NULL, PRIMARY KEY (n, box)) STRICT, WITHOUT ROWID;
CREATE TABLE custody_met (dest BLOB NOT NULL, source BLOB NOT NULL, epoch INTEGER NOT NULL, giver BLOB NOT NULL, at INTEGER NOT NULL, spans BLOB NOT NULL,
	PRIMARY KEY (dest, source, epoch)) STRICT, WITHOUT ROWID;
CREATE TABLE custody_run (one INTEGER PRIMARY KEY CHECK (one = 1), seconds INTEGER NOT NULL) STRICT;
INSERT INTO custody VALUES (7, x'01', x'02', 3, 4, x'05', 2, 1, 0, 9, x'0a'), (8, x'01', x'02', 3, 5, x'05', 2, 1, 0, 9, x'0b'), (40, x'01', x'02', 3, 6, x'05', 2, 1, 0, 9, x'0c');
DELETE FROM custody WHERE n = 40;
INSERT INTO custody_given VALUES (7, x'06');
INSERT INTO custody_met VALUES (x'01', x'02', 3, x'05', 9, x'0303');
INSERT INTO custody_run VALUES (1, 1234)`

// Boxes of before the first release have a step 9 of another form: they go on carrying what they carried.
func TestCustodyOfBefore(t *testing.T) {
	for _, schema := range []int{9, 12, schemaVersion} {
		t.Run(fmt.Sprint(schema), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "old.db")
			atSchema(t, path, schema)
			c, err := openConn("file:" + path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.script(custodyThen); err != nil {
				t.Fatal(err)
			}
			c.close()
			for turn := range 2 { // the second time there is nothing to be done
				db, err := Open(t.Context(), path, Options{})
				if err != nil {
					t.Fatal(err)
				}
				err = db.Do(t.Context(), func(tx *Tx) error {
					rows, err := tx.CarriedTo([]byte{1}, []byte{6}, 10)
					if err != nil || len(rows) != 1 || rows[0].N != 8 || !bytes.Equal(rows[0].Body, []byte{0x0b}) || rows[0].Until != 0 || rows[0].Hops != 1 {
						t.Errorf("not what was carried and not given to that box: %+v, %v", rows, err)
					}
					if s, err := tx.RunTime(); s != 1234 || err != nil {
						t.Errorf("run time %d, %v", s, err)
					}
					n, fresh, err := tx.Carry(Carried{Dest: []byte{9}, Source: []byte{2}, Epoch: 3, Seq: 4, Giver: []byte{5}, Body: []byte{1}, Mark: -77})
					if err == nil && (fresh != (turn == 0) || fresh && n != 41) {
						t.Errorf("a new one has number %d; fresh: %v", n, fresh)
					}
					if err != nil {
						return err
					}
					return tx.SetRead([]byte{2}, 3, 10, []byte{1, 1}, 64)
				})
				if err != nil {
					t.Error(err)
				}
				if err := db.Verify(t.Context()); err != nil {
					t.Error(err)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
