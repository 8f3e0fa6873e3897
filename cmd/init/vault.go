// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/disk"
	"hallig/appliance/plug"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/supervise"
)

// A box whose provisioning file says so keeps its data encrypted (package vault). The file must come on a stick and at the very first start, as the
// partition is made then. At every start afterwards the box waits for that stick, or for the code on its page; the network is up meanwhile.

const vaultProgram = "/user/hallig-vault"

// settling is how long the first start waits for sticks: their ports are slower than the disk.
const settling = 8 * time.Second

// firstVault makes the encrypted partition when a stick asks for it. It says whether it did; every other first start waits a few seconds for sticks,
// once in the life of a box.
func (b *box) firstVault(dev disk.Device) (made bool, err error) {
	if !b.hasUSB() {
		return false, nil
	}
	var code string
	for began := time.Now(); code == "" && time.Since(began) < settling; b.dog.pet() {
		for _, v := range plug.Volumes(b.at.Sys, b.at.Dev, dev.Name) {
			s := &stick{Volume: v}
			if b.mount(s); s.path == "" {
				continue
			}
			if f, err := readFound(s.path, s.Name); err == nil {
				p, err := provision.Parse(f.raw)
				if err != nil && bytes.Contains(f.raw, []byte(`"lock"`)) {
					b.unmount(s, unix.MNT_DETACH)
					return false, meantLock(s.Name, err)
				}
				code = lockCode(p)
				began = time.Now().Add(-settling) // the file that was waited for
			}
			b.unmount(s, unix.MNT_DETACH)
			if code != "" {
				break
			}
		}
		if time.Since(began) < settling {
			time.Sleep(500 * time.Millisecond)
		}
	}
	if code == "" {
		return false, nil
	}
	if err := b.makeVault(dev, code); err != nil {
		return false, sentence(err, "Die Daten können nicht verschlüsselt werden; die Box richtet nichts ein. Stick prüfen und neu starten.", "The data cannot be encrypted; the box sets nothing up. Check the stick and start again.")
	}
	return true, nil
}

// hasUSB says whether there is anything that a stick can be plugged into.
func (b *box) hasUSB() bool {
	list, _ := os.ReadDir(filepath.Join(b.at.Sys, "bus/usb/devices"))
	return len(list) > 0
}

// makeVault runs hallig-vault make, with every stick writable.
func (b *box) makeVault(dev disk.Device, code string) error {
	b.screen.line("Die Daten werden verschlüsselt / the data is being encrypted")
	var mounted []*stick
	defer func() {
		for _, s := range mounted {
			b.unmount(s, 0)
		}
	}()
	for _, v := range plug.Volumes(b.at.Sys, b.at.Dev, dev.Name) {
		s := &stick{Volume: v}
		if b.mount(s); s.path == "" {
			continue
		}
		mounted = append(mounted, s)
		if err := unix.Mount("", s.path, "", unix.MS_REMOUNT|stickFlags, ""); err != nil {
			b.log.Printf("write to stick %s: %v", s.Name, err)
		}
	}
	file := b.at.run("code")
	if err := os.WriteFile(file, []byte(code), 0o600); err != nil {
		return err
	}
	defer os.Remove(file)
	ctx, cancel := context.WithTimeout(b.running, 2*time.Minute)
	defer cancel()
	_, err := b.crew.Once(ctx, supervise.Spec{
		Name: "hallig-vault", Path: vaultProgram, Log: b.rings.Ring("hallig-vault"), Caps: vaultCaps,
		Command: func() ([]string, []string) {
			return []string{"make", "--device", dev.PartPath(disk.PermPart), "--sticks", b.at.run("sticks"), "--code-file", file}, []string{"HOME=/"}
		},
	}, nil)
	return err
}

// vaultCaps are those of a process that mounts a file system of its own and attaches a loop device.
var vaultCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE, unix.CAP_IPC_LOCK, unix.CAP_DAC_OVERRIDE, unix.CAP_NET_BIND_SERVICE}

// openVault starts the program that waits for the key, and goes on with /perm when it has it. The program stays: it serves the device.
func (b *box) openVault(dev disk.Device) {
	b.locked(true)
	b.publishMachineID("")
	b.lendNetwork()
	b.startLAN()
	go func() { // outlives the others, as it serves what they write to: closeVault ends it
		for pause := time.Second; b.running.Err() == nil; pause = min(2*pause, time.Minute) {
			err := b.serveVault(dev)
			if b.vaultStop.Load() {
				return
			}
			b.say("vault", sentence(err, "Die verschlüsselten Daten sind nicht erreichbar. Starten Sie die Box neu.", "The encrypted data cannot be reached. Restart the box."))
			b.log.Printf("vault: %v", err)
			if b.mounted() { // nothing helps but a restart: the kernel has lost its disk
				return
			}
			select {
			case <-b.running.Done():
			case <-time.After(pause):
			}
		}
	}()
}

func (b *box) mounted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.perm
}

// locked shows that the box waits for its key.
func (b *box) locked(yes bool) {
	t := steward.Text{}
	if yes {
		t = steward.Text{
			De: "Die Daten sind verschlossen: den Schlüssel-Stick einstecken, oder den Code auf der Seite der Box eingeben.",
			En: "The data is locked: plug in the key stick, or type the code on the box's page.",
		}
	}
	b.say("locked", t)
}

