// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hallig/appliance/plug"
	"hallig/appliance/steward"
)

// This file names serial ports and lets programs drive devices that the kernel has no driver for.

// lookAtPorts gives serial ports their names and rights.
func (b *box) lookAtPorts() {
	ports := plug.Ports(b.at.Sys)
	b.driveDriverless(ports)
	folder := filepath.Join(b.at.Dev, "hallig")
	want := make(map[string]string) // link, tty
	shown := make([]steward.Port, 0, len(ports))
	for i := range ports {
		p := &ports[i]
		if p.Driverless != "" {
			p.TTY = b.ttyOf(p.Driverless)
			p.Driver = "hallig-acm"
		} else if p.TTY != "" {
			node := filepath.Join(b.at.Dev, p.TTY)
			if err := errors.Join(os.Chown(node, 0, uidHallig), os.Chmod(node, 0o660)); err != nil {
				b.log.Printf("give %s to the homeserver: %v", p.TTY, err)
				continue
			}
		}
		if p.Name != "" && p.TTY != "" {
			want[p.Name] = "../" + p.TTY
		}
		shown = append(shown, p.Port)
	}
	if p, ok := b.radio(shown); ok {
		want["radio"] = p
	}
	links, _ := os.ReadDir(folder)
	for _, l := range links {
		name := filepath.Join(folder, l.Name())
		if to, err := os.Readlink(name); err == nil && want[l.Name()] == to {
			delete(want, l.Name())
			continue
		}
		os.Remove(name)
		if want[l.Name()] == "" {
			b.log.Printf("serial port %s is gone", l.Name())
		}
	}
	for name, to := range want {
		if err := os.Symlink(to, filepath.Join(folder, name)); err != nil {
			b.log.Printf("name serial port: %v", err)
			continue
		}
		b.log.Printf("serial port %s is %s", name, strings.TrimPrefix(to, "../"))
	}
	b.mu.Lock()
	b.ports = shown
	b.mu.Unlock()
}

// radio decides which port /dev/hallig/radio is: the one it was before as long as that is there, otherwise the only port on USB, otherwise the only
// port at all. A GPS receiver plugged in beside a radio thus does not take its place.
func (b *box) radio(ports []steward.Port) (link string, ok bool) {
	raw, _ := os.ReadFile(b.at.system("radio"))
	before := strings.TrimSpace(string(raw))
	p, ok := chooseRadio(ports, before)
	if !ok {
		return "", false
	}
	if p.Name != before && b.mounted() {
		if err := os.WriteFile(b.at.system("radio"), []byte(p.Name+"\n"), 0o600); err != nil {
			b.log.Printf("note which port the radio is: %v", err)
		}
	}
	return "../" + p.TTY, true
}

func chooseRadio(ports []steward.Port, before string) (steward.Port, bool) {
	var usb, all []steward.Port
	for _, p := range ports {
		if p.Name == "" || p.TTY == "" {
			continue
		}
		if p.Name == before {
			return p, true
		}
		all = append(all, p)
		if p.USB != "" {
			usb = append(usb, p)
		}
	}
	switch {
	case len(usb) == 1:
		return usb[0], true
	case len(usb) == 0 && len(all) == 1:
		return all[0], true
	}
	return steward.Port{}, false
}

// driver is a program that drives a USB device (cmd/hallig-acm).
type driver struct {
	tty   string // pts/3; "" until it says so
	pid   int
	began time.Time
}

func (b *box) ttyOf(usb string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := b.drivers[usb]; d != nil {
		return d.tty
	}
	return ""
}

// driveDriverless starts a driver for each device that has none yet.
func (b *box) driveDriverless(ports []plug.Port) {
	for _, p := range ports {
		if p.Driverless == "" {
			continue
		}
		b.mu.Lock()
		there := b.drivers[p.Driverless] != nil
		d := &driver{}
		if !there {
			b.drivers[p.Driverless] = d
		}
		b.mu.Unlock()
		if there {
			continue
		}
		b.help("driver of "+p.Name, func() error {
			defer func() {
				b.mu.Lock()
				delete(b.drivers, p.Driverless)
				b.mu.Unlock()
				b.missed() // its port is gone
			}()
			err := b.drive(p, d)
			if err != nil { // not at once again: the next look may start it anew
				select {
				case <-b.running.Done():
				case <-time.After(5 * time.Second):
				}
			}
			return err
		})
	}
}

// drive runs a driver until the device is unplugged.
func (b *box) drive(p plug.Port, d *driver) error {
	if err := os.Chown(filepath.Join(b.at.Dev, p.Node), uidHallig, uidHallig); err != nil {
		return err
	}
	cmd := exec.CommandContext(b.running, "/user/hallig-acm", "--sys", p.Driverless)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = []string{"HOME=/", "GOMEMLIMIT=8388608"}
	cmd.Stderr = b.rings.Ring("hallig-acm")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: uidHallig, Gid: uidHallig}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.crew.Start(cmd, nil); err != nil {
		return err
	}
	defer b.crew.Forget(cmd.Process.Pid)
	b.mu.Lock()
	d.pid, d.began = cmd.Process.Pid, time.Now()
	b.mu.Unlock()
	lines := bufio.NewScanner(io.LimitReader(out, 4096))
	for lines.Scan() {
		var say struct {
			TTY string `json:"tty"`
		}
		if json.Unmarshal(lines.Bytes(), &say) == nil && strings.HasPrefix(say.TTY, "/dev/pts/") {
			b.mu.Lock()
			d.tty = strings.TrimPrefix(say.TTY, "/dev/")
			b.mu.Unlock()
			b.missed() // look again: the port has a terminal now
		}
	}
	return cmd.Wait()
}
