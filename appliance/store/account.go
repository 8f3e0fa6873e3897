// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"strings"

	"encoding/json"

	"hallig/appliance/event"
)

// AccountRow is one account. DisplayName and AvatarURL come from the profile and are not written with it.
type AccountRow struct {
	User        event.UserID
	Password    string // "": no password login
	Admin       bool
	Guest       bool
	Deactivated bool
	Created     int64 // ms
	DisplayName string
	AvatarURL   string
}

const accountSelect = `SELECT a.user_id, coalesce(a.password, ''), a.admin, a.guest, a.deactivated, a.created, d.value, v.value FROM account a
	LEFT JOIN profile d ON d.user_id = a.user_id AND d.field = 'displayname'
	LEFT JOIN profile v ON v.user_id = a.user_id AND v.field = 'avatar_url'`

func scanAccount(row *Row) (AccountRow, error) {
	var a AccountRow
	var name, avatar []byte
	if err := row.Scan(&a.User, &a.Password, &a.Admin, &a.Guest, &a.Deactivated, &a.Created, &name, &avatar); err != nil {
		return a, err
	}
	for raw, to := range map[*[]byte]*string{&name: &a.DisplayName, &avatar: &a.AvatarURL} {
		if *raw != nil {
			if err := json.Unmarshal(*raw, to); err != nil {
				return a, err
			}
		}
	}
	return a, nil
}

// Account gives a local account, nil when there is none.
func (r *Read) Account(user event.UserID) (*AccountRow, error) {
	var out *AccountRow
	err := r.each(accountSelect+` WHERE a.user_id = ?`, args(user), func(row *Row) error {
		a, err := scanAccount(row)
		out = &a
		return err
	})
	return out, err
}

// Accounts lists all, by name.
func (r *Read) Accounts() ([]AccountRow, error) {
	var out []AccountRow
	err := r.each(accountSelect+` ORDER BY a.user_id`, nil, func(row *Row) error {
		a, err := scanAccount(row)
		out = append(out, a)
		return err
	})
	return out, err
}

// PutAccount makes an account.
func (tx *Tx) PutAccount(a AccountRow) error {
	var password *string
	if a.Password != "" {
		password = &a.Password
	}
	return tx.exec(`INSERT INTO account (user_id, password, admin, guest, deactivated, created) VALUES (?, ?, ?, ?, ?, ?)`,
		a.User, password, a.Admin, a.Guest, a.Deactivated, a.Created)
}

// SetPassword replaces the password hash.
func (tx *Tx) SetPassword(user event.UserID, hash string) error {
	return tx.exec(`UPDATE account SET password = ? WHERE user_id = ?`, hash, user)
}

// SetAdmin grants or takes administration.
func (tx *Tx) SetAdmin(user event.UserID, admin bool) error {
	return tx.exec(`UPDATE account SET admin = ? WHERE user_id = ?`, admin, user)
}

// DeactivateAccount closes an account for good; its name stays taken.
func (tx *Tx) DeactivateAccount(user event.UserID) error {
	for _, sql := range []string{
		`UPDATE account SET deactivated = 1, admin = 0, password = NULL WHERE user_id = ?`,
		`DELETE FROM profile WHERE user_id = ?`,
		`DELETE FROM pusher WHERE user_id = ?`,
	} {
		if err := tx.exec(sql, user); err != nil {
			return err
		}
	}
	return nil
}

// Profile gives all profile fields as JSON.
func (r *Read) Profile(user event.UserID) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	err := r.each(`SELECT field, value FROM profile WHERE user_id = ?`, args(user), func(row *Row) error {
		var field string
		var value json.RawMessage
		err := row.Scan(&field, &value)
		out[field] = value
		return err
	})
	return out, err
}

// PutProfile sets a profile field.
func (tx *Tx) PutProfile(user event.UserID, field string, value json.RawMessage) error {
	return tx.exec(`INSERT OR REPLACE INTO profile (user_id, field, value) VALUES (?, ?, ?)`, user, field, value)
}

// DeleteProfile takes a profile field away.
func (tx *Tx) DeleteProfile(user event.UserID, field string) error {
	return tx.exec(`DELETE FROM profile WHERE user_id = ? AND field = ?`, user, field)
}

// RegistrationTokenRow is one registration token.
type RegistrationTokenRow struct {
	Token   string
	Uses    int   // 0: unlimited
	Used    int   //
	Expires int64 // ms; 0: never
	Admin   bool
	Enrol   bool // the code of the first administrator
}

const registrationSelect = `SELECT token, uses, used, expires, admin, enrol FROM registration_token`

func (r *Read) registrationTokens(sql string, a []any) ([]RegistrationTokenRow, error) {
	var out []RegistrationTokenRow
	err := r.each(sql, a, func(row *Row) error {
		var t RegistrationTokenRow
		err := row.Scan(&t.Token, &t.Uses, &t.Used, &t.Expires, &t.Admin, &t.Enrol)
		out = append(out, t)
		return err
	})
	return out, err
}

