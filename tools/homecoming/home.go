// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
)

// round is one night and the homecoming after it.
func (w *world) round(ctx context.Context, number int) (*verdict, error) {
	for _, f := range w.looks {
		f.forget()
	}
	w.doors[onBox].Reset()
	n, err := w.goDark(ctx, number)
	if err != nil {
		return nil, err
	}
	if err := w.settled(ctx, n); err != nil {
		return nil, err
	}
	for s, d := range w.doors {
		if s == onLand || w.hub == nil { // what the hub was asked in the dark counts, too
			d.Reset()
		}
	}
	syn, _ := w.central.(*synapse)
	if syn != nil {
		if _, err := syn.frontDoor(ctx, true); err != nil {
			return nil, err
		}
	}
	t := &traffic{}
	t.begin(w)
	v := &verdict{peer: w.central.name(), kills: w.o.kills, hub: w.hub != nil, joined: time.Now(), night: n}
	w.box.CutCentre(false)
	say("the link is back")
	if err := w.come(ctx, n, v); err != nil {
		return nil, err
	}
	if err := t.end(ctx, w, v); err != nil {
		return nil, err
	}
	return v, w.judge(ctx, n, v)
}

// settled waits until both clients have seen what their own side wrote: that is not part of the homecoming.
func (w *world) settled(ctx context.Context, n *night) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for s := range w.looks {
		for lack := w.looks[s].missing(n.events[s]); len(lack) > 0; lack = w.looks[s].missing(n.events[s]) {
			if !pause(ctx, 200*time.Millisecond) {
				return fmt.Errorf("the %s does not show its own people %d events, first %s", sides[s], len(lack), lack[0].id)
			}
		}
	}
	return nil
}

// come waits until both sides have everything, killing servers where that is wanted.
func (w *world) come(ctx context.Context, n *night, v *verdict) error {
	kills := w.plan()
	told := time.Now()
	for ctx.Err() == nil {
		lackBox, lackLand := len(w.looks[onBox].missing(n.events[onLand])), len(w.looks[onLand].missing(n.events[onBox]))
		for s, lack := range []int{lackBox, lackLand} {
			if lack == 0 && v.took[s] == 0 {
				v.took[s] = time.Since(v.joined)
				v.count(w, n)
				say("the %s has all %d events of the other side, %.1f s after the link was back; newest message of a room after %s", sides[s], len(n.events[1-s]), v.took[s].Seconds(), spread(v.newest[s]))
				if s == onBox && len(v.ahead) > 0 {
					say("people on the box were told of %d of these before, after %s", len(v.ahead), spread(v.ahead))
				}
			}
		}
		if err := w.lookAtBackOff(ctx, n); err != nil && len(kills) == 0 {
			return err
		}
		all := len(n.events[0]) + len(n.events[1])
		if done := 1 - float64(lackBox+lackLand)/float64(all); len(kills) > 0 && (done >= kills[0].at || lackBox+lackLand == 0) {
			if err := w.kill(ctx, kills[0].who, done); err != nil {
				return err
			}
			v.torn = v.torn || kills[0].who == theCentral && w.central.tears()
			// A hub that lives on sees a transaction through whose box has died.
			v.broken = v.broken || (kills[0].who != theBox || w.hub == nil) && w.central.tears()
			kills = kills[1:]
			continue
		}
		if lackBox+lackLand == 0 && len(kills) == 0 {
			return w.comeRest(ctx, n, v)
		}
		if min(w.looks[onBox].quiet(), w.looks[onLand].quiet(), time.Since(v.joined)) > w.o.patience {
			say("nothing has come for %v; the box lacks %d events, the central server %d", w.o.patience, lackBox, lackLand)
			return w.comeRest(ctx, n, v)
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			say("… the box lacks %d events, the central server %d; %s", lackBox, lackLand, w.progress(ctx))
		}
		pause(ctx, 100*time.Millisecond)
	}
	return context.Cause(ctx)
}

