// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"reflect"
	"strings"
	"testing"

	"hallig/appliance/event"
)

func sampleNote() Note {
	l := Log{Room: Room{1}, Box: Box{2}, Epoch: 3}
	return Note{
		Boxes: [][32]byte{{7, 8}},
		Skips: []Range{{Log: l, After: 0, UpTo: 56}, {Log: Log{Epoch: 9}, After: 70000, UpTo: 70001}},
		Haves: []Have{{Log: l, Places: []Place{{57, ShortOf("$a")}, {60, ShortOf("$b")}}}},
		Heads: []Heads{{Room: Room{4}, IDs: []event.ID{event.ID("$" + strings.Repeat("A", 43)), "$short:old.example"}}},
	}
}

func TestNoteRoundTrip(t *testing.T) {
	want := sampleNote()
	b := want.Append(nil)
	got, err := ParseNote(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for n := range b {
		if _, err := ParseNote(b[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(b))
		}
	}
	if _, err := ParseNote(append(b, 0)); err == nil {
		t.Error("a byte too many: no error")
	}
}

func TestNoteRefuses(t *testing.T) {
	l := Log{Room: Room{1}}
	for name, n := range map[string]Note{
		"an empty range":       {Skips: []Range{{Log: l, After: 5, UpTo: 5}}},
		"a range that wraps":   {Skips: []Range{{Log: l, After: 5, UpTo: 4}}},
		"the same place twice": {Haves: []Have{{Log: l, Places: []Place{{3, Short{}}, {3, Short{}}}}}},
		"place 0":              {Haves: []Have{{Log: l, Places: []Place{{0, Short{}}}}}},
	} {
		if _, err := ParseNote(n.Append(nil)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzParseNote(f *testing.F) {
	f.Add(sampleNote().Append(nil))
	f.Add(Note{}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := ParseNote(b)
		if err != nil {
			return
		}
		again, err := ParseNote(n.Append(nil))
		if err != nil {
			t.Fatalf("what was read does not read again: %v", err)
		}
		if !reflect.DeepEqual(again, n) {
			t.Errorf("got %+v, want %+v", again, n)
		}
	})
}
