// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/sys/unix"
)

// patientDialer goes on trying an address until the context ends, each time anew: the kernel's own repetitions come
// ever more seldom, and a box whose network is back should be met within about a second. When a hole is punched it dials from the port of the hole, and takes who comes in there from
// the far end's address as well: the two ends then have one connection, whoever was first.
type patientDialer struct {
	door *door // nil: no holes are punched
}

// DialContext is net.Dialer's.
func (p patientDialer) DialContext(ctx context.Context, kind, address string) (net.Conn, error) {
	from := net.Dialer{}
	var came <-chan net.Conn
	if p.door != nil {
		from.Control = shared // so that a hole can be punched from this connection's port
		if punch, _, _ := network.GetSimultaneousConnect(ctx); punch {
			port := p.door.port()
			c, leave, err := p.door.wait(port, address)
			if err != nil {
				return nil, err
			}
			defer leave()
			came, from.LocalAddr = c, &net.TCPAddr{Port: port}
		}
	}
	for wait := firstAnswer; ; wait = min(2*wait, connectTimeout) {
		began := time.Now()
		c, err := dialOrTake(ctx, from, wait, kind, address, came)
		if err == nil {
			return c, nil
		}
		pause := time.NewTimer(max(0, retryEvery-time.Since(began)))
		select {
		case c := <-came:
			pause.Stop()
			return c, nil
		case <-ctx.Done():
			pause.Stop()
			return nil, fmt.Errorf("dial %s: %w", address, err)
		case <-pause.C:
		}
	}
}

// dialOrTake dials once, and stops when the far end comes in.
func dialOrTake(ctx context.Context, from net.Dialer, wait time.Duration, kind, address string, came <-chan net.Conn) (net.Conn, error) {
	from.Timeout = wait
	if came == nil {
		return from.DialContext(ctx, kind, address)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type result struct {
		c   net.Conn
		err error
	}
	dialled := make(chan result, 1)
	go func() { // ends with the dial, which ends with ctx
		c, err := from.DialContext(ctx, kind, address)
		dialled <- result{c, err}
	}()
	select {
	case r := <-dialled:
		return r.c, r.err
	case c := <-came:
		stop()
		if r := <-dialled; r.err == nil {
			_ = r.c.Close() // the far end has that one from the same port, and sees it go
		}
		return c, nil
	}
}

// shared lets several connections have one local port.
func shared(_, _ string, c syscall.RawConn) error {
	var err error
	return errors.Join(c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }), err)
}

// door listens at the port of a hole while somebody waits for a far end to come through it, and lets in nobody but those who are waited for.
type door struct {
	port func() int // of the hole; 0: there is none

	mu      sync.Mutex
	open    net.Listener // nil: nobody waits
	at      int
	waiting map[netip.AddrPort]chan net.Conn
}

// wait gives what comes from an address until leave is called.
func (d *door) wait(port int, address string) (came <-chan net.Conn, leave func(), err error) {
	from, err := netip.ParseAddrPort(address)
	if err != nil || port == 0 {
		return nil, nil, errors.New("punch a hole: the hub is gone, or the address is none")
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open != nil && d.at != port { // the connection to the hub is another one; who still waits at the old port waits in vain
		_ = d.open.Close()
		d.open = nil
	}
	if d.open == nil {
		listen := net.ListenConfig{Control: shared}
		if d.open, err = listen.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", port)); err != nil {
			return nil, nil, fmt.Errorf("punch a hole: %w", err)
		}
		d.at = port
		go d.serve(d.open) // ends with the listener
	}
	if d.waiting == nil {
		d.waiting = map[netip.AddrPort]chan net.Conn{}
	}
	c := make(chan net.Conn, 1)
	d.waiting[from] = c
	return c, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.waiting[from] == c {
			delete(d.waiting, from)
		}
		select {
		case late := <-c:
			_ = late.Close()
		default:
		}
		if len(d.waiting) == 0 && d.open != nil {
			_ = d.open.Close()
			d.open = nil
		}
	}, nil
}

func (d *door) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !d.take(c) {
			_ = c.Close() // nobody whom we know
		}
	}
}

// take hands a connection to who waits for it: for its very address, or for another port of it, as some routers take a new one each time.
func (d *door) take(c net.Conn) bool {
	at, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return false
	}
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	d.mu.Lock()
	defer d.mu.Unlock()
	to := d.waiting[at]
	for other, w := range d.waiting {
		if to == nil && other.Addr() == at.Addr() {
			to = w
		}
	}
	select {
	case to <- c: // never ready when to is nil
		return true
	default:
		return false
	}
}
