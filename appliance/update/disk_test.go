// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

var boards = map[string]board{"amd64, FAT32": {wide: true}, "amd64, FAT16": {}, "Pi, FAT32": {pi: true, wide: true}}

// The told story: install, look, switch, and back.
func TestInstallSwitchBack(t *testing.T) {
	for name, b := range boards {
		t.Run(name, func(t *testing.T) {
			one, two := makeSystem(1), makeSystem(50)
			disk := makeDisk(t, b, one)
			before := bytes.Clone(disk.b)
			d := must(OpenDisk(disk, int64(len(disk.b))))
			expect := func(which int, slot Slot) {
				t.Helper()
				for name, f := range b.firmwares() {
					if w, s, err := boots(disk.b, f, one, two); err != nil || w != which || s != slot {
						t.Errorf("%s boots system %d, slot %s, %v; want system %d, slot %s", name, w, s, err, which, slot)
					}
				}
				if s, err := d.Boots(); err != nil || s != slot {
					t.Errorf("the disk says slot %s, %v", s, err)
				}
			}
			expect(0, SlotA)
			if m, err := d.Check(t.Context(), SlotA); err != nil || m.Release != 1 {
				t.Errorf("a fresh image's slot a: %v, %v", m.Release, err)
			}
			if _, err := d.Check(t.Context(), SlotB); !errors.Is(err, errNoSystem) {
				t.Errorf("a fresh image's slot b: %v", err)
			}
			if err := d.Switch(t.Context(), SlotB); err == nil {
				t.Fatal("switched to a slot that holds nothing")
			}
			file := two.file(t, b, 2)
			if err := install(d, b, SlotA, file, 1); err != nil {
				t.Fatal(err)
			}
			expect(0, SlotA)
			if m, err := d.Check(t.Context(), SlotB); err != nil || m.Release != 2 {
				t.Errorf("slot b: %v, %v", m.Release, err)
			}
			outside(t, d, before, disk.b, b)
			if err := d.Switch(t.Context(), SlotB); err != nil {
				t.Fatal(err)
			}
			expect(1, SlotB)
			if err := d.Switch(t.Context(), SlotA); err != nil {
				t.Fatal(err)
			}
			expect(0, SlotA)
			if err := install(d, b, SlotB, file, 1); err == nil {
				t.Error("wrote into the slot that the firmware boots")
			}
			expect(0, SlotA)
		})
	}
}

// outside holds that nothing but slot b has changed: no FAT, no directory, no table.
func outside(t *testing.T, d *Disk, before, after []byte, b board) {
	t.Helper()
	m := must(d.Holds(SlotB))
	allowed := []span{must(d.place(SlotB, ManifestFile))}
	if b.pi {
		allowed = append(allowed, must(d.place(SlotB, TrybootTxt)))
	}
	for _, p := range m.For(SlotB) {
		allowed = append(allowed, must(d.place(SlotB, p.File)))
	}
	for at := range before {
		if before[at] == after[at] {
			continue
		}
		ok := false
		for _, s := range allowed {
			ok = ok || int64(at) >= s.at && int64(at) < s.at+s.size
		}
		if !ok {
			t.Fatalf("byte %d changed, which belongs to nobody", at)
		}
	}
}

// A damaged byte anywhere in a slot is found, and nothing is switched to it.
func TestDamageIsFound(t *testing.T) {
	b := board{wide: true}
	one, two := makeSystem(1), makeSystem(50)
	disk := makeDisk(t, b, one)
	d := must(OpenDisk(disk, int64(len(disk.b))))
	if err := install(d, b, SlotA, two.file(t, b, 2), 1); err != nil {
		t.Fatal(err)
	}
	m := must(d.Holds(SlotB))
	for _, p := range m.For(SlotB) {
		at := must(d.place(SlotB, p.File))
		for _, off := range []int64{0, p.Size / 2, p.Size - 1} {
			disk.b[at.at+off] ^= 4
			if err := d.Switch(t.Context(), SlotB); err == nil {
				t.Errorf("%s: byte %d damaged, and switched to", p.File, off)
			}
			disk.b[at.at+off] ^= 4
		}
	}
	if err := d.Switch(t.Context(), SlotB); err != nil {
		t.Error(err)
	}
}

