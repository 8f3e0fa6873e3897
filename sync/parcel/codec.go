// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"hallig/appliance/event"
)

// The compact form of an event parcel says only what the far end cannot derive:
//
//	place      log and position (names.go)
//	author     room version, sender, signing key, auth events: one number once they are known
//	flags      previous events (2 bits), depth given (1), body (3), state key given (1), more flags (1)
//	more       only if flagged: more signatures, content hash, origin, top-level redacts
//	prev       nothing (the event before this one in the same log), or references
//	time       ms after the newest known previous event
//	depth      only if flagged; else one more than the deepest previous event's
//	type, state key, ...   where they are not implied
//	signature  64 bytes
//	body
//
// Version 2 has one more form of body (shape.go), explains names more shortly (value.go) and has room for creations and for
// top-level fields of other servers' making.
//
// Content hash, event id and JSON follow from that. What does not come out of rebuild byte for byte takes another form.
const (
	prevLast  = 0 // one, the entry before this one in the same log
	prevID    = 1 // one, by its id
	prevMany  = 2
	prevPlace = 3 // one, by its place

	flagDepth = 1 << 2
	bodyShift = 3
	flagState = 1 << 6
	flagMore  = 1 << 7

	moreSignatures = 1 << 0
	moreHash       = 1 << 1
	moreOrigin     = 1 << 2
	moreRedacts    = 1 << 3
	moreNoRoom     = 1 << 4 // the room id is the event's own: creations from version 12 on
	moreExtra      = 1 << 5 // other top-level fields
)

// author is what seldom changes between the events of one sender in one room.
type author struct {
	version string
	sender  string
	key     string // id of the signing key of the sender's server
	auth    string // auth event ids, each with a newline behind it
}

// parts are the fields of an event as the codec handles them.
type parts struct {
	author
	room     event.RoomID
	prev     []event.ID
	auth     []event.ID
	depth    int64
	ts       int64
	typ      string
	stateKey *string
	content  []byte
	redacts  event.ID
	origin   bool
	hash     string // only where it is not that of the content: redacted events
	sig      []byte
	more     []event.Signature
	noRoom   bool    // the room id is not in the event
	extra    []field // top-level fields that have no place of their own here
}

// field is a member of a JSON object: a decoded key and a canonical value.
type field struct {
	key string
	val string
}

// dissect takes an event apart; false when the compact form of version 1 cannot hold it.
func dissect(p *event.PDU) (parts, bool) {
	f, ok := dissectMore(p)
	return f, ok && len(f.prev) > 0 && !f.noRoom && f.extra == nil
}

// dissectMore takes an event apart; false when no compact form can hold it.
func dissectMore(p *event.PDU) (parts, bool) {
	f := parts{author: author{version: p.Version.ID, sender: string(p.Sender)}, room: p.RoomID, prev: p.Prev, auth: p.Auth,
		depth: p.Depth, ts: p.TS, typ: p.Type, stateKey: p.StateKey, content: p.Content}
	for _, s := range p.Signatures() {
		if s.Server == serverOf(f.sender) && f.sig == nil && len(s.Sig) == 64 {
			f.sig, f.author.key = s.Sig, s.KeyID
			continue
		}
		f.more = append(f.more, s)
	}
	if f.sig == nil || len(f.prev) > 20 || len(f.auth) > 20 || len(f.more) > 8 {
		return f, false
	}
	for _, id := range f.auth {
		f.author.auth += string(id) + "\n"
	}
	if same(f, p) {
		return f, true
	}
	var top struct {
		Origin  *string           `json:"origin"`
		Redacts event.ID          `json:"redacts"`
		Hashes  map[string]string `json:"hashes"`
	}
	if json.Unmarshal(p.JSON(), &top) != nil {
		return f, false
	}
	f.origin, f.redacts = top.Origin != nil, top.Redacts
	if same(f, p) {
		return f, true
	}
	f.noRoom, f.extra = f.others(p.JSON())
	if same(f, p) {
		return f, true
	}
	f.hash = top.Hashes["sha256"]
	return f, len(f.hash) == 43 && same(f, p)
}

