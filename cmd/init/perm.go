// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"hallig/appliance/disk"
	"hallig/appliance/steward"
	"hallig/appliance/update"
)

// bringPerm makes, grows and mounts /perm, and starts what needs it; alive is called where something long goes on. Whatever fails, the network and the screen come up and say why.
func (b *box) bringPerm(alive func()) {
	dev, err := (disk.System{Sys: b.at.Sys, Dev: b.at.Dev}).Running()
	if err != nil {
		b.withoutPerm(err)
		return
	}
	b.mu.Lock()
	b.disk = dev
	switch dev.Slot() {
	case "a":
		b.slot = update.SlotA
	case "b":
		b.slot = update.SlotB
	}
	b.mu.Unlock()
	if grown, err := dev.Grow(); err != nil {
		b.withoutPerm(err)
		return
	} else if grown {
		b.log.Printf("the last partition of %s reaches the end of the disk now", dev.Name)
	}
	b.readSlots()
	content, err := dev.Look()
	if err != nil {
		b.withoutPerm(err)
		return
	}
	if content == disk.Erasing {
		last := -1
		if err := dev.Erase("", func(done float64) {
			alive()
			if p := int(done * 100); p > last {
				last = p
				b.screen.line("Zurücksetzen wird beendet / factory reset goes on: %d %%", p)
			}
		}); err != nil {
			b.withoutPerm(err)
			return
		}
		content = disk.Empty
	}
	if content == disk.Empty {
		b.mu.Lock()
		b.resetBy = dev.Noted()
		b.mu.Unlock()
		b.screen.line("Erster Start: der Datenträger wird eingerichtet / first start: the disk is being set up")
		made, err := b.firstVault(dev)
		if err != nil {
			// Not a word of the data may be kept in the clear by a box that was told to encrypt it.
			b.withoutPerm(err)
			return
		}
		if made {
			content = disk.Vault
		}
	}
	if content == disk.Vault {
		b.openVault(dev) // goes on with mounted when somebody has opened it
		return
	}
	content, err = dev.Ready()
	if err != nil {
		b.withoutPerm(err)
		return
	}
	if content != disk.Ext4 {
		b.log.Printf("made the file system on %s, which was %s", dev.PartName(disk.PermPart), content)
	}
	size, err := dev.PermSize()
	if err != nil {
		b.log.Printf("size of /perm: %v", err)
	}
	b.mountPerm(dev.PartPath(disk.PermPart), size)
}

// mountPerm mounts a device as /perm and starts what needs it.
func (b *box) mountPerm(device string, size int64) {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME
	if err := unix.Mount(device, b.at.Perm, "ext4", flags, "errors=remount-ro"); err != nil {
		b.withoutPerm(steward.Text{
			De: fmt.Sprintf("Die Daten auf %s lassen sich nicht öffnen (%v). Datenträger prüfen lassen; mit einem neuen Datenträger und der Sicherung geht es weiter.", device, err),
			En: fmt.Sprintf("The data on %s cannot be opened (%v). Have the disk checked; a new disk and the backup get you going again.", device, err),
		})
		return
	}
	if size > 0 {
		if before, after, err := disk.GrowFS(b.at.Perm, size); err != nil {
			b.log.Printf("%v", err) // it works at the size it has
		} else if before != after {
			b.log.Printf("/perm grew from %d MiB to %d MiB", before>>20, after>>20)
		}
	}
	b.mu.Lock()
	b.perm, b.permDev = true, device
	b.mu.Unlock()
	b.say("perm", steward.Text{})
	if err := b.settle(); err != nil {
		b.say("system", sentence(err, "Auf /perm kann nicht geschrieben werden; die Box arbeitet nur eingeschränkt.", "/perm cannot be written to; the box works within limits only."))
	}
	b.readNames()
	b.takeProvision()
	b.startLAN()
	b.startHallig()
	b.help("way back", func() error { b.lookBack(); return nil })
	select {
	case b.reread <- struct{}{}:
	default:
	}
}

