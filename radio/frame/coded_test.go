// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// All lengths come back, among frames of COBS, and the length on the line is the one promised.
func TestCodedLengths(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	d := Decoder{Framing: Coded}
	for n := 2 + TagSize; n <= MaxRaw; n += 1 + n/40 {
		raw := random(rng, n)
		wire := Coded.Append(nil, raw)
		if len(wire) != Coded.Size(n) {
			t.Fatalf("%d bytes are %d on the line, promised %d", n, len(wire), Coded.Size(n))
		}
		stream := append(append(wire, COBS.Append(nil, raw)...), Coded.Append(nil, raw)...)
		var got int
		var kinds []bool
		d.Feed(stream, func(b []byte) {
			if bytes.Equal(b, raw) {
				got++
			}
			kinds = append(kinds, d.Coded)
		})
		if got != 3 || len(kinds) != 3 || !kinds[0] || kinds[1] || !kinds[2] {
			t.Fatalf("%d bytes: %d of 3 came back, coded %v", n, got, kinds)
		}
	}
}

// As many wrong bytes as half of the check bytes in each block, anywhere, are corrected; so are a few wrong bits in the marker and three
// wrong bytes in the head. One more is too much.
func TestCodedDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	decode := func(wire []byte) (out []byte) {
		d := Decoder{Framing: Coded}
		d.Feed(wire, func(b []byte) {
			if d.Coded {
				out = bytes.Clone(b)
			}
		})
		return out
	}
	for _, n := range []int{6, 24, 25, 96, 97, 223, 224, 500, MaxRaw} {
		check, blocks := checks(n)
		for range 30 {
			raw := random(rng, n)
			wire := Coded.Append(nil, raw)
			hurt := bytes.Clone(wire)
			for _, bit := range rng.Perm(32)[:markerErrors] {
				hurt[bit/8] ^= 1 << (bit % 8)
			}
			for _, i := range rng.Perm(headSize)[:3] {
				hurt[4+i] ^= byte(1 + rng.IntN(255))
			}
			// One burst across all blocks.
			burst := check / 2 * blocks
			at := codedSize + rng.IntN(len(wire)-codedSize-burst+1)
			for i := range burst {
				hurt[at+i] ^= byte(1 + rng.IntN(255))
			}
			if got := decode(hurt); !bytes.Equal(got, raw) {
				t.Fatalf("%d bytes, a burst of %d: %x came back", n, burst, got)
			}
			hurt = bytes.Clone(wire)
			for i := range check/2 + 1 {
				hurt[codedSize+i*blocks] ^= byte(1 + rng.IntN(255))
			}
			if got := decode(hurt); bytes.Equal(got, raw) {
				t.Fatalf("%d bytes: %d wrong bytes in a block were corrected", n, check/2+1)
			}
		}
	}
}

// Plain frames come through as they do without, whatever noise is between them: a marker is found in noise, but hardly a head behind it.
func TestCodedLeavesPlainAlone(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	d := Decoder{Framing: Coded}
	sent, got := 0, 0
	for range 3000 {
		raw := random(rng, 6+rng.IntN(240))
		sent++
		d.Feed(append([]byte{0}, COBS.Append(random(rng, rng.IntN(30)), raw)...), func(b []byte) {})
		d.Feed(COBS.Append([]byte{0}, raw), func(b []byte) {
			if bytes.Equal(b, raw) {
				got++
			}
		})
	}
	if got < sent-3 {
		t.Errorf("%d of %d plain frames came through", got, sent)
	}
}

func FuzzCoded(f *testing.F) {
	f.Add(Coded.Append(nil, bytes.Repeat([]byte{7}, 30)), []byte("after"))
	f.Add([]byte{0x1a, 0xcf, 0xfc, 0x1d, 4, 0xff, 0, 0, 0, 0, 0, 0}, []byte{0})
	f.Fuzz(func(t *testing.T, noise, raw []byte) {
		d := Decoder{Framing: Coded}
		d.Feed(noise, func(b []byte) {
			if len(b) == 0 || len(b) > MaxRaw {
				t.Fatalf("frame of %d bytes", len(b))
			}
		})
		if most := codedLen(MaxRaw); len(d.coded.buf) > most || d.coded.want > most {
			t.Fatalf("%d bytes held for %d", len(d.coded.buf), d.coded.want)
		}
		if len(raw) < 2+TagSize || len(raw) > MaxRaw {
			return
		}
		// A frame that noise claimed was longer hides at most itself: behind that, coded frames come through.
		d.Feed(make([]byte, codedLen(MaxRaw)), func([]byte) {})
		var got []byte
		d.Feed(Coded.Append(nil, raw), func(b []byte) {
			if d.Coded {
				got = bytes.Clone(b)
			}
		})
		if !bytes.Equal(got, raw) {
			t.Fatalf("%x came back as %x", raw, got)
		}
	})
}
