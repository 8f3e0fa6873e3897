// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

// This file has letters travel by stick. A box that does not reach its hub makes, when a stick is there, letters of all that servers which it does not reach either are owed, and keeps them whole. From then on they are out as if they
// were with the hub, and go onto each stick as they are, under the ids that they have, until the hub says that they are through: a stick that is lost costs time, and one that comes twice is known by series and place. When the hub comes
// in reach it gets them straight, as they are.

// packing is one time at which letters are packed.
type packing struct {
	epoch string // of the hub's memory
	room  atomic.Int64

	mu      sync.Mutex
	waiting map[string]bool // servers that have not been asked yet
	done    chan struct{}   // closed when there are none
}

// over says that a server's letters are packed. On nil nothing happens.
func (p *packing) over(server string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[server] {
		delete(p.waiting, server)
		if len(p.waiting) == 0 {
			close(p.done)
		}
	}
}

// isFor says whether a server's letters are to be packed: it does not take what it is sent, has not said a word since the start, or gets letters only.
func (p *packing) isFor(d *dest) bool {
	return p != nil && !d.refusing && (d.failing.Load() || !d.met || d.posts())
}

const packAgain = 500 * time.Millisecond

// Pack makes letters, for a hub with the memory of that epoch, of all that servers are owed that are out of reach, of room bytes together at most or a little more. Those that are packed stay so: Packed gives them. It returns when all
// servers have been seen to, or ctx ends; late says how many were not.
func (s *Sender) Pack(ctx context.Context, epoch string, room int64) (late int, err error) {
	if !s.bagging.TryLock() {
		return 0, fmt.Errorf("letters are being packed already")
	}
	defer s.bagging.Unlock()
	s.looked(ctx) // a word that was written a moment ago goes along
	p := &packing{epoch: epoch, waiting: map[string]bool{}, done: make(chan struct{})}
	p.room.Store(room)
	s.mu.Lock()
	dests := make([]*dest, 0, len(s.dests))
	for name, d := range s.dests {
		if s.speaksTo(name) {
			p.waiting[name] = true
			dests = append(dests, d)
		}
	}
	s.mu.Unlock()
	if len(dests) == 0 {
		return 0, nil
	}
	s.packing.Store(p)
	defer s.packing.Store(nil)
	tick := time.NewTicker(packAgain)
	defer tick.Stop()
	for {
		for _, d := range dests {
			d.nudge()
		}
		select {
		case <-p.done:
			return 0, nil
		case <-tick.C:
		case <-ctx.Done():
			p.mu.Lock()
			defer p.mu.Unlock()
			return len(p.waiting), nil
		}
	}
}

// nudge has a server's goroutine look round; a request that hangs is given up.
func (d *dest) nudge() {
	d.mu.Lock()
	if d.abort != nil && time.Since(d.began) > hangs {
		d.abort()
	}
	d.mu.Unlock()
	poke(d.wake)
}

// Packed gives the letters that travel by stick, as Letter.Append made them, the oldest first, until do fails.
func (s *Sender) Packed(ctx context.Context, do func(raw []byte) error) error {
	for after := int64(0); ; {
		var n int64
		var raw []byte
		err := s.c.DB.View(ctx, func(r *store.Read) (err error) {
			n, raw, err = r.BaggedAfter(after)
			return err
		})
		if err != nil || n == 0 {
			return err
		}
		if err := do(raw); err != nil {
			return err
		}
		after = n
	}
}

// Out lists the letters that are not known to have arrived, and the series that a hub with the memory of that epoch is to bring no more.
func (s *Sender) Out(ctx context.Context, epoch string) (out []api.StickOut, back []api.StickBack, err error) {
	var rows []store.OutLetters
	err = s.c.DB.View(ctx, func(r *store.Read) (err error) {
		rows, err = r.OutLetters()
		return err
	})
	for _, o := range rows {
		switch {
		case o.Upto > 0:
			out = append(out, api.StickOut{To: o.Dest, Series: o.Series, From: o.From, Upto: o.Upto})
		case o.Epoch == epoch:
			back = append(back, api.StickBack{To: o.Dest, Series: o.Series})
		}
	}
	return out, back, err
}

// Carried takes in how far letters have come, as a stick has brought it: the hub has written that some time ago.
func (s *Sender) Carried(l api.Letters) { s.stand(l, heard{epoch: l.Epoch, old: true}) }

// ToldBack says that the hub knows of series that were taken back.
func (s *Sender) ToldBack(epoch string, back []api.StickBack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range back {
		if d := s.dests[b.To]; d != nil {
			d.mu.Lock()
			d.unback = append(d.unback, backSeries{b.Series, epoch})
			d.mu.Unlock()
			poke(d.wake)
		}
	}
}

// forgetBack does what ToldBack says.
func (d *dest) forgetBack(ctx context.Context) {
	d.mu.Lock()
	told := d.unback
	d.unback = nil
	d.mu.Unlock()
	for _, b := range told {
		i := slices.Index(d.post.back, b)
		if i < 0 {
			continue
		}
		d.post.back = slices.Delete(d.post.back, i, i+1)
		d.s.c.DB.Lazy(func(tx *store.Tx) error { return tx.DropLetterTxn(d.name, b.row().Txn) }) // told twice is no harm
	}
}

// bagged says whether a letter that is out is not known to be with the hub.
func (p *posting) bagged() bool {
	return slices.ContainsFunc(p.left, func(l *leftLetter) bool { return l.Bagged })
}

// handOver leaves with the hub, which is in reach, what has been packed for sticks.
func (d *dest) handOver(ctx context.Context) error {
	for _, l := range d.post.left {
		if !l.Bagged {
			continue
		}
		var raw []byte
		err := d.s.c.DB.View(ctx, func(r *store.Read) (err error) {
			raw, err = r.BaggedLetter(d.name, l.Txn)
			return err
		})
		if err != nil {
			return err
		}
		if raw != nil {
			letter, err := api.ReadLetter(raw)
			if err != nil {
				return fmt.Errorf("a letter that was packed for sticks: %w", err)
			}
			if err := d.give(ctx, letter); err != nil {
				return err
			}
			if err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.UnbagLetter(d.name, l.Txn) }); err != nil {
				return fmt.Errorf("note that the hub has a letter: %w", err)
			}
		}
		l.Bagged, l.at = false, time.Now()
	}
	return nil
}

// give leaves a letter with the hub itself.
func (d *dest) give(ctx context.Context, l api.Letter) error {
	d.s.sem <- struct{}{}
	defer func() { <-d.s.sem }()
	return d.s.c.Post.Leave(ctx, l)
}
