// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// KeyUpload is the body of POST /keys/upload.
type KeyUpload struct {
	DeviceKeys   json.RawMessage            `json:"device_keys,omitempty"`
	OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys,omitempty"`
	FallbackKeys map[string]json.RawMessage `json:"fallback_keys,omitempty"`
}

// KeyAnswer is the answer of POST /keys/query, without failures.
type KeyAnswer struct {
	DeviceKeys      map[event.UserID]map[string]json.RawMessage `json:"device_keys"`
	MasterKeys      map[event.UserID]json.RawMessage            `json:"master_keys,omitempty"`
	SelfSigningKeys map[event.UserID]json.RawMessage            `json:"self_signing_keys,omitempty"`
	UserSigningKeys map[event.UserID]json.RawMessage            `json:"user_signing_keys,omitempty"`
}

func newKeyAnswer() KeyAnswer {
	return KeyAnswer{
		DeviceKeys:      map[event.UserID]map[string]json.RawMessage{},
		MasterKeys:      map[event.UserID]json.RawMessage{},
		SelfSigningKeys: map[event.UserID]json.RawMessage{},
		UserSigningKeys: map[event.UserID]json.RawMessage{},
	}
}

// maxOneTimeKeys bounds what one device may store; clients keep 50 to 100.
const maxOneTimeKeys = 1000

// UploadKeys stores a device's keys and answers how many one-time keys of each algorithm are left. The same upload twice
// is one upload; the same key id with another key is refused.
func (a *Accounts) UploadKeys(ctx context.Context, s Session, up KeyUpload) (map[string]int, error) {
	if null(up.DeviceKeys) {
		up.DeviceKeys = nil
	}
	if up.DeviceKeys != nil {
		var who struct {
			User   event.UserID `json:"user_id"`
			Device string       `json:"device_id"`
		}
		if err := json.Unmarshal(up.DeviceKeys, &who); err != nil {
			return nil, badJSON("device_keys is not a device key object")
		}
		if who.User != s.User || who.Device != s.Device {
			return nil, refuse(400, "M_INVALID_PARAM", "device_keys must name the user and the device that uploads them")
		}
	}
	var counts map[string]int
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		if err := a.putDeviceKeys(tx, s, up.DeviceKeys); err != nil {
			return err
		}
		if err := putOneTimeKeys(tx, s, up.OneTimeKeys); err != nil {
			return err
		}
		for id, body := range up.FallbackKeys {
			alg, _, ok := strings.Cut(id, ":")
			if !ok || !json.Valid(body) {
				return badJSON("a fallback key's name is algorithm:id")
			}
			if err := tx.PutFallbackKey(s.User, s.Device, alg, id, body); err != nil {
				return err
			}
		}
		var err error
		counts, err = tx.OneTimeKeyCounts(s.User, s.Device)
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, ok := counts["signed_curve25519"]; !ok {
		counts["signed_curve25519"] = 0
	}
	return counts, nil
}

func (a *Accounts) putDeviceKeys(tx *store.Tx, s Session, keys json.RawMessage) error {
	if keys == nil {
		return nil
	}
	row, err := tx.Device(s.User, s.Device)
	if err != nil {
		return err
	}
	if row == nil {
		return refuse(401, "M_UNKNOWN_TOKEN", "the device is gone")
	}
	if sameJSON(row.Keys, keys) {
		return nil
	}
	if err := tx.SetDeviceKeys(s.User, s.Device, keys); err != nil {
		return err
	}
	return a.devicesChanged(tx, s.User, s.Device)
}

func putOneTimeKeys(tx *store.Tx, s Session, keys map[string]json.RawMessage) error {
	if len(keys) > maxOneTimeKeys {
		return refuse(400, "M_INVALID_PARAM", "too many one-time keys at once")
	}
	for _, id := range sortedKeys(keys) {
		body := keys[id]
		alg, _, ok := strings.Cut(id, ":")
		if !ok || len(id) > 255 || null(body) {
			return badJSON("a one-time key's name is algorithm:id")
		}
		old, err := tx.OneTimeKey(s.User, s.Device, id)
		if err != nil {
			return err
		}
		if old != nil {
			if !sameJSON(old, body) {
				return refuse(400, "M_INVALID_PARAM", "the one-time key "+id+" exists with another value")
			}
			continue
		}
		if err := tx.PutOneTimeKey(s.User, s.Device, alg, id, body); err != nil {
			return err
		}
	}
	return nil
}

// QueryKeys answers for the local users in want and for remote users whose lists are kept here and fresh. The others are
// named by server in remote: ask there and hand the answer to MergeRemoteKeys. An empty device list means all. asker is ""
// for another server; a user's user-signing key is shown to the user only.
func (a *Accounts) QueryKeys(ctx context.Context, asker event.UserID, want map[event.UserID][]string) (KeyAnswer, map[string][]event.UserID, error) {
	out := newKeyAnswer()
	remote := map[string][]event.UserID{}
	err := a.db.View(ctx, func(r *store.Read) error {
		for user, devices := range want {
			if a.Local(user) {
				if err := localKeys(r, asker, user, devices, &out); err != nil {
					return err
				}
				continue
			}
			if asker == "" {
				continue // other servers ask us about ours only
			}
			fresh, err := r.RemoteListFresh(user, a.server)
			if err != nil {
				return err
			}
			if !fresh {
				remote[user.Server()] = append(remote[user.Server()], user)
				continue
			}
			if _, err := remoteKeys(r, asker, user, devices, &out); err != nil {
				return err
			}
		}
		return nil
	})
	return out, remote, err
}

