// SPDX-License-Identifier: EUPL-1.2

package frame

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

var wireTable = []struct {
	name  string
	frame Frame
	bytes string // without tag
}{
	{"hello", Frame{Type: Hello, Poll: true, Body: []byte{1, 2}}, "20 0102"},
	{"bare acknowledgement", Frame{Type: Control, Ack: true, Next: 0x107}, "d0 07"},
	{"question with gaps", Frame{Type: Control, Ack: true, Poll: true, More: true, Next: 9, Bitmap: 0x8001}, "f4 09 0180"},
	{"second question, after the first was heard", Frame{Type: Control, Ack: true, Poll: true, Odd: true, Heard: true, Next: 9}, "f3 09"},
	{"second question with data", Frame{Type: Data, Ack: true, Poll: true, Odd: true, Heard: true, Priority: 3, Seq: 1, After: 1, Next: 2, Bitmap: 3},
		"71 01 c1 0281 03"},
	{"lone message", Frame{Type: Whole, Poll: true, Priority: 3, Seq: 0x2ff, Body: []byte("hi")}, "a1 ff 80 6869"},
	{"bulk after 63", Frame{Type: Data, Priority: 4, After: 63, Seq: 5, Body: []byte{0}}, "42 05 3f 00"},
	{"tiny, no answer", Frame{Type: Whole, End: true, Priority: 3, Seq: 2, Body: []byte{1}}, "81 02 c0 01"},
	{"flash with acknowledgement", Frame{Type: Whole, Ack: true, More: true, Seq: 1, Next: 4, Bitmap: 1 << 63, Body: []byte{9}},
		"94 01 00 0408 0000000000000080 09"},
}

