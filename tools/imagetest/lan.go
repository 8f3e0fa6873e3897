// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"hallig/tools/imagetest/vm"
)

const tap = "hallig0"

// lan plays in a network namespace of its own, with a phone (us) and a box on one wire. The program starts itself anew for that.
func lan(r *run) error {
	if r.inside == r.name {
		return r.onTheWire()
	}
	args := []string{"-inside", r.name, "-only", r.name, "-images", r.images, "-work", r.path("inside"), "-slow", strconv.Itoa(r.slow)}
	if r.keep {
		args = append(args, "-keep")
	}
	cmd := exec.CommandContext(r, "/proc/self/exe", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends its machine
	cmd.WaitDelay = 20 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	cmd.Stderr = os.Stderr
	var out strings.Builder
	cmd.Stdout = &out
	err := cmd.Run()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for _, l := range lines[:len(lines)-1] {
		if figure, ok := strings.CutPrefix(l, "figure: "); ok {
			r.note("%s", figure)
			continue
		}
		fmt.Println(l)
	}
	if err != nil {
		return fmt.Errorf("in a network of its own: %w (%s)", err, lines[len(lines)-1])
	}
	r.add(&r.boots, 1)
	return nil
}

// onTheWire is what happens inside.
func (r *run) onTheWire() error {
	for _, words := range []string{"link set lo up", "tuntap add " + tap + " mode tap", "link set " + tap + " up"} {
		if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s (this scenario needs root or user namespaces, and /dev/net/tun)", words, err, strings.TrimSpace(string(out)))
		}
	}
	disk, err := r.newDisk(vm.BIOS, "host")
	if err != nil {
		return err
	}
	b, err := r.switchOn(vm.Config{Dir: r.path("host"), Disk: disk, Tap: tap})
	if err != nil {
		return err
	}
	lease, err := r.address(b)
	if err != nil {
		return err
	}
	server, ok := netip.AddrFromSlice(lease.ACK.ServerIdentifier().To4())
	if !ok {
		return fmt.Errorf("the lease names no server: %v", lease.ACK)
	}
	took := time.Since(b.Started)
	r.say("nobody else serves addresses, so the box does: we are %v, it is %v, %.1f s after power on", lease.ACK.YourIPAddr, server, took.Seconds())
	r.note("host on a wire without DHCP server: first address given %.1f s after power on", took.Seconds())
	if err := r.page(b, server); err != nil {
		return err
	}
	if err := r.names(server, lease); err != nil {
		return err
	}
	return r.scan(server)
}

// lease is what a DHCP server has given us.
type lease struct{ ACK *dhcpv4.DHCPv4 }

// address asks for one as a phone does, until somebody answers, and takes it.
func (r *run) address(b *box) (*lease, error) {
	ctx, stop := r.within(2 * time.Minute)
	defer stop()
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) {
			err = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1), unix.BindToDevice(int(fd), tap))
		}), err)
	}}
	conn, err := lc.ListenPacket(ctx, "udp4", "0.0.0.0:68")
	if err != nil {
		return nil, fmt.Errorf("ask for an address: %w", err)
	}
	defer conn.Close()
	link, err := net.InterfaceByName(tap)
	if err != nil {
		return nil, fmt.Errorf("ask for an address: %w", err)
	}
	var last error
	for ctx.Err() == nil {
		select {
		case <-b.Gone():
			return nil, errors.New("the machine has ended")
		default:
		}
		ack, err := request(conn, link.HardwareAddr)
		if err != nil {
			last = err
			continue
		}
		ones, _ := ack.SubnetMask().Size()
		addr := fmt.Sprintf("%s/%d", ack.YourIPAddr, ones)
		if out, err := exec.Command("ip", "addr", "add", addr, "dev", tap).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip addr add %s: %w: %s", addr, err, out)
		}
		return &lease{ack}, nil
	}
	return nil, fmt.Errorf("the box gives no address: %w; console ends: %s", last, b.Console.Tail(5))
}

// request is one round of discover, offer, request, acknowledgement. Answers come as broadcasts, as we have no address yet.
func request(conn net.PacketConn, mac net.HardwareAddr) (*dhcpv4.DHCPv4, error) {
	discover, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true), dhcpv4.WithOption(dhcpv4.OptHostName("handy")))
	if err != nil {
		return nil, err
	}
	offer, err := say(conn, discover, dhcpv4.MessageTypeOffer)
	if err != nil {
		return nil, err
	}
	want, err := dhcpv4.NewRequestFromOffer(offer, dhcpv4.WithBroadcast(true))
	if err != nil {
		return nil, err
	}
	return say(conn, want, dhcpv4.MessageTypeAck)
}

