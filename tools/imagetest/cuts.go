// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/tools/imagetest/blocklog"
	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
	"hallig/tools/matrixclient"
)

// restarted is how many of the disks are booted after they were judged.
const restarted = 10

// ack is an event that the box has acknowledged, and how long the record of its writes was then.
type ack struct {
	id      string
	entries int
}

// phase is a piece of the record.
type phase struct {
	name     string
	from, to int // entries
}

// life is one recorded life of a box: first boot, messages, an update.
type life struct {
	base      string // the disk before its first power on
	record    *blocklog.Record
	phases    []phase
	acks      []ack
	room      string
	confirmed int // entries when the first message after the update was acknowledged: from then on there is no way back
	systems   [2]offline.System
	people    []*matrixclient.Client
}

// powerCuts records a life and cuts the power in it at many moments.
func powerCuts(r *run) error {
	l, err := r.live()
	if err != nil {
		return err
	}
	defer l.record.Close()
	r.say("recorded %d writes and %d flushes, %.0f MB, %d acknowledged events", len(l.record.Entries), l.record.Flushes(), float64(l.record.Written())/1e6, len(l.acks))
	cuts := l.choose(r.seed, r.options.cuts)
	critical, err := l.critical(r.seed, len(cuts))
	if err != nil {
		return err
	}
	r.say("%d moments by chance, %d around the writes that decide what boots", len(cuts), len(critical))
	cuts = append(cuts, critical...)
	slices.SortStableFunc(cuts, func(a, b chosenCut) int { return a.Durable - b.Durable })
	boots, err := r.judgeAll(l, cuts)
	if err != nil {
		return err
	}
	for i, c := range boots {
		f := []vm.Firmware{vm.BIOS, vm.UEFI}[i%2]
		if err := r.bootAfter(l, c, f); err != nil {
			r.check(false, "%s, booted as %v: %v", c, f, err)
		}
	}
	return nil
}

// chosenCut is a cut in a phase, with the number that names it.
type chosenCut struct {
	blocklog.Cut
	n     int
	phase string
	boot  bool // it is to be booted, too
}

func (c chosenCut) String() string { return fmt.Sprintf("cut %03d during %s: %v", c.n, c.phase, c.Cut) }

// choose spreads the cuts over the phases: one third each, whatever their lengths.
func (l *life) choose(seed uint64, n int) []chosenCut {
	var list []chosenCut
	for i := range n {
		p := l.phases[i%len(l.phases)]
		part := &blocklog.Record{Entries: l.record.Entries[:p.to]}
		list = append(list, chosenCut{Cut: part.Cut(seed*1_000_000+uint64(i), p.from), n: i, phase: p.name, boot: i < restarted})
	}
	return list
}

// mostBoot bounds the cuts around writes to the boot file system: a kernel is many writes, and one is as good as the other.
const mostBoot = 24

// critical are cuts around the writes to which a box owes that it boots: sector 0 and both partition tables, and the boot file system.
func (l *life) critical(seed uint64, n int) (list []chosenCut, err error) {
	d, err := offline.Open(l.base)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	parts, err := d.Partitions(false)
	if err != nil {
		return nil, err
	}
	for _, p := range l.phases {
		cuts := l.record.Around(0, 34*512, p.from, p.to, seed)
		cuts = append(cuts, l.record.Around(d.Size-33*512, d.Size, p.from, p.to, seed)...)
		boot := l.record.Around(parts[1].Start, parts[1].Start+parts[1].Size, p.from, p.to, seed)
		for i, c := range boot {
			// the last writes are those that switch
			if len(boot) <= mostBoot || i >= len(boot)-mostBoot/2 || i%(2*len(boot)/mostBoot) == 0 {
				cuts = append(cuts, c)
			}
		}
		for _, c := range cuts {
			list = append(list, chosenCut{Cut: c, n: n + len(list), phase: p.name})
		}
	}
	return list, nil
}

