// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// carried is the state that a replacement room takes over as it stands.
var carried = []string{"m.room.server_acl", "m.room.encryption", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.guest_access",
	"m.room.history_visibility", "m.room.join_rules", "m.room.policy"}

// upgradeRoom makes the replacement first and closes the old room last, so that whatever breaks in between leaves the
// old room as it was.
func (h *Handler) upgradeRoom(ctx context.Context, user event.UserID, old event.RoomID, version string, additional []event.UserID) (any, error) {
	may, err := h.mayState(ctx, old, user, "m.room.tombstone")
	if err != nil {
		return nil, err
	}
	if !may {
		return nil, forbidden("the user may not close this room")
	}
	req, levels, err := h.replacement(ctx, user, old, version, additional)
	if err != nil {
		return nil, err
	}
	next, err := h.Rooms.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	if levels != nil { // what the upgrading user had lent to themselves
		if err := h.sendState(ctx, next, user, "m.room.power_levels", "", levels); err != nil {
			h.log.Info("the replacement room keeps the power of who made it", "room", next, "err", err)
		}
	}
	h.carryBans(ctx, user, old, next)
	if members, err := h.Rooms.Joined(ctx, old); err == nil {
		for _, m := range members {
			if h.Accounts.Local(m) {
				h.carryUser(ctx, m, old, next)
			}
		}
	}
	if err := h.moveAliases(ctx, user, old, next); err != nil {
		return nil, err
	}
	err = h.sendState(ctx, old, user, "m.room.tombstone", "", map[string]any{"body": "This room has been replaced", "replacement_room": next})
	if err != nil {
		return nil, err
	}
	h.quiet(ctx, old, user)
	return map[string]any{"replacement_room": next}, nil
}

func (h *Handler) sendState(ctx context.Context, id event.RoomID, user event.UserID, typ, key string, content any) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = h.Rooms.Send(ctx, room.Draft{Room: id, Sender: user, Type: typ, StateKey: &key, Content: raw})
	return err
}

// stateContent reads the content of one state event, nil when there is none.
func (h *Handler) stateContent(ctx context.Context, id event.RoomID, typ, key string) (map[string]json.RawMessage, error) {
	e, err := h.Rooms.StateEvent(ctx, id, typ, key)
	if err != nil || e == nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	err = json.Unmarshal(e.Content, &m)
	return m, err
}

// replacement describes the new room. levels is what its power levels shall be afterwards, nil when they are so from the start.
func (h *Handler) replacement(ctx context.Context, user event.UserID, old event.RoomID, version string, additional []event.UserID) (req room.CreateRequest, levels any, err error) {
	req = room.CreateRequest{Creator: user, Version: version, Preset: "private_chat",
		Profile: func(u event.UserID) (string, string) { return h.Accounts.DisplayName(ctx, u) }}
	create, err := h.stateContent(ctx, old, "m.room.create", "")
	if err != nil {
		return req, nil, err
	}
	creation := map[string]any{}
	for _, k := range []string{"type", "m.federate"} {
		if v, ok := create[k]; ok {
			creation[k] = v
		}
	}
	v, _ := event.Lookup(version)
	predecessor := map[string]any{"room_id": old}
	if !v.CreateIsRoomID {
		last, err := h.Rooms.Extremities(ctx, old)
		if err != nil {
			return req, nil, err
		}
		if len(last) > 0 {
			predecessor["event_id"] = last[0]
		}
	} else if len(additional) > 0 {
		creation["additional_creators"] = additional
	}
	creation["predecessor"] = predecessor
	if req.CreationContent, err = json.Marshal(creation); err != nil {
		return req, nil, err
	}
	for _, typ := range carried {
		e, err := h.Rooms.StateEvent(ctx, old, typ, "")
		if err != nil {
			return req, nil, err
		}
		if e != nil {
			req.InitialState = append(req.InitialState, room.StateDraft{Type: typ, Content: e.Content})
		}
	}
	pl, err := h.stateContent(ctx, old, "m.room.power_levels", "")
	if err != nil || pl == nil {
		return req, nil, err
	}
	req.PowerOverride, levels, err = carriedLevels(pl, user, v.Creators, additional)
	return req, levels, err
}

// carriedLevels turns the old power levels into those of a room that user creates. Where creators stand above all levels
// they are not listed; elsewhere the creator needs 100 until the room is furnished.
func carriedLevels(pl map[string]json.RawMessage, user event.UserID, privileged bool, additional []event.UserID) (override json.RawMessage, after any, err error) {
	users := map[event.UserID]int64{}
	if raw, ok := pl["users"]; ok {
		if err := json.Unmarshal(raw, &users); err != nil {
			return nil, nil, invalid("the old room's power levels cannot be read")
		}
	}
	put := func(users map[event.UserID]int64) (json.RawMessage, error) {
		raw, err := json.Marshal(users)
		if err != nil {
			return nil, err
		}
		pl["users"] = raw
		return json.Marshal(pl)
	}
	if privileged {
		delete(users, user)
		for _, u := range additional {
			delete(users, u)
		}
		override, err = put(users)
		return override, nil, err
	}
	had, listed := users[user]
	if listed && had >= 100 {
		override, err = put(users)
		return override, nil, err
	}
	afterwards, err := put(users)
	if err != nil {
		return nil, nil, err
	}
	users[user] = 100
	override, err = put(users)
	return override, afterwards, err
}

