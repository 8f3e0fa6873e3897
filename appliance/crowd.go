// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
)

// This file bounds the connections of clients. Each takes memory before anybody has signed in, some 40 kB with TLS, and a box that has none left carries no
// messages. Up to a number for the machine everybody comes in. Beyond it, only who has less than an equal share of it: one machine that opens thousands keeps
// nobody else out.

const (
	crowdLeast = 1024
	crowdMost  = 8192
	perConn    = 256 << 10 // bytes of the machine's memory for each connection: no more than a sixth of it is ever taken
)

// crowd counts who is connected. It is safe for concurrent use.
type crowd struct {
	most int // beyond it shares are counted, beyond a quarter more nobody comes in

	mu    sync.Mutex
	total int
	of    map[netip.Prefix]int
}

func newCrowd() *crowd {
	m := readMemory(os.DirFS("/"))
	if m == nil {
		return &crowd{most: crowdLeast}
	}
	return &crowd{most: int(min(max(m.Total/perConn, crowdLeast), crowdMost))}
}

// visitor is whose share a connection is: an IPv4 address, or a network of IPv6, in which a machine has as many addresses as it likes. The box itself, and a
// proxy on it, are nobody.
func visitor(a net.Addr) (who netip.Prefix, counts bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return who, false
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() || ip.IsLoopback() {
		return who, false
	}
	bits := 32
	if ip.Is6() {
		if bits = 64; ip.IsLinkLocalUnicast() { // all of them are in one network
			bits = 128
		}
	}
	return netip.PrefixFrom(ip, bits).Masked(), true
}

func (c *crowd) enter(who netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	mine := c.of[who]
	others := len(c.of)
	if mine == 0 {
		others++
	}
	if c.total >= c.most && (c.total >= c.most+c.most/4 || mine >= c.most/others) {
		return false
	}
	if c.of == nil {
		c.of = map[netip.Prefix]int{}
	}
	c.of[who]++
	c.total++
	return true
}

func (c *crowd) leave(who netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total--
	if c.of[who]--; c.of[who] == 0 {
		delete(c.of, who)
	}
}

// listen opens a port whose connections are counted.
func (c *crowd) listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	t, ok := l.(*net.TCPListener)
	if !ok {
		l.Close()
		return nil, fmt.Errorf("listen on %s: no TCP port", addr)
	}
	return counted{t, c}, nil
}

type counted struct {
	*net.TCPListener
	crowd *crowd
}

// Accept gives the next connection that may come in; the others are closed.
func (l counted) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return nil, err
		}
		who, counts := visitor(conn.RemoteAddr())
		if !counts {
			return conn, nil
		}
		if l.crowd.enter(who) {
			return &guest{TCPConn: conn, left: sync.OnceFunc(func() { l.crowd.leave(who) })}, nil
		}
		conn.SetLinger(0)
		conn.Close()
	}
}

// guest is a connection that is counted until it is closed.
type guest struct {
	*net.TCPConn
	left func()
}

func (g *guest) Close() error {
	g.left()
	return g.TCPConn.Close()
}
