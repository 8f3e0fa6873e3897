// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"net/http"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// changePassword: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3accountpassword
func (h *Handler) changePassword(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	p, err := h.provePassword(ctx, c, raw, "password")
	if err != nil {
		return nil, err
	}
	var req struct {
		Password string `json:"new_password"`
		Logout   *bool  `json:"logout_devices"`
	}
	if err := unmarshal(p.body, &req); err != nil {
		return nil, err
	}
	if req.Password == "" {
		return nil, missing("new_password")
	}
	if err := h.goodPassword(req.Password); err != nil {
		return nil, err
	}
	if err := h.Accounts.ChangePassword(ctx, c.session, req.Password, req.Logout == nil || *req.Logout); err != nil {
		return nil, err
	}
	p.end()
	return nil, nil
}

// deactivate ends the account for good. Its user leaves all rooms first, so that nobody waits for an answer.
func (h *Handler) deactivate(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	p, err := h.provePassword(ctx, c, raw, "deactivate")
	if err != nil {
		return nil, err
	}
	if err := h.Deactivate(ctx, c.session.User); err != nil {
		return nil, err
	}
	p.end()
	return map[string]string{"id_server_unbind_result": "no-support"}, nil
}

// Deactivate ends an account for good and has it leave its rooms, on its own word or on an administrator's.
func (h *Handler) Deactivate(ctx context.Context, user event.UserID) error {
	if err := h.Accounts.Deactivate(ctx, user); err != nil {
		return err
	}
	var in []store.Membership
	err := h.DB.View(ctx, func(r *store.Read) (err error) {
		in, err = r.RoomsOf(user)
		return err
	})
	if err != nil {
		return err
	}
	for _, m := range in {
		if m.Membership != "join" && m.Membership != "invite" && m.Membership != "knock" {
			continue
		}
		if _, err := h.leaveRoom(ctx, user, m.Room, ""); err != nil {
			h.log.Warn("a deactivated user could not leave a room", "user", user, "room", m.Room, "err", err)
		}
	}
	return nil
}

func (h *Handler) devices(ctx context.Context, c *call) (any, error) {
	list, err := h.Accounts.Devices(ctx, c.session.User)
	return map[string]any{"devices": list}, err
}

func (h *Handler) device(ctx context.Context, c *call) (any, error) {
	return h.Accounts.Device(ctx, c.session.User, c.params[0])
}

