// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hallig/appliance/lan"
	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/mdns"
)

// These tests run real boxes: the test binary starts itself in a user and network namespace of its own (inNamespace), and from there once more
// for each box (asBox), in a namespace with one end of a virtual cable. The other ends are plugged into a hub in the test, which carries every
// frame, sees every frame, and has phones and routers of its own.
const (
	inNamespace = "HALLIG_TEST_NAMESPACE"
	asBox       = "HALLIG_TEST_BOX"
	noRights    = "no rights in the namespace"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(asBox)
	if dir == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	for {
		err := Run(ctx, Config{Run: dir, Resolv: filepath.Join(dir, "resolv.conf"), Log: log})
		if errors.Is(err, ErrSettings) {
			continue
		}
		if err != nil {
			log.Error("box", "err", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// inside runs the named test in a namespace; the caller returns if it answers false.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	t.Parallel() // each has a network of its own, and waits most of the time
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && !strings.Contains(string(out), noRights):
		t.Errorf("in its namespace: %v\n%s", err, out)
	case err != nil:
		t.Logf("this machine gives no network namespaces, so nothing was tested here: %v", err)
	case testing.Verbose():
		t.Logf("%s", out)
	}
	return false
}

// box is a real hallig-lan in a namespace of its own.
type box struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	mac  dhcp.MAC
	hub  *hub
	plug *plug
	log  *strings.Builder
}

// inTime is how long something may take that takes no time on an idle machine.
const inTime = 20 * time.Second

// startBox starts a box and plugs it in; h nil: not yet. settings is network.json, "": none.
func startBox(t *testing.T, h *hub, n byte, settings string) *box {
	t.Helper()
	b := &box{t: t, dir: t.TempDir(), hub: h, mac: dhcp.MAC{2, 0, 0, 0, 0, n}, log: &strings.Builder{}}
	for _, d := range []string{"lan", "box"} {
		if err := os.Mkdir(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.file(lan.NamesFile, `{"names":["hallig.local","box1.feuerwehr.example"]}`)
	if settings != "" {
		b.file(lan.ConfigFile, settings)
	}
	b.run()
	if h != nil {
		b.plug = h.cable(b, "eth0", b.mac)
	}
	return b
}

func (b *box) file(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) run() {
	b.t.Helper()
	b.cmd = exec.Command(os.Args[0])
	b.cmd.Env = append(os.Environ(), asBox+"="+b.dir)
	b.cmd.Stderr = b.log
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("%s: %v", noRights, err)
	}
	cmd := b.cmd
	b.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			b.t.Errorf("box %s ended badly: %v", b.mac, err)
		}
		if b.t.Failed() {
			b.t.Logf("box %s said:\n%s", b.mac, b.log)
		}
	})
}

// iface is what the box says of its first interface.
func (b *box) iface() lan.Interface { return b.of(b.mac) }

// of is what the box says of an interface.
func (b *box) of(mac dhcp.MAC) lan.Interface {
	data, err := os.ReadFile(filepath.Join(b.dir, lan.StateFile))
	if err != nil {
		return lan.Interface{}
	}
	s, err := lan.ParseState(data)
	if err != nil {
		b.t.Fatalf("lan.json: %v\n%s", err, data)
	}
	for _, i := range s.Interfaces {
		if i.MAC == mac.String() {
			return i
		}
	}
	return lan.Interface{}
}

// await waits until the box's interface is as it should be.
func (b *box) await(what string, in time.Duration, ok func(lan.Interface) bool) lan.Interface {
	b.t.Helper()
	var i lan.Interface
	b.hub.until(b.t, what, in, func() bool { i = b.iface(); return ok(i) }, func() any { return i })
	return i
}

func is(m lan.Mode) func(lan.Interface) bool {
	return func(i lan.Interface) bool { return i.Mode == m }
}

