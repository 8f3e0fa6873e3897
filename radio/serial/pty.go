// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// PTY is a pseudo terminal for tests and demonstrations: reads and writes here are the far end of Device. Its deadlines
// work, Close frees a blocked Read.
type PTY struct {
	*os.File        // the master
	Device   string // what Open takes: "/dev/pts/3"
	keep     *os.File
}

// NewPTY makes a pseudo terminal in raw mode. It holds the slave open as well, so that the master goes on when users of
// Device come and go.
func NewPTY() (*PTY, error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open pseudo terminal: %w", err)
	}
	p := &PTY{File: os.NewFile(uintptr(fd), "/dev/ptmx")}
	if err := p.unlock(fd); err != nil {
		p.File.Close()
		return nil, fmt.Errorf("open pseudo terminal: %w", err)
	}
	return p, nil
}

func (p *PTY) unlock(fd int) error {
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return err
	}
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	p.Device = "/dev/pts/" + strconv.FormatUint(uint64(n), 10)
	slave, err := unix.Open(p.Device, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.keep = os.NewFile(uintptr(slave), p.Device)
	t, err := unix.IoctlGetTermios(slave, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag, t.Oflag, t.Lflag = unix.IGNPAR, 0, 0
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CREAD | unix.CLOCAL
	return unix.IoctlSetTermios(slave, unix.TCSETS, t)
}

// Close takes the terminal away: users of Device find it gone.
func (p *PTY) Close() error {
	p.keep.Close()
	return p.File.Close()
}
