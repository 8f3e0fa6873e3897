// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

func encode64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// put makes an event on a branch, tells it to the judge, and if it is allowed there moves the branch on.
func (g *game) put(b int, sender, typ string, key *string, content, top object) {
	g.n++
	br := &g.branches[b]
	raw := object{"type": typ, "sender": sender, "content": content, "depth": br.depth + 1, "origin_server_ts": g.time(), "prev_events": []any{}, "auth_events": []any{}}
	if key != nil {
		raw["state_key"] = *key
	}
	creating := typ == "m.room.create" && g.beginning
	if g.version < 12 || typ != "m.room.create" || g.one(10) && !creating {
		raw["room_id"] = g.room
	}
	maps.Copy(raw, top)
	g.extras(raw)
	if !creating && !(typ == "m.room.create" && g.one(2)) {
		raw["prev_events"] = list(br.tips)
	}
	raw["auth_events"] = list(g.authOf(b, raw, creating))

	signers := []*server{g.servers[domain(sender)]}
	if by, ok := content["join_authorised_via_users_server"].(string); ok && g.servers[domain(by)] != nil && domain(by) != domain(sender) && !g.one(6) {
		signers = append(signers, g.servers[domain(by)])
	}
	raw = again(raw)
	seal(g.version, raw, signers...)
	g.forge(raw, creating)
	e := g.judge.receive(g.spell(raw))
	if e == nil {
		return
	}
	if creating && g.version >= 12 {
		g.room = "!" + e.lit.id[1:]
	}
	state := func(k skey) *node { return g.nodes[br.state[k]] }
	e.astray = slices.ContainsFunc(e.lit.auth, func(id string) bool {
		a := g.nodes[id]
		return a != nil && (a.astray || a.lit.room != e.lit.room || a.thin == nil || a.lit.typ == "m.room.create" && a.lit.rejected)
	})
	allowed := g.judge.authorise(e, state)
	if !allowed {
		e.reject()
		g.rejected = append(g.rejected, e.lit.id)
		if !g.liar || key == nil || typ == "m.room.create" || g.one(2) || e.astray {
			return
		}
	}
	// A second create event of version 12 is another room; of older versions, it may be accepted although its auth events lead astray, and of
	// what comes then no sentence speaks.
	if key != nil && e.thin != nil && e.lit.room == g.room && !e.astray {
		br.state[skey{typ, *key}] = e.lit.id
	}
	br.tips, br.depth = []string{e.lit.id}, br.depth+1
}

// time is a clock that jumps.
func (g *game) time() int64 {
	switch g.r.IntN(12) {
	case 0:
		g.clock -= g.r.Int64N(100_000)
	case 1:
		g.clock += g.r.Int64N(1_000_000)
	case 2: // stands still
	default:
		g.clock += g.r.Int64N(50)
	}
	if g.one(40) {
		return g.r.Int64N(1000) // 1970
	}
	return g.clock
}

// extras adds what events may carry beside the known.
func (g *game) extras(raw object) {
	more := object{"origin": domain(raw["sender"].(string)), "membership": "join", "prev_state": []any{}, "org.example.top": g.junk(1), "unsigned": object{"age": 5}}
	for _, k := range slices.Sorted(maps.Keys(more)) { // in order, so that a seed gives one game
		if g.one(10) {
			raw[k] = more[k]
		}
	}
}

// authOf selects the auth events, and sometimes does it wrongly.
func (g *game) authOf(b int, raw object, creating bool) (auth []string) {
	probe := readLit(g.version, again(raw))
	for _, k := range litSelection(probe) {
		if id, ok := g.branches[b].state[k]; ok {
			auth = append(auth, id)
		}
	}
	if creating {
		return nil
	}
	any := func(ids []string) string { return ids[g.r.IntN(len(ids))] }
	switch g.r.IntN(60) {
	case 0:
		if len(auth) > 0 { // one is left out
			auth = slices.Delete(auth, 0, 1)
		}
	case 1:
		if len(g.foreign) > 0 {
			auth = append(auth, any(g.foreign))
		}
	case 2:
		if len(auth) > 0 {
			auth = append(auth, any(auth))
		}
	case 3:
		if len(g.list) > 0 {
			auth = append(auth, g.list[g.r.IntN(len(g.list))].lit.id)
		}
	case 4:
		if len(g.rejected) > 0 {
			auth = append(auth, any(g.rejected))
		}
	case 5, 6: // an older event in place of the current one
		if len(auth) > 0 {
			i := g.r.IntN(len(auth))
			cur := g.nodes[auth[i]]
			for _, old := range g.list {
				if cur != nil && old.lit.typ == cur.lit.typ && old.lit.key != nil && *old.lit.key == *cur.lit.key && old.lit.room == cur.lit.room {
					auth[i] = old.lit.id
					break
				}
			}
		}
	case 7:
		auth = append(auth, "$"+encode64(make([]byte, 32))[:43]) // unknown to everybody
	case 8:
		if len(auth) > 0 {
			auth = slices.Delete(auth, len(auth)-1, len(auth))
		}
	}
	g.r.Shuffle(len(auth), func(i, j int) { auth[i], auth[j] = auth[j], auth[i] })
	if len(auth) > 10 {
		auth = auth[:10]
	}
	return auth
}

