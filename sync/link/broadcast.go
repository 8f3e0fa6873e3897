// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallig/sync/outbox"
	"hallig/sync/parcel"
)

// Several boxes on one narrow channel that lack the same events get them in one transmission (Broadcaster). The message is written in a memory of its own
// that ends with it, so its first event costs some 300 bytes more than it does in a conversation; that pays from a few events on, so this is for
// batches: history, catching up. It is signed with the box key, so that none of the readers can speak for the sender, and encrypted under a key that each
// of them was given under the keys of its link; over open language it is signed only (envelope.go). Receipts are the usual ones: a broadcast that is
// lost is sent again to whoever lacks it.

const (
	castLeast = 3                      // events, before anything is tried
	castGain  = 1.3                    // the air that it has to save
	castWait  = 500 * time.Millisecond // for the others' lists of what they lack
	castHold  = 30 * time.Second       // for what is under way to them: what overtakes its ancestors is asked for twice
	castNames = 330                    // about what the names cost that a conversation has explained long ago
)

// casts is what this box needs to broadcast.
type casts struct {
	id, number uint32
	key        [32]byte
}

// farCasts is what two boxes know of each other's broadcasts.
type farCasts struct {
	told    uint32 // the far end has our key of that number
	telling bool
	keys    []castKey // the far end's, the newest last
	waited  time.Time

	underway int  // messages that were handed to a transport and of which nothing is known yet
	casts    int  // broadcasts likewise
	held     bool // items wait for that
}

// casting says whether a box can be spoken to together with others on a way's channel.
func (f *far) casting(w *way) bool {
	return !f.closed && f.active != nil && f.active.t == w.t && f.active.open == w.open && f.heard != 0 && f.agreed && f.starting == 0 &&
		f.session != nil && f.features&parcel.FeatureBroadcast != 0
}

// company is whom else a way's channel leads to.
func (f *far) company(w *way) (out []*far) {
	if _, ok := w.t.(Broadcaster); !ok || !w.slow() || !f.casting(w) {
		return nil
	}
	for _, g := range f.l.fars {
		if g != f && g.casting(w) {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *far) int { return strings.Compare(string(a.p.ID), string(b.p.ID)) })
	return out
}

// castable counts the events at the front that a broadcast could carry.
func castable(items []outbox.Item) (n int) {
	for n < len(items) && items[n].Event != nil && items[n].Skip == nil && (items[n].Priority > parcel.Immediate || items[n].For != "" && items[n].For != items[n].ID) {
		n++
	}
	return n
}

// awaitOthers says whether to wait until it is known what the others on the channel lack, before a batch goes to one of them.
func (f *far) awaitOthers(w *way) bool {
	c := &f.casts
	if c.casts > 0 {
		c.held = true
		return true // what follows would overtake it
	}
	others := f.company(w)
	if len(others) == 0 || castable(f.items) < castLeast {
		return false
	}
	reading, busy := false, c.underway > 0
	for _, g := range others {
		reading, busy = reading || g.reading || g.more && len(g.items) < fewItems, busy || g.casts.underway > 0 || g.casts.casts > 0
	}
	if !reading && !busy {
		c.waited = time.Time{}
		return false
	}
	wait := castWait
	if busy {
		wait = castHold
	}
	if c.waited.IsZero() {
		c.waited = time.Now()
	}
	left := wait - time.Since(c.waited)
	if left <= 0 {
		return false
	}
	if !c.held {
		c.held = true
		f.l.after(left, f.pump)
	}
	return true
}

// castPump serves boxes whose items wait for what is under way to another.
func (l *Link) castPump(than *far) {
	for _, g := range l.fars {
		if g != than && g.casts.held {
			g.casts.held = false
			g.pump()
		}
	}
	than.casts.held = false
}

