// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Kinds of EDU that leave this package.
const (
	kindDeviceList  = "m.device_list_update"
	kindSigningKeys = "m.signing_key_update"
	kindToDevice    = "m.direct_to_device"
	kindReceipt     = "m.receipt"
)

// deviceListUpdate is https://spec.matrix.org/latest/server-server-api/#mdevice_list_update
type deviceListUpdate struct {
	User     event.UserID    `json:"user_id"`
	Device   string          `json:"device_id"`
	StreamID int64           `json:"stream_id"`
	PrevID   []int64         `json:"prev_id,omitempty"`
	Name     string          `json:"device_display_name,omitempty"`
	Keys     json.RawMessage `json:"keys,omitempty"`
	Deleted  bool            `json:"deleted,omitempty"`
}

// devicesChanged tells everybody who shares a room with the user that the devices are not what they were: local users
// through /sync, other servers through the queue.
func (a *Accounts) devicesChanged(tx *store.Tx, user event.UserID, devices ...string) error {
	if err := a.markList(tx, user); err != nil {
		return err
	}
	servers, err := a.opt.SharedServers(tx.Read, user)
	if err != nil {
		return err
	}
	for _, id := range devices {
		prev, next, err := tx.NextDeviceListOut(user)
		if err != nil {
			return err
		}
		if len(servers) == 0 {
			continue
		}
		up := deviceListUpdate{User: user, Device: id, StreamID: next}
		if prev > 0 {
			up.PrevID = []int64{prev}
		}
		row, err := tx.Device(user, id)
		if err != nil {
			return err
		}
		if row == nil {
			up.Deleted = true
		} else {
			up.Name = row.Name
			if row.Keys != nil {
				sigs, err := tx.KeySignatures(user, id)
				if err != nil {
					return err
				}
				if up.Keys, err = dressKey(row.Keys, "", visible(sigs, user, user)); err != nil {
					return err
				}
			}
		}
		if err := a.tell(tx, servers, kindDeviceList, string(user)+"|"+id, up); err != nil {
			return err
		}
	}
	return nil
}

// MembersKnown tells everybody again of the local users' devices in a room that was joined, at position since, before all its members were known: a server
// that turns out to be in the room may have missed what changed meanwhile.
func (a *Accounts) MembersKnown(tx *store.Tx, room event.RoomID, since int64) error {
	users, err := tx.DeviceListChanges(since, 1<<62)
	if err != nil {
		return err
	}
	for _, user := range users {
		if !a.Local(user) {
			continue
		}
		m, err := tx.MembershipOf(room, user)
		if err != nil {
			return err
		}
		if m.Membership != "join" {
			continue
		}
		rows, err := tx.Devices(user)
		if err != nil {
			return err
		}
		ids := make([]string, len(rows))
		for i, row := range rows {
			ids[i] = row.ID
		}
		if err := a.devicesChanged(tx, user, ids...); err != nil {
			return err
		}
		out := newKeyAnswer()
		if err := signingKeys(tx.Read, "", user, &out); err != nil {
			return err
		}
		if out.MasterKeys[user] == nil {
			continue
		}
		if err := a.signingKeysChanged(tx, user); err != nil {
			return err
		}
	}
	return nil
}

// signingKeysChanged does what devicesChanged does for cross-signing keys.
func (a *Accounts) signingKeysChanged(tx *store.Tx, user event.UserID) error {
	if err := a.markList(tx, user); err != nil {
		return err
	}
	servers, err := a.opt.SharedServers(tx.Read, user)
	if err != nil || len(servers) == 0 {
		return err
	}
	out := newKeyAnswer()
	if err := signingKeys(tx.Read, "", user, &out); err != nil {
		return err
	}
	return a.tell(tx, servers, kindSigningKeys, string(user), map[string]any{
		"user_id": user, "master_key": out.MasterKeys[user], "self_signing_key": out.SelfSigningKeys[user],
	})
}

// markList notes the change and wakes the local users concerned.
func (a *Accounts) markList(tx *store.Tx, user event.UserID) error {
	who, err := tx.LocalUsersSharing(user, a.server)
	if err != nil {
		return err
	}
	if a.Local(user) {
		who = append(who, user)
	}
	return tx.MarkDeviceList(user, who)
}

// tell queues one EDU for each server.
func (a *Accounts) tell(tx *store.Tx, servers []string, kind, key string, content any) error {
	body, err := json.Marshal(content)
	if err != nil {
		return err
	}
	for _, dest := range servers {
		if dest == a.server {
			continue
		}
		if err := a.opt.Enqueue(tx, dest, kind, key, body); err != nil {
			return err
		}
	}
	return nil
}

// federationDevices is the answer of GET /_matrix/federation/v1/user/devices/{userId}.
type federationDevices struct {
	User           event.UserID       `json:"user_id"`
	StreamID       int64              `json:"stream_id"`
	Devices        []federationDevice `json:"devices"`
	MasterKey      json.RawMessage    `json:"master_key,omitempty"`
	SelfSigningKey json.RawMessage    `json:"self_signing_key,omitempty"`
}

