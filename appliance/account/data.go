// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// AccountData gives what the user's clients have stored under a type, for a room or ("") globally; M_NOT_FOUND.
func (a *Accounts) AccountData(ctx context.Context, user event.UserID, room event.RoomID, typ string) (json.RawMessage, error) {
	if room == "" && typ == typePushRules {
		return a.PushRules(ctx, user)
	}
	var out json.RawMessage
	err := a.db.View(ctx, func(r *store.Read) error {
		var err error
		out, err = r.AccountData(user, room, typ)
		return err
	})
	if err == nil && out == nil {
		return nil, notFound("there is no account data of this type")
	}
	return out, err
}

// SetAccountData stores an object and wakes the user's other clients. Read markers and push rules have their own doors.
func (a *Accounts) SetAccountData(ctx context.Context, user event.UserID, room event.RoomID, typ string, content json.RawMessage) error {
	if typ == "m.fully_read" || room == "" && typ == typePushRules {
		return refuse(405, "M_BAD_JSON", "account data of this type is written through its own endpoint")
	}
	if err := object(content); err != nil {
		return err
	}
	return a.putData(ctx, user, room, typ, content)
}

func (a *Accounts) putData(ctx context.Context, user event.UserID, room event.RoomID, typ string, content json.RawMessage) error {
	return a.db.Do(ctx, func(tx *store.Tx) error { return tx.PutAccountData(user, room, typ, content) })
}

// SetReadMarker moves the user's m.fully_read in a room.
func (a *Accounts) SetReadMarker(ctx context.Context, user event.UserID, room event.RoomID, id event.ID) error {
	content, err := json.Marshal(map[string]event.ID{"event_id": id})
	if err != nil {
		return err
	}
	return a.putData(ctx, user, room, "m.fully_read", content)
}

type tagContent struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// Tags gives the user's tags of a room.
func (a *Accounts) Tags(ctx context.Context, user event.UserID, room event.RoomID) (map[string]json.RawMessage, error) {
	var c tagContent
	err := a.db.View(ctx, func(r *store.Read) error {
		raw, err := r.AccountData(user, room, "m.tag")
		if err == nil && raw != nil {
			err = json.Unmarshal(raw, &c)
		}
		return err
	})
	if c.Tags == nil {
		c.Tags = map[string]json.RawMessage{}
	}
	return c.Tags, err
}

// SetTag sets a tag, or takes it away when content is nil.
func (a *Accounts) SetTag(ctx context.Context, user event.UserID, room event.RoomID, tag string, content json.RawMessage) error {
	if content != nil {
		if err := object(content); err != nil {
			return err
		}
	}
	if len(tag) > 255 {
		return refuse(400, "M_INVALID_PARAM", "a tag has at most 255 bytes")
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		var c tagContent
		raw, err := tx.AccountData(user, room, "m.tag")
		if err == nil && raw != nil {
			err = json.Unmarshal(raw, &c)
		}
		if err != nil {
			return err
		}
		if c.Tags == nil {
			c.Tags = map[string]json.RawMessage{}
		}
		if content == nil {
			delete(c.Tags, tag)
		} else {
			c.Tags[tag] = content
		}
		raw, err = json.Marshal(c)
		if err != nil {
			return err
		}
		return tx.PutAccountData(user, room, "m.tag", raw)
	})
}

// SaveFilter stores a filter for later syncs and gives its id; an equal filter gets its old id again.
func (a *Accounts) SaveFilter(ctx context.Context, user event.UserID, filter json.RawMessage) (string, error) {
	if err := object(filter); err != nil {
		return "", err
	}
	var n int64
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		n, err = tx.PutFilter(user, filter)
		return err
	})
	return strconv.FormatInt(n, 10), err
}

// Filter gives a stored filter; M_NOT_FOUND.
func (a *Accounts) Filter(ctx context.Context, user event.UserID, id string) (json.RawMessage, error) {
	n, err := strconv.ParseInt(id, 10, 64)
	if err != nil {
		return nil, notFound("there is no such filter")
	}
	var out json.RawMessage
	err = a.db.View(ctx, func(r *store.Read) error {
		out, err = r.Filter(user, n)
		return err
	})
	if err == nil && out == nil {
		return nil, notFound("there is no such filter")
	}
	return out, err
}

// object refuses what is not a JSON object.
func object(raw json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		return badJSON("a JSON object is needed")
	}
	return nil
}
