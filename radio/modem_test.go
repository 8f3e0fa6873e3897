// SPDX-License-Identifier: EUPL-1.2

package radio_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/radio"
	"hallig/radio/serial"
	"hallig/radio/sham"
)

// TestPacketModems: two links over two modems of each kind that takes packets, on pseudo terminals, with a tenth of the packets lost on the air:
// messages arrive once and in order, also after a modem has restarted in the middle or its plug was pulled and put back, and what the modems say of the channel is known.
func TestPacketModems(t *testing.T) {
	fast := serial.Modem{Frequency: 869_525_000, Bandwidth: 500_000, SpreadingFactor: 5, CodingRate: 5, Power: 14}
	for _, c := range []struct {
		kind  serial.Kind
		modem serial.Modem
		make  func(*sham.Air) (serve func(io.ReadWriter) error, reset func())
	}{
		{serial.KISS, serial.Modem{Rate: 115200, TurnDelay: 10 * time.Millisecond, Slot: 10 * time.Millisecond, Tail: 10 * time.Millisecond, CallSign: "DL0HAL"}, func(a *sham.Air) (func(io.ReadWriter) error, func()) {
			return (&sham.TNC{Air: a}).Serve, func() {}
		}},
		{serial.RNode, fast, func(a *sham.Air) (func(io.ReadWriter) error, func()) {
			r := &sham.RNode{Air: a, SNR: -6}
			return r.Serve, r.Reset
		}},
		{serial.MeshCore, fast, func(a *sham.Air) (func(io.ReadWriter) error, func()) {
			return (&sham.MeshCore{Air: a}).Serve, func() {}
		}},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			c.modem.Kind = c.kind
			random := rand.New(rand.NewPCG(1, 2))
			var lock sync.Mutex
			air := &sham.Air{Airtime: c.modem.Airtime, Lose: func() bool {
				lock.Lock()
				defer lock.Unlock()
				return random.IntN(10) == 0
			}}
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			defer func() { cancel(); wg.Wait() }()
			var ports [2]*radio.Port
			var received [2]chan string
			var reset, pull func()
			dir := t.TempDir()
			plug := func(i int) string {
				far, err := serial.NewPTY()
				if err != nil {
					t.Fatal(err)
				}
				name := filepath.Join(dir, fmt.Sprint("radio", i)) // stays the same, as those under /dev/hallig do
				if err := os.Symlink(far.Device, name); err != nil {
					t.Fatal(err)
				}
				var serve func(io.ReadWriter) error
				serve, reset = c.make(air)
				var device sync.WaitGroup
				device.Go(func() { _ = serve(far) }) // it ends with the terminal
				var once sync.Once
				pull = func() {
					once.Do(func() {
						_ = os.Remove(name) // who looks for it finds nothing
						far.Close()
						device.Wait()
					})
				}
				t.Cleanup(pull)
				return name
			}
			for i := range ports {
				m := c.modem
				m.Device = plug(i)
				a, opener := m.Air(), serial.NewOpener(m)
				received[i] = make(chan string, 100)
				ports[i] = radio.New(radio.Config{
					Name: fmt.Sprint(c.kind, i), BitsPerSecond: a.BitsPerSecond, BitsPerByte: a.BitsPerByte, TurnDelay: a.TurnDelay, MTU: a.MTU, Lead: a.Lead, Air: a.Packet,
					Open: func(ctx context.Context) (io.ReadWriteCloser, error) { return opener.Open(ctx) },
				})
				wg.Go(func() {
					err := ports[i].Serve(ctx, func(string, int, int) {}, func(string) {}, func(_ string, m []byte) { received[i] <- string(m) }, func(string) {})
					if !errors.Is(err, context.Canceled) {
						t.Errorf("Serve ended: %v", err)
					}
				})
			}
			deliver(t, ports, received, "first")
			reset()
			deliver(t, ports, received, "second")
			pull()
			for ports[1].Quality().Trouble == nil {
				time.Sleep(5 * time.Millisecond) // until it is noticed
			}
			plug(1)
			deliver(t, ports, received, "third")
			for i, p := range ports {
				q := p.Quality()
				if q.Trouble != nil || q.Opening || q.Modem.Signal != c.kind.LoRa() || q.Modem.Signal && (q.Modem.RSSI != -97 || q.Modem.SNR != -6) {
					t.Errorf("end %d: %+v", i, q)
				}
			}
			a, b := ports[0].Stats(), ports[1].Stats()
			t.Logf("%d packets on the air, %d + %d frames repeated", air.Sent(), a.Retransmissions, b.Retransmissions)
		})
	}
}

// deliver sends messages both ways until each has arrived: what was given up when a modem restarted is sent again, as the layer above does.
func deliver(t *testing.T, ports [2]*radio.Port, received [2]chan string, tag string) {
	t.Helper()
	patience := time.After(2 * time.Minute)
	var before [2]string // may come once more, if its modem restarted just then
	for n, size := range []int{5, 240, 2000} {
		for i, p := range ports {
			want := tag + fmt.Sprint(n, i) + string(bytes.Repeat([]byte{0xC0, 0xDB, 0, 0xFF}, size/4))
			done := make(chan error, 1)
			for sent := false; !sent; {
				p.Send(p.Addr(), 2, []byte(want), func(err error) { done <- err })
				select {
				case err := <-done:
					if sent = err == nil; !sent && !errors.Is(err, radio.ErrDown) {
						t.Fatal(err)
					}
				case <-patience:
					t.Fatalf("message %d of end %d is stuck: %+v, %+v", n, i, p.Stats(), p.Quality())
				}
			}
			for got := ""; got != want; {
				select {
				case got = <-received[1-i]:
					if got != want && got != before[i] {
						t.Fatalf("message %d of end %d: %d bytes %.10q came, want %d", n, i, len(got), got, len(want))
					}
				case <-patience:
					t.Fatalf("message %d of end %d is said to have arrived", n, i)
				}
			}
			before[i] = want
		}
	}
}

// TestTroubleOfModem: a modem that will not is tried again and again, and the port says what is wrong with it.
func TestTroubleOfModem(t *testing.T) {
	far, err := serial.NewPTY()
	if err != nil {
		t.Fatal(err)
	}
	var device sync.WaitGroup
	device.Go(func() { _ = (&sham.RNode{Air: &sham.Air{}, MaxPower: 17}).Serve(far) }) // it ends with the terminal
	defer func() { far.Close(); device.Wait() }()
	ctx, cancel := context.WithCancel(t.Context())
	tried := make(chan bool, 10)
	opener := serial.NewOpener(serial.Modem{Kind: serial.RNode, Device: far.Device, Frequency: 869_525_000, Power: 22})
	port := radio.New(radio.Config{Name: "x", Open: func(ctx context.Context) (io.ReadWriteCloser, error) {
		tried <- true
		return opener.Open(ctx)
	}})
	served := make(chan error, 1)
	go func() { // received below
		served <- port.Serve(ctx, func(string, int, int) {}, func(string) {}, func(string, []byte) {}, func(string) {})
	}()
	<-tried
	<-tried // so the first one has failed
	q := port.Quality()
	var f *serial.Fault
	if !q.Opening || !errors.As(q.Trouble, &f) || !strings.Contains(f.DE, "22") || !strings.Contains(f.EN, "reports 17") {
		t.Errorf("%+v", q)
	}
	cancel()
	<-served
}
