// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/store"
)

func TestThereAndBack(t *testing.T) {
	_, a, b, id := pair(t)
	d := openStick(t, t.TempDir())
	ids := says(a, id, 40)
	a.queue(b, "m.direct_to_device", "", `{"n":1}`)
	a.queue(b, "m.direct_to_device", "", `{"n":2}`)
	a.queue(b, "m.typing", "x", `{"n":3}`)

	out := a.export(d)
	if got := of(out, b); got.Events < 40 || got.EDUs != 2 {
		t.Errorf("exported %+v", got)
	}
	if way := a.left(id, ids[39]); way != "courier" {
		t.Errorf("the last message left by %q, want the courier", way)
	}
	due := a.pending(b)
	if due < 40 || a.queued(b) != 3 {
		t.Errorf("exporting moved a cursor: %d events due, %d EDUs queued", due, a.queued(b))
	}
	in, back := b.visit(d)
	if got := of(in, a); got.Events != 40 || got.EDUs != 2 || len(in.Bad) > 0 || got.Waiting != 0 {
		t.Errorf("imported %+v, bad %v", got, in.Bad)
	}
	b.has(id, ids...)
	if want := []string{`a.test m.direct_to_device {"n":1}`, `a.test m.direct_to_device {"n":2}`}; !slices.Equal(b.took(), want) {
		t.Errorf("EDUs %q", b.took())
	}
	if got := of(back, a); got.Segments != 2 || got.Events != 1 { // a letter, and the join of b
		t.Errorf("the answer: %+v", got)
	}
	if a.pending(b) != due {
		t.Error("a cursor moved before the receipt was here")
	}
	more := says(a, id, 3)
	if in := a.imports(d); !of(in, b).Receipt {
		t.Errorf("no receipt came back: %+v", in)
	}
	if n := a.pending(b); n != 3 {
		t.Errorf("%d events due after the receipt, want 3", n)
	}
	if n := a.queued(b); n != 1 { // typing behind the last kept number stays for the link
		t.Errorf("%d EDUs queued after the receipt", n)
	}
	// The next export takes off what is kept.
	a.export(d)
	if in := b.imports(d); of(in, a).Events != 3 || of(in, a).Again != 0 {
		t.Errorf("second visit: %+v", of(in, a))
	}
	b.has(id, append(ids, more...)...)
}

func TestTwiceDoesNothing(t *testing.T) {
	_, a, b, id := pair(t)
	d := openStick(t, t.TempDir())
	ids := says(a, id, 10)
	a.queue(b, "m.direct_to_device", "", `{}`)
	a.export(d)
	b.imports(d)
	in := b.imports(d)
	if got := of(in, a); got.Events != 0 || got.Again != 0 || got.EDUs != 0 || got.Known == 0 {
		t.Errorf("second import: %+v", got)
	}
	b.has(id, ids...)
	out := a.export(d)
	if got := of(out, b); got.Events != 0 || got.Known != 1 {
		t.Errorf("second export: %+v", got)
	}
	if in := b.imports(d); of(in, a).Events != 0 || len(b.took()) != 1 {
		t.Errorf("import of the second export: %+v, EDUs %v", of(in, a), b.took())
	}
	b.has(id, ids...)
}

// An event that came by another way first is there once, and its receipt counts.
func TestTwoWays(t *testing.T) {
	w, a, b, id := pair(t)
	c := w.box("c.test")
	c.join(a, id)
	one, two := openStick(t, t.TempDir()), openStick(t, t.TempDir())
	b.visit(two) // so that c learns of nothing yet
	ids := says(a, id, 5)
	a.export(one)
	a.export(two)
	b.visit(one) // b passes on to c what it has of a
	c.visit(one)
	c.visit(two)
	b.visit(two)
	ids = append(ids, says(c, id, 2)...)
	c.visit(one)
	b.visit(one)
	a.visit(one)
	for _, x := range []*box{a, b, c} {
		x.has(id, ids...)
	}
	for range 2 {
		for _, x := range []*box{a, b, c} {
			x.visit(one)
		}
	}
	for _, x := range []*box{a, b, c} {
		for _, o := range []*box{a, b, c} {
			if x != o && x.pending(o) != 0 {
				t.Errorf("%s owes %s %d events after two rounds of silence", x.name, o.name, x.pending(o))
			}
		}
	}
}

