// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// roomID checks the shape of a room id.
func roomID(s string) (event.RoomID, error) {
	if len(s) < 2 || len(s) > 255 || s[0] != '!' {
		return "", invalid("this is not a room id")
	}
	return event.RoomID(s), nil
}

func userParam(s string) (event.UserID, error) {
	u, err := event.ParseUserID(s)
	if err != nil {
		return "", invalid("this is not a user id")
	}
	return u, nil
}

type createRoomRequest struct {
	Visibility      string            `json:"visibility"`
	Alias           string            `json:"room_alias_name"`
	Name            string            `json:"name"`
	Topic           string            `json:"topic"`
	Invite          []string          `json:"invite"`
	Invite3PID      []json.RawMessage `json:"invite_3pid"`
	Version         *string           `json:"room_version"`
	CreationContent json.RawMessage   `json:"creation_content"`
	InitialState    []struct {
		Type     *string         `json:"type"`
		StateKey string          `json:"state_key"`
		Content  json.RawMessage `json:"content"`
	} `json:"initial_state"`
	Preset        string          `json:"preset"`
	IsDirect      bool            `json:"is_direct"`
	PowerOverride json.RawMessage `json:"power_level_content_override"`
}

// createRoom: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3createroom
func (h *Handler) createRoom(ctx context.Context, c *call) (any, error) {
	var req createRoomRequest
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	cr, err := h.createRequest(ctx, c.session.User, req)
	if err != nil {
		return nil, err
	}
	id, err := h.Rooms.Create(ctx, cr)
	if err != nil {
		return nil, err
	}
	h.carryUser(ctx, c.session.User, h.predecessor(ctx, id), id)
	h.inviteAll(ctx, inviteRequest{sender: c.session.User, room: id, direct: req.IsDirect}, cr.Invite)
	return map[string]any{"room_id": id}, nil
}

// createPatience is how long the answer to createRoom waits for invites to other servers.
const createPatience = 5 * time.Second

// inviteAll invites the users of other servers into a new room, all at once. The room is there whatever becomes of the
// invites: what takes long goes on in the background, and who is out of reach is invited later.
func (h *Handler) inviteAll(ctx context.Context, q inviteRequest, users []event.UserID) {
	ctx, stop := context.WithTimeout(ctx, createPatience)
	defer stop()
	var wg sync.WaitGroup
	for _, u := range users {
		if h.Accounts.Local(u) {
			continue
		}
		q := q
		q.target = u
		wg.Go(func() {
			if err := h.inviteUser(ctx, q); err != nil {
				h.log.Info("an invite of a new room did not get through yet", "room", q.room, "user", q.target, "err", err)
			}
		})
	}
	wg.Wait()
}

