// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"

	"hallig/sync/recon"
)

// note remembers how the logs of a greeting are numbered.
func (f *far) note(h recon.Hello) {
	f.saidLogs, f.saidKept = nil, nil
	for _, s := range h.Rooms {
		for _, l := range s.Logs {
			f.saidLogs = append(f.saidLogs, recon.Log{Room: s.Room, Box: l.Box, Epoch: l.Epoch})
			f.saidKept = append(f.saidKept, l.Kept)
		}
	}
}

// awaitPull lets the feed go on without a Pull when none comes.
func (f *far) awaitPull(w *way) {
	if !f.feed.Holding() {
		return
	}
	if f.pull.session == f.said { // it was faster than the greeting
		f.applyPull()
		return
	}
	gen := f.gen
	f.l.after(w.patience(), func() {
		if f.gen == gen && !f.closed {
			f.feed.Release()
			f.more = true
			f.pump()
		}
	})
}

// pulled takes what the far end wants in full of others' logs.
func (f *far) pulled(p recon.Pull) {
	if p.Session != f.said {
		return // of an older greeting
	}
	upTo := make(map[recon.Log]uint64, len(p.Logs))
	for _, i := range p.Logs {
		if i < len(f.saidLogs) {
			upTo[f.saidLogs[i]] = f.saidKept[i]
		}
	}
	f.pull.session, f.pull.upTo = p.Session, upTo
	if f.starting == 0 {
		f.applyPull()
	}
}

func (f *far) applyPull() {
	upTo, gen := f.pull.upTo, f.gen
	f.l.work(func(ctx context.Context) func() {
		err := f.feed.Pull(ctx, upTo)
		return func() {
			if err != nil && ctx.Err() == nil {
				f.l.log.Error("pull could not be used", "peer", f.p.Server, "err", err)
			}
			if f.gen == gen && !f.closed {
				f.more = true
				f.pump()
			}
		}
	})
}
