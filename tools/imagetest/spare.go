// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"strings"
	"time"

	"hallig/appliance/backup"
	"hallig/appliance/health"
	"hallig/appliance/provision"
	"hallig/tools/imagetest/vm"
)

// spareBound is what the manual promises: from power on until the spare box answers under the old name.
const spareBound = 5 * time.Minute

// spareBox tells of a box that backs itself up to a stick and drowns, and of a new one that takes over with that stick and the key from the safe.
func spareBox(r *run) error {
	public, secret, err := backup.NewKey()
	if err != nil {
		return err
	}
	disk, err := r.preparedDisk(vm.BIOS, "drowns", provision.File{
		ServerName: "box7.feuerwehr.example", AdminCode: "k7mq-2fxv-9tdp",
		Backup: provision.Backup{Recipients: []string{public}, To: "stick", Every: "15m"},
	})
	if err != nil {
		return err
	}
	stick := r.path("backup.stick")
	if err := vm.NewStick(stick, 64, nil); err != nil {
		return err
	}
	b, err := r.power(vm.Config{Dir: r.path("drowns"), Disk: disk}, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	if err := b.enrol("anna", "bert"); err != nil {
		return err
	}
	room, before, err := b.converse("Pegel 5,20 m, steigend")
	if err != nil {
		return err
	}
	if err := b.PlugStick("backup", stick); err != nil {
		return err
	}
	r.say("the stick is in; a backup is due")
	if err := b.backedUp(); err != nil {
		return err
	}
	b.Kill() // drowned, with the stick pulled out in time
	r.say("the backup is on the stick, the box is gone")
	file, err := marshal(provision.File{Restore: provision.Restore{Identity: secret}})
	if err != nil {
		return err
	}
	if err := vm.PutFAT(stick, vm.StickOffset, provision.FileName, file); err != nil {
		return err
	}
	disk, err = r.newDisk(vm.UEFI, "spare")
	if err != nil {
		return err
	}
	s, err := r.power(vm.Config{Dir: r.path("spare"), Firmware: vm.UEFI, Disk: disk, Sticks: []string{stick}}, spareBound)
	if err != nil {
		return err
	}
	defer s.Kill()
	b.moveTo(s)
	anna := s.people[0]
	if err := s.holds(anna, room, before); err != nil {
		return fmt.Errorf("the spare box: %w", err)
	}
	r.note("a spare box answers under the old name %.0f s after power on (%v)", s.took.Seconds(), s.Firmware)
	ctx, stop := r.within(2 * time.Minute)
	defer stop()
	after, err := anna.SendText(ctx, room, "die Ersatzbox ist da")
	if err != nil {
		return err
	}
	return s.holds(s.people[1], room, before, after)
}

// backedUp waits until the status page says so.
func (b *box) backedUp() error {
	ctx, stop := b.r.within(5 * time.Minute)
	defer stop()
	last := ""
	for {
		t, err := b.health()
		if err == nil {
			for _, n := range t.Nodes {
				if n.Kind == health.Backup {
					last = n.Sentence.EN
				}
			}
		}
		if strings.Contains(last, "up to date") {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no backup within its time; the page says %q, %v\n%s", last, err, b.Console.Tail(30))
		case <-time.After(3 * time.Second):
		}
	}
}