// others finds the top-level fields of an event that have no place of their own in parts.
func (f *parts) others(raw []byte) (noRoom bool, extra []field) {
	noRoom = true
	event.Each(raw, func(key, val []byte) bool {
		switch string(key) {
		case "room_id":
			noRoom = false
		case "redacts":
			if f.redacts == "" || string(appendString(nil, string(f.redacts))) != string(val) {
				f.redacts = ""
				extra = append(extra, field{"redacts", string(val)})
			}
		case "origin":
			if f.origin = string(appendString(nil, serverOf(f.sender))) == string(val); !f.origin {
				extra = append(extra, field{"origin", string(val)})
			}
		case "auth_events", "content", "depth", "hashes", "origin_server_ts", "prev_events", "sender", "signatures", "state_key", "type":
		default:
			extra = append(extra, field{string(key), string(val)})
		}
		return len(extra) <= maxExtra
	})
	return noRoom, extra
}

// maxExtra bounds the top-level fields that an event may have besides those of the specification.
const maxExtra = 16

func same(f parts, p *event.PDU) bool { return bytes.Equal(rebuild(f), p.JSON()) }

func serverOf(user string) string {
	_, server, _ := strings.Cut(user, ":")
	return server
}

func (s *Session) encodeCompact(w *writer, p *Event) bool {
	take := dissect
	if s.two {
		take = dissectMore
	}
	f, ok := take(p.PDU)
	if !ok || p.Log.Box == "" {
		return false
	}
	trial := &writer{s: s, before: w.before, two: s.two}
	s.writeCompact(trial, place{logName{f.room, p.Log.Box, p.Log.Epoch}, p.Log.Seq}, f)
	// The proof: read it as the far end will. Names explained here are not put anywhere, only given back.
	far := s.mirror()
	r := &reader{b: trial.b, s: far, two: s.two}
	version, log, seq, raw := far.decodeCompact(r)
	if r.err != nil || version != f.version || log != (logName{f.room, p.Log.Box, p.Log.Epoch}) || seq != p.Log.Seq ||
		!bytes.Equal(raw, p.PDU.JSON()) {
		return false
	}
	w.b, w.told = trial.b, trial.told
	return true
}

// mirror is this session as the far end has it.
func (s *Session) mirror() *Session {
	return &Session{codec: s.codec, tag: s.tag, in: s.out, out: s.in, trail: s.trail, dry: true}
}

func (s *Session) writeCompact(w *writer, at place, f parts) {
	w.place(at.log, at.seq)
	w.author(f)
	refs, known, depth, ts := w.ancestors(at, f.prev)
	body, coding := s.writeBody(f, w.two)
	fl := body << bodyShift
	switch {
	case len(refs) == 1 && refs[0] == (place{at.log, at.seq - 1}):
		fl |= prevLast
	case len(refs) == 1 && refs[0].log.box == "":
		fl |= prevID
	case len(refs) == 1:
		fl |= prevPlace
	default:
		fl |= prevMany
	}
	if !known || depth+1 != f.depth {
		fl |= flagDepth
	}
	if f.stateKey != nil {
		fl |= flagState
	}
	more := flags(len(f.more) > 0, f.hash != "", f.origin, f.redacts != "", f.noRoom, f.extra != nil)
	if more != 0 {
		fl |= flagMore
	}
	w.byte(fl)
	if more != 0 {
		w.byte(more)
	}
	switch fl & 3 {
	case prevID:
		w.hash(string(f.prev[0]), '$')
	case prevPlace:
		w.place(refs[0].log, refs[0].seq)
	case prevMany:
		w.uvarint(uint64(len(refs)))
		for i, at := range refs {
			w.event(at, f.prev[i])
		}
	}
	w.varint(f.ts - ts)
	if fl&flagDepth != 0 {
		w.varint(f.depth)
	}
	if f.stateKey != nil {
		w.name(*f.stateKey)
	}
	w.extras(f)
	w.raw(f.sig)
	coding(w)
}

// extras writes what only few events have.
func (w *writer) extras(f parts) {
	if len(f.more) > 0 {
		w.uvarint(uint64(len(f.more)))
		for _, s := range f.more {
			w.name(s.Server)
			w.name(s.KeyID)
			w.block(s.Sig)
		}
	}
	if f.hash != "" {
		w.text(f.hash)
	}
	if f.redacts != "" {
		if w.two {
			w.event(w.lookup(f.room, f.redacts), f.redacts)
		} else {
			w.hash(string(f.redacts), '$')
		}
	}
	if f.extra != nil {
		w.extra(f.extra)
	}
}

