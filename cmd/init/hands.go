// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/plug"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
)

// The hands do what can take long or hang: they mount and read sticks and give serial ports their names. One goroutine, so that nothing happens twice at
// once; the main loop goes on petting the watchdog whatever a broken stick does to it.

// stick is a volume that is plugged in.
type stick struct {
	plug.Volume
	path    string // where it is mounted; "": not
	write   bool
	touched time.Time // when somebody last wanted to write, or read or wrote
	traffic string    // the kernel's counters of its reads and writes at that time
	ejected bool      // not mounted again until it was pulled out
	updates []steward.Bundle
	marks   []string
	err     steward.Text
}

const (
	// quiet is how long the kernel must be silent about devices before they are looked at: a stick comes as a disk and then its partitions.
	quiet = 300 * time.Millisecond
	// idle is how long a stick stays writable after the last wish and the last byte.
	idle = time.Minute
)

func (b *box) hands() error {
	select {
	case <-b.reread: // this first look is the one that /perm was waited for
	default:
	}
	b.lookAtPorts()
	b.lookAtSticks()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-b.running.Done():
			return nil
		case e := <-b.events:
			if e.Subsystem == "block" || e.Subsystem == "tty" || e.Subsystem == "usb" || e.Subsystem == "usb-serial" {
				again.Reset(quiet)
			}
		case <-b.lost:
			again.Reset(quiet)
		case <-again.C:
			b.lookAtPorts()
			b.lookAtSticks()
		case <-b.reread: // /perm is there now: what sticks ask for can be done
			b.mu.Lock()
			sticks := slices.Clone(b.sticks)
			b.mu.Unlock()
			for _, s := range sticks {
				fresh := &stick{Volume: s.Volume, path: s.path, write: s.write, touched: s.touched, ejected: s.ejected}
				b.act(fresh)
				b.mu.Lock()
				s.updates, s.marks, s.err = fresh.updates, fresh.marks, fresh.err
				b.mu.Unlock()
			}
		case <-tick.C:
			b.calmSticks()
		}
	}
}

// lookAtSticks mounts what is new and lets go of what is gone.
func (b *box) lookAtSticks() {
	b.mu.Lock()
	own, old := b.disk.Name, slices.Clone(b.sticks)
	b.mu.Unlock()
	volumes := plug.Volumes(b.at.Sys, b.at.Dev, own)
	var now []*stick
	for _, s := range old {
		if i := slices.IndexFunc(volumes, func(v plug.Volume) bool { return v.Kernel == s.Kernel && v.Format == s.Format && v.Size == s.Size }); i >= 0 {
			now = append(now, s)
			volumes = slices.Delete(volumes, i, i+1)
			continue
		}
		b.log.Printf("stick %s was pulled out", s.Name)
		b.unmount(s, unix.MNT_DETACH)
		b.pulled(s.Name)
	}
	for _, v := range volumes {
		for slices.ContainsFunc(now, func(s *stick) bool { return s.Name == v.Name }) {
			v.Name += "-" + v.Kernel
		}
		s := &stick{Volume: v}
		b.log.Printf("stick %s: %s on %s, %d MiB", s.Name, s.Format.FS, s.Kernel, s.Size>>20)
		b.mount(s)
		b.act(s) // before others can see it
		now = append(now, s)
	}
	b.mu.Lock()
	b.sticks = now
	b.mu.Unlock()
}

const stickFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME

