// SPDX-License-Identifier: EUPL-1.2

package cast

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Any pieces that are enough make the message whole.
func TestAnyPieces(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 50, 231, 1200, 5000, MaxMessage} {
		msg := make([]byte, n)
		for i := range msg {
			msg[i] = byte(rng.Uint32())
		}
		s, err := NewSender(7, msg, 240)
		if err != nil {
			t.Fatal(err)
		}
		var r Receiver
		sent, lost := 0, 0
		for got := []byte(nil); got == nil; {
			b := s.Next()
			if b == nil {
				t.Fatalf("%d bytes: out of pieces", n)
			}
			if len(b) > 240 {
				t.Fatalf("a piece of %d bytes", len(b))
			}
			if sent++; rng.IntN(3) == 0 {
				lost++
				continue
			}
			p, err := Parse(b)
			if err != nil {
				t.Fatal(err)
			}
			if got = r.Take(p); got != nil && !bytes.Equal(got, msg) {
				t.Fatalf("%d bytes came out wrong", n)
			}
		}
		if sent-lost != s.Pieces() {
			t.Errorf("%d bytes: %d pieces were needed, want %d", n, sent-lost, s.Pieces())
		}
	}
}

// A forged piece costs the message its first try, not more.
func TestForgedPiece(t *testing.T) {
	msg := bytes.Repeat([]byte("Wasser "), 200)
	s, _ := NewSender(7, msg, 240)
	var r Receiver
	forged, _ := Parse(s.Next())
	forged.Data = bytes.Repeat([]byte{1}, len(forged.Data))
	r.Take(forged)
	var got []byte
	for range 3 * s.Pieces() {
		p, _ := Parse(s.Next())
		if m := r.Take(p); m != nil {
			got = m
		}
	}
	if !bytes.Equal(got, msg) {
		t.Error("the message did not come through")
	}
}

// FuzzTake gives a receiver any pieces: it does not panic, and what it gives out has the sum that was announced.
func FuzzTake(f *testing.F) {
	s, _ := NewSender(1, bytes.Repeat([]byte{5}, 600), 200)
	f.Add(s.Next(), s.Next(), s.Next(), s.Next())
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		var r Receiver
		for _, raw := range [][]byte{a, b, c, d} {
			if p, err := Parse(raw); err == nil {
				if m := r.Take(p); len(m) > MaxMessage {
					t.Fatalf("%d bytes", len(m))
				}
				r.Missing(p.ID, p.Sum)
			}
		}
	})
}
