// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hallig/appliance/event"
)

// Bodies that hold many events: the answer to a join, a room's state, backfill. The events are cut out of the JSON, put
// in order of depth, so that what an event names mostly stands before it, and written column by column: what repeats
// compresses, and what cannot be derived (signatures, hashes of events outside) stands as it is. Method 2 of Pack:
//
//	version, room, number of events
//	blocks, packed: the JSON around the events, which event stands where, and the columns; raw bytes at the end
//
// The events need no session, so a body may travel in chunks and be read by whoever holds all of them.
const (
	colSkeleton = iota // the body, a mark where an event was
	colMarks           // which event each mark stands for: runs of the coded order
	colFlags           // a byte for each event, and one more where flagged
	colAuth            // number of auth events, references from the start
	colPrev            // number of previous events, references backwards
	colTime            // ms after the event before in coded order
	colDepth           // where flagged: after the event before
	colUser            // senders, keys of servers, state keys: texts with a zero byte behind
	colType
	colContent
	colRest // what only few have
	columns
)

const (
	markEvent   = 1 // as in canonical JSON
	markEscaped = 2 // as encoding/json writes it for browsers: <, > and & escaped

	listState   = 1 << 0 // has a state key
	listOwn     = 1 << 1 // which is the sender
	listDepth   = 1 << 2 // depth is not one more than that of its known ancestors
	listMore    = 1 << 3 // a byte of the flags of codec.go follows
	listLiteral = 1 << 4 // one previous event, which is not in the list: the usual case
	listSender  = 1 << 5 // the sender of the event before
	listKey     = 1 << 6 // the key of the server is named for the first time, or another one

	fewEvents   = 3       // fewer are not worth it
	maxListBody = 8 << 20 // longer bodies are compressed as they are
	maxListed   = 1 << 17 // events of one body
	maxVain     = 64      // things in a body that begin like events and are none; each costs a look at up to 128 KB
)

var errList = errors.New("unpack events: not well formed")

// list is what both ends know of the events so far.
type list struct {
	version *event.Version
	room    event.RoomID
	done    []listed
	at      map[event.ID]int
	keys    map[string]string // key id by server
}

type listed struct {
	raw   []byte
	id    event.ID
	depth int64
	ts    int64
	from  string // sender
}

func newList(v *event.Version, room event.RoomID) *list {
	return &list{version: v, room: room, at: make(map[event.ID]int), keys: make(map[string]string)}
}

func (l *list) add(e listed) {
	l.at[e.id] = len(l.done)
	l.done = append(l.done, e)
}

func (l *list) last() listed {
	if len(l.done) == 0 {
		return listed{}
	}
	return l.done[len(l.done)-1]
}

// ancestry is the depth that follows from those of the previous events that are in the list.
func (l *list) ancestry(prev []event.ID) (depth int64) {
	for _, id := range prev {
		if i, ok := l.at[id]; ok {
			depth = max(depth, l.done[i].depth)
		}
	}
	return depth + 1
}

// PackEvents is Pack for a reader that knows version 2 of the codec: bodies full of events become much smaller.
func (c *Codec) PackEvents(body []byte) []byte {
	packed := c.Pack(body)
	if len(body) > maxListBody || len(body) < 1024 {
		return packed
	}
	l, ok := c.packList(body)
	if !ok || len(l) >= len(packed) {
		return packed
	}
	if again, err := c.Unpack(l, len(body)); err != nil || !bytes.Equal(again, body) {
		return packed
	}
	return l
}

// cut is an event found in a body.
type cut struct {
	from, to int
	mark     byte
	pdu      *event.PDU
	f        parts
	coded    int // its place in the coded order
}

// opening is how every canonical event begins. Inside a string its quotes would be escaped.
var opening = []byte(`{"auth_events":[`)

