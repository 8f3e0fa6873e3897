// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// maxLetters bounds one m.direct_to_device EDU, so that it fits a parcel of a narrow link.
const maxLetters = 16 << 10

// toDeviceEDU is https://spec.matrix.org/latest/server-server-api/#mdirect_to_device
type toDeviceEDU struct {
	Sender    event.UserID                                `json:"sender"`
	Type      string                                      `json:"type"`
	MessageID string                                      `json:"message_id"`
	Messages  map[event.UserID]map[string]json.RawMessage `json:"messages"`
}

// SendToDevice puts letters into the boxes of local devices and queues those for other servers. The same transaction id of
// the same device is one sending.
func (a *Accounts) SendToDevice(ctx context.Context, s Session, typ, txn string, messages map[event.UserID]map[string]json.RawMessage) error {
	for _, devices := range messages {
		for _, content := range devices {
			if err := object(content); err != nil {
				return err
			}
		}
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		fresh, err := tx.TakeOnce(string(s.User)+"|"+s.Device, typ+"|"+txn)
		if err != nil || !fresh {
			return err
		}
		remote := map[string][]letter{}
		for _, user := range sortedUsers(messages) {
			for _, device := range sortedKeys(messages[user]) {
				l := letter{user, device, messages[user][device]}
				if !a.Local(user) {
					remote[user.Server()] = append(remote[user.Server()], l)
					continue
				}
				if err := deliver(tx, s.User, typ, l); err != nil {
					return err
				}
			}
		}
		for _, dest := range sortedKeys(remote) {
			if err := a.post(tx, dest, s.User, typ, remote[dest]); err != nil {
				return err
			}
		}
		return nil
	})
}

// letter is one message to one device.
type letter struct {
	user    event.UserID
	device  string
	content json.RawMessage
}

func deliver(tx *store.Tx, sender event.UserID, typ string, l letter) error {
	body, err := json.Marshal(map[string]any{"sender": sender, "type": typ, "content": l.content})
	if err != nil {
		return err
	}
	return tx.PutToDevice(l.user, l.device, body)
}

// post queues letters for one server in EDUs of bounded size.
func (a *Accounts) post(tx *store.Tx, dest string, sender event.UserID, typ string, letters []letter) error {
	for len(letters) > 0 {
		edu := toDeviceEDU{Sender: sender, Type: typ, MessageID: randomString(20), Messages: map[event.UserID]map[string]json.RawMessage{}}
		n, size := 0, 0
		for n < len(letters) && (n == 0 || size+len(letters[n].content) <= maxLetters) {
			l := letters[n]
			if edu.Messages[l.user] == nil {
				edu.Messages[l.user] = map[string]json.RawMessage{}
			}
			edu.Messages[l.user][l.device] = l.content
			size += len(l.content)
			n++
		}
		letters = letters[n:]
		// No key: letters are never collapsed.
		if err := a.tell(tx, []string{dest}, kindToDevice, "", edu); err != nil {
			return err
		}
	}
	return nil
}

