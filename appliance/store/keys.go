// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"
	"strings"

	"hallig/appliance/event"
)

// OneTimeKey gives an unclaimed key by its name, nil when there is none.
func (r *Read) OneTimeKey(user event.UserID, device, id string) (json.RawMessage, error) {
	var out json.RawMessage
	_, err := r.one(`SELECT body FROM one_time_key WHERE user_id = ? AND device_id = ? AND key_id = ?`, args(user, device, id), &out)
	return out, err
}

// touchKeys says that the counts of a user's keys have changed. They have no rows with positions, so they take a place of their own: whoever has looked at the counts before that looks again.
func (tx *Tx) touchKeys(user event.UserID) {
	tx.NextPos()
	tx.TouchUser(user)
}

// PutOneTimeKey adds a key behind those that wait.
func (tx *Tx) PutOneTimeKey(user event.UserID, device, algorithm, id string, body json.RawMessage) error {
	tx.touchKeys(user)
	return tx.exec(`INSERT INTO one_time_key (user_id, device_id, algorithm, seq, key_id, body) VALUES (?1, ?2, ?3,
		(SELECT coalesce(max(seq), 0) + 1 FROM one_time_key WHERE user_id = ?1 AND device_id = ?2 AND algorithm = ?3), ?4, ?5)`,
		user, device, algorithm, id, body)
}

// PutFallbackKey sets the key that is given out when no one-time key is left; a new one counts as unused.
func (tx *Tx) PutFallbackKey(user event.UserID, device, algorithm, id string, body json.RawMessage) error {
	tx.touchKeys(user)
	return tx.exec(`INSERT INTO fallback_key (user_id, device_id, algorithm, key_id, body, used) VALUES (?, ?, ?, ?, ?, 0)
		ON CONFLICT (user_id, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, body = excluded.body, used = 0
		WHERE fallback_key.key_id <> excluded.key_id OR fallback_key.body <> excluded.body`, user, device, algorithm, id, body)
}

// ClaimOneTimeKey takes the oldest key of an algorithm, or else the fallback key; "" when the device has neither.
func (tx *Tx) ClaimOneTimeKey(user event.UserID, device, algorithm string) (id string, body json.RawMessage, err error) {
	tx.touchKeys(user)
	var seq int64
	found, err := tx.one(`SELECT seq, key_id, body FROM one_time_key WHERE user_id = ? AND device_id = ? AND algorithm = ? ORDER BY seq LIMIT 1`,
		args(user, device, algorithm), &seq, &id, &body)
	if err != nil {
		return "", nil, err
	}
	if found {
		return id, body, tx.exec(`DELETE FROM one_time_key WHERE user_id = ? AND device_id = ? AND algorithm = ? AND seq = ?`, user, device, algorithm, seq)
	}
	found, err = tx.one(`SELECT key_id, body FROM fallback_key WHERE user_id = ? AND device_id = ? AND algorithm = ?`,
		args(user, device, algorithm), &id, &body)
	if !found || err != nil {
		return "", nil, err
	}
	return id, body, tx.exec(`UPDATE fallback_key SET used = 1 WHERE user_id = ? AND device_id = ? AND algorithm = ?`, user, device, algorithm)
}

// OneTimeKeyCounts counts unclaimed keys by algorithm, those that are lent out among them.
func (r *Read) OneTimeKeyCounts(user event.UserID, device string) (map[string]int, error) {
	out := map[string]int{}
	err := r.each(`SELECT algorithm, count(*) FROM one_time_key WHERE user_id = ? AND device_id = ? GROUP BY algorithm`,
		args(user, device), func(row *Row) error {
			var alg string
			var n int
			err := row.Scan(&alg, &n)
			if strings.HasPrefix(alg, lentOut) {
				alg = alg[strings.LastIndexByte(alg, ' ')+1:]
			}
			out[alg] += n
			return err
		})
	return out, err
}

// UnusedFallback lists the algorithms that have a fallback key nobody has claimed.
func (r *Read) UnusedFallback(user event.UserID, device string) ([]string, error) {
	out := []string{}
	err := r.each(`SELECT algorithm FROM fallback_key WHERE user_id = ? AND device_id = ? AND used = 0 ORDER BY algorithm`,
		args(user, device), func(row *Row) error {
			var alg string
			err := row.Scan(&alg)
			out = append(out, alg)
			return err
		})
	return out, err
}

// CrossSigningKeys gives a user's cross-signing keys by usage.
func (r *Read) CrossSigningKeys(user event.UserID) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	err := r.each(`SELECT usage, body FROM cross_signing_key WHERE user_id = ?`, args(user), func(row *Row) error {
		var usage string
		var body json.RawMessage
		err := row.Scan(&usage, &body)
		out[usage] = body
		return err
	})
	return out, err
}

// PutCrossSigningKey sets a cross-signing key of a local or remote user.
func (tx *Tx) PutCrossSigningKey(user event.UserID, usage string, body json.RawMessage) error {
	return tx.exec(`INSERT OR REPLACE INTO cross_signing_key (user_id, usage, body) VALUES (?, ?, ?)`, user, usage, body)
}