func (h *Handler) createRequest(ctx context.Context, creator event.UserID, req createRoomRequest) (room.CreateRequest, error) {
	cr := room.CreateRequest{
		Creator: creator, Preset: req.Preset, Visibility: req.Visibility, Name: req.Name, Topic: req.Topic,
		AliasLocalpart: req.Alias, IsDirect: req.IsDirect, CreationContent: req.CreationContent, PowerOverride: req.PowerOverride,
		Profile: func(u event.UserID) (string, string) { return h.Accounts.DisplayName(ctx, u) },
	}
	switch req.Visibility {
	case "", "public", "private":
	default:
		return cr, invalid("visibility must be public or private")
	}
	switch req.Preset {
	case "", "private_chat", "public_chat", "trusted_private_chat":
	default:
		return cr, invalid("preset must be private_chat, public_chat or trusted_private_chat")
	}
	if req.Version != nil {
		if !creatable(*req.Version) {
			return cr, refuse(http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", "this room version cannot be created here")
		}
		cr.Version = *req.Version
	}
	if len(req.Invite3PID) > 0 {
		return cr, errNoIdentityServer()
	}
	if req.Alias != "" {
		alias := "#" + req.Alias + ":" + h.ServerName
		if !goodAlias(alias) || strings.Contains(req.Alias, ":") {
			return cr, invalid("this alias cannot be used")
		}
		if h.reservedAlias(alias, nil) {
			return cr, refuse(http.StatusBadRequest, "M_EXCLUSIVE", "this alias is reserved for an application service")
		}
	}
	seen := map[event.UserID]bool{creator: true}
	for _, s := range req.Invite {
		u, err := userParam(s)
		if err != nil {
			return cr, err
		}
		if err := h.invitable(ctx, u); err != nil {
			return cr, err
		}
		if !seen[u] {
			seen[u] = true
			cr.Invite = append(cr.Invite, u)
		}
	}
	for _, s := range req.InitialState {
		if s.Type == nil || s.Content == nil {
			return cr, badJSON("initial_state needs type and content")
		}
		cr.InitialState = append(cr.InitialState, room.StateDraft{Type: *s.Type, StateKey: s.StateKey, Content: s.Content})
	}
	return cr, nil
}

// invitable refuses local users that do not exist, so that a slip of the finger is told at once.
func (h *Handler) invitable(ctx context.Context, u event.UserID) error {
	if !h.Accounts.Local(u) || h.serviceNamed(u) {
		return nil
	}
	user, err := h.Accounts.User(ctx, u)
	if err == nil && user.Deactivated {
		return notFound("the account " + string(u) + " has been deactivated")
	}
	return err
}

// target is the body of the requests about another user.
type target struct {
	User   string `json:"user_id"`
	Reason string `json:"reason"`
	Medium string `json:"medium"` // of a third-party invite, in place of the user
}

// errNoIdentityServer is said where a user is to be found by an address. A box trusts no identity server: it could seldom be reached, and would learn whom people
// look for. Invites by address that others have made are turned into invites all the same.
// https://spec.matrix.org/v1.19/client-server-api/#third-party-invites
func errNoIdentityServer() error {
	return refuse(http.StatusForbidden, "M_SERVER_NOT_TRUSTED", "this server asks no identity server; invite people by their user id")
}

// moderation reads room, target and reason of a request about another user.
func (c *call) moderation() (id event.RoomID, user event.UserID, reason string, err error) {
	if id, err = roomID(c.params[0]); err != nil {
		return
	}
	var t target
	if err = c.decode(&t); err != nil {
		return
	}
	switch {
	case t.User == "" && t.Medium != "":
		return id, "", "", errNoIdentityServer()
	case t.User == "":
		return id, "", "", missing("user_id")
	}
	user, err = userParam(t.User)
	return id, user, t.Reason, err
}

type inviteRequest struct {
	sender, target event.UserID
	room           event.RoomID
	reason         string
	direct         bool
	content        json.RawMessage // of a member event that a client wrote itself; nil: made here
}

func (h *Handler) invite(ctx context.Context, c *call) (any, error) {
	id, user, reason, err := c.moderation()
	if err != nil {
		return nil, err
	}
	if err := h.invitable(ctx, user); err != nil {
		return nil, err
	}
	return nil, h.inviteUser(ctx, inviteRequest{sender: c.session.User, room: id, target: user, reason: reason})
}

// memberContent makes the content of a member event of a user.
func (h *Handler) memberContent(ctx context.Context, user event.UserID, membership, reason string) map[string]any {
	m := map[string]any{"membership": membership}
	if reason != "" {
		m["reason"] = reason
	}
	if h.Accounts.Local(user) && (membership == "join" || membership == "invite" || membership == "knock") {
		name, avatar := h.Accounts.DisplayName(ctx, user)
		if name != "" {
			m["displayname"] = name
		}
		if avatar != "" {
			m["avatar_url"] = avatar
		}
	}
	return m
}

// memberDraft is a member event that a local user wants.
func memberDraft(id event.RoomID, sender, user event.UserID, content any) (room.Draft, error) {
	raw, err := json.Marshal(content)
	key := string(user)
	return room.Draft{Room: id, Sender: sender, Type: "m.room.member", StateKey: &key, Content: raw}, err
}

// inviteUser invites anybody: local users by an event, others by an event that their server has signed too.
func (h *Handler) inviteUser(ctx context.Context, q inviteRequest) error {
	content := h.memberContent(ctx, q.target, "invite", q.reason)
	if q.direct {
		content["is_direct"] = true
	}
	d, err := memberDraft(q.room, q.sender, q.target, content)
	if err != nil {
		return err
	}
	if q.content != nil {
		d.Content = q.content
	}
	if h.Accounts.Local(q.target) {
		_, err := h.Rooms.Send(ctx, d)
		return err
	}
	if h.Remote == nil {
		return errAlone(q.target.Server())
	}
	return h.inviteElsewhere(ctx, d, false)
}

func (h *Handler) joinByIDOrAlias(ctx context.Context, c *call) (any, error) {
	return h.joinRequest(ctx, c, c.params[0])
}

func (h *Handler) joinByID(ctx context.Context, c *call) (any, error) {
	if _, err := roomID(c.params[0]); err != nil {
		return nil, err
	}
	return h.joinRequest(ctx, c, c.params[0])
}

// vias are the servers that a client names as a way into a room, in both spellings.
func (c *call) vias() []string {
	q := c.r.URL.Query()
	return append(q["via"], q["server_name"]...)
}

func (h *Handler) joinRequest(ctx context.Context, c *call, where string) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	var req struct {
		Reason string `json:"reason"`
	}
	if err := unmarshal(raw, &req); err != nil {
		return nil, err
	}
	extra := map[string]any{}
	if err := unmarshal(raw, &extra); err != nil {
		return nil, err
	}
	id, servers, err := h.resolve(ctx, where, c.vias())
	if err != nil {
		return nil, err
	}
	if err := h.join(ctx, c.session.User, id, servers, req.Reason, extra); err != nil {
		return nil, err
	}
	return map[string]any{"room_id": id}, nil
}

