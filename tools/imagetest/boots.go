// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
)

// firstBoot is what a person may have to wait from power on until a phone can connect, on the slowest machine that we think of.
const firstBoot = 90 * time.Second

// asked are the ports that curious people try first; the scenario lan tries all of them.
var asked = []int{21, 22, 23, 25, 53, 80, 111, 139, 443, 445, 631, 1080, 1900, 2049, 2222, 3000, 4001, 5000, 5900, 6060, 7000, 8000, 8008, 8080, 8443, 8448, 9000, 9090, 9100, 10000}

// documented are those that a box may answer without being told to.
var documented = []int{53, 80, 443, 4001}

func smoke(r *run) error {
	b, _, _, err := r.firstDay(vm.UEFI, "box", nil)
	if err == nil {
		b.Kill()
	}
	return err
}

// firstDay switches a new box on and lets two people meet on it.
func (r *run) firstDay(f vm.Firmware, name string, change func(*vm.Config)) (b *box, room, id string, err error) {
	disk, err := r.newDisk(f, name)
	if err != nil {
		return nil, "", "", err
	}
	c := vm.Config{Dir: r.path(name), Firmware: f, Disk: disk}
	if change != nil {
		change(&c)
	}
	if b, err = r.power(c, firstBoot); err != nil {
		return b, "", "", err
	}
	r.say("%v answers clients %.1f s after its first power on", f, b.took.Seconds())
	r.note("first boot %v: %.1f s to the first answer", f, b.took.Seconds())
	if err := b.enrol("antje", "boy"); err != nil {
		return b, "", "", err
	}
	room, id, err = b.converse("Pegel 340, steigend")
	if err != nil {
		return b, "", "", err
	}
	r.say("antje and boy have met; first message %.1f s after power on", time.Since(b.Started).Seconds())
	r.note("first message %v: %.1f s after power on", f, time.Since(b.Started).Seconds())
	return b, room, id, nil
}

func boots(r *run) error {
	for i, f := range []vm.Firmware{vm.BIOS, vm.UEFI, vm.ARM64} {
		if err := r.whole(f); err != nil {
			return err
		}
		if err := r.bootTwice(f, fmt.Sprintf("box%d", i)); err != nil {
			return fmt.Errorf("%v: %w", f, err)
		}
	}
	return r.strangers()
}

// bootTwice lives through the first day and the second.
func (r *run) bootTwice(f vm.Firmware, name string) error {
	b, room, id, err := r.firstDay(f, name, func(c *vm.Config) { c.Ports = asked })
	if err != nil {
		return err
	}
	for _, p := range b.openPorts() {
		r.check(slices.Contains(documented, p), "%v: port %d is open and not in the manual", f, p)
	}
	user := b.people[0].UserID
	b.Kill()
	if err := r.grown(b.Disk); err != nil {
		return err
	}
	next, err := r.power(b.Config, firstBoot)
	if err != nil {
		return err
	}
	b.moveTo(next)
	r.note("second boot %v: %.1f s to the first answer", f, next.took.Seconds())
	if err := next.holds(next.people[1], room, id); err != nil {
		return err
	}
	ctx, stop := r.within(time.Minute)
	defer stop()
	var who struct {
		UserID string `json:"user_id"`
	}
	if err := next.people[0].Do(ctx, "GET", "/_matrix/client/v3/account/whoami", nil, &who); err != nil || who.UserID != user {
		return fmt.Errorf("after the second boot the box says %q to %q: %w", who.UserID, user, err)
	}
	next.Kill()
	r.say("%v: second boot after %.1f s, all is there", f, next.took.Seconds())
	return nil
}

// grown checks offline that the data partition takes what is left of the disk.
func (r *run) grown(disk string) error {
	d, err := offline.Open(disk)
	if err != nil {
		return err
	}
	defer d.Close()
	parts, err := d.Partitions(false)
	if err != nil {
		return err
	}
	fs, err := d.Ext4Size(4)
	if err != nil {
		return err
	}
	end := parts[4].Start + parts[4].Size
	r.check(d.Size-end < 4<<20, "the data partition ends %d bytes before the end of the disk", d.Size-end)
	r.check(parts[4].Size-fs < 4<<20, "the file system is %d bytes smaller than its partition", parts[4].Size-fs)
	dir, err := os.MkdirTemp(r.dir, "grown-")
	if err != nil {
		return err
	}
	if err := d.Data(dir); err != nil {
		return err
	}
	return d.Boot(dir)
}

// strangers makes a second box from the same image and looks for anything that both have.
func (r *run) strangers() error {
	one, _, _, err := r.firstDay(vm.UEFI, "twin1", nil)
	if err != nil {
		return err
	}
	two, _, _, err := r.firstDay(vm.BIOS, "twin2", nil)
	if err != nil {
		return err
	}
	c1, err := one.certificate()
	if err != nil {
		return err
	}
	c2, err := two.certificate()
	if err != nil {
		return err
	}
	for i, a := range c1.PeerCertificates {
		for j, b := range c2.PeerCertificates {
			r.check(!bytes.Equal(a.RawSubjectPublicKeyInfo, b.RawSubjectPublicKeyInfo), "certificates %d and %d of two boxes have the same key (%s)", i, j, a.Subject)
		}
	}
	server := func(b *box) string { _, s, _ := strings.Cut(b.people[0].UserID, ":"); return s }
	r.check(server(one) != server(two), "two boxes are both called %s", server(one))
	one.Kill()
	two.Kill()
	var trees [2]map[string]string
	for i, b := range []*box{one, two} {
		if trees[i], err = r.secrets(b.Disk, fmt.Sprintf("perm%d", i)); err != nil {
			return err
		}
		r.check(len(trees[i]) > 5, "only %d files on the data partition: %v", len(trees[i]), trees[i])
	}
	both := 0
	for name, hash := range trees[0] {
		if trees[1][name] == hash {
			r.check(false, "%s is the same on two boxes of one image", name)
		}
		both++
	}
	r.say("two boxes from one image share nothing: %d files compared, names %s and %s", both, server(one), server(two))
	return nil
}

// secrets copies the whole data partition out and hashes every file of it that is not empty and not a log.
func (r *run) secrets(disk, name string) (map[string]string, error) {
	d, err := offline.Open(disk)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	dir := r.path(name)
	if err := d.DataFolder(dir, "/"); err != nil {
		return nil, err
	}
	// a box that was unplugged has its newest writes beside the database; opened and closed, they are in it
	if _, err := offline.Database(r, filepath.Join(dir, "hallig"), nil); err != nil {
		return nil, err
	}
	hashes := map[string]string{}
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) < 8 || strings.HasPrefix(rel, "log/") {
			return err
		}
		hashes[rel] = fmt.Sprintf("%x", sha256.Sum256(b))
		return nil
	})
	return hashes, err
}
