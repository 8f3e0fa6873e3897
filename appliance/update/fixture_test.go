// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/klauspost/compress/zstd"
)

// ram is a disk in memory.
type ram struct{ b []byte }

func (r *ram) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(r.b).ReadAt(b, at) }
func (r *ram) WriteAt(b []byte, at int64) (int, error) {
	if at%SectorSize != 0 || len(b)%SectorSize != 0 {
		return 0, fmt.Errorf("%d bytes at %d are not whole sectors", len(b), at)
	}
	return copy(r.b[at:], b), nil
}
func (r *ram) Sync() error { return nil }

// fatFile is a file of the volume that makeFAT lays out.
type fatFile struct {
	name string
	b    []byte
}

// makeFAT lays out a volume with whole files, as mkfs.fat and mcopy would on an empty one.
func makeFAT(size int, wide bool, perCluster int, files []fatFile) []byte {
	const reserved, fats, rootEntries = 32, 2, 512
	le := binary.LittleEndian
	b := make([]byte, size)
	copy(b, "\xeb\x3c\x90HALLIG  ")
	le.PutUint16(b[11:], SectorSize)
	b[13], b[16] = byte(perCluster), fats
	le.PutUint16(b[14:], reserved)
	le.PutUint32(b[32:], uint32(size/SectorSize))
	b[510], b[511] = 0x55, 0xaa
	cluster, width := perCluster*SectorSize, 2
	if wide {
		width = 4
	}
	fatLen := (size/cluster*width + SectorSize) / SectorSize * SectorSize
	rootAt := reserved*SectorSize + fats*fatLen
	data := rootAt
	if wide {
		le.PutUint32(b[36:], uint32(fatLen/SectorSize))
		le.PutUint32(b[44:], 2)
	} else {
		le.PutUint16(b[22:], uint16(fatLen/SectorSize))
		le.PutUint16(b[17:], rootEntries)
		data += rootEntries * 32
	}
	next := 2
	set := func(c, to int) {
		for f := range fats {
			at := reserved*SectorSize + f*fatLen + c*width
			if wide {
				le.PutUint32(b[at:], uint32(to))
			} else {
				le.PutUint16(b[at:], uint16(to))
			}
		}
	}
	alloc := func(content []byte) int {
		first, n := next, max(1, (len(content)+cluster-1)/cluster)
		for i := range n {
			to := next + 1
			if i == n-1 {
				to = 0x0fffffff
			}
			set(next, to)
			next++
		}
		copy(b[data+(first-2)*cluster:], content)
		return first
	}
	dirs := map[string][]byte{".": nil}
	for _, f := range files {
		for d := path.Dir(f.name); d != "."; d = path.Dir(d) {
			dirs[d] = nil
		}
	}
	if wide {
		alloc(make([]byte, 4096)) // the root directory, filled below
	}
	for i, f := range files {
		dirs[path.Dir(f.name)] = append(dirs[path.Dir(f.name)], dirEntry(path.Base(f.name), i, 0x20, alloc(f.b), len(f.b))...)
	}
	names := make([]string, 0, len(dirs))
	for d := range dirs {
		names = append(names, d)
	}
	slices.SortFunc(names, func(x, y string) int { return len(y) - len(x) }) // children first
	for i, d := range names {
		if d != "." {
			dirs[path.Dir(d)] = append(dirs[path.Dir(d)], dirEntry(path.Base(d), 100+i, 0x10, alloc(dirs[d]), 0)...)
		}
	}
	if wide {
		copy(b[data:data+4096], dirs["."])
	} else {
		copy(b[rootAt:], dirs["."])
	}
	return b
}

// dirEntry is the entry of a file with its long name.
func dirEntry(name string, n int, attr byte, first, size int) (b []byte) {
	e := make([]byte, 32)
	copy(e, fmt.Sprintf("F%07dX  ", n))
	e[11] = attr
	binary.LittleEndian.PutUint16(e[20:], uint16(first>>16))
	binary.LittleEndian.PutUint16(e[26:], uint16(first))
	binary.LittleEndian.PutUint32(e[28:], uint32(size))
	long := utf16.Encode([]rune(name))
	parts := (len(long) + 12) / 13
	for i := parts; i > 0; i-- {
		l := bytes.Repeat([]byte{0xff}, 32)
		l[0], l[11], l[12], l[13], l[26], l[27] = byte(i), 0x0f, 0, checksum(e), 0, 0
		if i == parts {
			l[0] |= 0x40
		}
		for j, at := range []int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} {
			switch k := (i-1)*13 + j; {
			case k < len(long):
				binary.LittleEndian.PutUint16(l[at:], long[k])
			case k == len(long):
				binary.LittleEndian.PutUint16(l[at:], 0)
			}
		}
		b = append(b, l...)
	}
	return append(b, e...)
}

