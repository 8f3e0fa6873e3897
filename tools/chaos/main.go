// SPDX-License-Identifier: EUPL-1.2

// Command chaos lets two boxes and a central server that nobody here wrote share rooms through a random schedule of writing, moderating, partitions and
// crashes, heals everything, and compares: every event that some server acknowledged must be on all three, unless the law forbids it there, and
// the state of each room must be the same event for event at both boxes, and be what the law gives: the whole graph is judged anew (graph.go). The same seed makes
// the same schedule; what the machine's speed makes of it differs.
//
//	go run ./tools/chaos -hallig bin/hallig -seed 1 -actions 5000
//
// The last line is the verdict; the exit status says the same. Rooms are of versions 10, 11 and 12; redactions are compared in version 10 only, as the
// central server ignores those of later versions and shows them to nobody.
//
// The central server's library has known faults of state resolution (tools/oracle lists them with the sentences of the specification): where moderation stands
// beside what it moderates, it keeps a self-made leave against a kick, or falls back to an older event. What it alone decides otherwise or refuses is listed and
// counted apart, and so is what it swallowed itself: an event that it answered for, refused in the same breath (its log says so) and gave to nobody. A key
// that the boxes decide differently, or whose event has not reached the central server, is a difference.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

var began = time.Now() // of the process: the clock of the commentary

func say(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func main() {
	hallig := flag.String("hallig", "bin/hallig", "the box's program")
	seed := flag.Uint64("seed", 1, "chooses the schedule")
	actions := flag.Int("actions", 5000, "how many actions")
	fights := flag.Bool("fights", false, "change the law of a room on several servers at once; the central server's state is then listed, not judged")
	keep := flag.String("keep", "", "directory to keep data and logs in (default: a temporary one, removed when all went well)")
	limit := flag.Duration("limit", 40*time.Minute, "give up after this long")
	again := flag.String("again", "", "play nothing: judge the boxes of an earlier run's directory by the law")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, done := context.WithTimeout(ctx, *limit)
	defer done()
	if *again != "" {
		if err := judgeAgain(ctx, *again); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(1)
		}
		return
	}
	if err := run(ctx, *hallig, *seed, *actions, *fights, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, hallig string, seed uint64, actions int, fights bool, keep string) error {
	hallig, err := filepath.Abs(hallig)
	if err != nil {
		return err
	}
	dir := keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "hallig-chaos-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	result, err := play(ctx, hallig, dir, seed, actions, fights)
	if err == nil {
		err = result.failure()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos: data and logs are kept in", dir)
	} else if keep == "" {
		err = os.RemoveAll(dir)
	}
	if result != nil {
		fmt.Println(result)
	}
	return err
}

func play(ctx context.Context, hallig, dir string, seed uint64, actions int, fights bool) (*verdict, error) {
	log, err := os.Create(filepath.Join(dir, "actions.txt"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	w, err := build(ctx, hallig, dir, seed, fights, log)
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	v, err := w.story(ctx, actions)
	return v, errors.Join(err, w.close())
}

// story runs the schedule, heals and judges.
func (w *world) story(ctx context.Context, actions int) (*verdict, error) {
	if err := w.settle(ctx); err != nil {
		return nil, err
	}
	last := time.Now()
	for n := range actions {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := w.act(ctx, n); err != nil {
			return nil, fmt.Errorf("action %d: %w", n, err)
		}
		if time.Since(last) > 10*time.Second {
			last = time.Now()
			say("%d of %d actions, %d events acknowledged, %s", n+1, actions, len(w.acked), w.weather())
		}
	}
	say("all %d actions done, %d events acknowledged, %d requests refused; healing", actions, len(w.acked), w.refused)
	if err := w.heal(ctx); err != nil {
		return nil, err
	}
	return w.judge(ctx)
}

var eventID = regexp.MustCompile(`\$[A-Za-z0-9_-]{43}`)

// judgeAgain looks, in what an earlier run has kept, for what a box has decided otherwise than the law.
func judgeAgain(ctx context.Context, dir string) error {
	dbs, err := openBoxes(ctx, [2]string{filepath.Join(dir, "box0"), filepath.Join(dir, "box1")})
	if err != nil {
		return err
	}
	var rooms []*room
	var ids []string
	err = dbs[0].View(ctx, func(r *store.Read) error {
		known, err := r.Rooms()
		for _, id := range known {
			row, e := r.Room(id)
			if err = errors.Join(err, e); err != nil {
				return err
			}
			rooms, ids = append(rooms, &room{id: string(id), version: row.Version}), append(ids, string(id))
		}
		return err
	})
	if err != nil {
		return err
	}
	actions, err := os.ReadFile(filepath.Join(dir, "actions.txt"))
	if err != nil {
		return err
	}
	v := &verdict{}
	err = withGraphs(ctx, dbs, ids, func(graphs map[string]*graph) error {
		for _, g := range graphs {
			for _, id := range eventID.FindAll(actions, -1) {
				if _, err := g.rule(event.ID(id)); err != nil {
					return err
				}
			}
		}
		return countFaults(v, graphs, rooms)
	})
	if err = errors.Join(err, dbs[0].Close(), dbs[1].Close()); err != nil {
		return err
	}
	say("%d decisions differ from the law", len(v.difference))
	return v.failure()
}