// due are the events that a disk must hold after a cut: those whose acknowledgement came after a flush that the disk has done.
func (l *life) due(c blocklog.Cut) (ids []string) {
	for _, a := range l.acks {
		last := 0 // the flush that the acknowledgement can have waited for is at or before this one
		for i := min(a.entries, len(l.record.Entries)) - 1; i >= 0; i-- {
			if l.record.Entries[i].Flags&blocklog.Flush != 0 {
				last = i + 1
				break
			}
		}
		if last <= c.Durable {
			ids = append(ids, a.id)
		}
	}
	return ids
}

// judgeAll builds the disks one after the other and judges them beside each other. It returns those that are to be booted; their disks stay.
func (r *run) judgeAll(l *life, cuts []chosenCut) (boot []chosenCut, err error) {
	grown := r.path("grown.img") // has the entries before at, whole
	if err := vm.CopySparse(grown, l.base); err != nil {
		return nil, err
	}
	defer os.Remove(grown)
	f, err := os.OpenFile(grown, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, runtime.NumCPU())
	at := 0
	var torn bool // a disk whose first partition table is torn is among those to be booted
	for i, c := range cuts {
		if err := context.Cause(r); err != nil {
			return nil, err
		}
		if err := l.record.Apply(f, at, c.Durable); err != nil {
			return nil, err
		}
		at = c.Durable
		disk := r.disk(c)
		if err := vm.CopySparse(disk, grown); err != nil {
			return nil, err
		}
		d, err := os.OpenFile(disk, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(l.record.Finish(d, c.Cut), d.Close()); err != nil {
			return nil, err
		}
		if !c.boot && !torn {
			if c.boot, err = tableTorn(disk); err != nil {
				return nil, err
			}
			torn = c.boot
		}
		if c.boot {
			boot = append(boot, c)
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := r.judge(l, c, disk)
			r.add(&r.tally.cuts, 1)
			if err != nil {
				r.check(false, "%s: %v; the disk is kept: %s", c, err, disk)
			} else if !c.boot {
				os.Remove(disk)
			}
		})
		if (i+1)%25 == 0 {
			r.say("%d disks judged", i+1)
		}
	}
	return boot, nil
}

// tableTorn says that the first partition table of a disk is not whole.
func tableTorn(disk string) (bool, error) {
	d, err := offline.Open(disk)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Partitions(false)
	return err != nil, nil
}

func (r *run) disk(c chosenCut) string { return r.path(fmt.Sprintf("cut%03d.img", c.n)) }

// judge reads a disk as the power cut has left it.
func (r *run) judge(l *life, c chosenCut, disk string) error {
	dir := strings.TrimSuffix(disk, ".img")
	defer os.RemoveAll(dir)
	d, err := offline.Open(disk)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, f := range []vm.Firmware{vm.BIOS, vm.UEFI} {
		s, _, err := d.Boots(f, l.systems[:]...)
		if err != nil {
			return fmt.Errorf("%v: %w", f, err)
		}
		if l.confirmed > 0 && c.Durable >= l.confirmed && s.Name != l.systems[1].Name {
			return fmt.Errorf("%v: would boot %s although %s has acknowledged messages", f, s.Name, l.systems[1].Name)
		}
	}
	if err := d.Boot(dir); err != nil {
		return err
	}
	due := l.due(c.Cut)
	switch err := d.Data(dir); {
	case errors.Is(err, offline.ErrNoData) && len(due) == 0:
		return nil
	case err != nil:
		return err
	}
	ctx, stop := r.within(2 * time.Minute)
	defer stop()
	missing, err := offline.Database(ctx, filepath.Join(dir, "hallig"), due)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%d of %d acknowledged events are lost, the first is %s", len(missing), len(due), missing[0])
	}
	return nil
}

// bootAfter switches a machine on with a disk as the power cut has left it.
func (r *run) bootAfter(l *life, c chosenCut, f vm.Firmware) error {
	b, err := r.power(vm.Config{Dir: r.path(fmt.Sprintf("cut%03d", c.n)), Firmware: f, Disk: r.disk(c)}, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	due := l.due(c.Cut)
	r.say("%s: up as %v after %.1f s", c, f, b.took.Seconds())
	if len(due) == 0 {
		return nil
	}
	reader := matrixclient.New(b.URL(portHTTP))
	reader.UserID, reader.Token = l.people[0].UserID, l.people[0].Token
	return b.holds(reader, l.room, due...)
}
