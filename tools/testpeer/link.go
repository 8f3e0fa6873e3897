// SPDX-License-Identifier: EUPL-1.2

package testpeer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// Link is a TCP way to one address that can be cut. While it is cut, connections die and new ones are refused, as
// when a cable is pulled out of the machine before it.
type Link struct {
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
	count int64 // bytes, both directions
}

// NewLink opens a way to target, at an address of its own on loopback.
func NewLink(target string) (*Link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open link: %w", err)
	}
	k := &Link{target: target, l: l, conns: map[net.Conn]bool{}}
	k.wg.Go(k.serve) // Close waits for it
	return k, nil
}

// Addr is where the link is entered.
func (k *Link) Addr() string { return k.l.Addr().String() }

// Lead changes where the link leads; for servers whose name must be known before they listen.
func (k *Link) Lead(target string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.target = target
}

// Cut breaks all connections and refuses new ones until Join.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = true
	for c := range k.conns {
		c.Close()
	}
}

// Join lets connections through again.
func (k *Link) Join() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = false
}

// Bytes is how much has gone through, both directions together.
func (k *Link) Bytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count
}

// Close ends the link.
func (k *Link) Close() {
	k.l.Close()
	k.Cut()
	k.wg.Wait()
}

func (k *Link) serve() {
	for {
		c, err := k.l.Accept()
		if err != nil {
			return // closed
		}
		k.wg.Go(func() { k.carry(c) })
	}
}

// keep notes a connection; false when the link is cut.
func (k *Link) keep(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut {
		return false
	}
	k.conns[c] = true
	return true
}

func (k *Link) drop(c net.Conn) {
	c.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}

func (k *Link) carry(in net.Conn) {
	defer k.drop(in)
	if !k.keep(in) {
		return
	}
	k.mu.Lock()
	target := k.target
	k.mu.Unlock()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer k.drop(out)
	if !k.keep(out) {
		return
	}
	var both sync.WaitGroup
	pass := func(to, from net.Conn) {
		defer to.(*net.TCPConn).CloseWrite()
		_, err := io.Copy(counter{to, k}, from)
		if err != nil && !errors.Is(err, net.ErrClosed) {
			to.Close()
		}
	}
	both.Go(func() { pass(out, in) })
	both.Go(func() { pass(in, out) })
	both.Wait()
}

// counter counts what it writes.
type counter struct {
	w io.Writer
	k *Link
}

func (c counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.k.mu.Lock()
	c.k.count += int64(n)
	c.k.mu.Unlock()
	return n, err
}
