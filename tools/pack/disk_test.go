// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/update"
)

// fromGok stands in for a run of gok: a root with one program, this test itself, which carries the same kind of notes as the real ones, and a
// boot partition with a kernel of noise.
func fromGok(t *testing.T, j *job) {
	t.Helper()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(noise) //nolint:errcheck // never fails
	boot := map[string]string{"vmlinuz": string(noise), "cmdline.txt": "console=tty1 root=PARTUUID=x/PARTNROFF=1 rootdelay=10 panic=10 panic=10 rootwait gpt    "}
	if j.board.uefi {
		boot["EFI/BOOT/BOOTX64.EFI"], boot["EFI/BOOT/BOOTAA64.EFI"] = "loader for amd64", "loader for arm64"
	} else {
		boot["start4.elf"], boot["start.elf"] = "second stage", "second stage of an older Raspberry Pi"
		boot["bcm2711-rpi-4-b.dtb"], boot["bcm2710-rpi-3-b.dtb"] = "tree of a 4", "tree of a 3"
		boot["overlays/overlay_map.dtb"] = "overlay"
	}
	root := map[string]string{"user/hallig": string(self), "etc/ssl/ca-bundle.pem": "of the builder", "etc/localtime": "of the builder",
		"etc/gokrazy/sbom.json": `{"path":"/home/builder"}`, "lib/modules/1.2.3/kernel/toaster.ko": "builder"}
	for dir, files := range map[string]map[string]string{"fakeboot": boot, "fakeroot": root} {
		for name, body := range files {
			write(t, j.path(dir), name, body)
		}
	}
	if err := os.Chmod(j.path("fakeroot/user/hallig"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(j.path("gok.mbr"), bytes.Repeat([]byte{0x90}, 446), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) {
		t.Helper()
		if err := j.tool(name, args, j.dir); err != nil {
			t.Fatal(err)
		}
	}
	run("mksquashfs", j.path("fakeroot"), j.path("gok.squashfs"), "-quiet", "-no-progress")
	if err := truncate(j.path("gok.fat"), 100<<20); err != nil {
		t.Fatal(err)
	}
	run("mkfs.fat", "-F", "16", j.path("gok.fat"))
	entries, err := filepath.Glob(j.path("fakeboot/*"))
	if err != nil {
		t.Fatal(err)
	}
	run("mcopy", append(append([]string{"-s", "-i", j.path("gok.fat")}, entries...), "::/")...)
}

// assemble goes through all steps after gok.
func assemble(t *testing.T, j *job) {
	t.Helper()
	for _, step := range []func() error{j.makeRoot, j.gatherBoot, j.makeUpdate, j.makeBoot, j.makeDisk} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// needModules skips where the modules of the images are not on the machine: fetching a hundred megabytes is for `make image-modules`.
func needModules(t *testing.T, boardName string) {
	t.Helper()
	for dir, modules := range map[string][]string{"../../image/gok": {"github.com/gokrazy/tools", "github.com/gokrazy/internal"}, "../../image/" + boardName + "/builddir": nil} {
		cmd := exec.Command("go", append([]string{"mod", "download"}, modules...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOPROXY=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("the modules of the image are not here; make image-modules fetches them: %s", bytes.TrimSpace(out))
		}
	}
	if err := checkTools([]string{boardName}); err != nil {
		t.Skip(err)
	}
}

func TestDisk(t *testing.T) {
	for _, boardName := range boardNames() {
		t.Run(boardName, func(t *testing.T) {
			needModules(t, boardName)
			j := testJob(t, boardName)
			fromGok(t, j)
			assemble(t, j)
			bom, err := os.ReadFile(j.path("root/" + etc + "/sbom.cdx.json"))
			if err != nil {
				t.Fatal(err)
			}
			names := checkBOM(t, bom)
			want := []string{"linux", "std", "glibc", "user/hallig", "github.com/klauspost/compress"}
			want = append(want, map[string][]string{"amd64": {"systemd-boot", "minimal-linux-bootloader"}, "arm64": {"systemd-boot"}, "rpi": {"start4.elf", "fixup4.dat"}}[boardName]...)
			for _, w := range want {
				if !slices.Contains(names, w) {
					t.Errorf("the bill of materials does not list %s", w)
				}
			}
			checkRoot(t, j)
			checkHybrid(t, j)
			if out, err := exec.Command("sfdisk", "-V", j.path("disk.img")).CombinedOutput(); err != nil {
				t.Errorf("sfdisk: %v %s", err, out)
			}
			if out, err := exec.Command("fsck.fat", "-n", j.path("boot.fat")).CombinedOutput(); err != nil {
				t.Errorf("fsck.fat: %v %s", err, out)
			}
			if j.board.bios {
				sameAgain(t, j)
			}
			renew(t, j)
		})
	}
}

// checkRoot: nothing of the builder's machine is left, and the image says what it is.
func checkRoot(t *testing.T, j *job) {
	t.Helper()
	for _, name := range []string{"etc/ssl/ca-bundle.pem", "etc/localtime"} {
		b, err := os.ReadFile(j.path("root/" + name))
		if err != nil || bytes.Contains(b, []byte("builder")) {
			t.Errorf("%s is still the builder's: %.40q %v", name, b, err)
		}
	}
	for _, name := range []string{"etc/gokrazy", "lib/modules"} {
		if _, err := os.Lstat(j.path("root/" + name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	keys, err := os.ReadFile(j.path("root" + update.KeysFile))
	if err != nil {
		t.Fatal(err)
	}
	if k, err := update.ParseKeys(keys); err != nil || k.Keys[0].String() != j.keys.sign[0].Public().String() {
		t.Errorf("the image trusts %v (%v)", k, err)
	}
	var m manifest
	b, err := os.ReadFile(j.path("root/" + etc + "/manifest.json"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.Release != 7 || m.Source.SHA512 == "" || !m.Development || len(m.Programs) != 1 {
		t.Errorf("manifest %+v (%v)", m, err)
	}
	src, err := os.ReadFile(j.path("root/" + etc + "/" + m.Source.Name))
	if err != nil || describe(m.Source.Name, src) != m.Source {
		t.Errorf("the archive of the sources is not the one that the manifest names (%v)", err)
	}
	_, err = os.Stat(j.path("root/" + etc + "/bootloader.asm"))
	if (err == nil) != j.board.bios {
		t.Errorf("source of the BIOS loader: %v", err)
	}
}

// checkHybrid: BIOS and Raspberry Pi find the boot partition in sector 0, and whoever knows GPT sees that there is one.
func checkHybrid(t *testing.T, j *job) {
	t.Helper()
	disk, err := os.Open(j.path("disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close() //nolint:errcheck // only read
	s := make([]byte, 512)
	if _, err := disk.ReadAt(s, 0); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	if s[446] != 0x80 || s[450] != 0x0c || le.Uint32(s[454:])*512 != bootStart || le.Uint32(s[458:])*512 != bootSize || s[466] != 0xee || s[510] != 0x55 || s[511] != 0xaa {
		t.Errorf("partition table in sector 0: % x", s[446:])
	}
	if got := le.Uint32(s[440:]); got != diskID {
		t.Errorf("disk signature %08x", got)
	}
}

// renew installs the next release into slot b as a box does, and switches to it.
func renew(t *testing.T, j *job) {
	t.Helper()
	next := &job{ctx: j.ctx, src: j.src, board: j.board, keys: j.keys, dir: t.TempDir()}
	next.src.Version, next.src.Release = "1.1", 8
	next.manifest = newManifest(next.src, next.board, next.keys)
	fromGok(t, next)
	assemble(t, next)
	file, err := os.Open(next.path("update"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // only read
	r, err := update.Open(file, update.Running{Board: j.board.name, Version: "1.0", Release: 7, Keys: j.keys.trusted})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	f, err := os.OpenFile(j.path("disk.img"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // a test's
	d, err := update.OpenDisk(f, diskSize)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Holds(update.SlotB); err == nil {
		t.Error("slot b of a fresh image says that it holds a system")
	}
	if err := d.Install(t.Context(), update.SlotA, r, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	if err := d.Switch(t.Context(), update.SlotB); err != nil {
		t.Fatal(err)
	}
	if s, err := d.Boots(); s != update.SlotB || err != nil {
		t.Errorf("after the update the disk boots %q (%v)", s, err)
	}
	if m, err := d.Check(t.Context(), update.SlotA); err != nil || m.Release != 7 {
		t.Errorf("the old slot: release %d, %v", m.Release, err)
	}
	if j.board.uefi {
		line, err := d.Cmdline(update.SlotB)
		if err != nil || !strings.Contains(line, "/PARTNROFF=2 ") || !strings.Contains(line, " gpt") || strings.Contains(line, "rootdelay") {
			t.Errorf("command line of b: %q (%v)", line, err)
		}
	}
	// Every file of the slot has an equal one in the other slot, at least as big: whatever the next release changes finds its place.
	for _, b := range j.boot {
		at, size, err := d.Find(b.name)
		if err != nil || size != b.size || at < bootStart || at+size > bootStart+bootSize {
			t.Errorf("%s: %d bytes at %d (%v)", b.name, size, at, err)
		}
	}
}

// sameAgain builds the disk once more in another place, as one who has the published update file but not the key that signed it.
func sameAgain(t *testing.T, j *job) {
	t.Helper()
	again := testJob(t, j.board.name)
	again.keys = keyRing{trusted: j.keys.trusted, development: true, published: j.path("update")}
	again.manifest = newManifest(again.src, again.board, again.keys)
	fromGok(t, again)
	assemble(t, again)
	for _, name := range []string{"disk.img", "update"} {
		a, errA := measureFile(j.path(name))
		b, errB := measureFile(again.path(name))
		if errA != nil || errB != nil || a != b {
			t.Errorf("%s differs between two builds: %v %v %v %v", name, a, b, errA, errB)
		}
	}
}

func TestKeys(t *testing.T) {
	ours, other := update.GenerateKey("ours"), update.GenerateKey("other")
	list := func(keys ...update.PrivateKey) string {
		k := update.Keys{Threshold: 1}
		for _, p := range keys {
			k.Keys = append(k.Keys, p.Public())
		}
		b, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct {
		name, trust      string
		key              bool
		published, fails string
		trusted          string // name of the one key; "": two
		development      bool
	}{
		{name: "nothing", trusted: "development", development: true},
		{name: "key alone", key: true, trusted: "ours"},
		{name: "key and list", key: true, trust: list(ours, other)},
		{name: "list alone", trust: list(ours, other), trusted: "development", development: true},
		{name: "key that is not listed", key: true, trust: list(other), fails: "not among"},
		{name: "published file and list", published: "x", trust: list(ours, other)},
		{name: "published file without list", published: "x", fails: "names the keys"},
	} {
		dir, file := t.TempDir(), ""
		if c.trust != "" {
			write(t, dir, trustFile, c.trust)
		}
		if c.key {
			write(t, dir, "secret.key", string(ours.File()))
			file = filepath.Join(dir, "secret.key")
		}
		k, err := loadKeys(dir, file, c.published)
		switch {
		case c.fails != "":
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v, want %q", c.name, err, c.fails)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.trusted == "" && len(k.trusted.Keys) != 2, c.trusted != "" && (len(k.trusted.Keys) != 1 || k.trusted.Keys[0].Name != c.trusted):
			t.Errorf("%s: the image trusts %v", c.name, k.trusted.Keys)
		case k.development != c.development:
			t.Errorf("%s: development %v", c.name, k.development)
		}
	}
}

// TestOtherBuildTakesNoSignatures: signatures go only onto the very thing that was signed.
func TestOtherBuildTakesNoSignatures(t *testing.T) {
	make := func(root string, keys keyRing) (*job, error) {
		j := testJob(t, "amd64")
		j.keys = keys
		write(t, j.path("gokboot"), "vmlinuz", "kernel")
		write(t, j.dir, "root.squashfs", root)
		return j, j.makeUpdate()
	}
	published, err := make("root", keyRing{sign: []update.PrivateKey{update.GenerateKey("ours")}})
	if err != nil {
		t.Fatal(err)
	}
	same, err := make("root", keyRing{published: published.path("update")})
	if err != nil {
		t.Fatal(err)
	}
	a, errA := measureFile(published.path("update"))
	b, errB := measureFile(same.path("update"))
	if errA != nil || errB != nil || a != b {
		t.Errorf("the same build with the published signatures differs: %v %v", errA, errB)
	}
	if _, err := make("rooT", keyRing{published: published.path("update")}); err == nil || !strings.Contains(err.Error(), "not what was published") {
		t.Errorf("another build took the signatures: %v", err)
	}
}

func TestKernelArgs(t *testing.T) {
	got := kernelArgs("console=tty1  root=PARTUUID=1/PARTNROFF=1 ro rootdelay=10 panic=10 ro rootwait  ")
	if want := []string{"console=tty1", "ro", "panic=10", "rootwait"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTooBigKernel(t *testing.T) {
	j := testJob(t, "amd64")
	write(t, j.path("gokboot"), "vmlinuz", "")
	if err := os.Truncate(j.path("gokboot/vmlinuz"), 30<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := j.slotFiles(); err == nil || !strings.Contains(err.Error(), "to grow") {
		t.Errorf("a kernel that fills its place: %v", err)
	}
}

func TestConfigWords(t *testing.T) {
	j := testJob(t, "amd64")
	if got, err := j.expand("${VERSION} of ${RELEASED}"); err != nil || got != "1.0 of 2026-11-01T12:00:00Z" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := j.expand("${HOME}"); err == nil {
		t.Error("a word that depends on the builder was taken")
	}
}
