// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/rules"
)

// node is an event in the eyes of all.
type node struct {
	lit  *lit
	pdu  *event.PDU
	thin *rules.Event // nil: the law calls the content invalid
	mx   *mautrixEvent
	gm   *gmslEvent

	astray bool // its auth chain leads to another room, or to what means nothing: a create event or content that the rules refuse
}

func (e *node) reject() {
	e.lit.rejected = true
	if e.thin != nil {
		e.thin.Rejected = true
	}
	e.mx.reject()
}

// difference is one thing that two opinions do not share.
type difference struct {
	oracle  string // law: the transcription; mautrix; gomatrixserverlib
	what    string // parse, canonical, id, hash, redaction, signature, by auth events, by state, resolution
	version int
	e       *node // nil in resolutions
	reason  string
	ours    string
	theirs  string
	states  []map[skey]string
	state   litState // by auth events, by state: what the law looked at
	note    string   // the oracle's reason
	judge   *judge
}

func (d *difference) String() string {
	s := fmt.Sprintf("version %d, %s against %s: ours %s, theirs %s", d.version, d.what, d.oracle, d.ours, d.theirs)
	if d.note != "" {
		s += " because " + d.note
	}
	if d.e != nil {
		s += fmt.Sprintf(" (%s), event %s %s", d.reason, d.e.lit.id, litCanonical(d.e.lit.raw))
	}
	return s
}

// judge hears all opinions on one room.
type judge struct {
	version int
	seed    uint64
	v       *event.Version
	room    string
	servers map[string]*server
	nodes   map[string]*node
	list    []*node

	differences []*difference
	faults      map[string]int // known ones, by name
	compared    int
	resolutions int
	liar        bool   // branches hold what was rejected, as the states that a faulty server tells do
	note        string // the reason of the last verdict of an oracle
}

func newJudge(version int, seed uint64) *judge {
	v, _ := event.Lookup(strconv.Itoa(version))
	j := &judge{version: version, seed: seed, v: v, servers: map[string]*server{}, nodes: map[string]*node{}, faults: map[string]int{}}
	for _, name := range []string{"a.example", "b.example", "c.example", "id.example"} {
		j.servers[name] = newServer(name)
	}
	return j
}

// same compares an opinion with ours. What is no known fault of the other is a difference.
func (j *judge) same(d difference) {
	j.compared++
	defer func() { j.note = "" }()
	if d.ours == d.theirs {
		return
	}
	d.version, d.judge, d.note = j.version, j, j.note
	for _, f := range faults {
		if f.oracle == d.oracle && slices.Contains(strings.Split(f.what, ", "), d.what) && f.applies(&d) {
			j.faults[f.oracle+": "+f.name]++
			return
		}
	}
	j.differences = append(j.differences, &d)
}

func verdict(err error) string {
	if err == nil {
		return "allow"
	}
	return "deny"
}

// theirs is an oracle's verdict and reason.
func (j *judge) theirs(f func() error) string {
	return guard(func() string {
		j.note = ""
		err := f()
		if err != nil {
			j.note = err.Error()
		}
		return verdict(err)
	})
}

func yes(ok bool) string { return strconv.FormatBool(ok) }

// receive does checks 1 to 3 on receipt. It gives the event as it is taken, nil if it is dropped.
// https://spec.matrix.org/v1.16/server-server-api/#checks-performed-on-receipt-of-a-pdu
func (j *judge) receive(spelled []byte) *node {
	raw, err := decode(spelled)
	if err != nil {
		panic(fmt.Sprintf("%s: %v", spelled, err))
	}
	delete(raw, "unsigned")
	e := &node{lit: readLit(j.version, raw)}
	p, err := event.Parse(j.v, spelled)
	_, hasRoom := raw["room_id"]
	if bad := j.version >= 12 && e.lit.typ == "m.room.create" && hasRoom; bad || err != nil {
		j.same(difference{oracle: "law", what: "parse", e: e, ours: yes(err == nil), theirs: yes(!bad)})
		return nil
	}
	e.pdu = p
	e.mx, e.gm = readMautrix(j, spelled), readGmsl(j, spelled)
	j.same(difference{oracle: "law", what: "canonical", e: e, ours: string(p.JSON()), theirs: string(litCanonical(raw))})
	hash := p.CheckHash() == nil
	redacted, err := p.Redacted()
	if err != nil {
		panic(err)
	}
	signed := j.signed(e)
	for oracle, o := range map[string]opinion{"law": litOpinion{j, e.lit}, "mautrix": e.mx, "gomatrixserverlib": e.gm} {
		say := func(what, ours string, theirs func() string) {
			j.same(difference{oracle: oracle, what: what, e: e, ours: ours, theirs: guard(theirs)})
		}
		say("id", string(p.ID), o.id)
		say("hash", yes(hash), func() string { return yes(o.hash()) })
		say("redaction", string(redacted.JSON()), o.redacted)
		say("signature", yes(signed), func() string { return yes(o.signed(p.SignedBy())) })
	}
	if !signed {
		return nil
	}
	if !hash {
		if p, err = p.Redacted(); err != nil {
			panic(err)
		}
		e.pdu, e.lit = p, readLit(j.version, litRedact(j.version, raw))
	}
	e.mx, e.gm = readMautrix(j, p.JSON()), readGmsl(j, p.JSON())
	e.mx.name(p.ID)
	e.gm.name(p.ID)
	e.thin, _ = rules.Thin(p)
	j.nodes[e.lit.id] = e
	j.list = append(j.list, e)
	return e
}

