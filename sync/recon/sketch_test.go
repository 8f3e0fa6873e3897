// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"hallig/appliance/event"
)

// sets gives two sets with common elements and some that only one of them has.
func sets(seed uint64, common, onlyA, onlyB int) (a, b []Element) {
	rng := rand.New(rand.NewPCG(seed, 2))
	draw := func(n int) []Element {
		out := make([]Element, n)
		for i := range out {
			out[i] = Element(rng.Uint64())
		}
		return out
	}
	both := draw(common)
	return append(draw(onlyA), both...), append(draw(onlyB), both...)
}

// need says how many symbols it takes to find the difference, and finds it.
func need(t *testing.T, a, b []Element, step int) (int, []Element) {
	t.Helper()
	var d Decoder
	for {
		n := min(step, MaxSymbols-d.Len())
		done, err := d.Add(Symbols(a, d.Len(), n), Symbols(b, d.Len(), n))
		if err != nil {
			t.Fatalf("after %d symbols: %v", d.Len(), err)
		}
		if done {
			out, err := d.Difference()
			if err != nil {
				t.Fatal(err)
			}
			return d.Len(), out
		}
	}
}

func TestSketchFindsTheDifference(t *testing.T) {
	for _, tt := range []struct {
		common, onlyA, onlyB, step int
		most                       float64 // symbols for each difference, mean of the seeds
	}{
		{0, 0, 0, 1, 1}, {1000, 0, 0, 1, 1}, {1000, 1, 0, 1, 1}, {1000, 0, 1, 1, 1}, {0, 5, 5, 1, 2.2}, {1000, 50, 50, 4, 1.6}, {3000, 700, 300, 16, 1.45},
	} {
		sum := 0
		for seed := range uint64(10) {
			a, b := sets(seed, tt.common, tt.onlyA, tt.onlyB)
			n, got := need(t, a, b, tt.step)
			want := slices.Sorted(slices.Values(append(slices.Clone(a[:tt.onlyA]), b[:tt.onlyB]...)))
			if !slices.Equal(got, want) {
				t.Fatalf("%+v seed %d: found %d elements, want %d, or others", tt, seed, len(got), len(want))
			}
			sum += n
		}
		if got := float64(sum) / 10 / float64(max(1, tt.onlyA+tt.onlyB)); got > tt.most {
			t.Errorf("%+v: %.2f symbols for each difference, want at most %.2f", tt, got, tt.most)
		}
	}
}

// The symbols are wire format: all machines must code a set alike.
func TestSymbolsAreFrozen(t *testing.T) {
	var set []Element
	for i := range 200 {
		set = append(set, Salt{1, 2, 3}.Element(event.ID(fmt.Sprint("$", i))))
	}
	var raw []byte
	for _, s := range Symbols(set, 0, 3000) {
		raw = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(raw, uint64(s.Sum)), s.Check)
	}
	if got, want := crc32.ChecksumIEEE(raw), uint32(0x974098f7); got != want {
		t.Errorf("symbols: CRC %#x, want %#x", got, want)
	}
	if got, want := Symbols(set, 1000, 50), Symbols(set, 0, 1050)[1000:]; !slices.Equal(got, want) {
		t.Error("symbols coded in two parts are others")
	}
}

func TestSumIsOfTheSet(t *testing.T) {
	sum := func(s Salt, ids ...event.ID) (f Sum) {
		for _, id := range ids {
			f.Add(s, id)
		}
		return f
	}
	x := sum(Salt{1}, "$a", "$b", "$c")
	if x != sum(Salt{1}, "$c", "$a", "$b") {
		t.Error("the order changed the sum")
	}
	for _, other := range []Sum{sum(Salt{1}, "$a", "$b"), sum(Salt{1}, "$a", "$b", "$d"), sum(Salt{2}, "$a", "$b", "$c"), sum(Salt{1}, "$a", "$b", "$c", "$c"), {}} {
		if x == other {
			t.Errorf("%v is the sum of another set, too", other)
		}
	}
	var carry Sum
	for range 100 { // the carry from the lower half arrives
		carry.Add(Salt{1}, "$a")
	}
	one := sum(Salt{1}, "$a")
	var hi, lo uint64
	for range 100 {
		lo += one.lo
		hi += one.hi
		if lo < one.lo {
			hi++
		}
	}
	if carry != (Sum{hi, lo}) {
		t.Errorf("hundred times: got %v, want %v", carry, Sum{hi, lo})
	}
}

func TestDecoderRefuses(t *testing.T) {
	var d Decoder
	if _, err := d.Add(make([]Symbol, 2), make([]Symbol, 1)); !errors.Is(err, ErrSketch) {
		t.Errorf("symbols without a counterpart: got %v", err)
	}
	if _, err := d.Add(make([]Symbol, MaxSymbols+1), make([]Symbol, MaxSymbols+1)); !errors.Is(err, ErrSketch) {
		t.Errorf("too many symbols: got %v", err)
	}
	// Sums that are each of one element, all different: no set has them.
	liar := make([]Symbol, 2000)
	for i := range liar {
		liar[i] = Symbol{Element(i + 1), checkOf(Element(i + 1))}
	}
	var c Decoder
	done, err := c.Add(liar, make([]Symbol, len(liar)))
	if done || err == nil && len(c.found) > len(liar) {
		t.Errorf("a liar's symbols: done %v, %d found, %v", done, len(c.found), err)
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3}, uint16(3))
	f.Add(appendSymbols(nil, Symbols([]Element{1, 2, 3, 4, 5}, 0, 20)), uint16(5))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		own, _ := sets(uint64(size), int(size%64), 0, 0)
		var theirs []Symbol
		for ; len(b) >= symbolSize; b = b[symbolSize:] {
			theirs = append(theirs, Symbol{Element(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])})
		}
		var d Decoder
		for len(theirs) > 0 {
			n := min(7, len(theirs))
			done, err := d.Add(theirs[:n], Symbols(own, d.Len(), n))
			theirs = theirs[n:]
			if len(d.found) > d.Len() || len(d.todo) > 0 && err == nil {
				t.Fatalf("%d found of %d symbols, %d to do", len(d.found), d.Len(), len(d.todo))
			}
			if done || err != nil {
				_, _ = d.Difference()
				return
			}
		}
	})
}

func BenchmarkSymbols(b *testing.B) {
	set, _ := sets(1, 100_000, 0, 0)
	for b.Loop() {
		Symbols(set, 0, 13_600)
	}
}

func BenchmarkDecode(b *testing.B) {
	x, y := sets(1, 1000, 5000, 5000)
	n := 14_000
	theirs, own := Symbols(x, 0, n), Symbols(y, 0, n)
	for b.Loop() {
		var d Decoder
		for at := 0; at < n; at += 400 {
			end := min(n, at+400)
			if done, err := d.Add(theirs[at:end], own[at:end]); done || err != nil {
				break
			}
		}
	}
}
