// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"hallig/tools/matrixclient"
	"hallig/tools/testbox"
	"hallig/tools/testpeer"
)

const centre = 2 // the third server; 0 and 1 are the boxes

// world is everything that runs, and what was promised.
type world struct {
	r       *rand.Rand
	log     io.Writer
	central *testpeer.Peer
	boxes   [2]*testbox.Box
	people  [3][]*matrixclient.Client // by server; the first of each keeps every room and its power
	rooms   []*room
	acked   []acked
	stood   map[string]bool // state from before the schedule: a request that changes nothing is answered with its id, which promises nothing new
	refused int
	wrote   int
	fights  bool // the law of a room is changed on several servers

	cutCentre [2]bool
	cutWire   bool
	down      [3]bool
	until     [6]int // action number at which a fault ends: two ways to the centre, the wire, three servers
}

// room is a room that all share.
type room struct {
	id, version string
	host        int      // the server it was made on
	redacted    []string // messages whose redaction a server acknowledged
	messages    []string // that somebody may reply to, edit or redact
	authors     map[string]string
}

// acked is an event that a server answered for.
type acked struct {
	id, room, sender, what string
	server                 int
}

const perServer = 3

func build(ctx context.Context, hallig, dir string, seed uint64, fights bool, log io.Writer) (*world, error) {
	w := &world{fights: fights, r: rand.New(rand.NewPCG(seed, 0x63686173)), log: log}
	ca, err := testpeer.NewCA(dir)
	if err != nil {
		return w, err
	}
	say("seed %d: starting the central server (Dendrite) and two boxes", seed)
	if w.central, err = testpeer.Start(ctx, testpeer.Options{Dir: dir, CA: ca}); err != nil {
		return w, err
	}
	for i := range w.boxes {
		if w.boxes[i], err = testbox.New(fmt.Sprintf("box %d", i), hallig, filepath.Join(dir, fmt.Sprintf("box%d", i)), ca, testbox.Central{Name: w.central.Name, At: w.central.Link.Addr()}); err != nil {
			return w, err
		}
		if err := w.boxes[i].Start(ctx); err != nil {
			return w, err
		}
	}
	if _, err := testbox.Pair(ctx, w.boxes[0], w.boxes[1]); err != nil {
		return w, err
	}
	if err := w.enrol(ctx); err != nil {
		return w, err
	}
	return w, w.open(ctx)
}

func (w *world) enrol(ctx context.Context) error {
	for s := range w.people {
		for n := range perServer {
			name := fmt.Sprintf("s%du%d", s, n)
			var c *matrixclient.Client
			var err error
			if s == centre {
				c = matrixclient.New(w.central.Client)
				err = c.RegisterShared(ctx, w.central.Secret, name, "Rungholt lebt 1362", false)
			} else {
				c = matrixclient.New(w.boxes[s].Client)
				err = c.Register(ctx, name, "Rungholt lebt 1362", "")
			}
			if err != nil {
				return fmt.Errorf("register %s: %w", name, err)
			}
			w.people[s] = append(w.people[s], c)
		}
	}
	return nil
}

// open makes the rooms and brings everybody in.
func (w *world) open(ctx context.Context) error {
	for i, version := range []string{"10", "11", "12"} {
		host := (i + centre) % 3 // version 10 at the centre, 11 and 12 on the boxes
		maker := w.people[host][0]
		users := map[string]int{}
		for s := range w.people {
			if u := w.people[s][0].UserID; version != "12" || s != host {
				users[u] = 100
			}
		}
		id, err := maker.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Preset: "public_chat", Name: "Lage " + version,
			PowerOverride: map[string]any{"users": users}})
		if err != nil {
			return fmt.Errorf("make the room of version %s: %w", version, err)
		}
		r := &room{id: id, version: version, host: host, authors: map[string]string{}}
		w.rooms = append(w.rooms, r)
		via := w.serverName(host)
		for s := range w.people {
			for _, c := range w.people[s] {
				if c == maker {
					continue
				}
				if _, err := c.Join(ctx, id, via); err != nil {
					return fmt.Errorf("%s joins the room of version %s: %w", c.UserID, version, err)
				}
			}
		}
	}
	say("three rooms, %d people on three servers", 3*perServer)
	return nil
}

func (w *world) serverName(s int) string {
	if s == centre {
		return w.central.Name
	}
	return w.boxes[s].Server
}

// weather tells which ways are cut and who is down.
func (w *world) weather() string {
	var out []string
	for i, cut := range w.cutCentre {
		if cut {
			out = append(out, fmt.Sprintf("box %d cut from the centre", i))
		}
	}
	if w.cutWire {
		out = append(out, "boxes cut from each other")
	}
	for s, down := range w.down {
		if down {
			out = append(out, fmt.Sprintf("server %d down", s))
		}
	}
	if out == nil {
		return "all ways open"
	}
	return strings.Join(out, ", ")
}

func (w *world) setCentre(i int, cut bool) {
	w.cutCentre[i] = cut
	w.boxes[i].CutCentre(cut)
}

func (w *world) setWire(cut bool) {
	w.cutWire = cut
	w.boxes[0].CutWire(cut)
	w.boxes[1].CutWire(cut)
}

// setDown kills or stops a server, or starts it again.
func (w *world) setDown(ctx context.Context, s int, down, kill bool) error {
	w.down[s] = down
	switch {
	case !down && s == centre:
		return w.central.Restart(ctx)
	case !down:
		return w.boxes[s].Start(ctx)
	case s == centre:
		return w.central.Stop()
	case kill:
		return w.boxes[s].Kill()
	}
	return w.boxes[s].Stop()
}

// heal ends all faults.
func (w *world) heal(ctx context.Context) error {
	for s, down := range w.down {
		if down {
			if err := w.setDown(ctx, s, false, false); err != nil {
				return err
			}
		}
	}
	for i := range w.boxes {
		w.setCentre(i, false)
	}
	w.setWire(false)
	return nil
}

func (w *world) close() error {
	var errs []error
	for _, b := range w.boxes {
		if b != nil {
			errs = append(errs, b.Close())
		}
	}
	if w.central != nil {
		errs = append(errs, w.central.Close())
	}
	return errors.Join(errs...)
}

// settle waits until everybody is in every room on all servers.
func (w *world) settle(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	for {
		diff, err := w.compareStates(ctx)
		if err == nil && len(diff) == 0 {
			return w.stand(ctx)
		}
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the rooms are not equal before anything happened: %v %v", diff, err)
		}
	}
}

// stand notes the state that all agree on.
func (w *world) stand(ctx context.Context) error {
	w.stood = map[string]bool{}
	for _, r := range w.rooms {
		state, err := stateOf(ctx, w.people[r.host][0], r.id)
		if err != nil {
			return fmt.Errorf("read the state of the room of version %s: %w", r.version, err)
		}
		for _, id := range state {
			w.stood[id] = true
		}
	}
	return nil
}
