// SPDX-License-Identifier: EUPL-1.2

// Package serial opens serial ports as streams with what a link needs of them: a prompt Close, deadlines for reading
// and writing, a clear error when the plug is pulled, any bit rate, hardware flow control, sole use.
//
// github.com/tarm/serial opens the port and moves the bytes. What it lacks is added around it through a second
// descriptor on the same tty, which only speaks ioctl and poll and never reads or writes.
package serial

import (
	"context"
	"errors"
	"io"
	"os"
)

// ErrGone says that the port has hung up: its plug was pulled, or the other end of a pseudo terminal is closed.
var ErrGone = errors.New("serial port is gone")

// Config of a port. Only Device is needed.
type Config struct {
	Device        string // "/dev/ttyUSB0"
	BitsPerSecond int    // any rate the driver can make; 0: 9600
	RTSCTS        bool   // hardware flow control
}

// Open opens a port, 8 data bits, no parity, one stop bit, raw.
func Open(ctx context.Context, cfg Config) (io.ReadWriteCloser, error) {
	return nil, errors.ErrUnsupported
}

// PTY makes a pseudo terminal: the master end, and the path of the end that Open takes. For tests and demonstrations.
func PTY() (master *os.File, device string, err error) {
	return nil, "", errors.ErrUnsupported
}
