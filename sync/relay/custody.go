// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"bytes"
	"context"
	"errors"
	"time"

	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// handed is what a neighbour handed over.
type handed struct {
	from    peer.ID
	sealed  *parcel.Sealed
	forward *parcel.Forward
	done    func(verdict) // of what came another way than over a link: a stick
}

// Bounds of what waits to be worked on, in number and in bytes; what is beyond them is not answered for and comes again. No giver has more than what is left for
// the others, so that there is always room for one more.
const (
	maxCame      = 4096
	maxCameBytes = 4 << 20
)

// waiting is how much of one giver waits to be worked on.
type waiting struct{ n, bytes int }

// size is about how much memory something that was handed over holds.
func (h handed) size() int {
	if h.sealed != nil {
		return overhead + len(h.sealed.Body)
	}
	n := overhead
	for _, list := range [][]parcel.Custody{h.forward.Taken, h.forward.Seen, h.forward.Full, h.forward.Done} {
		for _, c := range list {
			n += 80 + 8*len(c.Seqs)
		}
	}
	return n + 24*len(h.forward.Reach)
}

// Take is told by link what a neighbour handed over: a *parcel.Sealed or *parcel.Forward.
func (r *Relay) Take(from peer.ID, p parcel.Parcel) {
	h := handed{from: from}
	switch p := p.(type) {
	case *parcel.Sealed:
		if len(p.Body) > maxBody {
			r.count1(func(c *Counts) { c.Refused++ })
			return
		}
		own := *p
		own.Body = bytes.Clone(p.Body) // it may be a small part of something large
		h.sealed = &own
	case *parcel.Forward:
		h.forward = p
	default:
		return
	}
	r.mu.Lock()
	size, by := h.size(), r.cameBy[from]
	if r.cameBytes+by.bytes+size <= maxCameBytes && len(r.came)+by.n < maxCame {
		r.came, r.cameBytes = append(r.came, h), r.cameBytes+size
		if r.cameBy == nil {
			r.cameBy = map[peer.ID]waiting{}
		}
		r.cameBy[from] = waiting{by.n + 1, by.bytes + size}
	}
	r.mu.Unlock()
	r.poke()
}

// verdict is what becomes of a parcel that was handed over.
type verdict int

const (
	noVerdict verdict = iota // not answered for: it may come again
	taken
	seenBefore
	noRoom
)

// carried counts what is carried for others.
type carried struct {
	total  int64
	count  int
	writer map[string]int64 // by writerBy
	giver  map[string]int64
	dest   map[string]int
	stale  bool // something was dropped that was not taken off
	asOf   time.Time
}

func (c *carried) load(sums []store.CarriedFor) {
	*c = carried{asOf: time.Now(), writer: map[string]int64{}, giver: map[string]int64{}, dest: map[string]int{}}
	for _, s := range sums {
		c.add(s.Dest, s.Source, s.Giver, s.Count, s.Bytes+int64(s.Count)*overhead)
	}
}

func (c *carried) add(dest, source, giver []byte, count int, size int64) {
	c.total += size
	c.count += count
	c.writer[writerBy(source, giver)] += size
	c.giver[string(giver)] += size
	if c.dest[string(dest)] += count; c.dest[string(dest)] <= 0 {
		delete(c.dest, string(dest))
	}
}

// writerBy names a writer as far as one giver brings what bears its name: nobody but the reader can tell who wrote it, so it takes no room from what
// others bring of that writer.
func writerBy(source, giver []byte) string { return string(giver) + string(source) }

// keysOf gives the keys of a parcel's reader and writer.
func keysOf(p *parcel.Sealed) (dest, source []byte, err error) {
	to, err := p.To.Key()
	if err != nil {
		return nil, nil, err
	}
	from, err := p.From.Box.Key()
	return to, from, err
}

