// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/radio"
	"hallig/radio/arq"
	"hallig/radio/ether"
	"hallig/radio/frame"
	"hallig/sync/parcel"
)

// listener hears all that two stations say and reads it with the published codec and nothing else.
type listener struct {
	mu       sync.Mutex
	t        *testing.T
	codec    *parcel.Codec
	decoders [2]frame.Decoder
	parts    [2][frame.Priorities][]byte
	sessions map[[2]uint32][2]*parcel.Session
	who      [2]uint32 // the nonce that each end last named as its own
	calls    [2]map[string]int
	callAt   [2]time.Time
	gap      time.Duration // longest transmission time without a call sign
	events   []*parcel.Event
	edus     []*parcel.EDU
	unread   int // messages of a session that could not be read
	keyed    int // frames under keys
}

type tapped struct {
	io.ReadWriteCloser
	hear func([]byte)
}

func (s tapped) Write(b []byte) (int, error) {
	s.hear(b)
	return s.ReadWriteCloser.Write(b)
}

func (l *listener) open(air *ether.Ether, end int) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		s, err := air.Open(end)
		if err != nil {
			return nil, err
		}
		return tapped{s, func(b []byte) { l.hear(end, b) }}, nil
	}
}

func (l *listener) hear(end int, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.decoders[end].Feed(b, func(raw []byte) {
		f, err := frame.Parse(raw)
		if err != nil {
			l.t.Errorf("end %d sent what is no frame: %v", end, err)
			return
		}
		if call, ok := frame.CallOf(&f); ok {
			l.calls[end][call]++
			l.callAt[end] = time.Now()
			return
		}
		if !l.callAt[end].IsZero() {
			l.gap = max(l.gap, time.Since(l.callAt[end]))
		}
		if f.Keyed {
			l.keyed++
		}
		switch f.Type {
		case frame.Whole:
			l.message(end, f.Body)
		case frame.Data:
			pieces, ok := arq.Pieces(f.Body)
			if !ok {
				l.t.Errorf("end %d sent a data frame that nobody can read", end)
			}
			for _, p := range pieces {
				part := &l.parts[end][f.Priority]
				if p.First {
					*part = nil
				}
				if *part = append(*part, p.Data...); p.Last {
					l.message(end, *part)
				}
			}
		}
	})
}

func (l *listener) message(end int, msg []byte) {
	msg = append([]byte(nil), msg...)
	parcels, err := l.codec.Bare().Decode(msg)
	if err != nil {
		mine, theirs := l.who[end], l.who[1-end]
		s, ok := l.sessions[[2]uint32{mine, theirs}]
		if !ok {
			one, two := l.codec.Listen(mine, theirs)
			s = [2]*parcel.Session{one, two}
			l.sessions[[2]uint32{mine, theirs}] = s
			l.sessions[[2]uint32{theirs, mine}] = [2]*parcel.Session{two, one}
		}
		if parcels, err = s[0].Decode(msg); err != nil {
			l.unread++
			return
		}
	}
	for _, p := range parcels {
		switch p := p.(type) {
		case *parcel.Hello:
			if p.Step == 3 {
				l.who[end] = p.Session
			}
		case *parcel.Event:
			l.events = append(l.events, p)
		case *parcel.EDU:
			l.edus = append(l.edus, p)
		case *parcel.Broken:
			l.unread++
		}
	}
}

func (l *listener) read(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if strings.Contains(string(e.PDU.Content), text) {
			return true
		}
	}
	return false
}

// ofRoom counts the events of a room of a type ("": any) that were on the air.
func (l *listener) ofRoom(id event.RoomID, typ string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.PDU.RoomID == id && (typ == "" || e.PDU.Type == typ) {
			n++
		}
	}
	return n
}

func (b *box) cipher(id event.RoomID, by string) event.ID {
	b.w.t.Helper()
	body, _ := json.Marshal(map[string]string{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "AwgAEpAB", "session_id": "x"})
	eid, err := b.rooms.Send(b.w.t.Context(), room.Draft{Room: id, Sender: b.user(by), Type: "m.room.encrypted", Content: body})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return eid
}