// KeySignatureRow is a signature that was put on a key after its upload.
type KeySignatureRow struct {
	User      event.UserID // whose key
	Key       string       // device id or public key
	Signer    event.UserID
	KeyID     string // "ed25519:..." that made it
	Signature string
}

// KeySignatures lists the later signatures on a key.
func (r *Read) KeySignatures(user event.UserID, key string) ([]KeySignatureRow, error) {
	var out []KeySignatureRow
	err := r.each(`SELECT target_user, target_key, signer, key_id, signature FROM key_signature WHERE target_user = ? AND target_key = ?`,
		args(user, key), func(row *Row) error {
			var s KeySignatureRow
			err := row.Scan(&s.User, &s.Key, &s.Signer, &s.KeyID, &s.Signature)
			out = append(out, s)
			return err
		})
	return out, err
}

// PutKeySignature stores a signature.
func (tx *Tx) PutKeySignature(s KeySignatureRow) error {
	return tx.exec(`INSERT OR REPLACE INTO key_signature (target_user, target_key, signer, key_id, signature) VALUES (?, ?, ?, ?, ?)`,
		s.User, s.Key, s.Signer, s.KeyID, s.Signature)
}

// BackupRow is one version of a user's key backup.
type BackupRow struct {
	Version   int64
	Algorithm string
	AuthData  json.RawMessage
	ETag      int64
	Count     int64
}

// Backup gives a version (0: the latest) that is not deleted; nil when there is none.
func (r *Read) Backup(user event.UserID, version int64) (*BackupRow, error) {
	var b BackupRow
	found, err := r.one(`SELECT version, algorithm, auth_data, etag,
			(SELECT count(*) FROM backup_key k WHERE k.user_id = b.user_id AND k.version = b.version)
		FROM backup b WHERE user_id = ?1 AND deleted = 0 AND (?2 = 0 OR version = ?2) ORDER BY version DESC LIMIT 1`,
		args(user, version), &b.Version, &b.Algorithm, &b.AuthData, &b.ETag, &b.Count)
	if !found || err != nil {
		return nil, err
	}
	return &b, nil
}

// PutBackup makes the next version and gives its number.
func (tx *Tx) PutBackup(user event.UserID, algorithm string, authData json.RawMessage) (int64, error) {
	var n int64
	if _, err := tx.one(`SELECT coalesce(max(version), 0) + 1 FROM backup WHERE user_id = ?`, args(user), &n); err != nil {
		return 0, err
	}
	return n, tx.exec(`INSERT INTO backup (user_id, version, algorithm, auth_data) VALUES (?, ?, ?, ?)`, user, n, algorithm, authData)
}

// SetBackupAuth replaces a version's auth data.
func (tx *Tx) SetBackupAuth(user event.UserID, version int64, authData json.RawMessage) error {
	return tx.exec(`UPDATE backup SET auth_data = ? WHERE user_id = ? AND version = ?`, authData, user, version)
}

// BumpBackup changes a version's etag.
func (tx *Tx) BumpBackup(user event.UserID, version int64) error {
	return tx.exec(`UPDATE backup SET etag = etag + 1 WHERE user_id = ? AND version = ?`, user, version)
}

// DeleteBackup removes a version's keys; its number is not given again.
func (tx *Tx) DeleteBackup(user event.UserID, version int64) error {
	if err := tx.exec(`DELETE FROM backup_key WHERE user_id = ? AND version = ?`, user, version); err != nil {
		return err
	}
	return tx.exec(`UPDATE backup SET deleted = 1 WHERE user_id = ? AND version = ?`, user, version)
}

// BackupKeys gives stored keys by room and session; "" means all.
func (r *Read) BackupKeys(user event.UserID, version int64, room event.RoomID, session string) (map[event.RoomID]map[string]json.RawMessage, error) {
	out := map[event.RoomID]map[string]json.RawMessage{}
	err := r.each(`SELECT room_id, session_id, body FROM backup_key WHERE user_id = ?1 AND version = ?2 AND (?3 = '' OR room_id = ?3) AND (?4 = '' OR session_id = ?4)`,
		args(user, version, room, session), func(row *Row) error {
			var room event.RoomID
			var session string
			var body json.RawMessage
			err := row.Scan(&room, &session, &body)
			if out[room] == nil {
				out[room] = map[string]json.RawMessage{}
			}
			out[room][session] = body
			return err
		})
	return out, err
}

// PutBackupKey stores one session's key.
func (tx *Tx) PutBackupKey(user event.UserID, version int64, room event.RoomID, session string, body json.RawMessage) error {
	return tx.exec(`INSERT OR REPLACE INTO backup_key (user_id, version, room_id, session_id, body) VALUES (?, ?, ?, ?, ?)`, user, version, room, session, body)
}

// DeleteBackupKeys removes stored keys; "" means all.
func (tx *Tx) DeleteBackupKeys(user event.UserID, version int64, room event.RoomID, session string) error {
	return tx.exec(`DELETE FROM backup_key WHERE user_id = ?1 AND version = ?2 AND (?3 = '' OR room_id = ?3) AND (?4 = '' OR session_id = ?4)`, user, version, room, session)
}
