// SPDX-License-Identifier: EUPL-1.2

// Package vm runs a disk image in QEMU as one would run a box on the table: it gives it power and takes the power away,
// plugs sticks and serial adapters in and out, reads its screen (the serial console), and reaches its ports through
// the emulated network. It emulates the processor (TCG), so it needs neither root nor KVM, and says so in the times.
//
// Every machine is a process of its own that is ended by its own handle, and dies with the program that started it.
package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Firmware is the kind of machine.
type Firmware int

const (
	BIOS  Firmware = iota // amd64, SeaBIOS
	UEFI                  // amd64, OVMF
	ARM64                 // arm64 "virt" with AAVMF
)

func (f Firmware) String() string {
	return [...]string{"amd64 BIOS", "amd64 UEFI", "arm64 UEFI"}[f]
}

// Config is a machine. Its zero value with Dir and Disk set is an amd64 PC with BIOS, 512 MiB, one processor and a network without Internet.
type Config struct {
	Dir      string // of the machine: console.log, qmp.sock, the firmware's variables; made when missing
	Firmware Firmware
	Disk     string // raw image; the machine writes to it
	Record   string // record each write to the disk in this file (package blocklog)
	Memory   int    // MiB; 0: 512
	CPUs     int    // 0: 1
	Ports    []int  // TCP ports of the machine to reach from here by URL and Addr
	Tap      string // the network is this tap device; "": an emulated network that leads nowhere
	Open     bool   // the emulated network leads out, to this machine at 10.0.2.2
	NoNet    bool
	MAC      string
	Dump     string   // record every frame in this file (package pcap)
	Radio    []string // unix sockets, held by the caller, that lead to further serial ports of the machine's board
	Sticks   []string // FAT images that are in a USB socket when the power comes
	Virtual  bool     // time is virtual: it jumps to the next timer when the machine idles
	Watchdog bool     // a hardware watchdog (i6300ESB) that resets the machine
	Extra    []string // more words for QEMU
}

// VM is a machine with its power on.
type VM struct {
	Config
	Console *Console
	Started time.Time

	cmd   *exec.Cmd
	out   bytes.Buffer // what QEMU itself says; safe to read after gone
	gone  chan struct{}
	qmp   *monitor
	ports map[int]int
}

