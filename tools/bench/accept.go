// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"time"
)

func accept(ctx context.Context, b *bench) error {
	const senders, n, rounds = 10, 3000, 5
	return b.inDir(func(dir string) error {
		box, _, err := start(ctx, b.hallig, dir, alone())
		if err != nil {
			return err
		}
		defer box.stop()
		users, room, err := party(ctx, box.base, 8)
		if err != nil {
			return err
		}
		if err := load(ctx, users, room, senders, 500); err != nil {
			return err
		}
		var perCPU, perS, disk, flush []float64
		for range rounds {
			cpu0, err1 := box.cpu()
			written0, err2 := box.written()
			flush0, err3 := flushes(ctx, box)
			begin := time.Now()
			err4 := load(ctx, users, room, senders, n)
			took := time.Since(begin)
			cpu1, err5 := box.cpu()
			written1, err6 := box.written()
			flush1, err7 := flushes(ctx, box)
			if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
				return err
			}
			perCPU = append(perCPU, n/(cpu1-cpu0).Seconds())
			perS = append(perS, n/took.Seconds())
			disk = append(disk, float64(written1-written0)/n)
			flush = append(flush, float64(flush1-flush0)/n)
		}
		how := "1 room, 8 members, 10 concurrent senders over loopback HTTP, durable answers, no sync client, median of 5 rounds of 3000; "
		b.say("accept_per_cpu_s", median(perCPU), "1/s", how+"per second of utime + stime of the server process")
		b.say("accept_per_s", median(perS), "1/s", how+"per second of wall time, load and server on one machine")
		b.say("disk_bytes_per_message", median(disk), "B", how+"write_bytes of the process, log and checkpoints included")
		b.say("flushes_per_message", median(flush), "1", how+"commits that were flushed and flushes of checkpoints, counted by the store")
		return nil
	})
}
