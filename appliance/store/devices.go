// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"

	"hallig/appliance/event"
)

// DeviceRow is a device of a local user or, without the times, of a remote one.
type DeviceRow struct {
	User    event.UserID
	ID      string
	Name    string
	Created int64 // ms
	Seen    int64 // ms
	IP      string
	Keys    json.RawMessage // nil: none uploaded
}

const deviceSelect = `SELECT user_id, device_id, name, created, seen, ip, keys FROM device`

func (r *Read) devices(sql string, a []any) ([]DeviceRow, error) {
	var out []DeviceRow
	err := r.each(sql, a, func(row *Row) error {
		var d DeviceRow
		err := row.Scan(&d.User, &d.ID, &d.Name, &d.Created, &d.Seen, &d.IP, &d.Keys)
		out = append(out, d)
		return err
	})
	return out, err
}

// Devices lists a local user's devices.
func (r *Read) Devices(user event.UserID) ([]DeviceRow, error) {
	return r.devices(deviceSelect+` WHERE user_id = ? ORDER BY device_id`, args(user))
}

// Device gives one device, nil when there is none.
func (r *Read) Device(user event.UserID, id string) (*DeviceRow, error) {
	rows, err := r.devices(deviceSelect+` WHERE user_id = ? AND device_id = ?`, args(user, id))
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}

// PutDevice makes a device.
func (tx *Tx) PutDevice(d DeviceRow) error {
	return tx.exec(`INSERT INTO device (user_id, device_id, name, created) VALUES (?, ?, ?, ?)`, d.User, d.ID, d.Name, d.Created)
}

// RenameDevice sets a device's name.
func (tx *Tx) RenameDevice(user event.UserID, id, name string) error {
	return tx.exec(`UPDATE device SET name = ? WHERE user_id = ? AND device_id = ?`, name, user, id)
}

// SetDeviceSeen notes when and from where a device was last heard of. It touches nobody.
func (tx *Tx) SetDeviceSeen(user event.UserID, id string, ms int64, ip string) error {
	return tx.exec(`UPDATE device SET seen = ?, ip = ? WHERE user_id = ? AND device_id = ?`, ms, ip, user, id)
}

// SetDeviceKeys stores uploaded device keys.
func (tx *Tx) SetDeviceKeys(user event.UserID, id string, keys json.RawMessage) error {
	return tx.exec(`UPDATE device SET keys = ? WHERE user_id = ? AND device_id = ?`, keys, user, id)
}

// DeleteDevice removes a device and all that is only for it.
func (tx *Tx) DeleteDevice(user event.UserID, id string) error {
	for _, sql := range []string{
		`DELETE FROM token WHERE user_id = ? AND device_id = ?`,
		`DELETE FROM one_time_key WHERE user_id = ? AND device_id = ?`,
		`DELETE FROM fallback_key WHERE user_id = ? AND device_id = ?`,
		`DELETE FROM to_device WHERE user_id = ? AND device_id = ?`,
		`DELETE FROM pusher WHERE user_id = ? AND device_id = ?`,
		`DELETE FROM key_signature WHERE target_user = ? AND target_key = ?`,
		`DELETE FROM device WHERE user_id = ? AND device_id = ?`,
	} {
		if err := tx.exec(sql, user, id); err != nil {
			return err
		}
	}
	return tx.exec(`DELETE FROM to_device_seen WHERE origin = ?`, string(user)+"|"+id)
}

// TokenRow is an access or refresh token, by its hash.
type TokenRow struct {
	Hash    [32]byte
	User    event.UserID
	Device  string
	Refresh bool
	Expires int64 // ms; 0: never
}

// Token gives a token, nil when it is not known.
func (r *Read) Token(hash [32]byte) (*TokenRow, error) {
	t := TokenRow{Hash: hash}
	found, err := r.one(`SELECT user_id, device_id, refresh, expires FROM token WHERE hash = ?`, args(hash[:]), &t.User, &t.Device, &t.Refresh, &t.Expires)
	if !found || err != nil {
		return nil, err
	}
	return &t, nil
}

