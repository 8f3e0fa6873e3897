// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"slices"
	"time"

	"hallig/appliance/store"
)

// This file takes letters back.
//
// The usual reason is that the hub is gone, so it cannot be told. Which series it is to bring no more is kept until it has been told, through restarts too, and until then nothing else is left with it for that server.
//
// What it brings before that arrives a second time. For events that is nothing. EDUs do not wait for the hub, which may be away for weeks and with it the keys of messages that have arrived: a to-device message twice is less bad
// than one too late, or never. They go straight under the id and with the body that they had in the letter; a server that keeps the ids it has answered sees one transaction.

// backSeries is one of which the hub is to bring nothing any more, and does not know.
type backSeries struct{ series, epoch string }

func (b backSeries) row() store.LeftLetter {
	return store.LeftLetter{Series: b.series, Epoch: b.epoch, Txn: "back " + b.series, Events: []byte("[]"), Body: []byte("{}")}
}

// loadBack takes in a row of what is not out any more: EDUs that go as they were, or a series of which the hub does not know it yet.
func (p *posting) loadBack(d *dest, row store.LeftLetter) {
	if row.EDUTo == 0 {
		p.back = append(p.back, backSeries{row.Series, row.Epoch})
		return
	}
	d.eduAfter = max(d.eduAfter, row.EDUTo)
	p.again = append(p.again, asItWas(row))
}

// asItWas is a letter of EDUs as a transaction.
func asItWas(l store.LeftLetter) *outgoing {
	return &outgoing{id: l.Txn, body: l.Body, eduTo: l.EDUTo, edus: 1, lasting: true, stored: true, again: true}
}

// takeBack has everything that is out go anew, from the cursors on. tell: the hub is to bring nothing of it any more.
func (d *dest) takeBack(ctx context.Context, tell bool, why string) {
	p := &d.post
	d.log.Info("letters are taken back: what they bring goes anew", "letters", len(p.left), "why", why)
	old := len(p.back)
	for _, l := range p.left {
		if l.Body != nil {
			p.again = append(p.again, asItWas(l.LeftLetter))
		}
		if b := (backSeries{l.Series, l.Epoch}); tell && !slices.Contains(p.back, b) {
			p.back = append(p.back, b)
		}
	}
	err := d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		for _, b := range p.back[old:] {
			if err := tx.AddLetter(d.name, b.row()); err != nil {
				return err
			}
		}
		return tx.TakeLettersBack(d.name)
	})
	if err != nil && ctx.Err() == nil {
		d.log.Error("forget letters; it is done at the next start", "err", err)
	}
	for _, f := range d.rooms {
		if f.left > 0 || len(f.window) > 0 {
			f.sent, f.window, f.left, f.errs, f.tries = f.cursor, nil, 0, nil, 0
			f.hold, f.carry, f.relay = nil, nil, false
		}
		f.dirty = true
	}
	d.known = nil
	p.left, p.series, p.backlog = nil, "", false
	if d.pending != nil && d.pending.lasting {
		p.again = append(p.again, d.pending) // behind those that are older
	}
	d.pending = nil
	if tell {
		d.tell(ctx, "")
	}
}

// tellBack tells a hub that is there what it is to bring no more. spoke is the epoch of its memory when it has just spoken, or "". false: it does not know all of it yet, and nothing else may be left with it.
func (d *dest) tellBack(ctx context.Context, spoke string) bool {
	p := &d.post
	if len(p.back) == 0 {
		return true
	}
	epoch := spoke
	if d.s.c.Post != nil && epoch == "" {
		epoch = d.s.c.Post.Open(d.name)
	}
	if epoch == "" || time.Now().Before(p.backAt) {
		return false
	}
	return d.tell(ctx, epoch)
}

// tell tries it. epoch is that of the hub's memory, "" when it is not known: another memory than that with which they were left has nothing to bring.
func (d *dest) tell(ctx context.Context, epoch string) bool {
	p := &d.post
	for d.s.c.Post != nil && len(p.back) > 0 {
		b := p.back[0]
		if epoch == "" || b.epoch == epoch {
			if err := d.s.c.Post.TakeBack(ctx, d.name, b.series); err != nil {
				d.log.Debug("letters not taken back at the hub; it is told at the next contact", "err", err)
				p.backAt = time.Now().Add(leaveAgain)
				return false
			}
		}
		p.back = p.back[1:]
		d.s.c.DB.Lazy(func(tx *store.Tx) error { return tx.DropLetterTxn(d.name, b.row().Txn) }) // told twice is no harm
	}
	return len(p.back) == 0
}

// backIn says in how long, wait at most, it is worth a try to tell the hub; when it is gone it speaks as soon as it is back.
func (p *posting) backIn(wait time.Duration) time.Duration {
	if left := time.Until(p.backAt); len(p.back) > 0 && left > 0 {
		return min(wait, left)
	}
	return wait
}

// probe has the server say a word: it is in reach. What was left with a hub that has gone for long then goes straight.
func (d *dest) probe(ctx context.Context) error {
	if _, err := d.send(ctx, d.s.txnID(), d.transaction(nil, nil)); err != nil {
		return err
	}
	if p := &d.post; len(p.left) > 0 && !p.gone.IsZero() && time.Since(p.gone) > time.Duration(d.s.hubGone.Load()) {
		d.takeBack(ctx, true, "the server is in reach, and no letters can be left")
	}
	return nil
}