// TestBox is the life of one box: guest of a router, host when it is plugged where there is none, guest again when a router appears.
func TestBox(t *testing.T) {
	if !inside(t) {
		return
	}
	h := newHub(t)
	r := h.router("192.168.7.1/24", 1)
	b := startBox(t, h, 1, "")
	i := b.await("guest", inTime, is(lan.Guest))
	if i.Lease == nil || i.Lease.Server != r.Self().Addr() || i.Gateway != r.Self().Addr() {
		t.Errorf("guest: %+v", i)
	}
	h.asksARP(t, i.Addresses[0].Addr(), b.mac)
	if got, err := os.ReadFile(filepath.Join(b.dir, "resolv.conf")); err != nil || string(got) != "nameserver 192.168.7.1\n" {
		t.Errorf("resolv.conf: %q, %v", got, err)
	}

	b.plug.carrier(t, false)
	b.await("without cable", inTime, func(i lan.Interface) bool { return !i.Carrier && i.Mode == lan.Waiting && len(i.Addresses) == 0 })
	h.remove(r)
	b.plug.carrier(t, true)
	p := h.phone(1)
	i = b.await("host", inTime, is(lan.Host))
	own := i.Addresses[0]
	h.until(t, "the phone's address", inTime, func() bool { return p.Lease() != nil }, nil)
	if l := p.Lease(); l.Addr.Masked() != own.Masked() || l.Gateway != own.Addr() {
		t.Errorf("phone: %+v", l)
	}
	h.asksARP(t, own.Addr(), b.mac)
	b.await("a client and a name", inTime, func(i lan.Interface) bool {
		return i.Serving != nil && i.Serving.Clients == 1 && slices.Equal(i.Names, []string{"hallig.local"})
	})
	before, err := os.Stat(filepath.Join(b.dir, lan.StateFile))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"box1.feuerwehr.example": own.Addr().String(), "hallig.local": own.Addr().String(),
		"captive.apple.com": own.Addr().String(), "connectivitycheck.gstatic.com": own.Addr().String(), "www.example.org": ""} {
		if got, rcode := h.lookup(t, p, b.mac, name); got != want || (rcode == dns.RcodeNameError) != (want == "") {
			t.Errorf("DNS: %s is %q (code %d), want %q", name, got, rcode, want)
		}
	}
	if got := h.multicast(t, p, "hallig.local"); got != own.Addr() {
		t.Errorf("mDNS: hallig.local is %s", got)
	}
	if after, err := os.Stat(filepath.Join(b.dir, lan.StateFile)); err != nil || !os.SameFile(before, after) {
		t.Errorf("lan.json was written again though nothing had changed (%v)", err)
	}

	r2 := h.router("192.168.8.1/24", 2)
	i = b.await("guest again", inTime, is(lan.Guest))
	if !r2.Self().Contains(i.Addresses[0].Addr()) || len(i.Addresses) != 2 || i.Addresses[1] != own {
		t.Errorf("guest again: %+v", i)
	}
	h.asksARP(t, i.Addresses[0].Addr(), b.mac)
	h.asksARP(t, own.Addr(), b.mac) // the phones it had still reach it

	b.file(lan.ConfigFile, `{"mode":"static","address":"192.168.8.99/24"}`)
	b.await("static", inTime, is(lan.Static))
	h.asksARP(t, netip.MustParseAddr("192.168.8.99"), b.mac)
	h.onlyManners(t, 53)
}

// TestTwoRealBoxes: two boxes on one wire without a server: the lower one is host, the other its guest. When the host is unplugged the other one
// takes its place.
func TestTwoRealBoxes(t *testing.T) {
	if !inside(t) {
		return
	}
	h := newHub(t)
	low, high := startBox(t, h, 1, ""), startBox(t, h, 2, "")
	low.await("host", inTime, is(lan.Host))
	i := high.await("guest", inTime, is(lan.Guest))
	if !i.Lease.Hallig || i.Gateway.IsValid() {
		t.Errorf("the guest: %+v", i)
	}
	h.asksARP(t, i.Addresses[0].Addr(), high.mac)
	p := h.phone(1)
	h.until(t, "the phone's address", inTime, func() bool { return p.Lease() != nil }, nil)
	high.await("a name of its own", inTime, func(i lan.Interface) bool { return slices.Equal(i.Names, []string{"hallig-2.local"}) })
	if got := h.multicast(t, p, "hallig.local"); got != low.iface().Addresses[0].Addr() {
		t.Errorf("hallig.local is %s", got)
	}
	if got := h.multicast(t, p, "hallig-2.local"); got != high.iface().Addresses[0].Addr() {
		t.Errorf("hallig-2.local is %s", got)
	}
	h.onlyManners(t)
}

