// SPDX-License-Identifier: EUPL-1.2

package testpeer

import (
	"io"
	"net"
	"testing"
	"time"
)

func TestLinkCarriesUntilCut(t *testing.T) {
	far, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	go func() { // ends with far
		for {
			c, err := far.Accept()
			if err != nil {
				return
			}
			go io.Copy(c, c)
		}
	}()
	link, err := NewLink(far.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	ask := func() error {
		c, err := net.Dial("tcp", link.Addr())
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello")); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 5))
		return err
	}
	if err := ask(); err != nil {
		t.Fatalf("through the open link: %v", err)
	}
	link.Cut()
	if err := ask(); err == nil {
		t.Fatal("the cut link carries")
	}
	link.Join()
	if err := ask(); err != nil {
		t.Fatalf("through the joined link: %v", err)
	}
	// What went through is counted behind its writing, so the answer may be here first.
	for end := time.Now().Add(30 * time.Second); link.Bytes() < 20 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := link.Bytes(); got != 20 {
		t.Errorf("got %d bytes, want 20", got)
	}
}

func TestPeerStartsStopsAndStartsAgain(t *testing.T) {
	dir := t.TempDir()
	ca, err := NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), Options{Dir: dir, CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if got := p.PID(); got != 0 {
		t.Errorf("still running as %d", got)
	}
	if err := p.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}