// PutToken stores a token.
func (tx *Tx) PutToken(t TokenRow) error {
	return tx.exec(`INSERT INTO token (hash, user_id, device_id, refresh, expires) VALUES (?, ?, ?, ?, ?)`, t.Hash[:], t.User, t.Device, t.Refresh, t.Expires)
}

// DeleteTokens takes all tokens of a device away.
func (tx *Tx) DeleteTokens(user event.UserID, device string) error {
	return tx.exec(`DELETE FROM token WHERE user_id = ? AND device_id = ?`, user, device)
}

// DeleteTokensExcept takes all tokens of a device away but one.
func (tx *Tx) DeleteTokensExcept(user event.UserID, device string, keep [32]byte) error {
	return tx.exec(`DELETE FROM token WHERE user_id = ? AND device_id = ? AND hash <> ?`, user, device, keep[:])
}

// RemoteList tells up to where a remote user's device list is kept here.
func (r *Read) RemoteList(user event.UserID) (at int64, stale, known bool, err error) {
	known, err = r.one(`SELECT stream_id, stale FROM remote_list WHERE user_id = ?`, args(user), &at, &stale)
	return at, stale, known, err
}

// RemoteListKnown says whether anything is kept of a remote user's devices.
func (r *Read) RemoteListKnown(user event.UserID) (bool, error) {
	_, _, known, err := r.RemoteList(user)
	return known, err
}

// RemoteListFresh says whether the kept list can be trusted to be complete: no gap was seen, and a room has been shared with
// a user of server all the time since it was fetched, so that its owner has been telling us of changes.
func (r *Read) RemoteListFresh(user event.UserID, server string) (bool, error) {
	var one int64
	return r.one(`SELECT 1 FROM remote_list l JOIN usr me ON me.id = l.user_id
		JOIN member mine ON mine.usr = me.nid AND mine.membership = 2 AND mine.pos <= l.pos
		WHERE l.user_id = ? AND l.stale = 0 AND EXISTS (
			SELECT 1 FROM member o JOIN usr u ON u.nid = o.usr JOIN server s ON s.nid = u.server
			WHERE o.room = mine.room AND o.membership = 2 AND o.pos <= l.pos AND s.name = ?) LIMIT 1`, args(user, server), &one)
}

// Tracked says whether a user is known to be in a room with a user of server, so that changes of the user's devices are told to it.
func (r *Read) Tracked(user event.UserID, server string) (bool, error) {
	var one int64
	return r.one(`SELECT 1 FROM usr me JOIN member mine ON mine.usr = me.nid AND mine.membership = 2
		WHERE me.id = ? AND EXISTS (SELECT 1 FROM member o JOIN usr u ON u.nid = o.usr JOIN server s ON s.nid = u.server
			WHERE o.room = mine.room AND o.membership = 2 AND s.name = ?) LIMIT 1`, args(user, server), &one)
}

// SetRemoteList notes up to where a kept list has been followed.
func (tx *Tx) SetRemoteList(user event.UserID, stream int64, stale bool) error {
	return tx.exec(`INSERT INTO remote_list (user_id, stream_id, stale, pos) VALUES (?, ?, ?, 0)
		ON CONFLICT (user_id) DO UPDATE SET stream_id = excluded.stream_id, stale = excluded.stale`, user, stream, stale)
}

// DoubtRemoteLists makes all that is kept of a server's users stale.
func (tx *Tx) DoubtRemoteLists(server string) error {
	return tx.exec(`UPDATE remote_list SET stale = 1 WHERE substr(user_id, instr(user_id, ':') + 1) = ?`, server)
}