// opinion is what an oracle says of an event alone.
type opinion interface {
	id() string
	hash() bool
	redacted() string
	signed(servers []string) bool
}

type litOpinion struct {
	j *judge
	e *lit
}

func (o litOpinion) id() string       { return o.e.id }
func (o litOpinion) hash() bool       { return litHashOK(o.e.raw) }
func (o litOpinion) redacted() string { return string(litCanonical(litRedact(o.j.version, o.e.raw))) }
func (o litOpinion) signed([]string) bool {
	// https://spec.matrix.org/v1.16/server-server-api/#validating-hashes-and-signatures-on-received-events
	_, third := o.e.content["third_party_invite"].(object)
	byThird := third && o.e.typ == "m.room.member" && o.e.key != nil && o.e.content["membership"] == "invite"
	if !byThird && !litSigned(o.e, domain(o.e.sender), o.j.servers) {
		return false
	}
	// Rule 5.2.1 is about the event as it is taken. If the hash is wrong it is taken redacted, and version 8 redacts the key away.
	gone := o.j.version == 8 && !litHashOK(o.e.raw)
	if by, ok := o.e.content["join_authorised_via_users_server"].(string); ok && by != "" && o.e.typ == "m.room.member" && o.e.key != nil && o.j.version >= 8 && !gone {
		return litSigned(o.e, domain(by), o.j.servers)
	}
	return true
}

func (j *judge) signed(e *node) bool {
	for _, name := range e.pdu.SignedBy() {
		s := j.servers[name]
		if s == nil || e.pdu.VerifySignature(name, s.keyID, s.public) != nil {
			return false
		}
	}
	return true
}

// guard turns a panic of an oracle into its answer.
func guard(f func() string) (answer string) {
	defer func() {
		if r := recover(); r != nil {
			answer = fmt.Sprint("panic: ", r)
		}
	}()
	return f()
}

// authorise does checks 4 and 5 on receipt.
func (j *judge) authorise(e *node, state func(skey) *node) bool {
	byAuth, complete := j.byAuth(e)
	litState := func(k skey) *lit {
		if n := state(k); n != nil {
			return n.lit
		}
		return nil
	}
	ours := error(&rules.Denied{Rule: "content", Reason: "invalid"})
	if e.thin != nil {
		ours = rules.Allowed(e.thin, func(k rules.Key) *rules.Event {
			if n := state(skey{k.Type, k.StateKey}); n != nil {
				return n.thin
			}
			return nil
		})
	}
	law := litAllowed(e.lit, litState, j.litSigned)
	reason := fmt.Sprintf("ours: %v; law: %v", ours, law)
	j.same(difference{oracle: "law", what: "by state", e: e, reason: reason, ours: verdict(ours), theirs: verdict(law)})
	j.same(difference{oracle: "gomatrixserverlib", what: "by state", e: e, reason: reason, ours: verdict(ours), theirs: j.theirs(func() error { return e.gm.allowed(state) }), state: litState})
	return byAuth && ours == nil && (complete || e.lit.ts%2 == 0)
}

func (j *judge) byID(id string) *lit {
	if n := j.nodes[id]; n != nil {
		return n.lit
	}
	return nil
}

