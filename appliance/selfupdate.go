// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/clock"
	"hallig/appliance/health"
	"hallig/appliance/steward"
)

// This file lets a box keep its own system new, where hallig.json or a policy says so: when to look, when to fetch and when to start. How a file gets here is in updates.go.

const (
	autoEvery     = 15 * time.Minute // how often a box that updates itself looks for a newer system
	quietForHub   = 10 * time.Minute // how long nothing must have been written before it fetches one from the hub, over the line that people use
	quietForTrial = 30 * time.Minute // and before it restarts for one
)

// autoStep is what a box that updates itself does next.
type autoStep struct {
	Start bool   // boot the written update on trial
	Stick string // install this file
	Box   string // install from this box
}

// nextStep decides: what is written is started when nobody has written anything for a while; otherwise the newest system that is offered is taken. What
// has failed once, or what somebody went back from, is not taken again by itself.
func nextStep(s steward.State, offers []admin.UpdateOffer, quiet time.Duration) autoStep {
	switch {
	case s.Trial && s.Update.State == steward.UpdateTrial || s.Update.State == steward.UpdateWriting:
		return autoStep{}
	case s.Update.State == steward.UpdateWritten:
		return autoStep{Start: quiet >= quietForTrial}
	}
	best, step := s.Release, autoStep{}
	failed := int64(-1)
	if s.Update.State == steward.UpdateFailed || s.Update.State == steward.UpdateNone { // none, with a release: somebody went back from it
		failed = s.Update.Release
	}
	for _, stick := range s.Sticks {
		for _, u := range stick.Updates {
			if u.Newer && u.Error.Empty() && u.Release > best && u.Release != failed {
				best, step = u.Release, autoStep{Stick: u.Path}
			}
		}
	}
	for _, o := range offers {
		if o.Release > best && o.Release != failed {
			best, step = o.Release, autoStep{Box: o.Box}
		}
	}
	return step
}

// runAutomaticUpdates keeps the system new by itself, where the provisioning file or a policy says so. It runs behind the doors.
func (b *Box) runAutomaticUpdates(ctx context.Context, g *errgroup.Group) {
	if b.steward == nil {
		return
	}
	g.Go(func() error {
		position, since := b.db.Published(), time.Now()
		every(ctx, autoEvery, func() {
			if now := b.db.Published(); now != position {
				position, since = now, time.Now()
			}
			if !b.updating().Automatic { // a policy may say so later
				return
			}
			if err := b.updateByItself(ctx, time.Since(since)); err != nil && ctx.Err() == nil {
				b.log.Warn("the automatic update did not work; it is tried again", "err", err)
			}
		})
		return nil
	})
}

func (b *Box) updateByItself(ctx context.Context, quiet time.Duration) error {
	c := b.clock.State()
	if !b.mayUpdate(c.Time, c.Quality > clock.Untrusted, b.quiet()) {
		return nil
	}
	s, err := b.stewardState(ctx)
	if err != nil {
		return err
	}
	offers, err := b.updateOffers(ctx)
	if err != nil {
		return err
	}
	if quiet < quietForHub || b.linksBusy(ctx) {
		offers = slices.DeleteFunc(offers, func(o admin.UpdateOffer) bool { return o.Box == b.exchange.post.server })
	}
	switch step := nextStep(s, offers, quiet); {
	case step.Start:
		b.log.Info("starting the update on trial: nobody has written for a while", "version", s.Update.Version)
		return b.steward.StartUpdate(ctx)
	case step.Stick != "":
		return b.steward.UpdateFrom(ctx, step.Stick)
	case step.Box != "":
		_, err := b.takeSystem(ctx, step.Box, true)
		return err
	}
	return nil
}

// mayUpdate says whether the box may look for a newer system, or start one, by itself at this moment: within its window, which needs a clock that somebody vouches for, and not
// while a flash keeps the lines free.
func (b *Box) mayUpdate(now time.Time, sure bool, quietUntil time.Time) bool {
	u := b.updating()
	if u.Window != "" && !sure || !u.In(now.Local()) {
		return false
	}
	return !now.Before(quietUntil)
}

// linksBusy says whether something is under way to a box in reach, or from the hub.
func (b *Box) linksBusy(ctx context.Context) bool {
	h := &b.exchange.post
	h.mu.Lock()
	waits := h.answer != nil && len(h.answer.Waiting) > 0
	h.mu.Unlock()
	return waits || slices.ContainsFunc(b.peerFacts(ctx, time.Now()), func(p health.PeerFacts) bool { return p.InReach && p.Queued > 0 })
}
