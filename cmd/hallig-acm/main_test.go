// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallig/radio/serial"
)

func TestFind(t *testing.T) {
	sys := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(sys, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("descriptors", "\x12\x01\x00\x02\x02\x00\x00\x40\x86\x2e\x0a\x00\x00\x01\x01\x02\x03\x01"+
		"\x09\x02\x3e\x00\x02\x01\x00\x80\x7d"+"\x09\x04\x00\x00\x01\x02\x02\x00\x04"+"\x05\x24\x06\x00\x01"+
		"\x09\x04\x01\x00\x02\x0a\x00\x00\x00"+"\x07\x05\x02\x02\x40\x00\x00"+"\x07\x05\x82\x02\x40\x00\x00")
	write("busnum", "1\n")
	if _, _, err := find(sys, "/dev/bus/usb"); err == nil {
		t.Error("a device without a number was found")
	}
	write("devnum", "12\n")
	node, functions, err := find(sys, "/dev/bus/usb")
	if err != nil || node != "/dev/bus/usb/001/012" || len(functions) != 1 {
		t.Errorf("%s %v %v", node, functions, err)
	}
	write("devnum", "../../x\n")
	if _, _, err := find(sys, "/dev/bus/usb"); err == nil {
		t.Error("a path was taken for a number")
	}
}

// device is the far end of a pipe in the place of a USB device.
type device struct {
	net.Conn
	rates chan int
}

func (d device) SetRate(bits int) error {
	d.rates <- bits
	return nil
}

// TestJoin has the box's own serial port talk through the terminal with a device.
func TestJoin(t *testing.T) {
	near, far := net.Pipe()
	tty, err := serial.NewPTY()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	dev := device{near, make(chan int, 4)}
	go func() { ended <- join(ctx, dev, tty, 115200) }() // waited for below
	port, err := serial.Open(ctx, serial.Config{Device: tty.Device, BitsPerSecond: 57600})
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	far.SetDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 64)
	if _, err := port.Write([]byte("AT\r")); err != nil {
		t.Fatal(err)
	}
	if n, err := far.Read(buf); err != nil || string(buf[:n]) != "AT\r" {
		t.Errorf("the device hears %q, %v", buf[:n], err)
	}
	if _, err := far.Write([]byte("OK\r\n\x00\xff")); err != nil {
		t.Fatal(err)
	}
	port.SetReadDeadline(time.Now().Add(time.Minute))
	var got []byte
	for len(got) < 6 {
		n, err := port.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, buf[:n]...)
	}
	if string(got) != "OK\r\n\x00\xff" {
		t.Errorf("the box hears %q", got)
	}
	select {
	case bits := <-dev.rates:
		if bits != 57600 {
			t.Errorf("the device is set to %d bit/s", bits)
		}
	case <-time.After(time.Minute):
		t.Error("the device never heard of the rate")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("told to end: %v", err)
	}
}