type federationDevice struct {
	ID   string          `json:"device_id"`
	Name string          `json:"device_display_name,omitempty"`
	Keys json.RawMessage `json:"keys"`
}

// UserDevices gives a local user's devices to another server.
func (a *Accounts) UserDevices(ctx context.Context, user event.UserID) (json.RawMessage, error) {
	ans := federationDevices{User: user, Devices: []federationDevice{}}
	err := a.db.View(ctx, func(r *store.Read) error {
		if row, err := r.Account(user); err != nil || row == nil {
			return cmpErr(err, notFound("there is no such user on this server"))
		}
		out := newKeyAnswer()
		if err := localKeys(r, "", user, nil, &out); err != nil {
			return err
		}
		rows, err := r.Devices(user)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if keys := out.DeviceKeys[user][row.ID]; keys != nil {
				ans.Devices = append(ans.Devices, federationDevice{ID: row.ID, Name: row.Name, Keys: keys})
			}
		}
		ans.MasterKey, ans.SelfSigningKey = out.MasterKeys[user], out.SelfSigningKeys[user]
		ans.StreamID, err = r.DeviceListOut(user)
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(ans)
}

// ReceiveDeviceList takes an m.device_list_update. A gap in the stream of a user whose list is kept here answers the user:
// fetch /user/devices and hand it to UpdateRemoteDevices. Content that is not its sender's to say is passed over.
func (a *Accounts) ReceiveDeviceList(ctx context.Context, origin string, edu json.RawMessage) (event.UserID, error) {
	var up deviceListUpdate
	if json.Unmarshal(edu, &up) != nil || up.User.Server() != origin || up.Device == "" || a.Local(up.User) {
		return "", nil
	}
	var resync event.UserID
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		resync = ""
		at, stale, known, err := tx.RemoteList(up.User)
		if err != nil {
			return err
		}
		if known && up.StreamID <= at && at > 0 {
			return nil // an old story, told again
		}
		gap := stale
		for _, prev := range up.PrevID {
			gap = gap || prev != at // of a list that came with an answer to a query the place is not known, so a predecessor is one that we have not seen
		}
		switch {
		case !known:
			// Nobody here has asked for this list; clients hear of the change and will.
		case gap:
			resync = up.User
			if err := tx.SetRemoteList(up.User, at, true); err != nil {
				return err
			}
		default:
			if err := tx.SetRemoteList(up.User, up.StreamID, false); err != nil {
				return err
			}
		}
		// What the update says is true even when others are missing.
		if known && up.Deleted {
			err = tx.DeleteRemoteDevice(up.User, up.Device)
		} else if known {
			err = tx.PutRemoteDevice(store.DeviceRow{User: up.User, ID: up.Device, Name: up.Name, Keys: up.Keys})
		}
		if err != nil {
			return err
		}
		return a.markList(tx, up.User)
	})
	return resync, err
}

// ReceiveSigningKeys takes an m.signing_key_update.
func (a *Accounts) ReceiveSigningKeys(ctx context.Context, origin string, edu json.RawMessage) error {
	var up struct {
		User           event.UserID    `json:"user_id"`
		MasterKey      json.RawMessage `json:"master_key"`
		SelfSigningKey json.RawMessage `json:"self_signing_key"`
	}
	if json.Unmarshal(edu, &up) != nil || up.User.Server() != origin || a.Local(up.User) {
		return nil
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		if err := putRemoteSigning(tx, up.User, up.MasterKey, up.SelfSigningKey); err != nil {
			return err
		}
		return a.markList(tx, up.User)
	})
}

func putRemoteSigning(tx *store.Tx, user event.UserID, master, self json.RawMessage) error {
	for usage, body := range map[string]json.RawMessage{"master": master, "self_signing": self} {
		if null(body) || publicKey(body) == "" {
			continue
		}
		if err := tx.PutCrossSigningKey(user, usage, body); err != nil {
			return err
		}
	}
	return nil
}

// UpdateRemoteDevices replaces what is kept of a remote user by the answer of its server's /user/devices.
func (a *Accounts) UpdateRemoteDevices(ctx context.Context, user event.UserID, answer json.RawMessage) error {
	var list federationDevices
	if err := json.Unmarshal(answer, &list); err != nil || list.User != user || a.Local(user) {
		return badJSON("this is not the device list of " + string(user))
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		var rows []store.DeviceRow
		for _, d := range list.Devices {
			rows = append(rows, store.DeviceRow{User: user, ID: d.ID, Name: d.Name, Keys: d.Keys})
		}
		if err := tx.ReplaceRemoteDevices(user, rows); err != nil {
			return err
		}
		if err := tx.SetRemoteList(user, list.StreamID, false); err != nil {
			return err
		}
		if err := putRemoteSigning(tx, user, list.MasterKey, list.SelfSigningKey); err != nil {
			return err
		}
		return a.markList(tx, user)
	})
}

