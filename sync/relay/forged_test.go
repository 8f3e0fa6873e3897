// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/store"
	"hallig/sync/parcel"
)

// forged is a parcel under another box's name.
func forged(as, to *node, epoch, seq uint64, text string) *parcel.Sealed {
	return &parcel.Sealed{To: to.peer.ID, From: parcel.Origin{Box: as.peer.ID, Epoch: epoch}, Seq: seq, Priority: parcel.Routine, Body: []byte(text + strings.Repeat(".", 100))}
}

// TestForgedNumbers: who forges the numbers of another box's parcels, those to come included, holds none of them up.
func TestForgedNumbers(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, s, m, d := f.node("anna"), f.node("rosa"), f.node("sina"), f.node("mala"), f.node("dora")
		paired(a, r)
		paired(r, s, m)
		paired(s, d)
		paired(a, d)
		for _, n := range []*node{a, r, s, d} {
			n.start()
		}
		for _, at := range []*node{r, s} { // before anna's come
			for i := range uint64(110) {
				seq := i + 1
				if i >= 10 {
					seq = 1<<20 + 2*i // so many stretches that holes between them were once taken for filled
				}
				at.relay.Take(m.peer.ID, forged(a, d, a.relay.epoch, seq, "first"))
			}
		}
		join(a, r, true)
		join(r, s, true)
		pass(time.Second)
		var ends []chan error
		for i := range 5 {
			ends = append(ends, a.post(d, parcel.Routine, 0, fmt.Sprint("message ", i)))
		}
		pass(time.Minute)
		for i := range uint64(10) { // and after
			s.relay.Take(m.peer.ID, forged(a, d, a.relay.epoch, i+1, "second"))
		}
		pass(time.Minute)
		join(s, d, true)
		pass(4 * time.Minute) // anna would not write anew so soon
		if got := d.got(); len(got) != 5 {
			t.Errorf("read %q, want five messages", got)
		}
		for i, end := range ends {
			wantEnd(t, fmt.Sprint("message ", i), end, nil)
		}
		if c := a.status().Counts; c.Silent > 0 {
			t.Errorf("anna wrote anew: the test shows nothing")
		}
		if c := d.status().Counts; c.Forged == 0 {
			t.Errorf("dora has seen no forged parcel: %+v", c)
		}
	})
}

// TestForgedShare: who fills its own share with another box's name on it takes nothing of that box's.
func TestForgedShare(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, m, d := f.node("anna"), f.node("rosa"), f.node("mala"), f.node("dora")
		paired(a, r, d)
		paired(m, r)
		r.limits = Limits{Total: 400_000, Writer: 100_000, Giver: 200_000}
		for _, n := range []*node{a, r, d} {
			n.start()
		}
		for i := range 1000 {
			r.relay.Take(m.peer.ID, forged(a, d, 1, uint64(i+1), strings.Repeat("x", 400)))
		}
		pass(time.Minute)
		if s := r.status(); s.Total > 100_000 || s.Total < 90_000 {
			t.Fatalf("%d bytes are carried, want as much as one writer may", s.Total)
		}
		join(a, r, true)
		pass(time.Second)
		for range 5 {
			a.post(d, parcel.Routine, 0, strings.Repeat("m", 5000))
		}
		pass(time.Minute)
		if c := r.status().Counts; c.Taken == 0 || slices.ContainsFunc(a.status().Mail, func(m Mail) bool { return !m.Carried }) {
			t.Errorf("anna's own were not all taken: %+v", c)
		}
	})
}

// TestWornHead: who hands over another box's parcel as if it had been on its way for long, or was nearly over, does not use it up.
func TestWornHead(t *testing.T) {
	for name, gone := range map[string]bool{"still carried": false, "expired": true} {
		t.Run(name, func(t *testing.T) {
			inFleet(t, func(t *testing.T, f *fleet) {
				a, r, s, m, d := f.node("anna"), f.node("rosa"), f.node("sina"), f.node("mala"), f.node("dora")
				paired(a, d)
				paired(a, r, m)
				paired(r, s)
				paired(s, d)
				for _, n := range []*node{r, s, d} {
					n.start()
				}
				join(r, s, true)
				s.tells(r, &parcel.Forward{Reach: []parcel.Reach{{Box: d.peer.ID, Cost: 3}}})
				pass(time.Second)
				p := sealedBy(t, a, d, 1, 1, "once")
				tired := *p
				tired.Hops = parcel.MaxHops - 1
				over := *sealedBy(t, a, d, 1, 2, "twice")
				fresh := over
				over.Life = 1
				r.relay.Take(m.peer.ID, &tired)
				r.relay.Take(m.peer.ID, &over)
				pass(time.Second)
				if gone {
					pass(time.Hour)
				}
				r.relay.Take(a.peer.ID, p)
				r.relay.Take(a.peer.ID, &fresh)
				pass(time.Hour)
				join(s, d, true)
				pass(time.Minute)
				got := d.got()
				slices.Sort(got)
				if !slices.Equal(got, []string{"once", "twice"}) {
					t.Errorf("read %q, want both", got)
				}
				// Heads that get better and better move it a few times, no more.
				before := r.status().Counts.Taken
				nearer, younger := *sealedBy(t, a, d, 1, 3, "nearer"), *sealedBy(t, a, d, 1, 4, "younger")
				for i := range parcel.MaxHops {
					again := nearer
					again.Hops = parcel.MaxHops - 1 - i
					r.relay.Take(m.peer.ID, &again)
				}
				for i := range 100 {
					again := younger
					again.Life = byte(100 + i)
					r.relay.Take(m.peer.ID, &again)
				}
				pass(time.Second)
				if n := r.status().Counts.Taken - before; n < 6 || n > 5+1+100/8 {
					t.Errorf("taken %d times", n)
				}
			})
		})
	}
}

