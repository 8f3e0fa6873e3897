// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/ether"
)

// station is one end with everything it was told.
type station struct {
	port  *Port
	mu    sync.Mutex
	got   []string
	ups   int
	downs int
	ready int
	at    map[string]time.Time
	hook  func(string)
}

func (s *station) count() (got, ups, downs int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.got), s.ups, s.downs
}

// bed is two ports over one medium, running.
type bed struct {
	air *ether.Ether
	s   [2]*station
}

func newBed(t *testing.T, air ether.Config, change func(*Config)) *bed {
	t.Helper()
	b := &bed{air: ether.New(air)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range b.s {
		s := &station{at: map[string]time.Time{}}
		cfg := Config{
			Name: fmt.Sprintf("p%d", i), BitsPerSecond: air.BitsPerSecond, TurnDelay: air.TurnDelay, FullDuplex: air.FullDuplex,
			Seed: air.Seed<<1 + uint64(i) + 1, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Open: func(context.Context) (io.ReadWriteCloser, error) { return b.air.Open(i) },
		}
		if change != nil {
			change(&cfg)
		}
		s.port = New(cfg)
		b.s[i] = s
		wg.Go(func() {
			err := s.port.Serve(ctx,
				func(string, int, int) { s.mu.Lock(); s.ups++; s.mu.Unlock() },
				func(string) { s.mu.Lock(); s.downs++; s.mu.Unlock() },
				func(_ string, m []byte) {
					s.mu.Lock()
					s.got = append(s.got, string(m))
					s.at[string(m)] = time.Now()
					s.mu.Unlock()
					if s.hook != nil {
						s.hook(string(m))
					}
				},
				func(string) { s.mu.Lock(); s.ready++; s.mu.Unlock() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Serve ended with %v, want context.Canceled", err)
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return b
}

// until lets virtual time pass until ok, at most for a while.
func until(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(most)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, most)
		}
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
	}
}

func (b *bed) up() bool {
	return b.s[0].port.Stats().Up && b.s[1].port.Stats().Up
}

func text(i, n int) []byte {
	return append(fmt.Appendf(nil, "%03d ", i), bytes.Repeat([]byte{'x'}, n-4)...)
}

// The story of the product: a slow radio, a fifth of all frames lost, ten short messages each way.
func TestTenEachWay(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, ether.Config{BitsPerSecond: 1200, FrameLoss: 0.2, Seed: seed}, nil)
			until(t, time.Minute, "contact", b.up)
			began := time.Now()
			var mu sync.Mutex
			arrived := 0
			for i := range 10 {
				for _, s := range b.s {
					s.port.Send(s.port.Addr(), 3, text(i, 110), func(err error) {
						if err != nil {
							t.Errorf("message %d: %v", i, err)
						}
						mu.Lock()
						arrived++
						mu.Unlock()
					})
				}
			}
			until(t, 150*time.Second, "all messages", func() bool { mu.Lock(); defer mu.Unlock(); return arrived == 20 })
			for i, s := range b.s {
				for k := range 10 {
					if want := string(text(k, 110)); s.got[k] != want {
						t.Errorf("end %d message %d = %.8q, want %.8q", i, k, s.got[k], want)
					}
				}
				if len(s.got) != 10 {
					t.Errorf("end %d got %d messages, want 10", i, len(s.got))
				}
			}
			t.Logf("seed %d: %v of line time, sent %d and %d bytes", seed, time.Since(began), b.s[0].port.Stats().BytesSent, b.s[1].port.Stats().BytesSent)
		})
	}
}
