// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"net/http"
	"time"

	"hallig/appliance/steward"
	"hallig/appliance/update"
)

// This file tries what was written, keeps it or gives it up, and goes back on purpose.

// startTrial boots what was written, without switching anything on the disk.
func (b *box) startTrial() error {
	b.mu.Lock()
	r, busy, slot := b.record, b.writing != nil, b.slot
	b.mu.Unlock()
	if busy {
		return errBusy
	}
	next, err := r.Starting(time.Now())
	if err != nil {
		return err
	}
	f, d, err := b.openSlots()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := update.LoadTrial(b.running, d, slot.Other()); err != nil {
		return sentence(err, "Der Probelauf lässt sich nicht starten.", "The trial cannot be started.")
	}
	if err := b.keep(next); err != nil {
		return err
	}
	return b.ask(ending{kind: trialStart, why: "trial of " + next.Version})
}

// judge looks, on trial, whether the new system is well, and keeps it or gives it up.
func (b *box) judge(h health) {
	b.mu.Lock()
	r, deadline := b.record, b.deadline
	b.mu.Unlock()
	if !b.trial.Load() || r.State != update.Trial {
		return
	}
	bad := unwell(h)
	switch {
	case bad.Empty():
		if err := b.confirm(r); err != nil {
			b.log.Printf("keep the update: %v", err)
			if time.Now().After(deadline) {
				b.giveUp(r, sentence(err, "Es konnte nicht umgeschaltet werden.", "Switching did not work."))
			}
		}
	case time.Now().After(deadline):
		b.giveUp(r, bad)
	}
}

// expire ends a trial of a system that has not even come to its data: no record can be written, and none is needed.
func (b *box) expire() {
	b.mu.Lock()
	late := b.record.State != update.Trial && b.record.State != update.Confirmed && time.Now().After(b.deadline)
	waits := b.vault != nil && !b.perm && uptime() < time.Hour // somebody must come with the key
	b.mu.Unlock()
	if b.trial.Load() && late && !waits {
		b.ask(ending{kind: restart, why: "the trial did not come to its data in time"})
	}
}

// trialEnds is how often a homeserver may end on trial, half a minute after its first start: one that ends so often does not get
// well by waiting for the deadline, and its users wait with it.
const trialEnds = 6

// judgeSilence does the same when the homeserver says nothing.
func (b *box) judgeSilence(server steward.Process) {
	b.mu.Lock()
	r, deadline := b.record, b.deadline
	b.mu.Unlock()
	switch {
	case !b.trial.Load() || r.State != update.Trial:
	case server.Restarts >= trialEnds:
		b.giveUp(r, steward.Text{De: "Der Nachrichtendienst startet nicht (" + server.Last + ").", En: "The message service does not start (" + server.Last + ")."})
	case time.Now().After(deadline):
		b.giveUp(r, steward.Text{De: "Der Nachrichtendienst antwortete nicht rechtzeitig.", En: "The message service did not answer in time."})
	}
}

// unwell says what of the parts that a trial is about does not work; empty: all of them do. A cable that is not plugged in, a full disk or a radio that
// is away say nothing about the new system.
func unwell(h health) steward.Text {
	seen := make(map[string]bool)
	for _, n := range h.Nodes {
		seen[n.Kind] = true
		if (n.Kind == "database" || n.Kind == "homeserver") && n.State != steward.LEDOK {
			return n.Sentence
		}
		if n.Kind == "links" && n.State == steward.LEDTrouble {
			return n.Sentence
		}
	}
	if !seen["database"] || !seen["homeserver"] {
		return steward.Text{De: "Der Nachrichtendienst ist noch nicht bereit.", En: "The message service is not ready yet."}
	}
	return steward.Text{}
}

// confirm makes the firmware boot the new system from now on and opens its doors.
func (b *box) confirm(r update.Record) error {
	f, d, err := b.openSlots()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := d.Switch(b.running, b.runs()); err != nil {
		return err
	}
	b.kept(r)
	b.log.Printf("update %s is kept", r.Version)
	b.help("way back", func() error { b.lookBack(); return nil })
	ctx, cancel := context.WithTimeout(b.running, time.Minute)
	defer cancel()
	if err := b.local(ctx, http.MethodPost, "/trial/confirmed", nil); err != nil {
		b.log.Printf("open the homeserver's doors: %v; it starts again with open doors", err)
		b.restart("hallig")
	}
	return nil
}

