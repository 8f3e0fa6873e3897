// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/disk"
	"hallig/appliance/plug"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/vault"
)

// testBox is a box in folders of a test; nothing of it runs.
func testBox(t *testing.T) *box {
	t.Helper()
	dir := t.TempDir()
	at := places{Perm: dir + "/perm", Run: dir + "/run", Sys: dir + "/sys", Dev: dir + "/dev", Proc: dir + "/proc", Etc: dir + "/etc"}
	for _, d := range []string{at.Perm + "/system", at.Run + "/box", at.Run + "/lan", at.Sys, at.Dev + "/hallig", at.Etc} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b := newBox(at)
	b.perm = true
	t.Cleanup(func() { b.stop(); b.working.Wait() })
	return b
}

func stickFile(text string, age time.Duration) found {
	return found{stick: "KINGSTON", raw: []byte(text), mod: time.Unix(1_700_000_000, 0).Add(age)}
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestProvisioningIsTakenOnceAndWhole(t *testing.T) {
	b := testBox(t)
	first := stickFile(`{"hallig":1,"label":"Box 7","network":{"mode":"host"}}`, 0)
	if !b.offer(first) {
		t.Fatal("a good file is not taken")
	}
	if got := read(t, b.at.run("network.json")); !strings.Contains(got, `"mode":"host"`) || strings.Contains(got, "Box 7") {
		t.Errorf("network.json: %s; the network service gets its part only", got)
	}
	if got := read(t, b.at.run("provision.json")); got != string(first.raw) {
		t.Errorf("provision.json: %s", got)
	}
	if b.offer(first) {
		t.Error("the same file is taken twice")
	}
	newer := stickFile(`{"hallig":1,"label":"Box 8"}`, time.Hour)
	if !b.offer(newer) || b.provision.Label != "Box 8" {
		t.Error("a changed file is not taken")
	}
	// The old one is still on the first partition at the next start, and does not come back.
	if b.offer(first) || b.provision.Label != "Box 8" {
		t.Error("the old file is in force again")
	}
	// Somebody writes it anew: that is meant.
	if again := stickFile(string(first.raw), 2*time.Hour); !b.offer(again) || b.provision.Label != "Box 7" {
		t.Error("a file that was written anew is not taken")
	}
	for _, bad := range []string{`{"hallig":1,"lable":"x"}`, `{"hallig":1`, "", strings.Repeat(" ", provision.MaxBytes) + "{}"} {
		if b.offer(stickFile(bad, 3*time.Hour)) {
			t.Fatalf("%.30q is taken", bad)
		}
		if e := b.provision.Error; e.De == "" || e.En == "" || b.provision.Label != "Box 7" {
			t.Errorf("%.30q: sentence %+v, in force %q", bad, e, b.provision.Label)
		}
		if read(t, b.at.system("provision.json")) != string(first.raw) {
			t.Errorf("%.30q has touched what is in force", bad)
		}
	}
	if !b.offer(stickFile(`{"hallig":1,"label":"good"}`, 4*time.Hour)) || !b.provision.Error.Empty() {
		t.Errorf("after a good file the sentence stays: %+v", b.provision.Error)
	}
	// The next life begins with what was in force.
	c := newBox(b.at)
	c.perm = true
	c.takeProvision()
	if c.provision.Label != "good" || !c.provision.Accepted {
		t.Errorf("next start: %+v", c.provision)
	}
}

// TestKeyOfBackupsIsForgotten: a spare box that has taken over does not keep what opens all backups.
func TestKeyOfBackupsIsForgotten(t *testing.T) {
	b := testBox(t)
	const key = "AGE-SECRET-KEY-1HNT0GV9AUX3FJVE7QTL906VD643QYRV70ZWXJ0FSW854FRE3Q9TSX0RDVR" // of nobody
	f := stickFile(`{"hallig":1,"label":"Box 7","restore":{"identity":"`+key+`"},"network":{"mode":"host"}}`, 0)
	if !b.offer(f) {
		t.Fatal(b.provision.Error)
	}
	says := func(fixed string) {
		if err := os.WriteFile(filepath.Join(b.at.Run, steward.ScreenFile), []byte(`{"server_name":"b.example","name_fixed":`+fixed+`}`), 0o600); err != nil {
			t.Fatal(err)
		}
		b.keepName()
	}
	says("false")
	if !strings.Contains(read(t, b.at.run("provision.json")), key) {
		t.Fatal("the homeserver cannot restore: the key is gone before there are accounts")
	}
	says("true")
	for _, name := range []string{b.at.system("provision.json"), b.at.run("provision.json")} {
		if got := read(t, name); strings.Contains(got, "AGE-SECRET") || !strings.Contains(got, "Box 7") || !strings.Contains(got, `"host"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
	again := newBox(b.at) // at the next start, with the stick still plugged in
	again.perm = true
	again.readNames()
	again.takeProvision()
	if again.offer(f) || strings.Contains(read(t, b.at.system("provision.json")), "AGE-SECRET") {
		t.Error("the stick brings the key back")
	}
}

// TestPassingStick: once people use a box, a stick changes what matters only with the code that the box was set up with.
func TestPassingStick(t *testing.T) {
	const first = `{"hallig":1,"label":"Box 7","admin_code":"KMFC-HD3L-LT7B","backup":{"recipients":["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],"to":"stick"}}`
	b := testBox(t)
	if !b.offer(stickFile(first, 0)) {
		t.Fatalf("the first file is not taken: %+v", b.provision.Error)
	}
	b.name = nameRecord{Name: "box7.example", Fixed: true}
	for i, c := range []struct {
		text  string
		taken bool
	}{
		{`{"hallig":1,"config":{"open_registration":true}}`, false},
		{`{"hallig":1,"admin_code":"KMFC-HD3L-AAAA","config":{"open_registration":true}}`, false},
		{`{"hallig":1,"label":"Box 7","network":{"mode":"host"}}`, false}, // would take the backups away
		{strings.Replace(first, `"label":"Box 7"`, `"label":"Box 8","network":{"mode":"host"}`, 1), true},
		{strings.Replace(first, `"admin_code":"KMFC-HD3L-LT7B",`, ``, 1), false},
		{`{"hallig":1,"admin_code":"KMFC-HD3L-LT7B","updates":{"automatic":true}}`, true},
	} {
		if got := b.offer(stickFile(c.text, time.Duration(i+1)*time.Hour)); got != c.taken {
			t.Errorf("%s: taken %v, want %v (%s)", c.text, got, c.taken, b.provision.Error.En)
		}
		if c.taken == b.provision.Error.Empty() {
			continue
		}
		t.Errorf("%s: sentence %+v", c.text, b.provision.Error)
	}
	// Its own first partition is as good as the disk itself.
	own := stickFile(`{"hallig":1,"config":{"open_registration":true}}`, 9*time.Hour)
	own.stick = ""
	if !b.offer(own) {
		t.Errorf("the first partition: %+v", b.provision.Error)
	}
	// A box that was set up by hand has no code; a stick may still help it find its network.
	c := testBox(t)
	c.name = nameRecord{Name: "box8.example", Fixed: true}
	if !c.offer(stickFile(`{"hallig":1,"network":{"mode":"host"}}`, 0)) {
		t.Errorf("network: %+v", c.provision.Error)
	}
	if c.offer(stickFile(`{"hallig":1,"backup":{"recipients":["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],"to":"stick"}}`, time.Hour)) {
		t.Error("somebody's stick has backups made for himself")
	}
}

func TestFixedNameStays(t *testing.T) {
	b := testBox(t)
	if !b.offer(stickFile(`{"hallig":1,"server_name":"box7.example"}`, 0)) {
		t.Fatal("refused")
	}
	if err := os.WriteFile(filepath.Join(b.at.Run, steward.ScreenFile), []byte(`{"server_name":"box7.example","name_fixed":false}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.keepName()
	if !b.offer(stickFile(`{"hallig":1,"server_name":"box8.example"}`, time.Hour)) {
		t.Error("before the first account the name may change")
	}
	if err := os.WriteFile(filepath.Join(b.at.Run, steward.ScreenFile), []byte(`{"server_name":"box8.example","name_fixed":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.keepName()
	c := newBox(b.at) // the homeserver does not run, and the name is known all the same
	c.perm = true
	c.readNames()
	for _, b := range []*box{b, c} {
		if b.offer(stickFile(`{"hallig":1,"server_name":"box9.example"}`, 2*time.Hour)) || !strings.Contains(b.provision.Error.En, "box8.example") {
			t.Errorf("a fixed name changes: %+v", b.provision)
		}
	}
	if !c.offer(stickFile(`{"hallig":1,"server_name":"box8.example","label":"same name"}`, 3*time.Hour)) || !c.offer(stickFile(`{"hallig":1,"label":"no name"}`, 3*time.Hour)) {
		t.Errorf("a file that does not change the name is refused: %+v", c.provision.Error)
	}
}

func TestLockComesOnAStickAtTheFirstStart(t *testing.T) {
	b := testBox(t)
	const lock = `{"hallig":1,"lock":{"code":"ABCD-EFGH-2345-6789"}}`
	b.permDev = "/dev/vda4"
	if b.offer(stickFile(lock, 0)) {
		t.Error("a box that is not encrypted takes a lock")
	}
	b.permDev = "/dev/loop0"
	onDisk := stickFile(lock, 0)
	onDisk.stick = ""
	if b.offer(onDisk) {
		t.Error("the code is taken from beside what it locks")
	}
	if !b.offer(stickFile(lock, 0)) {
		t.Errorf("refused: %+v", b.provision.Error)
	}
	if got := read(t, b.at.run("provision.json")); strings.Contains(got, "ABCD") {
		t.Errorf("the code is shown to the homeserver: %s", got)
	}
}

// memoryPart is a partition in memory.
type memoryPart []byte

func (m memoryPart) ReadAt(p []byte, at int64) (int, error)  { return copy(p, m[at:]), nil }
func (m memoryPart) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

// TestVaultIsKnown holds the two rooms that may not import each other together: what one makes, the other must not overwrite.
func TestVaultIsKnown(t *testing.T) {
	part := make(memoryPart, 8<<20)
	id := vault.NewID()
	_, key := vault.NewKeyFile(id)
	if err := vault.Make(part, func() error { return nil }, id, key); err != nil {
		t.Fatal(err)
	}
	if c, err := disk.Look(part); err != nil || c != disk.Vault {
		t.Errorf("%v, %v", c, err)
	}
}

func TestMeant(t *testing.T) {
	b := testBox(t)
	if b.meant("box7.example") == nil || b.meant(unreadable) != nil {
		t.Error("a box without a name answers to another word than " + unreadable)
	}
	b.name = nameRecord{Name: "box7.example"}
	if b.meant("box8.example") == nil || b.meant("") == nil || b.meant(unreadable) == nil || b.meant("box7.example") != nil {
		t.Error("the wrong box answers")
	}
	b.perm = false
	if b.meant(unreadable) != nil {
		t.Error("a box whose data cannot be reached cannot be reset")
	}
}

func TestResetByStickIsObeyedOnce(t *testing.T) {
	b := testBox(t)
	b.name = nameRecord{Name: "box7.example"}
	dir := t.TempDir()
	name := filepath.Join(dir, markReset)
	put := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &stick{Volume: plug.Volume{Name: "S", Format: plug.Format{ID: "1"}}, path: dir}
	put("box8.example\n")
	if b.resetByStick(s, name) || s.err.Empty() {
		t.Errorf("another box's file: %+v", s.err)
	}
	put("\xef\xbb\xbfbox7.example\r\n")
	if !b.resetByStick(s, name) {
		t.Fatal("its own file is not obeyed")
	}
	e := <-b.endings
	if e.kind != reset || e.mark == "" {
		t.Fatalf("%+v", e)
	}
	// The new box begins with the mark, and with the same name when the stick provisions it.
	b.resetBy = e.mark // the erased partition carries it
	b.rememberReset()
	if b.resetByStick(s, name) {
		t.Error("the stick resets the box again and again")
	}
	other := &stick{Volume: plug.Volume{Name: "S", Format: plug.Format{ID: "2"}}, path: dir}
	if !b.resetByStick(other, name) {
		t.Error("another stick is not obeyed")
	}
}

func TestRadioStaysTheSame(t *testing.T) {
	uart := steward.Port{Name: "uart1", TTY: "ttyS1"}
	a := steward.Port{Name: "ftdi-A", TTY: "ttyUSB0", USB: "0403:6001"}
	gps := steward.Port{Name: "ublox-port1-2", TTY: "ttyUSB1", USB: "1546:01a7"}
	dead := steward.Port{Chip: "PL2303", USB: "067b:2303"}
	for _, tc := range []struct {
		ports  []steward.Port
		before string
		want   string
	}{
		{nil, "", ""},
		{[]steward.Port{uart}, "", "uart1"},
		{[]steward.Port{uart, a}, "", "ftdi-A"},
		{[]steward.Port{uart, a, dead}, "", "ftdi-A"},
		{[]steward.Port{uart, a, gps}, "", ""},
		{[]steward.Port{uart, a, gps}, "ftdi-A", "ftdi-A"},
		{[]steward.Port{uart, gps}, "ftdi-A", "ublox-port1-2"},
	} {
		p, ok := chooseRadio(tc.ports, tc.before)
		if ok != (tc.want != "") || p.Name != tc.want {
			t.Errorf("%v before %q: %q, want %q", tc.ports, tc.before, p.Name, tc.want)
		}
	}
}
