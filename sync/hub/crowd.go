// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// This file bounds who is at the world's port at once, so that a flood from one address takes no place of the central server's.

const (
	crowdAll   = 4096 // connections at once; half of what the process may open, when that is less
	crowdParts = 4    // one address has at most so small a part of them

	// writePatience is how long the far end may take for one piece of an answer, bodyPatience how long the answer as a whole.
	writePatience = time.Minute
	// unreadPatience is how long a body may take that nobody waits for; who wants it has its own deadline (federation.Verifier.Body).
	unreadPatience = 20 * time.Second
)

// crowd is a listener that has places. When all are taken, or all of one address, a newcomer is given the place of the connection that has been without a request for the
// longest: of its own address, or of the one that has the most. Connections that are at work stay; when there are no others the newcomer is turned away.
type crowd struct {
	net.Listener
	all, each int
	full      func(from netip.Prefix) // is told of everyone who was turned away

	mu   sync.Mutex
	n    int
	here map[netip.Prefix][]*guest
}

func newCrowd(l net.Listener, all int, full func(netip.Prefix)) *crowd {
	return &crowd{Listener: l, all: all, each: max(all/crowdParts, 1), full: full, here: map[netip.Prefix][]*guest{}}
}

// places is how many connections the process can bear.
func places() int {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return crowdAll
	}
	return int(min(crowdAll, files.Cur/2))
}

// guest is one connection.
type guest struct {
	net.Conn
	crowd *crowd
	from  netip.Prefix

	// under crowd.mu
	gone  bool
	busy  int       // requests at work
	since time.Time // without one
}

// Accept is net.Listener's.
func (c *crowd) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := &guest{Conn: conn, crowd: c, from: block(conn.RemoteAddr()), since: time.Now()}
		leaver, ok := c.admit(g)
		if leaver != nil {
			leaver.Conn.Close()
		}
		if ok {
			return g, nil
		}
		conn.Close()
		c.full(g.from)
	}
}

// admit gives a newcomer a place, perhaps that of another one, which then has to be closed.
func (c *crowd) admit(g *guest) (leaver *guest, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if own := c.here[g.from]; len(own) >= c.each {
		leaver = idlest(own)
	} else if c.n >= c.all {
		var most []*guest
		for _, there := range c.here {
			if len(there) > len(own) && len(there) > len(most) && idlest(there) != nil {
				most = there
			}
		}
		if leaver = idlest(most); leaver == nil {
			leaver = idlest(own)
		}
	} else {
		c.put(g)
		return nil, true
	}
	if leaver == nil {
		return nil, false
	}
	c.drop(leaver)
	c.put(g)
	return leaver, true
}

// idlest is the one that has been without a request for the longest; nil: all are at work.
func idlest(guests []*guest) (out *guest) {
	for _, g := range guests {
		if g.busy == 0 && (out == nil || g.since.Before(out.since)) {
			out = g
		}
	}
	return out
}

func (c *crowd) put(g *guest) {
	c.n++
	c.here[g.from] = append(c.here[g.from], g)
}

func (c *crowd) drop(g *guest) {
	if g.gone {
		return
	}
	g.gone = true
	c.n--
	if c.here[g.from] = slices.DeleteFunc(c.here[g.from], func(o *guest) bool { return o == g }); len(c.here[g.from]) == 0 {
		delete(c.here, g.from)
	}
}

// Close gives the place back.
func (g *guest) Close() error {
	g.crowd.mu.Lock()
	g.crowd.drop(g)
	g.crowd.mu.Unlock()
	return g.Conn.Close()
}

// Write gives up on a far end that does not read.
func (g *guest) Write(p []byte) (int, error) {
	if err := g.SetWriteDeadline(time.Now().Add(writePatience)); err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

// work marks a connection as being at work until done.
func (g *guest) work() (done func()) {
	g.crowd.mu.Lock()
	g.busy++
	g.crowd.mu.Unlock()
	return func() {
		g.crowd.mu.Lock()
		g.busy--
		g.since = time.Now()
		g.crowd.mu.Unlock()
	}
}

// guestKey finds the guest of a connection in its context.
type guestKey struct{}

func withGuest(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		if g, ok := t.NetConn().(*guest); ok {
			return context.WithValue(ctx, guestKey{}, g)
		}
	}
	return ctx
}

// atWork serves a request of a guest. A body that the handler leaves unread does not hold the connection for ever.
func atWork(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g, ok := r.Context().Value(guestKey{}).(*guest); ok {
			defer g.work()()
		}
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(unreadPatience)) // not every way has deadlines
		}
		next.ServeHTTP(w, r)
	})
}

// block is what counts as one address: in IPv6 the /64 that one customer has.
func block(a net.Addr) netip.Prefix {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	addr, bits := at.Addr().Unmap().WithZone(""), 64
	if addr.Is4() {
		bits = 32
	}
	p, _ := addr.Prefix(bits) // the bits fit
	return p
}
