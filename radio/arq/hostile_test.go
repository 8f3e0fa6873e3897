// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"bytes"
	"testing"
	"time"

	"hallig/radio/frame"
)

// memory is what a link holds of others' bytes.
func (l *Link) memory() int {
	n := 0
	for i := range l.in {
		n += len(l.in[i].body)
	}
	for i := range l.asm {
		n += len(l.asm[i].data)
	}
	return n
}

const mostMemory = window*frame.MaxBody + frame.Priorities*MaxMessage

// FuzzLink plays a far end that has the right epochs and sends what it likes.
func FuzzLink(f *testing.F) {
	f.Add(true, []byte{4, 0xa1, 0, 0x80, 'x', 2, 0xd0, 1, 5, 0x42, 1, 63, 0x80, 9})
	f.Add(false, []byte{9, 0x42, 0, 0, 0x9f, 0xff, 0xff, 0x7f, 1, 2, 1, 0xf0, 7, 200, 3, 0x60, 2, 1})
	f.Fuzz(func(t *testing.T, full bool, script []byte) {
		now := time.Unix(1, 0)
		l := New(Config{BitsPerSecond: 9600, FullDuplex: full, Seed: 1})
		l.Start(now)
		l.peer = 77
		l.contact(now)
		for p := range frame.Priorities {
			l.Send(p, make([]byte, 600), p)
		}
		done := map[any]bool{}
		for len(script) > 0 {
			n := min(int(script[0]), len(script)-1)
			body := script[1 : 1+n]
			script = script[1+n:]
			raw := append(bytes.Clone(body), 0, 0, 0, 0)
			if fr, err := frame.Parse(raw); err == nil {
				// Give it the tag it needs to be believed.
				fr.Seq, fr.Next = widen(l.rnext, fr.Seq), widen(l.una, fr.Next)
				fr.Keyed = false
				raw = frame.Seal(nil, &fr, frame.Context{Sender: l.peer, Receiver: l.my}, nil)
			}
			l.Heard(now)
			l.Receive(now, raw)
			for range 200 {
				wire, wake := l.Next(now)
				if wire == nil {
					if !wake.IsZero() && !wake.After(now) {
						t.Fatalf("wake in the past: %v at %v", wake, now)
					}
					break
				}
				now = now.Add(time.Millisecond)
			}
			now = now.Add(time.Duration(n) * 10 * time.Millisecond)
			if m := l.memory(); m > mostMemory {
				t.Fatalf("%d bytes held, at most %d allowed", m, mostMemory)
			}
			for _, e := range l.Events() {
				if e.Kind == Received && len(e.Message) > MaxMessage {
					t.Fatalf("message of %d bytes", len(e.Message))
				}
				if e.Kind == Done {
					if done[e.Token] {
						t.Fatalf("done twice: %v", e.Token)
					}
					done[e.Token] = true
				}
			}
		}
		l.Stop()
		for _, e := range l.Events() {
			if e.Kind == Done {
				done[e.Token] = true
			}
		}
		if len(done) != frame.Priorities {
			t.Fatalf("%d of %d messages reported", len(done), frame.Priorities)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte{0xe0, 1, 2})
	f.Add([]byte{0xdf, 0x80, 0x01, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			r, piece, rest, ok := parseRecord(b)
			if !ok {
				return
			}
			if len(piece)+len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			again := r.append(nil, piece)
			r2, piece2, _, ok := parseRecord(append(again, rest...))
			if !ok || r2 != r || !bytes.Equal(piece2, piece) && !r.toEnd {
				t.Fatalf("%+v %x came back as %+v %x", r, piece, r2, piece2)
			}
			b = rest
		}
	})
}

// Without limits a flood of first pieces, or of one endless message, would eat the memory.
func TestFloodIsBounded(t *testing.T) {
	now := time.Unix(1, 0)
	l := New(Config{Seed: 1})
	l.Start(now)
	l.peer = 77
	l.contact(now)
	for i := range uint32(2000) {
		f := frame.Frame{Type: frame.Data, Priority: uint8(i % frame.Priorities), Seq: i, Body: make([]byte, frame.MaxBody)}
		if f.Body[0] = 0x20; i < 10 {
			f.Body[0] = 0xa0 // first, to the end
		}
		l.Receive(now, frame.Seal(nil, &f, frame.Context{Sender: 77, Receiver: l.my}, nil))
		if m := l.memory(); m > mostMemory {
			t.Fatalf("%d bytes held after %d frames", m, i)
		}
	}
	if l.rnext != 2000 {
		t.Errorf("%d frames taken, want 2000", l.rnext)
	}
}

func TestWiden(t *testing.T) {
	for _, c := range []struct{ near, low, want uint32 }{
		{0, 0, 0}, {0, 5, 5}, {0, 255, ^uint32(0)}, {256, 255, 255}, {300, 44, 300}, {0x1fe, 2, 0x202}, {^uint32(0), 3, 3},
	} {
		if got := widen(c.near, c.low); got != c.want {
			t.Errorf("widen(%#x, %#x) = %#x, want %#x", c.near, c.low, got, c.want)
		}
	}
}
