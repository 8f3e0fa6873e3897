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
	"hallig/radio/serial"
	"hallig/radio/sham"
)

// TestCall: two links over telephone modems, one of which dials: the link takes the rate that the modems have agreed on; after the line has dropped they call
// again, and messages go on.
func TestCall(t *testing.T) {
	t.Parallel()
	x := &sham.Exchange{}
	phones := [2]*sham.Phone{{Exchange: x, Number: "1", Rate: 14400}, {Exchange: x, Number: "2", Rate: 14400}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	var ports [2]*radio.Port
	var received [2]chan string
	rates := make(chan int, 100)
	for i, p := range phones {
		x.Join(p)
		far, err := serial.NewPTY()
		if err != nil {
			t.Fatal(err)
		}
		var device sync.WaitGroup
		device.Go(func() { _ = p.Serve(far) }) // it ends with the terminal
		t.Cleanup(func() { far.Close(); device.Wait() })
		m := serial.Modem{Kind: serial.AT, Device: far.Device, Baud: 115200}
		if i == 0 {
			m.Number = "2"
		}
		a, opener := m.Air(), serial.NewOpener(m)
		received[i] = make(chan string, 100)
		ports[i] = radio.New(radio.Config{
			Name: fmt.Sprint("phone", i), BitsPerSecond: a.BitsPerSecond, FullDuplex: a.FullDuplex,
			Open: func(ctx context.Context) (io.ReadWriteCloser, error) { return opener.Open(ctx) },
		})
		wg.Go(func() {
			err := ports[i].Serve(ctx, func(_ string, rate, _ int) { rates <- rate }, func(string) {}, func(_ string, m []byte) { received[i] <- string(m) }, func(string) {})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Serve ended: %v", err)
			}
		})
	}
	deliver(t, ports, received, "first")
	if rate := <-rates; rate != 14400 {
		t.Errorf("the link computes with %d bit/s, the modems have 14400", rate)
	}
	if q := ports[0].Quality(); q.Modem.Note != "CONNECT 14400" {
		t.Errorf("quality: %+v", q)
	}
	began := time.Now()
	phones[1].HangUp()
	deliver(t, ports, received, "second")
	t.Logf("talking again %v after the line had dropped", time.Since(began))
}
