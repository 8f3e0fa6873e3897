// SPDX-License-Identifier: EUPL-1.2

// Textmodel trains the text model of sync/parcel/prose and writes its file. It is run by hand when the texts or the
// contexts change; the file is committed, as every box must carry the very same one.
//
//	go run ./tools/textmodel -o sync/parcel/prose/model.bin -check de.txt tools/textmodel/operations.txt:8 \
//	    tools/textmodel/vocabulary_de.txt:6 everyday.txt:1 laws.txt:0.3 english.txt:0.3
//
// Each file has one text a line; the number behind the colon is its weight. SOURCES.md beside this file says
// which texts the committed model was made of.
//
// The way: a large logistic regression over all contexts first (Adagrad); then the features that earn most are given a
// place in the small table; then their weights are trained again with the table's own lookups, chance matches and
// all, and rounded to sixteenths of a nat.
package main

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"

	"hallig/sync/parcel/prose"
)

func main() {
	out := flag.String("o", "model.bin", "file to write")
	slots := flag.Int("slots", 249_000, "slots of the table, two bytes each")
	epochs := flag.Int("epochs", 5, "passes over the texts in each stage")
	checks := flag.String("check", "", "comma-separated files to measure the model by; never trained on")
	flag.Parse()
	if err := run(*out, *slots, *epochs, *checks, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "textmodel:", err)
		os.Exit(1)
	}
}

// text is one line with its weight.
type text struct {
	s      string
	weight float32
}

