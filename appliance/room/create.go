// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Create makes a room with its first events in one transaction. https://spec.matrix.org/v1.19/client-server-api/#creation
func (r *Rooms) Create(ctx context.Context, q CreateRequest) (event.RoomID, error) {
	plan, err := r.planRoom(q)
	if err != nil {
		return "", err
	}
	l := &live{r: r, id: plan.room, gen: 1, loaded: true, version: plan.version, gaps: make(map[event.ID]bool), fresh: make(map[int64]*freshEvent),
		freshID: make(map[event.ID]*freshEvent), resolved: make(map[string]group), servers: make(map[string]int)}
	l.mu.Lock() // nobody else knows the room yet
	var ps []*prepared
	err = r.view(ctx, func(rd *store.Read) error {
		k := &look{l: l, rd: rd}
		first, err := l.placeCreate(k, plan.create)
		if err != nil {
			return err
		}
		ps = append(ps, first)
		for _, d := range plan.drafts {
			p, _, err := l.make(k, d, true)
			if err != nil {
				var e *Error
				if errors.As(err, &e) {
					return refuse(http.StatusBadRequest, "M_INVALID_ROOM_STATE", "%s: %s", d.Type, e.Text)
				}
				return err
			}
			if p == nil {
				continue
			}
			l.keep(p)
			ps = append(ps, p)
		}
		return nil
	})
	if err != nil {
		l.forget()
		l.mu.Unlock()
		return "", err
	}
	answer := l.submit(ps, func(tx *store.Tx) error { return plan.names(tx, q) })
	l.mu.Unlock()
	if err := <-answer; err != nil {
		return "", tellable(err)
	}
	return plan.room, nil
}

// roomPlan is a room on paper: its create event and what follows.
type roomPlan struct {
	version *event.Version
	room    event.RoomID
	create  *event.PDU
	alias   string
	drafts  []Draft
}

// names claims the alias and the place in the directory, in the room's own transaction.
func (p *roomPlan) names(tx *store.Tx, q CreateRequest) error {
	if p.alias != "" {
		ok, err := tx.SetAlias(p.alias, p.room, q.Creator)
		if err != nil {
			return err
		}
		if !ok {
			return refuse(http.StatusBadRequest, "M_ROOM_IN_USE", "the alias %s is taken", p.alias)
		}
	}
	if q.Visibility == "public" {
		return tx.SetPublished(p.room, true)
	}
	return nil
}

func (r *Rooms) planRoom(q CreateRequest) (*roomPlan, error) {
	v := r.opt.Version
	if q.Version != "" {
		var ok bool
		if v, ok = event.Lookup(q.Version); !ok || v.Readable {
			return nil, refuse(http.StatusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", "room version %q is not supported", q.Version)
		}
	}
	preset := q.Preset
	if preset == "" {
		preset = "private_chat"
		if q.Visibility == "public" {
			preset = "public_chat"
		}
	}
	if !slices.Contains([]string{"private_chat", "trusted_private_chat", "public_chat"}, preset) {
		return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "unknown preset %q", preset)
	}
	plan := &roomPlan{version: v}
	creators, err := r.planCreate(plan, q, preset)
	if err != nil {
		return nil, err
	}
	if q.AliasLocalpart != "" {
		plan.alias = "#" + q.AliasLocalpart + ":" + r.id.Server
	}
	power, err := powerLevels(v, q, preset, creators)
	if err != nil {
		return nil, err
	}
	plan.drafts = r.planState(plan, q, preset, power)
	return plan, nil
}

// planCreate makes the create event, which names the room since version 12.
func (r *Rooms) planCreate(plan *roomPlan, q CreateRequest, preset string) (creators []event.UserID, err error) {
	content := map[string]any{}
	if len(q.CreationContent) > 0 {
		if err := json.Unmarshal(q.CreationContent, &content); err != nil || content == nil {
			return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "creation_content is not an object")
		}
	}
	content["room_version"] = plan.version.ID
	delete(content, "creator")
	if plan.version.CreatorInContent {
		content["creator"] = string(q.Creator)
	}
	creators = []event.UserID{q.Creator}
	if plan.version.Creators {
		extra, err := additionalCreators(content, q, preset)
		if err != nil {
			return nil, err
		}
		creators = append(creators, extra...)
	}
	if !plan.version.CreateIsRoomID {
		plan.room = event.RoomID("!" + randomName() + ":" + r.id.Server)
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	empty := ""
	plan.create, err = event.Build(plan.version, event.Proto{RoomID: plan.room, Sender: q.Creator, Type: "m.room.create", StateKey: &empty, Content: raw, Depth: 1,
		TS: r.creationTime()}, r.id.Server, r.id.Key)
	if err != nil {
		return nil, buildError(err)
	}
	plan.room = plan.create.RoomID
	return creators, nil
}

// creationTime is the time of a new room, another one for each: since version 12 the hash of the create event names the room, and two rooms that one user
// makes alike within a millisecond would be one.
func (r *Rooms) creationTime() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opt.Clock().UnixMilli()
	if now <= r.created && r.created-now < 1000 { // a clock that was set back far is believed
		now = r.created + 1
	}
	r.created = now
	return now
}

