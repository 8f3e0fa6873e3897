// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
)

// reopen opens all links, starts all boxes, and brings everybody back into all rooms.
func (l *lab) reopen() {
	for _, b := range l.boxes {
		b.now = nil
		if l.down[b] {
			b.start()
			l.down[b] = false
		}
	}
	for _, k := range l.links {
		k.cut = false
		k.set(false)
	}
	pass(10 * time.Minute)
	for range 20 {
		for _, r := range l.rooms {
			for _, b := range l.boxes {
				if !l.in(b, r) {
					l.rejoin(b, r)
				}
			}
		}
		pass(10 * time.Minute)
	}
}

// within is how long it may take until all is everywhere: the slowest link carries everything, and a day for what only
// the daily comparison finds.
const within = 72 * time.Hour

func (l *lab) converge() labCount {
	began := time.Now()
	var wrong []string
	var c labCount
	for {
		c, wrong = l.compare()
		if len(wrong) == 0 || time.Since(began) > within {
			break
		}
		for _, r := range l.rooms {
			for _, b := range l.boxes {
				if !l.in(b, r) { // a person would see it, too
					l.rejoin(b, r)
				}
			}
		}
		pass(time.Hour)
	}
	l.t.Logf("%d boxes, %d ways, %v; converged %v after the end: %v", len(l.boxes), len(l.links), l.count, time.Since(began), c)
	for _, s := range wrong[:min(len(wrong), mostTold)] {
		l.t.Error(s)
	}
	if len(wrong) > 0 {
		l.t.Errorf("%d things are wrong", len(wrong))
		l.keep()
		l.w.quiet.Set(slog.LevelDebug) // what do they say to each other about it?
		pass(26 * time.Hour)
	}
	return c
}

// keep leaves the stores for people who look for a fault, in the folder of HALLIG_LAB_KEEP.
func (l *lab) keep() {
	dir := os.Getenv("HALLIG_LAB_KEEP")
	if dir == "" {
		return
	}
	for _, b := range l.boxes {
		if err := os.CopyFS(filepath.Join(dir, strconv.FormatInt(time.Now().UnixNano(), 36), b.name), os.DirFS(b.dir)); err != nil {
			l.t.Error(err)
		}
	}
}

// mostTold is how many faults are told one by one.
const mostTold = 12

// compare says what is not as it should be.
func (l *lab) compare() (c labCount, wrong []string) {
	c.events = len(l.said) + len(l.mails)
	hidden := 0
	bad := func(format string, a ...any) {
		if len(wrong) < mostTold {
			for i := range a {
				if late, ok := a[i].(func() string); ok {
					a[i] = late()
				}
			}
			format = fmt.Sprintf(format, a...)
		}
		wrong = append(wrong, format)
	}
	for _, r := range l.rooms {
		shown := map[*box]map[event.ID]int{}
		for _, b := range l.boxes {
			shown[b] = map[event.ID]int{}
			for _, id := range b.timeline(r.id) {
				shown[b][id]++
			}
			for id, n := range shown[b] {
				if n > 1 {
					c.doubled++
					bad("%s shows %s %d times", b.name, id, n)
				}
			}
		}
		for _, e := range l.said {
			if e.room != r {
				continue
			}
			for _, b := range l.boxes {
				if e.must[b] && shown[b][e.id] == 0 && l.outlawed(b, e.id) {
					hidden++
					continue
				}
				if e.must[b] && shown[b][e.id] == 0 {
					c.lost++
					bad("%s lacks %s of %s, written at %v; %s", b.name, e.id, e.by.name, e.at.Sub(l.began), func() string { return l.who(e.id) + l.trail(r, e.id) })
					for _, id := range l.roots(e.id, e.by, b) {
						if id != e.id {
							bad("\tand what came before: %s", l.who(id))
						}
					}
				}
			}
		}
		l.compareState(r, bad)
	}
	for _, m := range l.mails {
		if !m.exempt && !l.life[m.to].ever[m.id] {
			c.lost++
			bad("%s lacks message %s between devices of %s, written at %v; %s", m.to.name, m.id, m.from.name, m.at.Sub(l.began), l.queue(m.from, m.to))
		}
	}
	l.count["hidden by law"] = hidden
	return c, wrong
}