// say sends a message and waits two seconds for the answer to it.
func say(conn net.PacketConn, m *dhcpv4.DHCPv4, want dhcpv4.MessageType) (*dhcpv4.DHCPv4, error) {
	if _, err := conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
		return nil, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return nil, err
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, fmt.Errorf("no %v: %w", want, err)
		}
		a, err := dhcpv4.FromBytes(buf[:n])
		if err == nil && a.TransactionID == m.TransactionID && a.MessageType() == want {
			return a, nil
		}
	}
}

// page: what a phone asks to find out whether it is online leads to the box's page, and the API answers.
func (r *run) page(b *box, server netip.Addr) error {
	ctx, stop := r.within(90 * time.Second)
	defer stop()
	client := &http.Client{Timeout: 5 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(path, host string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+server.String()+path, nil)
		if err != nil {
			return nil, err
		}
		if host != "" {
			req.Host = host
		}
		resp, err := client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		return resp, err
	}
	for {
		resp, err := ask(versions, "")
		if err == nil && resp.StatusCode == http.StatusOK {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the box does not answer clients at %v: %w", server, errors.Join(err, ctx.Err()))
		case <-time.After(500 * time.Millisecond):
		}
	}
	r.note("host on a wire without DHCP server: clients are answered %.1f s after power on", time.Since(b.Started).Seconds())
	// the words of Android, Apple and Windows for "am I online?"
	for host, path := range map[string]string{"connectivitycheck.gstatic.com": "/generate_204", "captive.apple.com": "/hotspot-detect.html", "www.msftconnecttest.com": "/connecttest.txt"} {
		resp, err := ask(path, host)
		if err != nil {
			return fmt.Errorf("portal for %s: %w", host, err)
		}
		to := resp.Header.Get("Location")
		if resp.StatusCode == http.StatusNoContent {
			r.check(false, "a phone that asks %s%s is told that it is online", host, path)
		}
		r.say("%s%s: %s %s", host, path, resp.Status, to)
	}
	return nil
}

// names: hallig.local by mDNS, and by the DNS server that the lease names.
func (r *run) names(server netip.Addr, lease *lease) error {
	ctx, stop := r.within(30 * time.Second)
	defer stop()
	r.check(slices.ContainsFunc(lease.ACK.DNS(), func(ip net.IP) bool { return ip.Equal(server.AsSlice()) }), "the lease names %v for DNS, not the box", lease.ACK.DNS())
	dns := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", netip.AddrPortFrom(server, 53).String())
	}}
	mdns := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP(lease.ACK.YourIPAddr)})
		return &shout{c}, err
	}}
	if out, err := exec.Command("ip", "route", "add", "224.0.0.0/4", "dev", tap).CombinedOutput(); err != nil {
		return fmt.Errorf("ip route: %w: %s", err, out)
	}
	for what, res := range map[string]*net.Resolver{"DNS": dns, "mDNS": mdns} {
		ips, err := res.LookupNetIP(ctx, "ip4", "hallig.local.")
		if err != nil {
			return fmt.Errorf("%s for hallig.local: %w", what, err)
		}
		r.check(slices.Contains(ips, server), "%s: hallig.local is %v, want %v", what, ips, server)
	}
	r.say("hallig.local is found by DNS and mDNS")
	return nil
}

// shout is a connection to everybody: it asks by multicast and hears whoever answers.
type shout struct{ *net.UDPConn }

func (s *shout) Write(b []byte) (int, error) {
	return s.WriteTo(b, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
}

func (s *shout) Read(b []byte) (int, error) {
	n, _, err := s.ReadFrom(b)
	return n, err
}

// scan tries every TCP port of the box.
func (r *run) scan(server netip.Addr) error {
	began := time.Now()
	var mu sync.Mutex
	var open []int
	silent := 0
	ports := make(chan int)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for p := range ports {
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(server.String(), strconv.Itoa(p)), 4*time.Second)
				mu.Lock()
				switch ne, ok := errors.AsType[net.Error](err); {
				case err == nil:
					conn.Close()
					open = append(open, p)
				case ok && ne.Timeout():
					silent++
				}
				mu.Unlock()
			}
		})
	}
	for p := 1; p < 1<<16 && r.Err() == nil; p++ {
		ports <- p
	}
	close(ports)
	wg.Wait()
	if err := context.Cause(r); err != nil {
		return err
	}
	slices.Sort(open)
	for _, p := range open {
		r.check(slices.Contains(documented, p), "TCP port %d is open and not in the manual", p)
	}
	r.check(slices.Contains(open, portHTTP) && slices.Contains(open, portTLS), "the scan misses the box's own ports: %v", open)
	r.check(silent < 100, "%d ports did not answer at all: the scan may have missed something", silent)
	r.say("all 65535 TCP ports tried in %.0f s; open: %v", time.Since(began).Seconds(), open)
	r.note("open TCP ports of a box alone on a wire: %v", open)
	return nil
}