// mount makes a stick readable.
func (b *box) mount(s *stick) {
	if s.Format.FS != "vfat" && s.Format.FS != "exfat" {
		s.err = steward.Text{
			De: fmt.Sprintf("Stick %s: Dateisystem %s kann die Box nicht lesen. Formatieren Sie ihn als FAT32.", s.Name, orUnknown(s.Format.FS, "unbekannt")),
			En: fmt.Sprintf("Stick %s: the box cannot read its file system (%s). Format it as FAT32.", s.Name, orUnknown(s.Format.FS, "unknown")),
		}
		return
	}
	dir := filepath.Join(b.at.Run, "sticks", s.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.err = sentence(err, "Stick kann nicht geöffnet werden.", "The stick cannot be opened.")
		return
	}
	// A stick that was pulled out while it was written has files whose clusters its table does not know. On deleting one, the kernel would set the whole stick
	// read-only, and it would be of no use until a PC has repaired it. What is on sticks is checked when it is read, and sent again when it is damaged.
	data := fmt.Sprintf("uid=%d,gid=%d,umask=077,errors=continue", uidHallig, uidHallig)
	if s.Format.FS == "vfat" {
		data += ",utf8=1,shortname=mixed,flush"
	}
	err := unix.Mount(s.Device, dir, s.Format.FS, stickFlags|unix.MS_RDONLY, data)
	if err != nil {
		os.Remove(dir)
		s.err = steward.Text{
			De: fmt.Sprintf("Stick %s kann nicht geöffnet werden (%v). Formatieren Sie ihn als FAT32.", s.Name, err),
			En: fmt.Sprintf("Stick %s cannot be opened (%v). Format it as FAT32.", s.Name, err),
		}
		b.log.Printf("mount stick %s: %v", s.Name, err)
		return
	}
	s.path = dir
}

func orUnknown(s, unknown string) string {
	if s == "" {
		return unknown
	}
	return s
}

func (b *box) unmount(s *stick, flags int) error {
	if s.path == "" {
		return nil
	}
	if err := unix.Unmount(s.path, flags); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	os.Remove(s.path)
	b.mu.Lock()
	s.path, s.write = "", false
	b.mu.Unlock()
	return nil
}

// find gives the stick of that name.
func (b *box) find(name string) (*stick, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sticks {
		if s.Name == name {
			return s, nil
		}
	}
	return nil, steward.Text{De: fmt.Sprintf("Stick „%.40s“ steckt nicht.", name), En: fmt.Sprintf("Stick %.40q is not plugged in.", name)}
}

// writable lets the homeserver write to a stick.
func (b *box) writable(name string) error {
	s, err := b.find(name)
	if err != nil {
		return err
	}
	b.mu.Lock()
	path, was := s.path, s.write
	s.write, s.touched = path != "", time.Now()
	b.mu.Unlock()
	if path == "" {
		return steward.Text{De: "Der Stick " + name + " ist nicht geöffnet. Ziehen Sie ihn ab und stecken Sie ihn neu ein.", En: "Stick " + name + " is not open. Pull it out and plug it in again."}
	}
	if was {
		return nil
	}
	if err := unix.Mount("", path, "", unix.MS_REMOUNT|stickFlags, ""); err != nil {
		b.mu.Lock()
		s.write = false
		b.mu.Unlock()
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			return steward.Text{De: "Der Stick " + name + " ist schreibgeschützt. Nehmen Sie einen anderen.", En: "Stick " + name + " is write-protected. Take another one."}
		}
		return sentence(err, "Auf den Stick "+name+" kann nicht geschrieben werden.", "Stick "+name+" cannot be written to.")
	}
	return nil
}

// calmSticks makes sticks read-only again that nobody has used for a while: a backup is written, read back and tidied up in one go, and has moments in which
// no file is open. The kernel refuses while one is open for writing.
func (b *box) calmSticks() {
	b.mu.Lock()
	sticks := slices.Clone(b.sticks)
	b.mu.Unlock()
	for _, s := range sticks {
		raw, _ := os.ReadFile(filepath.Join(b.at.Sys, "class/block", s.Kernel, "stat"))
		b.mu.Lock()
		if s.traffic != string(raw) {
			s.traffic, s.touched = string(raw), time.Now()
		}
		calm, path := s.write && time.Since(s.touched) > idle, s.path
		b.mu.Unlock()
		if !calm || path == "" {
			continue
		}
		if unix.Mount("", path, "", unix.MS_REMOUNT|stickFlags|unix.MS_RDONLY, "") == nil {
			b.mu.Lock()
			s.write = false
			b.mu.Unlock()
		}
	}
}