// MergeRemoteKeys joins another server's answer to /user/keys/query into ours, and keeps it for times without that server.
// A nil answer means that the server could not be reached: then what was kept, however old, is better than nothing; the
// users of whom nothing is kept are answered as missing.
func (a *Accounts) MergeRemoteKeys(ctx context.Context, asker event.UserID, users []event.UserID, want map[event.UserID][]string, answer json.RawMessage, into *KeyAnswer) (missing []event.UserID, err error) {
	if answer != nil {
		var got KeyAnswer
		if err := json.Unmarshal(answer, &got); err != nil {
			return nil, badJSON("the other server's keys cannot be read")
		}
		if err := a.keepRemoteKeys(ctx, users, want, got); err != nil {
			return nil, err
		}
		for _, user := range users {
			if devices, ok := got.DeviceKeys[user]; ok {
				into.DeviceKeys[user] = devices
			}
		}
	}
	err = a.db.View(ctx, func(r *store.Read) error {
		for _, user := range users {
			if answer != nil { // signing keys with our own users' signatures on them
				if err := signingKeys(r, asker, user, into); err != nil {
					return err
				}
				continue
			}
			ok, err := remoteKeys(r, asker, user, want[user], into)
			if err != nil {
				return err
			}
			if !ok {
				missing = append(missing, user)
			}
		}
		return nil
	})
	return missing, err
}

// keepRemoteKeys stores full answers, so that narrow links need not carry them again.
func (a *Accounts) keepRemoteKeys(ctx context.Context, users []event.UserID, want map[event.UserID][]string, got KeyAnswer) error {
	return a.db.Do(ctx, func(tx *store.Tx) error {
		for _, user := range users {
			if err := a.keepRemoteUser(tx, user, got, len(want[user]) == 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// keepRemoteUser keeps what an answer says of one user; whole says that it tells all devices.
func (a *Accounts) keepRemoteUser(tx *store.Tx, user event.UserID, got KeyAnswer, whole bool) error {
	devices, ok := got.DeviceKeys[user]
	if !ok || a.Local(user) {
		return nil
	}
	if err := putRemoteSigning(tx, user, got.MasterKeys[user], got.SelfSigningKeys[user]); err != nil || !whole {
		return err
	}
	var rows []store.DeviceRow
	for id, keys := range devices {
		var d struct {
			Unsigned struct {
				Name string `json:"device_display_name"`
			} `json:"unsigned"`
		}
		if json.Unmarshal(keys, &d) != nil {
			continue
		}
		rows = append(rows, store.DeviceRow{User: user, ID: id, Name: d.Unsigned.Name, Keys: keys})
	}
	if err := tx.ReplaceRemoteDevices(user, rows); err != nil {
		return err
	}
	// The place in the user's stream is not told with such an answer: 0. While a room is shared every change
	// from now on comes as an update, so the list is good until one shows a gap.
	return tx.SetRemoteList(user, 0, false)
}

// StaleRemoteUsers lists users of a server whose device lists have gaps and should be fetched again.
func (a *Accounts) StaleRemoteUsers(ctx context.Context, server string) ([]event.UserID, error) {
	var out []event.UserID
	err := a.db.View(ctx, func(r *store.Read) error {
		var err error
		out, err = r.StaleRemoteUsers(server)
		return err
	})
	return out, err
}

// DoubtRemoteLists is for when a server may have had more to tell than it will: until they are fetched again, the kept device lists of its users answer nobody whom it
// can answer itself.
func (a *Accounts) DoubtRemoteLists(ctx context.Context, server string) error {
	return a.db.DoSmall(ctx, func(tx *store.Tx) error { return tx.DoubtRemoteLists(server) })
}

// FreshenRemoteLists keeps a server's full answer to /user/keys/query, and tells the clients that those of its users have other devices than were kept here.
func (a *Accounts) FreshenRemoteLists(ctx context.Context, users []event.UserID, answer json.RawMessage) error {
	var got KeyAnswer
	if err := json.Unmarshal(answer, &got); err != nil {
		return badJSON("the other server's keys cannot be read")
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		for _, user := range users {
			before, err := remotePrint(tx, user)
			if err != nil {
				return err
			}
			if err := a.keepRemoteUser(tx, user, got, true); err != nil {
				return err
			}
			after, err := remotePrint(tx, user)
			if err != nil {
				return err
			}
			if before == after {
				continue
			}
			if err := a.markList(tx, user); err != nil {
				return err
			}
		}
		return nil
	})
}

// remotePrint is the same for the same devices and signing keys of a remote user, whichever of the ways to ask for them they came by.
func remotePrint(tx *store.Tx, user event.UserID) (string, error) {
	rows, err := tx.RemoteDevices(user)
	if err != nil {
		return "", err
	}
	devices := map[string]map[string]json.RawMessage{}
	for _, row := range rows {
		var d map[string]json.RawMessage
		if err := json.Unmarshal(row.Keys, &d); err != nil {
			return "", err
		}
		delete(d, "unsigned") // the name, which is not always told
		devices[row.ID] = d
	}
	keys, err := tx.CrossSigningKeys(user)
	if err != nil {
		return "", err
	}
	all, err := json.Marshal([]any{devices, keys}) // maps are written in order
	return string(all), err
}

func sortedUsers[V any](m map[event.UserID]V) []event.UserID { return slices.Sorted(maps.Keys(m)) }