func (w *writer) author(f parts) {
	w.ref(tableAuthor, f.author, 0, func(uint64) {
		w.name(f.version)
		w.name(f.sender)
		w.name(f.author.key)
		w.uvarint(uint64(len(f.auth)))
		for _, id := range f.auth {
			w.id(id)
		}
	})
}

func (r *reader) author() author {
	a, _ := deref(r, tableAuthor, func() (author, uint64) {
		a := author{version: r.name(), sender: r.name(), key: r.name()}
		for range r.count() {
			if r.err == nil {
				a.auth += string(r.id()) + "\n"
			}
		}
		return a, 0
	})
	return a
}

// ancestors finds how to refer to the previous events: by place where both sides remember them (a zero place
// otherwise), and what derives from them. known says that all of them are.
func (w *writer) ancestors(at place, prev []event.ID) (refs []place, known bool, depth, ts int64) {
	known = true
	for _, id := range prev {
		p := w.find(at, id)
		refs = append(refs, p)
		k, ok := w.s.recall(p)
		if !ok {
			known = false
			continue
		}
		depth, ts = max(depth, k.depth), max(ts, k.ts)
	}
	return refs, known, depth, ts
}

// find looks for an event that the far end is sure to remember, first where it mostly is.
func (w *writer) find(at place, id event.ID) place {
	last := place{at.log, at.seq - 1}
	if k, ok := w.s.recall(last); ok && k.id == id && w.shared(last, k) {
		return last
	}
	return w.lookup(at.log.room, id)
}

// lookup looks for an event of a room that the far end is sure to remember; the zero place if there is none.
func (w *writer) lookup(room event.RoomID, id event.ID) place {
	if p, ok := w.s.byID[id]; ok && p.log.room == room {
		if k, ok := w.s.recall(p); ok && k.id == id && w.shared(p, k) {
			return p
		}
	}
	return place{}
}

// event writes a reference to an event.
func (w *writer) event(at place, id event.ID) {
	if at.log.box == "" {
		w.byte(0)
		w.hash(string(id), '$')
		return
	}
	w.byte(1)
	w.place(at.log, at.seq)
}

func (r *reader) event() (event.ID, known, bool) {
	if r.byte() == 0 {
		return event.ID(r.hash("$")), known{}, false
	}
	n, seq := r.place()
	k, ok := r.s.recall(place{n, seq})
	if !ok {
		r.fail(ErrUnknown)
	}
	return k.id, k, ok
}

func (s *Session) decodeCompact(r *reader) (version string, n logName, seq uint64, raw []byte) {
	n, seq = r.place()
	f := parts{author: r.author(), room: n.room}
	if r.err != nil {
		return "", n, seq, nil
	}
	version = f.version
	for id := range strings.SplitSeq(strings.TrimSuffix(f.author.auth, "\n"), "\n") {
		if id != "" {
			f.auth = append(f.auth, event.ID(id))
		}
	}
	fl := r.byte()
	var more byte
	if fl&flagMore != 0 {
		more = r.byte()
	}
	ts, depth := r.ancestors(fl&3, &f, place{n, seq})
	f.ts = ts + r.varint()
	f.depth = depth + 1
	if fl&flagDepth != 0 {
		f.depth = r.varint()
	}
	if fl&flagState != 0 {
		key := r.name()
		f.stateKey = &key
	}
	r.extras(&f, more)
	f.sig = r.take(64)
	r.body(&f, fl>>bodyShift&7)
	if r.err != nil {
		return version, n, seq, nil
	}
	return version, n, seq, rebuild(f)
}

func (r *reader) ancestors(form byte, f *parts, at place) (ts, depth int64) {
	one := func(at place) (ts, depth int64) {
		k, ok := r.s.recall(at)
		if !ok {
			r.fail(ErrUnknown)
		}
		f.prev = []event.ID{k.id}
		return k.ts, k.depth
	}
	switch form {
	case prevLast:
		return one(place{at.log, at.seq - 1})
	case prevPlace:
		n, seq := r.place()
		return one(place{n, seq})
	case prevID:
		f.prev = []event.ID{event.ID(r.hash("$"))}
		return 0, 0
	}
	for range r.count() {
		if r.err != nil {
			return 0, 0
		}
		id, k, _ := r.event()
		f.prev = append(f.prev, id)
		ts, depth = max(ts, k.ts), max(depth, k.depth)
	}
	return ts, depth
}

