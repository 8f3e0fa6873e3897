// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"errors"
	"fmt"

	"hallig/appliance/event"
)

// A text can go ahead of its signature and of the events that it builds on: as a Notice, who says what, when, and which place of the log it has. It is protected by
// the link alone and is no event. What makes it one follows as a Signature: everything of the event's compact form but the time and the body, which the far end has. The sender
// reads its own Signature as the far end will and sends the whole event where that does not give the same bytes.
//
//	Notice      place (names.go), sender, time in ms, byte: form of the body (body.go), body
//	Signature   place, author, byte: previous events (2 bits) and depth given, previous events, depth if given, signature (codec.go)

// FeatureDeferred: takes Notice and Signature.
const FeatureDeferred uint32 = 1 << 3

// The kinds of this file.
const (
	KindNotice    Kind = 12
	KindSignature Kind = 13
)

// Notice is a text of m.room.message ahead of its event. Content is the event's content, byte for byte.
type Notice struct {
	Log     LogRef
	Room    event.RoomID
	Sender  event.UserID
	TS      int64
	Content []byte
}

// Signature makes an event of a notice that was sent before in the same session. Encode takes the event itself where it cannot; Decode gives the *Event.
type Signature struct{ Event *Event }

// Kind is KindNotice.
func (*Notice) Kind() Kind { return KindNotice }

// Kind is KindSignature.
func (*Signature) Kind() Kind { return KindSignature }

// NoticeOf is the notice of an event, if there can be one: a short text with a place in a log, and nothing in it that a Signature does not carry.
func NoticeOf(e *Event) (*Notice, bool) {
	if e.PDU.Type != typeMessage || e.PDU.StateKey != nil || e.Log.Box == "" || len(e.PDU.Content) > maxNoticeContent {
		return nil, false
	}
	f, ok := dissect(e.PDU)
	if !ok || !plain(f) {
		return nil, false
	}
	return &Notice{Log: e.Log, Room: e.PDU.RoomID, Sender: e.PDU.Sender, TS: e.PDU.TS, Content: e.PDU.Content}, true
}

// plain says that an event has nothing but what every text has.
func plain(f parts) bool {
	return f.typ == typeMessage && f.stateKey == nil && len(f.more) == 0 && f.hash == "" && !f.origin && f.redacts == ""
}

const (
	maxNoticeContent = 2 << 10
	noticesOut       = 16 // notices whose signature may follow as such
	noticesIn        = 64 // the far end's that are remembered: more than it refers to
	earlyIn          = 16 // signatures that wait for their notice
)

// notices is what a session remembers of them.
type notices struct {
	out, in map[place]Notice
	order   [2][]place // of out and in, oldest first
	early   map[place][]byte
}

// ErrEarly: a signature came before its notice. Early gives the event when that has come.
var ErrEarly = errors.New("signature of a notice that has not come")

func put(m *map[place]Notice, order *[]place, at place, n Notice, most int) {
	if *m == nil {
		*m = make(map[place]Notice)
	}
	if _, ok := (*m)[at]; !ok {
		*order = append(*order, at)
	}
	(*m)[at] = n
	if len(*order) > most {
		delete(*m, (*order)[0])
		*order = (*order)[1:]
	}
}

func (n *Notice) place() place { return placeOf(n.Room, n.Log) }

func placeOf(room event.RoomID, l LogRef) place { return place{logName{room, l.Box, l.Epoch}, l.Seq} }

// Noticed says whether a notice of an event has been sent in this session.
func (s *Session) Noticed(e *Event) bool {
	_, ok := s.notices.out[placeOf(e.PDU.RoomID, e.Log)]
	return ok
}

// ForgetNotices is to be called when a message did not arrive: no Signature refers to what was sent before.
func (s *Session) ForgetNotices() {
	s.notices.out, s.notices.order[0] = nil, nil
}

// went notes a parcel that goes out.
func (s *Session) went(p Parcel) {
	if n, ok := p.(*Notice); ok && s.tag != 0 {
		put(&s.notices.out, &s.notices.order[0], n.place(), *n, noticesOut)
	}
}

// settled gives what is to be written for a parcel: for a Signature that would not be read as it must, its event.
func (s *Session) settled(p Parcel, before *Ticket) Parcel {
	if g, ok := p.(*Signature); ok && !s.signs(&writer{s: s, before: before}, g.Event) {
		return g.Event
	}
	return p
}

func (w *writer) notice(n *Notice) error {
	if len(n.Content) > maxNoticeContent {
		return fmt.Errorf("a notice of %d bytes", len(n.Content))
	}
	w.place(logName{n.Room, n.Log.Box, n.Log.Epoch}, n.Log.Seq)
	w.name(string(n.Sender))
	w.uvarint(uint64(n.TS))
	form, body := w.s.writeBody(parts{room: n.Room, typ: typeMessage, content: n.Content}, w.two)
	w.byte(form)
	body(w)
	return nil
}

func (r *reader) notice() *Notice {
	at, seq := r.place()
	n := &Notice{Room: at.room, Log: LogRef{at.box, at.epoch, seq}, Sender: event.UserID(r.name()), TS: int64(r.uvarint())}
	f := parts{room: n.Room}
	r.body(&f, r.byte())
	n.Content = f.content
	if r.err == nil && (f.typ != typeMessage || len(f.content) > maxNoticeContent || n.TS < 0 || n.Log.Seq == 0) {
		r.fail(errors.New("a notice of something that is no text"))
	}
	if r.err == nil && r.s.tag != 0 && !r.s.dry {
		put(&r.s.notices.in, &r.s.notices.order[1], n.place(), *n, noticesIn)
	}
	return n
}