// carryBans keeps out of the new room who was kept out of the old one.
func (h *Handler) carryBans(ctx context.Context, user event.UserID, old, next event.RoomID) {
	var banned []store.Membership
	err := h.DB.View(ctx, func(r *store.Read) (err error) {
		banned, err = r.Members(old, "ban")
		return err
	})
	for _, m := range banned {
		if err == nil {
			err = h.sendState(ctx, next, user, "m.room.member", string(m.User), map[string]string{"membership": "ban"})
		}
	}
	if err != nil {
		h.log.Warn("not all bans were carried into the replacement room", "room", next, "err", err)
	}
}

// moveAliases lets this server's aliases and the directory point to the new room.
func (h *Handler) moveAliases(ctx context.Context, user event.UserID, old, next event.RoomID) error {
	var moved []string
	err := h.DB.Do(ctx, func(tx *store.Tx) error {
		aliases, err := tx.Aliases(old)
		if err != nil {
			return err
		}
		moved = aliases
		for _, a := range aliases {
			_, creator, err := tx.Alias(a)
			if err != nil {
				return err
			}
			if _, err := tx.DropAlias(a); err != nil {
				return err
			}
			if _, err := tx.SetAlias(a, next, creator); err != nil {
				return err
			}
		}
		on, err := tx.Read.Published(old)
		if err != nil || !on {
			return err
		}
		if err := tx.SetPublished(old, false); err != nil {
			return err
		}
		return tx.SetPublished(next, true)
	})
	if err != nil || len(moved) == 0 {
		return err
	}
	e, err := h.Rooms.StateEvent(ctx, old, "m.room.canonical_alias", "")
	if err != nil || e == nil {
		return err
	}
	var list aliasContent
	if json.Unmarshal(e.Content, &list) != nil {
		return nil
	}
	if err := h.sendState(ctx, old, user, "m.room.canonical_alias", "", struct{}{}); err != nil {
		h.log.Info("the old room keeps its list of aliases", "room", old, "err", err)
	}
	list.Alt = slices.DeleteFunc(list.Alt, func(a string) bool { return !slices.Contains(moved, a) })
	content := map[string]any{}
	if slices.Contains(moved, list.Alias) {
		content["alias"] = list.Alias
	}
	if len(list.Alt) > 0 {
		content["alt_aliases"] = list.Alt
	}
	return h.sendState(ctx, next, user, "m.room.canonical_alias", "", content)
}

// quiet raises what it takes to speak and to invite in the old room, as far as the user may.
func (h *Handler) quiet(ctx context.Context, old event.RoomID, user event.UserID) {
	pl, err := h.stateContent(ctx, old, "m.room.power_levels", "")
	if err != nil || pl == nil {
		return
	}
	var base int64
	if raw, ok := pl["users_default"]; ok && json.Unmarshal(raw, &base) != nil {
		return
	}
	level, err := json.Marshal(max(50, base+1))
	if err != nil {
		return
	}
	pl["events_default"], pl["invite"] = level, level
	if err := h.sendState(ctx, old, user, "m.room.power_levels", "", pl); err != nil {
		h.log.Info("the old room stays open for talk", "room", old, "err", err)
	}
}

// predecessor names the room that id replaces, "" when there is none.
func (h *Handler) predecessor(ctx context.Context, id event.RoomID) event.RoomID {
	create, err := h.stateContent(ctx, id, "m.room.create", "")
	if err != nil {
		return ""
	}
	var pre struct {
		Room event.RoomID `json:"room_id"`
	}
	if raw, ok := create["predecessor"]; !ok || json.Unmarshal(raw, &pre) != nil {
		return ""
	}
	return pre.Room
}

// carryUser gives a user in the new room the tags and the push rule that they had for the old one.
func (h *Handler) carryUser(ctx context.Context, user event.UserID, old, next event.RoomID) {
	if old == "" || old == next {
		return
	}
	if err := h.carryTags(ctx, user, old, next); err != nil {
		h.log.Warn("tags were not carried into the replacement room", "room", next, "user", user, "err", err)
	}
	raw, err := h.Accounts.PushRule(ctx, user, "room", string(old))
	if err != nil {
		return // there is none
	}
	var rule struct {
		Actions json.RawMessage `json:"actions"`
		Enabled *bool           `json:"enabled,omitempty"`
	}
	if json.Unmarshal(raw, &rule) != nil {
		return
	}
	body, err := json.Marshal(map[string]any{"actions": rule.Actions})
	if err == nil {
		err = h.Accounts.SetPushRule(ctx, user, "room", string(next), body, "", "")
	}
	if err == nil && rule.Enabled != nil && !*rule.Enabled {
		err = h.Accounts.SetPushRuleAttr(ctx, user, "room", string(next), "enabled", json.RawMessage(`{"enabled":false}`))
	}
	if err != nil {
		h.log.Warn("a push rule was not carried into the replacement room", "room", next, "user", user, "err", err)
	}
}

func (h *Handler) carryTags(ctx context.Context, user event.UserID, old, next event.RoomID) error {
	tags, err := h.Accounts.Tags(ctx, user, old)
	if err != nil {
		return err
	}
	for tag, content := range tags {
		if err := h.Accounts.SetTag(ctx, user, next, tag, content); err != nil {
			return err
		}
	}
	return nil
}
