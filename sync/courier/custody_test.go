// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"testing"

	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// carries puts sealed parcels into a box's custody.
func (b *box) carries(to, from *box, seqs ...uint64) {
	b.t.Helper()
	dest, _ := to.peer.ID.Key()
	source, _ := from.peer.ID.Key()
	err := b.db.Do(b.t.Context(), func(tx *store.Tx) error {
		for _, n := range seqs {
			body := append([]byte(fmt.Sprintf("sealed %d", n)), make([]byte, 40)...)
			if _, _, err := tx.Carry(store.Carried{Dest: dest, Source: source, Epoch: 9, Seq: n, Giver: source, Priority: 3, Body: body, Mark: int64(n)}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// sealed collects what a box is brought.
func (b *box) sealed() *[]string {
	got := &[]string{}
	b.courier.c.Sealed = func(from peer.ID, p *parcel.Sealed) {
		*got = append(*got, fmt.Sprintf("%s %s %d %s", from.Short(), p.To.Short(), p.Seq, p.Body[:8]))
	}
	return got
}

// TestMailForStrangers: a carries what c wrote to d; a and d do not know each other, b is paired with a.
func TestMailForStrangers(t *testing.T) {
	_, a, b, id := pair(t)
	other := newWorld(t)
	c, d := other.box("c.test"), other.box("d.test")
	atB, atD := b.sealed(), d.sealed()
	a.carries(d, c, 1, 2, 3)
	stick := openStick(t, t.TempDir())
	says(a, id, 2)
	a.export(stick)
	want := func(to *box, got *[]string, n int) {
		t.Helper()
		var w []string
		for i := range n {
			w = append(w, fmt.Sprintf("%s %s %d sealed %d", a.peer.ID.Short(), d.peer.ID.Short(), i+1, i+1))
		}
		if !slices.Equal(*got, w) {
			t.Errorf("%s: got %q, want %q", to.name, *got, w)
		}
		*got = nil
	}
	for _, x := range []*box{d, b} {
		if ours, err := x.courier.Marked(stick); !ours || err != nil {
			t.Errorf("%s leaves the stick alone: %v", x.name, err)
		}
	}
	if ours, err := c.courier.Marked(stick); ours || err != nil {
		t.Errorf("a stick without anything for c: %v, %v", ours, err)
	}
	in := d.imports(stick)
	want(d, atD, 3)
	if in.Foreign != 1 || len(in.Bad) > 0 {
		t.Errorf("%+v", in)
	}
	b.imports(stick)
	want(b, atB, 3) // copies: it may meet d sooner
	// More comes: only that is written; what is over goes from the stick.
	a.carries(d, c, 4)
	if out := a.export(stick); out.Full {
		t.Errorf("%+v", out)
	}
	d.imports(stick)
	want(d, atD, 4)
	dest, _ := d.peer.ID.Key()
	source, _ := c.peer.ID.Key()
	if err := a.db.Do(t.Context(), func(tx *store.Tx) error { return tx.DropCarriedUpTo(dest, source, 9, 4) }); err != nil {
		t.Fatal(err)
	}
	a.export(stick)
	d.imports(stick)
	want(d, atD, 0)
	x := readIndex(stick, a.peer.ID, func(n string, err error) { t.Error(n, err) })
	for _, e := range x.entries {
		if e.kind == kindSealed {
			t.Error("what is over is still on the stick")
		}
	}
}

// TestStrangerWithMore: a stranger's segment may hold sealed parcels and nothing else.
func TestStrangerWithMore(t *testing.T) {
	_, _, b, _ := pair(t)
	atB := b.sealed()
	key := ed25519.NewKeyFromSeed(seed("stranger"))
	from := peer.IDOf(key.Public().(ed25519.PublicKey))
	session := b.w.codec.Session(1, 2)
	msg, _, _, err := session.Encode(perMessage, &parcel.EDU{Seq: 1, Type: "m.direct_to_device", Content: []byte(`{}`)}, &parcel.Want{Room: "!x:y"},
		&parcel.Sealed{To: b.peer.ID, From: parcel.Origin{Box: from, Epoch: 1}, Seq: 1, Body: make([]byte, 50)})
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []byte{kindSealed, kindLetter} {
		s := segment{kind: kind, exporter: from, reader: b.peer.ID, epoch: 1, nonce: [2]uint32{1, 2}, messages: [][]byte{msg}}
		d := openStick(t, t.TempDir())
		e := export{c: &Courier{c: Config{Key: key, Codec: b.w.codec, DB: b.db}, self: from}, d: d, x: &index{}, report: &Report{}}
		if err := e.write(&s, entry{}); err != nil {
			t.Fatal(err)
		}
		e.x.entries[0].kind = kindSealed // as the index says
		if err := e.commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		*atB = nil
		b.imports(d)
		if n := len(*atB); n != map[byte]int{kindSealed: 1, kindLetter: 0}[kind] {
			t.Errorf("kind %d: %d sealed parcels taken", kind, n)
		}
		if len(b.took()) != 0 || len(b.courier.owed) != 0 {
			t.Errorf("kind %d: a stranger was heard: %v", kind, b.took())
		}
	}
}
