// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/backup"
	"hallig/appliance/health"
	"hallig/appliance/steward"
	"hallig/sync/courier"
)

// This file has the courier work by itself when a stick is plugged in that bears its mark: first import, then export, then the stick can be pulled.

const (
	stickLook  = 2 * time.Second  // how often the box looks for sticks; it costs one directory
	stickTold  = 10 * time.Minute // what was done is shown so long
	stickAgain = time.Minute      // after a failure, while the stick is still there

	stickThinks = 2 * time.Second

	stickFile  = 8 << 20   // bytes of a file that goes along by itself
	stickFiles = 256 << 20 // of all of them: somebody stands there and waits
)

// plugged is a stick that was seen, and what it is: another one in the same place has another number.
type plugged struct {
	path string
	dev  uint64
}

// runCourier looks for sticks until ctx ends. A machine that is not an appliance mounts its sticks where it likes: there it is by command only.
func (b *Box) runCourier(ctx context.Context, g *errgroup.Group) {
	if b.cfg.Run == "" {
		return
	}
	g.Go(func() error {
		seen := map[plugged]time.Time{} // zero: nothing more to do there
		every(ctx, stickLook, func() { b.lookForSticks(ctx, seen) })
		return nil
	})
}

// lookForSticks serves each stick that is new, or that it failed on a while ago.
func (b *Box) lookForSticks(ctx context.Context, seen map[plugged]time.Time) {
	now := map[plugged]bool{}
	for _, place := range sticks(b.cfg.Run) {
		var s syscall.Stat_t
		if syscall.Stat(place, &s) != nil {
			continue
		}
		p := plugged{place, s.Dev}
		now[p] = true
		if at, ok := seen[p]; ok && (at.IsZero() || time.Now().Before(at)) {
			continue
		}
		seen[p] = time.Time{}
		if again := b.serveStick(ctx, place); again {
			seen[p] = time.Now().Add(stickAgain)
		}
	}
	for p := range seen {
		if !now[p] {
			delete(seen, p)
			b.stickGone(filepath.Base(p.path))
		}
	}
}

// serveStick does what a stick is there for; again says that it is worth another try.
func (b *Box) serveStick(ctx context.Context, place string) (again bool) {
	b.rosterFromStick(place)
	d, err := courier.Open(place, false)
	if errors.Is(err, courier.ErrNoCourier) {
		return false
	}
	name := filepath.Base(place)
	if err == nil {
		var ours bool
		ours, err = b.exchange.parts.Marked(d)
		if err == nil && !ours {
			var foreign bool
			ours, foreign, err = b.hubMail(d)
			ours = ours || foreign // it says so
		}
		err = errors.Join(err, d.Close())
		if err == nil && !ours {
			b.log.Info("stick carries messages of boxes that are not paired with this one; left alone", "stick", name)
			return false
		}
	}
	facts := health.CourierFacts{Stick: name, Working: true}
	b.noteStick(facts)
	facts.Working = false
	if err == nil {
		facts.Done, facts.Pull, err = b.visit(ctx, place)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Warn("stick not served", "stick", name, "err", err)
		facts.Detail = err.Error()
		facts.Err = health.Sentence{DE: "Der Stick " + name + " ließ sich nicht ganz lesen oder beschreiben; es wird noch einmal versucht. Sonst einen anderen nehmen.",
			EN: "Stick " + name + " could not be read or written in full; it is tried again. Otherwise take another one."}
		if t := (steward.Text{}); errors.As(err, &t) {
			facts.Err = textOf(t)
		} else if refusal := (*admin.Refusal)(nil); errors.As(err, &refusal) && refusal.DE != "" {
			facts.Err = health.Sentence{DE: refusal.DE, EN: refusal.Text}
		}
	}
	b.noteStick(facts)
	return err != nil
}

// visit takes in, puts on, and lets go of a stick. A stick that backups go to stays: they would find it gone.
func (b *Box) visit(ctx context.Context, place string) (done health.Sentence, pull bool, err error) {
	quiet := func(courier.Progress) {}
	in, err := b.courierImport(ctx, place, quiet)
	if err != nil {
		return done, false, err
	}
	for _, x := range in.Boxes {
		if x.Answers > 0 { // they lead to the next question, which the same stick can take
			select {
			case <-time.After(stickThinks):
			case <-ctx.Done():
			}
			break
		}
	}
	out, err := b.courierExport(ctx, place, courier.Options{Media: stickFile, MediaTotal: stickFiles}, quiet)
	if t := (steward.Text{}); errors.As(err, &t) { // a write-protected one
		b.log.Info("stick cannot be written to", "err", err)
		out, err = &courier.Report{ReadOnly: true}, nil
	}
	if err != nil {
		return done, false, err
	}
	from, to, err := b.visitHubStick(ctx, place)
	if t := (steward.Text{}); errors.As(err, &t) && out.ReadOnly { // it has been said
		err = nil
	}
	if err != nil {
		return done, false, err
	}
	if !out.ReadOnly {
		b.rosterOntoStick(ctx, place)
	}
	took, put := sentenceOf("import", in), sentenceOf("export", out)
	if out.ReadOnly {
		put = health.Sentence{DE: "Der Stick ist schreibgeschützt: es wurde nichts mitgegeben.", EN: "The stick is write-protected: nothing was put on it."}
	}
	done = health.Sentence{DE: took.DE + " " + put.DE, EN: took.EN + " " + put.EN}
	if len(in.Boxes)+len(out.Boxes) == 0 && from.there {
		done = health.Sentence{}
	}
	done = hubSentence(done, from, to)
	b.log.Info("stick served", "place", place, "done", done.EN)
	if _, err := os.Stat(filepath.Join(place, backup.Folder)); err == nil || b.steward == nil {
		done.DE += " Vor dem Abziehen auf der Verwaltungsseite unter „Gerät“ auswerfen."
		done.EN += " Before it is pulled out, eject it on the administration page under “Device”."
		return done, false, nil
	}
	if err := b.steward.Eject(ctx, filepath.Base(place)); err != nil {
		return done, false, err
	}
	return done, true, nil
}

// noteStick has the pages and the screen tell of a stick.
func (b *Box) noteStick(f health.CourierFacts) {
	p := &b.exchange.parts
	p.mu.Lock()
	p.facts, p.until = &f, time.Now().Add(stickTold)
	p.mu.Unlock()
	b.care.mu.Lock()
	b.care.at = time.Time{} // what was judged before is old
	b.care.mu.Unlock()
}

// stickGone ends the request to pull a stick; what was done is still told for a while. An ejected stick counts as gone as well, so it is asked for until somebody
// plugs in another one or the time is over.
func (b *Box) stickGone(name string) {
	p := &b.exchange.parts
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts != nil && p.facts.Stick == name && !p.facts.Pull {
		p.facts = nil
	}
}

// courierFacts tells of the stick that was plugged in last.
func (b *Box) courierFacts(sticks []steward.Stick) *health.CourierFacts {
	p := &b.exchange.parts
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.facts == nil || !p.facts.Working && time.Now().After(p.until) {
		return nil
	}
	f := *p.facts
	if f.Pull { // until it was pulled
		f.Pull = false
		for _, s := range sticks {
			f.Pull = f.Pull || s.Name == f.Stick
		}
		p.facts.Pull = f.Pull // put back in, it is a new stick that must not be pulled before it was served
	}
	return &f
}