// ReceiveToDevice takes another server's m.direct_to_device. A nil error means that the letters are on disk, or were
// before; an EDU that is not what it should be is passed over, for no repetition would make it better.
func (a *Accounts) ReceiveToDevice(ctx context.Context, origin string, raw json.RawMessage) error {
	var edu toDeviceEDU
	if json.Unmarshal(raw, &edu) != nil || edu.Sender.Server() != origin || edu.Type == "" || edu.MessageID == "" || len(edu.MessageID) > 255 {
		a.opt.Log.Warn("to-device message passed over: malformed, or not its server's to send", "origin", origin)
		return nil
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		fresh, err := tx.TakeOnce(origin, edu.MessageID)
		if err != nil || !fresh {
			return err
		}
		for _, user := range sortedUsers(edu.Messages) {
			if !a.Local(user) {
				continue
			}
			for _, device := range sortedKeys(edu.Messages[user]) {
				if object(edu.Messages[user][device]) != nil {
					continue // no client could read it
				}
				if err := deliver(tx, edu.Sender, edu.Type, letter{user, device, edu.Messages[user][device]}); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Receipt says how far a user has read.
type Receipt struct {
	Room   event.RoomID
	User   event.UserID
	Type   string // m.read, m.read.private
	Event  event.ID
	Thread string // "": unthreaded; "main" or the root's id
	TS     int64  // ms; 0: now
}

// SetReceipt notes a receipt of a local user. It may be lost in a power cut; a private one never leaves the box.
func (a *Accounts) SetReceipt(ctx context.Context, x Receipt) error {
	if x.Type != "m.read" && x.Type != "m.read.private" {
		return refuse(400, "M_INVALID_PARAM", "the receipt type must be m.read or m.read.private")
	}
	if x.TS == 0 {
		x.TS = a.opt.Now().UnixMilli()
	}
	err := a.db.View(ctx, func(r *store.Read) error {
		m, err := r.MembershipOf(x.Room, x.User)
		if err == nil && m.Membership != "join" {
			err = refuse(403, "M_FORBIDDEN", "you are not in this room")
		}
		return err
	})
	if err != nil {
		return err
	}
	a.db.Lazy(func(tx *store.Tx) error {
		newer, err := putReceipt(tx, x)
		if err != nil || !newer || x.Type != "m.read" {
			return err
		}
		servers, err := tx.Servers(x.Room)
		if err != nil {
			return err
		}
		data := map[string]any{"ts": x.TS}
		if x.Thread != "" {
			data["thread_id"] = x.Thread
		}
		content := map[event.RoomID]any{x.Room: map[string]any{"m.read": map[event.UserID]any{x.User: map[string]any{
			"event_ids": []event.ID{x.Event}, "data": data,
		}}}}
		return a.tell(tx, servers, kindReceipt, string(x.Room)+"|"+string(x.User)+"|"+x.Thread, content)
	})
	return nil
}

// putReceipt stores a receipt unless the user has read further already.
func putReceipt(tx *store.Tx, x Receipt) (bool, error) {
	old, err := tx.ReceiptsOf(x.Room, x.User)
	if err != nil {
		return false, err
	}
	for _, o := range old {
		if o.Type != x.Type || o.Thread != x.Thread {
			continue
		}
		if o.Event == x.Event {
			return false, nil
		}
		was, err := tx.Event(o.Event)
		if err != nil {
			return false, err
		}
		is, err := tx.Event(x.Event)
		if err != nil {
			return false, err
		}
		if was != nil && is != nil && was.Pos > is.Pos {
			return false, nil
		}
	}
	return true, tx.PutReceipt(store.ReceiptRow{Room: x.Room, Type: x.Type, User: x.User, Thread: x.Thread, Event: x.Event, TS: x.TS})
}

// ReceiveReceipts takes another server's m.receipt; what is not that server's to say, or of rooms its users are not in, is
// passed over.
func (a *Accounts) ReceiveReceipts(_ context.Context, origin string, raw json.RawMessage) error {
	var edu map[event.RoomID]map[string]map[event.UserID]struct {
		IDs  []event.ID `json:"event_ids"`
		Data struct {
			TS     int64  `json:"ts"`
			Thread string `json:"thread_id"`
		} `json:"data"`
	}
	if json.Unmarshal(raw, &edu) != nil {
		return nil
	}
	a.db.Lazy(func(tx *store.Tx) error {
		for id, types := range edu {
			for user, data := range types["m.read"] {
				if user.Server() != origin || len(data.IDs) == 0 {
					continue
				}
				in, err := tx.MayBeIn(id, user)
				if err != nil {
					return err
				}
				if !in {
					continue
				}
				x := Receipt{Room: id, User: user, Type: "m.read", Event: data.IDs[len(data.IDs)-1], Thread: data.Data.Thread, TS: data.Data.TS}
				if _, err := putReceipt(tx, x); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return nil
}