// withoutPerm is the box that can only say what is wrong with it.
func (b *box) withoutPerm(err error) {
	t := sentence(err, "Die Daten der Box sind nicht erreichbar.", "The box's data cannot be reached.")
	b.say("perm", t)
	if !b.known() {
		b.publishMachineID("")
	}
	b.lendNetwork()
	b.startLAN()
	b.startPage(t)
}

// settle makes the folders of /perm and the machine's own identity.
func (b *box) settle() error {
	var errs []error
	for _, d := range []struct {
		name     string
		mode     os.FileMode
		uid, gid int
	}{
		{"system", 0o700, 0, 0}, {"log", 0o700, 0, 0}, {"hallig", 0o700, uidHallig, uidHallig}, {"hallig/tmp", 0o700, uidHallig, uidHallig},
	} {
		errs = append(errs, ownFolder(filepath.Join(b.at.Perm, d.name), d.mode, d.uid, d.gid))
	}
	if err := b.emptyTmp(); err != nil {
		b.log.Printf("empty /perm/hallig/tmp: %v", err)
	}
	b.rings.Attach(filepath.Join(b.at.Perm, "log"))
	crash := filepath.Join(b.at.Perm, "log", "init-crash.txt")
	if raw, err := os.ReadFile(crash); err == nil && len(raw) > 0 {
		b.log.Printf("the first process crashed in its last life: %s", raw[:min(len(raw), 16<<10)])
	}
	if f, err := os.OpenFile(crash, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600); err == nil {
		// A crash of the first process stops the kernel; its words would be gone.
		if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
			b.log.Printf("keep words of a crash: %v", err)
		}
		f.Close()
	}
	errs = append(errs, b.seedRandom(), b.identity(), b.readRecord())
	b.rememberReset()
	return errors.Join(errs...)
}

