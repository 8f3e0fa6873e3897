// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	maxRaw  = 8 * MaxSize // escapes and white space may blow up what is small in canonical form
	maxPrev = 20
	maxAuth = 10
)

// Parse reads an event that came from outside. It checks the shape, the limits and the version's rules for JSON, brings the event
// into canonical form and computes its id. It checks neither hash nor signatures: CheckHash, VerifySignature.
func Parse(v *Version, raw []byte) (*PDU, error) {
	if len(raw) > maxRaw {
		return nil, fmt.Errorf("parse event: %d bytes: %w", len(raw), ErrTooLarge)
	}
	p, err := parse(v, "", raw, true)
	if err != nil {
		return nil, fmt.Errorf("parse event: %w", err)
	}
	return p, nil
}

// ParseTrusted reads what JSON() once gave. Nothing is hashed again, and raw belongs to the event from now on.
func ParseTrusted(v *Version, id ID, raw []byte) (*PDU, error) {
	p, err := parse(v, id, raw, false)
	if err != nil {
		return nil, fmt.Errorf("parse stored event %s: %w", id, err)
	}
	return p, nil
}

// texts collects the strings of an event, so that all of them take one allocation.
type texts struct {
	room [768]byte
	n    int
	big  []byte // in place of room when that is full
}

func (t *texts) put(s []byte) span {
	from := t.n
	t.n += len(s)
	switch {
	case t.big != nil:
		t.big = append(t.big, s...)
	case t.n <= len(t.room):
		copy(t.room[from:], s)
	default:
		t.big = append(append(make([]byte, 0, 2*t.n), t.room[:from]...), s...)
	}
	return span{from, t.n}
}

func (t *texts) bytes(s span) []byte {
	if t.big != nil {
		return t.big[s.from:s.to]
	}
	return t.room[s.from:s.to]
}

func (t *texts) all() string { return string(t.bytes(span{0, t.n})) }

// draft is an event while it is read. It holds nothing that outlives the reading (neither the event nor its text), so that it lies on the stack.
type draft struct {
	v *Version
	t texts

	id, room, sender, typ, key, redacts span
	ids                                 [maxPrev + maxAuth]span
	prev, auth                          int // how many of each are in ids, prev first
	has                                 uint
}

const (
	hasType = 1 << iota
	hasRoom
	hasSender
	hasKey
	hasContent
	hasPrev
	hasAuth
	hasDepth
	hasTS
	hasID

	hasAll = hasType | hasSender | hasContent | hasPrev | hasAuth | hasDepth | hasTS
)

// parse reads an event. What is not from outside must be canonical and is kept. An empty id is computed.
func parse(v *Version, id ID, b []byte, outside bool) (*PDU, error) {
	d := draft{v: v}
	var store [20]member
	list, ok := memberList(b, v.numbers(), store[:])
	switch {
	case outside && ok:
		b = bytes.Clone(b)
	case outside:
		var err error
		if b, err = canonical(b, v.numbers()); err != nil {
			return nil, err
		}
		list, ok = memberList(b, v.numbers(), store[:])
	}
	if !ok {
		return nil, errors.New("not a canonical JSON object")
	}
	p := &PDU{Version: v}
	b, list = dropUnsigned(p, b, list)
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%d bytes: %w", len(b), ErrTooLarge)
	}
	p.json = b
	for _, m := range list {
		if err := d.field(p, string(m.keyIn(b)), m.valIn(b), m); err != nil {
			return nil, fmt.Errorf("%.64s: %w", m.keyIn(b), err)
		}
	}
	if err := d.complete(p); err != nil {
		return nil, err
	}
	if id == "" && v.eventIDs != idInEvent {
		var buf [52]byte
		h := sum(redact(v, &members{b: b, list: list}, d.t.bytes(d.typ), false))
		buf[0] = '$'
		v.idEncoding().Encode(buf[1:], h[:])
		d.id = d.t.put(buf[:1+v.idEncoding().EncodedLen(len(h))])
	} else if id != "" {
		d.id = d.t.put([]byte(id))
	}
	d.finish(p)
	if outside { // whoever reads from outside asks for the hash, mostly more than once
		p.hashed = p.hashIs(contentHash(&members{b: b, list: list})) == nil
	}
	return p, nil
}

// dropUnsigned takes unsigned out of the text: it is no part of the event, and whoever sent it may say there what he likes.
func dropUnsigned(p *PDU, b []byte, l []member) ([]byte, []member) {
	for i := range l {
		if string(l[i].keyIn(b)) != "unsigned" {
			continue
		}
		p.Unsigned = bytes.Clone(l[i].valIn(b))
		from, to := l[i].key, l[i].end
		if i > 0 {
			from = l[i-1].end
		} else if len(l) > 1 {
			to = l[1].key
		}
		n := to - from
		for j := i + 1; j < len(l); j++ {
			l[j].key, l[j].keyEnd, l[j].val, l[j].end = l[j].key-n, l[j].keyEnd-n, l[j].val-n, l[j].end-n
		}
		return append(bytes.Clone(b[:from]), b[to:]...), slices.Delete(l, i, i+1)
	}
	return b, l
}

