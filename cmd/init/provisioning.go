// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"hallig/appliance/disk"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
)

// This file takes provisioning files. The rule: a file that was looked at once is not looked at again, so that the old one on the first partition does
// not fight the newer one of a stick at each start; a new or changed one is taken whole or refused whole, and what is in force stays in force
// until another one is taken (origin.go says where it came from, and which refusals are still worth a word). A server name that is fixed never changes, and once a box has accounts a stick needs its code for most things.

// found is a provisioning file that lies somewhere.
type found struct {
	stick string // its name; "": the first partition of the box itself
	raw   []byte
	mod   time.Time
}

// key tells files apart: a file that was written again counts as a new one, though it says the same as an older one.
func (f found) key() string {
	h := sha256.New()
	h.Write(f.raw)
	fmt.Fprintf(h, "\x00%d", f.mod.Unix())
	return hex.EncodeToString(h.Sum(nil))
}

// readFound reads hallig.json in a folder; fs.ErrNotExist when there is none. It reads no more than one byte too many.
func readFound(dir, stick string) (found, error) {
	f, err := os.Open(filepath.Join(dir, provision.FileName))
	if err != nil {
		return found{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return found{}, err
	}
	if !st.Mode().IsRegular() {
		return found{}, fs.ErrNotExist
	}
	raw, err := io.ReadAll(io.LimitReader(f, provision.MaxBytes+1))
	return found{stick: stick, raw: raw, mod: st.ModTime()}, err
}

// bootFile looks on the first partition, which is mounted for that moment only, and read-only: nothing on the box changes its FAT by way of a
// file system.
func (b *box) bootFile() (found, bool) {
	b.mu.Lock()
	dev := b.disk
	b.mu.Unlock()
	if dev.Name == "" {
		return found{}, false
	}
	dir := b.at.run("first-partition")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.log.Printf("look for %s on the first partition: %v", provision.FileName, err)
		return found{}, false
	}
	defer os.Remove(dir)
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount(dev.PartPath(disk.BootPart), dir, "vfat", flags, "umask=077"); err != nil {
		b.log.Printf("look for %s on the first partition: %v", provision.FileName, err)
		return found{}, false
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	f, err := readFound(dir, "")
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			b.log.Printf("read %s on the first partition: %v", provision.FileName, err)
		}
		return found{}, false
	}
	return f, true
}

// takeProvision puts in force what was accepted in an earlier life, and looks at the first partition. It runs before the programs start.
func (b *box) takeProvision() {
	raw, err := os.ReadFile(b.at.system("provision.json"))
	if err == nil {
		f, err := provision.Parse(raw)
		if err != nil {
			// A release of another day accepted it; the homeserver will say so, too.
			b.log.Printf("the provisioning file in force is not understood any more: %v", err)
		}
		b.enforce(f, raw, b.originOf(raw))
	} else if !errors.Is(err, fs.ErrNotExist) {
		b.log.Printf("read the provisioning file in force: %v", err)
	}
	if f, ok := b.bootFile(); ok {
		b.offer(f)
	}
	if _, err := os.Stat(b.at.run("network.json")); errors.Is(err, fs.ErrNotExist) {
		b.publishNetwork(provision.Network{})
	}
}

// apply takes a file that was found while programs run, and starts those again that it concerns.
func (b *box) apply(f found) {
	network, _ := os.ReadFile(b.at.run("network.json"))
	if !b.offer(f) {
		return
	}
	if now, err := os.ReadFile(b.at.run("network.json")); err != nil || !bytes.Equal(network, now) {
		b.restart("hallig-lan")
	}
	b.restart("hallig")
}

// offer looks at a file that was found and says whether it is in force now and was not before.
func (b *box) offer(f found) (taken bool) {
	key := f.key()
	seen := b.seen()
	if i := slices.Index(seen, key); i >= 0 {
		if f.stick == "" && i < len(seen)-keepSeen/2 { // it lies there for good, and must not be forgotten over many sticks
			b.noteSeen(append(slices.Delete(seen, i, i+1), key))
		}
		return false
	}
	parsed, err := b.acceptable(f)
	if err != nil {
		t := steward.Text(provision.ErrorOf(err))
		var own steward.Text
		if errors.As(err, &own) {
			t = own
		}
		t = about(f.stick, t)
		b.refuse(refusal{stick: f.stick, key: key, text: t})
		b.log.Printf("refused: %s", t.En)
		// It is not noted as seen: the sentence shall be there at the next start as well, as long as the file is.
		return false
	}
	current, _ := os.ReadFile(b.at.system("provision.json"))
	taken = !bytes.Equal(current, f.raw)
	from := originNow(f)
	if err := b.keepCopy(f.raw, from); err != nil {
		b.say("provision", about(f.stick, sentence(err, "Die Datei kann nicht übernommen werden.", "The file cannot be kept.")))
		return false
	}
	b.say("provision", steward.Text{})
	// The older one on the first partition that was refused has had its successor: nobody needs to hear of it at each start from now on.
	b.noteSeen(append(append(seen, b.supersede()...), key))
	b.enforce(parsed, f.raw, from)
	b.log.Printf("%s is in force (server name %q, label %q)", fileOn(f.stick).En, parsed.ServerName, parsed.Label)
	if taken && len(current) > 0 {
		b.log.Printf("it replaces the provisioning file before as a whole: what only that one said holds no more")
	}
	return taken
}

