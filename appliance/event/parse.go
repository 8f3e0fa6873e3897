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
	b, err := canonical(raw, v.numbers())
	if err != nil {
		return nil, fmt.Errorf("parse event: %w", err)
	}
	if len(b) > 0 && &b[0] == &raw[0] {
		b = bytes.Clone(b)
	}
	p, err := parse(v, "", b)
	if err != nil {
		return nil, fmt.Errorf("parse event: %w", err)
	}
	p.hashed = p.checkHash() == nil // whoever reads from outside asks, mostly more than once
	return p, nil
}

// ParseTrusted reads what JSON() once gave. Nothing is hashed again, and raw belongs to the event from now on.
func ParseTrusted(v *Version, id ID, raw []byte) (*PDU, error) {
	p, err := parse(v, id, raw)
	if err != nil {
		return nil, fmt.Errorf("parse stored event %s: %w", id, err)
	}
	return p, nil
}

// texts collects the strings of an event, so that all of them take one allocation.
type texts struct {
	buf  []byte
	room [768]byte
}

func (t *texts) put(s []byte) span {
	from := len(t.buf)
	t.buf = append(t.buf, s...)
	return span{from, len(t.buf)}
}

// draft is an event while it is read.
type draft struct {
	v *Version
	p *PDU
	m members
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

// parse reads the canonical text b, which it keeps. An empty id is computed.
func parse(v *Version, id ID, b []byte) (*PDU, error) {
	d := draft{v: v, p: &PDU{Version: v}}
	d.t.buf = d.t.room[:0]
	var store [20]member
	var ok bool
	if d.m, ok = membersOf(b, v.numbers(), store[:]); !ok {
		return nil, errors.New("not a canonical JSON object")
	}
	d.dropUnsigned()
	if len(d.m.b) > MaxSize {
		return nil, fmt.Errorf("%d bytes: %w", len(d.m.b), ErrTooLarge)
	}
	d.p.json = d.m.b
	for i := range d.m.list {
		if err := d.field(string(d.m.key(i)), d.m.val(i), d.m.list[i]); err != nil {
			return nil, fmt.Errorf("%.64s: %w", d.m.key(i), err)
		}
	}
	if err := d.complete(); err != nil {
		return nil, err
	}
	if id == "" && v.eventIDs != idInEvent {
		var buf [52]byte
		h := sum(redact(v, &d.m, d.t.buf[d.typ.from:d.typ.to], false))
		buf[0] = '$'
		v.idEncoding().Encode(buf[1:], h[:])
		d.id = d.t.put(buf[:1+v.idEncoding().EncodedLen(len(h))])
	} else if id != "" {
		d.id = d.t.put([]byte(id))
	}
	d.finish()
	return d.p, nil
}

// dropUnsigned takes unsigned out of the text: it is no part of the event, and whoever sent it may say there what he likes.
func (d *draft) dropUnsigned() {
	l := d.m.list
	for i := range l {
		if string(d.m.key(i)) != "unsigned" {
			continue
		}
		d.p.Unsigned = bytes.Clone(d.m.val(i))
		from, to := l[i].key, l[i].end
		if i > 0 {
			from = l[i-1].end
		} else if len(l) > 1 {
			to = l[1].key
		}
		d.m.b = append(bytes.Clone(d.m.b[:from]), d.m.b[to:]...)
		n := to - from
		for j := i + 1; j < len(l); j++ {
			l[j].key, l[j].keyEnd, l[j].val, l[j].end = l[j].key-n, l[j].keyEnd-n, l[j].val-n, l[j].end-n
		}
		d.m.list = slices.Delete(l, i, i+1)
		return
	}
}

func (d *draft) field(key string, val []byte, m member) (err error) {
	switch key {
	case "type":
		d.has |= hasType
		d.typ, err = d.limited(val)
	case "room_id":
		d.has |= hasRoom
		if d.room, err = d.limited(val); err == nil && (d.room.from == d.room.to || d.t.buf[d.room.from] != '!') {
			err = errors.New("is no room id")
		}
	case "sender":
		d.has |= hasSender
		if d.sender, err = d.limited(val); err == nil {
			_, err = ParseUserID(string(d.t.buf[d.sender.from:d.sender.to]))
		}
	case "state_key":
		d.has |= hasKey
		d.key, err = d.limited(val)
	case "content":
		d.has |= hasContent
		if val[0] != '{' {
			return errors.New("is no object")
		}
		d.p.Content = json.RawMessage(val[:len(val):len(val)])
	case "prev_events":
		d.has |= hasPrev
		d.prev, err = d.idList(val, 0, maxPrev)
	case "auth_events":
		d.has |= hasAuth
		// They stand before prev_events in the text, but behind them in ids: the place is fixed.
		d.auth, err = d.idList(val, maxPrev, maxAuth)
	case "depth":
		d.has |= hasDepth
		d.p.Depth, err = integer(val)
	case "origin_server_ts":
		d.has |= hasTS
		d.p.TS, err = integer(val)
	case "signatures":
		d.p.signatures = span{m.val, m.end}
		return object(val)
	case "hashes":
		d.p.hashes = span{m.val, m.end}
		return object(val)
	case "event_id":
		d.has |= hasID
		if d.id, err = d.limited(val); err == nil && (d.id.from == d.id.to || d.t.buf[d.id.from] != '$') {
			err = errors.New("is no event id")
		}
	}
	return err
}

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
		if sp := d.ids[at+n]; sp.from == sp.to || d.t.buf[sp.from] != '$' {
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
func (d *draft) complete() error {
	if d.has&hasAll != hasAll {
		return errors.New("one of type, sender, content, prev_events, auth_events, depth, origin_server_ts is missing")
	}
	typ := string(d.t.buf[d.typ.from:d.typ.to])
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
	target, ok := d.m.find("redacts")
	if d.v.RedactsInContent {
		target, ok = Field(d.p.Content, "redacts")
	}
	if ok && target[0] == '"' { // else there is no target, and nothing is redacted
		if sp, err := d.limited(target); err == nil {
			d.redacts = sp
		}
	}
	return nil
}

// finish turns what was collected into strings.
func (d *draft) finish() {
	all := string(d.t.buf)
	str := func(s span) string { return all[s.from:s.to] }
	p := d.p
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
