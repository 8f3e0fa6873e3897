// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"hallig/appliance/provision"
	"hallig/radio/ether"
	"hallig/tools/imagetest/vm"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

const lineRate = 1200 // bit/s

// cable joins the serial adapters of two machines. QEMU connects to its ends as a client; what goes through it goes at the rate of the line.
type cable struct {
	ends [2]net.Listener
	line *ether.Line
	stop context.CancelFunc
	done chan error
}

func (r *run) layCable() (*cable, error) {
	c := &cable{}
	for i := range c.ends {
		l, err := net.Listen("unix", r.path(fmt.Sprintf("line%d.sock", i)))
		if err != nil {
			return nil, fmt.Errorf("lay the line: %w", err)
		}
		c.ends[i] = l
	}
	return c, nil
}

func (c *cable) socket(end int) string { return c.ends[end].Addr().String() }

// join waits until both adapters are plugged in, and lets bytes through.
func (c *cable) join(ctx context.Context) error {
	var conns [2]net.Conn
	for i, l := range c.ends {
		ul := l.(*net.UnixListener)
		if err := ul.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		conn, err := ul.Accept()
		if err != nil {
			return fmt.Errorf("wait for adapter %d: %w", i, err)
		}
		conns[i] = conn
	}
	c.line = ether.NewLine(conns[0], conns[1], ether.Config{BitsPerSecond: lineRate, FullDuplex: true, Seed: 1})
	ctx, c.stop = context.WithCancel(ctx)
	c.done = make(chan error, 1)
	go func() { c.done <- c.line.Run(ctx) }() // part waits for it
	return nil
}

// part ends the line; join lays it again.
func (c *cable) part() {
	if c.stop != nil {
		c.stop()
		<-c.done
		c.stop = nil
	}
}

// drain forgets connections of adapters that were pulled out: QEMU had made them anew.
func (c *cable) drain() {
	for _, l := range c.ends {
		ul := l.(*net.UnixListener)
		for ul.SetDeadline(time.Now().Add(50*time.Millisecond)) == nil {
			conn, err := ul.Accept()
			if err != nil {
				break
			}
			conn.Close()
		}
	}
}

func (c *cable) close() error {
	c.part()
	return errors.Join(c.ends[0].Close(), c.ends[1].Close())
}

// serialLine is the demonstration of two boxes on a line, on images.
func serialLine(r *run) error {
	c, err := r.layCable()
	if err != nil {
		return err
	}
	defer c.close()
	ctx, stop := r.within(12 * time.Minute)
	defer stop()
	p, err := r.islands(ctx, [2]string{"/dev/hallig/radio", "/dev/hallig/radio"})
	if err != nil {
		return err
	}
	defer p.close()
	b, antje, boy, room := p.b, p.antje, p.boy, p.room
	for i := range b {
		if err := b[i].Plug("radio", c.socket(i)); err != nil {
			return err
		}
	}
	if err := c.join(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := exchange(ctx, antje, boy, room, "über die Leitung"); err != nil {
		return fmt.Errorf("over the line, whose adapters came late: %w (line: %v)", err, c.bytes())
	}
	r.say("adapters plugged in while the boxes ran; a message each way %.0f s later", time.Since(began).Seconds())
	r.note("serial line of %d bit/s between two images: first messages both ways %.0f s after the adapters were plugged in", lineRate, time.Since(began).Seconds())
	if r.check(c.line.Counters(0).Bytes > 0 && c.line.Counters(1).Bytes > 0, "nothing went over the line: %v", c.bytes()) {
		r.say("over the line: %v bytes", c.bytes())
	}
	return r.replug(ctx, c, b, room)
}

// pairOfIslands are two boxes that know each other, with a person each in a shared room, and nothing between them but what a story brings.
type pairOfIslands struct {
	b          [2]*box
	antje, boy *matrixclient.Client
	room       string
	way        *testpeer.Link // the network that was cut
}

func (p *pairOfIslands) close() {
	for _, b := range p.b {
		if b != nil {
			b.Kill()
		}
	}
	if p.way != nil {
		p.way.Close()
	}
}

// islands switches on two boxes that are provisioned with one line each, at these devices ("": none); pairs them over a network, lets them write, and
// cuts it.
func (r *run) islands(ctx context.Context, devices [2]string) (p *pairOfIslands, err error) {
	p = &pairOfIslands{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for i, name := range []string{"hooge", "oland"} {
		var lines []provision.Serial
		if devices[i] != "" {
			lines = []provision.Serial{{Device: devices[i], Baud: 9600, BitsPerSecond: lineRate}}
		}
		disk, err := r.preparedDisk(vm.BIOS, name, provision.File{Serial: lines})
		if err != nil {
			return nil, err
		}
		if p.b[i], err = r.power(vm.Config{Dir: r.path(name), Disk: disk, Open: true}, firstBoot); err != nil {
			return nil, err
		}
		if err := p.b[i].enrol([]string{"antje", "boy"}[i]); err != nil {
			return nil, err
		}
	}
	if p.way, err = r.pair(p.b); err != nil {
		return nil, err
	}
	p.antje, p.boy = p.b[0].people[0], p.b[1].people[0]
	if p.room, err = p.antje.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat", Name: "Deichwache", Invite: []string{p.boy.UserID}}); err != nil {
		return nil, err
	}
	if err := joinInvited(ctx, p.boy, p.room); err != nil {
		return nil, err
	}
	if err := exchange(ctx, p.antje, p.boy, p.room, "am Netz"); err != nil {
		return nil, fmt.Errorf("over the network: %w", err)
	}
	p.way.Cut()
	r.say("the boxes are paired, antje and boy share a room; now the network between them is gone")
	return p, nil
}

func (c *cable) bytes() [2]uint64 {
	if c.line == nil {
		return [2]uint64{}
	}
	return [2]uint64{uint64(c.line.Counters(0).Bytes), uint64(c.line.Counters(1).Bytes)}
}

// replug pulls one adapter out and puts it back: the kernel may give it another number, its name stays.
func (r *run) replug(ctx context.Context, c *cable, b [2]*box, room string) error {
	c.part()
	for i := range b {
		if err := b[i].Unplug(ctx, "radio"); err != nil {
			return err
		}
	}
	c.drain()
	id, err := b[0].people[0].SendText(ctx, room, "ohne Leitung")
	if err != nil {
		return err
	}
	for i := range b {
		if err := b[i].Plug("radio", c.socket(i)); err != nil {
			return err
		}
	}
	if err := c.join(ctx); err != nil {
		return err
	}
	began := time.Now()
	if _, _, err := b[1].people[0].WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id }); err != nil {
		return fmt.Errorf("after the adapters were pulled out and put back: %w", err)
	}
	r.say("adapters pulled out and put back; what was written meanwhile arrived %.0f s later", time.Since(began).Seconds())
	return nil
}

