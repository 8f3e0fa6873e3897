// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"

	"hallig/appliance/event"
)

// A one-time key that somebody else gives away for us while we are out of reach stays in the table, under its algorithm with this and the holder's name in front. So it counts
// towards what the device has, is known by its name when the device uploads it again, and is never given away here.
const lentOut = "lent "

func lentTo(holder, algorithm string) string { return lentOut + holder + " " + algorithm }

// LendOneTimeKeys lends the oldest keys of an algorithm to a holder until it has so many, half of what is left here at most, and gives all that it has now. What was
// lent comes back by no way. What another holder has is forgotten: nobody tells us any more what became of it.
func (tx *Tx) LendOneTimeKeys(user event.UserID, device, algorithm, holder string, most int) (map[string]json.RawMessage, error) {
	to := lentTo(holder, algorithm)
	if err := tx.exec(`DELETE FROM one_time_key WHERE user_id = ? AND device_id = ? AND algorithm LIKE ? AND algorithm <> ?`, user, device, lentOut+"%", to); err != nil {
		return nil, err
	}
	counts := map[string]int{}
	err := tx.each(`SELECT algorithm, count(*) FROM one_time_key WHERE user_id = ? AND device_id = ? AND algorithm IN (?, ?) GROUP BY algorithm`,
		args(user, device, algorithm, to), func(row *Row) error {
			var alg string
			var n int
			err := row.Scan(&alg, &n)
			counts[alg] = n
			return err
		})
	if err != nil {
		return nil, err
	}
	for range min(most-counts[to], counts[algorithm]/2) {
		err := tx.exec(`UPDATE one_time_key SET algorithm = ?4,
			seq = (SELECT coalesce(max(seq), 0) + 1 FROM one_time_key WHERE user_id = ?1 AND device_id = ?2 AND algorithm = ?4)
			WHERE user_id = ?1 AND device_id = ?2 AND algorithm = ?3 AND seq = (SELECT min(seq) FROM one_time_key WHERE user_id = ?1 AND device_id = ?2 AND algorithm = ?3)`,
			user, device, algorithm, to)
		if err != nil {
			return nil, err
		}
	}
	out := map[string]json.RawMessage{}
	err = tx.each(`SELECT key_id, body FROM one_time_key WHERE user_id = ? AND device_id = ? AND algorithm = ?`, args(user, device, to), func(row *Row) error {
		var id string
		var body json.RawMessage
		err := row.Scan(&id, &body)
		out[id] = body
		return err
	})
	return out, err
}

// ForgetLent crosses out a key that was given away elsewhere.
func (tx *Tx) ForgetLent(user event.UserID, device, id string) error {
	tx.touchKeys(user)
	return tx.exec(`DELETE FROM one_time_key WHERE user_id = ? AND device_id = ? AND key_id = ? AND algorithm LIKE ?`, user, device, id, lentOut+"%")
}

// ForgetOneTimeKeys crosses out all one-time keys: after a restore nobody knows which of them were given away since. Their devices upload others.
func (tx *Tx) ForgetOneTimeKeys() error { return tx.exec(`DELETE FROM one_time_key`) }

// UseFallbackKey notes that a fallback key was given away elsewhere, if it is still the one of its device.
func (tx *Tx) UseFallbackKey(user event.UserID, device, id string) error {
	tx.touchKeys(user)
	return tx.exec(`UPDATE fallback_key SET used = 1 WHERE user_id = ? AND device_id = ? AND key_id = ? AND used = 0`, user, device, id)
}

// FallbackKeys gives the fallback keys of a device by their names.
func (r *Read) FallbackKeys(user event.UserID, device string) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	err := r.each(`SELECT key_id, body FROM fallback_key WHERE user_id = ? AND device_id = ?`, args(user, device), func(row *Row) error {
		var id string
		var body json.RawMessage
		err := row.Scan(&id, &body)
		out[id] = body
		return err
	})
	return out, err
}
