// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// This file makes a Linux out of a kernel: mounts, limits, switches, clock, host name.

// mountKernel mounts what programs expect. What fails is said and the rest goes on: a machine without cgroups still carries messages.
func (b *box) mountKernel() {
	for _, m := range []struct {
		source, target, fs string
		flags              uintptr
		data               string
	}{
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "hidepid=2"},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, ""},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666"},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "size=1m,mode=1777"},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "size=8m,mode=0755"},
		{"tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "size=16m,mode=1777"},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if strings.HasPrefix(m.target, "/dev/") {
			os.MkdirAll(m.target, 0o755)
		}
		err := unix.Mount(m.source, m.target, m.fs, m.flags, m.data)
		if errors.Is(err, unix.EBUSY) { // the kernel has mounted /dev by itself
			err = unix.Mount("", m.target, "", unix.MS_REMOUNT|m.flags, m.data)
		}
		if err != nil {
			b.log.Printf("mount %s: %v", m.target, err)
		}
	}
}

// limits are inherited by every process.
func (b *box) limits() {
	unix.Umask(0o022)
	for _, l := range []struct {
		what string
		res  int
		n    uint64
	}{
		{"open files", syscall.RLIMIT_NOFILE, 16384},
		{"core dumps", syscall.RLIMIT_CORE, 0}, // a dump would hold keys
		{"processes of a user", unix.RLIMIT_NPROC, 512},
		{"locked memory", unix.RLIMIT_MEMLOCK, unix.RLIM_INFINITY}, // the vault's; others have no use for it
	} {
		if err := syscall.Setrlimit(l.res, &syscall.Rlimit{Cur: l.n, Max: l.n}); err != nil {
			b.log.Printf("limit %s: %v", l.what, err)
		}
	}
	for name, value := range map[string]string{
		"kernel/dmesg_restrict":               "1", // who is not root reads neither the kernel's log nor its addresses
		"kernel/kptr_restrict":                "2",
		"kernel/sysrq":                        "0", // a keyboard is no key to the box
		"kernel/unprivileged_bpf_disabled":    "1",
		"kernel/perf_event_paranoid":          "3",
		"kernel/panic":                        "10", // seconds until a restart: a trial that panics ends in the system before
		"kernel/panic_on_oops":                "1",
		"fs/protected_hardlinks":              "1",
		"fs/protected_symlinks":               "1",
		"fs/suid_dumpable":                    "0",
		"net/ipv4/ip_forward":                 "0",
		"net/ipv4/conf/all/rp_filter":         "2",
		"net/ipv4/tcp_syncookies":             "1",
		"vm/dirty_background_bytes":           "4194304", // sticks and cards are slow: a long queue is a long wait for everybody
		"vm/dirty_bytes":                      "16777216",
		"net/ipv4/ip_unprivileged_port_start": "1024",
	} {
		if err := os.WriteFile(filepath.Join(b.at.Proc, "sys", name), []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			b.log.Printf("set %s: %v", name, err)
		}
	}
	// Ctrl-Alt-Del comes as SIGINT, so that processes are stopped first.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		b.log.Printf("take Ctrl-Alt-Del: %v", err)
	}
}

// loopback sets lo up with 127.0.0.1; the kernel adds ::1 by itself.
func (b *box) loopback() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.log.Printf("set lo up: %v", err)
		return
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err == nil {
		if err = ifr.SetInet4Addr([]byte{127, 0, 0, 1}); err == nil {
			err = unix.IoctlIfreq(fd, unix.SIOCSIFADDR, ifr)
		}
	}
	if err == nil {
		ifr, _ = unix.NewIfreq("lo")
		ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	}
	if err != nil {
		b.log.Printf("set lo up: %v", err)
	}
}

// modules loads what /etc/hallig/modules names, one file below /lib/modules/RELEASE a line, in that order. Modules of a kernel without their hardware
// say so; that is no trouble.
func (b *box) modules() {
	raw, err := os.ReadFile(filepath.Join(b.at.Etc, "hallig/modules"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(raw)) {
		name := strings.TrimSpace(line)
		if name == "" || name[0] == '#' {
			continue
		}
		f, err := os.Open(filepath.Join("/lib/modules", b.kernel(), filepath.Clean("/"+name)))
		if err != nil {
			b.log.Printf("load module: %v", err)
			continue
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENODEV) {
			b.log.Printf("load module %s: %v", name, err)
		}
		f.Close()
	}
}

func (b *box) kernel() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// hostname names the machine after its server, or after its machine id.
func (b *box) hostname(server, machineID string) {
	label, _, _ := strings.Cut(server, ".")
	name := safeHost(label)
	if name == "" || strings.HasSuffix(server, ".hallig.internal") {
		name = "hallig"
		if len(machineID) >= 4 {
			name += "-" + machineID[:4]
		}
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		b.log.Printf("set host name: %v", err)
	}
}

func safeHost(s string) string {
	s = strings.ToLower(s)
	s = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return -1
	}, s)
	return strings.Trim(s[:min(len(s), 63)], "-")
}

// earliest is before any release of Hallig: an RTC that says less has lost its time.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const rtcFile = "rtc0"

// readRTC sets the system's clock from the hardware's, where the kernel has not done it. Whether that time is trusted is the homeserver's to
// decide.
func (b *box) readRTC() {
	f, err := os.Open(filepath.Join(b.at.Dev, rtcFile))
	if err != nil {
		return // a Raspberry Pi 4 has none
	}
	defer f.Close()
	b.rtc = true
	rt, err := unix.IoctlGetRTCTime(int(f.Fd()))
	if err != nil {
		b.log.Printf("read hardware clock: %v", err)
		return
	}
	t := time.Date(int(rt.Year)+1900, time.Month(rt.Mon+1), int(rt.Mday), int(rt.Hour), int(rt.Min), int(rt.Sec), 0, time.UTC)
	if t.Before(earliest) {
		b.log.Printf("the hardware clock says %s and is not believed", t.Format(time.RFC3339))
		return
	}
	if d := time.Until(t); d > -2*time.Second && d < 2*time.Second {
		return
	}
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		b.log.Printf("set clock: %v", err)
		return
	}
	b.log.Printf("the clock is set to the hardware clock: %s", t.Format(time.RFC3339))
}

// setClock sets the system's clock and the hardware's.
func (b *box) setClock(t time.Time) error {
	tv := unix.NsecToTimeval(t.UnixNano())
	if err := unix.Settimeofday(&tv); err != nil {
		return fmt.Errorf("set clock: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(b.at.Dev, rtcFile), os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("set hardware clock: %w", err)
	}
	defer f.Close()
	u := t.UTC()
	rt := unix.RTCTime{Sec: int32(u.Second()), Min: int32(u.Minute()), Hour: int32(u.Hour()), Mday: int32(u.Day()), Mon: int32(u.Month()) - 1, Year: int32(u.Year()) - 1900}
	if err := unix.IoctlSetRTCTime(int(f.Fd()), &rt); err != nil {
		return fmt.Errorf("set hardware clock: %w", err)
	}
	return nil
}

// memory gives all and available bytes.
func (b *box) memory() (total, free int64) {
	raw, err := os.ReadFile(filepath.Join(b.at.Proc, "meminfo"))
	if err != nil {
		return 0, 0
	}
	return meminfo(raw)
}

func meminfo(raw []byte) (total, free int64) {
	for line := range bytes.Lines(raw) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		n, _ := strconv.ParseInt(f[1], 10, 64)
		switch f[0] {
		case "MemTotal:":
			total = n << 10
		case "MemAvailable:":
			free = n << 10
		}
	}
	return total, free
}

// uptime is time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
