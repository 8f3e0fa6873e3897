// SPDX-License-Identifier: EUPL-1.2

// Command hallig-acm makes a serial port of a USB device for which the kernel has no driver (package radio/acm):
//
//	hallig-acm --sys /sys/bus/usb/devices/1-1.2
//
// It claims the device, prints one line of JSON with the pseudo terminal that stands for it, {"tty":"/dev/pts/0"}, and moves bytes until the
// device is unplugged (exit status 0) or it is told to end. It needs to read the device's folder in sysfs and to write its node under
// /dev/bus/usb, nothing else. What arrives while nobody reads the terminal is dropped, as on any serial port.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hallig/radio/acm"
	"hallig/radio/serial"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "hallig-acm:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("hallig-acm", flag.ContinueOnError)
	sys := f.String("sys", "", "the device's folder in sysfs")
	devices := f.String("devices", "/dev/bus/usb", "folder of the devices' nodes")
	bits := f.Int("bits", 115200, "bit/s until somebody sets another rate on the terminal")
	which := f.Int("port", 0, "which serial port of the device, from 0")
	if err := f.Parse(args); err != nil {
		return err
	}
	node, functions, err := find(*sys, *devices)
	if err != nil {
		return err
	}
	if *which < 0 || *which >= len(functions) {
		return fmt.Errorf("the device has %d serial ports; --port counts from 0", len(functions))
	}
	port, err := acm.Open(node, functions[*which], *bits)
	if err != nil {
		return err
	}
	defer port.Close()
	tty, err := serial.NewPTY()
	if err != nil {
		return err
	}
	defer tty.Close()
	if err := json.NewEncoder(out).Encode(map[string]string{"tty": tty.Device}); err != nil {
		return err
	}
	return join(ctx, port, tty, *bits)
}

// find reads what sysfs says of a device.
func find(sys, devices string) (node string, functions []acm.Function, err error) {
	raw, err := os.ReadFile(filepath.Join(sys, "descriptors"))
	if err != nil {
		return "", nil, fmt.Errorf("read USB descriptors: %w", err)
	}
	if functions, err = acm.Parse(raw); err != nil {
		return "", nil, fmt.Errorf("%s: %w", filepath.Base(sys), err)
	}
	var at [2]int
	for i, name := range []string{"busnum", "devnum"} {
		text, err := os.ReadFile(filepath.Join(sys, name))
		if err != nil {
			return "", nil, fmt.Errorf("find USB device: %w", err)
		}
		if at[i], err = strconv.Atoi(strings.TrimSpace(string(text))); err != nil || at[i] < 0 || at[i] > 999 {
			return "", nil, fmt.Errorf("find USB device: %s is %q", name, strings.TrimSpace(string(text)))
		}
	}
	return filepath.Join(devices, fmt.Sprintf("%03d", at[0]), fmt.Sprintf("%03d", at[1])), functions, nil
}

// stream is a claimed device; tests have another one.
type stream interface {
	io.ReadWriteCloser
	SetRate(bits int) error
}

// join moves bytes both ways, and hands the rate that is set on the terminal on to the device.
func join(ctx context.Context, port stream, tty *serial.PTY, bits int) error {
	ended := make(chan error, 2)
	go func() { ended <- toTerminal(tty, port) }() // both end with their files, which are closed below; the last lines wait for them
	go func() { ended <- toDevice(port, tty) }()
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	var err error
	waiting := 2
wait:
	for {
		select {
		case <-ctx.Done():
			break wait
		case err = <-ended:
			waiting--
			break wait
		case <-look.C:
			if now := rate(tty); now > 0 && now != bits {
				bits = now
				if err = port.SetRate(bits); err != nil {
					break wait
				}
			}
		}
	}
	err = errors.Join(err, port.Close(), tty.Close())
	for range waiting {
		<-ended
	}
	if errors.Is(err, acm.ErrGone) {
		return nil
	}
	return err
}

func toTerminal(tty *serial.PTY, port io.Reader) error {
	b := make([]byte, 4096)
	for {
		n, err := port.Read(b)
		if err != nil {
			return err
		}
		if err := tty.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
			return err
		}
		if _, err := tty.Write(b[:n]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("write to terminal: %w", err)
		}
	}
}

func toDevice(port io.Writer, tty io.Reader) error {
	b := make([]byte, 4096)
	for {
		n, err := tty.Read(b)
		if err != nil {
			return fmt.Errorf("read from terminal: %w", err)
		}
		if _, err := port.Write(b[:n]); err != nil {
			return err
		}
	}
}

// rate is what the user of the terminal has set; asked on the master, the kernel answers for the slave.
func rate(tty *serial.PTY) int {
	raw, err := tty.SyscallConn()
	if err != nil {
		return 0
	}
	var bits int
	if raw.Control(func(fd uintptr) {
		if t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS2); err == nil {
			bits = int(t.Ospeed)
		}
	}) != nil {
		return 0
	}
	return bits
}
