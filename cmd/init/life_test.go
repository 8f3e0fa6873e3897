// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/steward"
	"hallig/appliance/update"
)

func TestUnwell(t *testing.T) {
	tree := func(nodes string) (h health) {
		if err := json.Unmarshal([]byte(`{"nodes":[`+nodes+`]}`), &h); err != nil {
			t.Fatal(err)
		}
		return h
	}
	node := func(kind, state string) string {
		return `{"id":"` + kind + `","kind":"` + kind + `","state":"` + state + `","sentence":{"de":"` + kind + `","en":"` + kind + `"}}`
	}
	good := node("database", "ok") + "," + node("homeserver", "ok")
	for name, tc := range map[string]struct {
		nodes string
		well  bool
	}{
		"all well":             {good, true},
		"nothing said":         {"", false},
		"no homeserver yet":    {node("database", "ok"), false},
		"database":             {node("database", "trouble") + "," + node("homeserver", "ok"), false},
		"homeserver":           {node("database", "ok") + "," + node("homeserver", "look"), false},
		"links broken":         {good + "," + node("links", "trouble"), false},
		"a link is away":       {good + "," + node("links", "look") + "," + node("link", "trouble"), true},
		"no cable, no clock":   {good + "," + node("network", "trouble") + "," + node("clock", "look"), true},
		"disk was full before": {good + "," + node("disk", "trouble"), true},
	} {
		if got := unwell(tree(tc.nodes)); got.Empty() != tc.well {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestHung(t *testing.T) {
	for _, tc := range []struct {
		silent, up time.Duration
		runs, want bool
	}{
		{time.Minute, time.Hour, true, false},
		{6 * time.Minute, time.Hour, true, true},
		{6 * time.Minute, time.Hour, false, false},      // it is being started again
		{6 * time.Minute, 6 * time.Minute, true, false}, // it migrates
		{16 * time.Minute, 16 * time.Minute, true, true},
	} {
		if got := hung(tc.silent, tc.up, tc.runs); got != tc.want {
			t.Errorf("%+v: %v", tc, got)
		}
	}
}

// TestTrialWithoutServer: a homeserver that ends again and again is not waited for.
func TestTrialWithoutServer(t *testing.T) {
	b := testBox(t)
	b.trial.Store(true)
	b.record = update.Record{State: update.Trial, Slot: update.SlotB, From: update.SlotA, Version: "2", FromVersion: "1", Trials: 1}
	b.deadline = time.Now().Add(time.Hour)
	b.judgeSilence(steward.Process{Restarts: trialEnds - 1})
	if len(b.endings) != 0 {
		t.Fatal("the trial ends while the homeserver may still come up")
	}
	b.judgeSilence(steward.Process{Restarts: trialEnds, Last: "exit status 1"})
	if e := <-b.endings; e.kind != restart {
		t.Fatalf("%+v", e)
	}
	if u := b.updateState(); !strings.Contains(u.Error.En, "exit status 1") {
		t.Errorf("%+v", u)
	}
}

func TestTrialRecord(t *testing.T) {
	b := testBox(t)
	b.slot = update.SlotB
	b.trial.Store(true)
	rec := update.Record{State: update.Trial, Slot: update.SlotB, From: update.SlotA, Version: "2", FromVersion: "1", Trials: 1}
	if err := rec.Keep(b.at.system("update.json")); err != nil {
		t.Fatal(err)
	}
	if err := b.readRecord(); err != nil {
		t.Fatal(err)
	}
	if args := strings.Join(b.halligArgs(), " "); !strings.HasSuffix(args, " --trial") {
		t.Errorf("on trial the homeserver starts with %s", args)
	}
	b.judgeSilence(steward.Process{})
	if len(b.endings) != 0 {
		t.Fatal("the trial ends before its deadline")
	}
	b.deadline = time.Now().Add(-time.Second)
	b.judgeSilence(steward.Process{})
	if e := <-b.endings; e.kind != restart {
		t.Fatalf("%+v", e)
	}
	// The firmware boots the system before; it says why.
	old := newBox(b.at)
	old.perm, old.slot = true, update.SlotA
	if err := old.readRecord(); err != nil {
		t.Fatal(err)
	}
	if u := old.updateState(); u.State != steward.UpdateFailed || !strings.Contains(u.Error.En, "did not answer") {
		t.Errorf("%+v", u)
	}
	if old.confirmed() || strings.Contains(strings.Join(old.halligArgs(), " "), "--trial") {
		t.Error("the system before is on trial")
	}
	// A power cut says the same without words.
	if err := rec.Keep(b.at.system("update.json")); err != nil {
		t.Fatal(err)
	}
	if err := old.readRecord(); err != nil {
		t.Fatal(err)
	}
	if u := old.updateState(); u.State != steward.UpdateFailed || u.Error.De == "" || u.Progress != 1 {
		t.Errorf("after a power cut: %+v", u)
	}
	// A trial that never came to its data ends, too.
	lost := newBox(b.at)
	lost.trial.Store(true)
	lost.deadline = time.Now().Add(-time.Second)
	lost.expire()
	if e := <-lost.endings; e.kind != restart {
		t.Errorf("%+v", e)
	}
}

func TestDoor(t *testing.T) {
	b := testBox(t)
	b.name = nameRecord{Name: "box7.example"}
	b.help("door", b.door)
	c := steward.Dial(filepath.Join(b.at.Run, "steward.sock"))
	ctx := t.Context()
	var s steward.State
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) { // until the door is open
		if s, err = c.State(ctx); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	if s.Update.State != steward.UpdateNone || len(s.Processes) != 1 || s.Processes[0].RSS == 0 {
		t.Errorf("%+v", s)
	}
	var text steward.Text
	if err := c.FactoryReset(ctx, "box8.example"); !errors.As(err, &text) || text.De == "" || len(b.endings) != 0 {
		t.Errorf("another box's name: %v", err)
	}
	if err := c.SetLED(ctx, "disco"); err == nil {
		t.Error("any word is a light")
	}
	if err := c.SetLED(ctx, steward.LEDLook); err != nil || b.worst() != steward.LEDLook {
		t.Errorf("%v, %s", err, b.worst())
	}
	if err := c.SetClock(ctx, time.Unix(0, 0)); err == nil {
		t.Error("1970 is taken for the time")
	}
	if err := c.Eject(ctx, "none"); !errors.As(err, &text) {
		t.Errorf("eject of nothing: %v", err)
	}
	if err := c.WriteStick(ctx, "none"); !errors.As(err, &text) {
		t.Errorf("write to nothing: %v", err)
	}
	if err := c.UpdateFrom(ctx, "/perm/hallig/forged.hallig-update"); !errors.As(err, &text) {
		t.Errorf("an update from anywhere: %v", err)
	}
	if err := c.StartUpdate(ctx); !errors.As(err, &text) {
		t.Errorf("a trial of nothing: %v", err)
	}
	b.rings.Ring("hallig").Printf("a line")
	var log bytes.Buffer
	if err := c.Log(ctx, "hallig", &log); err != nil || !strings.Contains(log.String(), "a line") {
		t.Errorf("%v: %q", err, log.String())
	}
	if err := c.Log(ctx, "../system/provision", &log); err == nil {
		t.Error("any file is a log")
	}
	if err := c.Reboot(ctx); err != nil || (<-b.endings).kind != restart {
		t.Error(err)
	}
	if err := c.FactoryReset(ctx, "box7.example"); err != nil || (<-b.endings).kind != reset {
		t.Error(err)
	}
}

func TestLogsForAStick(t *testing.T) {
	b, dir := testBox(t), t.TempDir()
	b.machineID = "0123456789abcdef0123456789abcdef"
	b.rings.Ring("hallig").Printf("why it does not start")
	if err := b.writeLogs(dir); err != nil {
		t.Fatal(err)
	}
	got := read(t, filepath.Join(dir, "hallig-logs-01234567.txt"))
	if !strings.Contains(got, "why it does not start") || !strings.Contains(got, `"processes"`) {
		t.Errorf("%s", got)
	}
}

func TestWhoMaySpeak(t *testing.T) {
	for uid, want := range map[int]bool{0: true, uidHallig: true, uidLAN: false, uidPage: false, 65534: false, -1: false} {
		if os.Getuid() == uid && !want {
			continue
		}
		if allowed(uid) != want {
			t.Errorf("uid %d: %v", uid, !want)
		}
	}
}

func TestPicture(t *testing.T) {
	p := picture{
		version: "1.4", name: "box7.feuerwehr-musterstadt.example", url: "http://192.168.7.1", addresses: []string{"192.168.7.1", "hallig.local"}, code: "KMFC-HD3L-LT7B",
		sentence: steward.Text{De: "Das Netzwerkkabel einstecken.", En: "Plug in the \x1b[2Jnetwork cable."},
		more:     []steward.Text{{De: strings.Repeat("lang ", 100), En: strings.Repeat("x", 300)}, {De: "Zweitens.", En: "Second."}},
	}
	check := func(p picture) string {
		t.Helper()
		out := p.String()
		for l := range strings.Lines(out) {
			if n := len([]rune(strings.TrimRight(l, "\n"))); n > 80 {
				t.Errorf("a line of %d columns: %s", n, l)
			}
		}
		if strings.ContainsAny(out, "\x1b\x07") {
			t.Error("others can move the cursor")
		}
		return out
	}
	out := check(p)
	for _, want := range []string{"box7.feuerwehr-musterstadt.example", "KMFC-HD3L-LT7B", "192.168.7.1, hallig.local", "Das Netzwerkkabel einstecken.", "█"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	p.more = nil
	if n := strings.Count(check(p), "\n"); n > 25 {
		t.Errorf("%d lines do not fit on a screen", n)
	}
	finger := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
	if out := check(picture{version: "1", name: "box7.test", url: "http://192.168.7.1", finger: finger, code: "ABCD-EFGH-JKLM", sentence: steward.Text{De: "Satz.", En: "Sentence."}}); strings.Count(out, "AB") < 32 {
		t.Errorf("the fingerprint is not whole:\n%s", out)
	}
	if out := check(picture{version: "1", sentence: steward.Text{De: "Kaputt.", En: "Broken."}}); strings.Contains(out, "█") || !strings.Contains(out, "Kaputt.") || !strings.Contains(out, "Noch keine Adresse") {
		t.Errorf("without an address:\n%s", out)
	}
}

func FuzzLANAddresses(f *testing.F) {
	f.Add([]byte(`{"interfaces":[{"name":"eth0","addresses":["192.168.7.1/24","fe80::1/64"],"names":["hallig.local"]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if got := lanAddresses(raw); len(got) > 6 {
			t.Errorf("%d addresses", len(got))
		}
	})
}

func TestLANAddresses(t *testing.T) {
	raw := []byte(`{"interfaces":[{"name":"eth0","addresses":["192.168.7.1/24","fe80::1/64"],"names":["hallig.local"]},{"name":"eth1","addresses":["10.0.0.2/8"]}]}`)
	if got := strings.Join(lanAddresses(raw), " "); got != "192.168.7.1 hallig.local 10.0.0.2" {
		t.Error(got)
	}
	if got := lanAddresses([]byte("nonsense")); got != nil {
		t.Error(got)
	}
}

func TestParsePress(t *testing.T) {
	e := make([]byte, eventBytes)
	binary.NativeEndian.PutUint16(e[16:], typeKey)
	binary.NativeEndian.PutUint16(e[18:], keyPower)
	binary.NativeEndian.PutUint32(e[20:], 1)
	if p, ok := parsePress(e); !ok || p != (press{keyPower, 1}) {
		t.Errorf("%+v, %v", p, ok)
	}
	binary.NativeEndian.PutUint16(e[16:], 0) // EV_SYN
	if _, ok := parsePress(e); ok {
		t.Error("an event that is no key")
	}
	if _, ok := parsePress(e[:20]); ok {
		t.Error("half an event")
	}
}

func TestLight(t *testing.T) {
	sys := t.TempDir()
	led := filepath.Join(sys, "class/leds/ACT")
	for _, d := range []string{led, filepath.Join(sys, "class/leds/input2::numlock")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := newLight(sys)
	l.set(steward.LEDLook)
	if read(t, led+"/trigger") != "timer" || read(t, led+"/delay_on") != "1000" {
		t.Error("look does not blink slowly")
	}
	l.set(steward.LEDTrouble)
	if read(t, led+"/delay_on") != "150" {
		t.Error("trouble does not blink fast")
	}
	l.set(steward.LEDOK)
	if read(t, led+"/trigger") != "none" || read(t, led+"/brightness") != "255" {
		t.Error("all well is not steady")
	}
	os.Remove(led + "/brightness")
	if l.set(steward.LEDOK); !errors.Is(func() error { _, err := os.Stat(led + "/brightness"); return err }(), os.ErrNotExist) {
		t.Error("the same state is written again")
	}
	none := newLight(t.TempDir())
	none.set(steward.LEDTrouble) // a PC
}

func TestSmallReaders(t *testing.T) {
	if got := kernelRecord([]byte("6,1234,5678901,-;EXT4-fs (vda4): mounted\n SUBSYSTEM=block\n")); got != "[5.678901] EXT4-fs (vda4): mounted" {
		t.Error(got)
	}
	if total, free := meminfo([]byte("MemTotal:        222400 kB\nMemFree: 1 kB\nMemAvailable:    100000 kB\n")); total != 222400<<10 || free != 100000<<10 {
		t.Error(total, free)
	}
	if got := safeHost("Box7_Süd"); got != "box7sd" {
		t.Error(got)
	}
	if hallig, _ := memoryLimits(200 << 20); hallig != 80<<20 {
		t.Errorf("a box with 200 MiB gives its homeserver %d MiB", hallig>>20)
	}
	if !validMachineID("0123456789abcdef0123456789abcdef") || validMachineID("xyz") || validMachineID(strings.Repeat("0", 32)) {
		t.Error("machine ids")
	}
}

func TestIdentityIsMadeOnce(t *testing.T) {
	a, c := testBox(t), testBox(t)
	if err := errors.Join(a.identity(), c.identity()); err != nil {
		t.Fatal(err)
	}
	if a.machineID == c.machineID || !validMachineID(a.machineID) {
		t.Errorf("%q and %q", a.machineID, c.machineID)
	}
	again := newBox(a.at)
	if err := again.identity(); err != nil || again.machineID != a.machineID {
		t.Errorf("next start: %q, %v", again.machineID, err)
	}
	if err := os.WriteFile(a.at.system("machine-id"), []byte("half a"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := again.identity(); err != nil || !validMachineID(again.machineID) {
		t.Errorf("after a damage: %q, %v", again.machineID, err)
	}
}

func TestSentencePage(t *testing.T) {
	w := httptest.NewRecorder()
	sentenceHandler(steward.Text{De: "Kaputt <b>.", En: "Broken."}).ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/client/versions", nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "Kaputt &lt;b&gt;.") || !strings.Contains(w.Body.String(), "Broken.") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTroubleHasTheLastWord(t *testing.T) {
	b := testBox(t)
	b.asked = steward.LEDOK
	b.say("perm", steward.Text{De: "a", En: "a"})
	b.say("perm", steward.Text{De: "b", En: "b"})
	if b.worst() != steward.LEDTrouble || len(b.troubles) != 1 || b.troubles[0].text.De != "b" {
		t.Errorf("%s, %+v", b.worst(), b.troubles)
	}
	b.say("perm", steward.Text{})
	if b.worst() != steward.LEDOK || len(b.troubles) != 0 {
		t.Errorf("%s, %+v", b.worst(), b.troubles)
	}
}

func TestReachable(t *testing.T) {
	got := reachable([]string{"127.0.0.1", "::1", "10.0.0.2", "fe80::1%eth0", "fd00::2", "10.0.0.2", "nonsense"})
	if strings.Join(got, " ") != "10.0.0.2 fd00::2" {
		t.Errorf("%q", got)
	}
}
