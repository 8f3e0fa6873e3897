// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/radio/ether"
)

// Three ports share one channel: each is told of two far ends by addresses of their own, and what is sent to one comes to it alone.
func TestSharedPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		air := ether.New(ether.Config{Ends: 3, BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, FrameLoss: 0.05, Seed: 1})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var mu sync.Mutex
		var ports [3]*Port
		var up [3]map[string]bool
		var got [3][]string
		for i := range ports {
			up[i] = map[string]bool{}
			ports[i] = New(Config{Name: fmt.Sprint("p", i), BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, Shared: true, Seed: uint64(i+1) << 40,
				Open: func(context.Context) (io.ReadWriteCloser, error) { return air.Open(i) }})
			wg.Go(func() {
				_ = ports[i].Serve(ctx,
					func(addr string, _, _ int) { mu.Lock(); up[i][addr] = true; mu.Unlock() },
					func(addr string) { mu.Lock(); delete(up[i], addr); mu.Unlock() },
					func(addr string, m []byte) { mu.Lock(); got[i] = append(got[i], addr+" "+string(m)); mu.Unlock() },
					func(string) {})
			})
		}
		defer func() { cancel(); wg.Wait() }()
		until(t, 2*time.Minute, "contact of all with all", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(up[0]) == 2 && len(up[1]) == 2 && len(up[2]) == 2
		})
		done := make(chan error, 10)
		for i, p := range ports {
			for addr := range up[i] {
				p.Send(addr, 3, []byte("from "+p.cfg.Name), func(err error) { done <- err })
			}
		}
		for range 6 {
			if err := <-done; err != nil {
				t.Errorf("message: %v", err)
			}
		}
		until(t, time.Minute, "all messages", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(got[0]) == 2 && len(got[1]) == 2 && len(got[2]) == 2
		})
		for i := range got {
			if got[i][0][:5] == got[i][1][:5] {
				t.Errorf("end %d got two messages under one address: %q", i, got[i])
			}
		}
		ports[0].Send("p0#17", 3, nil, func(err error) { done <- err })
		if err := <-done; err == nil {
			t.Error("a message to a station that cannot exist arrived")
		}
		if s := ports[0].Stats(); s.Stations != 2 || !s.Up {
			t.Errorf("stats: %+v", s)
		}
	})
}
