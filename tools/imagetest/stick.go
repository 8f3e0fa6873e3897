// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"hallig/appliance/health"
	"hallig/sync/courier"
	"hallig/tools/imagetest/vm"
	"hallig/tools/matrixclient"
)

// What the status page says of the stick (package health).
const (
	mayPull  = "can be pulled out"
	mustStay = "leave it plugged in"
)

// pulledAfter is how much a box has put onto the stick, or taken from it, when it is pulled out too early.
const pulledAfter = 1 << 20

// carrier is a stick and the two boxes that it goes between.
type carrier struct {
	*run
	*pairOfIslands
	image string
}

// stickBetween is the demonstration of the courier on images: the stick's mark is all that anybody has to know.
func stickBetween(r *run) error {
	ctx, stop := r.within(12 * time.Minute)
	defer stop()
	p, err := r.islands(ctx, [2]string{})
	if err != nil {
		return err
	}
	defer p.close()
	c := &carrier{run: r, pairOfIslands: p, image: r.path("courier.stick")}
	if err := vm.NewStick(c.image, 128, nil); err != nil {
		return err
	}
	if err := vm.FolderFAT(c.image, vm.StickOffset, courier.Folder); err != nil {
		return err
	}
	if err := c.roundTrip(ctx); err != nil {
		return err
	}
	if err := c.pulledWhileWritten(ctx); err != nil {
		return fmt.Errorf("pulled out while it was written: %w", err)
	}
	if err := c.pulledWhileRead(ctx); err != nil {
		return fmt.Errorf("pulled out while it was read: %w", err)
	}
	return nil
}

// roundTrip: what waits goes with the stick, and the answer comes back with it.
func (c *carrier) roundTrip(ctx context.Context) error {
	var there []string
	for i := range 3 {
		id, err := c.antje.SendText(ctx, c.room, fmt.Sprint("Pegel ", 340+i))
		if err != nil {
			return err
		}
		there = append(there, id)
	}
	began := time.Now()
	if err := c.visit(ctx, 0); err != nil {
		return err
	}
	back, err := c.boy.SendText(ctx, c.room, "verstanden")
	if err != nil {
		return err
	}
	if err := c.visit(ctx, 1); err != nil {
		return err
	}
	if err := c.arrived(ctx, c.boy, there...); err != nil {
		return err
	}
	if err := c.visit(ctx, 0); err != nil {
		return err
	}
	if err := c.arrived(ctx, c.antje, back); err != nil {
		return err
	}
	c.say("a stick went to and fro: three messages there, the answer back")
	c.note("courier stick between two images: there and back in %.0f s, three times in a socket", time.Since(began).Seconds())
	return nil
}

// pulledWhileWritten: the box goes on, and the next time the stick takes everything.
func (c *carrier) pulledWhileWritten(ctx context.Context) error {
	ids, file, err := c.writeMuch(ctx, c.antje)
	if err != nil {
		return err
	}
	if err := c.pullEarly(ctx, 0, func(s stickStats) int64 { return s.Written }); err != nil {
		return err
	}
	for _, i := range []int{0, 1} {
		if err := c.visit(ctx, i); err != nil {
			return err
		}
	}
	if err := c.arrived(ctx, c.boy, ids...); err != nil {
		return err
	}
	if err := c.gotFile(ctx, c.boy, file); err != nil {
		return err
	}
	c.say("pulled out while it was written and put back: %d messages and a file of %d MB arrived", len(ids), len(file.content)>>20)
	return nil
}

// pulledWhileRead: what was taken in counts once, the rest comes the next time.
func (c *carrier) pulledWhileRead(ctx context.Context) error {
	ids, file, err := c.writeMuch(ctx, c.antje)
	if err != nil {
		return err
	}
	if err := c.visit(ctx, 0); err != nil {
		return err
	}
	if err := c.pullEarly(ctx, 1, func(s stickStats) int64 { return s.Read }); err != nil {
		return err
	}
	for _, i := range []int{1, 0} { // the receipts go back
		if err := c.visit(ctx, i); err != nil {
			return err
		}
	}
	if err := c.arrived(ctx, c.boy, ids...); err != nil {
		return err
	}
	if err := c.gotFile(ctx, c.boy, file); err != nil {
		return err
	}
	seen := map[string]int{}
	page, err := c.boy.Messages(ctx, c.room, "", "b", 100) // what is older was written before boy came
	if err != nil {
		return err
	}
	for _, e := range page.Chunk {
		seen[e.Body()]++
	}
	c.check(len(seen) > len(ids), "only %d different messages are in the room", len(seen))
	for body, n := range seen {
		c.check(n == 1 || !strings.HasPrefix(body, "Meldung "), "%q is in the room %d times", body, n)
	}
	c.say("pulled out while it was read and put back: %d messages and a file arrived, nothing twice", len(ids))
	return nil
}

// visit puts the stick into a box, waits until the box lets go of it, and pulls it out.
func (c *carrier) visit(ctx context.Context, i int) error {
	b := c.b[i]
	if err := b.PlugStick("courier", c.image); err != nil {
		return err
	}
	if err := b.stickSays(ctx, mayPull); err != nil {
		return err
	}
	return c.pull(ctx, i)
}