func localKeys(r *store.Read, asker, user event.UserID, want []string, out *KeyAnswer) error {
	row, err := r.Account(user)
	if err != nil || row == nil {
		return err
	}
	rows, err := r.Devices(user)
	if err != nil {
		return err
	}
	if err := deviceKeys(r, asker, user, rows, want, out); err != nil {
		return err
	}
	return signingKeys(r, asker, user, out)
}

// remoteKeys answers from what we keep of a remote user, fresh or not; false when we keep nothing.
func remoteKeys(r *store.Read, asker, user event.UserID, want []string, out *KeyAnswer) (bool, error) {
	rows, err := r.RemoteDevices(user)
	if err != nil {
		return false, err
	}
	known, err := r.RemoteListKnown(user)
	if err != nil || !known {
		return false, err
	}
	if err := deviceKeys(r, asker, user, rows, want, out); err != nil {
		return false, err
	}
	return true, signingKeys(r, asker, user, out)
}

func deviceKeys(r *store.Read, asker, user event.UserID, rows []store.DeviceRow, want []string, out *KeyAnswer) error {
	devices := map[string]json.RawMessage{}
	for _, row := range rows {
		if row.Keys == nil || len(want) > 0 && !contains(want, row.ID) {
			continue
		}
		sigs, err := r.KeySignatures(user, row.ID)
		if err != nil {
			return err
		}
		body, err := dressKey(row.Keys, row.Name, visible(sigs, asker, user))
		if err != nil {
			return err
		}
		devices[row.ID] = body
	}
	out.DeviceKeys[user] = devices
	return nil
}

func signingKeys(r *store.Read, asker, user event.UserID, out *KeyAnswer) error {
	keys, err := r.CrossSigningKeys(user)
	if err != nil {
		return err
	}
	for usage, body := range keys {
		sigs, err := r.KeySignatures(user, publicKey(body))
		if err != nil {
			return err
		}
		if body, err = dressKey(body, "", visible(sigs, asker, user)); err != nil {
			return err
		}
		switch usage {
		case "master":
			out.MasterKeys[user] = body
		case "self_signing":
			out.SelfSigningKeys[user] = body
		case "user_signing":
			if asker == user {
				out.UserSigningKeys[user] = body
			}
		}
	}
	return nil
}

// visible leaves what an asker may see: signatures by the owner, and the asker's own. Whom a third person has verified is
// nobody else's business.
func visible(sigs []store.KeySignatureRow, asker, owner event.UserID) []store.KeySignatureRow {
	out := sigs[:0]
	for _, s := range sigs {
		if s.Signer == owner || s.Signer == asker {
			out = append(out, s)
		}
	}
	return out
}

// dressKey adds later signatures and the device's name to an uploaded key.
func dressKey(body json.RawMessage, name string, sigs []store.KeySignatureRow) (json.RawMessage, error) {
	if name == "" && len(sigs) == 0 {
		return body, nil
	}
	var obj map[string]json.RawMessage
	if err := json.Unmarshal(body, &obj); err != nil {
		return nil, err
	}
	if name != "" {
		obj["unsigned"] = json.RawMessage(`{"device_display_name":` + string(quote(name)) + `}`)
	}
	if len(sigs) > 0 {
		all := map[event.UserID]map[string]string{}
		if raw, ok := obj["signatures"]; ok {
			if err := json.Unmarshal(raw, &all); err != nil {
				return nil, err
			}
		}
		for _, s := range sigs {
			if all[s.Signer] == nil {
				all[s.Signer] = map[string]string{}
			}
			all[s.Signer][s.KeyID] = s.Signature
		}
		raw, err := json.Marshal(all)
		if err != nil {
			return nil, err
		}
		obj["signatures"] = raw
	}
	return json.Marshal(obj)
}

// ClaimKeys takes one key per asked device of local users, in the order of their upload, and else the fallback key. The
// claim is on disk before it is answered, so no key is given out twice.
func (a *Accounts) ClaimKeys(ctx context.Context, want map[event.UserID]map[string]string) (map[event.UserID]map[string]map[string]json.RawMessage, error) {
	var out map[event.UserID]map[string]map[string]json.RawMessage
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		out = map[event.UserID]map[string]map[string]json.RawMessage{}
		for user, devices := range want {
			if !a.Local(user) {
				continue
			}
			for device, alg := range devices {
				id, body, err := tx.ClaimOneTimeKey(user, device, alg)
				if err != nil {
					return err
				}
				if id == "" {
					continue
				}
				if out[user] == nil {
					out[user] = map[string]map[string]json.RawMessage{}
				}
				out[user][device] = map[string]json.RawMessage{id: body}
			}
		}
		return nil
	})
	return out, err
}

// null says that a JSON value is absent or null.
func null(raw json.RawMessage) bool {
	raw = bytes.TrimSpace(raw)
	return len(raw) == 0 || string(raw) == "null"
}

// sameJSON compares two values without regard to spacing and key order.
func sameJSON(x, y json.RawMessage) bool {
	if len(x) == 0 || len(y) == 0 {
		return len(x) == len(y)
	}
	return bytes.Equal(normal(x), normal(y))
}

// normal rewrites a value with sorted keys; a value that is no JSON stays as it is.
func normal(raw json.RawMessage) []byte {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return raw
	}
	b, err := json.Marshal(v)
	if err != nil {
		return raw
	}
	return b
}
