// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/tools/matrixclient"
)

// alone is the configuration of a box without links.
func alone() map[string]any { return map[string]any{"p2p": map[string]any{"off": true}} }

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

// party registers n users, the first of whom makes a room that all join.
func party(ctx context.Context, base string, n int) ([]*matrixclient.Client, string, error) {
	pool := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	var users []*matrixclient.Client
	for i := range n {
		c := matrixclient.New(base)
		c.HTTP = pool
		if err := c.Register(ctx, fmt.Sprintf("helfer%d", i), "feste Deiche, ruhige See", ""); err != nil {
			return nil, "", err
		}
		users = append(users, c)
	}
	room, err := users[0].CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Name: "Lage"})
	if err != nil {
		return nil, "", err
	}
	for _, c := range users[1:] {
		if _, err := c.Join(ctx, room); err != nil {
			return nil, "", err
		}
	}
	return users, room, nil
}

// load sends n texts of 100 characters with the given number of concurrent senders; each waits for its answer.
func load(ctx context.Context, users []*matrixclient.Client, room string, senders, n int) error {
	const text = "Pegel am Siel steigt um zwei Zentimeter je Stunde, Trupp 3 sichert die Pumpe am Nordtor bis 18 Uhr."
	var wg sync.WaitGroup
	errs := make([]error, senders)
	for s := range senders {
		wg.Go(func() {
			c := users[s%len(users)]
			for range n / senders {
				if _, err := c.SendText(ctx, room, text); err != nil {
					errs[s] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func flushes(ctx context.Context, box *box) (int64, error) {
	var s admin.Status
	err := appliance.Ask(ctx, box.dir, "GET", "/status", nil, &s)
	return s.Flushes, err
}

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
