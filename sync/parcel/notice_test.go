// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// talk is a room whose state both ends of a session have, and texts in it.
func talk(t testing.TB, version string, texts int) (near, far *Session, said []*Event) {
	t.Helper()
	c := testCodec(t)
	near, far = c.Session(1, 2), c.Session(2, 1)
	near.UseModel(true)
	far.UseModel(true)
	r := newRoom(t, version, 1)
	for _, e := range r.events {
		pass(t, near, far, e)
	}
	for i := range texts {
		content := fmt.Sprintf(`{"body":"Deich bricht bei Kilometer %d, alle Kräfte sofort zum Siel, Sandsäcke und Pumpen mitbringen, Weg frei","msgtype":"m.text","org.hallig.priority":"flash"}`, i)
		r.add(0, "anna", "m.room.message", nil, content, nil)
		said = append(said, r.events[len(r.events)-1])
	}
	return near, far, said
}

// pass sends parcels in one message and gives what comes out; the sender learns that it arrived.
func pass(t testing.TB, near, far *Session, ps ...Parcel) ([]Parcel, int) {
	t.Helper()
	msg, took, ticket, err := near.Encode(MaxMessage, ps...)
	if err != nil || took != len(ps) {
		t.Fatalf("took %d of %d, %v", took, len(ps), err)
	}
	got, err := far.Decode(msg)
	if err != nil {
		t.Fatal(err)
	}
	near.Arrived(ticket)
	return got, len(msg)
}

func noticeOf(t testing.TB, e *Event) *Notice {
	t.Helper()
	n, ok := NoticeOf(e)
	if !ok {
		t.Fatal("no notice of a text")
	}
	return n
}

func isEvent(t testing.TB, what string, got Parcel, want *Event) {
	t.Helper()
	e, ok := got.(*Event)
	if !ok || !bytes.Equal(e.PDU.JSON(), want.PDU.JSON()) || e.Log != want.Log || e.PDU.ID != want.PDU.ID {
		t.Errorf("%s: got %#v, want the event", what, got)
	}
}

// A text ahead of its signature costs little, and the signature makes the event of it, byte for byte.
func TestNotice(t *testing.T) {
	for _, version := range []string{"6", "10", "11", "12"} {
		near, far, said := talk(t, version, 3)
		for i, e := range said {
			n := noticeOf(t, e)
			got, size := pass(t, near, far, n)
			if !reflect.DeepEqual(got[0], n) {
				t.Errorf("version %s: notice came out as %+v", version, got[0])
			}
			if i > 0 && size > 80 {
				t.Errorf("version %s: a notice of 100 characters takes %d bytes, want at most 80", version, size)
			}
			msg, _, _, err := near.Encode(MaxMessage, &Signature{e})
			if err != nil {
				t.Fatal(err)
			}
			if Kind(msg[1]>>4) != KindSignature || i > 0 && len(msg) > 75 {
				t.Errorf("version %s: the signature takes %d bytes as kind %d", version, len(msg), msg[1]>>4)
			}
			got, size2 := pass(t, near, far, &Signature{e})
			isEvent(t, "version "+version, got[0], e)
			t.Logf("version %s: notice %d B, signature %d B", version, size, size2)
		}
	}
}

// Whatever a signature cannot say goes as the whole event.
func TestSignatureFallsBack(t *testing.T) {
	near, far, said := talk(t, "12", 4)
	got, _ := pass(t, near, far, &Signature{said[0]})
	isEvent(t, "without a notice", got[0], said[0])

	n := *noticeOf(t, said[1])
	n.Content = []byte(strings.Replace(string(n.Content), "Deich", "Teich", 1))
	pass(t, near, far, &n)
	got, _ = pass(t, near, far, &Signature{said[1]})
	isEvent(t, "after another text", got[0], said[1])

	pass(t, near, far, noticeOf(t, said[2]))
	near.ForgetNotices()
	got, _ = pass(t, near, far, &Signature{said[2]})
	isEvent(t, "after a message was lost", got[0], said[2])

	pass(t, near, far, noticeOf(t, said[3]))
	raw := *said[3]
	raw.Raw = true
	got, _ = pass(t, near, far, &Signature{&raw})
	isEvent(t, "raw", got[0], said[3])
}

