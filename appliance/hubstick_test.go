// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/courier"
	"hallig/sync/hub"
	"hallig/sync/hub/spool"
	"hallig/sync/peer"
	"hallig/tools/matrixclient"
)

// carried is a hub with a box that has no line any more, and a server with which its people share a room.
type carried struct {
	*lonely
	room       string
	anna, carl *phone // of the box, and of the server
}

func newCarried(t *testing.T) *carried {
	t.Helper()
	c := &carried{lonely: newLonely(t)}
	c.anna, c.carl = c.box.phone("anna"), c.far.phone("carl")
	var err error
	if c.room, err = c.carl.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", Name: "Lage"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.anna.Join(t.Context(), c.room, "far.test"); err != nil {
		t.Fatal(err)
	}
	first := c.carl.say(c.room, "auf dem Hof")
	c.anna.until("what is said in the yard", c.anna.has(first))
	c.carl.until("what is said in the yard", c.carl.has(c.anna.say(c.room, "gleich weg")))
	c.copied(1) // so that the hub answers whether the box has what is sent to it
	c.line(false)
	return c
}

// line has the box stopped and started, with a line or without.
func (c *carried) line(there bool) {
	c.Helper()
	c.gone()
	cfg := c.boxCfg
	cfg.P2P.Off = !there
	c.box = startWith(c.T, cfg)
	c.anna.HTTP.Transport = c.box
}

// waits counts what waits for the box at the hub.
func (c *carried) waits() (n int) {
	c.Helper()
	for _, q := range c.status().Boxes[0].Waiting {
		n += int(q.Count)
	}
	return n
}

// settle waits until the hub has all that the server has said so far, and the server knows it.
func (c *carried) settle() {
	c.Helper()
	last := event.ID(c.carl.say(c.room, "bis hierher"))
	awaitHub(c.T, "the server to be rid of it", func() bool {
		there := false
		err := c.far.db.View(c.Context(), func(r *store.Read) error {
			row, err := r.Event(last)
			if err != nil {
				return err
			}
			cursors, err := r.FederationCursors("box1.test")
			for _, f := range cursors {
				there = there || string(f.Room) == c.room && f.Pos >= row.Pos
			}
			return err
		})
		if err != nil {
			c.Fatal(err)
		}
		return there
	})
}

func (c *carried) out(stick string) (sent []hub.BagSent) {
	c.Helper()
	if err := hub.CourierExport(c.Context(), c.hubDir, stick, nil, func(s hub.BagSent) { sent = append(sent, s) }); err != nil {
		c.Fatal(err)
	}
	return sent
}

func (c *carried) plug(stick string) string {
	c.Helper()
	return c.box.order(admin.CourierOrder{Do: "import", Place: stick}).Sentence.EN
}

func (c *carried) home(stick string) (taken []hub.BagTaken, err error) {
	c.Helper()
	var bad []error
	err = hub.CourierImport(c.Context(), c.hubDir, stick, func(_ string, t hub.BagTaken, err error) {
		if err != nil {
			bad = append(bad, err)
			return
		}
		taken = append(taken, t)
	})
	return taken, errors.Join(append(bad, err)...)
}

func (c *carried) mustHome(stick string) hub.BagTaken {
	c.Helper()
	taken, err := c.home(stick)
	if err != nil || len(taken) != 1 {
		c.Fatalf("taken in at the hub: %+v, %v", taken, err)
	}
	return taken[0]
}

func (c *carried) says(p *phone, n int, what string) (ids []string) {
	for i := range n {
		ids = append(ids, p.say(c.room, fmt.Sprint(what, " ", i)))
	}
	return ids
}

func (c *carried) whisper(from, to *phone, word string) {
	c.Helper()
	from.call("PUT", matrixclient.Path("sendToDevice", "org.hallig.test", word), fmt.Sprintf(`{"messages":{%q:{%q:{"word":%q}}}}`, to.UserID, to.DeviceID, word))
}

// once looks that each message between devices came once.
func (c *carried) once(p *phone, words ...string) {
	c.Helper()
	for _, w := range words {
		n := 0
		for _, o := range p.other {
			if strings.Contains(o, fmt.Sprintf("%q", w)) {
				n++
			}
		}
		if n != 1 {
			c.Errorf("%s heard %q %d times", p.UserID, w, n)
		}
	}
}

