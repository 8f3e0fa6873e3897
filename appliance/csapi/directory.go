// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// goodAlias checks the grammar: https://spec.matrix.org/v1.13/appendices/#room-aliases
func goodAlias(alias string) bool {
	local, server, ok := strings.Cut(alias, ":")
	return ok && len(local) > 1 && local[0] == '#' && len(alias) <= 255 && utf8.ValidString(alias) &&
		!strings.ContainsAny(alias, "\x00 \t\r\n") && event.ValidServerName(server)
}

// localAlias checks an alias and says whether it is one of ours.
func (h *Handler) localAlias(alias string) (bool, error) {
	if !goodAlias(alias) {
		return false, invalid("this is not a room alias")
	}
	_, server, _ := strings.Cut(alias, ":")
	return server == h.ServerName, nil
}

// reservedAlias says whether another application service than by holds the alias exclusively.
func (h *Handler) reservedAlias(alias string, by *Appservice) bool {
	for i := range h.Appservices {
		if s := &h.Appservices[i]; s != by && matches(s.Namespaces.Aliases, alias, true) {
			return true
		}
	}
	return false
}

// serviceNamed says whether a user lies in the namespace of an application service, which may make it when it is needed.
func (h *Handler) serviceNamed(user event.UserID) bool {
	for i := range h.Appservices {
		if matches(h.Appservices[i].Namespaces.Users, string(user), false) {
			return true
		}
	}
	return false
}

// resolveAlias finds the room of an alias and servers that are in it.
func (h *Handler) resolveAlias(ctx context.Context, alias string) (event.RoomID, []string, error) {
	local, err := h.localAlias(alias)
	if err != nil {
		return "", nil, err
	}
	if !local {
		return h.resolveRemoteAlias(ctx, alias)
	}
	var id event.RoomID
	var servers []string
	err = h.DB.View(ctx, func(r *store.Read) (err error) {
		if id, _, err = r.Alias(alias); err != nil || id == "" {
			return err
		}
		servers, err = r.Servers(id)
		return err
	})
	if err != nil {
		return "", nil, err
	}
	if id == "" {
		return "", nil, notFound("there is no room with this alias")
	}
	if !slices.Contains(servers, h.ServerName) {
		servers = append([]string{h.ServerName}, servers...)
	}
	return id, servers, nil
}

func (h *Handler) resolveRemoteAlias(ctx context.Context, alias string) (event.RoomID, []string, error) {
	_, server, _ := strings.Cut(alias, ":")
	if h.Remote == nil {
		return "", nil, errAlone(server)
	}
	type found struct {
		id      event.RoomID
		servers []string
	}
	out, err := h.slow.do(ctx, "alias "+alias, func(ctx context.Context) (any, error) {
		id, servers, err := h.Remote.ResolveAlias(ctx, alias)
		if err != nil {
			return nil, remoteError(err)
		}
		return found{id, append(servers, server)}, nil
	})
	if err != nil {
		return "", nil, err
	}
	f := out.(found)
	return f.id, f.servers, nil
}

func (h *Handler) alias(ctx context.Context, c *call) (any, error) {
	id, servers, err := h.resolveAlias(ctx, c.params[0])
	return map[string]any{"room_id": id, "servers": servers}, err
}

