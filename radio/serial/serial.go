// SPDX-License-Identifier: EUPL-1.2

// Package serial opens serial ports as streams with what a link needs of them: a prompt Close, deadlines for reading
// and writing, a clear error when the plug is pulled, any bit rate, hardware flow control, sole use.
//
// github.com/tarm/serial opens the port and moves the bytes. What it lacks is added around it: its Read blocks through
// Close, so it is opened with a short timeout, read by one goroutine of the port and closed by that same goroutine. A
// second descriptor on the same tty, which never reads or writes, sets the rate (termios2), asks whether there is room
// or a hang-up (poll), and frees a stuck writer (flush). Contract tests on a pseudo terminal hold all of it.
//
// Linux only, as the box is.
package serial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	tarm "github.com/tarm/serial"
	"golang.org/x/sys/unix"
)

// ErrGone says that the port has hung up: its plug was pulled, or the other end of a pseudo terminal is closed.
var ErrGone = errors.New("serial port is gone")

const (
	readTimeout = 100 * time.Millisecond // the shortest that tarm and VTIME know; bytes come through at once
	mostUnread  = 64 << 10               // then the reader waits, and flow control or the far end's timers take over
	writePiece  = 64                     // what may be written at once when the tty says it has room
	pollTime    = 50 * time.Millisecond
)

// Config of a port. Only Device is needed.
type Config struct {
	Device        string // "/dev/ttyUSB0"
	BitsPerSecond int    // any rate the driver can make; 0: 9600
	RTSCTS        bool   // hardware flow control
}

// Port is an open port. Read, Write, Close and the deadlines may be used at the same time.
type Port struct {
	name    string
	tty     *tarm.Port
	control *os.File

	writing sync.Mutex // one Write at a time; before mu

	mu            sync.Mutex
	changed       sync.Cond // on mu: bytes, an error, a deadline, the end
	buffer        []byte
	err           error // why reading has ended
	closed        bool
	busy          bool // a Write is inside tty.Write
	readDeadline  time.Time
	writeDeadline time.Time
	readTimer     *time.Timer
	done          chan struct{} // the reader has closed everything
}

// Open opens a port: 8 data bits, no parity, one stop bit, raw, whatever was waiting in it thrown away. A port that
// another program holds is refused.
func Open(ctx context.Context, cfg Config) (*Port, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if cfg.BitsPerSecond <= 0 {
		cfg.BitsPerSecond = 9600
	}
	p, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("open serial port %s: %w", cfg.Device, err)
	}
	go p.receive() // Close waits for it
	return p, nil
}

func open(cfg Config) (opened *Port, err error) {
	fd, err := unix.Open(cfg.Device, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	p := &Port{name: cfg.Device, control: os.NewFile(uintptr(fd), cfg.Device), done: make(chan struct{})}
	p.changed.L = &p.mu
	defer func() {
		if err != nil {
			p.control.Close()
			if p.tty != nil {
				p.tty.Close()
			}
		}
	}()
	// The lock keeps other boxes out even where they are root, for whom TIOCEXCL does not count.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("held by another program: %w", err)
	}
	// The rate here is any that tarm knows; the true one follows.
	p.tty, err = tarm.OpenPort(&tarm.Config{Name: cfg.Device, Baud: 9600, ReadTimeout: readTimeout})
	if err != nil {
		return nil, err
	}
	if !pseudo(fd) {
		// A pseudo terminal keeps this flag after its user was killed, as long as its master lives.
		if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil {
			return nil, fmt.Errorf("take for sole use: %w", err)
		}
	}
	if err := setLine(fd, cfg); err != nil {
		return nil, err
	}
	return p, unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH)
}

// setLine sets rate and flow control. https://man7.org/linux/man-pages/man2/TCSETS.2const.html
func setLine(fd int, cfg Config) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return fmt.Errorf("read line settings: %w", err)
	}
	t.Iflag = unix.IGNPAR | unix.IGNBRK
	t.Cflag &^= unix.CBAUD | unix.CIBAUD | unix.CRTSCTS | unix.HUPCL
	t.Cflag |= unix.BOTHER | unix.BOTHER<<16 // IBSHIFT
	t.Ispeed, t.Ospeed = uint32(cfg.BitsPerSecond), uint32(cfg.BitsPerSecond)
	if cfg.RTSCTS {
		t.Cflag |= unix.CRTSCTS
	}
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return fmt.Errorf("set %d bit/s: %w", cfg.BitsPerSecond, err)
	}
	return nil
}

// pseudo says whether fd is the slave of a pseudo terminal (major numbers 136..143,
// https://www.kernel.org/doc/html/latest/admin-guide/devices.html).
func pseudo(fd int) bool {
	var s unix.Stat_t
	if unix.Fstat(fd, &s) != nil {
		return false
	}
	major := unix.Major(uint64(s.Rdev))
	return major >= 136 && major <= 143
}