func (c *Codec) packList(body []byte) ([]byte, bool) {
	if bytes.IndexByte(body, markEvent) >= 0 || bytes.IndexByte(body, markEscaped) >= 0 {
		return nil, false
	}
	v := versionOf(body)
	cuts := cutEvents(v, body)
	if len(cuts) == 0 {
		return nil, false
	}
	room := cuts[0].pdu.RoomID
	cuts = slices.DeleteFunc(cuts, func(e cut) bool { return e.pdu.RoomID != room })
	if len(cuts) < fewEvents || len(cuts) > maxListed {
		return nil, false
	}
	ordered, first := make([]*cut, 0, len(cuts)), make(map[string]*cut)
	for i := range cuts {
		e := &cuts[i]
		if first[string(e.pdu.JSON())] == nil {
			first[string(e.pdu.JSON())] = e
			ordered = append(ordered, e)
		}
	}
	slices.SortStableFunc(ordered, func(a, b *cut) int { return cmp.Compare(a.pdu.Depth, b.pdu.Depth) })
	w := listWriter{list: newList(v, room)}
	for i, e := range ordered {
		e.coded = i
		w.event(e)
	}
	next := 0
	for i := 0; i < len(cuts); {
		start := first[string(cuts[i].pdu.JSON())].coded
		n := 1
		for i+n < len(cuts) && first[string(cuts[i+n].pdu.JSON())].coded == start+n {
			n++
		}
		w.col[colMarks].varint(int64(start - next))
		w.col[colMarks].uvarint(uint64(n))
		next, i = start+n, i+n
	}
	at := 0
	for _, e := range cuts {
		w.col[colSkeleton].raw(body[at:e.from])
		w.col[colSkeleton].byte(e.mark)
		at = e.to
	}
	w.col[colSkeleton].raw(body[at:])
	out := writer{b: []byte{methodEvents}}
	out.text(v.ID)
	out.text(string(room))
	out.uvarint(uint64(len(ordered)))
	for i := range w.col {
		out.block(c.Pack(w.col[i].b))
	}
	out.raw(w.bytes.b)
	return out.b, true
}

// versionOf finds the room version that a body speaks of; where it speaks of none the newest does: names of events inside the
// body are then not found again, and the body is a little longer.
func versionOf(body []byte) *event.Version {
	_, rest, _ := bytes.Cut(body, []byte(`"room_version":"`))
	id, _, _ := bytes.Cut(rest[:min(len(rest), 20)], []byte(`"`))
	if v, ok := event.Lookup(string(id)); ok && !v.Readable {
		return v
	}
	for _, known := range []string{"12", "11", "10", "6", "3"} {
		v, _ := event.Lookup(known)
		cuts := cutEvents(v, body[:min(len(body), 64<<10)])
		ids := make(map[event.ID]bool)
		for _, e := range cuts {
			ids[e.pdu.ID] = true
		}
		for _, e := range cuts {
			for _, id := range slices.Concat(e.pdu.Prev, e.pdu.Auth) {
				if ids[id] {
					return v
				}
			}
		}
	}
	return event.Default()
}

// cutEvents finds the events of a body that the columns can hold.
func cutEvents(v *event.Version, body []byte) (cuts []cut) {
	for at, vain := 0, 0; ; vain++ {
		i := bytes.Index(body[at:], opening)
		if i < 0 || vain-len(cuts) > maxVain {
			return cuts
		}
		from := at + i
		var raw json.RawMessage
		d := json.NewDecoder(bytes.NewReader(body[from:min(len(body), from+2*event.MaxSize)]))
		if d.Decode(&raw) != nil {
			at = from + len(opening)
			continue
		}
		e := cut{from: from, to: from + int(d.InputOffset()), mark: markEvent}
		at = from + len(opening)
		p, err := event.Parse(v, raw)
		if err != nil || !bytes.Equal(p.JSON(), raw) {
			if err != nil || !bytes.Equal(escape(p.JSON()), raw) {
				continue
			}
			e.mark = markEscaped
		}
		f, ok := dissectMore(p)
		if !ok || strings.Contains(f.sender+f.typ+f.key, "\x00") || f.stateKey != nil && strings.Contains(*f.stateKey, "\x00") {
			continue
		}
		e.pdu, e.f = p, f
		cuts = append(cuts, e)
		at = e.to
	}
}

// escape writes JSON as encoding/json does.
func escape(raw []byte) []byte {
	if !bytes.ContainsAny(raw, "<>&\u2028\u2029") {
		return raw
	}
	var b bytes.Buffer
	json.HTMLEscape(&b, raw)
	return b.Bytes()
}

// listWriter fills the columns.
type listWriter struct {
	*list
	col   [columns]writer
	bytes writer
}

func (w *listWriter) text(col int, s string) {
	w.col[col].raw([]byte(s))
	w.col[col].byte(0)
}