// signs writes what makes an event of its notice; false when that cannot be, or would not give the event's own bytes.
func (s *Session) signs(w *writer, e *Event) bool {
	f, ok := dissect(e.PDU)
	at := placeOf(e.PDU.RoomID, e.Log)
	n, told := s.notices.out[at]
	if !ok || !told || e.Raw || !plain(f) || f.ts != n.TS || f.sender != string(n.Sender) || !bytes.Equal(f.content, n.Content) {
		return false
	}
	trial := &writer{s: s, before: w.before}
	trial.signature(at, f)
	far := &Session{codec: s.codec, tag: s.tag, in: s.out, out: s.in, trail: s.trail, dry: true, notices: notices{in: s.notices.out}}
	r := &reader{b: trial.b, s: far}
	seen, raw, version := r.signature()
	if r.err != nil || len(r.b) > 0 || seen != at || version != f.version || !bytes.Equal(raw, e.PDU.JSON()) {
		return false
	}
	w.b, w.told = trial.b, trial.told
	return true
}

func (w *writer) signature(at place, f parts) {
	w.place(at.log, at.seq)
	w.author(f)
	refs, known, depth, _ := w.ancestors(at, f.prev)
	var fl byte
	switch {
	case len(refs) == 1 && refs[0] == (place{at.log, at.seq - 1}):
		fl = prevLast
	case len(refs) == 1 && refs[0].log.box == "":
		fl = prevID
	case len(refs) == 1:
		fl = prevPlace
	default:
		fl = prevMany
	}
	if !known || depth+1 != f.depth {
		fl |= flagDepth
	}
	w.byte(fl)
	switch fl & 3 {
	case prevID:
		w.hash(string(f.prev[0]), '$')
	case prevPlace:
		w.place(refs[0].log, refs[0].seq)
	case prevMany:
		w.uvarint(uint64(len(refs)))
		for i, ref := range refs {
			w.event(ref, f.prev[i])
		}
	}
	if fl&flagDepth != 0 {
		w.varint(f.depth)
	}
	w.raw(f.sig)
}

// signature reads one and gives the event's bytes, with what the notice of the place says.
func (r *reader) signature() (at place, raw []byte, version string) {
	at.log, at.seq = r.place()
	n, ok := r.s.notices.in[at]
	if r.err == nil && !ok {
		r.fail(ErrEarly)
	}
	f := parts{author: r.author(), room: at.log.room, ts: n.TS, typ: typeMessage, content: n.Content}
	if r.err == nil && f.sender != string(n.Sender) {
		r.fail(errors.New("signature of another sender than the notice's"))
	}
	f.auth = f.authIDs()
	fl := r.byte()
	_, depth := r.ancestors(fl&3, &f, at)
	f.depth = depth + 1
	if fl&flagDepth != 0 {
		f.depth = r.varint()
	}
	f.sig = r.take(64)
	if r.err != nil {
		return at, nil, ""
	}
	return at, rebuild(f), f.version
}

// authIDs are the ids that an author's auth events stand for.
func (a author) authIDs() (ids []event.ID) {
	for id := range bytes.SplitSeq([]byte(a.auth), []byte("\n")) {
		if len(id) > 0 {
			ids = append(ids, event.ID(id))
		}
	}
	return ids
}

// decodeSignature gives the event that a signature completes.
func (s *Session) decodeSignature(r *reader) Parcel {
	whole := r.b
	at, raw, version := r.signature()
	broken := func(err error) Parcel {
		return &Broken{What: KindSignature, Room: at.log.room, Log: LogRef{at.log.box, at.log.epoch, at.seq}, Err: err}
	}
	if errors.Is(r.err, ErrEarly) && s.tag != 0 && len(whole) <= maxNoticeContent {
		if s.notices.early == nil || len(s.notices.early) >= earlyIn {
			s.notices.early = make(map[place][]byte)
		}
		s.notices.early[at] = bytes.Clone(whole)
	}
	if r.err == nil && len(r.b) > 0 {
		r.fail(errors.New("longer than it says"))
	}
	if r.err != nil {
		return broken(r.err)
	}
	v, ok := event.Lookup(version)
	if !ok {
		return broken(fmt.Errorf("room version %q is not known", version))
	}
	pdu, err := event.Parse(v, raw)
	if err != nil {
		return broken(err)
	}
	if pdu.RoomID != at.log.room {
		return broken(errors.New("event is not of the room of its log"))
	}
	s.remember(at, known{id: pdu.ID, depth: pdu.Depth, ts: pdu.TS, arrived: true})
	return &Event{Log: LogRef{at.log.box, at.log.epoch, at.seq}, PDU: pdu}
}

// Early gives what a signature that came before its notice makes of it; nil when none did.
func (s *Session) Early(n *Notice) Parcel {
	b, ok := s.notices.early[n.place()]
	if !ok {
		return nil
	}
	delete(s.notices.early, n.place())
	return s.decodeSignature(&reader{b: b, s: s})
}
