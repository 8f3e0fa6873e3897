// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"sync"

	"hallig/radio/ether"
	"hallig/radio/serial"
)

// cable is the line between the boxes: two pseudo terminals that the boxes open as serial ports, joined by a medium that
// lets no more through than a radio modem would.
type cable struct {
	ends [2]*serial.PTY // the boxes open their Device
	line *ether.Line
	wg   sync.WaitGroup
	stop context.CancelFunc
}

func layCable(ctx context.Context, bitsPerSecond int) (*cable, error) {
	c := &cable{}
	for i := range c.ends {
		var err error
		if c.ends[i], err = serial.NewPTY(); err != nil {
			return nil, err
		}
	}
	c.line = ether.NewLine(c.ends[0], c.ends[1], ether.Config{BitsPerSecond: bitsPerSecond, FullDuplex: true, Seed: 1})
	ctx, c.stop = context.WithCancel(ctx)
	c.wg.Go(func() { c.line.Run(ctx) }) // ends with ctx; close waits
	return c, nil
}

func (c *cable) bytes() (fromA, fromB int64) {
	return int64(c.line.Counters(0).Bytes), int64(c.line.Counters(1).Bytes)
}

func (c *cable) close() {
	c.stop()
	c.wg.Wait()
	for _, e := range c.ends {
		e.Close()
	}
}