func (r *reader) extras(f *parts, more byte) {
	if more&moreSignatures != 0 {
		for range r.count() {
			if r.err != nil {
				return
			}
			f.more = append(f.more, event.Signature{Server: r.name(), KeyID: r.name(), Sig: r.block()})
		}
	}
	if more&moreHash != 0 {
		f.hash = r.text()
	}
	f.origin = more&moreOrigin != 0
	if more&moreRedacts != 0 {
		if r.two {
			f.redacts, _, _ = r.event()
		} else {
			f.redacts = event.ID(r.hash("$"))
		}
	}
	if r.two {
		f.noRoom = more&moreNoRoom != 0
		if more&moreExtra != 0 {
			f.extra = r.extra()
		}
	}
}

// rebuild writes the canonical JSON of an event from its parts. What parts cannot hold makes it differ from the original, and
// so keeps such events out of the compact form.
func rebuild(f parts) []byte {
	hash := f.hash
	if hash == "" {
		sum := sha256Sum(f.append(make([]byte, 0, len(f.content)+1024), ""))
		hash = base64.RawStdEncoding.EncodeToString(sum[:])
	}
	return f.append(make([]byte, 0, len(f.content)+1024), hash)
}

// append writes the event in canonical form; without hashes and signatures when hash is empty.
func (f *parts) append(b []byte, hash string) []byte {
	o := object{b: append(b, '{'), extra: f.extra}
	o.key("auth_events")
	o.b = appendIDs(o.b, f.auth)
	o.key("content")
	o.b = append(o.b, f.content...)
	o.key("depth")
	o.b = appendInt(o.b, f.depth)
	if hash != "" {
		o.key("hashes")
		o.b = append(appendString(append(o.b, `{"sha256":`...), hash), '}')
	}
	if f.origin {
		o.text("origin", serverOf(f.sender))
	}
	o.key("origin_server_ts")
	o.b = appendInt(o.b, f.ts)
	o.key("prev_events")
	o.b = appendIDs(o.b, f.prev)
	if f.redacts != "" {
		o.text("redacts", string(f.redacts))
	}
	if !f.noRoom {
		o.text("room_id", string(f.room))
	}
	o.text("sender", f.sender)
	if hash != "" {
		o.key("signatures")
		o.b = append(appendSignatures(append(o.b, '{'), f), '}')
	}
	if f.stateKey != nil {
		o.text("state_key", *f.stateKey)
	}
	o.text("type", f.typ)
	o.before("\xff") // what is left
	return append(o.b, '}')
}

// object is a JSON object that is being written in the order of its keys; extra are fields to be put between.
type object struct {
	b     []byte
	extra []field
	some  bool
}

func (o *object) before(key string) {
	for len(o.extra) > 0 && o.extra[0].key < key {
		e := o.extra[0]
		o.extra = o.extra[1:]
		o.name(e.key)
		o.b = append(o.b, e.val...)
	}
}

func (o *object) name(key string) {
	if o.some {
		o.b = append(o.b, ',')
	}
	o.some = true
	o.b = append(appendString(o.b, key), ':')
}

func (o *object) key(key string) {
	o.before(key)
	o.name(key)
}

func (o *object) text(key, val string) {
	o.key(key)
	o.b = appendString(o.b, val)
}

// appendSignatures writes the signatures in canonical order: by server, then by key.
func appendSignatures(b []byte, f *parts) []byte {
	all := append([]event.Signature{{Server: serverOf(f.sender), KeyID: f.author.key, Sig: f.sig}}, f.more...)
	slices.SortStableFunc(all, func(x, y event.Signature) int {
		return strings.Compare(x.Server+"\x00"+x.KeyID, y.Server+"\x00"+y.KeyID)
	})
	for i, s := range all {
		if i == 0 || all[i-1].Server != s.Server {
			if i > 0 {
				b = append(b, "},"...)
			}
			b = append(appendString(b, s.Server), ":{"...)
		} else {
			b = append(b, ',')
		}
		b = append(appendString(b, s.KeyID), ':')
		b = appendString(b, base64.RawStdEncoding.EncodeToString(s.Sig))
	}
	return append(b, '}')
}

func appendIDs(b []byte, ids []event.ID) []byte {
	b = append(b, '[')
	for i, id := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, string(id))
	}
	return append(b, ']')
}
