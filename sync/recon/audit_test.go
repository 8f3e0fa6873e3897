// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func sketchSamples() map[string]interface{ Append([]byte) []byte } {
	logs := []Held{{Box: Box{1}, Epoch: 7, UpTo: 500, Skips: []Stretch{{0, 56}, {70, 71}}}, {Box: Box{2}, Epoch: 8, UpTo: 3}}
	return map[string]interface{ Append([]byte) []byte }{
		"ask":     Audit{Salt: Salt{1, 2}, Rooms: []Holding{{Room: Room{1}, Logs: logs}, {Room: Room{2}, Logs: logs[:1]}}},
		"answer":  Audit{Salt: Salt{1, 2}, Answer: true, Rooms: []Holding{{Room: Room{1}, Sum: Sum{1 << 60, 5}, Logs: logs}}},
		"first":   Sketch{ID: 9, Salt: Salt{3}, Room: Room{4}, Size: 1000, Symbols: []Symbol{{1, 2}, {3, 4}}},
		"further": Sketch{ID: 9, First: 200, Symbols: []Symbol{{1, 2}}},
		"list":    Sketch{ID: 9, List: true, Salt: Salt{3}, Room: Room{4}, Size: 3, All: []Element{1, 2, 1 << 60}},
		"rest":    Sketch{ID: 9, First: 3, List: true, Last: true, All: []Element{1, 2}},
		"found":   Found{ID: 9, More: true, Wants: []Element{7, 8}},
		"failed":  Found{ID: 9, Failed: true},
		"pull":    Pull{Session: 77, Logs: []int{0, 7, 8, 100}},
		"no pull": Pull{Session: 77},
	}
}

func TestSketchPartsRoundTrip(t *testing.T) {
	for name, want := range sketchSamples() {
		b := want.Append(nil)
		got, err := ParseSketch(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
		again := map[int]bool{} // a part with fewer symbols or elements is a part, too
		for n := range b {
			v, err := ParseSketch(b[:n])
			if err == nil && reflect.DeepEqual(v, want) {
				again[n] = true
			}
		}
		if len(again) > 0 {
			t.Errorf("%s: cut to %v of %d bytes it reads the same", name, again, len(b))
		}
	}
	for name, bad := range map[string][]byte{
		"nothing": nil, "an unknown type": {9}, "skips that touch": Audit{Rooms: []Holding{{Logs: []Held{{UpTo: 9, Skips: []Stretch{{0, 2}, {2, 3}}}}}}}.Append(nil),
		"a skip beyond the end": Audit{Rooms: []Holding{{Logs: []Held{{UpTo: 9, Skips: []Stretch{{0, 10}}}}}}}.Append(nil),
		"an empty skip":         Audit{Rooms: []Holding{{Logs: []Held{{UpTo: 9, Skips: []Stretch{{3, 3}}}}}}}.Append(nil),
		"elements that fall":    Found{Wants: []Element{2, 1}}.Append(nil),
		"the end of symbols":    Sketch{ID: 1, First: 1, Last: true}.Append(nil),
	} {
		if v, err := ParseSketch(bad); err == nil {
			t.Errorf("%s: read as %+v", name, v)
		}
	}
}

// Held and Common against sets of places.
func TestHeld(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		draw := func() (Held, map[uint64]bool) {
			h, has := Held{UpTo: uint64(rng.IntN(60))}, map[uint64]bool{}
			for seq := uint64(1); seq <= h.UpTo; seq++ {
				if rng.IntN(3) > 0 {
					has[seq] = true
				} else if !h.Skip(seq-1, seq) {
					t.Fatal("too many skips")
				}
			}
			return h, has
		}
		a, inA := draw()
		b, inB := draw()
		c := a.Common(b)
		for seq := range uint64(70) {
			if got, want := a.Has(seq), inA[seq]; got != want {
				t.Fatalf("%+v has %d: got %v, want %v", a, seq, got, want)
			}
			if got, want := c.Has(seq), inA[seq] && inB[seq]; got != want {
				t.Fatalf("%+v and %+v have %d: got %v, want %v", a, b, seq, got, want)
			}
		}
		if !reflect.DeepEqual(c, b.Common(a)) {
			t.Fatalf("what is common depends on who says it: %+v, %+v", c, b.Common(a))
		}
	}
	h := Held{UpTo: 1000}
	for i := range uint64(MaxSkips) {
		h.Skip(2*i, 2*i+1)
	}
	if h.Skip(900, 901) || h.UpTo != 900 || len(h.Skips) != MaxSkips {
		t.Errorf("a skip too many: held up to %d with %d skips", h.UpTo, len(h.Skips))
	}
}

func FuzzParseSketch(f *testing.F) {
	for _, s := range sketchSamples() {
		f.Add(s.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseSketch(b)
		if err != nil {
			return
		}
		again, err := ParseSketch(v.(interface{ Append([]byte) []byte }).Append(nil))
		if err != nil {
			t.Fatalf("what was read does not read again: %v", err)
		}
		if !reflect.DeepEqual(again, v) {
			t.Errorf("got %+v, want %+v", again, v)
		}
		if a, ok := v.(Audit); ok {
			for _, r := range a.Rooms {
				for _, l := range r.Logs {
					if c := l.Common(l); c.UpTo != l.UpTo || !slices.Equal(c.Skips, l.Skips) {
						t.Errorf("%+v with itself: %+v", l, c)
					}
				}
			}
		}
	})
}