func (d *draft) field(p *PDU, key string, val []byte, m member) (err error) {
	switch key {
	case "type":
		d.has |= hasType
		d.typ, err = d.limited(val)
	case "room_id":
		d.has |= hasRoom
		if d.room, err = d.limited(val); err == nil && (!d.begins(d.room, '!')) {
			err = errors.New("is no room id")
		}
	case "sender":
		d.has |= hasSender
		if d.sender, err = d.limited(val); err == nil {
			_, err = ParseUserID(string(d.t.bytes(d.sender)))
		}
	case "state_key":
		d.has |= hasKey
		d.key, err = d.limited(val)
	case "content":
		d.has |= hasContent
		if val[0] != '{' {
			return errors.New("is no object")
		}
		p.Content = json.RawMessage(val[:len(val):len(val)])
	case "prev_events":
		d.has |= hasPrev
		d.prev, err = d.idList(val, 0, maxPrev)
	case "auth_events":
		d.has |= hasAuth
		// They stand before prev_events in the text, but behind them in ids: the place is fixed.
		d.auth, err = d.idList(val, maxPrev, maxAuth)
	case "depth":
		d.has |= hasDepth
		p.Depth, err = integer(val)
	case "origin_server_ts":
		d.has |= hasTS
		p.TS, err = integer(val)
	case "signatures":
		p.signatures = span{m.val, m.end}
		return object(val)
	case "hashes":
		p.hashes = span{m.val, m.end}
		return object(val)
	case "event_id":
		d.has |= hasID
		if d.id, err = d.limited(val); err == nil && (!d.begins(d.id, '$')) {
			err = errors.New("is no event id")
		}
	}
	return err
}

func (d *draft) begins(s span, c byte) bool { return s.from < s.to && d.t.bytes(s)[0] == c }

func object(val []byte) error {
	if val[0] != '{' {
		return errors.New("is no object")
	}
	return nil
}

func integer(val []byte) (int64, error) {
	n, err := strconv.ParseInt(string(val), 10, 64)
	if err != nil {
		return 0, errors.New("is no integer")
	}
	return n, nil
}

// limited takes a string of at most 255 bytes; older versions count code points.
func (d *draft) limited(val []byte) (span, error) {
	if val[0] != '"' {
		return span{}, errors.New("is no string")
	}
	s := unescape(val[1 : len(val)-1])
	if len(s) > maxID && (d.v.ByteLimits || utf8.RuneCount(s) > maxID) {
		return span{}, fmt.Errorf("%d bytes: %w", len(s), ErrTooLarge)
	}
	return d.t.put(s), nil
}

// idList takes a list of event ids into d.ids[at:at+most]; in versions 1 and 2 its elements are pairs of an id and hashes.
func (d *draft) idList(val []byte, at, most int) (n int, err error) {
	if val[0] != '[' {
		return 0, errors.New("is no list")
	}
	s := scanner{b: val, numbers: verbatim}
	for i := 1; i < len(val) && val[i] != ']'; i++ {
		if d.v.eventIDs == idInEvent {
			if val[i] != '[' || val[i+1] != '"' {
				return 0, errors.New("has an element that is no pair of id and hashes")
			}
		} else if val[i] != '"' {
			return 0, errors.New("has an element that is no event id")
		}
		end := s.value(i, 1)
		if n == most {
			return 0, fmt.Errorf("more than %d: %w", most, ErrTooLarge)
		}
		id := val[i:end]
		if id[0] == '[' {
			id = val[i+1 : s.text(i+1)]
		}
		if d.ids[at+n], err = d.limited(id); err != nil {
			return 0, err
		}
		if !d.begins(d.ids[at+n], '$') {
			return 0, errors.New("has an element that is no event id")
		}
		n++
		i = end
		if val[i] == ']' {
			break
		}
	}
	return n, nil
}

// complete checks that nothing is missing or out of place.
func (d *draft) complete(p *PDU) error {
	if d.has&hasAll != hasAll {
		return errors.New("one of type, sender, content, prev_events, auth_events, depth, origin_server_ts is missing")
	}
	typ := string(d.t.bytes(d.typ))
	if d.v.CreateIsRoomID && typ == "m.room.create" {
		if d.has&hasRoom != 0 {
			return errors.New("create event has a room_id, which this version forbids")
		}
	} else if d.has&hasRoom == 0 {
		return errors.New("room_id is missing")
	}
	if d.v.eventIDs == idInEvent {
		if d.has&hasID == 0 {
			return errors.New("event_id is missing")
		}
	} else if d.has&hasID != 0 {
		return errors.New("event_id is a field, but in this version it is a hash")
	}
	if typ != "m.room.redaction" {
		return nil
	}
	from := []byte(p.Content)
	if !d.v.RedactsInContent {
		from = p.json
	}
	target, ok := Field(from, "redacts")
	if ok && target[0] == '"' { // else there is no target, and nothing is redacted
		if sp, err := d.limited(target); err == nil {
			d.redacts = sp
		}
	}
	return nil
}

// finish turns what was collected into strings.
func (d *draft) finish(p *PDU) {
	all := d.t.all()
	str := func(s span) string { return all[s.from:s.to] }
	p.ID, p.Sender, p.Type, p.Redacts = ID(str(d.id)), UserID(str(d.sender)), str(d.typ), ID(str(d.redacts))
	if d.has&hasRoom != 0 {
		p.RoomID = RoomID(str(d.room))
	} else if len(p.ID) > 1 {
		p.RoomID = RoomID("!" + p.ID[1:])
	}
	if d.has&hasKey != 0 {
		p.key = str(d.key)
		p.StateKey = &p.key
	}
	ids := make([]ID, d.prev+d.auth)
	for i := range ids {
		sp := d.ids[i]
		if i >= d.prev {
			sp = d.ids[maxPrev+i-d.prev]
		}
		ids[i] = ID(str(sp))
	}
	p.Prev, p.Auth = ids[:d.prev:d.prev], ids[d.prev:]
}
