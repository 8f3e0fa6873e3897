// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
)

func loneMessage(ctx context.Context, b *bench) error {
	const n = 400
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
		if err := load(ctx, users, room, 1, 100); err != nil {
			return err
		}
		written0, err1 := box.written()
		err2 := load(ctx, users, room, 1, n)
		written1, err3 := box.written()
		if err := errors.Join(err1, err2, err3); err != nil {
			return err
		}
		b.say("disk_bytes_lone_message", float64(written1-written0)/n, "B", "write_bytes of the process, one sender that waits for each answer, mean of 400, log and checkpoints included")
		return nil
	})
}