func (w *listWriter) event(e *cut) {
	f := &e.f
	last := w.last()
	more := flags(len(f.more) > 0, f.hash != "", f.origin, f.redacts != "", f.noRoom, f.extra != nil)
	literal := false
	if len(f.prev) == 1 {
		_, known := w.at[f.prev[0]]
		_, spelled := spell(w.version, f.prev[0])
		literal = !known && spelled
	}
	server := serverOf(f.sender)
	fl := flags(f.stateKey != nil, f.stateKey != nil && *f.stateKey == f.sender, f.depth != w.ancestry(f.prev), more != 0, literal,
		f.sender == last.from && len(w.done) > 0, w.keys[server] != f.author.key)
	w.col[colFlags].byte(fl)
	if more != 0 {
		w.col[colFlags].byte(more)
	}
	if fl&listSender == 0 {
		w.text(colUser, f.sender)
	}
	if fl&listKey != 0 {
		w.text(colUser, f.author.key)
		w.keys[server] = f.author.key
	}
	w.text(colType, f.typ)
	if fl&(listState|listOwn) == listState {
		w.text(colUser, *f.stateKey)
	}
	w.col[colAuth].uvarint(uint64(len(f.auth)))
	for _, id := range f.auth {
		w.ref(&w.col[colAuth], id, func(i int) int { return i })
	}
	if literal {
		raw, _ := spell(w.version, f.prev[0])
		w.bytes.raw(raw)
	} else {
		w.col[colPrev].uvarint(uint64(len(f.prev)))
		for _, id := range f.prev {
			w.ref(&w.col[colPrev], id, func(i int) int { return len(w.done) - 1 - i })
		}
	}
	w.col[colTime].varint(f.ts - last.ts)
	if fl&listDepth != 0 {
		w.col[colDepth].varint(f.depth - last.depth)
	}
	w.text(colContent, string(f.content)) // canonical JSON spells zero bytes in letters
	w.bytes.raw(f.sig)
	w.rest(f)
	w.add(listed{id: e.pdu.ID, depth: f.depth, ts: f.ts, from: f.sender})
}

// ref writes a reference to an event: 0 its hash, 1 its text, else where it stands.
func (w *listWriter) ref(col *writer, id event.ID, number func(int) int) {
	if i, ok := w.at[id]; ok {
		col.uvarint(uint64(number(i)) + 2)
		return
	}
	if raw, ok := spell(w.version, id); ok {
		col.byte(0)
		w.bytes.raw(raw)
		return
	}
	col.byte(1)
	col.text(string(id))
}

func (w *listWriter) rest(f *parts) {
	c := &w.col[colRest]
	if len(f.more) > 0 {
		c.uvarint(uint64(len(f.more)))
		for _, s := range f.more {
			c.text(s.Server)
			c.text(s.KeyID)
			c.uvarint(uint64(len(s.Sig)))
			w.bytes.raw(s.Sig)
		}
	}
	if f.hash != "" {
		c.text(f.hash)
	}
	if f.redacts != "" {
		w.ref(c, f.redacts, func(i int) int { return i })
	}
	if f.extra != nil {
		c.extra(f.extra)
	}
}

func (w *writer) extra(fields []field) {
	w.uvarint(uint64(len(fields)))
	for _, e := range fields {
		w.text(e.key)
		w.text(e.val)
	}
}

func (r *reader) extra() (fields []field) {
	n := r.count()
	if n > maxExtra {
		r.fail(errors.New("too many fields"))
		return nil
	}
	for range n {
		fields = append(fields, field{r.text(), r.text()})
	}
	return fields
}

// listReader reads the columns.
type listReader struct {
	*list
	col   [columns]reader
	bytes reader
}

// unpackList undoes packList. Every column is at most as long as the body may be, and so is what comes of them together.
func (c *Codec) unpackList(data []byte, limit int) ([]byte, error) {
	r := reader{b: data}
	v, ok := event.Lookup(r.text())
	room := event.RoomID(r.text())
	n := r.uvarint()
	if r.err != nil || !ok || v.Readable || n > maxListed {
		return nil, errList
	}
	l := listReader{list: newList(v, room)}
	left := limit + 64*int(n) + 1024
	for i := range l.col {
		block := r.block()
		if r.err != nil {
			return nil, errList
		}
		column, err := c.unpackPlain(block, left)
		if err != nil {
			return nil, err
		}
		left -= len(column)
		l.col[i].b = column
	}
	l.bytes.b = r.b
	size := 0
	for range n {
		raw, err := l.event()
		if err != nil {
			return nil, err
		}
		if size += len(raw); size > limit {
			return nil, fmt.Errorf("unpack events: more than %d bytes", limit)
		}
	}
	return l.body(limit)
}

// body puts the events into their places.
func (l *listReader) body(limit int) ([]byte, error) {
	var out []byte
	at, run, marks := 0, 0, &l.col[colMarks]
	for rest := l.col[colSkeleton].b; ; {
		i := bytes.IndexFunc(rest, func(c rune) bool { return c == markEvent || c == markEscaped })
		if i < 0 {
			out = append(out, rest...)
			break
		}
		out = append(out, rest[:i]...)
		if run == 0 {
			at += int(marks.varint())
			run = int(min(marks.uvarint(), maxListed))
		}
		if marks.err != nil || run == 0 || at < 0 || at >= len(l.done) {
			return nil, errList
		}
		raw := l.done[at].raw
		if rest[i] == markEscaped {
			raw = escape(raw)
		}
		if len(out)+len(raw) > limit {
			return nil, fmt.Errorf("unpack events: more than %d bytes", limit)
		}
		out = append(out, raw...)
		at, run, rest = at+1, run-1, rest[i+1:]
	}
	if len(out) > limit {
		return nil, fmt.Errorf("unpack events: more than %d bytes", limit)
	}
	return out, nil
}

