// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

const typePushRules = "m.push_rules"

// PushRule is one rule: https://spec.matrix.org/latest/client-server-api/#push-rules
type PushRule struct {
	ID         string            `json:"rule_id"`
	Default    bool              `json:"default"`
	Enabled    bool              `json:"enabled"`
	Actions    []json.RawMessage `json:"actions"`
	Conditions []PushCondition   `json:"conditions,omitzero"` // written even when empty, where the kind has conditions
	Pattern    string            `json:"pattern,omitempty"`
}

// PushCondition is one condition of an override or underride rule.
type PushCondition struct {
	Kind    string          `json:"kind"`
	Key     string          `json:"key,omitempty"`
	Pattern string          `json:"pattern,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
	Is      string          `json:"is,omitempty"`
}

// PushRules is a user's rule set, in order of priority within each kind.
type PushRules struct {
	Override  []PushRule `json:"override"`
	Content   []PushRule `json:"content"`
	Room      []PushRule `json:"room"`
	Sender    []PushRule `json:"sender"`
	Underride []PushRule `json:"underride"`
}

func (p *PushRules) kind(kind string) *[]PushRule {
	switch kind {
	case "override":
		return &p.Override
	case "content":
		return &p.Content
	case "room":
		return &p.Room
	case "sender":
		return &p.Sender
	case "underride":
		return &p.Underride
	}
	return nil
}

var (
	notify       = json.RawMessage(`"notify"`)
	sound        = json.RawMessage(`{"set_tweak":"sound","value":"default"}`)
	ring         = json.RawMessage(`{"set_tweak":"sound","value":"ring"}`)
	highlight    = json.RawMessage(`{"set_tweak":"highlight"}`)
	noHighlight  = json.RawMessage(`{"set_tweak":"highlight","value":false}`)
	silent       = []json.RawMessage{}
	loud         = []json.RawMessage{notify, sound, highlight}
	roomNotice   = []json.RawMessage{notify, highlight}
	quietMessage = []json.RawMessage{notify}
)

func match(key, pattern string) PushCondition {
	return PushCondition{Kind: "event_match", Key: key, Pattern: pattern}
}

func is(key, value string) PushCondition {
	return PushCondition{Kind: "event_property_is", Key: key, Value: json.RawMessage(value)}
}

// DefaultPushRules are the rules every user starts with: https://spec.matrix.org/latest/client-server-api/#predefined-rules
func DefaultPushRules(user event.UserID) PushRules {
	rule := func(id string, actions []json.RawMessage, conditions ...PushCondition) PushRule {
		if conditions == nil {
			conditions = []PushCondition{}
		}
		return PushRule{ID: id, Default: true, Enabled: true, Actions: actions, Conditions: conditions}
	}
	master := rule(".m.rule.master", silent)
	master.Enabled = false
	member := func(n string) PushCondition { return PushCondition{Kind: "room_member_count", Is: n} }
	mention := PushCondition{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: quote(string(user))}
	invited := []PushCondition{match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", string(user))}
	notifyRoom := PushCondition{Kind: "sender_notification_permission", Key: "room"}
	oneToOne := []json.RawMessage{notify, sound, noHighlight}
	name := rule(".m.rule.contains_user_name", loud)
	name.Conditions, name.Pattern = nil, user.Localpart()
	poll := func(id, what string, actions []json.RawMessage, more ...PushCondition) PushRule {
		return rule(id, actions, append(more, match("type", what))...)
	}
	return PushRules{
		Override: []PushRule{
			master,
			rule(".m.rule.suppress_notices", silent, match("content.msgtype", "m.notice")),
			rule(".m.rule.invite_for_me", oneToOne, invited...),
			rule(".m.rule.member_event", silent, match("type", "m.room.member")),
			rule(".m.rule.is_user_mention", loud, mention),
			rule(".m.rule.contains_display_name", loud, PushCondition{Kind: "contains_display_name"}),
			rule(".m.rule.is_room_mention", roomNotice, is(`content.m\.mentions.room`, "true"), notifyRoom),
			rule(".m.rule.roomnotif", roomNotice, match("content.body", "@room"), notifyRoom),
			rule(".m.rule.tombstone", roomNotice, match("type", "m.room.tombstone"), match("state_key", "")),
			rule(".m.rule.reaction", silent, match("type", "m.reaction")),
			rule(".m.rule.room.server_acl", silent, match("type", "m.room.server_acl"), match("state_key", "")),
			rule(".m.rule.suppress_edits", silent, is(`content.m\.relates_to.rel_type`, `"m.replace"`)),
			poll(".org.matrix.msc3930.rule.poll_response", "org.matrix.msc3381.poll.response", silent),
		},
		Content: []PushRule{name},
		Room:    []PushRule{},
		Sender:  []PushRule{},
		Underride: []PushRule{
			rule(".m.rule.call", []json.RawMessage{notify, ring, noHighlight}, match("type", "m.call.invite")),
			poll(".org.matrix.msc3930.rule.poll_start_one_to_one", "org.matrix.msc3381.poll.start", []json.RawMessage{notify, sound}, member("2")),
			poll(".org.matrix.msc3930.rule.poll_start", "org.matrix.msc3381.poll.start", quietMessage),
			poll(".org.matrix.msc3930.rule.poll_end_one_to_one", "org.matrix.msc3381.poll.end", []json.RawMessage{notify, sound}, member("2")),
			poll(".org.matrix.msc3930.rule.poll_end", "org.matrix.msc3381.poll.end", quietMessage),
			rule(".m.rule.encrypted_room_one_to_one", oneToOne, member("2"), match("type", "m.room.encrypted")),
			rule(".m.rule.room_one_to_one", oneToOne, member("2"), match("type", "m.room.message")),
			rule(".m.rule.message", []json.RawMessage{notify, noHighlight}, match("type", "m.room.message")),
			rule(".m.rule.encrypted", []json.RawMessage{notify, noHighlight}, match("type", "m.room.encrypted")),
		},
	}
}

type pushContent struct {
	Global PushRules `json:"global"`
}

// ReadPushRules gives a user's rules: what was stored, with default rules that are missing there, or the defaults.
func ReadPushRules(r *store.Read, user event.UserID) (PushRules, error) {
	def := DefaultPushRules(user)
	raw, err := r.AccountData(user, "", typePushRules)
	if err != nil || raw == nil {
		return def, err
	}
	var c pushContent
	if err := json.Unmarshal(raw, &c); err != nil {
		return def, err
	}
	for _, kind := range pushKinds {
		have, want := c.Global.kind(kind), *def.kind(kind)
		for _, d := range want {
			if !slices.ContainsFunc(*have, func(p PushRule) bool { return p.ID == d.ID }) {
				*have = append(*have, d)
			}
		}
		if *have == nil {
			*have = []PushRule{}
		}
	}
	return c.Global, nil
}

var pushKinds = []string{"override", "content", "room", "sender", "underride"}

// PushRules gives the rules as /pushrules/ and m.push_rules show them.
func (a *Accounts) PushRules(ctx context.Context, user event.UserID) (json.RawMessage, error) {
	var c pushContent
	err := a.db.View(ctx, func(r *store.Read) error {
		var err error
		c.Global, err = ReadPushRules(r, user)
		return err
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

func noRule() error { return notFound("there is no such push rule") }

// PushRule gives one rule; M_NOT_FOUND.
func (a *Accounts) PushRule(ctx context.Context, user event.UserID, kind, id string) (json.RawMessage, error) {
	var out json.RawMessage
	err := a.db.View(ctx, func(r *store.Read) error {
		rules, err := ReadPushRules(r, user)
		if err != nil {
			return err
		}
		list := rules.kind(kind)
		if list == nil {
			return noRule()
		}
		for _, p := range *list {
			if p.ID == id {
				out, err = json.Marshal(p)
				return err
			}
		}
		return noRule()
	})
	return out, err
}

// changeRules reads, changes and stores the rules in one transaction.
func (a *Accounts) changeRules(ctx context.Context, user event.UserID, kind string, change func(list []PushRule) ([]PushRule, error)) error {
	return a.db.Do(ctx, func(tx *store.Tx) error {
		rules, err := ReadPushRules(tx.Read, user)
		if err != nil {
			return err
		}
		list := rules.kind(kind)
		if list == nil {
			return refuse(400, "M_INVALID_PARAM", "there is no such kind of push rule")
		}
		if *list, err = change(*list); err != nil {
			return err
		}
		raw, err := json.Marshal(pushContent{Global: rules})
		if err != nil {
			return err
		}
		return tx.PutAccountData(user, "", typePushRules, raw)
	})
}

// SetPushRule makes or replaces a rule of the user's own, before or after another when one is named.
func (a *Accounts) SetPushRule(ctx context.Context, user event.UserID, kind, id string, body json.RawMessage, before, after string) error {
	if id == "" || strings.HasPrefix(id, ".") || strings.ContainsAny(id, `/\`) {
		return refuse(400, "M_INVALID_PARAM", "a push rule's name is not empty, starts with no dot and has no slashes")
	}
	p := PushRule{Enabled: true}
	if err := json.Unmarshal(body, &p); err != nil || p.Actions == nil {
		return badJSON("a push rule needs actions")
	}
	p.ID, p.Default, p.Enabled = id, false, true
	switch kind {
	case "content":
		if p.Pattern == "" {
			return refuse(400, "M_MISSING_PARAM", "a content rule needs a pattern")
		}
		p.Conditions = nil
	case "override", "underride":
		if p.Conditions == nil {
			p.Conditions = []PushCondition{}
		}
	}
	return a.changeRules(ctx, user, kind, func(list []PushRule) ([]PushRule, error) {
		at := slices.IndexFunc(list, func(o PushRule) bool { return o.ID == id })
		if at >= 0 {
			p.Enabled = list[at].Enabled
			if before == "" && after == "" {
				list[at] = p
				return list, nil
			}
			list = slices.Delete(list, at, at+1)
		}
		// Own rules stand before the defaults, but behind the master switch.
		at = slices.IndexFunc(list, func(o PushRule) bool { return o.ID != ".m.rule.master" })
		if at < 0 {
			at = len(list)
		}
		if name := cmpText(before, after); name != "" {
			at = slices.IndexFunc(list, func(o PushRule) bool { return o.ID == name })
			if at < 0 {
				return nil, refuse(404, "M_NOT_FOUND", "the push rule to stand beside is not there")
			}
			if list[at].Default {
				return nil, refuse(400, "M_INVALID_PARAM", "a rule cannot be placed beside a default rule")
			}
			if before == "" {
				at++
			}
		}
		return slices.Insert(list, at, p), nil
	})
}

// DeletePushRule removes a rule of the user's own.
func (a *Accounts) DeletePushRule(ctx context.Context, user event.UserID, kind, id string) error {
	return a.changeRules(ctx, user, kind, func(list []PushRule) ([]PushRule, error) {
		at := slices.IndexFunc(list, func(o PushRule) bool { return o.ID == id })
		if at < 0 {
			return nil, noRule()
		}
		if list[at].Default {
			return nil, refuse(400, "M_UNKNOWN", "a default push rule can be disabled, not deleted")
		}
		return slices.Delete(list, at, at+1), nil
	})
}

// PushRuleAttr gives {"enabled":…} or {"actions":…} of a rule.
func (a *Accounts) PushRuleAttr(ctx context.Context, user event.UserID, kind, id, attr string) (json.RawMessage, error) {
	raw, err := a.PushRule(ctx, user, kind, id)
	if err != nil {
		return nil, err
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, err
	}
	if attr != "enabled" && attr != "actions" {
		return nil, noRule()
	}
	return json.Marshal(map[string]json.RawMessage{attr: m[attr]})
}

// SetPushRuleAttr sets one of them, of default rules too.
func (a *Accounts) SetPushRuleAttr(ctx context.Context, user event.UserID, kind, id, attr string, body json.RawMessage) error {
	var in struct {
		Enabled *bool             `json:"enabled"`
		Actions []json.RawMessage `json:"actions"`
	}
	if err := json.Unmarshal(body, &in); err != nil || attr == "enabled" && in.Enabled == nil || attr == "actions" && in.Actions == nil {
		return badJSON("the value for " + attr + " is missing or not of its type")
	}
	return a.changeRules(ctx, user, kind, func(list []PushRule) ([]PushRule, error) {
		at := slices.IndexFunc(list, func(o PushRule) bool { return o.ID == id })
		if at < 0 {
			return nil, noRule()
		}
		switch attr {
		case "enabled":
			list[at].Enabled = *in.Enabled
		case "actions":
			list[at].Actions = in.Actions
		default:
			return nil, noRule()
		}
		return list, nil
	})
}

// Pushers lists a user's pushers.
func (a *Accounts) Pushers(ctx context.Context, user event.UserID) ([]json.RawMessage, error) {
	out := []json.RawMessage{}
	err := a.db.View(ctx, func(r *store.Read) error {
		rows, err := r.Pushers(user)
		out = append(out, rows...)
		return err
	})
	return out, err
}

// SetPusher makes, replaces or (kind null) removes a pusher. It belongs to the device that set it and goes with it.
func (a *Accounts) SetPusher(ctx context.Context, s Session, body json.RawMessage) error {
	var p struct {
		Kind    *string         `json:"kind"`
		App     string          `json:"app_id"`
		Key     string          `json:"pushkey"`
		AppName string          `json:"app_display_name"`
		Device  string          `json:"device_display_name"`
		Lang    string          `json:"lang"`
		Profile string          `json:"profile_tag,omitempty"`
		Data    json.RawMessage `json:"data"`
		Append  bool            `json:"append"`
	}
	if err := json.Unmarshal(body, &p); err != nil {
		return badJSON("a pusher is not as it should be")
	}
	if p.App == "" || p.Key == "" || len(p.App) > 64 || len(p.Key) > 512 {
		return refuse(400, "M_MISSING_PARAM", "a pusher needs an app_id (64 bytes) and a pushkey (512 bytes)")
	}
	if p.Kind == nil {
		return a.db.Do(ctx, func(tx *store.Tx) error { return tx.DeletePusher(s.User, p.App, p.Key) })
	}
	if null(p.Data) {
		return refuse(400, "M_MISSING_PARAM", "a pusher needs data")
	}
	stored := map[string]any{"kind": *p.Kind, "app_id": p.App, "pushkey": p.Key, "app_display_name": p.AppName,
		"device_display_name": p.Device, "lang": p.Lang, "profile_tag": p.Profile, "data": p.Data}
	raw, err := json.Marshal(stored)
	if err != nil {
		return err
	}
	return a.db.Do(ctx, func(tx *store.Tx) error { return tx.PutPusher(s.User, s.Device, p.App, p.Key, raw, p.Append) })
}

func cmpText(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
