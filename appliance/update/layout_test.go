// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"hash/fnv"
	"strings"
	"testing"
)

func TestDiskIDIsGokrazys(t *testing.T) {
	h := fnv.New32a()
	h.Write([]byte(Hostname))
	if h.Sum32() != DiskID {
		t.Errorf("DiskID is %08x, gokrazy derives %08x from %q", uint32(DiskID), h.Sum32(), Hostname)
	}
	if got, want := PartUUID(4), "60c24cc1-f3f9-427a-8199-6b23afd20004"; got != want {
		t.Errorf("PartUUID(4) = %s, want %s", got, want)
	}
	if got, want := SlotB.RootArg(), "root=PARTUUID=60c24cc1-f3f9-427a-8199-6b23afd20001/PARTNROFF=2"; got != want {
		t.Errorf("root of b: %s, want %s", got, want)
	}
}

func TestPartitionsFollowEachOther(t *testing.T) {
	if got, want := SlotA.RootStart(), int64(BootStart+BootSize); got != want {
		t.Errorf("root a starts at %d, want %d", got, want)
	}
	if got, want := SlotB.RootStart()+RootSize, int64(PermStart); got != want {
		t.Errorf("root b ends at %d, want %d", got, want)
	}
	for board, reserve := range KernelReserve {
		if 2*reserve > BootSize*3/4 {
			t.Errorf("%s: two kernels of %d MiB leave less than a quarter of the boot partition", board, reserve>>20)
		}
	}
}

func TestBootTextsAreOneSector(t *testing.T) {
	args := []string{"init=/gokrazy/init", "panic=10"}
	bios, err := Cmdline("amd64", args, SlotA)
	if err != nil {
		t.Fatal(err)
	}
	if len(bios) != SectorSize || bios[SectorSize-1] != 0 || bytes.IndexByte(bios, 0) != len(strings.TrimRight(string(bios), "\x00")) {
		t.Errorf("BIOS command line must be one sector that ends in zeros: %q", bios)
	}
	pi, err := Cmdline("rpi", args, SlotB)
	if err != nil {
		t.Fatal(err)
	}
	if len(pi) != SectorSize || bytes.IndexByte(pi, 0) >= 0 || bytes.IndexByte(pi, '\n') != SectorSize-1 {
		t.Errorf("command line of the Raspberry Pi must be one line of one sector without zeros: %q", pi)
	}
	for name, make := range map[string]func() ([]byte, error){
		"entry":  func() ([]byte, error) { return Entry(SlotB, args, SlotB) },
		"loader": func() ([]byte, error) { return Loader(SlotB) },
		"config": func() ([]byte, error) { return Config(SlotB) },
	} {
		b, err := make()
		if err != nil {
			t.Fatal(err)
		}
		// A line of blanks makes systemd-boot read past its end, so only line ends may fill up the sector.
		if len(b) != SectorSize || strings.Contains(string(b), " \n") || !strings.Contains(string(b), "-b") {
			t.Errorf("%s: %q", name, b)
		}
	}
	if _, err := Cmdline("amd64", []string{strings.Repeat("x", SectorSize)}, SlotA); err == nil {
		t.Error("a command line longer than a sector was accepted")
	}
	if _, err := Entry(SlotA, []string{strings.Repeat("x", SectorSize)}, SlotA); err == nil {
		t.Error("an entry longer than a sector was accepted")
	}
}
