// SPDX-License-Identifier: EUPL-1.2

package testpeer

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
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
	count [2]int64 // bytes towards the target, and back
	rate  [2]*Rate // nil: as fast as it goes
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
	there, back := k.Both()
	return there + back
}

// Both is how much has gone towards the target, and back.
func (k *Link) Both() (there, back int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.count[0], k.count[1]
}

// Pace makes the link as narrow as two rates say, one towards the target and one back. Links that share a rate share a line.
func (k *Link) Pace(there, back *Rate) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rate = [2]*Rate{there, back}
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
	pass := func(to, from net.Conn, way int) {
		defer to.(*net.TCPConn).CloseWrite()
		_, err := io.Copy(counter{to, k, way}, from)
		if err != nil && !errors.Is(err, net.ErrClosed) {
			to.Close()
		}
	}
	both.Go(func() { pass(out, in, 0) })
	both.Go(func() { pass(in, out, 1) })
	both.Wait()
}

// counter counts what it writes, and writes as fast as the line is.
type counter struct {
	w   io.Writer
	k   *Link
	way int
}

// piece is what connections that share a line take turns with.
const piece = 4 << 10

func (c counter) Write(b []byte) (n int, err error) {
	for len(b) > 0 && err == nil {
		c.k.mu.Lock()
		rate := c.k.rate[c.way]
		c.k.mu.Unlock()
		part := b
		if rate != nil {
			part = b[:min(len(b), piece)]
			rate.wait(len(part))
		}
		var m int
		m, err = c.w.Write(part)
		n, b = n+m, b[m:]
		c.k.mu.Lock()
		c.k.count[c.way] += int64(m)
		c.k.mu.Unlock()
	}
	return n, err
}

// Rate is one direction of a line. The zero Rate is not usable; make one with NewRate.
type Rate struct {
	perByte time.Duration

	mu   sync.Mutex
	free time.Time // when the line is free again
}

// NewRate makes a line of so many bits per second.
func NewRate(bitsPerSecond int) *Rate {
	return &Rate{perByte: 8 * time.Second / time.Duration(bitsPerSecond)}
}

// wait takes n bytes' time of the line and returns when they have gone.
func (r *Rate) wait(n int) {
	r.mu.Lock()
	now := time.Now()
	if r.free.Before(now) {
		r.free = now
	}
	r.free = r.free.Add(time.Duration(n) * r.perByte)
	left := r.free.Sub(now)
	r.mu.Unlock()
	time.Sleep(left)
}
