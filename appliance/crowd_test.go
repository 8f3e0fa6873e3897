// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"
)

// TestCrowd: one machine takes all there is, and the phones still come in; however many come, there is an end.
func TestCrowd(t *testing.T) {
	c := &crowd{most: 100}
	from := func(ip string) netip.Prefix {
		who, ok := visitor(&net.TCPAddr{IP: net.ParseIP(ip)})
		if !ok {
			t.Fatalf("%s is not counted", ip)
		}
		return who
	}
	fill := func(who netip.Prefix, tries int) (n int) {
		for range tries {
			if c.enter(who) {
				n++
			}
		}
		return n
	}
	if n := fill(from("192.168.7.66"), 10_000); n != 100 {
		t.Errorf("alone on the network: %d connections of 100", n)
	}
	for _, phone := range []string{"192.168.7.20", "192.168.7.21", "fd00::1"} {
		if n := fill(from(phone), 6); n != 6 {
			t.Errorf("%s gets %d of 6 connections", phone, n)
		}
	}
	if n := fill(from("192.168.7.66"), 100); n != 0 {
		t.Errorf("%d more beyond its share", n)
	}
	for i := range 250 {
		fill(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 32), 10)
	}
	if c.total > 125 {
		t.Errorf("%d connections of at most 125", c.total)
	}
	// Whoever leaves makes room.
	for range 100 {
		c.leave(from("192.168.7.66"))
	}
	if !c.enter(from("192.168.7.99")) {
		t.Error("there is room, and nobody comes in")
	}
	if from("fd00::1") != from("fd00::2") || from("fd00::1") == from("fd00:0:0:1::1") || from("fe80::1") == from("fe80::2") {
		t.Error("the shares of IPv6 are wrong")
	}
	if from("::ffff:192.168.7.66") != from("192.168.7.66") {
		t.Error("two ways to write an address are two visitors")
	}
	for _, own := range []string{"127.0.0.1", "::1"} {
		if _, ok := visitor(&net.TCPAddr{IP: net.ParseIP(own)}); ok {
			t.Errorf("the box counts itself, %s", own)
		}
	}
}

// TestCrowdCountsConnections: at a real port, what is closed is counted no more, once.
func TestCrowdCountsConnections(t *testing.T) {
	own := lanAddress(t)
	c := &crowd{most: 1}
	l, err := c.listen(net.JoinHostPort(own, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	first := dial()
	defer first.Close()
	inside := <-accepted
	if second, err := net.Dial("tcp", l.Addr().String()); err == nil { // the kernel takes it, the box lets it go, at once or a moment later
		defer second.Close()
		second.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := second.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("it was let in, or waits outside: %v", err)
		}
	}
	inside.Close()
	inside.Close()
	third := dial()
	defer third.Close()
	conn := <-accepted
	conn.Close()
	if c.total != 0 || len(c.of) != 0 {
		t.Errorf("%d connections are counted when all are closed", c.total)
	}
}

// lanAddress is an address of this machine that is not loopback.
func lanAddress(t *testing.T) string {
	for _, a := range addresses() {
		if a.Is4() {
			return a.String()
		}
	}
	t.Skip("this machine has no address on a network")
	return ""
}
