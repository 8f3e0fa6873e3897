// SPDX-License-Identifier: EUPL-1.2

// Command homecoming plays what Hallig exists for: a box and a central server that nobody here wrote share rooms, the link between them is cut for 21 days while
// people on both sides go on writing, then it is joined, and the two must come together by themselves: every event in the /sync of a client that was there before, on
// both sides, once, and the same state.
//
//	go run ./tools/homecoming -hallig bin/hallig -seed 1 -events 10000 -rate 1000000
//
// The central server is Dendrite (tools/dendrite), and after that a real Synapse where HALLIG_SYNAPSE says how to reach one (synapse.go). Nothing in them is changed.
//
// What is shifted: the box's clock. When the link is cut a satellite receiver on a pseudo terminal (clock_gps) tells the box that it is 21 days ago, and moves on in three steps of
// a week while people write, so that their events are as old as they would be. Rooms and keys are from before that, and not older than the run. The central server's clock cannot
// be shifted: its people write all their events now. Instead it is put where 21 days would have put it: Dendrite is told to give up after 3 failures in place of 16 (18 hours), and
// has given up before most of its events are written; Synapse (see README, "Coming home") is to be started with a first back-off of a week.
//
// With -hub the box is behind a hallig-hub (hub.go): it has no port of its own, and what is cut is its way to the hub. The central server goes on sending, and must not notice: it never
// enters a back-off; its people claim one-time keys of people on the dark box and write to them under these, which must be readable in the end.
//
// The last line is the verdict; the exit status says the same. With -kills, the box, the central server or the hub is killed (SIGKILL) at so many random moments of each homecoming and
// started again; -rounds plays several homecomings in one world. A Dendrite that is killed may have an event, tell the box so, and not show it in /sync, and gives messages between devices out
// twice when it dies over a transaction, or when the one who sends it does, since it keeps rooms, timelines and devices in databases of their own and the numbers of transactions in memory, and
// lets go of a transaction in its middle when the connection breaks. That is told and counted apart:
// what it answers for to the box when it is asked once more, after all was over, it has, and no server can do more for it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

var began = time.Now() // of the process: the clock of the commentary

func say(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

// options are what the command line says.
type options struct {
	hallig, peer, keep string
	hub                string // its program; "": there is none
	seed               uint64
	events, rooms      int
	rate               int
	kills, rounds      int
	patience, limit    time.Duration
	lag                bool
}

func main() {
	var o options
	flag.StringVar(&o.hallig, "hallig", "bin/hallig", "the box's program")
	flag.StringVar(&o.hub, "hub", "", "the hub's program: the box is behind it (default: there is no hub)")
	flag.StringVar(&o.peer, "peer", "", "dendrite or synapse (default: both, Synapse where HALLIG_SYNAPSE is set)")
	flag.StringVar(&o.keep, "keep", "", "directory to keep data and logs in (default: a temporary one, removed when all went well)")
	flag.Uint64Var(&o.seed, "seed", 1, "chooses who writes what where, and who is killed when")
	flag.IntVar(&o.events, "events", 10000, "how many events on each side")
	flag.IntVar(&o.rooms, "rooms", 20, "in how many rooms")
	flag.IntVar(&o.rate, "rate", 0, "bits per second of the link that comes back, each way (0: as fast as it goes)")
	flag.IntVar(&o.kills, "kills", 0, "kill -9 of the box, of the central server or of the hub at so many random moments of each homecoming")
	flag.IntVar(&o.rounds, "rounds", 1, "how many homecomings, one after the other")
	flag.DurationVar(&o.patience, "patience", 2*time.Minute, "give what has not come up when nothing has come for so long")
	flag.DurationVar(&o.limit, "limit", time.Hour, "give up after this long")
	flag.BoolVar(&o.lag, "lag", true, "shift the box's clock by 21 days")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, done := context.WithTimeout(ctx, o.limit)
	defer done()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "homecoming:", err)
		os.Exit(1)
	}
}

// run plays against each central server there is.
func run(ctx context.Context, o options) error {
	var err error
	for _, program := range []*string{&o.hallig, &o.hub} {
		if *program == "" {
			continue
		}
		if *program, err = filepath.Abs(*program); err != nil {
			return err
		}
	}
	dir := o.keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "hallig-homecoming-"); err != nil {
			return err
		}
	} else if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	var all []*verdict
	for _, name := range []string{"dendrite", "synapse"} {
		if o.peer != "" && o.peer != name {
			continue
		}
		if name == "synapse" && os.Getenv(synapseEnv) == "" {
			say("SKIPPED: homecoming to a real Synapse, as %s is not set; README.md, \"Coming home\", tells how", synapseEnv)
			continue
		}
		vs, perr := play(ctx, o, name, filepath.Join(dir, name))
		all = append(all, vs...)
		err = errors.Join(err, perr)
	}
	for _, v := range all {
		err = errors.Join(err, v.failure())
	}
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "homecoming: data and logs are kept in", dir)
	case o.keep == "":
		err = os.RemoveAll(dir)
	}
	if len(all) == 0 {
		return errors.Join(err, errors.New("nothing was played"))
	}
	fmt.Println(sum(all))
	return err
}

// play is some homecomings to one central server.
func play(ctx context.Context, o options, peer, dir string) (out []*verdict, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	w, err := build(ctx, o, peer, dir)
	defer func() { err = errors.Join(err, w.close()) }()
	if err != nil {
		return nil, err
	}
	for n := range o.rounds {
		v, err := w.round(ctx, n)
		if v != nil {
			out = append(out, v)
			v.tell()
		}
		if err != nil {
			return out, err
		}
		if err := v.failure(); err != nil {
			return out, nil // the data show it as it was; sum tells
		}
	}
	return out, nil
}