var pairCode = regexp.MustCompile(`<code class="code">([^<]+)</code>`)
var peerID = regexp.MustCompile(`/p2p/([A-Za-z0-9]+)`)

// pair shows a code on the second box's page and enters it on the first's, over a way that can be cut.
func (r *run) pair(b [2]*box) (way *testpeer.Link, err error) {
	ctx, stop := r.within(3 * time.Minute)
	defer stop()
	if way, err = testpeer.NewLink(b[1].Addr(portP2P)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			way.Close()
		}
	}()
	var br [2]*browser
	for i := range b {
		if br[i], err = b[i].browse(ctx, b[i].people[0].UserID); err != nil {
			return nil, err
		}
		if _, err := br[i].get(ctx, "/admin/boxes"); err != nil {
			return nil, err
		}
	}
	page, err := br[1].post(ctx, "/admin/boxes", url.Values{"do": {"show"}})
	if err != nil {
		return nil, err
	}
	code := pairCode.FindStringSubmatch(page)
	if code == nil {
		return nil, fmt.Errorf("no code on the page: %s", bad(page))
	}
	_, port, err := net.SplitHostPort(way.Addr())
	if err != nil {
		return nil, err
	}
	address := "/ip4/10.0.2.2/tcp/" + port
	if id := peerID.FindStringSubmatch(page); id != nil {
		address += "/p2p/" + id[1]
	}
	page, err = br[0].post(ctx, "/admin/boxes", url.Values{"do": {"take"}, "code": {html.UnescapeString(code[1])}, "address": {address}})
	if err != nil {
		return nil, err
	}
	if said := bad(page); said != "" {
		return nil, fmt.Errorf("the boxes do not pair: %s", said)
	}
	r.say("paired with the code %s", strings.TrimSpace(code[1]))
	return way, nil
}

// joinInvited waits for the invite and takes it.
func joinInvited(ctx context.Context, c *matrixclient.Client, room string) error {
	_, err := c.Follow(ctx, "", func(s *matrixclient.SyncResponse) bool { _, ok := s.Rooms.Invite[room]; return ok })
	if err != nil {
		return fmt.Errorf("%s gets no invite: %w", c.UserID, err)
	}
	_, err = c.Join(ctx, room)
	return err
}

// exchange sends a message each way and waits for both.
func exchange(ctx context.Context, a, b *matrixclient.Client, room, text string) error {
	for _, p := range [][2]*matrixclient.Client{{a, b}, {b, a}} {
		id, err := p[0].SendText(ctx, room, text)
		if err != nil {
			return err
		}
		if _, _, err := p[1].WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id }); err != nil {
			return fmt.Errorf("%s does not get what %s wrote: %w", p[1].UserID, p[0].UserID, err)
		}
	}
	return nil
}
