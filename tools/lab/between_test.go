// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestBoxInBetween: two boxes that know each other have no way but two serial lines to a third one, where nobody is in the room: invite,
// join, talk, keys and messages between devices; the third box is taken away and comes back, and holds nothing that it could read.
func TestBoxInBetween(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	r := newBox(t, "norderoog.example")
	link := r.listenP2P()
	r.start()
	pair(t, r, n.a, link.Addr())
	pair(t, r, n.b, link.Addr())
	first, second := layCable(t, 19200), layCable(t, 19200)
	for _, b := range []*box{n.a, n.b, r} {
		b.stop()
		b.config["p2p"] = map[string]any{"off": true}
	}
	first.use(n.a, 0)
	second.use(n.b, 0)
	left, right := filepath.Join(t.TempDir(), "ttyLeft"), filepath.Join(t.TempDir(), "ttyRight") // a box knows its ports by different names
	ok(t, "name the left port", os.Symlink(first.devices[1], left))
	ok(t, "name the right port", os.Symlink(second.devices[1], right))
	r.config["serial"] = []map[string]any{{"device": left, "baud": 19200}, {"device": right, "baud": 19200}}
	for _, b := range []*box{n.a, n.b, r} {
		b.start()
	}
	t.Logf("a way over the third box after %v", n.awaitCarrier(t, inTime, "relay"))
	began := time.Now()
	room := n.meet(t, ctx)
	t.Logf("invited and joined after %v", time.Since(began))
	began = time.Now()
	talk(t, ctx, room, n.anna, n.bert, "Moin Langeneß, hier Hooge")
	talk(t, ctx, room, n.bert, n.anna, "Moin Hooge")
	t.Logf("a text each way in %v", time.Since(began))
	keysTravel(t, ctx, n.anna, n.bert)
	if p := r.status(); p.Rooms != 0 {
		t.Errorf("the box in between is in %d rooms", p.Rooms)
	}

	// Without the third box there is no way; what is written meanwhile comes afterwards.
	r.kill()
	n.awaitCarrier(t, inTime, "")
	ids := n.writeTexts(t, ctx, room, 3)
	r.start()
	took := eventually(t, inTime, "both sides equal", func() error { return same(ctx, room, n.anna, n.bert, ids) })
	t.Logf("equal %v after the third box came back", took)
	eventually(t, inTime, "nothing carried", func() error {
		if c := r.status().Carried; len(c.For) > 0 {
			return &stillCarried{len(c.For)}
		}
		return nil
	})
	r.stop()
	files, err := filepath.Glob(filepath.Join(r.dir, "hallig.db*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("files of the box in between: %v, %v", files, err)
	}
	for _, f := range files {
		raw, err := os.ReadFile(f)
		ok(t, "read "+f, err)
		for _, what := range []string{"Moin", room, room[1:], n.anna.UserID, n.bert.UserID, "Deich"} {
			if bytes.Contains(raw, []byte(what)) {
				t.Errorf("%s of the box in between holds %q", filepath.Base(f), what)
			}
		}
	}
}

type stillCarried struct{ boxes int }

func (*stillCarried) Error() string { return "the box in between still carries" }
