// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"hallig/tools/imagetest/vm"
)

// tally counts over all scenarios.
type tally struct {
	mu                                      sync.Mutex
	boots, updates, rollbacks, cuts, failed int
	times                                   []string // what took how long, for the closing note
}

func (t *tally) add(n *int, k int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*n += k
}

func (t *tally) fail(name string, err error) {
	t.add(&t.failed, 1)
	fmt.Printf("FAIL %s: %v\n", name, err)
}

func (t *tally) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.times = append(t.times, fmt.Sprintf(format, args...))
}

// report writes the figures and, as the last line, the result.
func (t *tally) report(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, line := range t.times {
		fmt.Fprintln(w, "figure:", line)
	}
	fmt.Fprintf(w, "image-test: %d boots, %d updates, %d rollbacks, %d power cuts, %d failed\n", t.boots, t.updates, t.rollbacks, t.cuts, t.failed)
}

// run is one playing of a scenario.
type run struct {
	context.Context //nolint:containedctx // a run is one call
	options
	*tally
	dir   string
	name  string
	began time.Time

	machines []*vm.VM // all that were switched on
	faults   atomic.Int32
}

// say writes one line of the story.
func (r *run) say(format string, args ...any) {
	fmt.Printf("%-9s %6.1f s  %s\n", r.name, time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// check counts a failure and goes on.
func (r *run) check(ok bool, format string, args ...any) bool {
	if !ok {
		r.wrong(fmt.Errorf(format, args...))
	}
	return ok
}

// wrong counts a failure.
func (r *run) wrong(err error) {
	r.faults.Add(1)
	r.fail(r.name, err)
}

// close switches off what still runs.
func (r *run) close() {
	for _, m := range r.machines {
		m.Kill()
	}
}

func (r *run) path(name string) string { return filepath.Join(r.dir, name) }

// within bounds a part of the story.
func (r *run) within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r, d*time.Duration(max(r.slow, 1)))
}

// board is the image that a kind of machine takes.
func board(f vm.Firmware) string {
	if f == vm.ARM64 {
		return "arm64"
	}
	return "amd64"
}

// image is the file of an image; make image makes it.
func (r *run) image(f vm.Firmware) (string, error) {
	name := filepath.Join(r.images, "hallig-"+board(f)+".img")
	if _, err := os.Stat(name); err != nil {
		return "", fmt.Errorf("no image: %w; make it with: make image BOARD=%s", err, board(f))
	}
	return name, nil
}

// newDisk writes the image to a new disk of 4 GiB.
func (r *run) newDisk(f vm.Firmware, name string) (string, error) {
	img, err := r.image(f)
	if err != nil {
		return "", err
	}
	disk := r.path(name + ".img")
	return disk, vm.NewDisk(disk, img, 4<<30)
}
