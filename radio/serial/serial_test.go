// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t *testing.T, cfg Config) (*PTY, *Port) {
	t.Helper()
	far, err := NewPTY()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	cfg.Device = far.Device
	p, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return far, p
}

func TestBothWaysAllBytes(t *testing.T) {
	far, p := pair(t, Config{})
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for _, c := range []struct {
		name string
		from io.Writer
		to   io.Reader
	}{{"out", p, far}, {"in", far, p}} {
		if n, err := c.from.Write(all); n != len(all) || err != nil {
			t.Fatalf("%s: Write = %d, %v", c.name, n, err)
		}
		got := make([]byte, len(all))
		if _, err := io.ReadFull(c.to, got); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if !bytes.Equal(got, all) {
			t.Errorf("%s: bytes changed on the way: %x", c.name, got)
		}
	}
}

// tarm alone blocks both for ever.
func TestCloseFreesRead(t *testing.T) {
	far, p := pair(t, Config{})
	freed := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 10))
		freed <- err
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-freed; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Read after Close: %v, want os.ErrClosed", err)
	}
	// It is free for the next.
	q, err := Open(context.Background(), Config{Device: far.Device})
	if err != nil {
		t.Fatal(err)
	}
	q.Close()
	if err := p.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := p.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: %v, want os.ErrClosed", err)
	}
}

func TestReadDeadline(t *testing.T) {
	far, p := pair(t, Config{})
	if err := p.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Read: %v, want os.ErrDeadlineExceeded", err)
	}
	// A Read that waits already is freed by a deadline in the past.
	if err := p.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	freed := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 1))
		freed <- err
	}()
	if err := p.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := <-freed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("waiting Read: %v, want os.ErrDeadlineExceeded", err)
	}
	if err := p.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := far.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if n, err := p.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("Read after the deadline was lifted = %d, %v", n, err)
	}
}

func TestWriteDeadlineOfStalledPeer(t *testing.T) {
	_, p := pair(t, Config{})
	if err := p.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 1<<20)
	n, err := p.Write(big)
	if !errors.Is(err, os.ErrDeadlineExceeded) || n <= 0 || n >= len(big) {
		t.Errorf("Write to a stalled peer = %d, %v; want a part and os.ErrDeadlineExceeded", n, err)
	}
}

func TestCloseFreesWrite(t *testing.T) {
	_, p := pair(t, Config{})
	freed := make(chan error, 1)
	go func() {
		_, err := p.Write(make([]byte, 1<<20))
		freed <- err
	}()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-freed; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Write after Close: %v, want os.ErrClosed", err)
	}
}

func TestUnplug(t *testing.T) {
	far, p := pair(t, Config{})
	freed := make(chan error, 1)
	go func() {
		_, err := p.Read(make([]byte, 10))
		freed <- err
	}()
	if err := far.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-freed; !errors.Is(err, ErrGone) {
		t.Errorf("Read of an unplugged port: %v, want ErrGone", err)
	}
	if _, err := p.Write([]byte("x")); !errors.Is(err, ErrGone) {
		t.Errorf("Write to an unplugged port: %v, want ErrGone", err)
	}
	if err := p.Close(); err != nil {
		t.Errorf("Close of an unplugged port: %v", err)
	}
}

func TestRatesAndFlowControl(t *testing.T) {
	for _, c := range []Config{{BitsPerSecond: 300}, {BitsPerSecond: 1200}, {BitsPerSecond: 250000}, {BitsPerSecond: 12345}, {BitsPerSecond: 115200, RTSCTS: true}} {
		_, p := pair(t, c)
		s, err := unix.IoctlGetTermios(int(p.control.Fd()), unix.TCGETS2)
		if err != nil {
			t.Fatal(err)
		}
		if int(s.Ospeed) != c.BitsPerSecond || int(s.Ispeed) != c.BitsPerSecond {
			t.Errorf("rate %d: in %d, out %d", c.BitsPerSecond, s.Ispeed, s.Ospeed)
		}
		if got := s.Cflag&unix.CRTSCTS != 0; got != c.RTSCTS {
			t.Errorf("rate %d: RTS/CTS %v, want %v", c.BitsPerSecond, got, c.RTSCTS)
		}
		if s.Cflag&unix.CSIZE != unix.CS8 || s.Lflag != 0 || s.Oflag != 0 {
			t.Errorf("rate %d: not raw 8 bit: %+v", c.BitsPerSecond, s)
		}
	}
}

func TestSoleUse(t *testing.T) {
	far, _ := pair(t, Config{})
	if q, err := Open(context.Background(), Config{Device: far.Device}); err == nil {
		q.Close()
		t.Error("a port that is open already was opened again")
	}
}

func TestNotThere(t *testing.T) {
	if _, err := Open(context.Background(), Config{Device: filepath.Join(t.TempDir(), "tty")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open: %v, want os.ErrNotExist", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), Config{Device: file}); err == nil {
		t.Error("a plain file was opened as a serial port")
	}
}