// resolve turns an alias or id into an id and the servers to ask.
func (h *Handler) resolve(ctx context.Context, where string, servers []string) (event.RoomID, []string, error) {
	if strings.HasPrefix(where, "#") {
		id, more, err := h.resolveAlias(ctx, where)
		return id, append(servers, more...), err
	}
	id, err := roomID(where)
	return id, servers, err
}

func (h *Handler) membership(ctx context.Context, id event.RoomID, user event.UserID) (m store.Membership, err error) {
	err = h.DB.View(ctx, func(r *store.Read) (err error) {
		m, err = r.MembershipOf(id, user)
		return err
	})
	return m, err
}

// participants tells which servers are in a room as far as we know, and whether we are one of them.
func (h *Handler) participants(ctx context.Context, id event.RoomID) (here bool, others []string, known bool, err error) {
	err = h.DB.View(ctx, func(r *store.Read) error {
		rm, err := r.Room(id)
		if err != nil || rm == nil {
			return err
		}
		known = rm.Cur != 0
		servers, err := r.Servers(id)
		for _, s := range servers {
			if s == h.ServerName {
				here = true
			} else {
				others = append(others, s)
			}
		}
		return err
	})
	return here, others, known, err
}

// Join lets a local user into a room, as their client would.
func (h *Handler) Join(ctx context.Context, user event.UserID, id event.RoomID, servers []string) error {
	return h.join(ctx, user, id, servers, "", nil)
}