// An update that was refused half way leaves a slot that says it holds nothing, and the next one is taken.
func TestHalfAnUpdate(t *testing.T) {
	b := board{wide: true}
	one, two := makeSystem(1), makeSystem(50)
	disk := makeDisk(t, b, one)
	d := must(OpenDisk(disk, int64(len(disk.b))))
	file := two.file(t, b, 2)
	if err := install(d, b, SlotA, file, 1); err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(file)
	bad[len(bad)-1] ^= 1
	if err := install(d, b, SlotA, bad, 1); err == nil {
		t.Fatal("an altered file is taken")
	}
	if _, err := d.Check(t.Context(), SlotB); !errors.Is(err, errNoSystem) {
		t.Errorf("slot b: %v", err)
	}
	if err := install(d, b, SlotA, file[:len(file)/2], 1); err == nil {
		t.Fatal("half a file is taken")
	}
	r := must(Open(bytes.NewReader(file), running(1)))
	ctx, stop := context.WithCancel(t.Context())
	if err := d.Install(ctx, SlotA, r, func(done, total int64) {
		if done > total/2 {
			stop()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	if err := install(d, b, SlotA, file, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Check(t.Context(), SlotB); err != nil {
		t.Error(err)
	}
}

// What does not fit is refused before anything is written.
func TestTooBig(t *testing.T) {
	b := board{wide: true}
	one, big := makeSystem(1), makeSystem(50)
	big.kernel = text(9, 3<<20+1)
	disk := makeDisk(t, b, one)
	before := bytes.Clone(disk.b)
	d := must(OpenDisk(disk, int64(len(disk.b))))
	var r *Refusal
	if err := install(d, b, SlotA, big.file(t, b, 2), 1); !errors.As(err, &r) {
		t.Errorf("%v", err)
	}
	if !bytes.Equal(before, disk.b) {
		t.Error("something was written")
	}
	// a file for a place that the disk does not have: the Pi's parts on a PC's disk
	pi := makeSystem(50).file(t, board{pi: true}, 2)
	rd, err := Open(bytes.NewReader(pi), Running{Board: "rpi", Release: 1, Keys: running(1).Keys})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Install(t.Context(), SlotA, rd, nil); !errors.As(err, &r) || !bytes.Equal(before, disk.b) {
		t.Errorf("%v", err)
	}
}

// A slot hands on the file that it came from, and another box takes it.
func TestStream(t *testing.T) {
	for name, b := range boards {
		t.Run(name, func(t *testing.T) {
			one, two := makeSystem(1), makeSystem(50)
			disk, other := makeDisk(t, b, one), makeDisk(t, b, one)
			d, far := must(OpenDisk(disk, int64(len(disk.b)))), must(OpenDisk(other, int64(len(other.b))))
			if err := install(d, b, SlotA, two.file(t, b, 2), 1); err != nil {
				t.Fatal(err)
			}
			var file bytes.Buffer
			if err := d.Stream(t.Context(), &file, SlotB); err != nil {
				t.Fatal(err)
			}
			if err := install(far, b, SlotA, file.Bytes(), 1); err != nil {
				t.Fatal(err)
			}
			if _, err := far.Check(t.Context(), SlotB); err != nil {
				t.Error(err)
			}
			disk.b[must(d.place(SlotB, RootPart)).at] ^= 1
			if err := d.Stream(t.Context(), io.Discard, SlotB); err == nil {
				t.Error("damaged bytes are handed on")
			}
		})
	}
}

// The numbers that BIOS and UEFI read lie apart after a cut; Settle makes them agree with the one that was booted.
func TestSettle(t *testing.T) {
	b := board{wide: true}
	one := makeSystem(1)
	disk := makeDisk(t, b, one)
	d := must(OpenDisk(disk, int64(len(disk.b))))
	for _, p := range d.pointers() {
		if p.name == "UEFI" {
			if err := d.writeSector(p.at, retarget(p.sector, SlotB)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s, err := d.Boots(); s != NoSlot || err != nil {
		t.Errorf("boots slot %s, %v", s, err)
	}
	if err := install(d, b, SlotA, makeSystem(50).file(t, b, 2), 1); err == nil {
		t.Error("wrote into a slot that a firmware might boot")
	}
	if err := d.Settle(SlotA); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Boots(); s != SlotA || err != nil {
		t.Errorf("boots slot %s, %v", s, err)
	}
}

// A sector of UEFI's that has rotted would leave the choice to the loader. It is written anew at the next start, whichever slot that is.
func TestSettleMendsTheLoader(t *testing.T) {
	b := board{wide: true}
	one := makeSystem(1)
	disk := makeDisk(t, b, one)
	d := must(OpenDisk(disk, int64(len(disk.b))))
	at := must(d.vol.find(LoaderConf))
	for _, rot := range [][]byte{noise(1, SectorSize), make([]byte, SectorSize), []byte("default hallig-a.conf hallig-b.conf\n")} {
		copy(disk.b[at.at:], rot)
		if s, err := d.Boots(); s != NoSlot || err != nil {
			t.Errorf("boots slot %s, %v", s, err)
		}
		if err := d.Settle(SlotA); err != nil {
			t.Fatal(err)
		}
		for name, f := range b.firmwares() {
			if w, s, err := boots(disk.b, f, one); w != 0 || s != SlotA || err != nil {
				t.Errorf("%s boots %d, %s, %v", name, w, s, err)
			}
		}
	}
}

// recorder is a disk that notes what is written and when it is flushed.
type recorder struct {
	*ram
	ops []op // b nil: a flush
}

type op struct {
	at int64
	b  []byte
}

func (r *recorder) WriteAt(b []byte, at int64) (int, error) {
	r.ops = append(r.ops, op{at, bytes.Clone(b)})
	return r.ram.WriteAt(b, at)
}

func (r *recorder) Sync() error {
	r.ops = append(r.ops, op{})
	return nil
}

// cut is the disk after the power went before op n: what was flushed is there, of each later write a random part of the sectors.
func (r *recorder) cut(base []byte, n int, rnd *rand.Rand) []byte {
	disk := bytes.Clone(base)
	flushed := 0
	for i, o := range r.ops[:n] {
		if o.b == nil {
			flushed = i
		}
	}
	chance := rnd.IntN(5) // none, some, all of what was on its way
	for i, o := range r.ops[:n] {
		if i < flushed {
			copy(disk[o.at:], o.b)
			continue
		}
		for s := 0; s < len(o.b); s += SectorSize {
			if rnd.IntN(4) < chance {
				copy(disk[o.at+int64(s):], o.b[s:s+SectorSize])
			}
		}
	}
	return disk
}

// The power goes before each write and flush of an update and of the switch, several times with other luck. Each time every firmware must find a whole
// system, the old one while nothing was switched; and a box that comes up again must be able to finish.
func TestPowerCuts(t *testing.T) {
	cuts, again := 0, 0
	for name, b := range boards {
		one, two := makeSystem(1), makeSystem(50)
		disk := &recorder{ram: makeDisk(t, b, one)}
		base := bytes.Clone(disk.b)
		file := two.file(t, b, 2)
		d := must(OpenDisk(disk, int64(len(disk.b))))
		if err := install(d, b, SlotA, file, 1); err != nil {
			t.Fatal(err)
		}
		installed := len(disk.ops)
		if err := d.Switch(t.Context(), SlotB); err != nil {
			t.Fatal(err)
		}
		rnd := rand.New(rand.NewPCG(uint64(len(name)), 7))
		for n := 0; n <= len(disk.ops); n++ {
			for range 6 {
				cuts++
				after := disk.cut(base, n, rnd)
				at := fmt.Sprintf("%s: cut at %d of %d (installed at %d)", name, n, len(disk.ops), installed)
				slots := afterCut(t, at, b, after, one, two, n > installed)
				if cuts%10 == 0 && slots["UEFI"] == slots["BIOS"] {
					again++
					finish(t, at, b, after, one, two, file)
				}
			}
		}
		for name, f := range b.firmwares() {
			if w, s, err := boots(disk.b, f, one, two); w != 1 || s != SlotB || err != nil {
				t.Errorf("%s in the end boots %d, %s, %v", name, w, s, err)
			}
		}
	}
	t.Logf("%d cuts, %d of them finished afterwards", cuts, again)
	if cuts < 300 || again < 20 {
		t.Errorf("%d cuts, %d finished: the test looks at too little", cuts, again)
	}
}

func afterCut(t *testing.T, at string, b board, disk []byte, one, two system, mayBeNew bool) map[string]Slot {
	t.Helper()
	slots := make(map[string]Slot)
	for name, f := range b.firmwares() {
		w, s, err := boots(disk, f, one, two)
		if err != nil {
			t.Fatalf("%s: %s: %v", at, name, err)
		}
		if w == 1 && !mayBeNew {
			t.Fatalf("%s: %s boots the new system, which nobody switched to", at, name)
		}
		slots[name] = s
	}
	return slots
}

// finish is the box after the cut: it settles, and installs and switches once more if the old system came up.
func finish(t *testing.T, at string, b board, disk []byte, one, two system, file []byte) {
	t.Helper()
	d, err := OpenDisk(&ram{disk}, int64(len(disk)))
	if err != nil {
		t.Fatalf("%s: %v", at, err)
	}
	for _, f := range b.firmwares() {
		w, s, _ := boots(disk, f, one, two)
		if err := d.Settle(s); err != nil {
			t.Fatalf("%s: settle: %v", at, err)
		}
		if w == 1 {
			return
		}
	}
	if err := install(d, b, SlotA, file, 1); err != nil {
		t.Fatalf("%s: install again: %v", at, err)
	}
	if err := d.Switch(t.Context(), SlotB); err != nil {
		t.Fatalf("%s: switch: %v", at, err)
	}
	for name, f := range b.firmwares() {
		if w, _, err := boots(disk, f, one, two); w != 1 || err != nil {
			t.Fatalf("%s: %s boots %d, %v after the second try", at, name, w, err)
		}
	}
}

// A disk that loses what it was told to flush is found out before anything is switched.
type liar struct {
	*ram
	lost int64
}

func (l *liar) WriteAt(b []byte, at int64) (int, error) {
	if at <= l.lost && l.lost < at+int64(len(b)) {
		b = bytes.Clone(b)
		clear(b[l.lost-at:][:min(SectorSize, len(b)-int(l.lost-at))])
	}
	return l.ram.WriteAt(b, at)
}

func TestLyingDisk(t *testing.T) {
	b := board{wide: true}
	one, two := makeSystem(1), makeSystem(50)
	disk := &liar{ram: makeDisk(t, b, one), lost: 1 << 62}
	d := must(OpenDisk(disk, int64(len(disk.b))))
	disk.lost = must(d.place(SlotB, RootPart)).at + 2048
	var r *Refusal
	if err := install(d, b, SlotA, two.file(t, b, 2), 1); !errors.As(err, &r) || !strings.Contains(r.En, "disk") {
		t.Errorf("%v", err)
	}
	if _, err := d.Check(t.Context(), SlotB); err == nil {
		t.Error("the slot counts as whole")
	}
}
