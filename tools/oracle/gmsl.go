// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"maps"
	"slices"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"hallig/appliance/event"
)

// gmslEvent is the opinion of github.com/matrix-org/gomatrixserverlib.
type gmslEvent struct {
	j     *judge
	v     gmsl.IRoomVersion
	p     gmsl.PDU
	plain []byte
	err   error
}

func readGmsl(j *judge, spelled []byte) *gmslEvent {
	e := &gmslEvent{j: j, v: gmsl.MustGetRoomVersion(gmsl.RoomVersion(j.v.ID)), plain: spelled}
	e.p, e.err = e.v.NewEventFromUntrustedJSON(slices.Clone(spelled))
	return e
}

// name makes the event one whose id is known, as from a store: not hashed again at each question.
func (e *gmslEvent) name(id event.ID) {
	e.p, e.err = e.v.NewEventFromTrustedJSONWithEventID(string(id), e.plain, false)
}

func (e *gmslEvent) id() string {
	if e.err != nil {
		return e.err.Error()
	}
	return e.p.EventID()
}

func (e *gmslEvent) hash() bool { return e.err == nil && !e.p.Redacted() }

func (e *gmslEvent) redacted() string {
	if e.err != nil {
		return e.err.Error()
	}
	b, err := e.v.RedactEventJSON(e.p.JSON())
	if err != nil {
		return err.Error()
	}
	return string(gmsl.CanonicalJSONAssumeValid(b))
}

func userOf(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
	return spec.NewUserID(string(sender), true)
}

func (e *gmslEvent) signed(servers []string) bool {
	return e.err == nil && gmsl.VerifyEventSignatures(context.Background(), e.p, e, userOf) == nil
}

// VerifyJSONs makes the event a key ring of its game.
func (e *gmslEvent) VerifyJSONs(_ context.Context, requests []gmsl.VerifyJSONRequest) ([]gmsl.VerifyJSONResult, error) {
	out := make([]gmsl.VerifyJSONResult, len(requests))
	for i, r := range requests {
		s := e.j.servers[string(r.ServerName)]
		if s == nil {
			out[i].Error = errors.New("no key")
			continue
		}
		out[i].Error = gmsl.VerifyJSON(s.name, gmsl.KeyID(s.keyID), s.public, r.Message)
	}
	return out, nil
}

func (e *gmslEvent) under(nodes []*node) error {
	var events []gmsl.PDU
	for _, n := range nodes {
		if n != nil && n.gm.err == nil {
			events = append(events, n.gm.p)
		}
	}
	provider, err := gmsl.NewAuthEvents(events)
	if err != nil {
		return err
	}
	return gmsl.Allowed(e.p, provider, userOf)
}

// authorised judges by the auth events that the event names.
func (e *gmslEvent) authorised() error {
	if e.err != nil {
		return e.err
	}
	var nodes []*node
	for _, id := range e.p.AuthEventIDs() {
		nodes = append(nodes, e.j.nodes[id])
	}
	return e.under(nodes)
}

// allowed judges by a state.
func (e *gmslEvent) allowed(state func(skey) *node) error {
	if e.err != nil {
		return e.err
	}
	needed := gmsl.StateNeededForAuth([]gmsl.PDU{e.p})
	var nodes []*node
	for _, t := range needed.Tuples() {
		nodes = append(nodes, state(skey{t.EventType, t.StateKey}))
	}
	return e.under(nodes)
}

// gmslResolve resolves states. The library wants all auth chains in hand.
func (j *judge) gmslResolve(states []map[skey]string) map[skey]string {
	chain := map[string]gmsl.PDU{}
	var walk func(id string)
	walk = func(id string) {
		n := j.nodes[id]
		if n == nil || n.gm.err != nil || chain[id] != nil {
			return
		}
		chain[id] = n.gm.p
		for _, a := range n.lit.auth {
			walk(a)
		}
	}
	var sets [][]gmsl.PDU
	for _, s := range states {
		var set []gmsl.PDU
		for _, k := range slices.SortedFunc(maps.Keys(s), func(a, b skey) int { return compareKeys(a, b) }) {
			if n := j.nodes[s[k]]; n != nil && n.gm.err == nil {
				set = append(set, n.gm.p)
			}
			walk(s[k])
		}
		sets = append(sets, set)
	}
	var all []gmsl.PDU
	for _, id := range slices.Sorted(maps.Keys(chain)) {
		all = append(all, chain[id])
	}
	rejected := func(id string) bool { return j.nodes[id] != nil && j.nodes[id].lit.rejected }
	result := map[skey]string{}
	for _, p := range gmsl.ResolveStateConflictsV2New(gmsl.StateResV2, sets, all, userOf, rejected) {
		result[skey{p.Type(), *p.StateKey()}] = p.EventID()
	}
	return result
}