// join lets a local user into a room: by our own decision when we are in it, by another server's otherwise. What a client
// has put into extra goes into its member event, under what we say ourselves.
func (h *Handler) join(ctx context.Context, user event.UserID, id event.RoomID, servers []string, reason string, extra map[string]any) error {
	m, err := h.membership(ctx, id, user)
	if err != nil || m.Membership == "join" {
		return err
	}
	here, others, known, err := h.participants(ctx, id)
	if err != nil {
		return err
	}
	servers = h.candidates(ctx, id, user, m, servers, others)
	content := h.memberContent(ctx, user, "join", reason)
	for k, v := range extra {
		if _, ours := content[k]; !ours && k != "third_party_signed" && k != "join_authorised_via_users_server" {
			content[k] = v
		}
	}
	if here || known && (len(servers) == 0 || h.Remote == nil) {
		d, err := memberDraft(id, user, user, content)
		if err != nil {
			return err
		}
		_, err = h.Rooms.Send(ctx, d)
		if err == nil {
			h.carryUser(ctx, user, h.predecessor(ctx, id), id)
			return nil
		}
		// An invite from another server may be here before the room's own history tells of it.
		ahead := m.Membership == "invite" && isForbidden(err) && !h.localInvite(ctx, m)
		if !elsewhere(err) && !ahead || len(servers) == 0 || h.Remote == nil {
			return err
		}
	}
	if h.Remote == nil || len(servers) == 0 {
		return notFound("this room is not known here, and no server was named that knows it")
	}
	delete(content, "membership")
	raw, err := json.Marshal(content)
	if err != nil {
		return err
	}
	_, err = h.slow.do(ctx, "join "+string(id)+" "+string(user), func(ctx context.Context) (any, error) {
		_, err := h.Remote.Join(ctx, string(id), user, servers, reason, raw)
		if err != nil {
			return nil, remoteError(err)
		}
		h.carryUser(ctx, user, h.predecessor(ctx, id), id)
		return nil, nil
	})
	return err
}

// candidates are the servers through which a user may come in, the likeliest first.
func (h *Handler) candidates(ctx context.Context, id event.RoomID, user event.UserID, m store.Membership, named, inRoom []string) []string {
	var all []string
	if m.Membership == "invite" {
		_ = h.DB.View(ctx, func(r *store.Read) error { // a hint only
			e, err := r.EventByNID(m.Event)
			if err == nil && e != nil {
				all = append(all, e.Sender.Server())
			}
			return err
		})
	}
	all = append(all, named...)
	if len(named) == 0 { // a client that names servers means these
		all = append(all, inRoom...)
		if _, server, ok := strings.Cut(string(id), ":"); ok {
			all = append(all, server)
		}
	}
	seen := map[string]bool{h.ServerName: true}
	var out []string
	for _, s := range all {
		if !seen[s] && event.ValidServerName(s) {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// elsewhere says whether a refusal leaves open that another server could let the user in.
// https://spec.matrix.org/v1.13/client-server-api/#restricted-rooms
func elsewhere(err error) bool {
	code, _, _ := told(err)
	return code == "M_UNABLE_TO_GRANT_JOIN" || code == "M_UNABLE_TO_AUTHORISE_JOIN"
}

func isForbidden(err error) bool {
	code, _, _ := told(err)
	return code == "M_FORBIDDEN"
}

func (h *Handler) knock(ctx context.Context, c *call) (any, error) {
	var req struct {
		Reason string `json:"reason"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	id, servers, err := h.resolve(ctx, c.params[0], c.vias())
	if err != nil {
		return nil, err
	}
	user := c.session.User
	m, err := h.membership(ctx, id, user)
	if err != nil {
		return nil, err
	}
	here, others, known, err := h.participants(ctx, id)
	if err != nil {
		return nil, err
	}
	servers = h.candidates(ctx, id, user, m, servers, others)
	content := h.memberContent(ctx, user, "knock", req.Reason)
	switch {
	case here || known && (len(servers) == 0 || h.Remote == nil):
		d, err := memberDraft(id, user, user, content)
		if err != nil {
			return nil, err
		}
		if _, err := h.Rooms.Send(ctx, d); err != nil {
			return nil, err
		}
	case h.Remote == nil || len(servers) == 0:
		return nil, notFound("this room is not known here, and no server was named that knows it")
	default:
		delete(content, "membership")
		raw, err := json.Marshal(content)
		if err != nil {
			return nil, err
		}
		if _, err := h.slow.do(ctx, "knock "+string(id)+" "+string(user), func(ctx context.Context) (any, error) {
			if _, err := h.Remote.Knock(ctx, string(id), user, servers, req.Reason, raw); err != nil {
				return nil, remoteError(err)
			}
			return nil, nil
		}); err != nil {
			return nil, err
		}
	}
	return map[string]any{"room_id": id}, nil
}
