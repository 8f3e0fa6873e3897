// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control runs f on the control descriptor, which cannot be closed meanwhile.
func (p *Port) ioctl(what string, f func(fd int) error) error {
	raw, err := p.control.SyscallConn()
	if err == nil {
		if cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
			err = cerr
		}
	}
	if err != nil {
		return p.wrap(what, err)
	}
	return nil
}

// Carrier says whether the modem has a connection (DCD). An error: the port has no such wire.
func (p *Port) Carrier() (on bool, err error) {
	err = p.ioctl("ask for the carrier of", func(fd int) error {
		n, err := unix.IoctlGetInt(fd, unix.TIOCMGET)
		on = n&unix.TIOCM_CAR != 0
		return err
	})
	return on, err
}

// SetDTR says to the modem that we are here, or that it should hang up.
func (p *Port) SetDTR(on bool) error { return p.setLine("set DTR of", unix.TIOCM_DTR, on) }

// SetRTS switches the direction of a bus.
func (p *Port) SetRTS(on bool) error { return p.setLine("set RTS of", unix.TIOCM_RTS, on) }

func (p *Port) setLine(what string, line int, on bool) error {
	request := uint(unix.TIOCMBIC)
	if on {
		request = unix.TIOCMBIS
	}
	return p.ioctl(what, func(fd int) error { return unix.IoctlSetPointerInt(fd, request, line) })
}

// Drain waits until all that was written has left the port, as far as the driver knows.
func (p *Port) Drain() error {
	err := p.ioctl("drain", func(fd int) error { return unix.IoctlSetInt(fd, unix.TCSBRK, 1) })
	if err != nil {
		return err
	}
	// The last byte may still be in the shift register; drivers that know say so.
	return p.ioctl("drain", func(fd int) error {
		for range 1000 {
			n, err := unix.IoctlGetInt(fd, unix.TIOCSERGETLSR)
			if err != nil || n&1 != 0 { // TIOCSER_TEMT
				return nil
			}
			unix.Nanosleep(&unix.Timespec{Nsec: 100_000}, nil)
		}
		return fmt.Errorf("bytes are stuck in it")
	})
}

// rs485 is struct serial_rs485 of <linux/serial.h>.
type rs485 struct {
	flags         uint32
	before, after uint32 // ms
	_             [5]uint32
}

// SetRS485 lets the driver switch RTS around each transmission.
func (p *Port) SetRS485() error {
	const enabled, onSend = 1, 2 // RTS is high while sending, and low otherwise
	r := rs485{flags: enabled | onSend}
	return p.ioctl("switch to RS-485", func(fd int) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSRS485, uintptr(unsafe.Pointer(&r))); errno != 0 {
			return errno
		}
		if r.flags&enabled == 0 { // a driver tells in the same structure what it has done
			return unix.ENOTTY
		}
		return nil
	})
}