func (c *carried) inOrder(p *phone, ids []string) {
	c.Helper()
	last := -1
	for _, id := range ids {
		at := slices.Index(p.order, id)
		if at <= last {
			c.Errorf("%s was shown %s, which is %d of %d, too early", p.UserID, id, slices.Index(ids, id), len(ids))
			return
		}
		last = at
	}
}

// TestHubStick: all that people write to each other crosses by two journeys of a stick, in order and once, whatever is plugged in twice.
func TestHubStick(t *testing.T) {
	c := newCarried(t)
	stick := t.TempDir()
	out, in := c.says(c.anna, 90, "draußen"), c.says(c.carl, 90, "drinnen") // as many as a phone of these tests is shown at once
	for _, w := range []string{"eins", "zwei"} {
		c.whisper(c.carl, c.anna, "her "+w)
		c.whisper(c.anna, c.carl, "hin "+w)
	}
	c.settle()
	sent := c.out(stick)
	if n, left := sent[0].Count(); len(sent) != 1 || n == 0 || left > 0 || int(n) != c.waits() || sent[0].Connected {
		t.Errorf("exported %+v of %d", sent, c.waits())
	}
	seen, err := hub.CourierStatus(t.Context(), c.hubDir, stick)
	if err != nil || len(seen) != 1 || seen[0].From != "this hub" || seen[0].For != "box1.test" || len(seen[0].Queues) != 1 || seen[0].Trouble != "" {
		t.Errorf("on the stick: %+v, %v", seen, err)
	}
	if s := c.plug(stick); !strings.Contains(s, "Taken from the hub: ") || !strings.Contains(s, "Take the stick back to the hub") {
		t.Errorf("the box says %s", s)
	}
	c.anna.until("what the stick brought", c.anna.has(in...))
	c.anna.until("messages between devices", c.anna.heard("her zwei"))
	c.inOrder(c.anna, in)
	if s := c.plug(stick); !strings.Contains(s, "nothing new from the hub") {
		t.Errorf("plugged in again, the box says %s", s)
	}
	if seen, err = hub.CourierStatus(t.Context(), c.hubDir, stick); err != nil || len(seen) != 2 || seen[0].From != "box1.test" || seen[0].Letters < 3 || seen[0].Bytes == 0 || seen[0].Trouble != "" {
		t.Errorf("on the stick: %+v, %v", seen, err)
	}
	got := c.mustHome(stick)
	if got.Known || got.Letters < 3 || got.Dealt == 0 || got.Users != 1 || len(got.Troubles) > 0 {
		t.Errorf("at the hub: %+v", got)
	}
	if b := c.status().Boxes[0]; b.Way != "stick" || time.Since(b.Seen) > time.Hour || c.waits() != 0 {
		t.Errorf("last contact %s %s, %d wait", b.Way, b.Seen, c.waits())
	}
	if again := c.mustHome(stick); !again.Known || again.Dealt != 0 {
		t.Errorf("once more: %+v", again)
	}
	c.carl.until("what the stick brought", c.carl.has(out...))
	c.carl.until("messages between devices", c.carl.heard("hin zwei"))
	c.inOrder(c.carl, out)
	awaitHub(t, "the letters to be through", func() bool { return len(c.status().Boxes[0].Letters) == 0 })

	// The second journey.
	more, back := c.says(c.anna, 30, "mehr"), c.says(c.carl, 30, "zurück")
	c.settle()
	left := c.box.fed.sender.Left()
	c.out(stick)
	c.plug(stick)
	if n := c.box.fed.sender.Left(); n >= left {
		t.Errorf("%d letters are out, %d were before the hub's word", n, left)
	}
	c.anna.until("the second journey", c.anna.has(back...))
	c.mustHome(stick)
	c.carl.until("the second journey", c.carl.has(more...))

	// Back in the yard: what is out already goes to the hub as it is, and is known there.
	c.line(true)
	last := c.says(c.anna, 2, "wieder da")
	c.carl.until("what is said in the yard", c.carl.has(last...))
	c.anna.until("what is said in the yard", c.anna.has(c.carl.say(c.room, "schön")))
	awaitHub(t, "the box to know that all has arrived", func() bool { return c.box.fed.sender.Left() == 0 })
	c.once(c.anna, "her eins", "her zwei")
	c.once(c.carl, "hin eins", "hin zwei")
}