// receive is the port's own reader; it ends after Close, or when the port is gone, and closes the tty.
func (p *Port) receive() {
	defer close(p.done)
	buf := make([]byte, 4096)
	empty := 0 // reads in a row that came back at once with nothing
	for {
		began := time.Now()
		n, err := p.tty.Read(buf)
		p.mu.Lock()
		if n > 0 {
			empty = 0
			p.buffer = append(p.buffer, buf[:n]...)
			p.changed.Broadcast()
			for len(p.buffer) >= mostUnread && !p.closed {
				p.changed.Wait()
			}
		}
		closed := p.closed
		p.mu.Unlock()
		if closed {
			p.end(os.ErrClosed)
			return
		}
		if n > 0 {
			continue
		}
		// tarm reports its timeout as io.EOF, and so looks a hang-up.
		if time.Since(began) < readTimeout/2 {
			empty++
		}
		if err != nil && (p.ready(0, 0)&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 || empty >= 3) {
			p.end(ErrGone)
			return
		}
	}
}

// end tells everybody why there will be no more bytes and lets go of the tty.
func (p *Port) end(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
	p.mu.Unlock()
	p.tty.Close()
}

// ready polls the control descriptor.
func (p *Port) ready(events int16, wait time.Duration) (got int16) {
	raw, err := p.control.SyscallConn()
	if err != nil {
		return unix.POLLNVAL
	}
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		if _, err := unix.Poll(fds, int(wait/time.Millisecond)); err == nil {
			got = fds[0].Revents
		}
	})
	if err != nil {
		return unix.POLLNVAL
	}
	return got
}

// flush throws away what waits to be sent, which frees a writer.
func (p *Port) flush() {
	if raw, err := p.control.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			_ = unix.IoctlSetInt(int(fd), unix.TCFLSH, unix.TCOFLUSH) // best effort: the port may just have gone
		})
	}
}

// Read waits for at least one byte, the read deadline (os.ErrDeadlineExceeded), Close (os.ErrClosed) or ErrGone.
func (p *Port) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, p.wrap("read", os.ErrClosed)
		case len(p.buffer) > 0:
			n := copy(b, p.buffer)
			p.buffer = p.buffer[:copy(p.buffer, p.buffer[n:])]
			p.changed.Broadcast()
			return n, nil
		case p.err != nil:
			return 0, p.wrap("read", p.err)
		case expired(p.readDeadline):
			return 0, p.wrap("read", os.ErrDeadlineExceeded)
		}
		p.changed.Wait()
	}
}

// Write returns when the tty has taken all bytes (they may still be on their way out), or with the count so far at the
// write deadline (os.ErrDeadlineExceeded; what had not left may be thrown away), Close or ErrGone.
func (p *Port) Write(b []byte) (int, error) {
	p.writing.Lock()
	defer p.writing.Unlock()
	written := 0
	for written < len(b) {
		p.mu.Lock()
		err, deadline := p.err, p.writeDeadline
		switch {
		case p.closed:
			err = os.ErrClosed
		case err == nil && expired(deadline):
			err = os.ErrDeadlineExceeded
		}
		p.busy = err == nil
		p.mu.Unlock()
		if err != nil {
			return written, p.wrap("write", err)
		}
		wait := pollTime
		if !deadline.IsZero() {
			wait = min(wait, max(time.Until(deadline), time.Millisecond))
		}
		n, err := p.writeSome(b[written:min(len(b), written+writePiece)], wait, deadline)
		written += n
		p.mu.Lock()
		p.busy = false
		p.mu.Unlock()
		if err != nil {
			return written, p.wrap("write", err)
		}
	}
	return written, nil
}

// writeSome writes a piece if there is room for it within wait.
func (p *Port) writeSome(b []byte, wait time.Duration, deadline time.Time) (int, error) {
	got := p.ready(unix.POLLOUT, wait)
	if got&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
		return 0, ErrGone
	}
	if got&unix.POLLOUT == 0 {
		return 0, nil
	}
	if !deadline.IsZero() {
		// Should the room not do, the write blocks; a flush frees it.
		watch := time.AfterFunc(max(time.Until(deadline), 0), p.flush)
		defer watch.Stop()
	}
	n, err := p.tty.Write(b)
	if err != nil && p.ready(0, 0)&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
		err = ErrGone
	}
	return n, err
}

// Close frees blocked calls at once and returns when the port is free for others, after 0.1 s or so.
func (p *Port) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	stuck := p.busy
	p.changed.Broadcast()
	if p.readTimer != nil {
		p.readTimer.Stop()
	}
	p.mu.Unlock()
	if stuck {
		p.flush()
	}
	<-p.done
	if !first {
		return nil
	}
	p.writing.Lock()
	defer p.writing.Unlock()
	return p.control.Close()
}

// SetDeadline sets both deadlines; zero: none.
func (p *Port) SetDeadline(t time.Time) error {
	if err := p.SetReadDeadline(t); err != nil {
		return err
	}
	return p.SetWriteDeadline(t)
}

// SetReadDeadline concerns Reads that wait now, too.
func (p *Port) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.wrap("set read deadline", os.ErrClosed)
	}
	p.readDeadline = t
	if p.readTimer != nil {
		p.readTimer.Stop()
	}
	if !t.IsZero() {
		p.readTimer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed.Broadcast()
		})
	}
	p.changed.Broadcast()
	return nil
}

// SetWriteDeadline concerns a Write that waits now only from its next piece on.
func (p *Port) SetWriteDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return p.wrap("set write deadline", os.ErrClosed)
	}
	p.writeDeadline = t
	return nil
}

func (p *Port) wrap(verb string, err error) error {
	return fmt.Errorf("%s serial port %s: %w", verb, p.name, err)
}

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }
