// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strings"
	"time"

	"hallig/radio/ether"
	"hallig/tools/usbgadget"
)

// gadgets are the USB identities of the two radios; the kernels of the amd64 image have no driver for either (CDC ACM).
var gadgets = [2]struct {
	vendor, product uint16
	serial, name    string
}{
	{0x303a, 0x1001, "7C:DF:A1:00:11:22", "esp32-7CDFA1001122"},
	{0x239a, 0x8029, "E1F2A3B4C5D60718", "nrf52-E1F2A3B4C5D60718"},
}

// radios are a cable whose ends are USB devices of their own and not adapters with a chip that the kernel knows.
type radios struct{ *cable }

// plug puts both devices into their sockets, while the machines run, and lets bytes through between them.
func (c radios) plug(ctx context.Context) error {
	var ends [2]*usbgadget.Device
	for i := range ends {
		ul := c.ends[i].(*net.UnixListener)
		if err := ul.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		conn, err := ul.Accept()
		if err != nil {
			return fmt.Errorf("wait for radio %d: %w", i, err)
		}
		if ends[i], err = usbgadget.Plug(conn, gadgets[i].vendor, gadgets[i].product, gadgets[i].serial); err != nil {
			conn.Close()
			return fmt.Errorf("plug in radio %d: %w", i, err)
		}
	}
	c.line = ether.NewLine(ends[0], ends[1], ether.Config{BitsPerSecond: lineRate, FullDuplex: true, Seed: 1})
	ctx, c.stop = context.WithCancel(ctx)
	c.done = make(chan error, 1)
	go func() { c.done <- c.line.Run(ctx) }() // part waits for it
	return nil
}

// usbRadio is the demonstration of two boxes on a line with devices that a program of ours drives.
func usbRadio(r *run) error {
	laid, err := r.layCable()
	if err != nil {
		return err
	}
	c := radios{laid}
	defer c.close()
	ctx, stop := r.within(12 * time.Minute)
	defer stop()
	// One box is told the device by its own name, the other that it is the only radio.
	p, err := r.islands(ctx, [2]string{"/dev/hallig/" + gadgets[0].name, "/dev/hallig/radio"})
	if err != nil {
		return err
	}
	defer p.close()
	b, antje, boy, room := p.b, p.antje, p.boy, p.room
	for i := range b {
		if err := b[i].RedirectUSB("radio", c.socket(i)); err != nil {
			return err
		}
	}
	for i, what := range []string{"plugged in while the boxes ran", "pulled out and put back"} {
		if i > 0 {
			c.part() // closes both devices, which pulls them out
			for k := range b {
				if err := b[k].radioGone(ctx, gadgets[k].name); err != nil {
					return err
				}
			}
		}
		began := time.Now()
		if err := c.plug(ctx); err != nil {
			return err
		}
		for k := range b {
			if err := b[k].radioUsable(ctx, gadgets[k].name); err != nil {
				return err
			}
		}
		shown := time.Since(began)
		if err := exchange(ctx, antje, boy, room, "über Funk, "+what); err != nil {
			return fmt.Errorf("over the radios, %s: %w (line: %v; console: %s)", what, err, c.bytes(), b[0].Console.Tail(5))
		}
		r.check(c.line.Counters(0).Bytes > 0 && c.line.Counters(1).Bytes > 0, "nothing went over the radios: %v", c.bytes())
		r.say("radios %s: on the page after %.1f s, a message each way after %.0f s, %v bytes", what, shown.Seconds(), time.Since(began).Seconds(), c.bytes())
		r.note("USB radios without a kernel driver, %s: usable after %.1f s, messages both ways at %d bit/s after %.0f s", what, shown.Seconds(), lineRate, time.Since(began).Seconds())
	}
	return nil
}

var tableRow = regexp.MustCompile(`(?s)<tr>.*?</tr>`)

// radioRow is what the page of the device says of a serial port, without its markup; "" when it does not name it.
func radioRow(page, name string) string {
	for _, row := range tableRow.FindAllString(page, -1) {
		if strings.Contains(row, "/dev/hallig/"+name+"<") {
			return strings.Join(strings.Fields(tags.ReplaceAllString(row, " ")), " ")
		}
	}
	return ""
}

// radioUsable waits until the page says that the port can be used, and that the program that drives it runs.
func (b *box) radioUsable(ctx context.Context, name string) error {
	return b.radioUntil(ctx, name, func(row, page string) bool {
		return strings.HasSuffix(row, " yes") && strings.Contains(page, "hallig-acm")
	})
}

// radioGone waits until the page does not name it any more.
func (b *box) radioGone(ctx context.Context, name string) error {
	return b.radioUntil(ctx, name, func(row, _ string) bool { return row == "" })
}

func (b *box) radioUntil(ctx context.Context, name string, well func(row, page string) bool) error {
	ctx, stop := context.WithTimeout(ctx, time.Minute*time.Duration(max(b.r.slow, 1)))
	defer stop()
	br, err := b.browse(ctx, b.people[0].UserID)
	if err != nil {
		return err
	}
	row := ""
	for {
		page, err := br.get(ctx, "/admin/device")
		if err == nil {
			row = radioRow(page, name)
			if well(row, page) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the page says of %s only %q (%v); the console ends: %s", name, row, err, b.Console.Tail(10))
		case <-time.After(500 * time.Millisecond):
		}
	}
}