// TestHubSticksInDisorder: two sticks in circulation, one that is late, a box that came by itself meanwhile, a stick that is lost.
func TestHubSticksInDisorder(t *testing.T) {
	c := newCarried(t)
	lost, late, soon := t.TempDir(), t.TempDir(), t.TempDir()
	in, out := c.says(c.carl, 5, "drinnen"), c.says(c.anna, 5, "draußen")
	c.whisper(c.carl, c.anna, "her eins")
	c.settle()
	c.out(lost)
	c.out(late)
	c.plug(lost) // and then it fell into the harbour
	c.anna.until("the lost stick", c.anna.has(in...))
	in = append(in, c.says(c.carl, 3, "später")...)
	c.settle()
	c.out(soon)
	c.plug(soon)
	c.anna.until("the second stick", c.anna.has(in...))
	c.plug(late)
	c.whisper(c.anna, c.carl, "hin eins")
	out = append(out, c.says(c.anna, 2, "auch")...)
	c.plug(soon) // now it is the newest one of the box
	if got := c.mustHome(soon); got.Known || got.Dealt == 0 || c.waits() != 0 {
		t.Errorf("the newest: %+v, %d wait", got, c.waits())
	}
	if got := c.mustHome(late); !got.Known || got.Dealt != 0 || len(got.Troubles) > 0 {
		t.Errorf("the late one: %+v", got)
	}
	c.carl.until("what the sticks brought", c.carl.has(out...))
	c.carl.until("a message between devices", c.carl.heard("hin eins"))
	c.once(c.carl, "hin eins")

	// The box comes by itself while a stick is on its way.
	in = c.says(c.carl, 3, "unterwegs")
	c.whisper(c.carl, c.anna, "her zwei")
	c.settle()
	c.out(late)
	c.line(true)
	c.anna.until("by itself", c.anna.has(in...))
	c.anna.until("by itself", c.anna.heard("her zwei"))
	awaitHub(t, "nothing to wait", func() bool { return c.waits() == 0 })
	awaitHub(t, "the box to know that all has arrived", func() bool { return c.box.fed.sender.Left() == 0 })
	c.line(false)
	c.plug(late)
	if got := c.mustHome(late); got.Known || got.Dealt != 0 || len(got.Troubles) > 0 {
		t.Errorf("after the box came by itself: %+v", got)
	}
	c.anna.until("the stick after it", c.anna.has(in...))

	// A stick has come, and the box is back before anybody has taken it to the hub.
	in = c.says(c.carl, 3, "vor dem Heimweg")
	c.whisper(c.carl, c.anna, "her drei")
	c.settle()
	c.out(late)
	c.plug(late)
	c.anna.until("what the stick brought", c.anna.has(in...))
	c.anna.until("what the stick brought", c.anna.heard("her drei"))
	c.line(true)
	awaitHub(t, "the box to tell what came by stick", func() bool {
		h := &c.box.exchange.post
		h.mu.Lock()
		defer h.mu.Unlock()
		return bytes.Contains(h.dealtTold, []byte("far.test"))
	})
	awaitHub(t, "nothing to wait", func() bool { return c.waits() == 0 })
	c.anna.until("both on the line", c.anna.has(c.carl.say(c.room, "da seid ihr ja")))
	c.once(c.anna, "her eins", "her zwei", "her drei")
}

