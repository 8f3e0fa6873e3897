// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Policy is a room's policy server.
type Policy struct {
	Server string
	Key    ed25519.PublicKey // what it signs the events with that it recommends
}

// Policy gives the policy server of a room's current state; nil when the room uses none.
// https://spec.matrix.org/v1.19/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
func (r *Rooms) Policy(ctx context.Context, room event.RoomID) (p *Policy, err error) {
	err = r.view(ctx, func(rd *store.Read) error {
		row, err := rd.CurrentStateEvent(room, "m.room.policy", "")
		if row == nil || err != nil {
			return err
		}
		e, err := pduOf(rd, row)
		if err != nil {
			return err
		}
		if p = policyOf(e.Content); p == nil {
			return nil
		}
		servers, err := rd.Servers(room)
		if !slices.Contains(servers, p.Server) {
			p = nil // nobody of it is in the room: it was not asked whether it wants to
		}
		return err
	})
	return p, err
}

// policyOf reads the content of m.room.policy; nil when it is not valid.
func policyOf(content []byte) *Policy {
	var c struct {
		Via  string            `json:"via"`
		Keys map[string]string `json:"public_keys"`
	}
	if json.Unmarshal(content, &c) != nil || !event.ValidServerName(c.Via) {
		return nil
	}
	key, err := base64.RawStdEncoding.DecodeString(c.Keys["ed25519"])
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil
	}
	return &Policy{Server: c.Via, Key: key}
}

// sendVetted sends a local user's event in a room with a policy server: that is asked before the event has its place, so that nobody else waits for its answer.
func (r *Rooms) sendVetted(ctx context.Context, d Draft) (event.ID, error) {
	pdu, _, err := r.BuildEvent(ctx, d)
	if err != nil {
		return "", err
	}
	if pdu, err = r.opt.Vet(ctx, pdu); err != nil {
		return "", err
	}
	res, err := r.Accept(ctx, Incoming{PDU: pdu, From: Source{Kind: "local", Server: r.id.Server}, txn: d.Txn})
	switch {
	case err != nil:
		return "", err
	case res.Outcome != Accepted && res.Outcome != Duplicate:
		return "", forbidden("%s", res.Reason)
	}
	return pdu.ID, nil
}

// vets reports whether an event of ours must be shown to a policy server first.
func (r *Rooms) vets(ctx context.Context, d Draft) (bool, error) {
	if r.opt.Vet == nil || d.Type == "m.room.policy" && d.StateKey != nil && *d.StateKey == "" {
		return false, nil
	}
	key, err := r.db.FindStateKey("m.room.policy", "")
	if key == 0 || err != nil { // no room has one
		return false, err
	}
	p, err := r.Policy(ctx, d.Room)
	return p != nil && p.Server != r.id.Server, err
}
