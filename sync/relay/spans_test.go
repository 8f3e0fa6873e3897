// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"math/rand/v2"
	"reflect"
	"testing"
)

func TestSpans(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var s spans
		in := map[uint64]bool{}
		for range 60 {
			n := uint64(rnd.IntN(40)) + 1
			if rnd.IntN(20) == 0 {
				s.raise(n)
				for i := uint64(1); i < n; i++ {
					in[i] = true
				}
				continue
			}
			if s.add(n) == in[n] {
				t.Fatalf("add(%d) to %v", n, s)
			}
			in[n] = true
		}
		for n := range uint64(45) {
			if s.has(n) != in[n] {
				t.Fatalf("has(%d) = %v in %v", n, s.has(n), s)
			}
		}
		if s.upTo() > 0 && (!in[s.upTo()] || in[s.upTo()+1]) {
			t.Errorf("%v begins up to %d", s, s.upTo())
		}
		if back := storedSpans(s.bytes()); !reflect.DeepEqual(back, s) {
			t.Fatalf("%v came back as %v", s, back)
		}
		if back, rest, ok := parseSpans(s.bytes(), len(s)); len(s) > 0 && (!ok || len(rest) > 0 || !reflect.DeepEqual(back, s)) {
			t.Fatalf("%v was read as %v", s, back)
		}
	}
	var s spans
	for n := uint64(2); n < 1000; n += 2 {
		s.add(n)
	}
	s.bound()
	if len(s) != maxSpans || !s.has(998) || s.has(997) {
		t.Errorf("%d stretches, %v", len(s), s)
	}
}

// What a paired box has sealed may still be anything.
func FuzzText(f *testing.F) {
	f.Add(uint64(9), []byte{flagMessage, 0, 'x'})
	f.Add(uint64(9), append(appendAnswer([]byte{flagAnswer | flagMessage | flagPart}, 1<<40, spans{{1, 5}, {9, 9}}), 2, 1, 3, 'x'))
	f.Fuzz(func(t *testing.T, seq uint64, text []byte) {
		x, err := parseText(seq, text)
		if err != nil {
			return
		}
		if x.floor == 0 || x.floor > seq || x.n > maxParts || x.index >= x.n || len(x.read) > maxAnswer {
			t.Errorf("%d: %+v", seq, x)
		}
		for i, s := range x.read {
			if s.from == 0 || s.to < s.from || i > 0 && s.from <= x.read[i-1].to {
				t.Errorf("stretches %v", x.read)
			}
		}
	})
}