// TestHubStickBad: what is damaged, forged, foreign or from before a copy was put back changes nothing that it should not, and is said with the next step.
func TestHubStickBad(t *testing.T) {
	c := newCarried(t)
	stick, old := t.TempDir(), t.TempDir()
	in, out := c.says(c.carl, 3, "drinnen"), c.says(c.anna, 3, "draußen")
	c.settle()
	c.out(stick)
	bags := func(place string) (names []string) {
		names, err := filepath.Glob(filepath.Join(place, courier.Folder, "*.bag"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	change := func(name string, f func([]byte) []byte) {
		raw, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, f(raw), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for what, f := range map[string]func([]byte) []byte{
		"damaged":    func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"broken off": func(b []byte) []byte { return b[:len(b)/2] },
	} {
		change(bags(stick)[0], f)
		if s := c.plug(stick); !strings.Contains(s, "is damaged, or not its own") {
			t.Errorf("%s: the box says %s", what, s)
		}
		for _, name := range bags(stick) {
			change(name, f)
		}
		taken, err := c.home(stick)
		said := err != nil
		for _, b := range taken {
			said = said || len(b.Troubles) > 0
		}
		if !said {
			t.Errorf("%s: the hub says nothing of %+v", what, taken)
		}
		if err := os.RemoveAll(filepath.Join(stick, courier.Folder)); err != nil {
			t.Fatal(err)
		}
		c.out(stick)
	}
	c.plug(stick)
	c.anna.until("the good one", c.anna.has(in...))

	// A bag of somebody else, under the hub's name and under his own.
	_, thief, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	strange := t.TempDir()
	d, err := courier.Open(strange, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	self, to := peer.IDOf(publicKey(thief)), c.box.stickSelf()
	err = courier.Stow(d, self, to, func(w io.Writer, _, after int64) (bool, error) {
		b, err := courier.NewBagWriter(w, thief, to, after+1)
		if err == nil {
			err = b.End([]byte(`{"answer":{"server":"hub.test","epoch":"x"}}`))
		}
		return true, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if s := c.plug(strange); !strings.Contains(s, "with which this box is not paired") {
		t.Errorf("of another hub: the box says %s", s)
	}
	if _, err := c.home(strange); err == nil || !strings.Contains(err.Error(), "another hub") {
		t.Errorf("of another hub: %v", err)
	}
	if _, err := c.home(t.TempDir()); err == nil || !strings.Contains(err.Error(), "holds no folder") {
		t.Errorf("an empty one: %v", err)
	}

	// The hub's memory is put back from a copy. What the box wrote before that counts for nothing and is told; the next stick brings all.
	out = append(out, c.says(c.anna, 2, "noch vor dem Einspielen")...)
	c.plug(stick)
	if err := os.CopyFS(old, os.DirFS(stick)); err != nil {
		t.Fatal(err)
	}
	c.stopHub()
	kept, err := spool.Open(filepath.Join(c.hubDir, "spool.db"), spool.Limits{}, nil)
	if err == nil {
		err = errors.Join(kept.Restored(t.Context()), kept.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	c.startAgain()
	got := c.mustHome(old)
	if got.Dealt != 0 || got.Letters != 0 || !strings.Contains(strings.Join(got.Troubles, " "), "hallig-hub restored") {
		t.Errorf("from before: %+v", got)
	}
	c.out(stick)
	c.plug(stick)
	if got = c.mustHome(stick); got.Letters == 0 || got.Refused != 0 || len(got.Troubles) > 0 || c.waits() != 0 {
		t.Errorf("after it: %+v, %d wait", got, c.waits())
	}
	c.carl.until("what the stick brought", c.carl.has(out...))

	// The box is turned away.
	c.plug(stick)
	if err := hub.Ask(t.Context(), c.hubDir, "POST", "/revoke", hub.Order{Box: "box1.test", Reason: "gestohlen"}, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.home(stick); err == nil || !strings.Contains(err.Error(), "turned away (gestohlen)") {
		t.Errorf("of a box that was turned away: %v", err)
	}
	err = hub.CourierExport(t.Context(), c.hubDir, stick, []string{"box1.test"}, func(hub.BagSent) {})
	if err == nil || !strings.Contains(err.Error(), "turned away") {
		t.Errorf("for a box that was turned away: %v", err)
	}
}

// startAgain opens the hub over its directory, where it was.
func (c *carried) startAgain() {
	c.Helper()
	c.hub, c.stopHub = startHubAt(c.T, c.ca, c.servers, c.hubDir, c.hub.World().String(), strings.Split(c.hub.Addrs()[0], "/p2p/")[0])
}
