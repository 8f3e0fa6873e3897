// SPDX-License-Identifier: EUPL-1.2

// Package plug knows what is plugged into a box: serial ports with names that stay the same, USB serial chips that the kernel has no driver for, and
// sticks with file systems. It reads the kernel's tree of devices (/sys) and is told by the kernel when that changes; it opens a
// medium only to read its first sectors, mounts nothing and changes nothing.
//
// Names of serial ports are made of what does not change: the chip and the serial number that the device itself tells, or else the socket that
// it is plugged into. Whoever is asked "which radio is this" can plug it into the same socket and gets the same answer.
package plug

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Event is one message of the kernel about a device, as on NETLINK_KOBJECT_UEVENT.
type Event struct {
	Action    string // add, remove, change, bind, ...
	DevPath   string // below /sys
	Subsystem string // block, tty, usb, input, ...
	Vars      map[string]string
}

// ParseEvent reads a message of the kernel: "add@/devices/...", then KEY=value, each ended by a zero byte.
func ParseEvent(msg []byte) (Event, error) {
	head, rest, ok := bytes.Cut(msg, []byte{0})
	action, path, ok2 := strings.Cut(string(head), "@")
	if !ok || !ok2 || action == "" || !strings.HasPrefix(path, "/") {
		return Event{}, fmt.Errorf("read event of the kernel: %.60q is none", head)
	}
	e := Event{Action: action, DevPath: path, Vars: make(map[string]string)}
	for field := range bytes.SplitSeq(rest, []byte{0}) {
		if k, v, ok := strings.Cut(string(field), "="); ok {
			e.Vars[k] = v
		}
	}
	e.Subsystem = e.Vars["SUBSYSTEM"]
	return e, nil
}

// Watch calls heard for each event of the kernel until ctx ends. lost is called when the kernel had more than fitted: whoever keeps a picture
// looks at everything again.
func Watch(ctx context.Context, heard func(Event), lost func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}
	const kernel = 1 // group of the kernel's own messages; programs use others
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernel}); err != nil {
		unix.Close(fd)
		return fmt.Errorf("listen for devices: %w", err)
	}
	f := os.NewFile(uintptr(fd), "uevents")
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("listen for devices: %w", err)
	}
	buf := make([]byte, 16<<10)
	for {
		var n int
		var from unix.Sockaddr
		var got error
		err := raw.Read(func(fd uintptr) bool {
			n, from, got = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("listen for devices: %w", err)
		case errors.Is(got, unix.ENOBUFS):
			lost()
			continue
		case errors.Is(got, unix.EINTR):
			continue
		case got != nil:
			return fmt.Errorf("listen for devices: %w", got)
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not the kernel
		}
		if e, err := ParseEvent(buf[:n]); err == nil {
			heard(e)
		}
	}
}

// text reads a one-line attribute of /sys; "" when it is not there.
func text(elem ...string) string {
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func number(elem ...string) int64 {
	n, _ := strconv.ParseInt(text(elem...), 10, 64)
	return n
}

// above walks from a device up to the first folder that has an attribute; "" when there is none below root.
func above(root, dir, attribute string) string {
	for ; strings.HasPrefix(dir, root) && dir != root; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, attribute)); err == nil {
			return dir
		}
	}
	return ""
}

// safe makes a piece of a name out of what a device says about itself: letters, digits, dot and dash, at most 32.
func safe(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.' && b.Len() > 0:
			b.WriteRune(r)
		case (r == '-' || r == '_' || r == ' ') && b.Len() > 0:
			b.WriteByte('-')
		}
		if b.Len() == 32 {
			break
		}
	}
	return strings.Trim(b.String(), "-.")
}
