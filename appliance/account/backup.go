// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// BackupVersion describes one version of a user's key backup.
type BackupVersion struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	ETag      string          `json:"etag"`
	Version   string          `json:"version"`
}

func noBackup() error { return notFound("there is no such backup version") }

// parseVersion reads a version's name; "" is 0, the latest.
func parseVersion(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 1 {
		return 0, noBackup()
	}
	return n, nil
}

// CreateBackup starts a new version.
func (a *Accounts) CreateBackup(ctx context.Context, user event.UserID, algorithm string, authData json.RawMessage) (string, error) {
	if algorithm == "" {
		return "", refuse(400, "M_MISSING_PARAM", "the backup's algorithm is missing")
	}
	if err := object(authData); err != nil {
		return "", err
	}
	var n int64
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		n, err = tx.PutBackup(user, algorithm, authData)
		return err
	})
	return strconv.FormatInt(n, 10), err
}

// Backup describes a version, the latest when it is ""; M_NOT_FOUND.
func (a *Accounts) Backup(ctx context.Context, user event.UserID, version string) (BackupVersion, error) {
	n, err := parseVersion(version)
	if err != nil {
		return BackupVersion{}, err
	}
	var row *store.BackupRow
	err = a.db.View(ctx, func(r *store.Read) error {
		row, err = r.Backup(user, n)
		return err
	})
	if err != nil {
		return BackupVersion{}, err
	}
	if row == nil {
		return BackupVersion{}, noBackup()
	}
	return BackupVersion{Algorithm: row.Algorithm, AuthData: row.AuthData, Count: row.Count,
		ETag: strconv.FormatInt(row.ETag, 10), Version: strconv.FormatInt(row.Version, 10)}, nil
}

// existing gives a version for writing; only the latest may be written to when current is set.
func existing(tx *store.Tx, user event.UserID, version string, current bool) (*store.BackupRow, error) {
	n, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	row, err := tx.Backup(user, n)
	if err != nil {
		return nil, err
	}
	if row == nil {
		return nil, noBackup()
	}
	if current {
		latest, err := tx.Backup(user, 0)
		if err != nil {
			return nil, err
		}
		if latest.Version != row.Version {
			return nil, WrongBackupVersion{Current: strconv.FormatInt(latest.Version, 10)}
		}
	}
	return row, nil
}

// WrongBackupVersion is M_WRONG_ROOM_KEYS_VERSION: keys go into the latest version only. The answer names it.
type WrongBackupVersion struct{ Current string }

func (w WrongBackupVersion) Error() string {
	return "keys can be added to the latest backup version only"
}

// UpdateBackup replaces a version's auth data; the algorithm stays.
func (a *Accounts) UpdateBackup(ctx context.Context, user event.UserID, version, algorithm string, authData json.RawMessage) error {
	if err := object(authData); err != nil {
		return err
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := existing(tx, user, version, false)
		if err != nil {
			return err
		}
		if row.Algorithm != algorithm {
			return refuse(400, "M_INVALID_PARAM", "the algorithm of a backup does not change")
		}
		return tx.SetBackupAuth(user, row.Version, authData)
	})
}

// DeleteBackup removes a version with its keys.
func (a *Accounts) DeleteBackup(ctx context.Context, user event.UserID, version string) error {
	return a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := existing(tx, user, version, false)
		if err != nil {
			return err
		}
		return tx.DeleteBackup(user, row.Version)
	})
}

type backedUpKey struct {
	FirstIndex int64 `json:"first_message_index"`
	Forwarded  int64 `json:"forwarded_count"`
	Verified   bool  `json:"is_verified"`
}

// better is the order in which a key replaces another of the same session:
// https://spec.matrix.org/latest/client-server-api/#backup-algorithm-mmegolm_backupv1curve25519-aes-sha2
func (k backedUpKey) better(o backedUpKey) bool {
	if k.Verified != o.Verified {
		return k.Verified
	}
	if k.FirstIndex != o.FirstIndex {
		return k.FirstIndex < o.FirstIndex
	}
	return k.Forwarded < o.Forwarded
}

// PutBackupKeys adds keys to the latest version; a key takes the place of a worse one only.
func (a *Accounts) PutBackupKeys(ctx context.Context, user event.UserID, version string, keys map[event.RoomID]map[string]json.RawMessage) (string, int64, error) {
	var after *store.BackupRow
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := existing(tx, user, version, true)
		if err != nil {
			return err
		}
		changed := false
		for id, sessions := range keys {
			for session, body := range sessions {
				put, err := putBackupKey(tx, user, row.Version, id, session, body)
				if err != nil {
					return err
				}
				changed = changed || put
			}
		}
		if changed {
			if err := tx.BumpBackup(user, row.Version); err != nil {
				return err
			}
		}
		after, err = tx.Backup(user, row.Version)
		return err
	})
	if err != nil {
		return "", 0, err
	}
	return strconv.FormatInt(after.ETag, 10), after.Count, nil
}

func putBackupKey(tx *store.Tx, user event.UserID, version int64, id event.RoomID, session string, body json.RawMessage) (bool, error) {
	var is, was backedUpKey
	if err := json.Unmarshal(body, &is); err != nil {
		return false, badJSON("a key of the backup is not as it should be")
	}
	old, err := tx.BackupKeys(user, version, id, session)
	if err != nil {
		return false, err
	}
	if raw := old[id][session]; raw != nil {
		if err := json.Unmarshal(raw, &was); err != nil {
			return false, err
		}
		if !is.better(was) {
			return false, nil
		}
	}
	return true, tx.PutBackupKey(user, version, id, session, body)
}

// BackupKeys gives keys of a version by room and session; "" means all.
func (a *Accounts) BackupKeys(ctx context.Context, user event.UserID, version string, id event.RoomID, session string) (map[event.RoomID]map[string]json.RawMessage, error) {
	n, err := parseVersion(version)
	if err != nil {
		return nil, err
	}
	var out map[event.RoomID]map[string]json.RawMessage
	err = a.db.View(ctx, func(r *store.Read) error {
		row, err := r.Backup(user, n)
		if err != nil {
			return err
		}
		if row == nil {
			return noBackup()
		}
		out, err = r.BackupKeys(user, row.Version, id, session)
		return err
	})
	return out, err
}

// DeleteBackupKeys removes keys of a version; "" means all.
func (a *Accounts) DeleteBackupKeys(ctx context.Context, user event.UserID, version string, id event.RoomID, session string) (string, int64, error) {
	var after *store.BackupRow
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := existing(tx, user, version, false)
		if err != nil {
			return err
		}
		if err := tx.DeleteBackupKeys(user, row.Version, id, session); err != nil {
			return err
		}
		if err := tx.BumpBackup(user, row.Version); err != nil {
			return err
		}
		after, err = tx.Backup(user, row.Version)
		return err
	})
	if err != nil {
		return "", 0, err
	}
	return strconv.FormatInt(after.ETag, 10), after.Count, nil
}