// eject lets go of a stick; somebody who still reads or writes keeps it.
func (b *box) eject(name string) error {
	s, err := b.find(name)
	if err != nil {
		return err
	}
	err = b.unmount(s, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return steward.Text{De: "Auf den Stick wird noch geschrieben oder von ihm gelesen. Versuchen Sie es in einer Minute noch einmal.", En: "The stick is still being written to or read. Try again in a minute."}
	case err != nil:
		return sentence(err, "Der Stick lässt sich nicht abmelden.", "The stick cannot be let go.")
	}
	b.mu.Lock()
	s.ejected = true
	b.mu.Unlock()
	b.log.Printf("stick %s can be pulled out", name)
	return nil
}

// The files on a stick that the box acts on.
const (
	markReset   = "hallig-factory-reset"
	markInstall = "hallig-install-update"
	markLogs    = "hallig-logs"
	updateFiles = ".hallig-update"
)

// act does what a stick that was plugged in asks for.
func (b *box) act(s *stick) {
	if s.path == "" {
		return
	}
	b.mu.Lock()
	perm := b.perm
	b.mu.Unlock()
	list, err := os.ReadDir(s.path)
	if err != nil {
		s.err = sentence(err, "Stick "+s.Name+" kann nicht gelesen werden.", "Stick "+s.Name+" cannot be read.")
		return
	}
	has := func(name string) (string, bool) {
		for _, e := range list {
			if base := strings.ToLower(e.Name()); base == name || base == name+".txt" { // Windows hides and adds .txt
				return filepath.Join(s.path, e.Name()), true
			}
		}
		return "", false
	}
	if name, ok := has(markReset); ok {
		s.marks = append(s.marks, markReset)
		if b.resetByStick(s, name) {
			return
		}
	}
	if _, ok := has(markLogs); ok {
		s.marks = append(s.marks, markLogs)
		if err := b.logsTo(s); err != nil {
			s.err = sentence(err, "Die Protokolle können nicht auf den Stick geschrieben werden.", "The logs cannot be written to the stick.")
		}
	}
	if perm {
		f, err := readFound(s.path, s.Name)
		switch {
		case err == nil:
			s.marks = append(s.marks, provision.FileName)
			b.apply(f)
		case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EISDIR):
			s.err = about(s.Name, sentence(err, "Die Datei kann nicht gelesen werden.", "The file cannot be read."))
		}
	}
	_, consent := has(markInstall)
	if consent {
		s.marks = append(s.marks, markInstall)
	}
	for _, e := range list {
		if e.Type().IsRegular() && strings.HasSuffix(strings.ToLower(e.Name()), updateFiles) && !strings.HasPrefix(e.Name(), ".") {
			s.updates = append(s.updates, b.inspect(filepath.Join(s.path, e.Name())))
		}
	}
	if perm {
		b.installFrom(s, consent)
	}
}

func (b *box) restart(name string) {
	select {
	case b.restarts <- name:
	default:
	}
}

// logsTo writes the state of the box and all logs onto a stick, for somebody who helps from afar: there is no shell. They hold no messages and
// no keys.
func (b *box) logsTo(s *stick) error {
	if err := unix.Mount("", s.path, "", unix.MS_REMOUNT|stickFlags, ""); err != nil {
		return err
	}
	err := b.writeLogs(s.path)
	return errors.Join(err, unix.Mount("", s.path, "", unix.MS_REMOUNT|stickFlags|unix.MS_RDONLY, ""))
}

func (b *box) writeLogs(dir string) error {
	b.mu.Lock()
	name := "hallig-logs-" + b.machineID[:min(8, len(b.machineID))] + ".txt"
	b.mu.Unlock()
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriter(f)
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	if err := enc.Encode(b.state()); err != nil {
		return err
	}
	for _, log := range b.rings.Names() {
		fmt.Fprintf(out, "\n===== %s =====\n", log)
		if err := b.rings.Copy(out, log); err != nil {
			return err
		}
	}
	if err := errors.Join(out.Flush(), f.Sync()); err != nil {
		return err
	}
	b.log.Printf("the logs are on the stick, in %s", name)
	return nil
}
