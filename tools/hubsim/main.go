// SPDX-License-Identifier: EUPL-1.2

// Command hubsim puts many boxes before a hub and says what one costs, and what gives way first. Nodes of the hub are processes of their own, boxes live together in others, the far
// server that writes to them is this program. It counts what was answered 200 and never came to its box.
//
//	go run ./tools/hubsim -boxes 1000                        one node of bin/hallig-hub with SQLite; boxes are real libp2p hosts
//	go run ./tools/hubsim -boxes 600 -nodes 3                three nodes, PostgreSQL; each is killed at the end, one after the other
//	go run ./tools/hubsim -boxes 10000 -nodes 3 -slow 20     as many as the hub is made for, in slow time: 6 GB of memory
//	go run ./tools/hubsim -with spool -boxes 10000 -nodes 3  the nodes' memory alone, where so many hosts do not fit one machine: leases, words between nodes, queues
//
// Without -slow all is in real time. With it the clocks of nodes, boxes and this program go so many times slower (tools/slowclock), so two processors do the work of forty: every second that is printed is one of the slow
// clock, CPU time is what it is. PostgreSQL is as fast as the machine and only its patience is longer. -cores gives each node so many processors of the slow time and no more, where the kernel lets us.
// Figures depend on what else the machine does: its load is printed beside them. PostgreSQL comes from Debian's package (tools/testpostgres).
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"
)

// options are what the command line says.
type options struct {
	hub   string // program
	with  string
	boxes int
	dark  int // further boxes in the roster, that are away
	nodes int
	idle  time.Duration
	step  time.Duration
	rates string
	kills int
	wave  int
	slow  int     // how many times slower the clocks go
	cores float64 // of one node, of the slow time; 0: as many as there are
	dir   string
}

func main() {
	if role := os.Getenv(roleEnv); role != "" {
		if err := roles[role](os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "hubsim %s: %v\n", role, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.hub, "hub", "bin/hallig-hub", "the program to measure")
	flag.StringVar(&o.with, "with", "hub", "hub: the whole hub with hosts that connect to it; spool: its memory alone")
	flag.IntVar(&o.boxes, "boxes", 1000, "boxes in all")
	flag.IntVar(&o.dark, "dark", 0, "further boxes, paired and away all the time")
	flag.IntVar(&o.nodes, "nodes", 1, "nodes of the hub; more than one share a PostgreSQL database")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long idling is measured")
	flag.DurationVar(&o.step, "step", 10*time.Second, "how long each rate is kept up")
	flag.StringVar(&o.rates, "rates", "25,50,100,200,400", "transactions a second, one step after the other")
	flag.IntVar(&o.wave, "wave", 2000, "boxes that come at once, in thousands")
	flag.IntVar(&o.kills, "kills", -1, "how often a node is killed at the end; -1: each once, when there are several")
	flag.IntVar(&o.slow, "slow", 1, "how many times slower all clocks go, so that the processors do so much more in a second of theirs; takes minutes the first time")
	flag.Float64Var(&o.cores, "cores", 0, "processors of each node, in the slow time; needs root; 0: no limit")
	flag.Parse()
	o.wave = max(o.wave/perProcess*perProcess, perProcess)
	if o.kills < 0 {
		o.kills = o.nodes
	}
	if o.nodes < 2 {
		o.kills = 0 // there is nowhere to go
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if o.slow > 1 && os.Getenv(slowedEnv) == "" {
		if err := runSlowed(ctx, o.slow, os.Args[1:], os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "hubsim: %v\n", err)
			os.Exit(1)
		}
		return
	}
	story := map[string]func(context.Context, *options) error{"hub": wholeHub, "spool": spoolAlone}[o.with]
	if story == nil || o.boxes < o.nodes || o.nodes < 1 {
		fmt.Fprintln(os.Stderr, "hubsim: want -with hub or -with spool, at least one node and a box for each; -h tells more")
		os.Exit(2)
	}
	var err error
	if o.dir, err = os.MkdirTemp("", "hubsim-"); err == nil {
		err = story(ctx, &o)
		os.RemoveAll(o.dir)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "hubsim: %v\n", err)
		os.Exit(1)
	}
}

// say prints a figure.
func say(name string, value float64, unit, how string) {
	load, _ := os.ReadFile("/proc/loadavg")
	busy, _, _ := strings.Cut(string(load), " ")
	fmt.Printf("# %s: %s; load of the machine %s\nhubsim %s %.4g %s\n", name, how, busy, name, value, unit)
}

// boxName is the server name of a box.
func boxName(i int) string { return fmt.Sprintf("box%d.boxes.test", i) }