// TestLateWord: a neighbour's late word on a forged parcel says nothing about the true one of that name.
func TestLateWord(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, m, d := f.node("anna"), f.node("rosa"), f.node("mala"), f.node("dora")
		paired(a, r, m, d)
		r.start()
		r.relay.Take(m.peer.ID, forged(a, d, 1, 1, "first"))
		pass(time.Second)
		r.relay.Take(a.peer.ID, sealedBy(t, a, d, 1, 1, "true"))
		pass(time.Second)
		r.relay.Neighbour(d.peer.ID, 1_000_000)
		pass(time.Second)
		given := func() (got []*parcel.Sealed) {
			for {
				p, done := r.relay.Next(d.peer.ID, parcel.Routine, 1000)
				if p == nil {
					return got
				}
				got = append(got, p.(*parcel.Sealed))
				done(true)
			}
		}
		first := given()
		pass(time.Minute) // no word
		again := given()
		if len(first) != 1 || len(again) != 1 || string(first[0].Body) != string(again[0].Body) {
			t.Fatalf("given %d parcels, then %d; want the forged one twice", len(first), len(again))
		}
		word := &parcel.Forward{Taken: []parcel.Custody{{To: d.peer.ID, From: first[0].From, Seqs: []uint64{1}}}}
		d.tells(r, word) // on the first
		pass(time.Second)
		held := given()
		d.tells(r, word) // and on the second, late
		pass(time.Minute)
		if s := r.status(); len(s.Carrying) != 1 || s.Carrying[0].Count != 1 {
			t.Errorf("carries %+v, want the true one still", s.Carrying)
		}
		pass(2 * time.Hour)
		if held = append(held, given()...); len(held) == 0 {
			t.Error("the true one was not given")
		}
	})
}

// TestForgedFlash: forged parcels of one name do not share one place in what may go as flash.
func TestForgedFlash(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		m, r, d := f.node("mala"), f.node("rosa"), f.node("dora")
		paired(m, r, d)
		r.start()
		for i := range 80 {
			p := forged(m, d, 1, 1, fmt.Sprintf("%03d%s", i, strings.Repeat("x", 397)))
			p.Priority = parcel.Flash
			r.relay.Take(m.peer.ID, p)
		}
		pass(time.Second)
		r.relay.Neighbour(d.peer.ID, 1_000_000)
		flash := 0
		for range 200 {
			pass(time.Second)
			p, done := r.relay.Next(d.peer.ID, parcel.Flash, 1000)
			if s, ok := p.(*parcel.Sealed); ok {
				flash += len(s.Body)
				done(true)
				d.tells(r, &parcel.Forward{Taken: []parcel.Custody{{To: s.To, From: s.From, Seqs: []uint64{s.Seq}}}})
			} else if p != nil {
				done(true)
			}
		}
		if flash > flashHourly+500 || flash < flashHourly {
			t.Errorf("%d bytes went as flash, want about %d", flash, flashHourly)
		}
	})
}

// TestMarksBounded: what is remembered of one giver's parcels is bounded, and another's is not what goes.
func TestMarksBounded(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, m, d := f.node("anna"), f.node("rosa"), f.node("mala"), f.node("dora")
		paired(a, r, m, d)
		const most = 1000
		r.limits = Limits{Marks: most}
		r.start()
		keep := sealedBy(t, a, d, 1, 1, "mine")
		r.relay.Take(a.peer.ID, keep)
		pass(time.Second)
		join(a, r, true)
		pass(time.Second)
		a.tells(r, &parcel.Forward{Done: []parcel.Custody{{To: d.peer.ID, From: keep.From, Seqs: []uint64{1}}}})
		pass(time.Second)
		for i := range 3 * most {
			r.relay.Take(m.peer.ID, &parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: m.peer.ID, Epoch: 1}, Seq: uint64(i + 1), Priority: parcel.Bulk, Body: []byte(fmt.Sprintf("%020d", i))})
			if i%500 == 499 {
				pass(time.Second)
			}
		}
		pass(time.Second)
		counts := r.status().Counts
		if counts.Taken <= 3*most {
			t.Fatalf("took %d: %+v", counts.Taken, counts)
		}
		n := marks(t, r)
		if n > 2*most || n <= most {
			t.Errorf("%d are remembered, want about %d", n, most)
		}
		r.relay.Take(m.peer.ID, keep)
		pass(time.Second)
		if c := r.status().Counts; c.Twice != counts.Twice+1 || c.Taken != counts.Taken {
			t.Errorf("anna's is met no more: %+v, before %+v", c, counts)
		}
	})
}

func marks(t *testing.T, n *node) (count int) {
	t.Helper()
	if err := n.db.View(t.Context(), func(r *store.Read) (err error) {
		count, err = r.Marks()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return count
}
