// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
)

// server is a homeserver that signs.
type server struct {
	name, keyID string
	public      ed25519.PublicKey
	private     ed25519.PrivateKey
}

func newServer(name string) *server {
	seed := sha256.Sum256([]byte("oracle " + name))
	k := ed25519.NewKeyFromSeed(seed[:])
	return &server{name: name, keyID: "ed25519:1", public: k.Public().(ed25519.PublicKey), private: k}
}

// branch is one end of the room: what holds there, and what the next event stands on.
type branch struct {
	state map[skey]string
	tips  []string
	depth int64
}

// game plays a random room of one version on several branches, and compares all opinions about each event and each meeting of branches.
type game struct {
	*judge
	r         *rand.Rand
	branches  []branch
	n         int
	clock     int64
	foreign   []string // events of another room
	rejected  []string
	beginning bool // the create event comes next
}

var users = []string{"@alice:a.example", "@bob:b.example", "@carol:c.example", "@dave:a.example", "@eve:b.example", "@frank:c.example"}

// play plays the room of a seed and gives what the opinions differ in. The last digit makes the version.
func play(seed uint64) *judge {
	g := &game{judge: newJudge(3+int(seed%10), seed), r: rand.New(rand.NewPCG(seed, 3)), clock: 1_700_000_000_000, branches: []branch{{state: map[skey]string{}}}}
	g.liar = g.r.IntN(8) == 0
	g.begin()
	steps := 15 + g.r.IntN(45)
	if g.r.IntN(20) == 0 {
		steps += 80 // a long chain
	}
	for range steps {
		g.step()
	}
	g.meet(false)
	return g.judge
}

func (g *game) pick(list ...string) string { return list[g.r.IntN(len(list))] }

func (g *game) one(of int) bool { return g.r.IntN(of) == 0 }

// begin creates the room, and for the foreign auth events another.
func (g *game) begin() {
	alice := users[0]
	create := func(extra object) object {
		c := object{"room_version": strconv.Itoa(g.version)}
		if g.version < 11 || g.one(3) {
			c["creator"] = alice
		}
		maps.Copy(c, extra)
		return c
	}
	start := func(room string, content object) {
		g.room, g.beginning = room, true
		g.send(0, alice, "m.room.create", "", content)
		g.beginning = false
	}
	start("!other:a.example", create(object{"x": "other"}))
	g.send(0, alice, "m.room.member", alice, object{"membership": "join"})
	g.send(0, alice, "m.room.power_levels", "", object{})
	for _, e := range g.list {
		g.foreign = append(g.foreign, e.lit.id)
	}
	g.branches = []branch{{state: map[skey]string{}}}
	extra := object{}
	if g.one(12) {
		extra["m.federate"] = false
	}
	if g.version >= 12 && g.one(3) {
		extra["additional_creators"] = []any{g.pick(users...)}
	}
	if g.one(60) {
		extra["room_version"] = g.pick("77", "12", "3")
	}
	start("!room:a.example", create(extra))
	g.send(0, alice, "m.room.member", alice, object{"membership": "join"})
	if !g.one(5) {
		g.send(0, alice, "m.room.power_levels", "", g.levels(true))
	}
	if !g.one(5) {
		g.send(0, alice, "m.room.join_rules", "", object{"join_rule": g.pick("public", "public", "public", "invite", "restricted", "knock")})
	}
	for _, u := range users[1:4] {
		g.send(0, u, "m.room.member", u, object{"membership": "join"})
	}
}

// number is a power level in one of the spellings of the version, rarely in one that is none.
func (g *game) number(n int) any {
	if g.one(4) {
		switch {
		case g.version <= 9 && g.one(2):
			return fmt.Sprintf([]string{"%d", "%03d", " %d ", "%+d", "\t%+d\n"}[g.r.IntN(5)], n)
		case g.version <= 5 && g.one(2):
			return json.Number(fmt.Sprintf([]string{"%d.5", "%d.0", "%d.99"}[g.r.IntN(3)], n))
		case g.version <= 5 && g.one(2):
			return json.Number(fmt.Sprintf("%de0", n))
		case g.one(15):
			return []any{"x", "1.5", nil, true, object{}, []any{}, ""}[g.r.IntN(7)]
		}
	}
	return n
}

