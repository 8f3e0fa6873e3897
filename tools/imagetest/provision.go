// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"hallig/appliance/health"
	"hallig/appliance/provision"
	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
)

// prepare writes a provisioning file on the first partition of a disk, as one does with a card reader.
func prepare(disk string, content []byte) error {
	d, err := offline.Open(disk)
	if err != nil {
		return err
	}
	defer d.Close()
	parts, err := d.Partitions(false)
	if err != nil {
		return err
	}
	return vm.PutFAT(disk, parts[1].Start, provision.FileName, content)
}

// preparedDisk is a new disk with a provisioning file on it.
func (r *run) preparedDisk(f vm.Firmware, name string, p provision.File) (string, error) {
	disk, err := r.newDisk(f, name)
	if err != nil {
		return "", err
	}
	raw, err := marshal(p)
	if err != nil {
		return "", err
	}
	return disk, prepare(disk, raw)
}

func marshal(p provision.File) ([]byte, error) {
	p.Hallig = 1
	return json.MarshalIndent(p, "", "  ")
}

// health reads the page for programs.
func (b *box) health() (t health.Tree, err error) {
	ctx, stop := b.r.within(20 * time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL(portHTTP)+"/status.json", nil)
	if err != nil {
		return t, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return t, fmt.Errorf("ask for the health: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return t, fmt.Errorf("ask for the health: %w", err)
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return t, fmt.Errorf("ask for the health: %w: %.200s", err, raw)
	}
	return t, nil
}

func provisioned(r *run) error {
	const code = "k7mq-2fxv-9tdp"
	good := provision.File{Label: "Box 7", ServerName: "box7.feuerwehr.example", AdminCode: code}
	if err := r.preparedByDisk(good, code); err != nil {
		return fmt.Errorf("file on the disk: %w", err)
	}
	good.ServerName = "box8.feuerwehr.example"
	if err := r.preparedByStick(good, code); err != nil {
		return fmt.Errorf("file on a stick: %w", err)
	}
	if err := r.preparedBadly(); err != nil {
		return fmt.Errorf("wrong file: %w", err)
	}
	return nil
}

func (r *run) preparedByDisk(p provision.File, code string) error {
	disk, err := r.preparedDisk(vm.BIOS, "good", p)
	if err != nil {
		return err
	}
	b, err := r.power(vm.Config{Dir: r.path("good"), Disk: disk}, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	return r.isCalled(b, p.ServerName, code)
}

func (r *run) preparedByStick(p provision.File, code string) error {
	disk, err := r.newDisk(vm.UEFI, "stick")
	if err != nil {
		return err
	}
	raw, err := marshal(p)
	if err != nil {
		return err
	}
	stick := r.path("provision.stick")
	if err := vm.NewStick(stick, 64, map[string][]byte{provision.FileName: raw}); err != nil {
		return err
	}
	b, err := r.power(vm.Config{Dir: r.path("stick"), Firmware: vm.UEFI, Disk: disk, Sticks: []string{stick}}, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	return r.isCalled(b, p.ServerName, code)
}

// isCalled checks that the box has the name and lets the first administrator in by the code of the file.
func (r *run) isCalled(b *box, name, code string) error {
	ctx, stop := r.within(time.Minute)
	defer stop()
	c, err := b.register(ctx, "antje", code)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(c.UserID, ":"+name) {
		return fmt.Errorf("the box is called %s, the file says %s", c.UserID, name)
	}
	r.say("%s is up %.1f s after power on, antje is in by the code of the file", name, b.took.Seconds())
	return nil
}

// preparedBadly: the sentence says what is wrong where people look, and the box is up all the same.
func (r *run) preparedBadly() error {
	disk, err := r.newDisk(vm.BIOS, "bad")
	if err != nil {
		return err
	}
	if err := prepare(disk, []byte(`{"hallig": 1, "label": "Box 9", "servername": "box9.feuerwehr.example"}`)); err != nil {
		return err
	}
	b, err := r.power(vm.Config{Dir: r.path("bad"), Disk: disk}, firstBoot)
	if err != nil {
		return err
	}
	defer b.Kill()
	ctx, stop := r.within(time.Minute)
	defer stop()
	_, want := provision.Parse([]byte(`{"hallig": 1, "label": "Box 9", "servername": "box9.feuerwehr.example"}`))
	if want == nil {
		return fmt.Errorf("package provision takes the wrong file")
	}
	if _, err := b.Console.Wait(ctx, `servername`); err != nil {
		return fmt.Errorf("the console does not name the wrong field: %w", err)
	}
	for {
		t, err := b.health()
		if err != nil {
			return err
		}
		raw, err := json.Marshal(t)
		if err != nil {
			return err
		}
		if strings.Contains(string(raw), "servername") {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the page does not say what is wrong with the file; it says %s", raw)
		case <-time.After(time.Second):
		}
	}
	if err := b.enrol("antje"); err != nil {
		return err
	}
	r.check(!strings.Contains(b.people[0].UserID, "box9"), "the box took a name from a file that it refused")
	r.say("a file with a wrong field is named on console and page; the box is up as %s", b.people[0].UserID)
	return nil
}
