// SPDX-License-Identifier: EUPL-1.2

// Package prose writes short texts in few bytes. It holds a static model of how German and English sentences go on,
// trained beforehand on texts that may be shipped (tools/textmodel), and an arithmetic coder that spends on each letter
// what it is worth. It learns nothing while it runs: both ends hold the same file, named by its version, and what one
// writes the other reads on any machine, as there is only integer arithmetic in it.
//
// The model predicts a text bit by bit. Each bit has a set of contexts: the last bytes, in several lengths, and the
// word so far. Every context that the training found worth keeping has a weight; the sum of the weights, through a
// table, is the probability that the bit is set. A text ends with a zero byte, which no text may contain.
//
// File: "HPM" version(1), uint32 number of slots (little endian), the table of 1+2*limit probabilities (uint16), then
// the slots: check byte and weight byte each. A feature lives in one of the places its hash names; a check that fits by
// chance only costs bits, as both ends see the same.
package prose

import (
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
)

//go:embed model.bin
var shipped []byte

const (
	magic = "HPM\x01"
	// Limit bounds the sum of weights, in sixteenths of a nat.
	Limit = 192
	// Ways is the number of places a feature may live in.
	Ways = 4
	// Features is the number of contexts of one bit.
	Features = 10
)

// Model predicts texts. It is immutable.
type Model struct {
	Version [4]byte // first bytes of the file's SHA-256
	table   [2*Limit + 1]uint16
	slots   []byte
	count   uint32
}

// Load reads the model that this binary carries.
func Load() (*Model, error) { return Read(shipped) }

// Read takes a model file.
func Read(file []byte) (*Model, error) {
	const head = len(magic) + 4
	m := &Model{}
	need := head + 2*len(m.table)
	if len(file) < need || string(file[:len(magic)]) != magic {
		return nil, errors.New("read text model: not a model file of this version")
	}
	m.count = binary.LittleEndian.Uint32(file[len(magic):])
	if m.count == 0 || uint64(len(file)) != uint64(need)+2*uint64(m.count) {
		return nil, fmt.Errorf("read text model: %d bytes do not hold %d slots", len(file), m.count)
	}
	for i := range m.table {
		m.table[i] = binary.LittleEndian.Uint16(file[head+2*i:])
		if m.table[i] == 0 {
			return nil, errors.New("read text model: a probability is zero")
		}
	}
	m.slots = file[need:]
	sum := sha256.Sum256(file)
	copy(m.Version[:], sum[:])
	return m, nil
}

// Context is where a text stands: what the next byte is predicted from.
type Context struct {
	last  uint64 // bytes so far, folded to lower case; the newest in the low byte
	exact uint64 // bytes so far as they are
	word  uint32 // hash of the letters since the last non-letter
	prev  uint32 // the same of the word before
	at    uint32 // bytes so far
	hash  [Features]uint32
}

// Start puts a context at the beginning of a text.
func (c *Context) Start() {
	*c = Context{}
	c.rehash()
}

// Add moves a context behind one more byte.
func (c *Context) Add(b byte) {
	low := b
	if b >= 'A' && b <= 'Z' {
		low += 'a' - 'A'
	}
	if c.exact&0xff == 0xc3 && b >= 0x80 && b < 0x9e { // capital umlauts and accents in UTF-8
		low += 0x20
	}
	c.exact = c.exact<<8 | uint64(b)
	c.last = c.last<<8 | uint64(low)
	c.at++
	switch {
	case low >= 'a' && low <= 'z' || low >= 0x80:
		c.word = (c.word + uint32(low) + 1) * 0x2c9277b5
		c.word ^= c.word >> 15
	case c.word != 0:
		c.prev, c.word = c.word, 0
	}
	c.rehash()
}

func mix(a, b uint32) uint32 {
	h := a*0x9e3779b1 ^ b*0x85ebca6b
	h ^= h >> 15
	h *= 0xc2b2ae35
	return h ^ h>>13
}

// rehash sets the hashes of all contexts for the byte to come.
func (c *Context) rehash() {
	low := func(n uint) uint64 { return c.last & (1<<(8*n) - 1) }
	fold := func(v uint64) uint32 { return mix(uint32(v), uint32(v>>32)) }
	c.hash = [Features]uint32{
		0,
		mix(1, uint32(c.exact&0xff)),
		mix(2, uint32(c.exact&0xffff)),
		mix(3, fold(low(3))),
		mix(4, fold(low(4))),
		mix(5, fold(low(5))),
		mix(6, fold(low(6))),
		mix(7, fold(low(8))),
		mix(8, mix(c.word, uint32(c.exact&0xff))),
		mix(9, mix(c.word, c.prev)),
	}
}

// Feature names one feature of the bit to come: context i, and the bits of the byte so far behind a leading 1.
func (c *Context) Feature(i int, node uint32) uint64 {
	h := mix(c.hash[i]+uint32(i), node)
	return uint64(mix(h, 0x5bd1e995))<<32 | uint64(h)
}

// Place gives the way-th slot that a feature may live in, and its check.
func Place(feature uint64, way int, count uint32) (slot uint32, check byte) {
	h := mix(uint32(feature), uint32(feature>>32)+uint32(way)*0x632be5ab)
	return uint32(uint64(h) * uint64(count) >> 32), byte(feature >> 56)
}

// probability is that of a set bit, of 65536.
func (m *Model) probability(c *Context, node uint32) uint32 {
	sum := 0
	for i := range Features {
		f := c.Feature(i, node)
		for way := range Ways {
			slot, check := Place(f, way, m.count)
			if s := m.slots[2*slot:]; s[0] == check && s[1] != 0 {
				sum += int(int8(s[1]))
				break
			}
		}
	}
	return uint32(m.table[min(max(sum, -Limit), Limit)+Limit])
}