func (j *judge) litSigned(e *lit, name string) bool { return litSigned(e, name, j.servers) }

// byAuth compares the verdicts by the auth events; complete says that all of them are known.
func (j *judge) byAuth(e *node) (allowed, complete bool) {
	var auth []*rules.Event
	complete = true
	for _, id := range e.lit.auth {
		n := j.nodes[id]
		if n == nil {
			complete = false
			continue
		}
		auth = append(auth, n.record())
	}
	var create *rules.Event
	if n := j.nodes["$"+e.lit.room[1:]]; n != nil && j.version >= 12 {
		create = n.record()
	}
	ours := error(&rules.Denied{Rule: "content", Reason: "invalid"})
	if e.thin != nil {
		ours = rules.CheckAuthEvents(e.thin, auth, create)
	}
	byID := j.byID
	law := litByAuth(e.lit, byID, j.litSigned)
	reason := fmt.Sprintf("ours: %v; law: %v", ours, law)
	j.same(difference{oracle: "law", what: "by auth events", e: e, reason: reason, ours: verdict(ours), theirs: verdict(law)})
	held := func(k skey) *lit {
		for _, id := range e.lit.auth {
			if n := j.nodes[id]; n != nil && n.lit.key != nil && (skey{n.lit.typ, *n.lit.key}) == k {
				return n.lit
			}
		}
		if k.typ == "m.room.create" {
			return byID("$" + e.lit.room[1:])
		}
		return nil
	}
	if complete {
		j.same(difference{oracle: "mautrix", what: "by auth events", e: e, reason: reason, ours: verdict(ours), theirs: j.theirs(e.mx.authorised), state: held})
		j.same(difference{oracle: "gomatrixserverlib", what: "by auth events", e: e, reason: reason, ours: verdict(ours), theirs: j.theirs(e.gm.authorised), state: held})
	}
	return ours == nil, complete
}

// record is the thin record, also of an event whose content is invalid: it is rejected.
func (e *node) record() *rules.Event {
	if e.thin != nil {
		return e.thin
	}
	return &rules.Event{ID: e.pdu.ID, Version: e.pdu.Version, Room: e.pdu.RoomID, Sender: e.pdu.Sender, Type: e.pdu.Type, StateKey: e.pdu.StateKey, Auth: e.pdu.Auth, Rejected: true}
}

// resolve compares what the opinions make of states that meet.
func (j *judge) resolve(states []map[skey]string) map[skey]string {
	j.resolutions++
	load := func(id event.ID) *rules.Event {
		if n := j.nodes[string(id)]; n != nil {
			return n.record()
		}
		return nil
	}
	var sets []map[rules.Key]event.ID
	for _, s := range states {
		set := map[rules.Key]event.ID{}
		for k, id := range s {
			set[rules.Key{Type: k.typ, StateKey: k.key}] = event.ID(id)
		}
		sets = append(sets, set)
	}
	var ours string
	for i := range 2 {
		got, err := rules.Resolve(j.v, sets, load)
		if err != nil {
			panic(err)
		}
		result := map[skey]string{}
		for k, id := range got {
			result[skey{k.Type, k.StateKey}] = string(id)
		}
		if i > 0 {
			j.same(difference{oracle: "law", what: "resolution", reason: "other order of states", ours: ours, theirs: j.tell(result)})
		}
		ours = j.tell(result)
		slices.Reverse(sets)
	}
	byID := j.byID
	law := litResolve(j.version, states, byID, false)
	j.same(difference{oracle: "law", what: "resolution", ours: ours, theirs: j.tell(law), states: states})
	if j.version < 12 { // of 2.1 the library makes 2
		j.gmslCompare(states, ours)
	}
	return law
}

// tell writes a state down, so that it can be compared and read.
func (j *judge) tell(state map[skey]string) string {
	var b strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(state), func(a, b skey) int { return strings.Compare(a.typ+"\x00"+a.key, b.typ+"\x00"+b.key) }) {
		fmt.Fprintf(&b, "\n  %s %q %s", k.typ, k.key, state[k])
	}
	return b.String()
}

// print tells the whole room.
func (j *judge) print(states []map[skey]string) {
	for i, s := range states {
		fmt.Printf("state %d%s\n", i, j.tell(s))
	}
	for _, n := range j.list {
		fmt.Printf("%s rejected=%t %s\n", n.lit.id, n.lit.rejected, litCanonical(n.lit.raw))
	}
}