// progress is what the box itself tells its operator.
func (w *world) progress(ctx context.Context) string {
	var s admin.Status
	if err := appliance.Ask(ctx, w.box.Dir, "GET", "/status", nil, &s); err != nil {
		return "the box does not answer"
	}
	for _, srv := range s.Servers {
		if srv.Name == w.central.name() {
			return fmt.Sprintf("hallig status: %d to send %s", srv.Queued, srv.Trouble)
		}
	}
	return "hallig status does not name the server"
}

// comeRest waits for what is no event: messages between devices, receipts, devices. A Dendrite takes notice once a minute that the box is back.
func (w *world) comeRest(ctx context.Context, n *night, v *verdict) error {
	from := time.Now()
	for time.Since(from) < 100*time.Second {
		v.count(w, n)
		diff, err := w.compare(ctx)
		if err == nil && len(diff) == 0 && v.arrivedRest(time.Since(from) < 5*time.Second || v.hub && v.kills == 0) {
			return nil
		}
		if !pause(ctx, 300*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// killing is one kill -9.
type killing struct {
	at  float64 // share of all events that have come
	who int
}

const (
	theBox = iota
	theCentral
	theHub
)

func (w *world) plan() []killing {
	out, among := make([]killing, w.o.kills), 2
	if w.hub != nil {
		among = 3
	}
	for i := range out {
		out[i] = killing{at: w.r.Float64(), who: w.r.IntN(among)}
	}
	slices.SortFunc(out, func(a, b killing) int { return int(min(1, max(-1, (a.at-b.at)*1e9))) })
	return out
}

// kill kills a server and starts it again.
func (w *world) kill(ctx context.Context, who int, done float64) error {
	pause(ctx, time.Duration(rand.IntN(150))*time.Millisecond) // not where the test has just looked
	switch who {
	case theHub:
		if err := w.hub.Kill(); err != nil {
			return err
		}
		say("kill -9 of the hub, %.0f %% had come", 100*done)
		return w.hub.Start(ctx)
	case theCentral:
		can, err := w.central.kill(ctx)
		if err != nil {
			return err
		}
		if can {
			say("kill -9 of the central server, %.0f %% had come", 100*done)
			return nil
		}
		say("NOT KILLED: the central server; %s names no PID and START, so the box is", synapseEnv)
	}
	if err := w.box.Kill(); err != nil {
		return err
	}
	say("kill -9 of the box, %.0f %% had come", 100*done)
	return w.box.Start(ctx)
}

// traffic is what has gone over the link since it was back.
type traffic struct {
	out, in [2]int64
	cpu     time.Duration
}

func (t *traffic) begin(w *world) {
	t.out[0], t.in[0] = bytesOf(w)
	t.cpu = cpuOf(w.central.process())
}

func bytesOf(w *world) (out, in int64) {
	a, b := w.box.Out.Both()
	c, d := w.box.In.Both()
	return a + d, b + c
}

func (t *traffic) end(ctx context.Context, w *world, v *verdict) error {
	t.out[1], t.in[1] = bytesOf(w)
	if w.o.kills == 0 {
		v.cpu = cpuOf(w.central.process()) - t.cpu
	}
	v.sent, v.received = t.out[1]-t.out[0], t.in[1]-t.in[0]
	v.atCentral, v.firstToCentral = w.doors[onLand].Asked()
	v.atBox, v.firstToBox = w.doors[onBox].Asked()
	var err error
	if s, ok := w.central.(*synapse); ok {
		v.frontDoor, err = s.frontDoor(ctx, false)
	}
	off, how, berr := w.central.backedOff(ctx, w.box.Server)
	if off && v.atBox["send"].Requests > 0 {
		off, how = false, "it sends to the box again"
	}
	v.offAfter, v.howAfter = off, how
	return errors.Join(err, berr)
}
