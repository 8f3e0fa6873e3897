// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
)

func randomName() string { return rand.Text()[:18] }

// buildError tells a client why its event cannot be made.
func buildError(err error) error {
	if errors.Is(err, event.ErrTooLarge) {
		return refuse(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "%s", err)
	}
	return refuse(http.StatusBadRequest, "M_BAD_JSON", "%s", err)
}

// fillJoin names, in a join to a restricted room, the local user in whose power to invite the join stands.
// https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms
func (l *live) fillJoin(k *look, d Draft) (json.RawMessage, error) {
	if d.Type != "m.room.member" || d.StateKey == nil || *d.StateKey != string(d.Sender) || !l.version.Restricted {
		return d.Content, nil
	}
	var content map[string]json.RawMessage
	if err := json.Unmarshal(d.Content, &content); err != nil || string(content["membership"]) != `"join"` {
		return d.Content, nil
	}
	k.err = nil
	state := k.state(l.cur.state)
	now := rules.Membership(state, d.Sender)
	rule := state(rules.Key{Type: "m.room.join_rules"})
	if k.err != nil {
		return nil, k.err
	}
	if now == "join" || now == "invite" || rule == nil || rule.JoinRules == nil ||
		!slices.Contains([]string{"restricted", "knock_restricted"}, rule.JoinRules.JoinRule) {
		delete(content, "join_authorised_via_users_server")
		return json.Marshal(content)
	}
	if k.rd == nil {
		return nil, errNeedRead
	}
	through, err := l.passes(k, rule, d.Sender)
	if err != nil {
		return nil, err
	}
	if !through {
		return nil, forbidden("you are not in any of the rooms that let people into this one")
	}
	by, err := l.inviter(k, state, cmp.Or(d.Through, l.r.id.Server))
	if err != nil {
		return nil, err
	}
	if by == "" {
		return nil, refuse(http.StatusBadRequest, "M_UNABLE_TO_GRANT_JOIN", "nobody on this server may invite to the room")
	}
	if content["join_authorised_via_users_server"], err = json.Marshal(by); err != nil {
		return nil, err
	}
	return json.Marshal(content)
}

// passes reports whether the user is in a room that the join rule allows from. A room we do not hold cannot be checked here: M_UNABLE_TO_AUTHORISE_JOIN.
func (l *live) passes(k *look, rule *rules.Event, u event.UserID) (bool, error) {
	unknown := false
	for _, room := range rule.JoinRules.Allow {
		row, err := k.rd.Room(room)
		if err != nil {
			return false, err
		}
		if row == nil || row.Cur == 0 {
			unknown = true
			continue
		}
		m, err := k.rd.MembershipOf(room, u)
		if err != nil {
			return false, err
		}
		if m.Membership == "join" {
			return true, nil
		}
	}
	if unknown {
		return false, refuse(http.StatusBadRequest, "M_UNABLE_TO_AUTHORISE_JOIN", "this server does not know all the rooms that let people into this one")
	}
	return false, nil
}

// inviter finds a joined user of a server with the power to invite.
func (l *live) inviter(k *look, state rules.State, server string) (event.UserID, error) {
	need := rules.Levels(state).Invite
	users, err := k.rd.JoinedFrom(l.id, server)
	if err != nil {
		return "", err
	}
	for _, u := range users {
		if rules.UserLevel(state, u) >= need {
			return u, k.err
		}
	}
	return "", k.err
}
