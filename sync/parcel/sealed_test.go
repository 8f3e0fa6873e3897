// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"hallig/sync/peer"
)

func forwarded() []Parcel {
	a, b := newBox(1).id, newBox(2).id
	from := Origin{a, 0x0102030405060708}
	return []Parcel{
		&Sealed{To: b, From: from, Seq: 300, Priority: Bulk, Hops: MaxHops, Life: 77, Body: bytes.Repeat([]byte{5}, 100)},
		&Sealed{To: b, From: from, Seq: 1, Body: []byte{}},
		&Forward{Taken: []Custody{{b, from, []uint64{300, 301, 1 << 40}}, {a, Origin{b, 9}, []uint64{2}}}, Full: []Custody{{b, from, []uint64{7}}},
			Done: []Custody{{b, from, []uint64{6}}}, Reach: []Reach{{a, 3}, {b, 255}}},
		&Forward{Seen: []Custody{{b, from, []uint64{4}}}},
		&Forward{},
	}
}

func TestSealedTravels(t *testing.T) {
	e := newExchange(t, 0)
	bare := e.ends[0].codec.Bare()
	for round := range 2 {
		for i, want := range forwarded() {
			got, n := e.send(0, want)
			if len(got) != 1 || !reflect.DeepEqual(got[0], want) {
				t.Errorf("parcel %d came out as %+v, want %+v", i, got, want)
			}
			// The second time both boxes have their numbers: what carries a body costs a message tag and a dozen bytes at most.
			if s, ok := want.(*Sealed); ok && round == 1 && n-len(s.Body) > 12 {
				t.Errorf("the head of a sealed parcel takes %d bytes on a known link, want at most 12", n-len(s.Body))
			}
			msg, _, _, err := bare.Encode(MaxMessage, want)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := e.ends[1].Decode(msg); err != nil || !reflect.DeepEqual(back[0], want) {
				t.Errorf("bare parcel %d came out as %+v, %v", i, back, err)
			}
		}
	}
	for _, bad := range []Parcel{&Sealed{To: newBox(1).id, From: Origin{peer.ID("nobody"), 1}}, &Sealed{To: newBox(1).id, From: Origin{newBox(2).id, 1}, Priority: 5}} {
		if _, _, _, err := bare.Encode(MaxMessage, bad); err == nil {
			t.Errorf("%+v was written", bad)
		}
	}
}

// What others carry for us is hostile: nothing that it holds makes the reader fall, or come out as something it cannot be.
func FuzzForwarded(f *testing.F) {
	c := testCodec(f)
	for _, p := range forwarded() {
		for _, from := range []*Session{c.Session(1, 2), c.Bare()} {
			msg, _, _, err := from.Encode(MaxMessage, p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(msg)
		}
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := c.Session(2, 1).Decode(msg)
		if err != nil {
			return
		}
		for _, p := range got {
			switch p := p.(type) {
			case *Sealed:
				if _, err := p.From.Box.Key(); err != nil || p.Priority > Bulk || p.Hops > MaxHops {
					t.Errorf("an impossible parcel: %+v", p)
				}
			case *Forward:
				if len(p.Reach) > len(msg) {
					t.Errorf("%d boxes from %d bytes", len(p.Reach), len(msg))
				}
			}
		}
	})
}

func TestLife(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, 90 * time.Second, time.Hour, 30 * 24 * time.Hour, 100 * 365 * 24 * time.Hour} {
		got, ok := Lasts(LifeOf(d))
		if !ok || got > max(d, 2*time.Second) || d > 2*time.Second && got < d*9/10 {
			t.Errorf("%v comes out as %v, %v", d, got, ok)
		}
		if again, _ := Lasts(LifeOf(got)); again > got || again < got*99/100 && got > 2*time.Second {
			t.Errorf("%v becomes %v when it is handed on at once", got, again)
		}
	}
	if _, ok := Lasts(0); ok {
		t.Error("what does not expire expires")
	}
}
