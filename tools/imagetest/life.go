// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"hallig/tools/imagetest/blocklog"
	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
	"hallig/tools/matrixclient"
)

// live lets a box live a day with every write recorded: first boot, people who write, an update under which they go on writing.
func (r *run) live() (*life, error) {
	l := &life{base: r.path("base.img")}
	disk, err := r.newDisk(vm.BIOS, "base")
	if err != nil {
		return nil, err
	}
	l.base = disk
	released, err := r.released(vm.BIOS)
	if err != nil {
		return nil, err
	}
	newer, err := r.derive(released, change{name: "newer", version: "newer-1", step: 1, root: func(root string) error {
		return newRelease(root, "newer-1", released.manifest.Release+1)
	}})
	if err != nil {
		return nil, err
	}
	l.systems = [2]offline.System{released.system(), newer.system()}
	c := vm.Config{Dir: r.path("life"), Disk: r.path("life.img"), Record: r.path("life.record")}
	if err := vm.CopySparse(c.Disk, l.base); err != nil {
		return nil, err
	}
	if err := os.WriteFile(c.Record, nil, 0o644); err != nil {
		return nil, err
	}
	b, err := r.power(c, firstBoot)
	if err != nil {
		return nil, err
	}
	r.say("first boot is recorded; the box answers after %.1f s", b.took.Seconds())
	if err := b.enrol("antje", "boy"); err != nil {
		return nil, err
	}
	if l.room, _, err = b.converse("Pegel 340, steigend"); err != nil {
		return nil, err
	}
	l.people = b.people
	w := &writers{run: r, b: b, l: l}
	if err := w.end("first boot"); err != nil {
		return nil, err
	}
	if err := w.write(100); err != nil {
		return nil, err
	}
	if err := w.end("messages"); err != nil {
		return nil, err
	}
	if err := w.update(newer); err != nil {
		return nil, err
	}
	if err := w.end("update"); err != nil {
		return nil, err
	}
	b.Kill()
	if err := os.Remove(c.Disk); err != nil {
		return nil, err
	}
	if l.record, err = blocklog.Open(c.Record); err != nil {
		return nil, err
	}
	for _, p := range l.phases {
		r.say("%-10s entries %d to %d", p.name, p.from, p.to)
	}
	return l, nil
}

// writers are the people of a recorded life.
type writers struct {
	*run
	b  *box
	l  *life
	mu sync.Mutex // guards l.acks
}

// end closes a phase of the record.
func (w *writers) end(name string) error {
	n, err := blocklog.Length(w.b.Record)
	if err != nil {
		return err
	}
	from := 0
	if k := len(w.l.phases); k > 0 {
		from = w.l.phases[k-1].to
	}
	w.l.phases = append(w.l.phases, phase{name, from, n})
	return nil
}

// send sends one message and notes when it was acknowledged.
func (w *writers) send(ctx context.Context, c *matrixclient.Client, text string) error {
	id, err := c.SendText(ctx, w.l.room, text)
	if err != nil {
		return err
	}
	n, err := blocklog.Length(w.b.Record)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.l.acks = append(w.l.acks, ack{id, n})
	return nil
}

// write has everybody send n messages, each as soon as the one before is acknowledged.
func (w *writers) write(n int) error {
	ctx, stop := w.within(4 * time.Minute)
	defer stop()
	var wg sync.WaitGroup
	errs := make(chan error, len(w.b.people))
	for i, c := range w.b.people {
		wg.Go(func() {
			for k := range n {
				if err := w.send(ctx, c, fmt.Sprintf("Meldung %d.%d", i, k)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return fmt.Errorf("send: %w", err)
	default:
		return nil
	}
}

// update installs while somebody goes on writing. What the box refuses meanwhile is written again; what it acknowledges counts.
func (w *writers) update(u *bundle) error {
	ctx, stop := w.within(12 * time.Minute)
	defer stop()
	br, err := w.b.browse(ctx, w.b.people[0].UserID)
	if err != nil {
		return err
	}
	writing, done := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for k := 0; writing.Err() == nil; k++ {
			try, end := context.WithTimeout(writing, 10*time.Second)
			_ = w.send(try, w.b.people[1], fmt.Sprintf("unter dem Update %d", k)) // refused or lost: it was not acknowledged
			end()
			select {
			case <-writing.Done():
			case <-time.After(300 * time.Millisecond):
			}
		}
	})
	err = w.install(br, u)
	if err == nil {
		err = w.confirmed(br, u)
	}
	done()
	wg.Wait()
	if err != nil {
		return err
	}
	if w.l.confirmed, err = blocklog.Length(w.b.Record); err != nil {
		return err
	}
	return w.write(5)
}