// StaleRemoteUsers lists the users of a server whose kept lists have gaps.
func (r *Read) StaleRemoteUsers(server string) ([]event.UserID, error) {
	var out []event.UserID
	err := r.each(`SELECT user_id FROM remote_list WHERE stale = 1 ORDER BY user_id`, nil, func(row *Row) error {
		var u event.UserID
		err := row.Scan(&u)
		if u.Server() == server {
			out = append(out, u)
		}
		return err
	})
	return out, err
}

// RemoteDevices gives what is kept of a remote user's devices.
func (r *Read) RemoteDevices(user event.UserID) ([]DeviceRow, error) {
	return r.devices(`SELECT user_id, device_id, name, 0, 0, '', keys FROM remote_device WHERE user_id = ? ORDER BY device_id`, args(user))
}

// PutRemoteDevice keeps one device of a remote user.
func (tx *Tx) PutRemoteDevice(d DeviceRow) error {
	return tx.exec(`INSERT OR REPLACE INTO remote_device (user_id, device_id, name, keys) VALUES (?, ?, ?, ?)`, d.User, d.ID, d.Name, d.Keys)
}

// DeleteRemoteDevice forgets one device of a remote user.
func (tx *Tx) DeleteRemoteDevice(user event.UserID, id string) error {
	return tx.exec(`DELETE FROM remote_device WHERE user_id = ? AND device_id = ?`, user, id)
}

// ReplaceRemoteDevices keeps a whole list as fetched now. The caller notes its place with SetRemoteList.
func (tx *Tx) ReplaceRemoteDevices(user event.UserID, rows []DeviceRow) error {
	if err := tx.exec(`DELETE FROM remote_device WHERE user_id = ?`, user); err != nil {
		return err
	}
	for _, d := range rows {
		if err := tx.PutRemoteDevice(d); err != nil {
			return err
		}
	}
	return tx.exec(`INSERT INTO remote_list (user_id, stream_id, stale, pos) VALUES (?, 0, 1, ?)
		ON CONFLICT (user_id) DO UPDATE SET pos = excluded.pos`, user, tx.NextPos())
}

// MarkDeviceList notes that somebody's devices or signing keys changed, and wakes the local users given.
func (tx *Tx) MarkDeviceList(user event.UserID, wake []event.UserID) error {
	for _, u := range wake {
		tx.TouchUser(u)
	}
	return tx.exec(`INSERT OR REPLACE INTO device_list (user_id, pos) VALUES (?, ?)`, user, tx.NextPos())
}

// DeviceListChanges lists the users whose lists changed in (after, upTo].
func (r *Read) DeviceListChanges(after, upTo int64) ([]event.UserID, error) {
	var out []event.UserID
	err := r.each(`SELECT user_id FROM device_list WHERE pos > ? AND pos <= ? ORDER BY pos`, args(after, upTo), func(row *Row) error {
		var u event.UserID
		err := row.Scan(&u)
		out = append(out, u)
		return err
	})
	return out, err
}

// DeviceListOut is the number of the last update that other servers were told of a local user.
func (r *Read) DeviceListOut(user event.UserID) (int64, error) {
	var n int64
	_, err := r.one(`SELECT stream_id FROM device_list_out WHERE user_id = ?`, args(user), &n)
	return n, err
}

// NextDeviceListOut numbers the next update: its predecessor's number (0: none) and its own.
func (tx *Tx) NextDeviceListOut(user event.UserID) (prev, next int64, err error) {
	if prev, err = tx.DeviceListOut(user); err != nil {
		return 0, 0, err
	}
	next = prev + 1
	return prev, next, tx.exec(`INSERT OR REPLACE INTO device_list_out (user_id, stream_id) VALUES (?, ?)`, user, next)
}

// deviceListJump is more than any user's devices change between two backups.
const deviceListJump = 1_000_000