// makeGPT puts partitions on a disk.
func makeGPT(disk []byte, parts ...span) {
	le := binary.LittleEndian
	table := make([]byte, 128*128)
	for i, p := range parts {
		e := table[i*128:]
		e[0], e[16] = 1, byte(i+1)
		le.PutUint64(e[32:], uint64(p.at/SectorSize))
		le.PutUint64(e[40:], uint64((p.at+p.size)/SectorSize-1))
	}
	last := len(disk)/SectorSize - 1
	for _, at := range []int{1, last} {
		h := make([]byte, SectorSize)
		copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
		first := 2
		if at == last {
			first = last - 32
		}
		le.PutUint64(h[24:], uint64(at))
		le.PutUint64(h[72:], uint64(first))
		le.PutUint32(h[80:], 128)
		le.PutUint32(h[84:], 128)
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		copy(disk[first*SectorSize:], table)
		copy(disk[at*SectorSize:], h)
	}
}

// board is what a disk is for.
type board struct {
	pi   bool
	wide bool
}

func (s system) piSources() []Source {
	var list []Source
	for _, f := range []fatFile{{RootPart, s.root}, {"slot-{slot}/vmlinuz", s.kernel}, {"slot-{slot}/bcm2711-rpi-4-b.dtb", s.kernel[:3000]}} {
		list = append(list, Source{File: f.name, Data: bytes.NewReader(f.b), Size: int64(len(f.b))})
	}
	cmdline := must(PadText(s.cmdline, SmallFile))
	for _, slot := range []Slot{SlotA, SlotB} {
		list = append(list, Source{File: "slot-{slot}/cmdline.txt", Slot: slot, Data: bytes.NewReader(ForSlot(cmdline, slot)), Size: SmallFile})
	}
	return list
}

func (s system) sourcesFor(b board) []Source {
	if b.pi {
		return s.piSources()
	}
	return s.sources()
}

func (s system) file(t testing.TB, b board, release int64) []byte {
	t.Helper()
	var out bytes.Buffer
	name := "amd64"
	if b.pi {
		name = "rpi"
	}
	if _, err := write(&out, zstd.SpeedFastest, Manifest{Product: Product, Board: name, Version: fmt.Sprint("1.", release), Release: release, Schema: 8}, s.sourcesFor(b), []PrivateKey{testKey}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// makeDisk is a fresh image with a system in slot a, and the same kernel in slot b with no system.
func makeDisk(t testing.TB, b board, s system) *ram {
	t.Helper()
	const kernelRoom, rootRoom = 3 << 20, 4 << 20
	head, _, err := Head(bytes.NewReader(s.file(t, b, 1)))
	if err != nil {
		t.Fatal(err)
	}
	fill := func(c []byte, n int) []byte { return append(bytes.Clone(c), make([]byte, n-len(c))...) }
	files := []fatFile{{"hallig.json", []byte("{}")}, {"manifest-a", fill(head, MaxHead)}, {"manifest-b", make([]byte, MaxHead)}}
	if b.pi {
		config := must(PadText("# the slot that is confirmed\narm_64bit=1\nos_prefix=slot-a/\nkernel=vmlinuz\n", SectorSize))
		files = append(files, fatFile{"config.txt", config}, fatFile{"tryboot.txt", retarget(config, SlotB)})
		for _, slot := range []string{"a", "b"} {
			files = append(files, fatFile{"slot-" + slot + "/vmlinuz", fill(s.kernel, kernelRoom)}, fatFile{"slot-" + slot + "/bcm2711-rpi-4-b.dtb", fill(s.kernel[:3000], 8192)},
				fatFile{"slot-" + slot + "/cmdline.txt", must(PadText(s.cmdline, SmallFile))})
		}
	} else {
		files = append(files, fatFile{"loader/loader.conf", must(PadText("default hallig-a.conf\ntimeout 0", SectorSize))})
		entry := must(PadText("title Hallig\nlinux /vmlinuz-a\noptions "+s.cmdline, SmallFile))
		for _, slot := range []Slot{SlotA, SlotB} {
			files = append(files, fatFile{In(slot, KernelFile), fill(s.kernel, kernelRoom)}, fatFile{In(slot, CmdlineFile), must(PadCmdline(s.cmdline))},
				fatFile{In(slot, EntryFile), ForSlot(entry, slot)})
		}
	}
	p1, rootA := span{1 << 20, 8 << 20}, span{9 << 20, rootRoom}
	rootB := span{rootA.at + rootRoom, rootRoom}
	perm := span{rootB.at + rootRoom, 1 << 20}
	disk := &ram{make([]byte, perm.at+perm.size+1<<20)}
	per := 1
	if b.wide {
		per = 8
	}
	copy(disk.b[p1.at:], makeFAT(int(p1.size), b.wide, per, files))
	makeGPT(disk.b, p1, rootA, rootB, perm)
	copy(disk.b[rootA.at:], s.root)
	if !b.pi {
		d := must(OpenDisk(disk, int64(len(disk.b))))
		k, c, err := d.lbas(SlotA)
		if err != nil {
			t.Fatal(err)
		}
		copy(disk.b, "\xfagokrazy's loader stands here")
		SetBIOSLBAs(disk.b, k, c)
	}
	return disk
}

// firmware is what boots a disk: it reads the disk as the real one does, in code of its own, and gives the kernel's bytes, as many as asked for, and its command line.
type firmware func(disk []byte, kernelBytes int) (kernel []byte, cmdline string, err error)

func biosBoots(disk []byte, n int) ([]byte, string, error) {
	kernel, cmdline := int(binary.LittleEndian.Uint32(disk[432:]))*512, int(binary.LittleEndian.Uint32(disk[436:]))*512
	if kernel+n > len(disk) || cmdline+512 > len(disk) || kernel == 0 || cmdline == 0 {
		return nil, "", fmt.Errorf("sector 0 leads nowhere")
	}
	line, _, ok := bytes.Cut(disk[cmdline:cmdline+512], []byte{0})
	if !ok {
		return nil, "", fmt.Errorf("no end of the command line")
	}
	return disk[kernel : kernel+n], string(line), nil
}

// fatRead reads a file of partition 1 by following its chain.
func fatRead(disk []byte, name string) ([]byte, error) {
	parts, err := readGPT(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		return nil, err
	}
	v, err := openVolume(bytes.NewReader(disk), parts[1])
	if err != nil {
		return nil, err
	}
	e, err := v.lookup(strings.TrimPrefix(name, "/"))
	if err != nil {
		return nil, err
	}
	var b []byte
	for c := e.first; v.holds(c) && int64(len(b)) < e.size; {
		at := v.clusterAt(c)
		b = append(b, disk[at:at+v.cluster]...)
		if c, err = v.next(c); err != nil {
			return nil, err
		}
	}
	return b[:e.size], nil
}

// value finds "key value" or "key=value" in a text.
func value(text []byte, key string) string {
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key); ok && rest != "" && strings.ContainsAny(rest[:1], " =") {
			return strings.TrimSpace(rest[1:])
		}
	}
	return ""
}