// together sends the batch at the front of the items to several boxes at once, if others lack the same and it pays.
func (f *far) together(w *way, priority int, batch []outbox.Item) bool {
	batch = ofLog(batch[:castable(batch)], batch[0])
	if len(batch) < castLeast {
		return false
	}
	var group []*far
	own := batch
	for _, g := range f.company(w) {
		theirs := ofLog(g.items[:castable(g.items)], own[0])
		if both := common(own, theirs); both >= castLeast && 2*both >= len(own) {
			group, batch = append(group, g), append(batch[:len(batch):len(batch)], theirs...)
		}
	}
	if len(group) == 0 {
		return false
	}
	// What one of them lacks goes to all, so that nothing overtakes its ancestors.
	slices.SortFunc(batch, func(a, b outbox.Item) int { return cmp.Compare(a.Event.Log.Seq, b.Event.Log.Seq) })
	batch = slices.CompactFunc(batch, func(a, b outbox.Item) bool { return a.Event.Log == b.Event.Log })
	group = append(group, f)
	if !f.l.shareKey(w, group) {
		return false
	}
	addrs := make([]string, len(group))
	for i, g := range group {
		addrs[i] = g.active.addr
	}
	b := w.t.(Broadcaster)
	msg, took, err := f.l.writeCast(w, group, batch, b.Together(addrs)-120)
	if err != nil {
		f.l.log.Error("broadcast could not be written", "transport", w.t.Name(), "err", err)
		return false
	}
	if took < castLeast {
		return false
	}
	each := max(100, (len(msg)-castNames-96)/took) // what an event costs in a conversation
	alone := len(group) * (took*each + 30)
	if float64(alone) < castGain*float64(len(msg)+20*len(group)) {
		return false
	}
	f.l.sendCast(w, b, group, batch[:took], priority, addrs, msg)
	return true
}

// ofLog is what belongs to the same log as an item.
func ofLog(items []outbox.Item, as outbox.Item) (out []outbox.Item) {
	for _, it := range items {
		if as.Event != nil && it.Room == as.Room && it.Event.Log.Box == as.Event.Log.Box && it.Event.Log.Epoch == as.Event.Log.Epoch {
			out = append(out, it)
		}
	}
	return out
}

// common counts what two lists of one log share.
func common(a, b []outbox.Item) (n int) {
	for _, x := range a {
		if slices.ContainsFunc(b, func(y outbox.Item) bool { return x.Event.Log == y.Event.Log }) {
			n++
		}
	}
	return n
}

// shareKey makes sure that boxes have our key, and says whether all have.
func (l *Link) shareKey(w *way, group []*far) bool {
	if w.open {
		return true
	}
	if l.cast.id == 0 {
		l.cast.id = draw()
		_, _ = rand.Read(l.cast.key[:]) // never fails
	}
	all := true
	for _, g := range group {
		if g.casts.told == l.cast.id {
			continue
		}
		if all = false; g.casts.telling {
			continue
		}
		g.casts.telling = true
		id, session := l.cast.id, g.session
		g.enqueue(parcel.Priority, &parcel.EDU{Type: eduCast, Content: append(binary.BigEndian.AppendUint32(nil, id), l.cast.key[:]...)}, func(arrived bool) {
			if g.session != session {
				return
			}
			if g.casts.telling = false; arrived {
				g.casts.told = id
			}
		})
	}
	return all
}

// writeCast writes as much of a batch as fits into so many bytes.
func (l *Link) writeCast(w *way, group []*far, batch []outbox.Item, limit int) (msg []byte, took int, err error) {
	if limit < 400 {
		return nil, 0, nil
	}
	id, number := l.cast.id, l.cast.number+1
	if w.open {
		id = 0
	}
	s := l.codec.Session(number, id)
	model, two := true, true
	for _, g := range group {
		model, two = model && g.sameModel, two && g.features&parcel.FeatureVersion2 != 0
	}
	s.UseModel(model)
	s.UseVersion2(two)
	parcels := make([]parcel.Parcel, len(batch))
	for i, it := range batch {
		parcels[i] = it.Event
	}
	inner, took, _, err := s.Encode(limit, parcels...)
	if err != nil {
		return nil, 0, fmt.Errorf("write broadcast: %w", err)
	}
	body, err := sealCast(l.c.Key, castKey{id, l.cast.key}, number, inner)
	if err != nil {
		return nil, 0, err
	}
	l.cast.number = number // never twice under one key
	msg, _, _, err = l.codec.Bare().Encode(parcel.MaxMessage, &parcel.Broadcast{Key: id, Number: number, Body: body})
	return msg, took, err
}

