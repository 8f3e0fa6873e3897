// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"hallig/radio/serial"
)

// satellites is a receiver that tells a time of our choice: it goes as fast as real time, and can be set.
type satellites struct {
	pty  *serial.PTY
	stop context.CancelFunc
	done chan struct{}

	mu     sync.Mutex
	behind time.Duration
}

func newSatellites(behind time.Duration) (*satellites, error) {
	pty, err := serial.NewPTY()
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &satellites{pty: pty, stop: stop, done: make(chan struct{}), behind: behind}
	go s.run(ctx) // close waits for it
	return s, nil
}

func (s *satellites) set(behind time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behind = behind
}

func (s *satellites) run(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.mu.Lock()
			t := now.Add(-s.behind).UTC()
			s.mu.Unlock()
			_ = s.pty.SetWriteDeadline(now.Add(time.Second)) // while the box is away nobody reads
			_, _ = s.pty.Write(sentence(t))
		case <-ctx.Done():
			return
		}
	}
}

func (s *satellites) close() {
	s.stop()
	<-s.done
	s.pty.Close()
}

// sentence is RMC of NMEA 0183: time, a fix, somewhere on Hooge, date.
func sentence(t time.Time) []byte {
	body := fmt.Sprintf("GPRMC,%s,A,5434.00,N,00833.00,E,0.0,0.0,%s,,,A", t.Format("150405.00"), t.Format("020106"))
	var sum byte
	for _, b := range []byte(body) {
		sum ^= b
	}
	return fmt.Appendf(nil, "$%s*%02X\r\n", body, sum)
}