// A signature may overtake its notice, and stands behind other events between.
func TestSignatureEarly(t *testing.T) {
	near, far, said := talk(t, "12", 2)
	n := noticeOf(t, said[1])
	first, _, _, err := near.Encode(MaxMessage, n)
	if err != nil {
		t.Fatal(err)
	}
	pass(t, near, far, said[0])
	second, _, _, err := near.Encode(MaxMessage, &Signature{said[1]})
	if err != nil {
		t.Fatal(err)
	}
	got, err := far.Decode(second)
	if b, ok := got[0].(*Broken); err != nil || !ok || !errors.Is(b.Err, ErrEarly) {
		t.Fatalf("early signature: %#v, %v", got, err)
	}
	if got, err = far.Decode(first); err != nil || !reflect.DeepEqual(got[0], n) {
		t.Fatalf("notice: %#v, %v", got, err)
	}
	isEvent(t, "when the notice has come", far.Early(n), said[1])
	if p := far.Early(n); p != nil {
		t.Errorf("the same again: %#v", p)
	}
}

// What is no plain text has no notice.
func TestNoticeOfNothingElse(t *testing.T) {
	_, _, said := talk(t, "12", 1)
	r := newRoom(t, "12", 2)
	r.add(0, "anna", "m.room.encrypted", nil, `{"algorithm":"m.megolm.v1.aes-sha2","ciphertext":"AwgA","org.hallig.priority":"flash"}`, nil)
	r.add(0, "anna", "m.room.message", nil, `{"body":"`+strings.Repeat("x", maxNoticeContent)+`","msgtype":"m.text"}`, nil)
	nowhere := *said[0]
	nowhere.Log = LogRef{}
	for _, e := range append(r.events, &nowhere) {
		if n, ok := NoticeOf(e); ok {
			t.Errorf("a notice of %s: %+v", e.PDU.Type, n)
		}
	}
}

// A far end that sends notices and signatures without end, or falsely, does not fill the memory.
func TestNoticesAreBounded(t *testing.T) {
	near, far, said := talk(t, "12", 1)
	n := noticeOf(t, said[0])
	for i := range 4 * noticesIn {
		m := *n
		m.Log.Seq += uint64(i)
		msg, _, _, err := near.Encode(MaxMessage, &m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := far.Decode(msg); err != nil {
			t.Fatal(err)
		}
		late := *said[0]
		late.Log.Seq += uint64(i)
		w := &writer{s: near}
		f, _ := dissect(late.PDU)
		w.signature(place{logName{n.Room, n.Log.Box, n.Log.Epoch}, n.Log.Seq + 1000 + uint64(i)}, f)
		if p := far.decodeSignature(&reader{b: w.b, s: far}); p.Kind() != KindSignature {
			t.Fatalf("a signature without a notice gives %#v", p)
		}
	}
	if len(far.notices.in) > noticesIn || len(far.notices.early) > earlyIn || len(near.notices.out) > noticesOut {
		t.Errorf("remembered: %d notices in, %d early, %d out", len(far.notices.in), len(far.notices.early), len(near.notices.out))
	}
	_, ok := far.notices.in[n.place()]
	if ok {
		t.Error("the oldest notice is not forgotten")
	}
}

// Truncated, changed or repeated, a notice and its signature give nothing but what the sender said, or nothing.
func FuzzNotice(f *testing.F) {
	_, _, said := talk(f, "12", 2)
	near, _, _ := talk(f, "12", 0)
	for _, e := range said {
		for _, p := range []Parcel{noticeOf(f, e), &Signature{e}} {
			msg, _, _, err := near.Encode(MaxMessage, p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(msg, []byte{})
		}
	}
	c := testCodec(f)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		far := c.Session(2, 1)
		for _, msg := range [][]byte{first, second, first} {
			got, err := far.Decode(msg)
			if err != nil {
				continue
			}
			for _, p := range got {
				n, ok := p.(*Notice)
				if !ok {
					continue
				}
				if len(n.Content) > maxNoticeContent || n.TS < 0 || n.Log.Seq == 0 {
					t.Fatalf("notice out of bounds: %+v", n)
				}
				if e, ok := far.Early(n).(*Event); ok && e.PDU == nil {
					t.Fatal("an event without an event")
				}
			}
		}
	})
}