func (l *listReader) text(col int) string {
	r := &l.col[col]
	i := bytes.IndexByte(r.b, 0)
	if i < 0 {
		r.fail(errShort)
		return ""
	}
	s := string(r.b[:i])
	r.b = r.b[i+1:]
	return s
}

func (l *listReader) event() ([]byte, error) {
	last := l.last()
	fl := l.col[colFlags].byte()
	var more byte
	if fl&listMore != 0 {
		more = l.col[colFlags].byte()
	}
	f := parts{room: l.room, noRoom: more&moreNoRoom != 0, origin: more&moreOrigin != 0}
	f.version, f.sender = l.version.ID, last.from
	if fl&listSender == 0 {
		f.sender = l.text(colUser)
	}
	server := serverOf(f.sender)
	if fl&listKey != 0 {
		l.keys[server] = l.text(colUser)
	}
	f.author.key = l.keys[server]
	f.typ = l.text(colType)
	switch {
	case fl&listOwn != 0:
		f.stateKey = &f.sender
	case fl&listState != 0:
		key := l.text(colUser)
		f.stateKey = &key
	}
	f.auth = l.refs(&l.col[colAuth], func(n int) int { return n })
	if fl&listLiteral != 0 {
		f.prev = []event.ID{l.literal()}
	} else {
		f.prev = l.refs(&l.col[colPrev], func(n int) int { return len(l.done) - 1 - n })
	}
	f.ts = last.ts + l.col[colTime].varint()
	f.depth = l.ancestry(f.prev)
	if fl&listDepth != 0 {
		f.depth = last.depth + l.col[colDepth].varint()
	}
	f.content = []byte(l.text(colContent))
	f.sig = l.bytes.take(64)
	l.rest(&f, more)
	for i := range l.col {
		if l.col[i].err != nil {
			return nil, errList
		}
	}
	if l.bytes.err != nil {
		return nil, errList
	}
	raw := rebuild(f)
	p, err := event.Parse(l.version, raw)
	if err != nil {
		return nil, fmt.Errorf("unpack events: %w", err)
	}
	l.add(listed{raw: raw, id: p.ID, depth: f.depth, ts: f.ts, from: f.sender})
	return raw, nil
}

func (l *listReader) refs(col *reader, number func(int) int) (ids []event.ID) {
	n := col.count()
	if n > 20 {
		col.fail(errList)
		return nil
	}
	for range n {
		ids = append(ids, l.ref(col, number))
	}
	return ids
}

func (l *listReader) ref(col *reader, number func(int) int) event.ID {
	switch n := col.uvarint(); n {
	case 0:
		return l.literal()
	case 1:
		return event.ID(col.text())
	default:
		if n-2 < uint64(len(l.done)) {
			if i := number(int(n - 2)); i >= 0 && i < len(l.done) {
				return l.done[i].id
			}
		}
		col.fail(errList)
		return ""
	}
}

func (l *listReader) literal() event.ID { return unspell(l.version, l.bytes.take(32)) }

func (l *listReader) rest(f *parts, more byte) {
	c := &l.col[colRest]
	if more&moreSignatures != 0 {
		n := c.count()
		if n > 8 {
			c.fail(errList)
		}
		for range n {
			if c.err != nil {
				return
			}
			f.more = append(f.more, event.Signature{Server: c.text(), KeyID: c.text(), Sig: l.bytes.take(int(min(c.uvarint(), 1<<10)))})
		}
	}
	if more&moreHash != 0 {
		f.hash = c.text()
	}
	if more&moreRedacts != 0 {
		f.redacts = l.ref(c, func(n int) int { return n })
	}
	if more&moreExtra != 0 {
		f.extra = c.extra()
	}
}

// spell gives the hash that an event id spells, in the alphabet of a room version.
func spell(v *event.Version, id event.ID) ([]byte, bool) {
	if len(id) != 44 || id[0] != '$' {
		return nil, false
	}
	raw, err := alphabetOf(v).Strict().DecodeString(string(id[1:]))
	return raw, err == nil && len(raw) == 32
}

func unspell(v *event.Version, hash []byte) event.ID {
	return event.ID("$" + alphabetOf(v).EncodeToString(hash))
}

func alphabetOf(v *event.Version) *base64.Encoding {
	if v.ID == "3" {
		return base64.RawStdEncoding
	}
	return base64.RawURLEncoding
}
