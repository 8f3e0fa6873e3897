// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json/v2"
	"time"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"

	"hallig/appliance/event"
)

// mautrixEvent is the opinion of maunium.net/go/mautrix. It has no state resolution.
type mautrixEvent struct {
	j   *judge
	v   id.RoomVersion
	p   pdu.PDU
	err error
}

func readMautrix(j *judge, spelled []byte) *mautrixEvent {
	e := &mautrixEvent{j: j, v: id.RoomVersion(j.v.ID)}
	e.err = json.Unmarshal(spelled, &e.p)
	e.p.Unsigned = nil
	return e
}

func (e *mautrixEvent) name(id event.ID) { e.p.InternalMeta.EventID = idOf(id) }

func idOf(s event.ID) id.EventID { return id.EventID(s) }

func (e *mautrixEvent) reject() { e.p.InternalMeta.Rejected = true }

func (e *mautrixEvent) id() string {
	if e.err != nil {
		return e.err.Error()
	}
	s, err := e.p.GetEventID(e.v)
	if err != nil {
		return err.Error()
	}
	return string(s)
}

func (e *mautrixEvent) hash() bool { return e.err == nil && e.p.VerifyContentHash() }

func (e *mautrixEvent) redacted() string {
	if e.err != nil {
		return e.err.Error()
	}
	b, err := canonicaljson.Marshal(e.p.Clone().Redact(e.v))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (e *mautrixEvent) key(server string, keyID id.KeyID, _ time.Time) (id.SigningKey, time.Time, error) {
	s := e.j.servers[server]
	if s == nil || string(keyID) != s.keyID {
		return "", time.Time{}, nil
	}
	return id.SigningKey(encode64(s.public)), time.Now().AddDate(100, 0, 0), nil
}

func (e *mautrixEvent) signed(servers []string) bool {
	if e.err != nil {
		return false
	}
	for _, s := range servers {
		if e.p.VerifySignature(e.v, s, e.key) != nil {
			return false
		}
	}
	return true
}

func (e *mautrixEvent) authorised() error {
	if e.err != nil {
		return e.err
	}
	return eventauth.Authorize(e.v, &e.p, func(ids []id.EventID) ([]*pdu.PDU, error) {
		out := make([]*pdu.PDU, len(ids))
		for i, id := range ids {
			if n := e.j.nodes[string(id)]; n != nil {
				p := n.mx.p
				if p.RoomID == "" { // the caller is expected to know the room of a create event
					p.RoomID = idRoom(n.lit.room)
				}
				out[i] = &p
			}
		}
		return out, nil
	}, e.key)
}

func idRoom(s string) id.RoomID { return id.RoomID(s) }