// forge changes an event after it was signed.
func (g *game) forge(raw object, creating bool) {
	if creating {
		return
	}
	content := raw["content"].(object)
	switch g.r.IntN(80) {
	case 0:
		content["forged"] = true
	case 1:
		content["membership"] = "join"
	case 2:
		delete(raw, "hashes")
		raw["hashes"] = object{"sha256": encode64(make([]byte, 32))}
	case 3:
		for _, keys := range raw["signatures"].(object) {
			for k := range keys.(object) {
				keys.(object)[k] = encode64(make([]byte, 64))
			}
		}
	case 4:
		raw["signatures"] = object{"z.example": object{"ed25519:1": "AAAA"}}
	}
}

// meet resolves branches as an event with several prev events would, and when together is said goes on from there.
func (g *game) meet(together bool) {
	n := len(g.branches)
	if n < 2 {
		return
	}
	take := 2
	if n > 2 && g.one(2) {
		take = 3
	}
	if !together {
		take = n
	}
	from := n - take
	var states []map[skey]string
	for _, b := range g.branches[from:] {
		states = append(states, b.state)
	}
	result := g.judge.resolve(states)
	if !together {
		return
	}
	m := branch{state: result}
	for _, b := range g.branches[from:] {
		m.tips = append(m.tips, b.tips...)
		m.depth = max(m.depth, b.depth)
	}
	slices.Sort(m.tips)
	m.tips = slices.Compact(m.tips)
	g.branches = append(g.branches[:from], m)
}

func list(ids []string) []any {
	l := []any{}
	for _, id := range ids {
		l = append(l, id)
	}
	return l
}

// again brings an object that was put together by hand into the form it has after decoding.
func again(o object) object {
	out, err := decode(litCanonical(o))
	if err != nil {
		panic(fmt.Sprintf("%s: %v", litCanonical(o), err))
	}
	return out
}

// spell writes an event as some server might: keys in any order, white space, needless escapes.
func (g *game) spell(raw object) []byte {
	if !g.one(5) {
		return litCanonical(raw)
	}
	var b bytes.Buffer
	spell(&b, g.r, raw)
	return b.Bytes()
}

func spell(b *bytes.Buffer, r *rand.Rand, v any) {
	space := func() {
		if r.IntN(6) == 0 {
			b.WriteString([]string{" ", "\n", "\t", "  "}[r.IntN(4)])
		}
	}
	text := func(s string) {
		b.WriteByte('"')
		for _, c := range s {
			switch {
			case c < 0x20 || c == '"' || c == '\\' || r.IntN(20) == 0 && c < 0x10000 && c != 0xfffd:
				fmt.Fprintf(b, []string{`\u%04x`, `\u%04X`}[r.IntN(2)], c)
			case c == '/' && r.IntN(2) == 0:
				b.WriteString(`\/`)
			default:
				b.WriteRune(c)
			}
		}
		b.WriteByte('"')
	}
	space()
	switch v := v.(type) {
	case object:
		keys := slices.Sorted(maps.Keys(v))
		r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		b.WriteByte('{')
		for i, k := range keys {
			if i > 0 {
				b.WriteByte(',')
			}
			space()
			text(k)
			space()
			b.WriteByte(':')
			spell(b, r, v[k])
		}
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, x := range v {
			if i > 0 {
				b.WriteByte(',')
			}
			spell(b, r, x)
		}
		b.WriteByte(']')
	case string:
		text(v)
	case json.Number:
		b.WriteString(v.String())
	default:
		b.Write(litCanonical(v))
	}
	space()
}
