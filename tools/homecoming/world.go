// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/tools/matrixclient"
	"hallig/tools/testbox"
	"hallig/tools/testpeer"
)

// The two sides.
const (
	onBox    = 0
	onLand   = 1
	writers  = 4 // people on each side who write; the first of them is the one whose client looks
	password = "Rungholt lebt 1362"
	dark     = 21 * 24 * time.Hour
)

var sides = [2]string{"box", "central server"}

// world is everything that runs.
type world struct {
	o       options
	r       *rand.Rand
	central central
	box     *testbox.Box
	hub     *testbox.Hub      // nil: there is none
	doors   [2]*testpeer.Door // before the box, or its hub, and before the central server
	gps     *satellites
	rings   keyring
	people  [2][]*matrixclient.Client
	looks   [2]*follower
	rooms   []string
	wrote   int       // numbers what is written
	looked  time.Time // when the back-off was last looked at
}

// build starts both servers, with people in rooms that all share, and waits until both agree on them.
func build(ctx context.Context, o options, peer, dir string) (*world, error) {
	w := &world{o: o, r: rand.New(rand.NewPCG(o.seed, 0x686f6d65)), rings: keyring{keys: map[string]*ecdh.PrivateKey{}}}
	var err error
	if peer == "synapse" {
		w.central, err = findSynapse(dir)
	} else {
		w.central, err = startDendrite(ctx, dir)
	}
	if err != nil {
		w.central = nil
		return w, err
	}
	if err := w.startBox(ctx, dir); err != nil {
		return w, err
	}
	if err := w.enrol(ctx); err != nil {
		return w, err
	}
	if err := w.open(ctx); err != nil {
		return w, err
	}
	if err := w.keys(ctx); err != nil {
		return w, err
	}
	if err := w.copied(ctx); err != nil {
		return w, err
	}
	for s := range w.looks {
		if w.looks[s], err = follow(ctx, w.people[s][0], &w.rings); err != nil {
			return w, err
		}
	}
	return w, nil
}