// levels makes power levels: the first of a room are reasonable, later ones are fights.
func (g *game) levels(first bool) object {
	steps := []int{0, 0, 10, 49, 50, 50, 51, 99, 100}
	c := object{}
	us := object{}
	for i, u := range users {
		if i == 0 && g.version >= 12 && !g.one(25) {
			continue
		}
		if !g.one(3) || i == 0 {
			us[u] = g.number(steps[g.r.IntN(len(steps))])
		}
		if i == 0 && !g.one(8) {
			us[u] = g.number(100)
		}
		if i == 1 && first {
			us[u] = g.number(50)
		}
	}
	if g.one(40) {
		us[g.pick("bob", "@bob", "@:b.example", "", "@x:y z")] = 0
	}
	if !g.one(10) {
		c["users"] = us
	}
	for _, name := range loneLevels {
		if g.one(6) {
			c[name] = g.number(steps[g.r.IntN(len(steps))])
		}
	}
	for _, name := range []string{"events", "notifications"} {
		if g.one(3) {
			m := object{}
			for range 1 + g.r.IntN(2) {
				m[g.pick("m.room.name", "m.room.topic", "m.room.power_levels", "m.room.redaction", "room", "a.b*c", "m.room.message")] = g.number(steps[g.r.IntN(len(steps))])
			}
			c[name] = m
		}
	}
	if g.one(60) {
		c[g.pick("users", "events", "notifications")] = g.pick("x", "", "[]")
	}
	return c
}

// step does something at random on a random branch.
func (g *game) step() {
	b := g.r.IntN(len(g.branches))
	who, other := g.pick(users...), g.pick(users...)
	switch g.r.IntN(22) {
	case 0, 1, 2:
		g.join(b, who)
	case 3, 4, 5:
		g.send(b, who, "m.room.member", other, object{"membership": g.pick("ban", "leave", "invite", "ban", "leave", "invite", "knock", "join", "dance", "")})
	case 6:
		g.send(b, who, "m.room.member", who, object{"membership": g.pick("leave", "leave", "knock", "invite", "ban")})
	case 7, 8:
		rules := object{"join_rule": g.pick("invite", "public", "public", "restricted", "knock", "knock_restricted", "private", "odd")}
		if g.one(2) {
			rules["allow"] = []any{object{"type": "m.room_membership", "room_id": "!x:y"}}
		}
		if g.one(30) {
			rules = object{}
		}
		g.send(b, g.senior(who), "m.room.join_rules", "", rules)
	case 9, 10, 11:
		g.send(b, g.senior(who), "m.room.power_levels", "", g.fight(b))
	case 12:
		g.thirdParty(b, who, other)
	case 13, 14:
		g.stateEvent(b, who)
	case 15:
		g.message(b, who)
	case 16:
		if g.one(4) {
			content := object{"creator": who}
			if g.one(3) {
				content = object{}
			}
			g.send(b, who, g.pick("m.room.create", "m.room.power_levels", "m.room.join_rules"), g.pick("", "", "x"), content)
		} else {
			g.stateEvent(b, who)
		}
	case 17, 18:
		if len(g.branches) < 5 {
			f := g.branches[b]
			f.state, f.tips = maps.Clone(f.state), slices.Clone(f.tips)
			g.branches = append(g.branches, f)
		}
	case 19:
		if len(g.branches) > 2 || g.one(3) {
			g.meet(true)
		}
	case 20:
		g.lift(b, who, other)
	case 21:
		if g.one(3) {
			g.send(b, g.senior(who), "m.room.power_levels", "", g.unlike(b))
		} else {
			g.send(b, who, "m.room.power_levels", "", g.notify(b))
		}
	}
}

