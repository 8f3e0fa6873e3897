// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"hallig/radio/ether"
)

// cable is the line between the boxes: two pseudo terminals that the boxes open as serial ports, joined by a medium that
// lets no more through than a radio modem would.
type cable struct {
	devices [2]string // what the boxes open
	slaves  [2]*os.File
	line    *ether.Line
	wg      sync.WaitGroup
	stop    context.CancelFunc
}

func layCable(ctx context.Context, bitsPerSecond int) (*cable, error) {
	c := &cable{}
	var masters [2]*os.File
	for i := range masters {
		var err error
		if masters[i], c.slaves[i], c.devices[i], err = openPTY(); err != nil {
			return nil, err
		}
	}
	c.line = ether.NewLine(masters[0], masters[1], ether.Config{BitsPerSecond: bitsPerSecond, FullDuplex: true, Seed: 1})
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
	for _, s := range c.slaves {
		s.Close()
	}
}

// openPTY opens a pseudo terminal in raw mode. The slave stays open here, so that the master outlives a box that
// closes and opens its port.
func openPTY() (master, slave *os.File, name string, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, "", fmt.Errorf("open pseudo terminal: %w", err)
	}
	conn, err := master.SyscallConn()
	if err != nil {
		return nil, nil, "", err
	}
	var n int
	var inner error
	if err := conn.Control(func(fd uintptr) {
		if inner = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); inner == nil {
			n, inner = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	}); err != nil {
		return nil, nil, "", err
	}
	if inner != nil {
		return nil, nil, "", fmt.Errorf("unlock pseudo terminal: %w", inner)
	}
	name = fmt.Sprintf("/dev/pts/%d", n)
	if slave, err = os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, "", fmt.Errorf("open pseudo terminal: %w", err)
	}
	t, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	if err != nil {
		return nil, nil, "", fmt.Errorf("read terminal settings: %w", err)
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, t); err != nil {
		return nil, nil, "", fmt.Errorf("set terminal raw: %w", err)
	}
	return master, slave, name, nil
}