// outlawed says that a box has an event and does not show it, because it came when the state that the box had resolved no longer let its
// author write: a fight over power was won by who put them out. That is the law of rooms (soft failure), and each server applies it by itself.
func (l *lab) outlawed(b *box, id event.ID) (yes bool) {
	err := b.db.View(l.t.Context(), func(r *store.Read) error {
		nid, flags, err := r.EventFlags(id)
		yes = nid != 0 && flags&store.SoftFailed != 0
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return yes
}

// holds says whether a box has an event; a redaction from before a restore may be gone with what nobody else had.
func (l *lab) holds(b *box, id event.ID) bool {
	p, _, err := b.rooms.Event(l.t.Context(), id)
	return err == nil && p != nil
}

func (l *lab) compareState(r *labRoom, bad func(string, ...any)) {
	first, err := l.boxes[0].rooms.State(l.t.Context(), r.id)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, b := range l.boxes[1:] {
		s, err := b.rooms.State(l.t.Context(), r.id)
		if err != nil {
			l.t.Fatal(err)
		}
		if !l.in(b, r) {
			bad("%s is not in %s", b.name, r.id)
		}
		if len(s) != len(first) {
			bad("%s: %d state events, %s has %d", b.name, len(s), l.boxes[0].name, len(first))
		}
		for k, id := range first {
			if s[k] != id {
				bad("state %v of %s: %s has %s, %s has %s%s", k, r.id, l.boxes[0].name, l.who(id), b.name, l.who(s[k]), func() string { return l.trail(r, id) + l.trail(r, s[k]) })
			}
		}
	}
	for _, e := range l.said {
		if e.room != r || e.redact == "" {
			continue
		}
		for _, b := range l.boxes {
			if l.outlawed(b, e.redact) || !l.holds(b, e.redact) {
				continue
			}
			if p, _, err := b.rooms.Event(l.t.Context(), e.id); err == nil && p != nil && len(p.Content) > 2 {
				bad("%s still shows what %s has taken back: %s", b.name, e.by.name, l.who(e.id))
			}
		}
	}
}

// who tells where an event is, for people who look for a fault.
func (l *lab) who(id event.ID) string {
	out := string(id)[:9]
	for _, b := range l.boxes {
		err := b.db.View(l.t.Context(), func(r *store.Read) error {
			e, err := r.Event(id)
			if e == nil {
				out += " " + b.name[:1] + ":-"
				return err
			}
			n, err := r.Places(e.Room, e.NID)
			out += fmt.Sprintf(" %s:%s by %s flags %d places %d depth %d", b.name[:1], e.Type, e.Sender, e.Flags, n, e.Depth)
			return err
		})
		if err != nil {
			out += err.Error()
		}
	}
	return out
}

// trail tells how far an event has come: which places of which logs it has at each box, how far the box is in those logs, and since when others are told of the room.
func (l *lab) trail(r *labRoom, id event.ID) (out string) {
	for _, b := range l.boxes {
		err := b.db.View(l.t.Context(), func(v *store.Read) error {
			nid, err := v.EventNID(id)
			if err != nil {
				return err
			}
			out += fmt.Sprintf("\n\t%s at %s as %d", id[:9], b.name, nid)
			logs, err := v.Logs(r.id)
			if err != nil {
				return err
			}
			for _, k := range logs {
				at, err := v.PlaceOf(k.N, nid)
				if err != nil {
					return err
				}
				kept, err := v.KeptBy(k.N)
				if err != nil {
					return err
				}
				whose, named := k.Box, ""
				for _, o := range l.boxes {
					if string(o.peer.ID) == k.Box {
						whose = o.name[:1]
					}
					if n, ok := kept[string(o.peer.ID)]; ok {
						named += fmt.Sprintf(" %s:%d", o.name[:1], n)
					}
				}
				out += fmt.Sprintf("; log %s/%x top %d place %d kept by%s, holes", whose, k.Epoch, k.Top, at, named)
				was := uint64(0)
				if err := v.EachPlace(k.N, 1<<40, func(seq uint64, n int64, _ event.ID) error {
					if seq > was+1 || n == 0 {
						out += fmt.Sprintf(" %d-%d", was+1, seq)
					}
					was = seq
					return nil
				}); err != nil {
					return err
				}
			}
			for _, o := range l.boxes {
				spans, err := v.Spans(o.name, r.id)
				if err != nil {
					return err
				}
				out += fmt.Sprintf("; %s due %v", o.name[:1], spans)
			}
			return nil
		})
		if err != nil {
			out += err.Error()
		}
	}
	return out
}

// roots are the oldest ancestors of an event that a box lacks, as another box knows them.
func (l *lab) roots(id event.ID, from, at *box) (out []event.ID) {
	seen := map[event.ID]bool{id: true}
	for todo := []event.ID{id}; len(todo) > 0; todo = todo[1:] {
		p, _, err := from.rooms.Event(l.t.Context(), todo[0])
		if err != nil || p == nil {
			out = append(out, todo[0])
			continue
		}
		root := true
		for _, up := range append(append([]event.ID{}, p.Prev...), p.Auth...) {
			if l.holds(at, up) {
				continue
			}
			root = false
			if !seen[up] {
				seen[up] = true
				todo = append(todo, up)
			}
		}
		if root {
			out = append(out, todo[0])
		}
	}
	return out
}

// queue tells how far messages between the devices of two boxes are.
func (l *lab) queue(from, to *box) (out string) {
	err := from.db.View(l.t.Context(), func(r *store.Read) error {
		es, err := r.PendingEDUs(to.name, 0, 20)
		for _, e := range es {
			out += fmt.Sprintf("queued %d %s ", e.Seq, e.Body)
		}
		return err
	})
	if err != nil {
		return err.Error()
	}
	err = to.db.View(l.t.Context(), func(r *store.Read) error {
		return r.EDUEpochs(string(from.peer.ID), func(epoch uint32, kept uint64) {
			out += fmt.Sprintf("kept %d of epoch %x, now %x ", kept, epoch, from.link.out.Epoch())
		})
	})
	if err != nil {
		return err.Error()
	}
	told := make(chan string, 1)
	from.link.post(func() {
		f := from.link.fars[to.peer.ID]
		s := fmt.Sprintf("heard %x due %v busy %v read %d", f.heard, f.edusDue, f.eduBusy, len(f.edus))
		if w := f.active; w != nil {
			s += fmt.Sprintf(" by %s free %d", w.t.Name(), w.t.Free(w.addr, parcel.Priority))
			if w.mail != nil {
				waiting, at, near := w.mail.Outlook(w.addr)
				s += fmt.Sprint(" outlook ", waiting, " ", at, " ", near)
			}
		}
		told <- s
	})
	out += <-told
	for _, b := range l.boxes {
		st, err := b.relay.Status(l.t.Context())
		out += fmt.Sprintf("\n\t%s %+v %v", b.name, st, err)
	}
	return out
}