// lift bans, and has somebody let in again who is banned: where kicking needs less power than banning, that is a power between the two.
func (g *game) lift(b int, who, other string) {
	for _, u := range users {
		m := g.nodes[g.branches[b].state[skey{"m.room.member", u}]]
		if m != nil && m.lit.content["membership"] == "ban" {
			g.send(b, who, "m.room.member", u, object{"membership": "leave"})
			return
		}
	}
	g.send(b, users[0], "m.room.member", other, object{"membership": "ban"})
}

// unlike makes kicking and banning cost unlike powers.
func (g *game) unlike(b int) object {
	c := g.current(b)
	c["kick"], c["ban"] = g.number([]int{0, 10, 50}[g.r.IntN(3)]), g.number([]int{50, 51, 99, 100}[g.r.IntN(4)])
	return c
}

// notify changes nothing but the power to notify.
func (g *game) notify(b int) object {
	c := g.current(b)
	n, _ := c["notifications"].(object)
	if n = maps.Clone(n); n == nil {
		n = object{}
	}
	if k := g.pick("room", "room", "x"); g.one(3) {
		delete(n, k)
	} else {
		n[k] = g.number([]int{0, 49, 50, 51, 99, 100}[g.r.IntN(6)])
	}
	c["notifications"] = n
	return c
}

// current is a copy of the power levels that hold, made here if there are none.
func (g *game) current(b int) object {
	if p := g.nodes[g.branches[b].state[skey{"m.room.power_levels", ""}]]; p != nil {
		return maps.Clone(p.lit.content)
	}
	return g.levels(false)
}

// senior is most often alice, so that things happen.
func (g *game) senior(who string) string {
	if g.one(2) {
		return users[0]
	}
	return who
}

// fight changes the power levels that hold a little, or makes new ones.
func (g *game) fight(b int) object {
	if g.one(3) {
		return g.levels(false)
	}
	c := g.current(b)
	us, _ := c["users"].(object)
	us = maps.Clone(us)
	if us == nil {
		us = object{}
	}
	for range 1 + g.r.IntN(2) {
		u := g.pick(users[g.r.IntN(2):]...)
		if g.one(3) {
			delete(us, u)
		} else {
			us[u] = g.number([]int{0, 1, 50, 99, 100}[g.r.IntN(5)])
		}
	}
	c["users"] = us
	if g.one(3) {
		more := g.levels(false)
		name := g.pick(append(loneLevels, "events", "notifications")...)
		if v, ok := more[name]; ok {
			c[name] = v
		} else {
			delete(c, name)
		}
	}
	return c
}

func (g *game) join(b int, who string) {
	c := object{"membership": "join"}
	if g.one(3) {
		c["join_authorised_via_users_server"] = g.pick(users...)
		if g.one(12) {
			c["join_authorised_via_users_server"] = []any{"", "x", nil, 5, "@no:where"}[g.r.IntN(5)]
		}
	}
	if g.one(4) {
		c["displayname"] = g.pick("A", "\u00e9\u0001", "\u2028<>&", "a\"b\\c", "\U0001f600", "\u007f")
	}
	g.send(b, who, "m.room.member", who, c)
}

