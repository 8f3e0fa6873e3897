// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"time"
)

func idleMemory(ctx context.Context, b *bench) error {
	for name, config := range map[string]map[string]any{
		"rss_idle_bytes": alone(), "rss_idle_p2p_bytes": {"p2p": map[string]any{"listen": []string{"/ip4/127.0.0.1/tcp/0"}}},
	} {
		if !b.wants(name) {
			continue
		}
		err := b.inDir(func(dir string) error {
			box, _, err := start(ctx, b.hallig, dir, config)
			if err != nil {
				return err
			}
			defer box.stop()
			if err := pause(ctx, 5*time.Second); err != nil {
				return err
			}
			rss, err := box.rss()
			b.say(name, float64(rss), "B", "VmRSS of the fresh box 5 s after its start, no client connected")
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