func TestWire(t *testing.T) {
	c := Context{Sender: 0x11223344, Receiver: 0x55667788}
	key, err := NewKey(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range wireTable {
		if got, want := hex.EncodeToString(e.frame.Append(nil)), strings.ReplaceAll(e.bytes, " ", ""); got != want {
			t.Errorf("%s: bytes %s, want %s", e.name, got, want)
		}
		for _, k := range []*Key{nil, key} {
			raw := Seal(nil, &e.frame, c, k)
			f, err := Parse(raw)
			if err != nil {
				t.Errorf("%s: Parse: %v", e.name, err)
				continue
			}
			f.Seq, f.Next = e.frame.Seq, e.frame.Next // the caller widens
			if err := Open(raw, &f, c, k); err != nil {
				t.Errorf("%s: Open: %v", e.name, err)
			}
			want := e.frame
			want.Keyed = k != nil && want.Type != Hello
			f.Body = append([]byte(nil), f.Body...)
			if !reflect.DeepEqual(f, want) {
				t.Errorf("%s: came back as %+v, want %+v", e.name, f, want)
			}
		}
	}
}

// Each single damage of a frame is noticed, by Parse or by Open; so are another epoch and another number.
func TestDamage(t *testing.T) {
	c := Context{Sender: 1, Receiver: 2}
	key, err := NewKey(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range wireTable {
		for _, k := range []*Key{nil, key} {
			open := func(raw []byte, c Context, seqUp, nextUp uint32) error {
				raw = bytes.Clone(raw)
				f, err := Parse(raw)
				if err != nil {
					return err
				}
				f.Seq += e.frame.Seq&^0xff + seqUp
				f.Next += e.frame.Next&^0xff + nextUp
				return Open(raw, &f, c, k)
			}
			raw := Seal(nil, &e.frame, c, k)
			for bit := range 8 * len(raw) {
				bad := bytes.Clone(raw)
				bad[bit/8] ^= 1 << (bit % 8)
				if open(bad, c, 0, 0) == nil {
					t.Errorf("%s: bit %d turned over, not noticed", e.name, bit)
				}
			}
			for n := range raw {
				if open(raw[:n], c, 0, 0) == nil {
					t.Errorf("%s: cut to %d bytes, not noticed", e.name, n)
				}
			}
			if e.frame.Type == Hello {
				continue
			}
			if open(raw, Context{2, 1}, 0, 0) == nil {
				t.Errorf("%s: our own echo was taken", e.name)
			}
			if open(raw, Context{1, 3}, 0, 0) == nil {
				t.Errorf("%s: a frame of another epoch was taken", e.name)
			}
			if e.frame.Type != Control && open(raw, c, 256, 0) == nil {
				t.Errorf("%s: an old number was taken", e.name)
			}
			if e.frame.Ack && open(raw, c, 0, 256) == nil {
				t.Errorf("%s: an old acknowledgement was taken", e.name)
			}
		}
	}
}

func TestKeysMatter(t *testing.T) {
	a, _ := NewKey(bytes.Repeat([]byte{1}, KeySize))
	b, _ := NewKey(bytes.Repeat([]byte{2}, KeySize))
	f := Frame{Type: Whole, Body: []byte("the dyke breaks at six")}
	raw := Seal(nil, &f, Context{}, a)
	if bytes.Contains(raw, f.Body) {
		t.Error("the body is readable on the wire")
	}
	for name, k := range map[string]*Key{"another key": b, "no key": nil} {
		got, err := Parse(bytes.Clone(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := Open(raw, &got, Context{}, k); !errors.Is(err, ErrTag) {
			t.Errorf("%s: %v, want ErrTag", name, err)
		}
	}
	if _, err := NewKey(make([]byte, 16)); err == nil {
		t.Error("a short secret was accepted")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{
		"", "00", "d007",
		"30 00 00000000",                         // hello with an acknowledgement
		"28 00 00000000",                         // hello with keys
		"c0 07 00000000",                         // control without acknowledgement
		"d0 07 00 00000000",                      // bitmap that ends in zero
		"d0 07 010101010101010101 00000000",      // bitmap of nine bytes
		"83 00 80 00000000", "82 00 80 00000000", // priorities 7 and 5
		"90 00 00 01 01 00000000", "90 00 00 01 09 010101010101010101 00000000",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := Parse(raw); !errors.Is(err, ErrMalformed) {
			t.Errorf("Parse(%s) = %+v, %v; want ErrMalformed", s, f, err)
		}
	}
}

func TestFramingTable(t *testing.T) {
	long := bytes.Repeat([]byte{1}, 255)
	for _, c := range []struct {
		framing    Framing
		raw, bytes string
	}{
		{COBS, "\x01", "\x02\x01\x00"},
		{COBS, "\x00", "\x01\x01\x00"},
		{COBS, "\x00\x00", "\x01\x01\x01\x00"},
		{COBS, "\x01\x00\x02", "\x02\x01\x02\x02\x00"},
		{COBS, string(long[:254]), "\xff" + string(long[:254]) + "\x00"},
		{COBS, string(long), "\xff" + string(long[:254]) + "\x02\x01\x00"},
		{KISS, "\x01\xc0\xdb\x02", "\xc0\x00\x01\xdb\xdc\xdb\xdd\x02\xc0"},
	} {
		got := c.framing.Append(nil, []byte(c.raw))
		if string(got) != c.bytes {
			t.Errorf("framing %d of %q = %q, want %q", c.framing, c.raw, got, c.bytes)
		}
		if s := c.framing.Size(len(c.raw)); c.framing == COBS && len(got) > s {
			t.Errorf("Size(%d) = %d, but it took %d", len(c.raw), s, len(got))
		}
	}
}

// Frames between garbage come through; garbage makes none up; whatever the chunks.
func TestDecoderInGarbage(t *testing.T) {
	for _, framing := range []Framing{COBS, KISS} {
		rng := rand.New(rand.NewPCG(1, uint64(framing)))
		var stream []byte
		var want [][]byte
		for range 200 {
			raw := make([]byte, 1+rng.IntN(MaxRaw))
			for i := range raw {
				raw[i] = byte(rng.Uint32N(4)) * 0xdb / 3 // zeros and escapes are frequent
			}
			want = append(want, raw)
			stream = append(stream, framing.Resync()...)
			stream = framing.Append(stream, raw)
		}
		d := Decoder{Framing: framing}
		var got [][]byte
		for len(stream) > 0 {
			n := min(len(stream), 1+rng.IntN(700))
			d.Feed(stream[:n], func(raw []byte) { got = append(got, bytes.Clone(raw)) })
			stream = stream[n:]
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("framing %d: %d frames came through changed (of %d)", framing, len(got), len(want))
		}
		// A megabyte without a delimiter costs no memory, and the next frame is heard.
		d.Feed(bytes.Repeat([]byte{1}, 1<<20), func([]byte) { t.Error("a frame out of nothing") })
		if cap(d.buf) > 16*MaxRaw {
			t.Errorf("framing %d: buffer has grown to %d", framing, cap(d.buf))
		}
		heard := 0
		d.Feed(framing.Resync(), func([]byte) {})
		d.Feed(framing.Append(nil, []byte{5}), func([]byte) { heard++ })
		if heard != 1 {
			t.Errorf("framing %d: the frame after the flood was heard %d times", framing, heard)
		}
	}
}

func FuzzDecoder(f *testing.F) {
	f.Add(false, []byte("\x02\x01\x00\x01\x01\x00"))
	f.Add(true, []byte("\xc0\x00\x01\xdb\xdc\xc0"))
	f.Fuzz(func(t *testing.T, kiss bool, b []byte) {
		d := Decoder{Framing: COBS}
		if kiss {
			d.Framing = KISS
		}
		d.Feed(b, func(raw []byte) {
			if len(raw) == 0 || len(raw) > MaxRaw {
				t.Fatalf("frame of %d bytes", len(raw))
			}
		})
		// Whatever stood before, a frame after a delimiter comes through.
		var got []byte
		d.Feed(d.Framing.Resync(), func([]byte) {})
		if len(b) > 0 && len(b) <= MaxRaw {
			d.Feed(d.Framing.Append(nil, b), func(raw []byte) { got = bytes.Clone(raw) })
			if !bytes.Equal(got, b) {
				t.Fatalf("%x came back as %x", b, got)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, e := range wireTable {
		f.Add(Seal(nil, &e.frame, Context{}, nil))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := Parse(raw)
		if err != nil {
			return
		}
		// Every frame has one encoding.
		if again := p.Append(nil); !bytes.Equal(again, raw[:len(raw)-TagSize]) {
			t.Fatalf("%x parsed to %+v, which is %x", raw, p, again)
		}
		_ = Open(raw, &p, Context{}, nil) // must not panic; mostly refuses
	})
}
