// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
	"hallig/appliance/supervise"
)

// state puts together what the steward tells.
func (b *box) state() steward.State {
	total, free := b.memory()
	b.mu.Lock()
	procs := slices.Clone(b.procs)
	s := steward.State{
		Version: b.image.Version, Release: b.image.Release, Slot: b.slotName(), Trial: b.trial.Load() && !b.confirmedLocked(),
		Machine: steward.Machine{
			Board: b.boardLocked(), Model: b.model(), Kernel: b.kernel(), Firmware: b.firmware(), ID: b.machineID,
			Uptime: uptime().Seconds(), Memory: total, Free: free, Watchdog: b.dog.String(), WiFi: b.wifi(),
		},
		Update: b.updateState(), Provision: b.provision, Serial: slices.Clone(b.ports), Sticks: []steward.Stick{},
		Clock: steward.Clock{RTC: b.rtc},
		Disk:  steward.Disk{Name: b.disk.Name, Mounted: b.perm},
	}
	for _, t := range b.troubles {
		s.Trouble = append(s.Trouble, t.text)
		if t.key == "perm" {
			s.Disk.Error = t.text
		}
	}
	for _, st := range b.sticks {
		s.Sticks = append(s.Sticks, steward.Stick{
			Name: st.Name, Label: st.Format.Label, Path: st.path, FS: st.Format.FS, Size: st.Size, Updates: slices.Clone(st.updates), Marks: slices.Clone(st.marks), Error: st.err,
		})
	}
	dev, perm := b.disk, b.perm
	b.mu.Unlock()

	// What asks the kernel about a disk is not done under the lock: a dying disk takes its time.
	if dev.Name != "" {
		s.Disk.Model = dev.Model()
		s.Disk.Size, _ = dev.Size()
	}
	if perm {
		var st unix.Statfs_t
		if unix.Statfs(b.at.Perm, &st) == nil {
			s.Disk.PermSize, s.Disk.PermFree = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
			s.Disk.Mounted = st.Flags&unix.ST_RDONLY == 0
		}
	}
	for i, st := range s.Sticks {
		var fs unix.Statfs_t
		if st.Path != "" && unix.Statfs(st.Path, &fs) == nil {
			s.Sticks[i].Free = int64(fs.Bavail) * fs.Bsize
		}
	}
	for _, p := range procs {
		s.Processes = append(s.Processes, p.Status())
	}
	s.Processes = append(append(s.Processes, b.helpers()...), b.self())
	return s
}

// helpers are the processes that serve something that is there only now and then: an opened vault, a device without a driver.
func (b *box) helpers() []steward.Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []steward.Process
	for usb, d := range b.drivers {
		if d.pid != 0 {
			list = append(list, steward.Process{Name: "hallig-acm " + filepath.Base(usb), PID: d.pid, Uptime: time.Since(d.began).Seconds()})
		}
	}
	slices.SortFunc(list, func(a, b steward.Process) int { return strings.Compare(a.Name, b.Name) })
	if b.vault != nil {
		list = append(list, steward.Process{Name: "hallig-vault", PID: b.vault.Pid, Uptime: time.Since(b.vaultUp).Seconds()})
	}
	for i := range list {
		list[i].RSS = supervise.RSS(list[i].PID)
	}
	return list
}

// self is this process, as one of the processes.
func (b *box) self() steward.Process {
	return steward.Process{Name: "init", PID: os.Getpid(), RSS: rss(), Uptime: uptime().Seconds()}
}

func (b *box) slotName() string {
	if b.slot == 0 {
		return ""
	}
	return b.slot.String()
}

// boardLocked is the kind of machine the image was built for; the caller holds the lock.
func (b *box) boardLocked() string {
	if b.image.Board != "" {
		return b.image.Board
	}
	return runtime.GOARCH
}

// model is what the firmware calls the machine.
func (b *box) model() string {
	for _, f := range []string{"firmware/devicetree/base/model", "class/dmi/id/product_name"} {
		if raw, err := os.ReadFile(filepath.Join(b.at.Sys, f)); err == nil {
			if s := strings.Trim(string(raw), " \x00\n"); s != "" {
				return s
			}
		}
	}
	return ""
}

func (b *box) firmware() string {
	if _, err := os.Stat(filepath.Join(b.at.Sys, "firmware/efi")); err == nil {
		return "uefi"
	}
	if strings.HasPrefix(b.model(), "Raspberry Pi") {
		return "raspberrypi"
	}
	if runtime.GOARCH == "amd64" {
		return "bios"
	}
	return ""
}

func (b *box) wifi() bool {
	list, _ := filepath.Glob(filepath.Join(b.at.Sys, "class/net/*/phy80211"))
	return len(list) > 0
}

// worst is the light's state: our own trouble, or what the homeserver asked for.
func (b *box) worst() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case len(b.troubles) > 0:
		return steward.LEDTrouble
	case !b.provision.Error.Empty() && (b.asked == "" || b.asked == steward.LEDOK):
		return steward.LEDLook
	case b.asked != "":
		return b.asked
	case time.Duration(uptime()) < 2*time.Minute:
		return steward.LEDOK
	}
	return steward.LEDLook
}
