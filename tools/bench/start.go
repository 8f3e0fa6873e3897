// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
)

func startTime(ctx context.Context, b *bench) error {
	return b.inDir(func(dir string) error {
		var times []float64
		for i := range 7 {
			box, took, err := start(ctx, b.hallig, dir, alone())
			if err != nil {
				return err
			}
			if err := box.stop(); err != nil {
				return err
			}
			if i > 0 { // the first start makes keys and schema
				times = append(times, float64(took.Microseconds())/1000)
			}
		}
		b.say("start_to_versions_ms", median(times), "ms", "process start to the first 200 of /versions, existing data directory on disk, median of 6")
		return nil
	})
}