// additionalCreators gives trusted invitees the creator's power in version 12, where power levels cannot.
func additionalCreators(content map[string]any, q CreateRequest, preset string) (extra []event.UserID, err error) {
	if list, ok := content["additional_creators"].([]any); ok {
		for _, u := range list {
			s, _ := u.(string)
			if _, err := event.ParseUserID(s); err != nil {
				return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "additional_creators: %v", err)
			}
			extra = append(extra, event.UserID(s))
		}
	} else if content["additional_creators"] != nil {
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "additional_creators is not a list")
	}
	if preset == "trusted_private_chat" {
		for _, u := range q.Invite {
			if u != q.Creator && !slices.Contains(extra, u) {
				extra = append(extra, u)
			}
		}
	}
	if len(extra) > 0 {
		content["additional_creators"] = extra
	}
	return extra, nil
}

func powerLevels(v *event.Version, q CreateRequest, preset string, creators []event.UserID) (json.RawMessage, error) {
	tombstone := 100
	users := map[string]int{}
	if !v.Creators {
		users[string(q.Creator)] = 100
		if preset == "trusted_private_chat" {
			for _, u := range q.Invite {
				users[string(u)] = 100
			}
		}
	} else {
		tombstone = 150 // upgrading is the creators' business
	}
	invite := 0
	if preset == "public_chat" {
		invite = 50
	}
	content := map[string]any{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50, "ban": 50, "kick": 50, "redact": 50, "invite": invite,
		"events": map[string]int{
			"m.room.name": 50, "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.topic": 50,
			"m.room.power_levels": 100, "m.room.history_visibility": 100, "m.room.server_acl": 100, "m.room.encryption": 100, "m.room.tombstone": tombstone,
		},
	}
	if len(q.PowerOverride) > 0 {
		var over map[string]any
		if err := json.Unmarshal(q.PowerOverride, &over); err != nil {
			return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "power_level_content_override is not an object")
		}
		maps.Copy(content, over)
	}
	if named, ok := content["users"].(map[string]any); ok && v.Creators {
		for _, c := range creators {
			if _, ok := named[string(c)]; ok {
				return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "room version %s: creators have no power level of their own", v.ID)
			}
		}
	}
	return json.Marshal(content)
}

// planState lists the events after the create event, in the order of the specification.
func (r *Rooms) planState(plan *roomPlan, q CreateRequest, preset string, power json.RawMessage) []Draft {
	var ds []Draft
	add := func(typ, key string, content any) {
		raw, ok := content.(json.RawMessage)
		if !ok {
			raw, _ = json.Marshal(content) // maps of strings: cannot fail
		}
		ds = append(ds, Draft{Room: plan.room, Sender: q.Creator, Type: typ, StateKey: &key, Content: raw})
	}
	given := make(map[string]bool)
	for _, s := range q.InitialState {
		if s.StateKey == "" {
			given[s.Type] = true
		}
	}
	add("m.room.member", string(q.Creator), memberContent("join", q.Creator, q.Profile, false))
	if !given["m.room.power_levels"] {
		add("m.room.power_levels", "", power)
	}
	if plan.alias != "" && !given["m.room.canonical_alias"] {
		add("m.room.canonical_alias", "", map[string]string{"alias": plan.alias})
	}
	rule, visibility, guest := "invite", "shared", "can_join"
	if preset == "public_chat" {
		rule, guest = "public", "forbidden"
	}
	for _, s := range [][3]string{{"m.room.join_rules", "join_rule", rule}, {"m.room.history_visibility", "history_visibility", visibility},
		{"m.room.guest_access", "guest_access", guest}} {
		if given[s[0]] || s[2] == "forbidden" { // what holds without an event needs none
			continue // https://spec.matrix.org/v1.19/client-server-api/#mroomguest_access
		}
		add(s[0], "", map[string]string{s[1]: s[2]})
	}
	for _, s := range q.InitialState {
		if s.Type == "m.room.name" && q.Name != "" || s.Type == "m.room.topic" && q.Topic != "" {
			continue
		}
		add(s.Type, s.StateKey, s.Content)
	}
	if q.Name != "" {
		add("m.room.name", "", map[string]string{"name": q.Name})
	}
	if q.Topic != "" {
		add("m.room.topic", "", map[string]any{"topic": q.Topic, "m.topic": map[string]any{"m.text": []map[string]string{{"body": q.Topic}}}})
	}
	for _, u := range q.Invite {
		if u.Server() == r.id.Server && u != q.Creator {
			add("m.room.member", string(u), memberContent("invite", u, q.Profile, q.IsDirect))
		}
	}
	return ds
}

func memberContent(membership string, u event.UserID, profile func(event.UserID) (string, string), direct bool) map[string]any {
	m := map[string]any{"membership": membership}
	if profile != nil {
		name, avatar := profile(u)
		if name != "" {
			m["displayname"] = name
		}
		if avatar != "" {
			m["avatar_url"] = avatar
		}
	}
	if direct {
		m["is_direct"] = true
	}
	return m
}

// placeCreate places the first event of a room.
func (l *live) placeCreate(k *look, pdu *event.PDU) (*prepared, error) {
	thin, err := rules.Thin(pdu)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "%s", err)
	}
	denied, err := k.allowed(thin, nil)
	if err != nil {
		return nil, err
	}
	if denied != nil {
		return nil, refuse(http.StatusBadRequest, "M_BAD_JSON", "%s", denied)
	}
	p := &prepared{r: l.r, version: l.version, pdu: pdu, thin: thin, row: rowOf(pdu, l.r.db.NextEvent()), result: Result{Outcome: Accepted}}
	p.row.Flags = store.Local
	p.info = AppendInfo{PDU: pdu, Room: l.id, From: Source{Kind: "local", Server: l.r.id.Server}, Outcome: Accepted}
	if err := l.place(k, p, group{}, Accepted); err != nil {
		return nil, fmt.Errorf("place create event: %w", err)
	}
	l.keep(p)
	return p, nil
}
