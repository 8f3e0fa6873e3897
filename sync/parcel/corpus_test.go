// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	"hallig/appliance/event"
)

// kind is one sort of event that rooms hold. weight is how many of a thousand events of a busy room are of it; the
// weights are what rooms of an operation look like: people write, some rooms are encrypted, a few settings change.
type kind struct {
	name   string
	weight int
	make   func(r *life, box int, user string)
}

// life is a room with more users, and what its events are drawn from.
type life struct {
	*testRoom
	users [2][]string
	texts []string
}

// sentencesOf reads held-out texts, one a line.
func sentencesOf(t testing.TB, name string) (out []string) {
	t.Helper()
	b, err := os.ReadFile("../../tools/bench/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for s := range strings.Lines(string(b)) {
		out = append(out, strings.TrimSpace(s))
	}
	return out
}

// newLife makes a room of a version whose four users a side have joined.
func newLife(t testing.TB, version string, seed uint64) *life {
	r := &life{testRoom: newRoom(t, version, seed), texts: append(sentencesOf(t, "sentences_de.txt"), sentencesOf(t, "sentences_en.txt")...)}
	r.users = [2][]string{{"anna"}, {"björn"}}
	for i, u := range []string{"elw1", "fritz.meyer", "thw-zugfuehrer", "k.o'neill", "leitstelle", "dlrg_boot3"} {
		box := i % 2
		r.users[box] = append(r.users[box], u)
		r.join(box, u, `"avatar_url":"`+r.mxc(box)+`",`)
	}
	return r
}

func (r *life) join(box int, user, more string) {
	r.member[user] = r.add(box, user, "m.room.member", ptr(r.sender(box, user)), `{`+more+`"displayname":`+quoted(r.named(user))+`,"membership":"join"}`, nil).ID
}

func (r *life) named(user string) string {
	return map[string]string{"anna": "Anna", "björn": "Björn Ødegård 🚒", "elw1": "ELW 1 (Florian Husum 11/1)"}[user] + strings.ToUpper(user[:1]) + user[1:]
}

func quoted(s string) string { return string(appendString(nil, s)) }

func (r *life) pick() (box int, user string) {
	box = r.rnd.IntN(2)
	return box, r.users[box][r.rnd.IntN(len(r.users[box]))]
}

// line is a text as people write: mostly a sentence, sometimes a word, sometimes a paragraph.
func (r *life) line() string {
	s := r.texts[r.rnd.IntN(len(r.texts))]
	switch r.rnd.IntN(10) {
	case 0, 1:
		return strings.Join(strings.Fields(s)[:2], " ")
	case 2, 3, 4:
		f := strings.Fields(s)
		return strings.Join(f[:len(f)/2], " ")
	case 5:
		return s + "\n\n" + r.texts[r.rnd.IntN(len(r.texts))] + " 👍🏽"
	}
	return s
}

func (r *life) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.rnd.Uint32())
	}
	return b
}

func (r *life) b64(n int) string { return base64.RawStdEncoding.EncodeToString(r.random(n)) }

func (r *life) letters(n int, from string) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = from[r.rnd.IntN(len(from))]
	}
	return string(b)
}