func run(out string, slots, epochs int, checks string, files []string) error {
	var texts []text
	for _, f := range files {
		name, w, _ := strings.Cut(f, ":")
		weight, err := strconv.ParseFloat(cmpOr(w, "1"), 32)
		if err != nil {
			return fmt.Errorf("read weight of %s: %w", f, err)
		}
		lines, err := read(name)
		if err != nil {
			return err
		}
		for _, l := range lines {
			texts = append(texts, text{l, float32(weight)})
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	rnd.Shuffle(len(texts), func(i, j int) { texts[i], texts[j] = texts[j], texts[i] })

	large := newLarge()
	for e := range epochs {
		fmt.Printf("all contexts, pass %d: %.3f bits a character\n", e+1, train(large, texts, rate(e, epochs)))
	}
	kept := large.choose(texts, slots*96/100)
	small := place(kept, slots)
	for e := range epochs {
		fmt.Printf("table, pass %d: %.3f bits a character\n", e+1, train(small, texts, rate(e, epochs)*0.7))
	}
	file := small.file()
	if err := os.WriteFile(out, file, 0o644); err != nil {
		return fmt.Errorf("write model: %w", err)
	}
	m, err := prose.Read(file)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %d bytes, version %x\n", out, len(file), m.Version)
	for _, name := range strings.Split(checks, ",") {
		if name == "" {
			continue
		}
		lines, err := read(name)
		if err != nil {
			return err
		}
		chars, bytes := 0, 0
		for _, l := range lines {
			code, ok := m.Encode(l, len(l))
			if !ok {
				code = []byte(l)
			}
			chars, bytes = chars+len([]rune(l)), bytes+len(code)
		}
		fmt.Printf("%s: %d texts of %.1f characters take %.2f bytes, %.3f bits a character\n", name, len(lines),
			float64(chars)/float64(len(lines)), float64(bytes)/float64(len(lines)), 8*float64(bytes)/float64(chars))
	}
	return nil
}

func cmpOr(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func rate(epoch, of int) float32 {
	return float32(0.12 * math.Pow(0.05, float64(epoch)/float64(max(of-1, 1))))
}

func read(name string) ([]string, error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read texts: %w", err)
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSpace(l); l != "" {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// weights is a table that training moves: index finds the weight of a feature, negative if it has none.
type weights interface {
	index(feature uint64) int
	at(i int) (weight, square *float32)
}

// train passes over the texts once and says how well they were predicted before each step.
func train(w weights, texts []text, rate float32) float64 {
	bits, chars := 0.0, 0
	var c prose.Context
	var found [prose.Features]int
	for _, t := range texts {
		chars += len([]rune(t.s))
		c.Start()
		for i := 0; i <= len(t.s); i++ {
			b := byte(0)
			if i < len(t.s) {
				b = t.s[i]
			}
			node := uint32(1)
			for bit := 7; bit >= 0; bit-- {
				n, sum := 0, float32(0)
				for k := range prose.Features {
					if at := w.index(c.Feature(k, node)); at >= 0 {
						found[n] = at
						n++
						v, _ := w.at(at)
						sum += *v
					}
				}
				p := 1 / (1 + float32(math.Exp(-float64(max(min(sum, 12), -12)))))
				y := float32(b >> bit & 1)
				bits -= math.Log2(float64(max(1e-6, y*p+(1-y)*(1-p))))
				g := (p - y) * t.weight
				for _, at := range found[:n] {
					v, sq := w.at(at)
					gr := g + 2e-5**v
					*sq += gr * gr
					*v -= rate * gr / (float32(math.Sqrt(float64(*sq))) + 0.3)
				}
				node = node<<1 | uint32(b>>bit&1)
			}
			c.Add(b)
		}
	}
	return bits / float64(chars)
}

// large is the first stage: so many slots that features hardly meet.
type large struct {
	w, sq []float32
}

const largeBits = 24

func newLarge() *large {
	return &large{make([]float32, 1<<largeBits), make([]float32, 1<<largeBits)}
}

func (l *large) index(f uint64) int            { return int((f * 0x9e3779b97f4a7c15) >> (64 - largeBits)) }
func (l *large) at(i int) (w, square *float32) { return &l.w[i], &l.sq[i] }

// feature is one that may be kept: what it earns is how much the predictions would suffer without it, to the second
// order.
type feature struct {
	id     uint64
	weight float32
	earns  float64
}

// seldom is how often a feature has to occur to be worth a place: what occurred once was learnt by heart.
const seldom = 4

func (l *large) choose(texts []text, n int) []feature {
	earns := make([]float32, len(l.w))
	seen := make([]uint8, len(l.w))
	ids := make([]uint64, len(l.w))
	var c prose.Context
	var found [prose.Features]int
	for _, t := range texts {
		c.Start()
		for i := 0; i <= len(t.s); i++ {
			b := byte(0)
			if i < len(t.s) {
				b = t.s[i]
			}
			node := uint32(1)
			for bit := 7; bit >= 0; bit-- {
				sum := float32(0)
				for k := range prose.Features {
					f := c.Feature(k, node)
					at := l.index(f)
					ids[at] = f
					seen[at] += min(1, seldom-seen[at])
					found[k] = at
					sum += l.w[at]
				}
				p := 1 / (1 + math.Exp(-float64(sum)))
				for _, at := range found {
					earns[at] += t.weight * float32(p*(1-p)) * l.w[at] * l.w[at]
				}
				node = node<<1 | uint32(b>>bit&1)
			}
			c.Add(b)
		}
	}
	var all []feature
	for i, e := range earns {
		if e > 0 && seen[i] == seldom {
			all = append(all, feature{ids[i], l.w[i], float64(e)})
		}
	}
	slices.SortFunc(all, func(a, b feature) int { return cmpFloat(b.earns, a.earns) })
	fmt.Printf("%d features, %d kept\n", len(all), min(n, len(all)))
	return all[:min(n, len(all))]
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// small is the table as it will be shipped, with weights that still move.
type small struct {
	check []int16 // -1: empty
	w, sq []float32
}

func (s *small) index(f uint64) int {
	for way := range prose.Ways {
		slot, check := prose.Place(f, way, uint32(len(s.w)))
		if s.check[slot] == int16(check) {
			return int(slot)
		}
	}
	return -1
}
func (s *small) at(i int) (w, square *float32) { return &s.w[i], &s.sq[i] }

// place finds each feature a slot, moving others on where all are taken; the few that find none are left out, the
// least earning last.
func place(kept []feature, slots int) *small {
	s := &small{check: make([]int16, slots), w: make([]float32, slots), sq: make([]float32, slots)}
	owner := make([]int32, slots)
	for i := range owner {
		owner[i], s.check[i] = -1, -1
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	lost := 0
	for i := range kept {
		at := int32(i)
		placed := false
		for range 200 {
			var ways [prose.Ways]uint32
			for way := range ways {
				ways[way], _ = prose.Place(kept[at].id, way, uint32(slots))
				if owner[ways[way]] < 0 {
					owner[ways[way]] = at
					placed = true
					break
				}
			}
			if placed {
				break
			}
			victim := ways[rnd.IntN(prose.Ways)]
			owner[victim], at = at, owner[victim]
		}
		if !placed {
			lost++
		}
	}
	for slot, o := range owner {
		if o >= 0 {
			s.check[slot] = int16(byte(kept[o].id >> 56))
			s.w[slot] = kept[o].weight
		}
	}
	fmt.Printf("%d features found no place\n", lost)
	return s
}

// file writes the model file.
func (s *small) file() []byte {
	b := []byte("HPM\x01")
	b = binary.LittleEndian.AppendUint32(b, uint32(len(s.w)))
	for i := -prose.Limit; i <= prose.Limit; i++ {
		p := math.Round(65536 / (1 + math.Exp(-float64(i)/16)))
		b = binary.LittleEndian.AppendUint16(b, uint16(min(max(p, 8), 65536-8)))
	}
	for i, w := range s.w {
		q := int(math.Round(float64(w) * 16))
		q = min(max(q, -127), 127)
		if s.check[i] < 0 {
			q = 0
		}
		b = append(b, byte(max(s.check[i], 0)), byte(int8(q)))
	}
	return b
}