// JumpDeviceLists moves the numbers of all local users' device lists on, after a restore: numbers that others have seen would be taken for old stories and
// what they tell of devices be passed over. The next update names a predecessor that nobody has seen, so others fetch the whole list.
func (tx *Tx) JumpDeviceLists() error {
	return tx.exec(`INSERT INTO device_list_out (user_id, stream_id) SELECT user_id, ?1 FROM account WHERE true
		ON CONFLICT (user_id) DO UPDATE SET stream_id = stream_id + ?1`, deviceListJump)
}

// SharedServers lists the servers with a joined member in a room that the user is joined to, or that are said to have one while not all members are known.
func (r *Read) SharedServers(user event.UserID) ([]string, error) {
	nid, err := r.findUser(user)
	if err != nil || nid == 0 {
		return nil, err
	}
	var out []string
	err = r.each(`SELECT DISTINCT s.name FROM member me JOIN member o ON o.room = me.room AND o.membership = 2
		JOIN usr u ON u.nid = o.usr JOIN server s ON s.nid = u.server
		WHERE me.usr = ?1 AND me.membership = 2
		UNION SELECT s.name FROM member me JOIN partial_server p ON p.room = me.room JOIN server s ON s.nid = p.server
		WHERE me.usr = ?1 AND me.membership = 2 ORDER BY 1`, args(nid), func(row *Row) error {
		var s string
		err := row.Scan(&s)
		out = append(out, s)
		return err
	})
	return out, err
}

// LocalUsersSharing lists the users of server who are joined to a room with the user, or may be while not all members are known, without the user.
func (r *Read) LocalUsersSharing(user event.UserID, server string) ([]event.UserID, error) {
	nid, err := r.findUser(user)
	if err != nil {
		return nil, err
	}
	var theirs int64 // a user of whom nothing is known yet may be in such a room
	if n, err := r.db.names.find(kindServer, user.Server(), nil); err != nil {
		return nil, err
	} else if n != nil {
		theirs = n.nid
	}
	var out []event.UserID
	err = r.each(`SELECT u.id FROM member me JOIN member o ON o.room = me.room AND o.membership = 2 AND o.usr <> me.usr
		JOIN usr u ON u.nid = o.usr JOIN server s ON s.nid = u.server
		WHERE me.usr = ?1 AND me.membership = 2 AND s.name = ?2
		UNION SELECT u.id FROM partial_server p JOIN member o ON o.room = p.room AND o.membership = 2
		JOIN usr u ON u.nid = o.usr JOIN server s ON s.nid = u.server
		WHERE p.server = ?3 AND s.name = ?2 ORDER BY 1`, args(nid, server, theirs), func(row *Row) error {
		var u event.UserID
		err := row.Scan(&u)
		out = append(out, u)
		return err
	})
	return out, err
}

// ShareRoom says whether two users are joined to a common room.
func (r *Read) ShareRoom(a, b event.UserID) (bool, error) {
	x, err := r.findUser(a)
	if err != nil || x == 0 {
		return false, err
	}
	y, err := r.findUser(b)
	if err != nil || y == 0 {
		return false, err
	}
	var one int64
	return r.one(`SELECT 1 FROM member m JOIN member o ON o.room = m.room AND o.usr = ? AND o.membership = 2
		WHERE m.usr = ? AND m.membership = 2 LIMIT 1`, args(y, x), &one)
}

// MayShareRoom says whether two users are joined to a common room, or b may be in one of a's of which not all members are known.
func (r *Read) MayShareRoom(a, b event.UserID) (bool, error) {
	share, err := r.ShareRoom(a, b)
	if share || err != nil || !r.db.partials.Load() {
		return share, err
	}
	x, err := r.findUser(a)
	if err != nil || x == 0 {
		return false, err
	}
	server, err := r.db.names.find(kindServer, b.Server(), nil)
	if err != nil || server == nil {
		return false, err
	}
	var one int64
	return r.one(`SELECT 1 FROM partial_server p JOIN member m ON m.room = p.room AND m.usr = ? AND m.membership = 2 WHERE p.server = ? LIMIT 1`,
		args(x, server.nid), &one)
}