// TestAdapters: interfaces come and go while the box runs. One is guest and one host at the same time, and what is pulled out is gone.
func TestAdapters(t *testing.T) {
	if !inside(t) {
		return
	}
	office, field := newHub(t), newHub(t)
	b := startBox(t, nil, 1, "")
	b.hub = office
	office.router("192.168.7.1/24", 1)
	b.plug = office.cable(b, "eth0", b.mac)
	second := dhcp.MAC{2, 0, 0, 0, 0, 9}
	usb := field.cable(b, "usb0", second)
	b.await("guest", inTime, is(lan.Guest))
	b.await("host on the other one", inTime, func(lan.Interface) bool { return b.of(second).Mode == lan.Host })
	p := field.phone(1)
	field.until(t, "the phone's address", inTime, func() bool { return p.Lease() != nil }, nil)
	own := b.of(second).Addresses[0].Addr()
	if got, _ := field.lookup(t, p, second, "box1.feuerwehr.example"); got != own.String() {
		t.Errorf("the box is %s for the phone", got)
	}
	office.asksARP(t, b.iface().Addresses[0].Addr(), b.mac)
	office.onlyManners(t)
	field.onlyManners(t, 53)
	if err := netlink.LinkDel(usb.link); err != nil {
		t.Fatal(err)
	}
	b.await("gone", inTime, func(lan.Interface) bool { return b.of(second).Name == "" })
	b.await("still guest", inTime, is(lan.Guest))
	field.cable(b, "usb0", second)
	b.await("host again", inTime, func(lan.Interface) bool { return b.of(second).Mode == lan.Host })
}

// TestNoise: tens of thousands of broken and hostile frames neither end the process nor make it grow, and it serves on.
func TestNoise(t *testing.T) {
	if !inside(t) {
		return
	}
	h := newHub(t)
	b := startBox(t, h, 1, "")
	b.await("host", inTime, is(lan.Host))
	p := h.phone(1)
	h.until(t, "the phone's address", inTime, func() bool { return p.Lease() != nil }, nil)
	n := &noise{rnd: rand.New(rand.NewPCG(5, 6)), to: b.mac, host: b.iface().Addresses[0].Addr(), left: 50_000}
	h.add(n)
	h.until(t, "the end of the noise", 2*time.Minute, func() bool { return n.left <= 0 }, nil)
	h.remove(n)
	late := h.phone(2)
	h.until(t, "a new phone's address", time.Minute, func() bool { return late.Lease() != nil && p.Lease() != nil }, nil)
	if got, _ := h.lookup(t, late, b.mac, "hallig.local"); got == "" {
		t.Error("DNS no longer answers")
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		if strings.HasPrefix(line, "RssAnon:") {
			var kb int
			fmt.Sscanf(line, "RssAnon: %d", &kb)
			t.Logf("memory of its own: %d kB", kb)
			if kb > 12<<10 {
				t.Errorf("grew to %d kB", kb)
			}
		}
	}
}

// noise sends frames that are wrong in one way or the other.
type noise struct {
	rnd  *rand.Rand
	to   dhcp.MAC
	host netip.Addr
	left int
}

func (n *noise) take(time.Time, frame) {}

func (n *noise) tick(time.Time) (out []frame) {
	for range 200 {
		if n.left--; n.left < 0 {
			return out
		}
		mac := dhcp.MAC{2, 66, byte(n.rnd.Uint32()), byte(n.rnd.Uint32()), byte(n.rnd.Uint32()), byte(n.rnd.Uint32())}
		var f frame
		switch n.rnd.IntN(4) {
		case 0:
			c := dhcp.NewClient(mac, n.rnd)
			pkt := c.Probe(time.Unix(0, 0), n.rnd.IntN(2) == 0)
			f = dhcpFrames(mac, []dhcp.Packet{pkt}, nil)[0]
		case 1:
			f = arpFrame(lan.ARP{To: dhcp.Everyone(), Op: 1 + uint16(n.rnd.IntN(2)), MAC: mac, IP: n.host, Target: n.host})
		case 2, 3:
			port := uint16(53)
			dst, to := n.host, n.to
			if n.rnd.IntN(2) == 0 {
				port, dst, to = 5353, mdns.Group().Addr(), dhcp.MAC{1, 0, 0x5e, 0, 0, 251}
			}
			q := new(dns.Msg)
			q.SetQuestion("hallig.local.", uint16(n.rnd.IntN(300)))
			q.Response = n.rnd.IntN(2) == 0
			if q.Response {
				q.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "hallig.local.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 120}, A: []byte{10, 6, 6, 6}}}
			}
			b, err := q.Pack()
			if err != nil {
				panic(err)
			}
			f = frame{to, mac, unix.ETH_P_IP, datagram{netip.AddrFrom4([4]byte{n.host.As4()[0], n.host.As4()[1], n.host.As4()[2], byte(2 + n.rnd.IntN(7))}), dst, 5353, port, b}.bytes()}
		}
		for range n.rnd.IntN(4) { // most frames are broken somewhere
			f.body[n.rnd.IntN(len(f.body))] = byte(n.rnd.Uint32())
		}
		f.body = f.body[:len(f.body)-n.rnd.IntN(2)*n.rnd.IntN(len(f.body))]
		out = append(out, f)
	}
	return out
}