func (h *Handler) setAlias(ctx context.Context, c *call) (any, error) {
	alias := c.params[0]
	local, err := h.localAlias(alias)
	if err != nil {
		return nil, err
	}
	var req struct {
		Room string `json:"room_id"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Room == "" {
		return nil, missing("room_id")
	}
	if !local {
		return nil, invalid("the alias belongs to another server")
	}
	if h.reservedAlias(alias, c.service) {
		return nil, refuse(http.StatusBadRequest, "M_EXCLUSIVE", "this alias is reserved for an application service")
	}
	id, err := roomID(req.Room)
	if err != nil {
		return nil, err
	}
	if c.service == nil {
		if _, err := h.joinedRoom(ctx, c, req.Room); err != nil {
			return nil, err
		}
	}
	ok := false
	err = h.DB.Do(ctx, func(tx *store.Tx) (err error) {
		ok, err = tx.SetAlias(alias, id, c.session.User)
		return err
	})
	if err == nil && !ok {
		err = refuse(http.StatusConflict, "M_UNKNOWN", "a room with this alias exists")
	}
	return nil, err
}

// deleteAlias is allowed to who made the alias, to who may change the room's aliases, and to administrators.
func (h *Handler) deleteAlias(ctx context.Context, c *call) (any, error) {
	alias := c.params[0]
	if local, err := h.localAlias(alias); err != nil || !local {
		if err == nil {
			err = forbidden("the alias belongs to another server")
		}
		return nil, err
	}
	var id event.RoomID
	var creator event.UserID
	err := h.DB.View(ctx, func(r *store.Read) (err error) {
		id, creator, err = r.Alias(alias)
		return err
	})
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, notFound("there is no room with this alias")
	}
	if creator != c.session.User && !c.session.Admin {
		if err := h.mayChangeAliases(ctx, id, c.session.User); err != nil {
			return nil, err
		}
	}
	if err := h.DB.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.DropAlias(alias)
		return err
	}); err != nil {
		return nil, err
	}
	h.dropCanonical(ctx, id, c.session.User, alias)
	return nil, nil
}

func (h *Handler) mayChangeAliases(ctx context.Context, id event.RoomID, user event.UserID) error {
	may, err := h.mayState(ctx, id, user, "m.room.canonical_alias")
	if err == nil && !may {
		err = forbidden("the user may not change the aliases of this room")
	}
	return err
}

// dropCanonical takes a deleted alias out of the room's m.room.canonical_alias, if the user may.
func (h *Handler) dropCanonical(ctx context.Context, id event.RoomID, user event.UserID, alias string) {
	e, err := h.Rooms.StateEvent(ctx, id, "m.room.canonical_alias", "")
	if err != nil || e == nil {
		return
	}
	var content map[string]json.RawMessage
	var list aliasContent
	if json.Unmarshal(e.Content, &content) != nil || json.Unmarshal(e.Content, &list) != nil {
		return
	}
	if list.Alias != alias && !slices.Contains(list.Alt, alias) {
		return
	}
	if list.Alias == alias {
		delete(content, "alias")
	}
	if alt := slices.DeleteFunc(list.Alt, func(a string) bool { return a == alias }); len(alt) == 0 {
		delete(content, "alt_aliases")
	} else if raw, err := json.Marshal(alt); err == nil {
		content["alt_aliases"] = raw
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return
	}
	key := ""
	if _, err := h.Rooms.Send(ctx, room.Draft{Room: id, Sender: user, Type: "m.room.canonical_alias", StateKey: &key, Content: raw}); err != nil {
		h.log.Info("a deleted alias stays in the room's list of aliases", "room", id, "err", err)
	}
}

type aliasContent struct {
	Alias string   `json:"alias"`
	Alt   []string `json:"alt_aliases"`
}

// checkCanonicalAlias refuses aliases that do not lead to the room; those that stood there before may stay.
// https://spec.matrix.org/v1.13/client-server-api/#mroomcanonical_alias
func (h *Handler) checkCanonicalAlias(ctx context.Context, id event.RoomID, content json.RawMessage) error {
	var is, was aliasContent
	if err := unmarshal(content, &is); err != nil {
		return err
	}
	if e, err := h.Rooms.StateEvent(ctx, id, "m.room.canonical_alias", ""); err != nil {
		return err
	} else if e != nil {
		_ = json.Unmarshal(e.Content, &was)
	}
	old := append(was.Alt, was.Alias)
	for _, a := range append(is.Alt, is.Alias) {
		if a == "" || slices.Contains(old, a) {
			continue
		}
		if !goodAlias(a) {
			return invalid("this is not a room alias")
		}
		to, _, err := h.resolveAlias(ctx, a)
		if err != nil {
			if _, _, refused := told(err); !refused {
				return err
			}
		}
		if to != id {
			return refuse(http.StatusBadRequest, "M_BAD_ALIAS", "the alias "+a+" does not lead to this room")
		}
	}
	return nil
}

func (h *Handler) roomAliases(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	m, err := h.membership(ctx, id, c.session.User)
	if err != nil {
		return nil, err
	}
	if m.Membership != "join" && !h.worldReadable(ctx, id) {
		return nil, forbidden("the user is not in this room")
	}
	aliases := []string{}
	err = h.DB.View(ctx, func(r *store.Read) error {
		list, err := r.Aliases(id)
		aliases = append(aliases, list...)
		return err
	})
	return map[string]any{"aliases": aliases}, err
}

// stateText reads one text field of one state event, "" when there is none.
func (h *Handler) stateText(ctx context.Context, id event.RoomID, typ, field string) string {
	e, err := h.Rooms.StateEvent(ctx, id, typ, "")
	if err != nil || e == nil {
		return ""
	}
	var m map[string]json.RawMessage
	var s string
	if json.Unmarshal(e.Content, &m) != nil || json.Unmarshal(m[field], &s) != nil {
		return ""
	}
	return s
}

func (h *Handler) worldReadable(ctx context.Context, id event.RoomID) bool {
	return h.stateText(ctx, id, "m.room.history_visibility", "history_visibility") == "world_readable"
}

func (h *Handler) published(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	visibility := "private"
	err = h.DB.View(ctx, func(r *store.Read) error {
		rm, err := r.Room(id)
		if err != nil {
			return err
		}
		if rm == nil || rm.Cur == 0 {
			return notFound("this room is not known here")
		}
		on, err := r.Published(id)
		if on {
			visibility = "public"
		}
		return err
	})
	return map[string]string{"visibility": visibility}, err
}

func (h *Handler) publish(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	var req struct {
		Visibility string `json:"visibility"`
	}
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Visibility != "" && req.Visibility != "public" && req.Visibility != "private" {
		return nil, invalid("visibility must be public or private")
	}
	if !c.session.Admin {
		if err := h.mayChangeAliases(ctx, id, c.session.User); err != nil {
			return nil, err
		}
	}
	return nil, h.DB.Do(ctx, func(tx *store.Tx) error { return tx.SetPublished(id, req.Visibility != "private") })
}

// publicRoom is one entry of the directory.
type publicRoom struct {
	ID      event.RoomID `json:"room_id"`
	Name    string       `json:"name,omitempty"`
	Topic   string       `json:"topic,omitempty"`
	Alias   string       `json:"canonical_alias,omitempty"`
	Avatar  string       `json:"avatar_url,omitempty"`
	Joined  int64        `json:"num_joined_members"`
	World   bool         `json:"world_readable"`
	Guests  bool         `json:"guest_can_join"`
	Rule    string       `json:"join_rule,omitempty"`
	Type    string       `json:"room_type,omitempty"`
	Version string       `json:"room_version,omitempty"`
}

// PublicRoomsRequest is a question to the room directory, as clients and other servers ask it.
type PublicRoomsRequest struct {
	Limit  int    `json:"limit,omitempty"`
	Since  string `json:"since,omitempty"`
	Filter struct {
		Term  string    `json:"generic_search_term,omitempty"`
		Types []*string `json:"room_types,omitempty"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks,omitempty"`
	Network     string `json:"third_party_instance_id,omitempty"`
}

func (h *Handler) publicRooms(ctx context.Context, c *call) (any, error) {
	var req PublicRoomsRequest
	if c.r.Method == http.MethodPost {
		if err := c.decode(&req); err != nil {
			return nil, err
		}
	} else {
		limit, err := c.number("limit", 0)
		if err != nil {
			return nil, err
		}
		req.Limit, req.Since = limit, c.query("since")
	}
	server := c.query("server")
	if server == "" || server == h.ServerName {
		return h.PublicRooms(ctx, req)
	}
	if !event.ValidServerName(server) {
		return nil, invalid("server is not a server name")
	}
	if h.Remote == nil {
		return nil, errAlone(server)
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	return h.slow.do(ctx, "directory "+server+" "+string(raw), func(ctx context.Context) (any, error) {
		answer, err := h.Remote.PublicRooms(ctx, server, raw)
		if err != nil {
			return nil, remoteError(err)
		}
		return answer, nil
	})
}

// PublicRooms answers from this box's directory, the largest rooms first. The composition may offer it to other servers.
func (h *Handler) PublicRooms(ctx context.Context, req PublicRoomsRequest) (json.RawMessage, error) {
	offset := 0
	if req.Since != "" {
		n, err := strconv.Atoi(req.Since)
		if err != nil || n < 0 {
			return nil, invalid("since is not a token of this directory")
		}
		offset = n
	}
	var ids []event.RoomID
	err := h.DB.View(ctx, func(r *store.Read) (err error) {
		ids, err = r.PublishedRooms()
		return err
	})
	if err != nil {
		return nil, err
	}
	var all []publicRoom
	for _, id := range ids {
		p, err := h.describe(ctx, id)
		if err != nil {
			return nil, err
		}
		if req.matches(p) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b publicRoom) int {
		return cmp.Or(cmp.Compare(b.Joined, a.Joined), cmp.Compare(a.ID, b.ID))
	})
	limit := req.Limit
	if limit <= 0 || limit > 1000 {
		limit = 100
	}
	out := struct {
		Chunk []publicRoom `json:"chunk"`
		Next  string       `json:"next_batch,omitempty"`
		Prev  string       `json:"prev_batch,omitempty"`
		Total int          `json:"total_room_count_estimate"`
	}{Chunk: []publicRoom{}, Total: len(all)}
	if offset < len(all) {
		end := min(offset+limit, len(all))
		out.Chunk = all[offset:end]
		if end < len(all) {
			out.Next = strconv.Itoa(end)
		}
	}
	if offset > 0 {
		out.Prev = strconv.Itoa(max(0, offset-limit))
	}
	return json.Marshal(out)
}

func (q PublicRoomsRequest) matches(p publicRoom) bool {
	if q.Network != "" {
		return false // a bridged network: this directory lists none
	}
	if len(q.Filter.Types) > 0 && !slices.ContainsFunc(q.Filter.Types, func(t *string) bool {
		return t == nil && p.Type == "" || t != nil && *t == p.Type
	}) {
		return false
	}
	term := strings.ToLower(q.Filter.Term)
	return term == "" || strings.Contains(strings.ToLower(p.Name), term) || strings.Contains(strings.ToLower(p.Topic), term) ||
		strings.Contains(strings.ToLower(p.Alias), term)
}

// describe collects what the directory and previews show of a room.
func (h *Handler) describe(ctx context.Context, id event.RoomID) (publicRoom, error) {
	p := publicRoom{
		ID:     id,
		Name:   h.stateText(ctx, id, "m.room.name", "name"),
		Topic:  h.stateText(ctx, id, "m.room.topic", "topic"),
		Alias:  h.stateText(ctx, id, "m.room.canonical_alias", "alias"),
		Avatar: h.stateText(ctx, id, "m.room.avatar", "url"),
		World:  h.worldReadable(ctx, id),
		Guests: h.stateText(ctx, id, "m.room.guest_access", "guest_access") == "can_join",
		Rule:   h.stateText(ctx, id, "m.room.join_rules", "join_rule"),
		Type:   h.stateText(ctx, id, "m.room.create", "type"),
	}
	err := h.DB.View(ctx, func(r *store.Read) (err error) {
		p.Joined, _, err = r.CountMembers(id)
		if rm, rerr := r.Room(id); rerr == nil && rm != nil {
			p.Version = rm.Version
		}
		return err
	})
	return p, err
}
