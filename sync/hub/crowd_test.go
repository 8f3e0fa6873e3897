// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/cert"
)

// coming is a listener whose connections the test makes.
type coming chan net.Conn

func (c coming) Accept() (net.Conn, error) {
	if conn, ok := <-c; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}
func (c coming) Close() error   { return nil }
func (c coming) Addr() net.Addr { return nil }

// from is a connection of an address.
type from struct {
	net.Conn
	at string
}

func (f from) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(f.at)) }

func TestCrowdPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		door := make(coming)
		var refused []string
		c := newCrowd(door, 8, func(p netip.Prefix) { refused = append(refused, p.String()) })
		here := map[string]*guest{}
		alive := map[string]net.Conn{}
		go func() {
			for {
				conn, err := c.Accept()
				if err != nil {
					return
				}
				g := conn.(*guest)
				here[g.Conn.(from).at] = g
			}
		}()
		come := func(at string) {
			near, far := net.Pipe()
			alive[at] = far
			door <- from{near, at}
			time.Sleep(time.Second) // the bubble's time: who came first has been idle for longer
			synctest.Wait()
		}
		open := func(at string) bool {
			_ = alive[at].SetReadDeadline(time.Now().Add(time.Millisecond))
			_, err := alive[at].Read(make([]byte, 1))
			return err != io.EOF
		}
		expect := func(at string, want bool) {
			t.Helper()
			if open(at) != want {
				t.Errorf("%s: open %v, want %v", at, !want, want)
			}
		}
		// Two places for one customer's /64, whatever addresses he makes up in it; the older idle one goes.
		come("[2001:db8::1]:1")
		come("[2001:db8::2]:1")
		come("[2001:db8::3]:1")
		expect("[2001:db8::1]:1", false)
		expect("[2001:db8::2]:1", true)
		// Those at work stay, and then a newcomer of the same address is turned away.
		done := here["[2001:db8::2]:1"].work()
		here["[2001:db8::3]:1"].work()
		come("[2001:db8::4]:1")
		expect("[2001:db8::4]:1", false)
		if fmt.Sprint(refused) != "[2001:db8::/64]" {
			t.Errorf("turned away: %v", refused)
		}
		// Others have theirs.
		for _, at := range []string{"192.0.2.1:1", "192.0.2.1:2", "[::ffff:192.0.2.2]:1", "192.0.2.3:1", "192.0.2.4:1", "192.0.2.5:1"} {
			come(at)
		}
		// All places are taken: the newcomer has none yet, so the address with two gives its longest idle one.
		come("192.0.2.6:1")
		expect("192.0.2.1:1", false)
		expect("192.0.2.1:2", true)
		expect("192.0.2.6:1", true)
		// What is at work no more is idle since then only.
		done()
		come("192.0.2.7:1")
		expect("[2001:db8::2]:1", false)
		// A place that is given back is free, also when it is given back twice.
		here["192.0.2.7:1"].Close()
		here["192.0.2.7:1"].Close()
		come("192.0.2.8:1")
		for _, at := range []string{"192.0.2.1:2", "[::ffff:192.0.2.2]:1", "192.0.2.3:1", "192.0.2.4:1", "192.0.2.5:1", "192.0.2.6:1", "192.0.2.8:1", "[2001:db8::3]:1"} {
			expect(at, true)
		}
		for _, g := range here {
			g.Close()
		}
		if c.n != 0 || len(c.here) != 0 {
			t.Errorf("%d places and %d addresses are left over", c.n, len(c.here))
		}
		close(door)
	})
}

// A far end that does not read loses its connection.
func TestCrowdSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		c := newCrowd(nil, 8, nil)
		g := &guest{Conn: near, crowd: c}
		began := time.Now()
		if _, err := g.Write([]byte("x")); err == nil || time.Since(began) != writePatience {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// One address that takes all it can get, with requests that never end, does not keep the central server out.
func TestFloodOfOneAddress(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").away()
	w.hub.crowd.mu.Lock()
	w.hub.crowd.all, w.hub.crowd.each = 8, 2
	w.hub.crowd.mu.Unlock()
	roots, err := cert.Roots(w.ca.File, "")
	if err != nil {
		t.Fatal(err)
	}
	flood := &tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}, Config: &tls.Config{RootCAs: roots, ServerName: "box1.test"}}
	for n := range 20 {
		ctx, stop := context.WithTimeout(t.Context(), inTime)
		conn, err := flood.DialContext(ctx, "tcp", w.hub.World().String())
		stop()
		if err != nil {
			continue // turned away
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "PUT %s%d HTTP/1.1\r\nHost: box1.test\r\nContent-Length: 10\r\n\r\n{", sendPath, n)
		w.await("the request to be at work", func() bool {
			w.hub.crowd.mu.Lock()
			defer w.hub.crowd.mu.Unlock()
			busy := 0
			for _, g := range w.hub.crowd.here[netip.MustParsePrefix("127.0.0.2/32")] {
				busy += g.busy
			}
			return busy == min(n+1, 2)
		})
	}
	if w.hub.count.crowded.Load() == 0 {
		t.Error("the flood was not turned away")
	}
	uri, header, body := w.far.transaction("box1.test", 1)
	if status, out := w.ask("box1.test", "PUT", uri, header, body); status != http.StatusOK {
		t.Errorf("the central server: %d %s", status, out)
	}
}

// A body that nobody asked for, and that never comes, does not hold its connection.
func TestUnreadBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		door := make(coming, 1)
		door <- near
		srv := &http.Server{Handler: atWork(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, http.StatusMisdirectedRequest, "M_UNRECOGNIZED", "no server of this name is here")
		}))}
		go func() { _ = srv.Serve(door) }()
		began := time.Now()
		go fmt.Fprint(far, "PUT / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 10\r\n\r\n{")
		if _, err := io.Copy(io.Discard, far); err != nil || time.Since(began) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		close(door)
		srv.Close()
	})
}
