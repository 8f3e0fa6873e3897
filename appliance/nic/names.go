// SPDX-License-Identifier: EUPL-1.2

package nic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"hallig/appliance/lan/mdns"
	"hallig/appliance/lan/zone"
)

// multicast is the socket of mDNS on one interface. It is bound to the group, so it gets no unicast packet of the other programs that share the
// port (libp2p's discovery), and it does not hear itself.
type multicast struct{ file *os.File }

func listenMDNS(index int, name string) (*multicast, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open mDNS socket: %w", err)
	}
	group := mdns.Group()
	for _, set := range []func() error{
		func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) },
		func() error { return unix.BindToDevice(fd, name) },
		func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 255) },
		func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0) },
		func() error { return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0) },
		func() error {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
		},
		func() error {
			return unix.Bind(fd, &unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()})
		},
		func() error {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group.Addr().As4(), Ifindex: int32(index)})
		},
	} {
		if err := set(); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("open mDNS socket: %w", err)
		}
	}
	return &multicast{os.NewFile(uintptr(fd), "mdns")}, nil
}

func (s *multicast) close() { s.file.Close() }

// read hands on what comes in until the socket is closed. The bytes are the callee's.
func (s *multicast) read(take func(b []byte, src netip.AddrPort)) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 9001)
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		if raw.Read(func(fd uintptr) bool {
			n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		}) != nil {
			return
		}
		if sa, ok := from.(*unix.SockaddrInet4); ok && rerr == nil {
			take(append([]byte(nil), buf[:n]...), netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)))
		}
	}
}

func (s *multicast) write(p *mdns.Packet) error {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	sa := &unix.SockaddrInet4{Port: int(p.Dst.Port()), Addr: p.Dst.Addr().As4()}
	if err := raw.Control(func(fd uintptr) { serr = unix.Sendto(int(fd), p.Payload, unix.MSG_DONTWAIT, sa) }); err != nil {
		return err
	}
	return serr
}

// Bounds of the DNS server. Its answers are short, so few ask by TCP.
const (
	dnsPort     = 53
	tcpMost     = 16
	tcpLongest  = 1500
	tcpPatience = 5 * time.Second
)

// nameServer answers DNS on one interface where the box is host, and there only: its sockets are bound to the device.
type nameServer struct {
	zone    atomic.Pointer[zone.Zone]
	self    netip.Addr
	udp     net.PacketConn
	tcp     net.Listener
	slots   chan struct{}
	stop    context.CancelFunc
	workers sync.WaitGroup // all that serve; close waits for them
}

func serveNames(ctx context.Context, name string, z zone.Zone) (*nameServer, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &nameServer{self: z.Self, slots: make(chan struct{}, tcpMost), stop: stop}
	s.zone.Store(&z)
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); cerr != nil {
			return cerr
		}
		return err
	}}
	at := netip.AddrPortFrom(z.Self, dnsPort).String()
	var err error
	if s.udp, err = lc.ListenPacket(ctx, "udp4", at); err != nil {
		stop()
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	if s.tcp, err = lc.Listen(ctx, "tcp4", at); err != nil {
		stop()
		s.udp.Close()
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	s.workers.Go(s.serveUDP)
	s.workers.Go(func() { s.serveTCP(ctx) })
	return s, nil
}

func (s *nameServer) close() {
	s.stop()
	s.udp.Close()
	s.tcp.Close()
	s.workers.Wait()
}

// answer answers the bytes of a message; nil: it was none.
func (s *nameServer) answer(b []byte) []byte {
	var q dns.Msg
	if err := q.Unpack(b); err != nil || q.Response {
		return nil
	}
	out, err := s.zone.Load().Answer(&q).Pack()
	if err != nil {
		return nil
	}
	return out
}

// serveUDP answers one after another; what is asked faster than that is dropped by the kernel.
func (s *nameServer) serveUDP() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		if out := s.answer(buf[:n]); out != nil {
			s.udp.WriteTo(out, from) // an answer that gets lost is asked for again
		}
	}
}

func (s *nameServer) serveTCP(ctx context.Context) {
	for {
		conn, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select { // out of descriptors, it may be
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			continue
		}
		select {
		case s.slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		s.workers.Go(func() {
			defer func() { <-s.slots }()
			s.converse(ctx, conn)
		})
	}
}

// converse answers the questions of one connection.
func (s *nameServer) converse(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	quit := context.AfterFunc(ctx, func() { conn.Close() })
	defer quit()
	for {
		conn.SetDeadline(time.Now().Add(tcpPatience))
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(size[:]))
		if n > tcpLongest {
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		out := s.answer(b)
		if out == nil {
			return
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(out))), out...)); err != nil {
			return
		}
	}
}