// take works on what neighbours handed over: one transaction for all of it.
func (r *Relay) take(ctx context.Context, came []handed) {
	now := time.Now()
	type job struct {
		handed
		verdict      verdict
		dest, source []byte
	}
	var jobs []*job
	messages := map[*job][]byte{}
	r.mu.Lock()
	for _, h := range came {
		if h.forward != nil {
			r.heard(h.from, h.forward, now)
			continue
		}
		j := &job{handed: h}
		var err error
		if j.dest, j.source, err = keysOf(h.sealed); err != nil || len(h.sealed.Body) < peer.SealOverhead+2 || len(h.sealed.Body) > maxBody || h.sealed.Seq == 0 || h.sealed.Seq >= 1<<62 {
			r.count.Refused++
			continue
		}
		jobs = append(jobs, j)
	}
	r.mu.Unlock()
	err := r.c.DB.Do(ctx, func(tx *store.Tx) error {
		for _, j := range jobs {
			var err error
			if j.sealed.To == r.self {
				j.verdict, messages[j], err = r.takeOwn(tx, j.sealed, j.source, j.from, now)
			} else {
				j.verdict, err = r.takeForeign(tx, j.sealed, j.dest, j.source, j.from)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		var full *store.Full
		switch {
		case errors.As(err, &full):
			for _, j := range jobs {
				j.verdict = noRoom
			}
		case ctx.Err() == nil:
			r.log.Error("parcels could not be taken; they will come again", "parcels", len(jobs), "err", err)
			jobs = nil
		default:
			return
		}
		r.forgetHeard()
		clear(messages)
		r.stale()
	}
	r.mu.Lock()
	for _, j := range jobs {
		r.judge(j.from, j.sealed, j.verdict, now)
		if message := messages[j]; message != nil && r.read != nil {
			r.count.Read++
			read, addr := r.read, string(j.sealed.From.Box)
			r.then = append(r.then, func() { read(addr, message) })
		}
		if j.done != nil {
			done, v := j.done, j.verdict
			r.then = append(r.then, func() { done(v) })
		}
	}
	r.mu.Unlock()
}

// stale says that what is carried must be counted anew.
func (r *Relay) stale() { r.count1(func(*Counts) { r.carry.stale = true }) }

// forgetHeard drops what memory holds of numbers met: the store has the truth.
func (r *Relay) forgetHeard() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, b := range r.boxes {
		clear(b.heard)
	}
}

// takeOwn reads a parcel for this box.
func (r *Relay) takeOwn(tx *store.Tx, p *parcel.Sealed, source []byte, giver peer.ID, now time.Time) (verdict, []byte, error) {
	stored, err := tx.ReadOf(source, p.From.Epoch)
	if err != nil {
		return noVerdict, nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b, err := r.mailbox(p.From.Box); err == nil && b.heard[p.From.Epoch] == nil {
		for len(b.heard) >= maxLives {
			for epoch := range b.heard {
				if epoch != b.newest || len(b.heard) == 1 {
					delete(b.heard, epoch)
					break
				}
			}
		}
		b.heard[p.From.Epoch] = &hearing{met: storedSpans(stored), parts: map[uint64]*assembly{}}
	}
	message, complete, ok := r.open(p, now)
	if !ok || len(complete) == 0 {
		r.sparesCopies(giver, p)
		return taken, nil, nil
	}
	h := r.boxes[p.From.Box].heard[p.From.Epoch]
	for _, seq := range complete {
		h.met.add(seq)
	}
	h.met.bound()
	return taken, message, tx.SetRead(source, p.From.Epoch, r.runTime(), h.met.bytes(), 64)
}

// sparesCopies tells a neighbour that brings what was read before up to where everything of that origin was: it need not bring the rest.
func (r *Relay) sparesCopies(giver peer.ID, p *parcel.Sealed) {
	b, n := r.boxes[p.From.Box], r.near[giver]
	if b == nil || n == nil || b.heard[p.From.Epoch] == nil {
		return
	}
	if upTo := b.heard[p.From.Epoch].met.upTo(); upTo >= p.Seq {
		n.say.Done = setDone(n.say.Done, parcel.Custody{To: r.self, From: p.From, Seqs: []uint64{upTo}})
	}
}

// takeForeign takes a parcel for another box.
func (r *Relay) takeForeign(tx *store.Tx, p *parcel.Sealed, dest, source []byte, from peer.ID) (verdict, error) {
	if p.From.Box == r.self || p.Hops >= parcel.MaxHops {
		r.count1(func(c *Counts) { c.Circled++ })
		return seenBefore, nil
	}
	if _, paired := r.c.Roster().ByID(from); !paired { // a stick of somebody's
		r.count1(func(c *Counts) { c.Strange++ })
		return noRoom, nil
	}
	giver, err := from.Key()
	if err != nil {
		giver = source // a stick has no key
	}
	mark := r.mark(dest, source, p)
	row, err := tx.Carries(mark)
	if err != nil {
		return noVerdict, err
	}
	old, met, err := tx.MetMark(mark)
	if err != nil {
		return noVerdict, err
	}
	is := store.Met{Giver: r.giverMark(giver), Hops: p.Hops + 1, At: r.runTime()}
	if life, ok := parcel.Lasts(p.Life); ok {
		is.Until = is.At + max(int64(life/time.Second), 1)
	}
	size := int64(len(p.Body)) + overhead
	room := r.room(source, giver, size)
	if (met || row > 0) && !(met && room && better(is, old)) {
		r.count1(func(c *Counts) { c.Twice++ })
		if row > 0 {
			return taken, nil
		}
		return seenBefore, nil
	}
	if !room {
		r.count1(func(c *Counts) { c.Full++ })
		return noRoom, nil
	}
	if met {
		is = best(is, old)
	}
	if row > 0 { // it goes on under another number, so that no neighbour's word on it as it was counts for it as it is
		if err := tx.DropCarried(row); err != nil {
			return noVerdict, err
		}
		r.replaced(row)
	}
	if p.From.Box == from { // what the writer wrote in an earlier life it writes anew in this one
		if err := tx.DropCarriedBefore(dest, source, p.From.Epoch); err != nil {
			return noVerdict, err
		}
		r.stale()
	}
	if _, _, err := tx.Carry(store.Carried{Dest: dest, Source: source, Epoch: p.From.Epoch, Seq: p.Seq, Giver: giver, Priority: p.Priority,
		Hops: is.Hops, Until: is.Until, At: is.At, Body: p.Body, Mark: mark}); err != nil {
		return noVerdict, err
	}
	r.mu.Lock()
	r.carry.add(dest, source, giver, 1, size)
	r.count.Taken++
	r.mu.Unlock()
	return taken, r.noteMet(tx, mark, is)
}

// replaced takes back what is ready to be given of a parcel that was carried and has another number now.
func (r *Relay) replaced(row int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.carry.stale = true
	for _, n := range r.near {
		n.drop(func(o *offer) bool { return o.row == row })
	}
}

func (r *Relay) count1(f func(*Counts)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.count)
}

func (r *Relay) room(source, giver []byte, size int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.c.Limits
	return r.carry.total+size <= l.Total && r.carry.writer[writerBy(source, giver)]+size <= l.Writer && r.carry.giver[string(giver)]+size <= l.Giver
}

// judge tells a neighbour what became of a parcel.
func (r *Relay) judge(from peer.ID, p *parcel.Sealed, v verdict, now time.Time) {
	n := r.near[from]
	if n == nil {
		return
	}
	switch v {
	case taken:
		n.say.Taken = name(n.say.Taken, p)
	case seenBefore:
		n.say.Seen = name(n.say.Seen, p)
	case noRoom:
		n.say.Full = name(n.say.Full, p)
	default:
		return
	}
	n.saySoon(now, true)
	if p.To != r.self {
		for _, o := range r.near {
			o.hungry = true
		}
	}
}

// Bounds of what is kept for one neighbour: names that it is to be told, of how many origins and of how many parcels of one, and words that
// it has called something over. What is beyond them is not answered for and comes again; what is not called over expires.
const (
	maxNamed = 1024
	maxOver  = 256
)

// name adds a parcel's name to a list.
func name(list []parcel.Custody, p *parcel.Sealed) []parcel.Custody {
	for i, c := range list {
		if c.To != p.To || c.From != p.From {
			continue
		}
		at := len(c.Seqs)
		for at > 0 && c.Seqs[at-1] > p.Seq {
			at--
		}
		if at > 0 && c.Seqs[at-1] == p.Seq || len(c.Seqs) >= maxNamed {
			return list
		}
		seqs := append(append(append([]uint64(nil), c.Seqs[:at]...), p.Seq), c.Seqs[at:]...)
		list[i].Seqs = seqs
		return list
	}
	if len(list) >= maxNamed {
		return list
	}
	return append(list, parcel.Custody{To: p.To, From: p.From, Seqs: []uint64{p.Seq}})
}

// heard takes what a neighbour says about parcels and ways.
func (r *Relay) heard(from peer.ID, f *parcel.Forward, now time.Time) {
	n := r.near[from]
	if n == nil {
		return
	}
	if len(f.Reach) > 0 {
		r.count.Overlong += r.routes.hear(from, f.Reach, now)
		r.changed(now)
	}
	for v, list := range map[verdict][]parcel.Custody{taken: f.Taken, seenBefore: f.Seen, noRoom: f.Full} {
		for _, c := range list {
			for _, seq := range c.Seqs {
				r.settled(n, parcelName{c.To, c.From, seq}, v, now)
			}
		}
	}
	for _, c := range f.Done {
		if len(c.Seqs) == 1 && len(n.over) < maxOver && (c.From.Box == from || c.To == from) { // first-hand only: nobody else may end what others carry
			n.over = append(n.over, c)
			n.hungry = true
		} else {
			r.count.Refused++
		}
	}
}

// dropOver forgets what its writer or reader has called over.
func (r *Relay) dropOver(ctx context.Context, over []parcel.Custody) {
	err := r.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		for _, c := range over {
			dest, err := c.To.Key()
			if err != nil {
				continue
			}
			source, err := c.From.Box.Key()
			if err != nil {
				continue
			}
			if err := tx.DropCarriedUpTo(dest, source, c.From.Epoch, c.Seqs[0]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		r.log.Warn("parcels that are over could not be dropped", "err", err)
	}
	r.stale()
}
