// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"encoding/base64"
	"errors"
	"strings"

	"hallig/appliance/event"
)

// How a text in a hole of a shape is written: a number n<<3 | way, and what the way needs.
const (
	wayRaw    = 0 // n bytes
	wayModel  = 1 // n bytes, by the text model
	wayPacked = 2 // n bytes, by zstd
	wayCopied = 3 // n stretches of texts before in the same JSON, each: bytes of the rest before it, where, how long; the rest as a text
	wayName   = 4 // n 0: a name; 1: one of the names that seldom are anybody's (tableValue)
	wayEvent  = 5 // a reference to an event
	wayBinary = 6 // bytes that it spells in unpadded base64: n is their number, doubled, and one more for the URL-safe alphabet
	wayServed = 7 // n 0: mxc://, server, slash, text; 1: text, colon, server; from 2 on: algorithm, colon, text
)

const (
	maxPlain = 64 // bytes of a name that the text model is tried on
	minCopy  = 8  // bytes
	maxCopy  = 16
	gram     = 6
	mediaURI = "mxc://"
)

// writeText writes a text that stands under a key, in the shortest way.
func (t *teller) writeText(key, s string) {
	defer func() { t.said = append(t.said, s...) }()
	w := t.w
	if strings.HasPrefix(s, "$") && t.room.room != "" {
		if _, ok := rawID(s, '$'); ok {
			w.uvarint(wayEvent)
			w.event(w.lookup(t.room.room, event.ID(s)), event.ID(s))
			return
		}
	}
	table, named := named(key, s)
	if !named {
		for _, known := range []int{tableText, tableValue} {
			if w.knows(known, s) {
				table, named = known, true
				break
			}
		}
	}
	if named {
		w.uvarint(wayName | uint64(table-tableText)/(tableValue-tableText)<<3)
		w.named(table, s)
		return
	}
	direct := &writer{s: w.s, inline: w.inline, before: w.before, told: w.told}
	direct.plain(s, true)
	if b, ok := t.copied(s, len(direct.b)); ok {
		w.raw(b)
		return
	}
	w.raw(direct.b)
	w.told = direct.told
}

// named says whether a text is worth a number, and in which table.
func named(key, s string) (table int, ok bool) {
	if len(s) < 3 || len(s) > 255 {
		return 0, false
	}
	switch key {
	case "displayname", "avatar_url", "sender_key", "session_id":
		return tableValue, true
	case "mimetype":
		return tableText, true
	case "device_id", "user_id", "requesting_device_id", "":
		_, prefixed := algorithmOf(s)
		return tableText, dynamic(s) && s[0] != '$' && !prefixed
	}
	return tableText, (s[0] == '@' || s[0] == '!') && strings.Contains(s, ":")
}

// knows says whether a name has a number that stands alone.
func (w *writer) knows(table int, s string) bool {
	if w.inline || w.s.tag == 0 || len(s) < 3 {
		return false
	}
	if _, ok := w.s.in[table].of[s]; ok {
		return true
	}
	number, ok := w.s.out[table].of[s]
	return ok && w.clear(w.s.out[table].names[number], told{table, number})
}

func (w *writer) named(table int, s string) {
	w.ref(table, s, 0, func(uint64) { w.plain(s, false) })
}

func (r *reader) named(table int) string {
	s, _ := deref(r, table, func() (string, uint64) { return r.plain(), 0 })
	return s
}

// plain writes a text without what stood before it; free says that it may be prose.
func (w *writer) plain(s string, free bool) {
	if rest, ok := strings.CutPrefix(s, mediaURI); ok {
		if server, id, ok := strings.Cut(rest, "/"); ok && event.ValidServerName(server) {
			w.uvarint(wayServed)
			w.server(server)
			w.simple(id, false)
			return
		}
	}
	if local, server, ok := strings.Cut(s, ":"); ok && s != "" && strings.ContainsRune("@#!", rune(s[0])) && event.ValidServerName(server) {
		w.uvarint(wayServed | 1<<3)
		w.simple(local, false)
		w.server(server)
		return
	}
	if i, ok := algorithmOf(s); ok {
		w.uvarint(uint64(2+i)<<3 | wayServed)
		w.server(s[len(algorithms()[i]):])
		return
	}
	w.simple(s, free)
}

// algorithms are how names of keys begin; their order is wire format.
func algorithms() [3]string { return [3]string{"ed25519:", "curve25519:", "signed_curve25519:"} }

func algorithmOf(s string) (int, bool) {
	for i, a := range algorithms() {
		if len(s) > len(a) && strings.HasPrefix(s, a) {
			return i, true
		}
	}
	return 0, false
}

// server writes the name of a server or a device: what is part of other names.
func (w *writer) server(s string) {
	w.ref(tableText, s, 0, func(uint64) { w.simple(s, false) })
}

func (r *reader) server() string {
	s, _ := deref(r, tableText, func() (string, uint64) { return r.simple(r.uvarint()), 0 })
	return s
}

