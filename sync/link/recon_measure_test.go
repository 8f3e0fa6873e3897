// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
)

// meter counts what goes over a wire by the kind of parcel: on[from][kind] are bytes, heads included.
type meter struct {
	on    map[string]map[parcel.Kind]int
	all   int
	first time.Time // when the first event left
}

func (p *meter) listen(w *wire) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*p = meter{on: map[string]map[parcel.Kind]int{}}
	w.fate = func(from, _ string, msg []byte) error {
		p.all += len(msg)
		if p.on[from] == nil {
			p.on[from] = map[parcel.Kind]int{}
		}
		for b := msg[1:]; len(b) > 0; {
			kind, size := parcel.Kind(b[0]>>4), len(b)
			if b[0]&8 == 0 {
				n, w := binary.Uvarint(b[1:])
				size = 1 + w + int(n)
			}
			p.on[from][kind] += size
			if kind == parcel.KindEvent && p.first.IsZero() {
				p.first = time.Now()
			}
			b = b[size:]
		}
		return nil
	}
}

func (p *meter) of(kind parcel.Kind) (n int) {
	for _, kinds := range p.on {
		n += kinds[kind]
	}
	return n
}

// TestReconBytes measures what it costs to find out what two islands of four boxes lack of each other: in 20 rooms that
// all eight are in, each box has written while they were apart. `make bench` has them write 10,000 events; the
// greeting's size hardly depends on it. It reads the lines that begin with "measured".
func TestReconBytes(t *testing.T) {
	if os.Getenv("HALLIG_MEASURE") == "" {
		t.Skip("takes minutes; make bench runs it")
	}
	each := 63 // in 20 rooms by 8 boxes: 10,080
	if os.Getenv("HALLIG_MEASURE") == "short" {
		each = 2
	}
	run(t, func(t *testing.T, w *world) {
		west, east := newWire("west", 100e6, time.Millisecond), newWire("east", 100e6, time.Millisecond)
		const delay = 500 * time.Millisecond
		bridge := newWire("bridge", 100e6, delay)
		for i, name := range []string{"anna", "bert", "carl", "dora", "emil", "fred", "gina", "hans"} {
			x := w.box(name)
			x.on([]*wire{west, east}[i/4])
			for _, o := range w.boxes[i/4*4 : i] {
				pair(x, o)
			}
		}
		a, e := w.boxes[0], w.boxes[4]
		pair(a, e)
		a.on(bridge)
		e.on(bridge)
		w.start()
		pass(time.Second)
		var rooms []event.RoomID
		for range 20 {
			id := a.create("u")
			rooms = append(rooms, id)
			for i, x := range w.boxes[1:] {
				through := a
				if i >= 4 {
					through = e
				}
				x.join(through, id, "u")
			}
		}
		pass(2 * time.Minute)
		for _, id := range rooms { // the rooms are in use: where each one's time in them began is told
			for _, x := range w.boxes {
				x.text(id, "u", "hello")
			}
		}
		pass(2 * time.Minute)
		bridge.setCut(true)
		pass(time.Minute)
		for i := range each {
			for _, id := range rooms {
				for _, x := range w.boxes {
					x.text(id, "u", fmt.Sprint("while apart ", i))
				}
			}
			pass(5 * time.Second)
		}
		var p meter
		p.listen(bridge)
		met := time.Now()
		bridge.setCut(false)
		pass(10 * time.Minute)
		for _, id := range rooms {
			for _, x := range []*box{a, e, w.boxes[3], w.boxes[7]} {
				if got := len(x.timeline(id)); got != 8*each+8 {
					t.Fatalf("%s shows %d messages, want %d", x.name, got, 8*each+8)
				}
			}
		}
		events, receipts := p.of(parcel.KindEvent), p.of(parcel.KindKept)
		rtt := float64(p.first.Sub(met)) / float64(2*delay)
		seen := p.of(0) // kinds of two bytes: how far events have got, for those who wrote them
		other := p.all - events - receipts - seen
		t.Logf("by kind: %v", p.on)
		n := 20 * 8 * each
		fmt.Printf("measured recon_rtt %.2f RTT round trips of 1 s from the first sign of each other to the first event that leaves\n", rtt)
		fmt.Printf("measured recon_bytes_10000 %d B all that went over in both directions but events, the receipts for them (%d bytes) and word on how far they have got (%d bytes): greetings, vectors, pulls, names, wants; %d events, %d of them passed on for other boxes, 20 rooms, 8 boxes\n", other, receipts, seen, n, n*3/4)
		if rtt > 2 {
			t.Errorf("%.2f round trips before the first event, want at most 2", rtt)
		}
	})
}

// TestSketchBytes measures a sketch between real boxes: of 48,000 events of a room at the same places of the logs, and
// 5,000 more at each box where the other has something else.
func TestSketchBytes(t *testing.T) {
	scale := 10
	if os.Getenv("HALLIG_MEASURE") != "" {
		scale = 1
	}
	run(t, func(t *testing.T, w *world) {
		net := newWire("p2p", 1e6, 100*time.Millisecond)
		a, b, id := two(w, net)
		pass(time.Minute)
		epoch := a.link.out.Epoch()
		common, apart := 48_000/scale, 5_000/scale
		put := func(x *box, what string, from, n int) (nids []int64) {
			for at := 0; at < n; at += 1000 {
				x.do(func(tx *store.Tx) error {
					for i := at; i < min(at+1000, n); i++ {
						nid := x.db.NextEvent()
						nids = append(nids, nid)
						eid := event.ID(fmt.Sprintf("$%s-%d:old.test", what, i))
						if err := tx.InsertEvent(&store.Event{NID: nid, ID: eid, Room: id, Type: "m.room.message", Sender: "@u:old.test", JSON: []byte(`{}`)}, false); err != nil {
							return err
						}
						if x == a {
							if _, err := tx.NumberEvent(id, nid); err != nil {
								return err
							}
							continue
						}
						if _, err := tx.MarkEntry(id, string(a.peer.ID), epoch, uint64(from+i), 0, nid); err != nil {
							return err
						}
					}
					return nil
				})
			}
			return nids
		}
		from := int(a.logOf(id, a).Top) + 1
		for _, x := range []*box{a, b} {
			put(x, "both", from, common)
			put(x, x.name, from+common, apart)
		}
		var p meter
		p.listen(net)
		a.link.post(func() {
			f := a.link.fars[b.peer.ID]
			f.audit.due = true
			f.auditNext()
		})
		until(t, time.Hour, "the difference", func() bool { return len(b.observed("differs")) > 0 })
		pass(time.Second)
		t.Logf("%s; by kind: %v", b.observed("differs"), p.on)
		if !strings.HasPrefix(b.observed("differs")[0], fmt.Sprintf("%d here, %d there", apart, apart)) {
			t.Errorf("found %s, want %d and %d", b.observed("differs"), apart, apart)
		}
		per := float64(p.on[string(a.peer.ID)][parcel.KindSketch]) / float64(2*apart)
		fmt.Printf("measured recon_bytes_per_difference %.2f B bytes that the giver sends, question and parts too many included, by difference; %d differences, %d events in common; the far end names what it lacks with 8 more\n", per, 2*apart, common)
		if most := 18.5 + float64(scale-1)/6; per > most { // 1.37 symbols for each of 10,000; of 1,000 it is 1.41; and chance has its part in both
			t.Errorf("%.2f bytes for each of %d differences, want at most %.1f", per, 2*apart, most)
		}
	})
}