// RegistrationToken gives a token, nil when there is none. People type tokens on phones: case, dashes and
// blanks do not count where that leaves one token only.
func (r *Read) RegistrationToken(token string) (*RegistrationTokenRow, error) {
	rows, err := r.registrationTokens(registrationSelect+` WHERE token = ?`, args(token))
	if err == nil && len(rows) == 0 {
		typed := strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(token))
		rows, err = r.registrationTokens(registrationSelect+` WHERE upper(replace(token, '-', '')) = ? LIMIT 2`, args(typed))
		if len(rows) > 1 {
			return nil, err // it could mean either
		}
	}
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// RegistrationTokens lists all.
func (r *Read) RegistrationTokens() ([]RegistrationTokenRow, error) {
	return r.registrationTokens(registrationSelect+` ORDER BY token`, nil)
}

// PutRegistrationToken makes a token.
func (tx *Tx) PutRegistrationToken(t RegistrationTokenRow) error {
	return tx.exec(`INSERT INTO registration_token (token, uses, used, expires, admin, enrol) VALUES (?, ?, ?, ?, ?, ?)`,
		t.Token, t.Uses, t.Used, t.Expires, t.Admin, t.Enrol)
}

// UseRegistrationToken counts one use.
func (tx *Tx) UseRegistrationToken(token string) error {
	return tx.exec(`UPDATE registration_token SET used = used + 1 WHERE token = ?`, token)
}

// DeleteRegistrationToken takes a token back.
func (tx *Tx) DeleteRegistrationToken(token string) error {
	return tx.exec(`DELETE FROM registration_token WHERE token = ?`, token)
}

// AccountDataRow is one entry of account data; Room "" is global.
type AccountDataRow struct {
	Room    event.RoomID
	Type    string
	Content json.RawMessage
	Pos     int64
}

// AccountData gives one entry, nil when there is none.
func (r *Read) AccountData(user event.UserID, room event.RoomID, typ string) (json.RawMessage, error) {
	var out json.RawMessage
	_, err := r.one(`SELECT content FROM account_data WHERE user_id = ? AND room_id = ? AND type = ?`, args(user, room, typ), &out)
	return out, err
}

// AccountDataSince lists a user's entries that changed in (after, upTo], of all rooms and global.
func (r *Read) AccountDataSince(user event.UserID, after, upTo int64) ([]AccountDataRow, error) {
	var out []AccountDataRow
	err := r.each(`SELECT room_id, type, content, pos FROM account_data WHERE user_id = ? AND pos > ? AND pos <= ? ORDER BY pos`,
		args(user, after, upTo), func(row *Row) error {
			var a AccountDataRow
			err := row.Scan(&a.Room, &a.Type, &a.Content, &a.Pos)
			out = append(out, a)
			return err
		})
	return out, err
}

// PutAccountData sets one entry and wakes the user.
func (tx *Tx) PutAccountData(user event.UserID, room event.RoomID, typ string, content json.RawMessage) error {
	tx.TouchUser(user)
	return tx.exec(`INSERT OR REPLACE INTO account_data (user_id, room_id, type, content, pos) VALUES (?, ?, ?, ?, ?)`,
		user, room, typ, content, tx.NextPos())
}

// Filter gives a stored filter, nil when there is none.
func (r *Read) Filter(user event.UserID, n int64) (json.RawMessage, error) {
	var out json.RawMessage
	_, err := r.one(`SELECT body FROM filter WHERE user_id = ? AND n = ?`, args(user, n), &out)
	return out, err
}

// PutFilter stores a filter; an equal one keeps its number.
func (tx *Tx) PutFilter(user event.UserID, body json.RawMessage) (int64, error) {
	var n int64
	if found, err := tx.one(`SELECT n FROM filter WHERE user_id = ? AND body = ?`, args(user, body), &n); found || err != nil {
		return n, err
	}
	if _, err := tx.one(`SELECT coalesce(max(n), -1) + 1 FROM filter WHERE user_id = ?`, args(user), &n); err != nil {
		return 0, err
	}
	return n, tx.exec(`INSERT INTO filter (user_id, n, body) VALUES (?, ?, ?)`, user, n, body)
}

// Pushers gives the bodies of a user's pushers.
func (r *Read) Pushers(user event.UserID) ([]json.RawMessage, error) {
	var out []json.RawMessage
	err := r.each(`SELECT body FROM pusher WHERE user_id = ? ORDER BY app_id, pushkey`, args(user), func(row *Row) error {
		var b json.RawMessage
		err := row.Scan(&b)
		out = append(out, b)
		return err
	})
	return out, err
}

// PutPusher sets a pusher; unless keepOthers, the same app and key of other users goes.
func (tx *Tx) PutPusher(user event.UserID, device, app, key string, body json.RawMessage, keepOthers bool) error {
	if !keepOthers {
		if err := tx.exec(`DELETE FROM pusher WHERE app_id = ? AND pushkey = ? AND user_id <> ?`, app, key, user); err != nil {
			return err
		}
	}
	return tx.exec(`INSERT OR REPLACE INTO pusher (user_id, app_id, pushkey, device_id, body) VALUES (?, ?, ?, ?, ?)`, user, app, key, device, body)
}

// DeletePusher takes a pusher away.
func (tx *Tx) DeletePusher(user event.UserID, app, key string) error {
	return tx.exec(`DELETE FROM pusher WHERE user_id = ? AND app_id = ? AND pushkey = ?`, user, app, key)
}

// CountAccounts counts the accounts that somebody can use.
func (r *Read) CountAccounts() (n int, err error) {
	_, err = r.one(`SELECT count(*) FROM account WHERE deactivated=0 AND guest=0`, nil, &n)
	return n, err
}
