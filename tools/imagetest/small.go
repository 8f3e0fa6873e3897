// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallig/appliance/provision"
	"hallig/tools/imagetest/vm"
	"hallig/tools/matrixclient"
)

// what the box says to whoever watches it
const metricsToken = "imagetest-reads-metrics"

// smallLimit is the resident memory of all our processes together.
const smallLimit = 80e6

// small puts 20 people on a box with 256 MB, and has all of them write and read at once.
func small(r *run) error {
	const people, messages = 20, 5
	// Through the emulated network all 20 come from one address, which the limits would take for one person who guesses.
	disk, err := r.preparedDisk(vm.BIOS, "small", provision.File{Config: []byte(`{"no_rate_limits":true,"metrics_token":"` + metricsToken + `"}`)})
	if err != nil {
		return err
	}
	b, err := r.power(vm.Config{Dir: r.path("small"), Disk: disk, Memory: 256}, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	r.say("a machine with 256 MB answers after %.1f s", b.took.Seconds())
	names := []string{"antje"}
	for i := 1; i < people; i++ {
		names = append(names, fmt.Sprintf("helfer%02d", i))
	}
	if err := b.enrol(names[:2]...); err != nil {
		return err
	}
	ctx, stop := r.within(5 * time.Minute)
	defer stop()
	token, err := b.inviteCode(ctx, b.people[0], people)
	if err != nil {
		return err
	}
	for _, n := range names[2:] {
		if _, err := b.register(ctx, n, token); err != nil {
			return err
		}
	}
	r.say("%d people are registered", len(b.people))
	room, err := b.people[0].CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", Name: "Einsatz"})
	if err != nil {
		return err
	}
	for _, p := range b.people[1:] {
		if _, err := p.Join(ctx, room); err != nil {
			return err
		}
	}
	if err := r.everybodyTalks(ctx, b, room, messages); err != nil {
		return err
	}
	return r.memory(ctx, b, people)
}

// everybodyTalks: each sends n messages while each reads all that the others send.
func (r *run) everybodyTalks(ctx context.Context, b *box, room string, n int) error {
	began := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]bool{} // acknowledged; guarded by mu
	errs := make(chan error, 2*len(b.people))
	got := make([]map[string]bool, len(b.people))
	start := make(chan struct{})
	for i, p := range b.people {
		got[i] = map[string]bool{}
		wg.Go(func() {
			select {
			case <-start:
			case <-ctx.Done():
				return
			}
			for k := range n {
				id, err := p.SendText(ctx, room, fmt.Sprintf("Meldung %d von %s", k, p.UserID))
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				ids[id] = true
				mu.Unlock()
			}
		})
		first, err := p.Sync(ctx, matrixclient.SyncOptions{})
		if err != nil {
			return err
		}
		wg.Go(func() {
			// A slow reader's timeline has gaps, which it fills by paging back; so whoever meets one is done here and pages below.
			_, err := p.Follow(ctx, first.NextBatch, func(s *matrixclient.SyncResponse) bool {
				for _, e := range s.Rooms.Join[room].Timeline.Events {
					if e.Type == "m.room.message" {
						got[i][e.ID] = true
					}
				}
				return s.Rooms.Join[room].Timeline.Limited || len(got[i]) == n*len(b.people)
			})
			if err != nil {
				errs <- err
			}
		})
	}
	close(start)
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
	}
	for i, p := range b.people {
		all, err := p.AllMessages(ctx, room)
		if err != nil {
			return err
		}
		for _, e := range all {
			got[i][e.ID] = true
		}
		for id := range ids {
			r.check(got[i][id], "%s was acknowledged and %s does not see it", id, p.UserID)
		}
	}
	r.say("%d messages of %d people in %.0f s, all read", len(ids), len(b.people), time.Since(began).Seconds())
	return nil
}

// memory reads what the box's processes take, from the box itself.
func (r *run) memory(ctx context.Context, b *box, people int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL(portHTTP)+"/metrics", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+metricsToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("metrics: %s", resp.Status)
	}
	rss, err := processMemory(resp.Body)
	if err != nil {
		return err
	}
	var sum float64
	var parts []string
	for name, n := range rss {
		sum += n
		parts = append(parts, fmt.Sprintf("%s %.1f", name, n/1e6))
	}
	slices.Sort(parts)
	if len(rss) < 3 {
		return fmt.Errorf("the metrics name only %v", parts)
	}
	r.check(sum <= smallLimit, "the processes take %.1f MB, more than %.0f", sum/1e6, smallLimit/1e6)
	r.say("with %d people the processes take %.1f MB: %s", people, sum/1e6, strings.Join(parts, ", "))
	r.note("RSS with %d users on 256 MB: %.1f MB (%s)", people, sum/1e6, strings.Join(parts, ", "))
	return nil
}

// processMemory finds hallig_process_resident_bytes{process="NAME"} in the text of /metrics.
func processMemory(in io.Reader) (map[string]float64, error) {
	rss := map[string]float64{}
	sc := bufio.NewScanner(in)
	for sc.Scan() {
		name, value, ok := strings.Cut(sc.Text(), "} ")
		metric, label, ok2 := strings.Cut(name, "{")
		if !ok || !ok2 || metric != processMetric {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
		_, label, _ = strings.Cut(label, `="`)
		rss[strings.TrimSuffix(label, `"`)] = n
	}
	return rss, sc.Err()
}

const processMetric = "hallig_process_resident_bytes"