// kept notes that the trial has ended well. From here on this start is like any other: the next update must not be taken for this trial.
func (b *box) kept(r update.Record) {
	if err := b.keep(r.Confirm(time.Now())); err != nil {
		b.log.Printf("%v", err) // the disk says it all the same: AtBoot sees that the slot was booted
		b.mu.Lock()
		b.record = r.Confirm(time.Now())
		b.mu.Unlock()
	}
	b.trial.Store(false)
}

// giveUp ends a trial: the next start is the firmware's, and that is the system before.
func (b *box) giveUp(r update.Record, what steward.Text) {
	why := update.Unhealthy(r.Version, r.FromVersion, what.De, what.En)
	b.log.Printf("%s", why.En)
	if err := b.keep(r.Fail(why, time.Now())); err != nil {
		b.log.Printf("%v", err)
	}
	b.ask(ending{kind: restart, why: "the trial failed"})
}

// planBack says where the way back leads.
func (b *box) planBack(d *update.Disk) (update.BackPlan, error) {
	slot := b.runs()
	other, err := d.Holds(slot.Other())
	if err != nil {
		return update.BackPlan{}, err
	}
	running, err := d.Holds(slot)
	if err != nil {
		return update.BackPlan{}, err
	}
	return update.PlanBack(b.database(), running, other)
}

// lookBack notes for the state where the way back leads and what it costs. It reads the disk, so it is done once at the start and after each update.
func (b *box) lookBack() {
	version, says := func() (string, steward.Text) {
		f, d, err := b.openSlots()
		if err != nil {
			return "", steward.Text{}
		}
		defer f.Close()
		plan, err := b.planBack(d)
		if err != nil {
			var r *update.Refusal
			if errors.As(err, &r) {
				return "", steward.Text{De: r.De, En: r.En}
			}
			return "", steward.Text{}
		}
		other, err := d.Holds(b.runs().Other())
		if err != nil {
			return "", steward.Text{}
		}
		return other.Version, steward.Text{De: plan.Says.De, En: plan.Says.En}
	}()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.back, b.backSays = version, says
	if b.record.State == update.Written || b.record.State == update.Failed { // what is in the other slot is the newer one
		b.back, b.backSays = "", steward.Text{}
	}
}

// goBack boots the system before, with its copy of the database where the newer one cannot be read by it.
func (b *box) goBack(ctx context.Context) error {
	b.mu.Lock()
	r, busy, slot := b.record, b.writing != nil, b.slot
	b.mu.Unlock()
	switch {
	case busy:
		return errBusy
	case b.trial.Load() && !b.confirmed():
		b.giveUp(r, steward.Text{De: "Jemand ging zurück.", En: "Somebody went back."})
		return nil
	case r.State == update.Written || r.State == update.Failed:
		return steward.Text{De: "Im anderen System steht ein Update, kein älterer Stand. Starten Sie seinen Probelauf, oder lassen Sie alles, wie es ist.", En: "The other system holds an update and not an older state. Start its trial, or leave everything as it is."}
	}
	f, d, err := b.openSlots()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := d.Check(ctx, slot.Other()); err != nil {
		return sentence(err, "Es gibt kein heiles System, zu dem die Box zurück könnte.", "There is no whole system to go back to.")
	}
	plan, err := b.planBack(d)
	if err != nil {
		return err
	}
	return b.ask(ending{kind: goingBack, why: "back to the system before", plan: plan})
}

// switchBack does what goBack has planned, when the homeserver is gone and /perm is still there.
func (b *box) switchBack(plan update.BackPlan) error {
	b.mu.Lock()
	r, slot := b.record, b.slot
	r.Version, r.Release = b.image.Version, b.image.Release // what nobody wants back by itself
	b.mu.Unlock()
	f, d, err := b.openSlots()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := plan.Leave(b.database()); err != nil {
		return err
	}
	if err := b.keep(r.GoneBack(time.Now())); err != nil {
		return err
	}
	return d.Switch(context.Background(), slot.Other())
}