const (
	alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

func (r *life) mxc(box int) string {
	return "mxc://" + r.boxes[box].server + "/" + r.letters(24, alphabet)
}

func (r *life) some() string {
	return string(r.events[len(r.events)-1-r.rnd.IntN(min(20, len(r.events)))].PDU.ID)
}

func (r *life) message(box int, user, content string) {
	r.add(box, user, "m.room.message", nil, content, nil)
}

func (r *life) setting(box int, user, typ, key, content string) *event.PDU {
	return r.add(box, user, typ, ptr(key), content, nil)
}

func (r *life) member3(box int, user, target, content string) *event.PDU {
	return r.add(box, user, "m.room.member", ptr(target), content, nil)
}

func (r *life) info(w, h int) string {
	return fmt.Sprintf(`{"h":%d,"mimetype":"image/jpeg","size":%d,"thumbnail_info":{"h":600,"mimetype":"image/jpeg","size":%d,"w":800},"thumbnail_url":"%s","w":%d,"xyz.amorgan.blurhash":"LEHV6nWB2yk8pyo0adR*.7kCMdnj"}`,
		h, 20000+r.rnd.IntN(4<<20), 10000+r.rnd.IntN(90000), r.mxc(0), w)
}

func (r *life) file() string {
	return `{"hashes":{"sha256":"` + r.b64(32) + `"},"iv":"` + r.b64(8) + `AAAAAAAAAAA","key":{"alg":"A256CTR","ext":true,"k":"` +
		base64.RawURLEncoding.EncodeToString(r.random(32)) + `","key_ops":["encrypt","decrypt"],"kty":"oct"},"url":"` + r.mxc(0) + `","v":"v2"}`
}

// powers is what m.room.power_levels says with these users.
func (r *life) powers(users ...string) string {
	var list []string
	for _, u := range users {
		list = append(list, quoted(r.sender(0, u))+fmt.Sprintf(":%d", 1+r.rnd.IntN(99)))
	}
	return `{"ban":50,"events":{"m.room.avatar":50,"m.room.canonical_alias":50,"m.room.encryption":100,"m.room.history_visibility":100,"m.room.name":50,"m.room.power_levels":100,"m.room.server_acl":100,"m.room.tombstone":150,"m.space.child":50,"org.hallig.priority":50},"events_default":0,"invite":50,"kick":50,"notifications":{"room":50},"redact":50,"state_default":50,"users":{` + strings.Join(list, ",") + `},"users_default":0}`
}

// redacted changes the last event into what its redaction leaves.
func (r *life) redactLast() {
	last := r.events[len(r.events)-1]
	red, err := last.PDU.Redacted()
	if err != nil {
		r.t.Fatal(err)
	}
	last.PDU = red
}

// cosign adds the other box's signature to the last event.
func (r *life) cosign(box int) {
	last := r.events[len(r.events)-1]
	p, err := last.PDU.Sign(r.boxes[1-box].server, r.boxes[1-box].key)
	if err != nil {
		r.t.Fatal(err)
	}
	last.PDU = p
}

// talk adds a megolm message of a user's own session, which lasts for a hundred messages as clients' do.
func (r *life) encrypted(box int, user string, plain int, more string) {
	size := (plain/16 + 1) * 16
	raw := []byte{3, 8, byte(r.seq[box] & 0x7f), 0x12}
	for n := size; ; n >>= 7 {
		if n < 0x80 {
			raw = append(raw, byte(n))
			break
		}
		raw = append(raw, byte(n)|0x80)
	}
	raw = append(raw, r.random(size+8+64)...)
	key := func(c byte) string { // random, and the same each time
		sum := sha256Sum([]byte(string(r.id) + user + string(c)))
		return base64.RawStdEncoding.EncodeToString(sum[:])
	}
	r.add(box, user, "m.room.encrypted", nil, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"`+base64.RawStdEncoding.EncodeToString(raw)+
		`","device_id":"`+strings.ToUpper(fmt.Sprintf("QZ%08X", user))[:10]+`",`+more+`"sender_key":"`+key(1)+`","session_id":"`+key(byte(2+r.seq[box]/100))+`"}`, nil)
}

// lifeOf makes a room with one of each kind, and then n events of a busy room; ends says where the first part ends.
func lifeOf(t testing.TB, version string, seed uint64, n int) (r *life, names []string, mixed int) {
	r = newLife(t, version, seed)
	all := kinds()
	note := func(name string) {
		for len(names) < len(r.events) {
			names = append(names, name)
		}
	}
	note("setting up")
	for _, k := range all {
		box, user := r.pick()
		k.make(r, box, user)
		note(k.name)
	}
	total := 0
	for _, k := range all {
		total += k.weight
	}
	mixed = len(r.events)
	for range n {
		at := r.rnd.IntN(total)
		for _, k := range all {
			if at -= k.weight; at < 0 {
				box, user := r.pick()
				k.make(r, box, user)
				note(k.name)
				break
			}
		}
	}
	return r, names, mixed
}

// reply, thread and edit are what m.relates_to says.
func (r *life) reply() string {
	return `"m.relates_to":{"m.in_reply_to":{"event_id":"` + r.some() + `"}}`
}

func (r *life) thread() string {
	root := r.some()
	return `"m.relates_to":{"event_id":"` + root + `","is_falling_back":true,"m.in_reply_to":{"event_id":"` + r.some() + `"},"rel_type":"m.thread"}`
}