// ownFolder makes a folder and gives it away. A link in its place goes away: the homeserver, were it taken over, could lay one that leads
// to what is root's.
func ownFolder(dir string, mode os.FileMode, uid, gid int) error {
	if st, err := os.Lstat(dir); err == nil && !st.IsDir() {
		if err := os.Remove(dir); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return errors.Join(os.Chmod(dir, mode), os.Lchown(dir, uid, gid))
}

func (b *box) emptyTmp() error {
	dir := filepath.Join(b.at.Perm, "hallig/tmp")
	if st, err := os.Lstat(dir); err != nil || !st.IsDir() {
		return err
	}
	list, err := os.ReadDir(dir)
	for _, e := range list {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// identity makes the machine id once and puts it where programs look for it.
func (b *box) identity() error {
	name := b.at.system("machine-id")
	raw, err := os.ReadFile(name)
	id := strings.TrimSpace(string(raw))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !validMachineID(id) {
		var random [16]byte
		if _, err := rand.Read(random[:]); err != nil {
			return fmt.Errorf("make machine id: %w", err)
		}
		random[6], random[8] = random[6]&0x0f|0x40, random[8]&0x3f|0x80 // machine-id(5): a random UUID
		id = hex.EncodeToString(random[:])
		if err := renameio.WriteFile(name, []byte(id+"\n"), 0o644); err != nil {
			return fmt.Errorf("keep machine id: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("read machine id: %w", err)
	}
	b.publishMachineID(id)
	return nil
}

// known says whether the machine has its id already.
func (b *box) known() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.machineID != ""
}

func validMachineID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 32 && s != strings.Repeat("0", 32)
}

// publishMachineID shows the id as /etc/machine-id, which is an empty file in the image.
func (b *box) publishMachineID(id string) {
	if id == "" {
		var random [16]byte
		rand.Read(random[:]) // for this start only
		id = hex.EncodeToString(random[:])
	}
	b.mu.Lock()
	b.machineID = id
	b.mu.Unlock()
	name := b.at.run("machine-id")
	if err := os.WriteFile(name, []byte(id+"\n"), 0o644); err != nil {
		b.log.Printf("show machine id: %v", err)
		return
	}
	etc := filepath.Join(b.at.Etc, "machine-id")
	if st, err := os.Lstat(etc); err == nil && st.Mode().IsRegular() && !b.bound.Swap(true) {
		if err := unix.Mount(name, etc, "", unix.MS_BIND, ""); err != nil {
			b.log.Printf("show machine id: %v", err)
		}
	}
}

const seedBytes = 512

// seedRandom hands the kernel what randomness the last life of this machine left for it, and leaves some for the next one first: no seed counts
// twice.
func (b *box) seedRandom() error {
	name := b.at.system("random-seed")
	old, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read random seed: %w", err)
	}
	if len(old) > 0 { // mixed in, not counted yet
		if f, err := os.OpenFile(filepath.Join(b.at.Dev, "urandom"), os.O_WRONLY, 0); err == nil {
			f.Write(old)
			f.Close()
		}
	}
	next := make([]byte, seedBytes)
	if _, err := unix.Getrandom(next, unix.GRND_INSECURE); err != nil {
		if _, err := rand.Read(next); err != nil {
			return fmt.Errorf("make random seed: %w", err)
		}
	}
	if err := renameio.WriteFile(name, next, 0o600); err != nil {
		return fmt.Errorf("keep random seed: %w", err)
	}
	if err := syncFolder(filepath.Dir(name)); err != nil { // otherwise a power cut brings the old one back, which then counts twice
		return fmt.Errorf("keep random seed: %w", err)
	}
	if len(old) != seedBytes {
		return nil
	}
	f, err := os.OpenFile(filepath.Join(b.at.Dev, "random"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("credit random seed: %w", err)
	}
	defer f.Close()
	var pool struct { // struct rand_pool_info, linux/random.h
		bits, size int32
		buf        [seedBytes]byte
	}
	pool.bits, pool.size = 256, seedBytes
	copy(pool.buf[:], old)
	const addEntropy = 0x40085203 // RNDADDENTROPY
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), addEntropy, uintptr(unsafe.Pointer(&pool))); e != 0 {
		return fmt.Errorf("credit random seed: %w", e)
	}
	return nil
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// keepSeed leaves fresh randomness for the next start.
func (b *box) keepSeed() {
	b.mu.Lock()
	perm := b.perm
	b.mu.Unlock()
	if !perm {
		return
	}
	next := make([]byte, seedBytes)
	if _, err := rand.Read(next); err != nil {
		return
	}
	if err := renameio.WriteFile(b.at.system("random-seed"), next, 0o600); err != nil {
		b.log.Printf("keep random seed: %v", err)
	}
}

// kernelLog copies the kernel's messages to a log of their own. Records are "level,number,microseconds,flags;text", with further lines that
// begin with a space: https://www.kernel.org/doc/Documentation/ABI/testing/dev-kmsg
func (b *box) kernelLog() error {
	f, err := os.Open(filepath.Join(b.at.Dev, "kmsg"))
	if err != nil {
		return fmt.Errorf("read the kernel's log: %w", err)
	}
	stop := make(chan struct{})
	go func() { // ends with the box
		<-b.running.Done()
		f.Close()
		close(stop)
	}()
	ring := b.rings.Ring("kernel")
	buf := make([]byte, 8192)
	for {
		n, err := f.Read(buf)
		switch {
		case b.running.Err() != nil:
			<-stop
			return nil
		case errors.Is(err, unix.EPIPE): // messages were overwritten before they were read
			continue
		case err != nil:
			return fmt.Errorf("read the kernel's log: %w", err)
		}
		ring.Printf("%s", kernelRecord(buf[:n]))
	}
}

func kernelRecord(rec []byte) string {
	head, text, ok := bytes.Cut(rec, []byte{';'})
	if !ok {
		return string(rec)
	}
	first, _, _ := bytes.Cut(text, []byte{'\n'})
	fields := strings.Split(string(head), ",")
	if len(fields) < 3 {
		return string(first)
	}
	us, err := time.ParseDuration(fields[2] + "us")
	if err != nil {
		return string(first)
	}
	return fmt.Sprintf("[%.6f] %s", us.Seconds(), first)
}