// sendCast sends a broadcast and takes what it carries off everybody's list.
func (l *Link) sendCast(w *way, b Broadcaster, group []*far, batch []outbox.Item, priority int, addrs []string, msg []byte) {
	carried := map[parcel.LogRef]bool{}
	for _, it := range batch {
		carried[it.Event.Log] = true
	}
	forgets, by := map[string]int{}, map[string]*far{}
	for i, g := range group {
		by[addrs[i]], forgets[addrs[i]] = g, g.forgets
		g.casts.casts++
		g.casts.waited = time.Time{}
		var left []outbox.Item
		g.items = slices.DeleteFunc(g.items, func(it outbox.Item) bool {
			if it.Event == nil || it.Skip != nil || !carried[it.Event.Log] {
				return false
			}
			left = append(left, it)
			l.c.Observe(Event{What: "sent", Peer: g.p, Transport: w.t.Name(), Event: it.ID, Room: it.Room, Bytes: len(msg) / len(batch) / len(group)})
			return true
		})
		g.feed.Left(outbox.Places(nil).With(left), w.t.Name())
		g.watch()
	}
	l.log.Info("sent to several boxes at once", "transport", w.t.Name(), "boxes", len(group), "events", len(batch), "bytes", len(msg))
	b.Broadcast(addrs, priority, msg, func(addr string, err error) {
		l.post(func() {
			g := by[addr]
			if g == nil {
				return
			}
			if g.casts.casts--; g.closed {
				return
			}
			l.castPump(g)
			if err != nil && g.forgets == forgets[addr] {
				g.again() // whether it arrived is not known: all that is not kept goes again
			}
			g.pump()
		})
	})
	for _, g := range group {
		g.read(w)
	}
}

// castKey takes the key of a box's broadcasts.
func (f *far) castKey(w *way, b []byte) {
	if len(b) != 4+32 || w.open || binary.BigEndian.Uint32(b) == 0 {
		f.l.log.Warn("key of broadcasts refused", "peer", f.p.Server)
		return
	}
	k := castKey{id: binary.BigEndian.Uint32(b)}
	copy(k.key[:], b[4:])
	f.casts.keys = append(slices.DeleteFunc(f.casts.keys, func(o castKey) bool { return o.id == k.id }), k)
	if n := len(f.casts.keys); n > 2 {
		f.casts.keys = f.casts.keys[n-2:]
	}
}

// overheard takes a broadcast. Nothing has proved yet whose it is.
func (l *Link) overheard(t Transport, from string, msg []byte) {
	w := l.ways[wayName{t.Name(), from}]
	if w == nil || w.far == nil || !w.proved || w.far.closed {
		return
	}
	f := w.far
	parcels, err := l.codec.Bare().Decode(msg)
	if err != nil || len(parcels) != 1 {
		l.log.Warn("broadcast could not be read", "transport", t.Name(), "bytes", len(msg), "err", err)
		return
	}
	b, ok := parcels[0].(*parcel.Broadcast)
	if !ok || (b.Key == 0) != w.open {
		l.log.Warn("what was sent to all is no broadcast of this channel; it is dropped", "transport", t.Name(), "kind", parcels[0].Kind())
		return
	}
	inner, err := openCast(ed25519.PublicKey(f.p.BoxKey), f.casts.keys, b)
	if err != nil {
		l.log.Warn("broadcast refused", "peer", f.p.Server, "transport", t.Name(), "err", err)
		return
	}
	l.c.Observe(Event{What: "arrived", Peer: f.p, Transport: t.Name(), Bytes: len(msg)})
	said, err := l.codec.Session(b.Number, b.Key).Decode(inner)
	if err != nil {
		l.log.Warn("broadcast could not be read", "peer", f.p.Server, "transport", t.Name(), "err", err)
	}
	for _, p := range said {
		switch p.(type) {
		case *parcel.Event, *parcel.Broken:
			f.receive(w, p)
		}
	}
}