// simple writes a text that refers to nothing.
func (w *writer) simple(s string, free bool) {
	way, b := wayRaw, []byte(s)
	n := len(b)
	for i, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if len(s) < 8 {
			break
		}
		if raw, err := alphabet.Strict().DecodeString(s); err == nil && alphabet.EncodeToString(raw) == s { // it passes over line feeds
			way, b, n = wayBinary, raw, len(raw)<<1|i
			break
		}
	}
	if w.s.model && len(s) > 2 && (free || way == wayRaw && len(s) <= maxPlain) {
		if code, ok := w.s.codec.text.encode(s, len(b)); ok {
			way, b, n = wayModel, code, len(code)
		}
	}
	if len(s) > 24 && free && way != wayBinary {
		if packed := w.s.codec.Pack([]byte(s)); len(packed) < len(b) {
			way, b, n = wayPacked, packed, len(packed)
		}
	}
	w.uvarint(uint64(n)<<3 | uint64(way))
	w.raw(b)
}

func (r *reader) simple(how uint64) string {
	n := how >> 3
	if n>>1 > uint64(len(r.b)) {
		r.fail(errShort)
		return ""
	}
	switch how & 7 {
	case wayRaw:
		return string(r.take(int(n)))
	case wayModel:
		return r.prose(r.take(int(n)))
	case wayPacked:
		return string(r.unpack(r.take(int(n)), 1<<16))
	case wayBinary:
		b := r.take(int(n >> 1))
		if n&1 != 0 {
			return base64.RawURLEncoding.EncodeToString(b)
		}
		return base64.RawStdEncoding.EncodeToString(b)
	}
	r.fail(errors.New("unknown way of a text"))
	return ""
}

func (r *reader) plain() string {
	how := r.uvarint()
	if how&7 != wayServed {
		return r.simple(how)
	}
	if how>>3 == 0 {
		server := r.server()
		return mediaURI + server + "/" + r.simple(r.uvarint())
	}
	if all, i := algorithms(), how>>3-2; i < uint64(len(all)) {
		return all[i] + r.server()
	}
	local := r.simple(r.uvarint())
	return local + ":" + r.server()
}

func (t *teller) readText() (s string) {
	r := t.r
	before := r.b
	how := r.uvarint()
	switch how & 7 {
	case wayCopied:
		s = t.readCopied(how >> 3)
	case wayName:
		table := tableText
		if how>>3 != 0 {
			table = tableValue
		}
		s = r.named(table)
	case wayEvent:
		id, _, _ := r.event()
		s = string(id)
	default:
		r.b = before
		s = r.plain()
	}
	if len(t.said) < event.MaxSize {
		t.said = append(t.said, s...)
	}
	return s
}

// copied writes a text as stretches of what was said before, if that takes fewer than limit bytes.
func (t *teller) copied(s string, limit int) ([]byte, bool) {
	if len(s) < minCopy || len(t.said) < minCopy || len(t.said)+len(s) > event.MaxSize {
		return nil, false
	}
	if t.grams == nil {
		t.grams = make(map[[gram]byte]int)
	}
	for ; t.indexed+gram <= len(t.said); t.indexed++ { // once for each byte, however many texts there are
		t.grams[[gram]byte(t.said[t.indexed:])] = t.indexed
	}
	type stretch struct{ before, at, n int }
	var list []stretch
	var rest []byte
	before := 0
	for i := 0; i < len(s); {
		at, ok := -1, false
		if i+gram <= len(s) && len(list) < maxCopy {
			at, ok = t.grams[[gram]byte([]byte(s[i:i+gram]))]
		}
		n := 0
		for ok && i+n < len(s) && at+n < len(t.said) && s[i+n] == t.said[at+n] {
			n++
		}
		if n < minCopy {
			rest = append(rest, s[i])
			before++
			i++
			continue
		}
		list = append(list, stretch{before, at, n})
		before = 0
		i += n
	}
	if len(list) == 0 {
		return nil, false
	}
	w := &writer{s: t.w.s}
	w.uvarint(uint64(len(list))<<3 | wayCopied)
	for _, c := range list {
		w.uvarint(uint64(c.before))
		w.uvarint(uint64(c.at))
		w.uvarint(uint64(c.n))
	}
	w.simple(string(rest), true)
	return w.b, len(w.b) < limit
}

func (t *teller) readCopied(n uint64) string {
	r := t.r
	if n > maxCopy {
		r.fail(errors.New("too many copies"))
		return ""
	}
	var list [3 * maxCopy]uint64
	for i := range 3 * n {
		list[i] = r.uvarint()
	}
	rest := r.simple(r.uvarint())
	var out []byte
	for i := uint64(0); i < 3*n && r.err == nil; i += 3 {
		before, at, size := list[i], list[i+1], list[i+2]
		if before > uint64(len(rest)) || at > uint64(len(t.said)) || size > uint64(len(t.said))-at {
			r.fail(errors.New("copy of what was not said"))
			return ""
		}
		out = append(append(out, rest[:before]...), t.said[at:at+size]...)
		rest = rest[before:]
	}
	return string(append(out, rest...))
}