func (h *Handler) renameDevice(ctx context.Context, c *call) (any, error) {
	var req struct {
		Name *string `json:"display_name"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if _, err := h.Accounts.Device(ctx, c.session.User, c.params[0]); err != nil || req.Name == nil {
		return nil, err
	}
	return nil, h.Accounts.RenameDevice(ctx, c.session.User, c.params[0], *req.Name)
}

func (h *Handler) deleteDevice(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	p, err := h.provePassword(ctx, c, raw, "delete devices")
	if err != nil {
		return nil, err
	}
	if err := h.Accounts.DeleteDevices(ctx, c.session.User, c.params[0]); err != nil {
		return nil, err
	}
	p.end()
	return nil, nil
}

func (h *Handler) deleteDevices(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	p, err := h.provePassword(ctx, c, raw, "delete devices")
	if err != nil {
		return nil, err
	}
	var req struct {
		Devices []string `json:"devices"`
	}
	if err := unmarshal(p.body, &req); err != nil {
		return nil, err
	}
	if req.Devices == nil {
		return nil, missing("devices")
	}
	if err := h.Accounts.DeleteDevices(ctx, c.session.User, req.Devices...); err != nil {
		return nil, err
	}
	p.end()
	return nil, nil
}

// profileOf reads a profile here or at the user's server.
func (h *Handler) profileOf(ctx context.Context, user event.UserID) (map[string]json.RawMessage, error) {
	if _, err := event.ParseUserID(string(user)); err != nil {
		return nil, invalid("this is not a user id")
	}
	if h.Accounts.Local(user) {
		return h.Accounts.Profile(ctx, user)
	}
	if h.Remote == nil {
		return nil, errAlone(user.Server())
	}
	out, err := h.slow.do(ctx, "profile "+string(user), func(ctx context.Context) (any, error) {
		raw, err := h.Remote.Profile(ctx, user)
		if err != nil {
			return nil, remoteError(err)
		}
		var p map[string]json.RawMessage
		if json.Unmarshal(raw, &p) != nil {
			return nil, refuse(http.StatusBadGateway, "M_UNKNOWN", "the other server's answer cannot be read")
		}
		return p, nil
	})
	if err != nil {
		return nil, err
	}
	return out.(map[string]json.RawMessage), nil
}

func (h *Handler) profile(ctx context.Context, c *call) (any, error) {
	return h.profileOf(ctx, event.UserID(c.params[0]))
}

func (h *Handler) profileField(ctx context.Context, c *call) (any, error) {
	p, err := h.profileOf(ctx, event.UserID(c.params[0]))
	if err != nil {
		return nil, err
	}
	field := c.params[1]
	v, ok := p[field]
	if !ok {
		if field == "displayname" || field == "avatar_url" { // known fields that are not set
			return nil, nil
		}
		return nil, notFound("the profile has no such field")
	}
	return map[string]json.RawMessage{field: v}, nil
}

// setProfileField stores a field and tells it to the rooms that show it.
func (h *Handler) setProfileField(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	var req map[string]json.RawMessage
	if err := unmarshal(raw, &req); err != nil {
		return nil, err
	}
	field := c.params[1]
	value, ok := req[field]
	if !ok {
		return nil, missing(field)
	}
	return nil, h.changeProfile(ctx, user, field, value)
}

func (h *Handler) deleteProfileField(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	return nil, h.changeProfile(ctx, user, c.params[1], nil)
}

func (h *Handler) changeProfile(ctx context.Context, user event.UserID, field string, value json.RawMessage) error {
	if err := h.Accounts.SetProfileField(ctx, user, field, value); err != nil {
		return err
	}
	if field != "displayname" && field != "avatar_url" {
		return nil
	}
	var rooms []event.RoomID
	err := h.DB.View(ctx, func(r *store.Read) (err error) {
		rooms, err = r.JoinedRooms(user)
		return err
	})
	if err != nil {
		return err
	}
	name, avatar := h.Accounts.DisplayName(ctx, user)
	for _, id := range rooms {
		if err := h.retellMember(ctx, id, user, name, avatar); err != nil {
			h.log.Warn("a room did not take the new profile", "user", user, "room", id, "err", err)
		}
	}
	return nil
}

// retellMember sends the user's member event again with the profile as it is now.
func (h *Handler) retellMember(ctx context.Context, id event.RoomID, user event.UserID, name, avatar string) error {
	old, err := h.Rooms.StateEvent(ctx, id, "m.room.member", string(user))
	if err != nil || old == nil {
		return err
	}
	content := map[string]json.RawMessage{}
	if err := json.Unmarshal(old.Content, &content); err != nil {
		return err
	}
	// These spoke of how the user came in; the new event only shows that they are there.
	delete(content, "reason")
	delete(content, "join_authorised_via_users_server")
	delete(content, "third_party_invite")
	setText(content, "displayname", name)
	setText(content, "avatar_url", avatar)
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	key := string(user)
	_, err = h.Rooms.Send(ctx, room.Draft{Room: id, Sender: user, Type: "m.room.member", StateKey: &key, Content: raw})
	return err
}

func setText(m map[string]json.RawMessage, key, value string) {
	if value == "" {
		delete(m, key)
		return
	}
	if b, err := json.Marshal(value); err == nil { // a string always marshals
		m[key] = b
	}
}

func (h *Handler) accountData(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	return h.Accounts.AccountData(ctx, user, "", c.params[1])
}

func (h *Handler) setAccountData(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetAccountData(ctx, user, "", c.params[1], raw)
}

func (h *Handler) roomAccountData(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	id, err := roomID(c.params[1])
	if err != nil {
		return nil, err
	}
	return h.Accounts.AccountData(ctx, user, id, c.params[2])
}

func (h *Handler) setRoomAccountData(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	id, err := roomID(c.params[1])
	if err != nil {
		return nil, err
	}
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetAccountData(ctx, user, id, c.params[2], raw)
}

func (h *Handler) tags(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	tags, err := h.Accounts.Tags(ctx, user, event.RoomID(c.params[1]))
	return map[string]any{"tags": tags}, err
}

func (h *Handler) setTag(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	id, err := roomID(c.params[1])
	if err != nil {
		return nil, err
	}
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetTag(ctx, user, id, c.params[2], raw)
}

func (h *Handler) deleteTag(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetTag(ctx, user, event.RoomID(c.params[1]), c.params[2], nil)
}

func (h *Handler) saveFilter(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	if err := checkFilter(raw); err != nil {
		return nil, err
	}
	id, err := h.Accounts.SaveFilter(ctx, user, raw)
	return map[string]string{"filter_id": id}, err
}

func (h *Handler) filter(ctx context.Context, c *call) (any, error) {
	user, err := c.self(c.params[0])
	if err != nil {
		return nil, err
	}
	return h.Accounts.Filter(ctx, user, c.params[1])
}

// openIDToken: https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3useruseridopenidrequest_token
func (h *Handler) openIDToken(_ context.Context, c *call) (any, error) {
	if event.UserID(c.params[0]) != c.session.User {
		return nil, forbidden("a token is given for oneself only")
	}
	token, life := h.Accounts.OpenIDToken(c.session.User)
	return map[string]any{"access_token": token, "token_type": "Bearer", "matrix_server_name": h.ServerName, "expires_in": int(life.Seconds())}, nil
}
