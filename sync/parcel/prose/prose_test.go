// SPDX-License-Identifier: EUPL-1.2

package prose

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

func load(t testing.TB) *Model {
	t.Helper()
	m, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	m := load(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	texts := []string{"", "a", "Moin", "\xff\xfe", "👍🏽", strings.Repeat("Wasser ", 500), "x\n\ty", "ÄÖÜß äöü É", "\x01\x02"}
	for range 300 {
		b := make([]byte, rnd.IntN(60))
		for i := range b {
			b[i] = byte(1 + rnd.IntN(255))
		}
		texts = append(texts, string(b))
	}
	for _, s := range texts {
		code, ok := m.Encode(s, 1<<16)
		if !ok {
			t.Fatalf("%q cannot be written", s)
		}
		if back, err := m.Decode(code, len(s)); err != nil || back != s {
			t.Fatalf("%q came out as %q, %v", s, back, err)
		}
		if len(code) > 0 {
			if _, ok := m.Encode(s, len(code)-1); ok {
				t.Errorf("%q takes %d bytes and was written in fewer", s, len(code))
			}
		}
		if len(s) > 0 {
			if back, err := m.Decode(code, len(s)-1); err == nil {
				t.Errorf("%q came out within too small a limit: %q", s, back)
			}
		}
	}
	if _, ok := m.Encode("a\x00b", 100); ok {
		t.Error("a zero byte was written")
	}
}

// TestFrozen holds the predictions to their bytes: other boxes have the same model and another processor.
func TestFrozen(t *testing.T) {
	m := load(t)
	code, ok := m.Encode("Der Wasserstand steigt weiter, wir brauchen Sandsäcke.", 100)
	if want := frozen(); !ok || !bytes.Equal(code, want) {
		t.Errorf("written as %#v, want %#v; a new model needs new bytes here", code, want)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, bad := range [][]byte{nil, shipped[:100], shipped[:len(shipped)-1], append([]byte("XXXX"), shipped[4:]...)} {
		if _, err := Read(bad); err == nil {
			t.Errorf("a model file of %d bytes was read", len(bad))
		}
	}
}

func FuzzDecode(f *testing.F) {
	m := load(f)
	for _, s := range []string{"", "Moin", "Der Pegel steigt."} {
		code, _ := m.Encode(s, 100)
		f.Add(code)
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		text, err := m.Decode(code, 500)
		if err != nil {
			return
		}
		again, ok := m.Encode(text, 1<<16)
		if !ok {
			t.Fatalf("%q came out and cannot be written", text)
		}
		if back, err := m.Decode(again, 500); err != nil || back != text {
			t.Errorf("%q came out as %q, %v", text, back, err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	m := load(b)
	for b.Loop() {
		m.Encode("Pegel Nord 4,12 m, steigend. Deichwache meldet Sickerwasser, wir brauchen 200 Sandsäcke bis 18 Uhr.", 100)
	}
}

func frozen() []byte {
	return []byte{0xc7, 0xcc, 0xb0, 0x33, 0x7e, 0xae, 0xb5, 0xbb, 0xde, 0x76, 0x30, 0x57}
}
