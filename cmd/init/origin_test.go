// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/plug"
	"hallig/appliance/steward"
	"hallig/appliance/update"
)

func partitionFile(text string, age time.Duration) found {
	f := stickFile(text, age)
	f.stick = ""
	return f
}

// reborn is the same box after a restart, with nothing looked at yet but what it has kept.
func reborn(b *box) *box {
	c := newBox(b.at)
	c.perm = true
	c.readNames()
	c.takeProvision()
	return c
}

// TestRefusalSaysWhichFile: two files may be at fault, so the sentence begins with which one and where it lies.
func TestRefusalSaysWhichFile(t *testing.T) {
	b := testBox(t)
	b.offer(partitionFile(`{"hallig":1,"lable":"x"}`, 0))
	if e := b.state().Provision; !strings.HasPrefix(e.Error.De, "hallig.json auf der Partition HALLIG der Box: Zeile 1, Spalte 13: ") || !strings.HasPrefix(e.Error.En, "hallig.json on the box's own partition HALLIG: Line 1, column 13: ") || e.File != "HALLIG" {
		t.Errorf("%+v", e)
	}
	b.offer(stickFile(`{"hallig":1,`, 0))
	if e := b.state().Provision; !strings.HasPrefix(e.Error.De, "hallig.json auf dem Stick KINGSTON: ") || !strings.HasPrefix(e.Error.En, "hallig.json on stick KINGSTON: ") || e.File != "Stick KINGSTON" || e.Accepted {
		t.Errorf("%+v", e)
	}
	if log := logOf(t, b); !strings.Contains(log, "refused: hallig.json on stick KINGSTON: ") {
		t.Error(log)
	}
}

// TestRefusalOfAStickEndsWithIt: who pulls the stick out has understood.
func TestRefusalOfAStickEndsWithIt(t *testing.T) {
	b := testBox(t)
	b.asked = steward.LEDOK
	b.sticks = []*stick{{Volume: plug.Volume{Name: "KINGSTON"}}}
	b.offer(partitionFile(`{"hallig":1,"lable":"x"}`, 0))
	b.offer(stickFile(`{`, 0))
	b.offer(stickFile(`{`, 0)) // looked at twice, said once
	b.lookAtSticks()           // none is plugged in
	if e := b.provision.Error.En; !strings.Contains(e, "partition HALLIG") {
		t.Errorf("the stick was pulled; the file on the box itself is still wrong: %q", e)
	}
	c := testBox(t)
	c.asked = steward.LEDOK
	c.offer(stickFile(`{`, 0))
	if c.worst() != steward.LEDLook {
		t.Errorf("the light does not ask for a look: %s", c.worst())
	}
	c.pulled("OTHER")
	if c.provision.Error.Empty() {
		t.Error("another stick was pulled")
	}
	c.pulled("KINGSTON")
	if !c.provision.Error.Empty() || c.provision.File != "" || c.worst() != steward.LEDOK {
		t.Errorf("after the stick was pulled: %+v, light %s", c.provision, c.worst())
	}
	if c.offer(stickFile(`{`, 0)); c.provision.Error.Empty() {
		t.Error("plugged in again, the file is still wrong, and nobody says so")
	}
	if other := stickFile(`{"hallig":1}`, 0); !c.offer(found{stick: "OTHER", raw: other.raw, mod: other.mod}) || !c.provision.Error.Empty() {
		t.Errorf("another file was accepted: %+v", c.provision)
	}
}

// TestRefusalOfThePartitionEndsWithASuccessor: a wrong file that nobody can reach any more does not blink for ever, but a good one that came before it
// does not hide it.
func TestRefusalOfThePartitionEndsWithASuccessor(t *testing.T) {
	b := testBox(t)
	if !b.offer(stickFile(`{"hallig":1,"label":"before"}`, 0)) {
		t.Fatal(b.provision.Error)
	}
	bad := partitionFile(`{"hallig":1,"lable":"x"}`, time.Hour)
	for range 2 { // starts
		b = reborn(b)
		if b.offer(bad); b.provision.Error.Empty() {
			t.Fatal("nobody has brought a better file, and the wrong one is silent")
		}
		if b.offer(stickFile(`{"hallig":1,"label":"before"}`, 0)); b.provision.Error.Empty() {
			t.Fatal("the stick of long ago counts as the successor")
		}
	}
	if !b.offer(stickFile(`{"hallig":1,"label":"after"}`, 2*time.Hour)) || !b.provision.Error.Empty() {
		t.Fatalf("%+v", b.provision)
	}
	for i := range keepSeen + 10 { // however many sticks come
		b = reborn(b)
		if b.offer(bad); !b.provision.Error.Empty() || b.provision.Label == "" {
			t.Fatalf("start %d: %+v", i, b.provision)
		}
		if !b.offer(stickFile(`{"hallig":1,"label":"stick"}`, time.Duration(i+3)*time.Hour)) && i == 0 {
			t.Fatal("refused")
		}
	}
	if b.offer(partitionFile(`{"hallig":1,"lable":"x"}`, 1000*time.Hour)); b.provision.Error.Empty() {
		t.Error("written anew, it is another file, and wrong")
	}
}

