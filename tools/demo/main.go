// SPDX-License-Identifier: EUPL-1.2

// Command demo plays the main job on one machine: two boxes, a serial line of -rate bit/s (1200) between them, and a central
// server that nobody here wrote. All three share one room; both boxes' ways to the centre are cut, everybody writes on,
// the ways come back. It comments on what travels, counts every event that some server has acknowledged on all three
// servers, compares their state, and ends with one line that says what was lost. The exit status says the same.
//
//	go run ./tools/demo -hallig bin/hallig -seed 1
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

// say writes one line of commentary.
func say(format string, args ...any) {
	fmt.Printf("%6.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func main() {
	hallig := flag.String("hallig", "bin/hallig", "the box's program")
	rate := flag.Int("rate", 1200, "bit/s of the line between the boxes: a cable that lets no more through in each direction, both at once")
	seed := flag.Uint64("seed", 1, "chooses names and texts")
	keep := flag.String("keep", "", "directory to keep data and logs in (default: a temporary one, removed when all went well)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *rate < 50 || *rate > 1_000_000 {
		fmt.Fprintf(os.Stderr, "demo: -rate %d: want 50 to 1000000 bit/s\n", *rate)
		os.Exit(2)
	}
	ctx, done := context.WithTimeout(ctx, slower(10*time.Minute, *rate))
	defer done()
	if err := run(ctx, *hallig, *rate, *seed, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, hallig string, rate int, seed uint64, keep string) error {
	hallig, err := filepath.Abs(hallig)
	if err != nil {
		return err
	}
	dir := keep
	if dir == "" {
		if dir, err = os.MkdirTemp("", "hallig-demo-"); err != nil {
			return err
		}
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tale := newStory(seed)
	result, err := play(ctx, hallig, dir, rate, tale)
	if err == nil {
		err = result.verdict()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo: data and logs are kept in", dir)
	} else if keep == "" {
		err = os.RemoveAll(dir)
	}
	if result != nil {
		fmt.Println(result)
	}
	return err
}

// outcome is what the last line tells.
type outcome struct {
	events, lost, duplicated int
	equal                    bool
	difference               string
}

func (o *outcome) String() string {
	state := "state equal on 3 servers"
	if !o.equal {
		state = "state differs: " + o.difference
	}
	return fmt.Sprintf("demo: %d events, lost %d, duplicated %d, %s", o.events, o.lost, o.duplicated, state)
}

func (o *outcome) verdict() error {
	if o.lost != 0 || o.duplicated != 0 || !o.equal || o.events < 600 {
		return errors.New("the main job was not done")
	}
	return nil
}