func TestStickGoesOnWhereItEnded(t *testing.T) {
	_, a, b, id := pair(t)
	d := openStick(t, t.TempDir())
	ids := says(a, id, 5)
	a.export(d)
	ids = append(ids, says(a, id, 5)...)
	out := a.export(d)
	if got := of(out, b); got.Events != 5 || got.Known != 1 {
		t.Errorf("second export: %+v, want the 5 new ones", got)
	}
	in := b.imports(d)
	if got := of(in, a); got.Events != 10 || got.Waiting != 0 {
		t.Errorf("import: %+v", got)
	}
	b.has(id, ids...)
}

func TestDamagedSegmentIsMadeAgain(t *testing.T) {
	_, a, b, id := pair(t)
	place := t.TempDir()
	d := openStick(t, place)
	ids := says(a, id, 5)
	a.export(d)
	ids = append(ids, says(a, id, 5)...)
	a.export(d)
	x := readIndex(d, a.peer.ID, func(name string, err error) { t.Error(name, err) })
	var events []entry
	for _, e := range x.entries {
		if e.kind == kindEvents {
			events = append(events, e)
		}
	}
	if len(events) != 2 {
		t.Fatalf("%d segments of events, want 2", len(events))
	}
	name := filepath.Join(place, Folder, events[0].name(a.peer.ID))
	if err := os.Truncate(name, 10); err != nil {
		t.Fatal(err)
	}
	in := b.imports(d)
	if in.Bad[errSize.Error()] != 1 || of(in, a).Waiting != 1 {
		t.Errorf("import of the damaged stick: %+v, bad %v", of(in, a), in.Bad)
	}
	b.export(d)
	a.visit(d)
	b.imports(d)
	b.has(id, ids...)
	entries, err := os.ReadDir(filepath.Join(place, Folder))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), brief(a.peer.ID)) && strings.HasSuffix(e.Name(), ".seg") {
			n++
		}
	}
	if n != 2 { // letter and one of events
		t.Errorf("%d segments of a lie on the stick, want 2", n)
	}
}

func TestReadOnlyStick(t *testing.T) {
	_, a, b, id := pair(t)
	place := t.TempDir()
	d := openStick(t, place)
	ids := says(a, id, 3)
	a.export(d)
	ro := &readOnly{d}
	in, out := b.visit(ro)
	if of(in, a).Events != 3 || !out.ReadOnly {
		t.Errorf("import %+v, export %+v", of(in, a), out)
	}
	b.has(id, ids...)
}

// A letter from before is put back on the stick.
func TestOldLetterDoesNothing(t *testing.T) {
	_, a, b, id := pair(t)
	place := t.TempDir()
	d := openStick(t, place)
	says(a, id, 3)
	a.export(d)
	b.visit(d)
	old := snapshot(t, place)
	a.imports(d)
	says(a, id, 3)
	a.export(d)
	b.visit(d)
	a.imports(d)
	if a.pending(b) != 0 {
		t.Fatal("not at rest")
	}
	restore(t, place, old)
	if err := a.db.Do(t.Context(), func(tx *store.Tx) error { return tx.ForgetSegments() }); err != nil { // so that it is read at all
		t.Fatal(err)
	}
	if in := a.imports(d); of(in, b).Receipt || of(in, b).Segments == 0 {
		t.Errorf("an old letter counted, or was not read: %+v", of(in, b))
	}
	if a.pending(b) != 0 {
		t.Error("an old letter moved a cursor back")
	}
}