// TestOriginOutlivesARestart: with the stick long gone, the box knows that it was set up from a file, and from which.
func TestOriginOutlivesARestart(t *testing.T) {
	b := testBox(t)
	if p := b.state().Provision; p.Accepted || p.File != "" || !p.From.Empty() {
		t.Fatalf("a new box: %+v", p)
	}
	b.offer(stickFile(`{"hallig":1,"label":"Box 7"}`, 0))
	want := b.state().Provision
	if want.From.De != "vom Stick KINGSTON" || want.From.En != "from stick KINGSTON" || want.File != "Stick KINGSTON" || !want.Accepted {
		t.Errorf("%+v", want)
	}
	b = reborn(b)
	if got := b.state().Provision; got != want {
		t.Errorf("after a restart %+v, before %+v", got, want)
	}
	b.offer(stickFile(`{`, time.Hour)) // what is in force is told all the same
	if got := b.state().Provision; got.From != want.From || !got.Accepted || got.Error.Empty() {
		t.Errorf("%+v", got)
	}
	if !b.offer(partitionFile(`{"hallig":1,"label":"Box 8"}`, 2*time.Hour)) {
		t.Fatal(b.provision.Error)
	}
	if got := reborn(b).state().Provision; got.From.De != "von der Partition HALLIG der Box" || got.File != "HALLIG" {
		t.Errorf("%+v", got)
	}
	if log := logOf(t, b); !strings.Contains(log, "replaces the provisioning file before as a whole") {
		t.Error(log)
	}
	// A power cut between the two files: the copy is in force, and nothing false is said of it.
	if err := os.WriteFile(b.at.system("provision.json"), []byte(`{"hallig":1,"label":"Box 9"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := reborn(b).state().Provision; !got.Accepted || got.Label != "Box 9" || !got.From.Empty() || got.File != "hallig.json" {
		t.Errorf("%+v", got)
	}
}

// TestReleaseWithoutTheFAT: a box whose FAT cannot be read knows from its root file system what it is, and refuses an older system that was signed once.
func TestReleaseWithoutTheFAT(t *testing.T) {
	b := testBox(t)
	key, err := update.ParsePrivateKey([]byte("hallig-update-secret-1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8= test\n"))
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := json.Marshal(update.Keys{Threshold: 1, Keys: []update.PublicKey{key.Public()}})
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"update.json":   string(trusted),
		"manifest.json": `{"product":"hallig","board":"amd64","version":"1.5","release":5,"commit":"c","released":"2026-10-01T00:00:00Z","schema":8,"update_keys":[],"source":{"name":"s","size":1,"sha512":""},"programs":[]}`,
	} {
		file := filepath.Join(b.at.Etc, "hallig", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.readSlots() // there is no disk to read it from
	if got := b.system(); got != (release{Version: "1.5", Release: 5, Board: "amd64", Schema: 8}) {
		t.Errorf("%+v", got)
	}
	for n, newer := range map[int64]bool{4: false, 5: false, 6: true} {
		if u := b.inspect(signed(t, n, key)); u.Newer != newer || u.Error.Empty() != newer {
			t.Errorf("release %d: %+v", n, u)
		}
	}
	for _, broken := range []string{"", "{", `{"version":"9"}`, `{"release":9}`, `{"version":"9","release":"9"}`} {
		if err := os.WriteFile(filepath.Join(b.at.Etc, "hallig/manifest.json"), []byte(broken), 0o644); err != nil {
			t.Fatal(err)
		}
		if b.readOwnManifest(); b.system().Release != 5 {
			t.Errorf("%q is believed: %+v", broken, b.system())
		}
	}
}

// signed is an update file of that release.
func signed(t *testing.T, n int64, key update.PrivateKey) string {
	t.Helper()
	big := bytes.Repeat([]byte("system"), 100)
	sources := []update.Source{
		{File: update.RootPart, Data: bytes.NewReader(big), Size: int64(len(big))},
		{File: update.KernelFile, Data: bytes.NewReader(big), Size: int64(len(big))},
	}
	cmdline, err := update.PadCmdline("root=PARTUUID=60c24cc1-f3f9-427a-8199-000000000001/PARTNROFF=1 ro init=/gokrazy/init panic=10")
	if err != nil {
		t.Fatal(err)
	}
	entry, err := update.PadText("title Hallig", update.SmallFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range []update.Slot{update.SlotA, update.SlotB} {
		sources = append(sources,
			update.Source{File: update.CmdlineFile, Slot: slot, Data: bytes.NewReader(update.ForSlot(cmdline, slot)), Size: update.SmallFile},
			update.Source{File: update.EntryFile, Slot: slot, Data: bytes.NewReader(update.ForSlot(entry, slot)), Size: update.SmallFile})
	}
	var file bytes.Buffer
	if _, err := update.Write(&file, update.Manifest{Product: update.Product, Board: "amd64", Version: "1." + string(rune('0'+n)), Release: n, Schema: 8}, sources, key); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "box.hallig-update")
	if err := os.WriteFile(name, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestPictureShowsTheLabel: the label is what people call the box by, also once the server has its name and its code to scan.
func TestPictureShowsTheLabel(t *testing.T) {
	p := picture{version: "1", name: "box7.feuerwehr.example", label: "Box \x1b[2J7", url: "http://192.168.7.1", addresses: []string{"192.168.7.1"}, sentence: steward.Text{De: "Alles läuft.", En: "All is well."}}
	if out := p.String(); !strings.Contains(out, "box7.feuerwehr.example (Box [2J7)") || !strings.Contains(out, "█") || strings.Contains(out, "\x1b") || strings.Count(out, "\n") > 25 {
		t.Error(out)
	}
	p.name, p.label = "", "Box 7"
	if out := p.String(); !strings.Contains(out, " Box 7\n") || strings.Contains(out, "(") {
		t.Error(out)
	}
}