// serveVault runs hallig-vault open until it ends.
func (b *box) serveVault(dev disk.Device) error {
	cmd := exec.Command(vaultProgram, "open", "--device", dev.PartPath(disk.PermPart), "--sticks", b.at.run("sticks"), "--dir", b.at.run("vault"))
	cmd.Env = []string{"HOME=/", "GOMEMLIMIT=100663296"}
	cmd.Stderr = b.rings.Ring("hallig-vault")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := b.crew.Start(cmd, vaultCaps); err != nil {
		return err
	}
	defer b.crew.Forget(cmd.Process.Pid)
	// It must outlive everything that writes to /perm, so it does not end with the others: closeDisks stops it.
	os.WriteFile(filepath.Join(b.at.Proc, fmt.Sprint(cmd.Process.Pid), "oom_score_adj"), []byte("-900"), 0)
	b.mu.Lock()
	b.vault, b.vaultUp = cmd.Process, time.Now()
	b.mu.Unlock()
	lines := bufio.NewScanner(io.LimitReader(out, 64<<10))
	for lines.Scan() {
		var say struct{ State, Device, Stick string }
		if json.Unmarshal(lines.Bytes(), &say) != nil || say.State != "open" {
			continue
		}
		b.log.Printf("the data is open (%s)", orUnknown(filepath.Base(say.Stick), "code"))
		b.locked(false)
		if err := b.mountVault(say.Device); err != nil {
			b.withoutPerm(err)
		}
	}
	err = cmd.Wait()
	b.mu.Lock()
	b.vault = nil
	b.mu.Unlock()
	if err == nil {
		err = errors.New("hallig-vault ended")
	}
	return err
}

// mountVault mounts what is inside, and makes it first where that has not happened yet. A vault holds only what this box has written, so what is no
// file system was never finished, unless a copy of a superblock says otherwise.
func (b *box) mountVault(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	there, err := superblock(f, 1024)
	if err != nil {
		return err
	}
	if !there {
		if copied, err := superblock(f, 32768*4096); err == nil && copied { // the second group's; a small disk has none
			return steward.Text{
				De: "Die verschlüsselten Daten sind beschädigt. Mit einem neuen Datenträger und der Sicherung geht es weiter.",
				En: "The encrypted data is damaged. A new disk and the backup get you going again.",
			}
		}
		if err := disk.Make(f); err != nil {
			return err
		}
		b.log.Printf("made the file system inside %s", device)
	}
	var size int64
	if n, err := f.Seek(0, io.SeekEnd); err == nil {
		size = n
	}
	b.mountPerm(device, size)
	return nil
}

// superblock says whether a superblock of our ext4 lies at an offset: the magic, blocks of 4096 bytes, revision 1. What was never written decrypts to
// noise, which has the magic alone on one box of 65,536.
func superblock(f io.ReaderAt, at int64) (bool, error) {
	var b [0x50]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		return false, err
	}
	n := binary.LittleEndian
	return n.Uint16(b[0x38:]) == 0xef53 && n.Uint32(b[0x18:]) == 2 && n.Uint32(b[0x4c:]) == 1, nil
}

// closeVault ends hallig-vault when nothing is mounted any more.
func (b *box) closeVault() {
	b.vaultStop.Store(true)
	for range 100 {
		b.mu.Lock()
		p := b.vault
		b.mu.Unlock()
		if p == nil {
			return
		}
		p.Signal(unix.SIGTERM)
		b.dog.pet()
		time.Sleep(100 * time.Millisecond)
	}
	b.log.Printf("hallig-vault does not end")
}

// lockable refuses a file that asks for encryption too late, or on the disk itself, where the code would lie beside what it locks.
func (b *box) lockable(f provision.File, from found, permDevice string) error {
	if lockCode(f) == "" {
		return nil
	}
	if from.stick == "" {
		return steward.Text{
			De: "„lock“ gehört auf einen Stick, nicht auf den Datenträger der Box: dort läge der Code neben dem, was er verschließt.",
			En: "\"lock\" belongs on a stick and not on the box's own disk: there the code would lie beside what it locks.",
		}
	}
	if !strings.HasPrefix(filepath.Base(permDevice), "loop") {
		return steward.Text{
			De: "Verschlüsseln geht nur beim ersten Start. Erst auf Werkszustand zurücksetzen, dann mit diesem Stick starten.",
			En: "Encryption is possible at the first start only. Reset the box to its factory state first, then start it with this stick.",
		}
	}
	return nil
}

// meantLock keeps a box from setting itself up in the open because of a slip of the pen.
func meantLock(stick string, err error) error {
	t := provision.ErrorOf(err)
	return about(stick, steward.Text{
		De: "Sie will die Daten verschlüsseln, ist aber nicht in Ordnung; die Box richtet nichts ein. Datei berichtigen und die Box neu starten. " + t.De,
		En: "It asks for encryption, but it is not right; the box sets nothing up. Mend the file and restart the box. " + t.En,
	})
}

// lockCode is the code with which the data shall be locked; "": not at all.
func lockCode(f provision.File) string { return f.Lock.Code }
