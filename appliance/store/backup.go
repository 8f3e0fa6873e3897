// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"context"
	"fmt"
	"os"
)

// Backup writes a consistent, compact copy of the database to a new file, while the box works. The copy opens like any database.
// What the copy's owner must know: after a restore a box has to begin a new epoch of its logs.
func (db *DB) Backup(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("back up database: %s exists already", path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) // an empty file is what VACUUM INTO accepts
	if err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	defer f.Close()
	c, err := openConn(db.dsn(false))
	if err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	defer c.close()
	if err := c.run(`VACUUM INTO ?`, []any{path}, nil); err != nil {
		os.Remove(path)
		return fmt.Errorf("back up database: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("back up database: %w", err)
	}
	return ctx.Err()
}
