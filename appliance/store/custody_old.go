// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"fmt"
)

// Step 9 of the schema had another form before the first release. A database from then has its number and not its columns, so it is known by these.

const custodyStep = 9 - 2 // in migrations

// mendCustody brings the tables of carried parcels from their first form to the one that step 9 makes. No parcel is lost, and no number given twice. Marks are
// unknown: what comes again is carried once more, and read once.
func (db *DB) mendCustody() error {
	r := &Read{db: db, c: db.w}
	var one int64
	if old, err := r.one(`SELECT 1 FROM sqlite_schema WHERE type='table' AND name='custody_met'`, nil, &one); !old || err != nil {
		return err
	}
	err := db.w.script(`BEGIN IMMEDIATE;
DROP INDEX custody_dest;
ALTER TABLE custody RENAME TO custody_was;
ALTER TABLE custody_given RENAME TO custody_given_was;
ALTER TABLE custody_run RENAME TO custody_run_was;
` + migrations[custodyStep] + `
INSERT INTO custody (n, dest, source, epoch, seq, giver, priority, hops, until, at, body, mark)
	SELECT n, dest, source, epoch, seq, giver, priority, hops, until, at, body, n FROM custody_was;
INSERT INTO custody_given (n, box) SELECT n, box FROM custody_given_was;
INSERT INTO custody_run (one, seconds) SELECT one, seconds FROM custody_run_was;
DELETE FROM sqlite_sequence WHERE name='custody';
UPDATE sqlite_sequence SET name='custody' WHERE name='custody_was';
DROP TABLE custody_was;
DROP TABLE custody_given_was;
DROP TABLE custody_run_was;
DROP TABLE custody_met;
COMMIT`)
	if err != nil {
		return errors.Join(fmt.Errorf("bring the tables of carried parcels to their form of today: %w", err), db.w.script("ROLLBACK"))
	}
	db.log.Info("tables of carried parcels brought to their form of today")
	return nil
}