// startBox puts a door before each of the two servers, and a box behind one.
func (w *world) startBox(ctx context.Context, dir string) (err error) {
	name := w.central.name()
	host, _, _ := splitHost(name)
	centreDir, boxDir := filepath.Join(dir, "door-centre"), filepath.Join(dir, "door-box")
	for _, d := range []string{centreDir, boxDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	ca := w.central.authority()
	if w.doors[onLand], err = testpeer.NewDoor(ca, centreDir, host, w.central.federation()); err != nil {
		return err
	}
	w.box, err = testbox.New("the box", w.o.hallig, filepath.Join(dir, "box"), ca, testbox.Central{Name: name, At: w.doors[onLand].Addr()})
	if err != nil {
		return err
	}
	found := w.box.Federation // where the central server finds it, behind the door
	if w.o.hub != "" {
		if w.hub, err = testbox.NewHub(w.o.hub, filepath.Join(dir, "hub"), ca, testbox.Central{Name: name, At: w.doors[onLand].Addr()}); err != nil {
			return err
		}
		found = w.hub.World
	}
	if w.doors[onBox], err = testpeer.NewDoor(ca, boxDir, "127.0.0.1", "https://"+found); err != nil {
		return err
	}
	if w.hub != nil {
		w.box.Behind(w.hub, w.doors[onBox].Addr())
	} else {
		w.box.In.Lead(w.doors[onBox].Addr())
	}
	if w.o.rate > 0 {
		out, in := testpeer.NewRate(w.o.rate), testpeer.NewRate(w.o.rate)
		w.box.Out.Pace(out, in)
		w.box.In.Pace(in, out)
	}
	if w.o.lag {
		if w.gps, err = newSatellites(0); err != nil {
			return err
		}
		w.box.Config["clock_gps"] = map[string]any{"device": w.gps.pty.Device, "baud": 9600}
	}
	if w.hub == nil {
		return w.box.Start(ctx)
	}
	if err := w.hub.Start(ctx); err != nil {
		return err
	}
	if err := w.box.Start(ctx); err != nil {
		return err
	}
	return w.box.PairHub(ctx, w.hub)
}

func splitHost(name string) (host, port string, err error) {
	u, err := url.Parse("//" + name)
	if err != nil {
		return "", "", err
	}
	return u.Hostname(), u.Port(), nil
}

// clock sets the satellites and waits until the box goes by them.
func (w *world) clock(ctx context.Context, behind time.Duration) error {
	w.gps.set(behind)
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for {
		var s admin.Status
		if err := appliance.Ask(ctx, w.box.Dir, "GET", "/status", nil, &s); err != nil {
			return fmt.Errorf("ask the box for the time: %w", err)
		}
		if off := time.Since(s.Clock.Time) - behind; off.Abs() < time.Minute {
			say("the box's clock is %v behind", behind)
			return nil
		}
		if !pause(ctx, 500*time.Millisecond) {
			return errors.New("the box does not go by the satellites")
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *world) enrol(ctx context.Context) error {
	for n := range writers {
		c := matrixclient.New(w.box.Client)
		if err := c.Register(ctx, fmt.Sprintf("box%d", n), password, ""); err != nil {
			return fmt.Errorf("register at the box: %w", err)
		}
		w.people[onBox] = append(w.people[onBox], c)
		c, err := w.central.register(ctx, fmt.Sprintf("land%d", n))
		if err != nil {
			return fmt.Errorf("register at the central server: %w", err)
		}
		w.people[onLand] = append(w.people[onLand], c)
	}
	return nil
}

func (w *world) server(side int) string {
	if side == onBox {
		return w.box.Server
	}
	return w.central.name()
}

// open makes the rooms, half of them on each side, of versions 10, 11 and 12 in turn, and brings everybody in.
func (w *world) open(ctx context.Context) error {
	for n := range w.o.rooms {
		version, side := []string{"10", "11", "12"}[n%3], n%2
		maker := w.people[side][0]
		users := map[string]int{w.people[1-side][0].UserID: 100}
		if version != "12" { // there, makers stand above all
			users[maker.UserID] = 100
		}
		id, err := maker.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Preset: "public_chat", Name: fmt.Sprintf("Lage %d", n),
			PowerOverride: map[string]any{"users": users}})
		if err != nil {
			return fmt.Errorf("make room %d: %w", n, err)
		}
		w.rooms = append(w.rooms, id)
		for s := range w.people {
			for _, c := range w.people[s] {
				if c == maker {
					continue
				}
				if _, err := c.Join(ctx, id, w.server(side)); err != nil {
					return fmt.Errorf("%s joins room %d: %w", c.UserID, n, err)
				}
			}
		}
	}
	ctx, stop := context.WithTimeout(ctx, 2*time.Minute)
	defer stop()
	for {
		diff, err := w.compare(ctx)
		if err == nil && len(diff) == 0 {
			break
		}
		if !pause(ctx, 300*time.Millisecond) {
			return fmt.Errorf("the rooms are not equal before anything happened: %v %v", diff, err)
		}
	}
	say("%d rooms, %d people on two servers in each", len(w.rooms), 2*writers)
	return nil
}

// compare lists the state keys that are held by different events.
func (w *world) compare(ctx context.Context) (diff []string, err error) {
	for _, id := range w.rooms {
		var states [2]map[string]string
		for s := range states {
			events, err := w.people[s][0].State(ctx, id)
			if err != nil {
				return nil, fmt.Errorf("state of %s at the %s: %w", id, sides[s], err)
			}
			states[s] = map[string]string{}
			for _, e := range events {
				if e.StateKey != nil {
					states[s][e.Type+"|"+*e.StateKey] = e.ID
				}
			}
		}
		keys := maps.Clone(states[0])
		maps.Copy(keys, states[1])
		for k := range keys {
			if states[0][k] != states[1][k] {
				diff = append(diff, fmt.Sprintf("%s in %s: %q at the box, %q at the central server", k, id, states[0][k], states[1][k]))
			}
		}
	}
	return diff, nil
}

func (w *world) close() error {
	var errs []error
	for _, f := range w.looks {
		if f != nil {
			f.close()
		}
	}
	if w.box != nil {
		errs = append(errs, w.box.Close())
	}
	if w.hub != nil {
		errs = append(errs, w.hub.Close())
	}
	for _, d := range w.doors {
		if d != nil {
			d.Close()
		}
	}
	if w.gps != nil {
		w.gps.close()
	}
	if w.central != nil {
		errs = append(errs, w.central.close())
	}
	return errors.Join(errs...)
}
