// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"hallig/appliance/event"
)

// A rateless sketch tells two sets apart at a cost that grows with their difference and not with their size, without
// anybody having to guess that difference: the giver goes on with symbols until the taker has had enough of them.
// Source: Yang, Gilad, Alizadeh: Practical Rateless Set Reconciliation, https://arxiv.org/abs/2402.02668.
//
// Every element is in symbol 0, and in symbol i with a probability of 1/(1+i/2). A symbol is the sum (exclusive or) of its
// elements and of their checks. The taker takes its own symbols from the giver's; what is left are sums over the
// difference alone, and a sum of one element is known by its check. The paper's third field, a count, is left out: its
// sign would say whose an element is, which the taker finds out by looking; that saves a thirteenth of the bytes.

// Element is an event in a sketch: eight bytes of a hash of its id under the salt of the occasion, so that nobody can
// make events that are taken for each other.
type Element uint64

// Salt is drawn at random for each comparison.
type Salt [8]byte

// Element gives the element of an event.
func (s Salt) Element(id event.ID) Element {
	return Element(binary.BigEndian.Uint64(s.hash(id)))
}

func (s Salt) hash(id event.ID) []byte {
	h := sha256.Sum256(append(s[:len(s):len(s)], id...))
	return h[:]
}

// Sum is a fingerprint of a multiset of events: the sum of their salted hashes. Who does not know the salt cannot make
// two sets with one sum.
type Sum struct{ hi, lo uint64 }

// Add adds an event.
func (f *Sum) Add(s Salt, id event.ID) {
	h := s.hash(id)
	lo := binary.BigEndian.Uint64(h[8:])
	f.hi += binary.BigEndian.Uint64(h)
	f.lo += lo
	if f.lo < lo {
		f.hi++
	}
}

// Symbol is one coded symbol.
type Symbol struct {
	Sum   Element
	Check uint32
}

// symbolSize is that of a symbol on the wire.
const symbolSize = 12

func (c *Symbol) toggle(e Element, check uint32) {
	c.Sum ^= e
	c.Check ^= check
}

// mix scatters the bits of a number (the finalizer of splitmix64). Elements are salted hashes already: it only has to
// break the sums of several elements, which are what it is asked to tell from single ones.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

const golden = 0x9e3779b97f4a7c15

func checkOf(e Element) uint32 { return uint32(mix(uint64(e)+golden) >> 32) }

// walk goes through the symbols that an element is in.
type walk struct {
	at    int
	state uint64
}

func walkOf(e Element) walk { return walk{state: mix(uint64(e) ^ golden)} }

// step goes to the next symbol. With a chance of u that none of the symbols up to i+g holds the element, and the product
// of (1 - 1/(1+(i+n)/2)) for n up to g close to ((i+3/2)/(i+g+3/2))^2, g is (i+3/2)(1/sqrt(u) - 1). Each operation is
// exact by IEEE 754 and none can be fused with another, so all machines go the same way.
func (w *walk) step() {
	w.state += golden
	u := float64(mix(w.state)>>32) + 1 // 1 .. 2^32
	gap := math.Ceil((float64(w.at) + 1.5) * (65536/math.Sqrt(u) - 1))
	w.at += int(max(gap, 1))
}

// MaxSymbols bounds a sketch: enough for about 48,000 differences. Beyond, the list of all elements is the way.
const MaxSymbols = 1 << 16

// Symbols codes a set: n symbols from number from on.
func Symbols(set []Element, from, n int) []Symbol {
	out := make([]Symbol, n)
	for _, e := range set {
		check := checkOf(e)
		for w := walkOf(e); w.at < from+n; w.step() {
			if w.at >= from {
				out[w.at-from].toggle(e, check)
			}
		}
	}
	return out
}

// ListInstead says whether, after n symbols that did not suffice, the whole list of a set of size elements is cheaper than
// to go on: more than about 30 % of it differ.
func ListInstead(n, size int) bool { return n >= 8+size*42/100 || n >= MaxSymbols }

// ErrSketch says that symbols are no sketch of any set, or of one that differs in more than a sketch may.
var ErrSketch = errors.New("recon: symbols do not decode")

// Decoder finds the difference of two sets. Its memory and its time are bounded by the number of symbols it was given:
// sums that are nobody's can make it fail, nothing else.
type Decoder struct {
	symbols []Symbol
	found   []foundElement
	todo    []int
	work    int
}

type foundElement struct {
	e  Element
	in walk // the first symbol that it is in and that is not here yet
}

// maxWork bounds how often what was found is looked over for new symbols: an honest sketch shows little before its end.
const maxWork = 1 << 26

// Len is how many symbols it was given.
func (d *Decoder) Len() int { return len(d.symbols) }

// Add takes the next symbols of the giver's set and of one's own. done says that the difference is found.
func (d *Decoder) Add(theirs, own []Symbol) (done bool, err error) {
	if len(theirs) != len(own) || len(d.symbols)+len(theirs) > MaxSymbols {
		return false, ErrSketch
	}
	from := len(d.symbols)
	for i, s := range theirs {
		s.toggle(own[i].Sum, own[i].Check)
		d.symbols = append(d.symbols, s)
		d.todo = append(d.todo, from+i)
	}
	if d.work += len(d.found); d.work > maxWork {
		return false, ErrSketch
	}
	for i := range d.found { // what is known already is taken out of the new symbols, too
		f := &d.found[i]
		for ; f.in.at < len(d.symbols); f.in.step() {
			d.symbols[f.in.at].toggle(f.e, checkOf(f.e))
		}
	}
	return d.peel()
}

func (d *Decoder) peel() (done bool, err error) {
	for len(d.todo) > 0 {
		s := d.symbols[d.todo[len(d.todo)-1]]
		d.todo = d.todo[:len(d.todo)-1]
		if s == (Symbol{}) || s.Check != checkOf(s.Sum) {
			continue
		}
		if len(d.found) >= len(d.symbols) { // an honest difference of this size would need more symbols
			return false, ErrSketch
		}
		w := walkOf(s.Sum)
		for ; w.at < len(d.symbols); w.step() {
			d.symbols[w.at].toggle(s.Sum, s.Check)
			d.todo = append(d.todo, w.at)
		}
		d.found = append(d.found, foundElement{s.Sum, w})
	}
	return len(d.symbols) > 0 && d.symbols[0] == Symbol{}, nil
}

// Difference is what is in one of the two sets alone, sorted, once Add has said that it is done.
func (d *Decoder) Difference() ([]Element, error) {
	out := make([]Element, len(d.found))
	for i, f := range d.found {
		out[i] = f.e
	}
	slices.Sort(out)
	if len(slices.Compact(slices.Clone(out))) != len(out) {
		return nil, ErrSketch
	}
	return out, nil
}