func uefiBoots(disk []byte, n int) ([]byte, string, error) {
	conf, err := fatRead(disk, "loader/loader.conf")
	if err != nil {
		return nil, "", err
	}
	entry, err := fatRead(disk, "loader/entries/"+value(conf, "default"))
	if err != nil {
		return nil, "", fmt.Errorf("entry %q: %w", value(conf, "default"), err)
	}
	kernel, err := fatRead(disk, value(entry, "linux"))
	return kernel[:min(n, len(kernel))], value(entry, "options"), err
}

func piBoots(disk []byte, n int) ([]byte, string, error) {
	conf, err := fatRead(disk, "config.txt")
	if err != nil {
		return nil, "", err
	}
	prefix := value(conf, "os_prefix")
	kernel, err := fatRead(disk, prefix+value(conf, "kernel"))
	if err != nil {
		return nil, "", err
	}
	line, err := fatRead(disk, prefix+"cmdline.txt")
	return kernel[:min(n, len(kernel))], strings.TrimSpace(string(line)), err
}

func (b board) firmwares() map[string]firmware {
	if b.pi {
		return map[string]firmware{"Pi": piBoots}
	}
	return map[string]firmware{"BIOS": biosBoots, "UEFI": uefiBoots}
}

// boots says which of the systems a firmware starts, with which slot's root; it fails when what is started is not one system from end to end.
func boots(disk []byte, f firmware, systems ...system) (which int, s Slot, err error) {
	for i, sys := range systems {
		kernel, line, err := f(disk, len(sys.kernel))
		if err != nil {
			return -1, NoSlot, err
		}
		if !bytes.Equal(kernel, sys.kernel) {
			continue
		}
		s, trial := RunningSlot(line)
		if s == NoSlot || trial || !strings.HasPrefix(line, string(ForSlot([]byte(sys.cmdline), s))) {
			continue
		}
		parts, err := readGPT(bytes.NewReader(disk), int64(len(disk)))
		if err != nil {
			return -1, NoSlot, err
		}
		if root := parts[rootPartition(s)]; bytes.HasPrefix(disk[root.at:root.at+root.size], sys.root) {
			return i, s, nil
		}
	}
	return -1, NoSlot, fmt.Errorf("what is started is no whole system")
}

func install(d *Disk, b board, from Slot, file []byte, release int64) error {
	now := running(release)
	if b.pi {
		now.Board = "rpi"
	}
	r, err := Open(bytes.NewReader(file), now)
	if err != nil {
		return err
	}
	defer r.Close()
	return d.Install(context.Background(), from, r, nil)
}

// onDisk writes a disk to a file, for tools.
func onDisk(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
