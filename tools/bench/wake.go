// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"time"

	"hallig/tools/matrixclient"
)

func sendToSync(ctx context.Context, b *bench) error {
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
		first, err := users[1].Sync(ctx, matrixclient.SyncOptions{})
		if err != nil {
			return err
		}
		seen := make(chan string, 16)
		follow, stop := context.WithCancel(ctx)
		defer stop()
		done := make(chan error, 1)
		go func() { // ended by stop; waited for below
			_, err := users[1].Follow(follow, first.NextBatch, func(r *matrixclient.SyncResponse) bool {
				for _, e := range r.Rooms.Join[room].Timeline.Events {
					seen <- e.Body()
				}
				return false
			})
			done <- err
		}()
		var times []float64
		for i := range n {
			text := fmt.Sprintf("Meldung %d vom Deich", i)
			begin := time.Now()
			if _, err := users[0].SendText(ctx, room, text); err != nil {
				return err
			}
			for got := ""; got != text; {
				select {
				case got = <-seen:
				case <-time.After(10 * time.Second):
					return fmt.Errorf("message %d was not seen in /sync within 10 s", i)
				}
			}
			times = append(times, float64(time.Since(begin).Microseconds())/1000)
		}
		stop()
		<-done
		how := "request of the sender to the answered long poll of another user, 400 messages one by one, 8 members"
		b.say("send_to_sync_p50_ms", quantile(times, 0.5), "ms", how)
		b.say("send_to_sync_p99_ms", quantile(times, 0.99), "ms", how)
		return nil
	})
}
