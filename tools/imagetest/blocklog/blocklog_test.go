// SPDX-License-Identifier: EUPL-1.2

package blocklog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// op is one line of a told record.
type op struct {
	sector uint64
	text   byte // fills the sectors; 0: a flush
	count  int
	flags  uint64
}

func told(ops ...op) []byte {
	le := binary.LittleEndian
	b := make([]byte, 512)
	le.PutUint64(b, magic)
	le.PutUint64(b[8:], version)
	le.PutUint64(b[16:], uint64(len(ops)))
	le.PutUint32(b[24:], 512)
	for _, o := range ops {
		h := make([]byte, 512)
		le.PutUint64(h, o.sector)
		le.PutUint64(h[8:], uint64(o.count))
		le.PutUint64(h[16:], o.flags)
		b = append(b, h...)
		if o.flags&Discard == 0 {
			b = append(b, bytes.Repeat([]byte{o.text}, 512*o.count)...)
		}
	}
	return b
}

type disk []byte

func (d disk) WriteAt(p []byte, off int64) (int, error) { return copy(d[off:], p), nil }

// text shows a disk, one letter a sector.
func (d disk) text() string {
	var s []byte
	for i := 0; i < len(d); i += 512 {
		c := d[i]
		for _, x := range d[i : i+512] {
			if x != c {
				c = '?'
			}
		}
		if c == 0 {
			c = '.'
		}
		s = append(s, c)
	}
	return string(s)
}

var story = told(
	op{sector: 0, text: 'a', count: 2},
	op{flags: Flush},
	op{sector: 2, text: 'b', count: 3},
	op{sector: 3, text: 'c', count: 1},
	op{sector: 0, count: 2, flags: Discard},
	op{flags: Flush},
	op{sector: 7, text: 'd', count: 1, flags: FUA},
)

func TestApply(t *testing.T) {
	r, err := Read(bytes.NewReader(story), int64(len(story)))
	if err != nil {
		t.Fatal(err)
	}
	for to, want := range []string{"........", "aa......", "aa......", "aabbb...", "aabcb...", "aabcb...", "aabcb...", "aabcb..d"} {
		d := make(disk, 8*512)
		if err := r.Apply(d, 0, to); err != nil {
			t.Fatal(err)
		}
		if got := d.text(); got != want {
			t.Errorf("after %d entries: %s, want %s", to, got, want)
		}
	}
	if got := r.Flushes(); got != 2 {
		t.Errorf("%d flushes, want 2", got)
	}
}

// TestCut: over many seeds every disk that a power cut allows is met, and none that it does not allow.
func TestCut(t *testing.T) {
	r, err := Read(bytes.NewReader(story), int64(len(story)))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for seed := range uint64(4000) {
		c := r.Cut(seed, 0)
		if again := r.Cut(seed, 0); again != c {
			t.Fatalf("seed %d: %v, then %v", seed, c, again)
		}
		d := make(disk, 8*512)
		if err := r.Apply(d, 0, c.Durable); err != nil {
			t.Fatal(err)
		}
		if err := r.Finish(d, c); err != nil {
			t.Fatal(err)
		}
		got := d.text()
		seen[got]++
		switch {
		case c.Durable >= 2 && got[:2] != "aa":
			t.Fatalf("%v: a flushed write is lost: %s", c, got)
		case c.Durable >= 6 && got[:5] != "aabcb":
			t.Fatalf("%v: a flushed write is lost: %s", c, got)
		case c.Issued >= 7 && got[7] != 'd':
			t.Fatalf("%v: a write with FUA is lost: %s", c, got)
		case c.Issued < 7 && got[7] != '.':
			t.Fatalf("%v: a write from after the cut is there: %s", c, got)
		}
	}
	for _, want := range []string{"........", "a.......", ".a......", "aa......", "aab.....", "aa.b....", "aa.c....", "aabbb...", "aabcb...", "aab.b...", "aabcb..d"} {
		if seen[want] == 0 {
			t.Errorf("no seed leaves %s", want)
		}
	}
	if _, ok := seen["aa.....d"]; ok {
		t.Error("a disk with a write from behind the second flush but not those before it")
	}
}

func TestCutFrom(t *testing.T) {
	r, err := Read(bytes.NewReader(story), int64(len(story)))
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(200) {
		if c := r.Cut(seed, 4); c.Durable < 4 {
			t.Fatalf("%v lies before entry 4", c)
		}
	}
}

func TestAround(t *testing.T) {
	r, err := Read(bytes.NewReader(story), int64(len(story)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range r.Around(3*512, 4*512, 0, len(r.Entries), 1) {
		got = append(got, fmt.Sprintf("%d-%d %s", c.Durable, c.Issued, c.Way))
	}
	var want []string
	for _, issued := range []string{"2-3 ", "2-4 "} {
		for _, way := range []string{"none", "all", "some sectors", "some sectors", "some sectors"} {
			want = append(want, issued+way)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("around sector 3: %q, want %q", got, want)
	}
	if got := r.Around(3*512, 4*512, 4, len(r.Entries), 1); len(got) != 0 {
		t.Errorf("behind them: %v", got)
	}
}

func TestReadRefuses(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":      nil,
		"no magic":   make([]byte, 4096),
		"cut off":    story[:len(story)-100],
		"head only":  story[:100],
		"many":       func() []byte { b := bytes.Clone(story); b[16] = 200; return b }(),
		"odd sector": func() []byte { b := bytes.Clone(story); b[24] = 3; return b }(),
		"odd flags":  func() []byte { b := bytes.Clone(story); b[512+17] = 7; return b }(),
		"huge":       func() []byte { b := bytes.Clone(story); b[512+15] = 0xff; return b }(),
	} {
		if r, err := Read(bytes.NewReader(b), int64(len(b))); err == nil {
			t.Errorf("%s: read %d entries, want an error", name, len(r.Entries))
		}
	}
	if _, err := Read(bytes.NewReader(make([]byte, 600)), 600); !errors.Is(err, ErrNoRecord) {
		t.Errorf("zeros: %v, want ErrNoRecord", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(story)
	f.Add(told())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		var end int64
		for _, e := range r.Entries {
			if e.length > int64(len(b)) || e.Disk < 0 || e.Size < 0 {
				t.Fatalf("entry %+v out of a record of %d bytes", e, len(b))
			}
			end = max(end, e.Disk+e.Size)
		}
		c := r.Cut(1, 0)
		if c.Durable > c.Issued || c.Issued > len(r.Entries) {
			t.Fatalf("%+v of %d entries", c, len(r.Entries))
		}
		if end > 1<<16 {
			return
		}
		d := make(disk, end)
		if err := r.Apply(d, 0, c.Durable); err != nil {
			t.Fatal(err)
		}
		if err := r.Finish(d, c); err != nil {
			t.Fatal(err)
		}
	})
}
