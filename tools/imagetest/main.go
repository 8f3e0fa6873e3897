// SPDX-License-Identifier: EUPL-1.2

// Command imagetest tries the images of `make image` as boxes are used: it boots them in QEMU, plugs things in and out, updates them, pulls
// the plug at every bad moment, and reads the disks that are left. It ends with one line that counts what was tried and what failed:
//
//	image-test: N boots, N updates, N rollbacks, N power cuts, 0 failed
//
// Each scenario is a told story with its own bound in time; -only takes some of them by name, -smoke the short way that CI goes. A failed
// scenario keeps its directory (disks, console, records), and its seed says the same story again.
//
//	go run ./tools/imagetest -images bin/image -only boots,update -seed 7
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// scenario is one story.
type scenario struct {
	name  string
	story string
	bound time.Duration // on a machine with two idle cores and no KVM
	play  func(*run) error
	// beside says that the story is one machine alone with its clock, and is played beside the others.
	beside bool
}

var scenarios = []scenario{
	{name: "smoke", story: "an amd64 box with UEFI is switched on; two people register and one writes to the other", bound: 4 * time.Minute, play: smoke},
	{name: "boots", story: "each kind of machine is switched on for the first time, two people write to each other, it is switched on again", bound: 12 * time.Minute, play: boots},
	{name: "provision", story: "a box is prepared by a file on its disk or on a stick; a wrong file is refused and says why", bound: 8 * time.Minute, play: provisioned},
	{name: "update", story: "a box takes a signed update from the page and from a stick, refuses what is wrong, goes back by itself from what does not work", bound: 20 * time.Minute, play: updates},
	{name: "hub", story: "a box fetches an update from its hub, which dies meanwhile; one that does not work goes back by itself, and the hub tells nobody of it any more", bound: 30 * time.Minute, play: updatesFromHub},
	{name: "upgrade", story: "a box of every released version is taken to the new one", bound: 20 * time.Minute, play: upgrades},
	{name: "cuts", story: "the power fails at 100 moments of first boot, messages and update", bound: 20 * time.Minute, play: powerCuts},
	{name: "serial", story: "two boxes know each other by a serial line of 1200 bit/s alone, whose adapter comes late", bound: 12 * time.Minute, play: serialLine},
	{name: "small", story: "a box with 256 MB serves 20 people", bound: 6 * time.Minute, play: small},
	{name: "egress", story: "a box idles for 24 hours; nothing leaves it but what its manual says", bound: 50 * time.Minute, play: egress, beside: true},
	{name: "spare", story: "a box backs itself up to a stick and drowns; a new one takes over with the stick and the key, under the old name", bound: 12 * time.Minute, play: spareBox},
	{name: "locked", story: "a box with encrypted data: what a thief finds, who opens it, what a power cut takes", bound: 15 * time.Minute, play: lockedBox},
	{name: "radio", story: "two boxes know each other by USB radios that the kernel has no driver for, plugged in while they run", bound: 12 * time.Minute, play: usbRadio},
	{name: "stick", story: "two boxes have nothing but a FAT32 stick between them; it is carried to and fro, and pulled out in the middle of things", bound: 12 * time.Minute, play: stickBetween},
	{name: "lan", story: "a box alone on a wire serves addresses, names and its page; nobody finds a port that is not in the manual", bound: 6 * time.Minute, play: lan},
}

// options are the flags.
type options struct {
	images, work, only string
	smoke, keep        bool
	seed               uint64
	cuts, slow         int
	inside             string
}

func main() {
	var o options
	flag.StringVar(&o.images, "images", "bin/image", "directory with the results of make image")
	flag.StringVar(&o.work, "work", "", "directory for disks and records (default: a temporary one); needs 6 GB")
	flag.StringVar(&o.only, "only", "", "names of scenarios, with commas between them")
	flag.BoolVar(&o.smoke, "smoke", false, "only the short way that CI goes")
	flag.BoolVar(&o.keep, "keep", false, "keep the directories of scenarios that went well, too")
	flag.Uint64Var(&o.seed, "seed", 1, "chooses the moments of the power cuts")
	flag.IntVar(&o.cuts, "cuts", 100, "how many disks are rebuilt after a power cut")
	flag.IntVar(&o.slow, "slow", 1, "multiply all bounds in time by this, on a machine that has other things to do")
	flag.StringVar(&o.inside, "inside", "", "used by the program itself: play this scenario, in a network of its own")
	list := flag.Bool("list", false, "name the scenarios")
	flag.Parse()
	if *list {
		for _, s := range scenarios {
			fmt.Printf("%-10s %s (at most %v)\n", s.name, s.story, s.bound)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := playAll(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "imagetest:", err)
		code = 2
	}
	stop()
	os.Exit(code)
}

// chosen are the scenarios that the flags ask for. smoke is a part of boots, so it is played only when it is named.
func chosen(o options) ([]scenario, error) {
	if o.smoke {
		o.only = "smoke"
	}
	if o.only == "" {
		return scenarios[1:], nil
	}
	var list []scenario
	for name := range strings.SplitSeq(o.only, ",") {
		i := slices.IndexFunc(scenarios, func(s scenario) bool { return s.name == strings.TrimSpace(name) })
		if i < 0 {
			return nil, fmt.Errorf("there is no scenario %q; -list names them", name)
		}
		list = append(list, scenarios[i])
	}
	return list, nil
}

func playAll(ctx context.Context, o options) (code int, err error) {
	list, err := chosen(o)
	if err != nil {
		return 0, err
	}
	work := o.work
	if work == "" {
		if work, err = os.MkdirTemp("", "hallig-imagetest-"); err != nil {
			return 0, err
		}
		defer os.Remove(work) // goes when nothing was kept in it
	}
	if work, err = filepath.Abs(work); err != nil {
		return 0, err
	}
	total := &tally{}
	var beside sync.WaitGroup
	for _, s := range list {
		if s.beside {
			beside.Go(func() { playOne(ctx, s, o, work, total) })
		}
	}
	for _, s := range list {
		if !s.beside && ctx.Err() == nil {
			playOne(ctx, s, o, work, total)
		}
	}
	beside.Wait()
	if ctx.Err() != nil {
		total.fail("", errors.New("interrupted"))
	}
	total.report(os.Stdout)
	if total.failed > 0 {
		return 1, nil
	}
	return 0, nil
}

// playOne plays a scenario within its bound and cleans up behind it.
func playOne(ctx context.Context, s scenario, o options, work string, total *tally) {
	bound := s.bound * time.Duration(max(o.slow, 1))
	ctx, stop := context.WithTimeoutCause(ctx, bound, fmt.Errorf("the story takes longer than %v", bound))
	defer stop()
	dir := filepath.Join(work, s.name)
	r := &run{Context: ctx, options: o, dir: dir, name: s.name, tally: total, began: time.Now()}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		r.wrong(err)
		return
	}
	r.say("%s", s.story)
	err := s.play(r)
	r.close()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w (%w)", err, cause)
		}
		r.wrong(err)
	}
	good := r.faults.Load() == 0
	r.say("%s after %.0f s", map[bool]string{true: "went well", false: "FAILED; kept in " + dir}[good], time.Since(r.began).Seconds())
	if good && !o.keep {
		if err := os.RemoveAll(dir); err != nil {
			r.wrong(err)
		}
	}
}
