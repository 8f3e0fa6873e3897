// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hallig/appliance/lan"
	"hallig/appliance/lan/dhcp"
	"hallig/appliance/lan/zone"
)

// port holds the sockets of one interface, and waits for their readers when it is closed.
type port struct {
	index   int
	name    string
	dhcp    *packets
	arp     *packets
	mdns    *multicast
	dns     *nameServer // nil: the box is not host here
	stop    context.CancelFunc
	readers sync.WaitGroup
}

// open listens on an interface.
func (l *loop) open(link lan.Link) (*port, error) {
	ctx, stop := context.WithCancel(l.ctx)
	p := &port{index: link.Index, name: link.Name, stop: stop}
	var err error
	if p.dhcp, err = listenPackets(link.Index, unix.ETH_P_IP, onlyDHCP); err != nil {
		stop()
		return nil, err
	}
	if p.arp, err = listenPackets(link.Index, unix.ETH_P_ARP, nil); err != nil {
		stop()
		p.dhcp.close()
		return nil, err
	}
	if p.mdns, err = listenMDNS(link.Index, link.Name); err != nil {
		stop()
		p.dhcp.close()
		p.arp.close()
		return nil, err
	}
	p.readers.Go(func() {
		p.mdns.read(func(b []byte, src netip.AddrPort) {
			l.post(ctx, func(now time.Time) { l.machine.TakeMDNS(now, p.index, b, src) })
		})
	})
	p.readers.Go(func() {
		p.dhcp.read(func(b []byte, from dhcp.MAC) {
			if d, err := parseDatagram(b); err == nil {
				l.post(ctx, func(now time.Time) { l.machine.TakeDHCP(now, p.index, d.payload, from) })
			}
		})
	})
	p.readers.Go(func() {
		p.arp.read(func(b []byte, from dhcp.MAC) {
			if a, err := lan.ParseARP(b); err == nil && a.MAC == from {
				l.post(ctx, func(now time.Time) { l.machine.TakeARP(now, p.index, a) })
			}
		})
	})
	return p, nil
}

// post brings something to the loop. While the loop is busy the reader waits, and the kernel drops what is too much.
func (l *loop) post(ctx context.Context, f func(time.Time)) {
	select {
	case l.events <- f:
	case <-ctx.Done():
	}
}

func (p *port) close() {
	p.stop()
	p.dhcp.close()
	p.arp.close()
	p.mdns.close()
	if p.dns != nil {
		p.dns.close()
	}
	p.readers.Wait()
}

// serveNames answers DNS as wanted; an address that is not there yet is tried again with the next change.
func (l *loop) serveNames(w lan.Want) error {
	p := l.ports[w.Link.Index]
	if p == nil {
		return nil
	}
	if p.dns != nil && p.dns.self != w.DNS {
		p.dns.close()
		p.dns = nil
	}
	if !w.DNS.IsValid() {
		return nil
	}
	z := zone.Zone{Names: l.machine.Names(), Self: w.DNS}
	if p.dns != nil {
		p.dns.zone.Store(&z)
		return nil
	}
	var err error
	p.dns, err = serveNames(l.ctx, p.name, z)
	return err
}

func (p *port) send(f lan.Frame) error {
	switch {
	case f.DHCP != nil:
		return p.dhcp.write(datagramOf(f.DHCP).bytes(), f.DHCP.To)
	case f.ARP != nil:
		return p.arp.write(f.ARP.Bytes(), f.ARP.To)
	case f.MDNS != nil:
		return p.mdns.write(f.MDNS)
	}
	return nil
}

// packets is a packet socket of one protocol on one interface, without Ethernet headers. It hears only what comes in, not what we send.
type packets struct {
	file  *os.File
	index int
	proto uint16
}

func network(n uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], n)
	return binary.NativeEndian.Uint16(b[:])
}

func listenPackets(index int, proto uint16, filter []unix.SockFilter) (*packets, error) {
	// The socket hears nothing before its filter is set and it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket (needs CAP_NET_RAW): %w", err)
	}
	if filter != nil {
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: unsafe.SliceData(filter)}); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("set filter of packet socket: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(proto), Ifindex: index}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind packet socket: %w", err)
	}
	return &packets{os.NewFile(uintptr(fd), "packets"), index, proto}, nil
}

func (s *packets) close() { s.file.Close() }

// read hands on what comes in until the socket is closed. The bytes are the callee's.
func (s *packets) read(take func(b []byte, from dhcp.MAC)) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 2048)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		if err := raw.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		}); err != nil {
			return // closed
		}
		if rerr != nil { // the interface is down: the socket lives on and hears again when it is up
			continue
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Halen != 6 || ll.Pkttype == unix.PACKET_OUTGOING || ll.Pkttype == unix.PACKET_OTHERHOST {
			continue
		}
		take(append([]byte(nil), buf[:n]...), dhcp.MAC(ll.Addr[:6]))
	}
}

func (s *packets) write(b []byte, to dhcp.MAC) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	sa := &unix.SockaddrLinklayer{Protocol: network(s.proto), Ifindex: s.index, Halen: 6}
	copy(sa.Addr[:], to[:])
	var serr error
	// What the interface cannot take now is dropped, as on any wire.
	if err := raw.Control(func(fd uintptr) { serr = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, sa) }); err != nil {
		return err
	}
	return serr
}

// onlyDHCP lets whole UDP packets to the ports of DHCP through.
var onlyDHCP = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 9},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: protoUDP, Jf: 7},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 6},
	{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: 0x3fff, Jt: 5},
	{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH, K: 0},
	{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_IND, K: 2},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: dhcp.ServerPort, Jt: 1},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: dhcp.ClientPort, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

// sinks are ordinary sockets on the ports of DHCP that take nothing. Without them the kernel would answer each server's and client's packet with
// an ICMP error, as it does not know of packet sockets.
type sinks []int

var nothing = []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}

func openSinks() (sinks, error) {
	var s sinks
	for _, portNumber := range []int{dhcp.ServerPort, dhcp.ClientPort} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			s = append(s, fd)
			err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: unsafe.SliceData(nothing)})
		}
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: portNumber})
		}
		if err != nil {
			s.close()
			return nil, fmt.Errorf("take port %d (is another DHCP program running on this machine?): %w", portNumber, err)
		}
	}
	return s, nil
}

func (s sinks) close() {
	for _, fd := range s {
		unix.Close(fd)
	}
}
