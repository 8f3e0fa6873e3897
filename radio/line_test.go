// SPDX-License-Identifier: EUPL-1.2

package radio_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"hallig/radio"
	"hallig/radio/ether"
	"hallig/radio/serial"
)

// The real thing but for the radio: two ports through tarm/serial on pseudo terminals, joined by a line emulator in real
// time. Messages of all sizes both ways, a fifth of the frames lost; then the line is cut and joined again.
func TestPseudoTerminals(t *testing.T) {
	var masters [2]*serial.PTY
	for i := range masters {
		var err error
		if masters[i], err = serial.NewPTY(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	line := ether.NewLine(masters[0], masters[1], ether.Config{BitsPerSecond: 115200, FullDuplex: true, FrameLoss: 0.2, Seed: 4})
	wg.Go(func() {
		if err := line.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("line ended: %v", err)
		}
	})
	var ports [2]*radio.Port
	var ups, received [2]chan string
	for i := range ports {
		ups[i], received[i] = make(chan string, 10), make(chan string, 100)
		ports[i] = radio.New(radio.Config{
			Name: fmt.Sprint("tty", i), BitsPerSecond: 115200,
			Open: func(ctx context.Context) (io.ReadWriteCloser, error) {
				return serial.Open(ctx, serial.Config{Device: masters[i].Device, BitsPerSecond: 115200})
			},
		})
		wg.Go(func() {
			err := ports[i].Serve(ctx, func(addr string, _, _ int) { ups[i] <- addr }, func(string) {},
				func(_ string, m []byte) { received[i] <- string(m) }, func(string) {})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Serve ended: %v", err)
			}
		})
	}
	defer func() { cancel(); wg.Wait() }()

	exchange := func(n int) {
		t.Helper()
		done := make(chan error, 2*n)
		for k := range n {
			for _, p := range ports {
				p.Send(p.Addr(), 3, append(fmt.Appendf(nil, "%03d", k), make([]byte, k*100)...), func(err error) { done <- err })
			}
		}
		for range 2 * n {
			if err := <-done; err != nil {
				t.Fatalf("message: %v", err)
			}
		}
		for i := range received {
			for k := range n {
				if m := <-received[i]; m[:3] != fmt.Sprintf("%03d", k) || len(m) != 3+k*100 {
					t.Errorf("end %d: message %d is %q... (%d bytes)", i, k, m[:3], len(m))
				}
			}
		}
	}
	for i := range ups {
		if addr := <-ups[i]; addr != ports[i].Addr() {
			t.Errorf("end %d: up for %q, want %q", i, addr, ports[i].Addr())
		}
	}
	exchange(20)

	line.Cut(true)
	lost := make(chan error, 1)
	ports[0].Send(ports[0].Addr(), 3, []byte("into the dark"), func(err error) { lost <- err })
	if err := <-lost; !errors.Is(err, radio.ErrDown) {
		t.Errorf("message over a cut line: %v, want ErrDown", err)
	}
	line.Cut(false)
	began := time.Now()
	<-ups[0]
	<-ups[1]
	t.Logf("contact %v after the line came back", time.Since(began))
	exchange(5)
	if s := ports[0].Stats(); s.Retransmissions == 0 || s.BytesReceived == 0 || !s.PortOpen || s.Contacts != 2 {
		t.Errorf("stats: %+v", s)
	}
}