// Two boxes over amateur radio: whoever listens reads all of it; an encrypted room waits, says so, and goes over another way, though it is slower.
func TestAmateurRadio(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		codec, err := parcel.NewCodec()
		if err != nil {
			t.Fatal(err)
		}
		ears := &listener{t: t, codec: codec, sessions: map[[2]uint32][2]*parcel.Session{}, calls: [2]map[string]int{{}, {}}}
		cfg := ether.Config{BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, Seed: 1}
		air, wire := ether.New(cfg), ether.New(ether.Config{BitsPerSecond: 2400, Seed: 2})
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		for i, x := range []*box{a, b} {
			wire.Unplug(i, true)
			x.plugs = append(x.plugs,
				func() Transport {
					return radio.New(radio.Config{Name: "slow", BitsPerSecond: 2400, Seed: uint64(i) + 10, Log: x.logger(),
						Open: func(context.Context) (io.ReadWriteCloser, error) { return wire.Open(i) }})
				},
				func() Transport {
					x.port = radio.New(radio.Config{Name: "ham", BitsPerSecond: 9600, TurnDelay: cfg.TurnDelay, Seed: uint64(i) + 1, Log: x.logger(),
						Band: "amateur", CallSign: []string{"DL1ABC", "DL2XYZ-7"}[i], Open: ears.open(air, i)})
					return x.port
				})
		}
		w.start()
		pass(time.Minute)
		clear, sealed := a.create("anna"), a.create("anna")
		b.join(a, clear, "bert")
		b.join(a, sealed, "bert")
		pass(time.Minute)
		var msgs []event.ID
		for _, text := range []string{"Wasser steigt am alten Deich", "Sandsäcke sind unterwegs", "angekommen"} {
			msgs = append(msgs, a.text(clear, "anna", text), b.text(clear, "bert", text+" sagt Bert"))
			pass(20 * time.Second)
		}
		want(t, clear, msgs, a, b)
		for _, text := range []string{"Wasser steigt am alten Deich", "angekommen sagt Bert"} {
			if !ears.read(text) {
				t.Errorf("whoever listens cannot read %q", text)
			}
		}
		if ears.unread > 0 || ears.keyed == 0 || !a.port.Stats().Keyed {
			t.Errorf("%d messages could not be read by who listens; %d frames with a keyed tag, want some; keyed %v", ears.unread, ears.keyed, a.port.Stats().Keyed)
		}

		a.state(sealed, "anna", "m.room.encryption", "", map[string]string{"algorithm": "m.megolm.v1.aes-sha2"})
		secret := []event.ID{a.cipher(sealed, "anna"), a.cipher(sealed, "anna")}
		more := a.text(clear, "anna", "hier geht es weiter")
		pass(5 * time.Minute)
		if n := len(b.all(sealed, "m.room.encrypted")); n != 0 {
			t.Errorf("%d encrypted events came over amateur radio", n)
		}
		if got := b.timeline(clear); count([]event.ID{more}, got) != 0 {
			t.Error("the clear room stands still because of the encrypted one")
		}
		if s := a.link.Status()[0]; !s.Open || len(s.Withheld) != 1 || s.Withheld[0] != sealed {
			t.Errorf("status: open %v, withheld %v; want the encrypted room named", s.Open, s.Withheld)
		}
		another := a.create("anna")
		a.state(another, "anna", "m.room.encryption", "", map[string]string{"algorithm": "m.megolm.v1.aes-sha2"})
		for _, path := range []string{
			"/_matrix/federation/v1/make_join/" + url.PathEscape(string(another)) + "/" + url.PathEscape(string(b.user("bert"))), // the answerer knows
			"/_matrix/federation/v1/backfill/" + url.PathEscape(string(sealed)) + "?v=x&limit=10",                                // so does who asks
			"/_matrix/federation/v1/user/keys/claim",
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := b.call(ctx, a.name, path, nil, &struct{}{}); err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "Amateurfunk") {
				t.Errorf("%s over amateur radio: %v, want a reason for people", path, err)
			}
			cancel()
		}
		pass(25 * time.Minute)
		ears.mu.Lock()
		if ears.calls[0]["DL1ABC"] < 3 || ears.calls[1]["DL2XYZ-7"] < 3 || len(ears.calls[0]) != 1 || ears.gap > 10*time.Minute {
			t.Errorf("call signs heard: %v; longest without one: %v, want 10 minutes at most", ears.calls, ears.gap)
		}
		ears.mu.Unlock()

		for i := range 2 {
			wire.Unplug(i, false)
		}
		pass(5 * time.Minute)
		if s := a.link.Status()[0]; s.Open || s.Carries != "serial:slow" || len(s.Withheld) != 0 {
			t.Errorf("with a wire besides: carried by %s, open %v, withheld %v", s.Carries, s.Open, s.Withheld)
		}
		secret = append(secret, a.cipher(sealed, "anna"))
		pass(3 * time.Minute)
		if lost := count(secret, b.all(sealed, "m.room.encrypted")); lost != 0 {
			t.Errorf("%d of %d encrypted events did not come over the wire", lost, len(secret))
		}
		if n := ears.ofRoom(sealed, "m.room.encrypted") + ears.ofRoom(sealed, "m.room.encryption"); n != 0 {
			t.Errorf("%d events of the encrypted room were on the air", n)
		}
	})
}
