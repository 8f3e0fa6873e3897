// SPDX-License-Identifier: EUPL-1.2

package plug

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tree makes a tree of devices: names that end in "/" are folders, "a -> b" are links, everything else are attributes.
func tree(t *testing.T, lines string) string {
	t.Helper()
	root := t.TempDir()
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if link, to, ok := strings.Cut(line, " -> "); ok {
			name := filepath.Join(root, link)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(filepath.Join(root, to), name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		name, value, _ := strings.Cut(line, " = ")
		path := filepath.Join(root, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// machine is a PC with two UARTs (one of them the console), two FTDI cables, two CP2102 with the factory's serial number, a chip with two ports, a
// radio that speaks CDC ACM, and a chip without a driver.
const machine = `
class/tty/console/active = tty0 ttyS0
devices/pnp/tty/ttyS0/type = 4
devices/pnp/tty/ttyS0/device/
class/tty/ttyS0 -> devices/pnp/tty/ttyS0
devices/pnp/tty/ttyS1/type = 4
devices/pnp/tty/ttyS1/device/driver -> bus/platform/drivers/serial8250
class/tty/ttyS1 -> devices/pnp/tty/ttyS1
devices/pnp/tty/ttyS2/type = 0
devices/pnp/tty/ttyS2/device/
class/tty/ttyS2 -> devices/pnp/tty/ttyS2
devices/virtual/tty/tty1/dev = 4:1
class/tty/tty1 -> devices/virtual/tty/tty1
devices/soc/tty/ttyAMA0/type = 32
devices/soc/tty/ttyAMA0/device/
class/tty/ttyAMA0 -> devices/soc/tty/ttyAMA0

devices/pci/usb1/1-1/idVendor = 0403
devices/pci/usb1/1-1/idProduct = 6001
devices/pci/usb1/1-1/serial = A50285BI
devices/pci/usb1/1-1/1-1:1.0/bInterfaceNumber = 00
devices/pci/usb1/1-1/1-1:1.0/bInterfaceClass = ff
devices/pci/usb1/1-1/1-1:1.0/driver -> bus/usb/drivers/ftdi_sio
devices/pci/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0/device/
class/tty/ttyUSB0 -> devices/pci/usb1/1-1/1-1:1.0/ttyUSB0/tty/ttyUSB0

devices/pci/usb1/1-2/1-2.1/idVendor = 10c4
devices/pci/usb1/1-2/1-2.1/idProduct = ea60
devices/pci/usb1/1-2/1-2.1/serial = 0001
devices/pci/usb1/1-2/1-2.1/1-2.1:1.0/bInterfaceNumber = 00
devices/pci/usb1/1-2/1-2.1/1-2.1:1.0/driver -> bus/usb/drivers/cp210x
devices/pci/usb1/1-2/1-2.1/1-2.1:1.0/ttyUSB1/tty/ttyUSB1/device/
class/tty/ttyUSB1 -> devices/pci/usb1/1-2/1-2.1/1-2.1:1.0/ttyUSB1/tty/ttyUSB1
devices/pci/usb1/1-2/1-2.2/idVendor = 10c4
devices/pci/usb1/1-2/1-2.2/idProduct = ea60
devices/pci/usb1/1-2/1-2.2/serial = 0001
devices/pci/usb1/1-2/1-2.2/1-2.2:1.0/bInterfaceNumber = 00
devices/pci/usb1/1-2/1-2.2/1-2.2:1.0/driver -> bus/usb/drivers/cp210x
devices/pci/usb1/1-2/1-2.2/1-2.2:1.0/ttyUSB2/tty/ttyUSB2/device/
class/tty/ttyUSB2 -> devices/pci/usb1/1-2/1-2.2/1-2.2:1.0/ttyUSB2/tty/ttyUSB2

devices/pci/usb1/1-3/idVendor = 0403
devices/pci/usb1/1-3/idProduct = 6010
devices/pci/usb1/1-3/serial = ../FT 4/x
devices/pci/usb1/1-3/1-3:1.0/bInterfaceNumber = 00
devices/pci/usb1/1-3/1-3:1.0/driver -> bus/usb/drivers/ftdi_sio
devices/pci/usb1/1-3/1-3:1.0/ttyUSB3/tty/ttyUSB3/device/
class/tty/ttyUSB3 -> devices/pci/usb1/1-3/1-3:1.0/ttyUSB3/tty/ttyUSB3
devices/pci/usb1/1-3/1-3:1.1/bInterfaceNumber = 01
devices/pci/usb1/1-3/1-3:1.1/driver -> bus/usb/drivers/ftdi_sio
devices/pci/usb1/1-3/1-3:1.1/ttyUSB4/tty/ttyUSB4/device/
class/tty/ttyUSB4 -> devices/pci/usb1/1-3/1-3:1.1/ttyUSB4/tty/ttyUSB4

devices/pci/usb1/1-4/idVendor = 303a
devices/pci/usb1/1-4/idProduct = 1001
devices/pci/usb1/1-4/serial = 7C:DF:A1:00:11:22
devices/pci/usb1/1-4/busnum = 1
devices/pci/usb1/1-4/devnum = 9
devices/pci/usb1/1-4/1-4:1.0/bInterfaceNumber = 00
devices/pci/usb1/1-4/1-4:1.0/bInterfaceClass = 02
devices/pci/usb1/1-4/1-4:1.0/bInterfaceSubClass = 02
devices/pci/usb1/1-4/1-4:1.1/bInterfaceClass = 0a
bus/usb/devices/1-4:1.0 -> devices/pci/usb1/1-4/1-4:1.0
bus/usb/devices/1-4:1.1 -> devices/pci/usb1/1-4/1-4:1.1

devices/pci/usb1/1-5/idVendor = 067b
devices/pci/usb1/1-5/idProduct = 2303
devices/pci/usb1/1-5/1-5:1.0/bInterfaceClass = ff
bus/usb/devices/1-5:1.0 -> devices/pci/usb1/1-5/1-5:1.0
bus/usb/devices/1-1:1.0 -> devices/pci/usb1/1-1/1-1:1.0
bus/usb/devices/1-1 -> devices/pci/usb1/1-1
bus/usb/devices/usb1 -> devices/pci/usb1
`

func TestPortsHaveNamesThatStay(t *testing.T) {
	ports := Ports(tree(t, machine))
	var got []string
	for _, p := range ports {
		line := p.Name + " " + p.TTY + " " + p.Driver + " " + p.Chip
		if p.Driverless != "" {
			line += " " + filepath.Base(p.Driverless) + " " + p.Node
		}
		if !p.Note.Empty() {
			line += " note"
		}
		got = append(got, line)
	}
	want := []string{
		"cp210x-port1-2.1 ttyUSB1 cp210x Silicon Labs CP2102",
		"cp210x-port1-2.2 ttyUSB2 cp210x Silicon Labs CP2102",
		"esp32-7CDFA1001122   Espressif ESP32 (USB) 1-4 bus/usb/001/009",
		"ftdi-A50285BI ttyUSB0 ftdi_sio FTDI FT232R",
		"ftdi-FT-4x ttyUSB3 ftdi_sio FTDI FT2232",
		"ftdi-FT-4x-if1 ttyUSB4 ftdi_sio FTDI FT2232",
		"uart-ama0 ttyAMA0  UART",
		"uart1 ttyS1 serial8250 UART",
		"   Prolific PL2303 note",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if ports[0].Device != "/dev/hallig/cp210x-port1-2.1" || ports[len(ports)-1].Device != "" {
		t.Errorf("devices %q and %q", ports[0].Device, ports[len(ports)-1].Device)
	}
}

// TestSameSerialNumber: two devices of one name are told apart by their sockets, both of them, so that neither depends on who came first.
func TestSameSerialNumber(t *testing.T) {
	lines := strings.ReplaceAll(machine, "serial = 0001", "serial = CAFE77")
	var names []string
	for _, p := range Ports(tree(t, lines)) {
		if strings.HasPrefix(p.Name, "cp210x") {
			names = append(names, p.Name)
		}
	}
	if want := "cp210x-port1-2.1 cp210x-port1-2.2"; strings.Join(names, " ") != want {
		t.Errorf("%q, want %q", names, want)
	}
}

func TestNoMachineAtAll(t *testing.T) {
	if p := Ports(t.TempDir()); len(p) != 0 {
		t.Errorf("%v", p)
	}
	if v := Volumes(t.TempDir(), t.TempDir(), "sda"); len(v) != 0 {
		t.Errorf("%v", v)
	}
}

func TestParseEvent(t *testing.T) {
	e, err := ParseEvent([]byte("add@/devices/pci/usb1/1-1\x00ACTION=add\x00DEVPATH=/devices/pci/usb1/1-1\x00SUBSYSTEM=usb\x00SEQNUM=7\x00"))
	if err != nil || e.Action != "add" || e.DevPath != "/devices/pci/usb1/1-1" || e.Subsystem != "usb" || e.Vars["SEQNUM"] != "7" {
		t.Errorf("%+v, %v", e, err)
	}
	for _, bad := range []string{"", "libudev\x00\xfe\xed", "add@", "add@/x", "@/x\x00", "add\x00SUBSYSTEM=usb\x00"} {
		if _, err := ParseEvent([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte("add@/devices/a\x00SUBSYSTEM=block\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := ParseEvent(b); err == nil && (e.Action == "" || !strings.HasPrefix(e.DevPath, "/")) {
			t.Errorf("%+v of %q", e, b)
		}
	})
}

// TestWatchEnds opens the real socket: it must be possible, and end with the context.
func TestWatchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, func(Event) {}, func() {}) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func fat(t *testing.T, size string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath("mkfs.fat"); err != nil {
		t.Skip("no mkfs.fat")
	}
	name := filepath.Join(t.TempDir(), "fs")
	if out, err := exec.Command("truncate", "-s", size, name).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if out, err := exec.Command("mkfs.fat", append(args, name)...).CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	return name
}

func TestProbe(t *testing.T) {
	for name, tc := range map[string]struct {
		size string
		args []string
		want Format
	}{
		"fat32":    {"64M", []string{"-F", "32", "-n", "EINSATZ 7", "-i", "1234abcd"}, Format{"vfat", "EINSATZ 7", "1234abcd"}},
		"fat16":    {"32M", []string{"-F", "16", "-n", "STICK", "-i", "cafe0001"}, Format{"vfat", "STICK", "cafe0001"}},
		"no label": {"64M", []string{"-F", "32", "-i", "00000001"}, Format{"vfat", "", "00000001"}},
	} {
		f, err := os.Open(fat(t, tc.size, tc.args...))
		if err != nil {
			t.Fatal(err)
		}
		if got := Probe(f); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
		f.Close()
	}
	exfat := make([]byte, 64<<10)
	copy(exfat[3:], "EXFAT   ")
	exfat[108], exfat[109], exfat[88], exfat[96] = 9, 0, 4, 2
	copy(exfat[100:], []byte{0x78, 0x56, 0x34, 0x12})
	copy(exfat[4*512:], []byte{0x83, 2, 'A', 0, 0xfc, 0})
	ntfs := make([]byte, 4096)
	copy(ntfs[3:], "NTFS    ")
	for name, tc := range map[string]struct {
		b    []byte
		want Format
	}{
		"exfat": {exfat, Format{"exfat", "Aü", "12345678"}},
		"ntfs":  {ntfs, Format{"ntfs", "", "0000000000000000"}},
		"zero":  {make([]byte, 4096), Format{}},
		"short": {make([]byte, 100), Format{}},
	} {
		if got := Probe(bytes.NewReader(tc.b)); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

func FuzzProbe(f *testing.F) {
	b := make([]byte, 8192)
	copy(b[82:], "FAT32")
	b[510], b[511], b[11], b[12], b[13], b[14], b[16], b[36], b[44] = 0x55, 0xaa, 0, 2, 1, 1, 1, 1, 2
	f.Add(b)
	e := make([]byte, 8192)
	copy(e[3:], "EXFAT   ")
	e[108], e[109], e[88], e[96] = 9, 0, 4, 2
	f.Add(e)
	f.Fuzz(func(t *testing.T, b []byte) { Probe(bytes.NewReader(b)) })
}

func TestVolumesAreWhatCanBePulledOut(t *testing.T) {
	sys := tree(t, `
devices/ata/sda/size = 1000000
devices/ata/sda/removable = 0
devices/ata/sda/sda1/partition = 1
devices/ata/sda/sda1/size = 131072
class/block/sda -> devices/ata/sda
class/block/sda1 -> devices/ata/sda/sda1
devices/pci/usb1/1-1/sdb/size = 131072
devices/pci/usb1/1-1/sdb/removable = 1
devices/pci/usb1/1-1/sdb/sdb1/partition = 1
devices/pci/usb1/1-1/sdb/sdb1/size = 131072
class/block/sdb -> devices/pci/usb1/1-1/sdb
class/block/sdb1 -> devices/pci/usb1/1-1/sdb/sdb1
devices/pci/usb1/1-2/sdc/size = 131072
class/block/sdc -> devices/pci/usb1/1-2/sdc
devices/pci/usb1/1-3/sdd/size = 131072
devices/pci/usb1/1-3/sdd/sdd1/partition = 1
devices/pci/usb1/1-3/sdd/sdd1/size = 131072
class/block/sdd -> devices/pci/usb1/1-3/sdd
class/block/sdd1 -> devices/pci/usb1/1-3/sdd/sdd1
devices/pci/usb1/1-4/sde/size = 0
class/block/sde -> devices/pci/usb1/1-4/sde
devices/virtual/block/loop0/size = 131072
devices/virtual/block/loop0/removable = 1
class/block/loop0 -> devices/virtual/block/loop0
`)
	dev := t.TempDir()
	for _, n := range []string{"sda1", "sdb1", "sdc", "sdd1", "sde", "loop0"} {
		if err := os.Symlink(fat(t, "64M", "-F", "32", "-n", "EINSATZ"), filepath.Join(dev, n)); err != nil {
			t.Fatal(err)
		}
	}
	// The box itself runs from sdd, a stick.
	var got []string
	for _, v := range Volumes(sys, dev, "sdd") {
		got = append(got, v.Name+" "+v.Kernel+" "+v.Format.FS)
	}
	if want := "EINSATZ sdb1 vfat|EINSATZ-sdc sdc vfat"; strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", strings.Join(got, "|"), want)
	}
}