// needs names the files that QEMU takes from the system and the package that brings each.
var needs = map[Firmware][]string{
	UEFI:  {"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	ARM64: {"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
}

func (f Firmware) program() string {
	if f == ARM64 {
		return "qemu-system-aarch64"
	}
	return "qemu-system-x86_64"
}

// Missing says what the system lacks to run this kind of machine; "" when it has all.
func Missing(f Firmware) string {
	var lack []string
	for _, file := range needs[f] {
		if _, err := os.Stat(file); err != nil {
			lack = append(lack, file)
		}
	}
	if _, err := exec.LookPath(f.program()); err != nil {
		lack = append(lack, f.program())
	}
	if len(lack) == 0 {
		return ""
	}
	return strings.Join(lack, ", ") + " missing; install with: sudo apt-get install -y --no-install-recommends qemu-system-x86 qemu-system-arm ovmf qemu-efi-aarch64"
}

// Start switches the machine on.
func Start(ctx context.Context, c Config) (m *VM, err error) {
	if why := Missing(c.Firmware); why != "" {
		return nil, errors.New(why)
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	if c.Memory == 0 {
		c.Memory = 512
	}
	c.CPUs = max(c.CPUs, 1)
	m = &VM{Config: c, gone: make(chan struct{})}
	args, err := m.arguments()
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	os.Remove(m.path("qmp.sock"))
	screen := m.path("console.log")
	if err := os.WriteFile(screen, nil, 0o644); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	m.cmd = exec.Command(c.Firmware.program(), args...)
	m.cmd.Stdout, m.cmd.Stderr = &m.out, &m.out
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	m.Started = time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Firmware.program(), err)
	}
	m.Console = watch(screen, m.gone)
	go func() { // ends with the process, which Kill and Off wait for
		m.cmd.Wait()
		close(m.gone)
	}()
	defer func() {
		if err != nil {
			m.Kill()
			err = fmt.Errorf("%w; QEMU says: %s", err, strings.TrimSpace(m.out.String()))
		}
	}()
	if m.qmp, err = dial(ctx, m.path("qmp.sock"), m.gone); err != nil {
		return nil, err
	}
	if m.ports, err = m.forwarded(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *VM) path(name string) string { return filepath.Join(m.Dir, name) }

// arguments are the words for QEMU.
func (m *VM) arguments() ([]string, error) {
	a := []string{"-display", "none", "-no-user-config", "-m", strconv.Itoa(m.Memory), "-smp", strconv.Itoa(m.CPUs),
		"-device", "virtio-rng-pci", "-device", "qemu-xhci,id=usb",
		"-chardev", "file,id=screen,path=" + m.path("console.log"), "-serial", "chardev:screen",
		"-qmp", "unix:" + m.path("qmp.sock") + ",server=on,wait=off"}
	switch m.Firmware {
	case BIOS, UEFI:
		a = append(a, "-machine", "q35")
	case ARM64:
		a = append(a, "-machine", "virt,highmem=off", "-cpu", "cortex-a72")
	}
	if m.Virtual {
		a = append(a, "-accel", "tcg,thread=single", "-icount", "shift=3,sleep=off", "-rtc", "clock=vm")
	} else {
		a = append(a, "-accel", "tcg,thread=multi")
	}
	if files := needs[m.Firmware]; files != nil {
		vars := m.path("vars.fd") // the board's own memory, so it stays from boot to boot
		if _, err := os.Stat(vars); err != nil {
			if err := CopySparse(vars, files[1]); err != nil {
				return nil, err
			}
		}
		a = append(a, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+files[0], "-drive", "if=pflash,format=raw,unit=1,file="+vars)
	}
	a = append(a, m.disk()...)
	a = append(a, m.network()...)
	for i, sock := range m.Radio {
		id := fmt.Sprintf("radio%d", i)
		a = append(a, "-chardev", "socket,id="+id+",path="+sock+",reconnect=1", "-device", "pci-serial,chardev="+id)
	}
	for i, stick := range m.Sticks {
		id := fmt.Sprintf("stick%d", i)
		a = append(a, "-drive", "if=none,format=raw,id="+id+",file="+stick, "-device", "usb-storage,bus=usb.0,removable=on,drive="+id+",id=dev"+id)
	}
	if m.Watchdog {
		a = append(a, "-device", "i6300esb", "-action", "watchdog=reset")
	}
	return append(a, m.Extra...), nil
}

// disk is the machine's disk; a recorded one has every write twice, on the disk and in the record.
func (m *VM) disk() []string {
	if m.Record == "" {
		return []string{"-drive", "if=none,id=disk,format=raw,cache=writeback,file=" + m.Disk, "-device", "virtio-blk-pci,drive=disk"}
	}
	return []string{
		"-blockdev", "driver=file,node-name=plate,filename=" + m.Disk + ",cache.no-flush=on",
		"-blockdev", "driver=file,node-name=record,filename=" + m.Record + ",cache.no-flush=on",
		"-blockdev", "driver=blklogwrites,node-name=disk,file=plate,log=record,log-super-update-interval=1",
		"-device", "virtio-blk-pci,drive=disk"}
}

func (m *VM) network() []string {
	if m.NoNet {
		return []string{"-nic", "none"}
	}
	net := "tap,id=net0,script=no,downscript=no,ifname=" + m.Tap
	if m.Tap == "" {
		net = "user,id=net0"
		if !m.Open {
			net += ",restrict=on"
		}
		for _, p := range m.Ports {
			net += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:0-:%d", p)
		}
	}
	dev := "virtio-net-pci,netdev=net0"
	if m.MAC != "" {
		dev += ",mac=" + m.MAC
	}
	a := []string{"-netdev", net, "-device", dev}
	if m.Dump != "" {
		a = append(a, "-object", "filter-dump,id=dump,netdev=net0,file="+m.Dump)
	}
	return a
}

// forwarded asks QEMU which ports of ours lead to the machine's.
func (m *VM) forwarded() (map[int]int, error) {
	ports := map[int]int{}
	if len(m.Ports) == 0 || m.Tap != "" || m.NoNet {
		return ports, nil
	}
	table, err := m.HMP("info usernet")
	if err != nil {
		return nil, err
	}
	//   TCP[HOST_FORWARD]  13       127.0.0.1 41273       10.0.2.15    80     0     0
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != "TCP[HOST_FORWARD]" {
			continue
		}
		here, err1 := strconv.Atoi(f[3])
		there, err2 := strconv.Atoi(f[5])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("read the table of forwarded ports: %w", err)
		}
		ports[there] = here
	}
	for _, p := range m.Ports {
		if ports[p] == 0 {
			return nil, fmt.Errorf("port %d is not forwarded; QEMU has: %s", p, table)
		}
	}
	return ports, nil
}

// Addr is where a port of the machine is reached from here.
func (m *VM) Addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", m.ports[port]) }

// URL is the same for HTTP.
func (m *VM) URL(port int) string { return "http://" + m.Addr(port) }

// Pid is the process of the machine.
func (m *VM) Pid() int { return m.cmd.Process.Pid }

// Gone is closed when the machine's process has ended.
func (m *VM) Gone() <-chan struct{} { return m.gone }

// Kill pulls the plug and waits until it is out. What the machine has written so far is in the files.
func (m *VM) Kill() {
	m.cmd.Process.Kill()
	<-m.gone
	m.Console.close()
	if m.qmp != nil {
		m.qmp.close()
	}
}

// Off presses the power button and waits until the machine has gone down by itself.
func (m *VM) Off(ctx context.Context) error {
	if err := m.Do("system_powerdown", nil, nil); err != nil {
		return err
	}
	select {
	case <-m.gone:
		m.Kill()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the machine does not go down: %w", ctx.Err())
	}
}

// ErrGone says that the process has ended while somebody waited for the machine.
var ErrGone = errors.New("the machine's process has ended")

// Answers asks a port for path again and again until it answers with one of the codes (none: any below 500), and says how long after power on.
func (m *VM) Answers(ctx context.Context, port int, path string, codes ...int) (time.Duration, error) {
	client := &http.Client{Timeout: 1500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	var last error
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.URL(port)+path, nil)
		if err != nil {
			return 0, err
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
			if slices.Contains(codes, resp.StatusCode) || len(codes) == 0 && resp.StatusCode < 500 {
				return time.Since(m.Started), nil
			}
			err = fmt.Errorf("answered %s", resp.Status)
		}
		last = err
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("port %d %s: %w (last: %v; console ends: %s)", port, path, ctx.Err(), last, m.Console.Tail(5))
		case <-m.gone:
			return 0, fmt.Errorf("%w; QEMU says: %s", ErrGone, strings.TrimSpace(m.out.String()))
		case <-tick.C:
		}
	}
}