// pull takes the stick out and waits until the box has seen that.
func (c *carrier) pull(ctx context.Context, i int) error {
	if err := c.b[i].Unplug(ctx, "courier"); err != nil {
		return err
	}
	return c.b[i].stickSays(ctx, "")
}

// stickSays waits until the page says this of a stick; "": neither that it has to stay nor that it can be pulled.
func (b *box) stickSays(ctx context.Context, words string) error {
	ctx, stop := context.WithTimeout(ctx, 4*time.Minute*time.Duration(max(b.r.slow, 1)))
	defer stop()
	last := ""
	for {
		t, err := b.health()
		if err == nil {
			n, _ := t.Node(string(health.Courier))
			last = n.Sentence.EN
			asks := strings.Contains(last, mayPull) || strings.Contains(last, mustStay)
			if words != "" && strings.Contains(last, words) || words == "" && !asks {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the page says of the stick %q, want %q (%v); the console ends: %s", last, words, err, b.Console.Tail(10))
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// stickStats are what QEMU counts of the stick in the socket, in bytes since it was plugged in.
type stickStats struct {
	Written int64 `json:"wr_bytes"`
	Read    int64 `json:"rd_bytes"`
}

func (b *box) stickStats() (s stickStats, err error) {
	var all []struct {
		Qdev  string     `json:"qdev"`
		Stats stickStats `json:"stats"`
	}
	if err := b.Do("query-blockstats", nil, &all); err != nil {
		return s, err
	}
	for _, d := range all {
		if strings.Contains(d.Qdev, "courier") {
			return d.Stats, nil
		}
	}
	return s, fmt.Errorf("QEMU knows no stick: %v", all)
}

// stickMoved waits until a box has done so much with the stick that it is in the middle of things.
func (b *box) stickMoved(ctx context.Context, moved func(stickStats) int64) error {
	ctx, stop := context.WithTimeout(ctx, 4*time.Minute*time.Duration(max(b.r.slow, 1)))
	defer stop()
	for {
		s, err := b.stickStats()
		if err != nil {
			return err
		}
		if n := moved(s); n >= pulledAfter {
			b.r.say("pulled out after %d kB", n>>10)
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the box has done only %+v with the stick: %w", s, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// pullEarly pulls the stick out once so much was moved, although the box says that it must stay.
func (c *carrier) pullEarly(ctx context.Context, i int, moved func(stickStats) int64) error {
	b := c.b[i]
	if err := b.PlugStick("courier", c.image); err != nil {
		return err
	}
	if err := b.stickMoved(ctx, moved); err != nil {
		return err
	}
	if t, err := b.health(); err == nil {
		n, _ := t.Node(string(health.Courier))
		c.check(!strings.Contains(n.Sentence.EN, mayPull), "the box said %q before it was done", n.Sentence.EN)
	}
	if err := b.Unplug(ctx, "courier"); err != nil {
		return err
	}
	if err := b.stickSays(ctx, ""); err != nil {
		return err
	}
	t, err := b.health()
	if err != nil {
		return err
	}
	for _, n := range t.Nodes {
		c.check(n.State != health.Trouble, "after the stick was pulled out early the box says: %s", n.Sentence.EN)
	}
	return nil
}

// picture is a file that somebody sent.
type picture struct {
	uri     string
	content []byte
}

// writeMuch makes the stick's journey long enough to be disturbed.
func (c *carrier) writeMuch(ctx context.Context, from *matrixclient.Client) (ids []string, p picture, err error) {
	random := rand.NewChaCha8([32]byte(bytes.Repeat([]byte{byte(c.seed)}, 32)))
	p.content = make([]byte, 6<<20)
	if _, err := io.ReadFull(random, p.content); err != nil {
		return nil, p, err
	}
	if p.uri, err = from.Upload(ctx, "application/octet-stream", "karte.bin", bytes.NewReader(p.content)); err != nil {
		return nil, p, err
	}
	for i := range 20 {
		id, err := from.SendText(ctx, c.room, fmt.Sprintf("Meldung %s %d", p.uri, i))
		if err != nil {
			return nil, p, err
		}
		ids = append(ids, id)
	}
	id, err := from.Send(ctx, c.room, "m.room.message", from.NextTxn(), map[string]any{"msgtype": "m.file", "body": p.uri, "url": p.uri})
	return append(ids, id), p, err
}

// arrived waits until somebody can read all of these.
func (c *carrier) arrived(ctx context.Context, who *matrixclient.Client, ids ...string) error {
	ctx, stop := context.WithTimeout(ctx, 2*time.Minute*time.Duration(max(c.slow, 1)))
	defer stop()
	for _, id := range ids {
		for {
			_, err := who.Event(ctx, c.room, id)
			if err == nil {
				break
			}
			if matrixclient.Status(err) != http.StatusNotFound {
				return fmt.Errorf("%s does not get %s by stick: %w", who.UserID, id, err)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s does not get %s by stick within its time", who.UserID, id)
			case <-time.After(300 * time.Millisecond):
			}
		}
	}
	return nil
}

// gotFile compares a file with what was sent.
func (c *carrier) gotFile(ctx context.Context, who *matrixclient.Client, p picture) error {
	got, _, err := who.Download(ctx, p.uri)
	if err != nil {
		return fmt.Errorf("%s does not get the file by stick: %w", who.UserID, err)
	}
	c.check(bytes.Equal(got, p.content), "the file that came by stick has %d bytes and is another one", len(got))
	return nil
}