// thirdParty invites by a token, and redeems tokens, sometimes with wrong proofs.
func (g *game) thirdParty(b int, who, other string) {
	id := g.servers["id.example"]
	var held []string
	for k := range g.branches[b].state {
		if k.typ == "m.room.third_party_invite" {
			held = append(held, k.key)
		}
	}
	slices.Sort(held)
	if len(held) == 0 || g.one(3) {
		offer := object{"display_name": "x", "key_validity_url": "https://id.example/valid"}
		if !g.one(4) {
			offer["public_key"] = encode64(id.public)
		}
		if g.one(2) {
			offer["public_keys"] = []any{object{"public_key": encode64(g.servers["a.example"].public)}, object{"public_key": encode64(id.public)}}
		}
		token := fmt.Sprintf("token%d", g.r.IntN(3))
		if g.one(10) {
			token = g.pick("", "@x", "a.b")
		}
		g.send(b, who, "m.room.third_party_invite", token, offer)
		return
	}
	token := g.pick(held...)
	if offer := g.nodes[g.branches[b].state[skey{"m.room.third_party_invite", token}]]; offer != nil && !g.one(4) {
		who = offer.lit.sender
	}
	signed := object{"mxid": other, "token": token}
	if g.one(8) {
		signed["mxid"] = g.pick(users...)
	}
	signer := id
	if g.one(5) {
		signer = g.servers["c.example"]
	}
	signObject(signed, signer)
	switch g.r.IntN(20) {
	case 0:
		delete(signed, "mxid")
	case 1:
		delete(signed, "token")
	case 2:
		signed["token"] = g.pick("nobody", "token9")
	case 3:
		delete(signed, "signatures")
	case 4:
		signed["extra"] = "not signed"
	}
	var invite any = object{"display_name": "x", "signed": signed}
	if g.one(15) {
		invite = []any{object{}, "x", nil, object{"signed": "x"}}[g.r.IntN(4)]
	}
	g.send(b, who, "m.room.member", other, object{"membership": "invite", "third_party_invite": invite})
}

func (g *game) stateEvent(b int, who string) {
	switch g.r.IntN(8) {
	case 0:
		g.send(b, who, "m.room.aliases", g.pick("a.example", "b.example", "c.example", ""), object{"aliases": []any{"#x:a.example"}, "other": 1})
	case 1:
		g.send(b, who, "org.example.own", g.pick(users...), object{"x": g.pick("1", "2")})
	case 2:
		g.send(b, who, "m.room.history_visibility", "", object{"history_visibility": g.pick("joined", "shared"), "more": []any{1, "x"}})
	case 3:
		g.send(b, who, "m.room.tombstone", "", object{"body": "gone", "replacement_room": "!y:z"})
	default:
		g.send(b, who, g.pick("m.room.name", "m.room.topic", "m.room.avatar"), g.pick("", "", "", "k"), object{"name": fmt.Sprint(g.n), "topic": g.junk(2)})
	}
}

func (g *game) message(b int, who string) {
	if g.one(3) && len(g.list) > 4 {
		target := g.list[g.r.IntN(len(g.list))].lit.id
		c, top := object{"reason": "x"}, object{}
		if g.version >= 11 || g.one(4) {
			c["redacts"] = target
		}
		if g.version < 11 || g.one(4) {
			top["redacts"] = target
		}
		g.put(b, who, "m.room.redaction", nil, c, top)
		return
	}
	g.put(b, who, g.pick("m.room.message", "m.room.encrypted", "m.reaction"), nil, object{"body": "x", "junk": g.junk(0)}, nil)
}

// junk is any JSON value the version allows.
func (g *game) junk(depth int) any {
	switch n := g.r.IntN(9); {
	case n == 0 && depth < 3:
		l := []any{}
		for range g.r.IntN(3) {
			l = append(l, g.junk(depth+1))
		}
		return l
	case n < 3 && depth < 3:
		o := object{}
		for range g.r.IntN(4) {
			o[g.pick("a", "B", "aa", "\u00e9", "\U0001f600", "a.b", "", "x\"y", "tab\t", "back\\slash", "\u0001", "\uffff", "<&>")] = g.junk(depth + 1)
		}
		return o
	case n == 3:
		return []any{nil, true, false}[g.r.IntN(3)]
	case n == 4:
		return json.Number(strconv.FormatInt(g.r.Int64N(1<<53), 10))
	case n == 5:
		if g.version <= 5 {
			return json.Number(g.pick("1.5", "-0", "1E5", "0.0", "1e-3", "12345678901234567890", "1.50", "9007199254740993"))
		}
		return json.Number(g.pick("0", "-1", "9007199254740991", "-9007199254740991"))
	}
	return g.pick("", "plain", "\u0000\u001f\u007f", "\b\f\n\r\t", "\"\\/", "\u2028\u2029<>&", "\U0001f600\u00e9", "\ufffd")
}

// send sends a state event.
func (g *game) send(b int, sender, typ, key string, content object) {
	g.put(b, sender, typ, &key, content, nil)
}
