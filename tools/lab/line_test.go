// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hallig/radio/ether"
	"hallig/radio/serial"
	"hallig/tools/matrixclient"
)

// cable is a serial line between two boxes: pseudo terminals joined by a medium. The boxes know them by links in a directory,
// as udev's names by-id are, so that a plug can be pulled and put back.
type cable struct {
	t       *testing.T
	rate    int
	devices [2]string
	line    *ether.Line
	stop    func()
}

func layCable(t *testing.T, bitsPerSecond int) *cable {
	t.Helper()
	dir := t.TempDir()
	c := &cable{t: t, rate: bitsPerSecond, devices: [2]string{filepath.Join(dir, "ttyA"), filepath.Join(dir, "ttyB")}}
	c.plug()
	t.Cleanup(func() { c.unplug() })
	return c
}

// plug makes both ports appear.
func (c *cable) plug() {
	c.t.Helper()
	var ports [2]*serial.PTY
	for i := range ports {
		var err error
		if ports[i], err = serial.NewPTY(); err != nil {
			c.t.Fatal(err)
		}
		ok(c.t, "name the port", os.Symlink(ports[i].Device, c.devices[i]))
	}
	c.line = ether.NewLine(ports[0], ports[1], ether.Config{BitsPerSecond: c.rate, FullDuplex: true, Seed: 1})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = c.line.Run(ctx) }) // it ends with ctx and then says so; stop waits
	c.stop = func() {
		cancel()
		wg.Wait()
	}
}

// unplug makes both ports vanish under their users.
func (c *cable) unplug() {
	if c.stop == nil {
		return
	}
	c.stop()
	c.stop = nil
	for _, d := range c.devices {
		ok(c.t, "take the port's name away", os.Remove(d))
	}
}

func (c *cable) use(b *box, end int) {
	b.config["serial"] = []map[string]any{{"device": c.devices[end], "baud": c.rate}}
}

// TestTwoBoxesOnALine: boxes that have paired over a network and then know each other by a serial line alone: invite, join, talk; the
// plug is pulled while both write, and put back.
func TestTwoBoxesOnALine(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	c := layCable(t, 9600)
	for i, b := range []*box{n.a, n.b} {
		b.stop()
		b.config["p2p"] = map[string]any{"off": true}
		c.use(b, i)
		b.start()
	}
	t.Logf("carried by the line after %v", n.awaitCarrier(t, inTime, "serial"))
	began := time.Now()
	room := n.meet(t, ctx)
	t.Logf("invited and joined after %v", time.Since(began))
	talk(t, ctx, room, n.anna, n.bert, "Moin Langeneß")
	talk(t, ctx, room, n.bert, n.anna, "Moin Hooge")
	keysTravel(t, ctx, n.anna, n.bert)

	c.unplug()
	n.awaitCarrier(t, inTime, "")
	ids := n.writeTexts(t, ctx, room, 5)
	c.plug()
	took := eventually(t, inTime, "both sides equal", func() error { return same(ctx, room, n.anna, n.bert, ids) })
	t.Logf("equal %v after the plug was put back", took)

	// The line goes silent, which no end is told.
	c.line.Cut(true)
	ids = n.writeTexts(t, ctx, room, 3)
	if same(ctx, room, n.anna, n.bert, ids) == nil {
		t.Error("both have everything though the line is cut: the cut is none")
	}
	c.line.Cut(false)
	took = eventually(t, inTime, "both sides equal", func() error { return same(ctx, room, n.anna, n.bert, ids) })
	t.Logf("equal %v after the line was given back", took)
	talk(t, ctx, room, n.bert, n.anna, "und tschüs")
}

// writeTexts writes n texts on each side, one after the other.
func (n *network) writeTexts(t *testing.T, ctx context.Context, room string, count int) (ids []string) {
	t.Helper()
	for i := range count {
		for _, c := range []*matrixclient.Client{n.anna, n.bert} {
			ids = append(ids, must[string](t, "send")(c.SendText(ctx, room, fmt.Sprintf("%s on the line %d", c.UserID, i))))
		}
	}
	return ids
}

// TestFasterLinkCarries: with a network and a line, the network carries and the line stands by; when the network is cut in the
// middle of a conversation the line takes over, nothing is lost or doubled, and afterwards the network carries again.
func TestFasterLinkCarries(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	c := layCable(t, 19200)
	for i, b := range []*box{n.a, n.b} {
		other := []*box{n.b, n.a}[i]
		b.config["p2p"].(map[string]any)["peers"] = []string{multiaddr(n.links[1-i].Addr()) + "/p2p/" + other.status().BoxID}
		c.use(b, i)
	}
	for _, b := range []*box{n.a, n.b} {
		b.stop()
		b.start()
	}
	n.awaitCarrier(t, inTime, "p2p")
	eventually(t, inTime, "the line stands by", func() error {
		for _, b := range []*box{n.a, n.b} {
			if p := b.status().Peers[0]; len(p.Links) != 2 || !p.Links[0].Up || !p.Links[1].Up {
				return fmt.Errorf("links of %s: %+v", b.name, p.Links)
			}
		}
		return nil
	})
	room := n.meet(t, ctx)
	before := c.line.Counters(0).Bytes
	ids := n.writeTexts(t, ctx, room, 20)
	eventually(t, inTime, "equal", func() error { return same(ctx, room, n.anna, n.bert, ids) })
	if used := c.line.Counters(0).Bytes - before; used > 2000 {
		t.Errorf("%d bytes went over the line that stands by", used)
	}
	before = c.line.Counters(0).Bytes
	n.cut(true)
	ids = append(ids, n.writeTexts(t, ctx, room, 10)...)
	took := eventually(t, inTime, "equal over the line", func() error { return same(ctx, room, n.anna, n.bert, ids) })
	t.Logf("the line has carried what was written, %v after the cut", took)
	n.awaitCarrier(t, inTime, "serial")
	if used := c.line.Counters(0).Bytes - before; used < 640 {
		t.Errorf("only %d bytes went over the line; 10 signatures alone are 640", used)
	}
	n.cut(false)
	t.Logf("carried by p2p again after %v", n.awaitCarrier(t, inTime, "p2p"))
	ids = append(ids, n.writeTexts(t, ctx, room, 10)...)
	eventually(t, inTime, "equal", func() error { return same(ctx, room, n.anna, n.bert, ids) })
}