// mayChange says whether a stick may bring next in place of what is in force on a box that people use. Whoever walks past with a stick could open
// registration or have backups made for himself; who prepared the box knows its code, and how it finds its network and radios gives nothing away.
func mayChange(force, next provision.File) bool {
	if force.AdminCode != "" && next.AdminCode == force.AdminCode {
		return true
	}
	for _, f := range []*provision.File{&force, &next} {
		f.Hallig, f.Label, f.ServerName, f.Network, f.Serial = 0, "", "", provision.Network{}, nil // the name was looked at already
	}
	was, err := json.Marshal(force)
	if err != nil {
		return false
	}
	wants, err := json.Marshal(next)
	return err == nil && bytes.Equal(was, wants)
}

// acceptable parses a file and holds it against what cannot change any more.
func (b *box) acceptable(f found) (provision.File, error) {
	parsed, err := provision.Parse(f.raw)
	if err != nil {
		return parsed, err
	}
	b.mu.Lock()
	name, dev, force := b.name, b.permDev, b.accepted
	b.mu.Unlock()
	if name.Fixed && parsed.ServerName != "" && parsed.ServerName != name.Name {
		return parsed, steward.Text{
			De: fmt.Sprintf("Die Datei nennt den Servernamen %s; diese Box heißt seit ihrem ersten Konto %s, und das bleibt so. Ein neuer Name braucht ein Zurücksetzen auf Werkszustand.", parsed.ServerName, name.Name),
			En: fmt.Sprintf("The file says the server name is %s; since its first account this box is called %s, and that stays. A new name needs a factory reset.", parsed.ServerName, name.Name),
		}
	}
	if name.Fixed && f.stick != "" && !mayChange(force, parsed) {
		return parsed, steward.Text{
			De: "Die Box hat schon Konten. Eine hallig.json auf einem Stick darf dann nur Aufschrift (label), Netz (network) und Funkstrecken (serial) ändern, oder sie trägt denselben admin_code wie die Datei, mit der die Box eingerichtet wurde. Code ergänzen, oder die Datei auf die Partition HALLIG der Box selbst legen.",
			En: "The box has accounts already. A hallig.json on a stick may then change label, network and serial only, or it carries the same admin_code as the file that the box was set up with. Add the code, or put the file onto the box's own partition HALLIG.",
		}
	}
	return parsed, b.lockable(parsed, f, dev)
}

// enforce shows a file to the programs.
func (b *box) enforce(f provision.File, raw []byte, from origin) {
	b.mu.Lock()
	b.accepted, b.from = f, from
	b.provision.Accepted, b.provision.Label, b.provision.ServerName, b.provision.From = true, f.Label, f.ServerName, from.text()
	b.tellLocked()
	b.mu.Unlock()
	if f.Lock.Code != "" { // nobody needs it any more
		f.Lock = provision.Lock{}
		if open, err := f.Marshal(); err == nil {
			raw = open
		}
	}
	if err := publish(b.at.run("provision.json"), raw, uidHallig); err != nil {
		b.log.Printf("show provisioning file: %v", err)
	}
	b.publishNetwork(f.Network)
}

// forgetRestore takes the secret key of the backups out of the file in force once the box has accounts: nothing is restored any more then, and whoever
// steals this box must not be able to read the backups of the one before.
func (b *box) forgetRestore() {
	b.mu.Lock()
	f, fixed, from := b.accepted, b.name.Fixed, b.from
	b.mu.Unlock()
	if !fixed || f.Restore == (provision.Restore{}) {
		return
	}
	f.Restore = provision.Restore{}
	raw, err := f.Marshal()
	if err == nil {
		err = b.keepCopy(raw, from)
	}
	if err != nil {
		b.log.Printf("forget the key of the backups: %v", err)
		return
	}
	b.enforce(f, raw, from)
	b.log.Printf("the key of the backups was taken out of the provisioning file in force: the box has accounts now")
}

func (b *box) publishNetwork(n provision.Network) {
	raw, err := json.Marshal(n)
	if err == nil {
		err = publish(b.at.run("network.json"), raw, uidLAN)
	}
	if err != nil {
		b.log.Printf("show network settings: %v", err)
	}
}

// lendNetwork shows the network settings of a file that cannot be accepted now, because /perm is closed: who wants to open the box must reach it.
func (b *box) lendNetwork() {
	var n provision.Network
	if f, ok := b.bootFile(); ok {
		if parsed, err := provision.Parse(f.raw); err == nil {
			n = parsed.Network
		}
	}
	b.publishNetwork(n)
}

// publish writes a file whole that one group may read.
func publish(name string, raw []byte, gid int) error {
	t, err := renameio.NewPendingFile(name, renameio.WithPermissions(0o640), renameio.IgnoreUmask())
	if err != nil {
		return err
	}
	defer t.Cleanup()
	if err := t.Chown(0, gid); err != nil && os.Getuid() == 0 {
		return err
	}
	if _, err := t.Write(raw); err != nil {
		return err
	}
	return t.CloseAtomicallyReplace()
}

const keepSeen = 64

func (b *box) seen() []string {
	raw, err := os.ReadFile(b.at.system("seen.json"))
	if err != nil {
		return nil
	}
	var list []string
	if err := json.Unmarshal(raw, &list); err != nil {
		b.log.Printf("read list of files seen: %v", err)
	}
	return list
}

func (b *box) noteSeen(list []string) {
	list = list[max(0, len(list)-keepSeen):]
	raw, err := json.Marshal(list)
	if err == nil {
		err = renameio.WriteFile(b.at.system("seen.json"), raw, 0o600)
	}
	if err != nil {
		b.log.Printf("keep list of files seen: %v", err)
	}
}
