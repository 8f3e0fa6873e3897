// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"crypto/ed25519"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
)

// Whoever looks after a hub reads what goes wrong with what comes from outside, and what to do; and nothing of it changes what is kept. DESIGN.md has the table.
func TestBadInputIsSaid(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	other := w.newBox("box2.test")
	for _, b := range []*testBox{b, other} {
		if status, _ := b.deposit(b.contact()); status != 200 {
			t.Fatal(status)
		}
	}
	const out = "/_matrix/federation/v1/send/9"
	inName := func(server string, key event.Key) (int, int) {
		status, _ := b.ask("far.test", "PUT", out, signed(t, federation.Local{Server: server, Key: key}, "far.test", "PUT", out, nil), nil)
		return status, 403
	}
	send := func(n int) int {
		uri, header, body := w.far.transaction("box1.test", n)
		status, _ := w.ask("box1.test", "PUT", uri, header, body)
		return status
	}
	failing := func(err error) {
		w.spool.fail(func(what string) error {
			if what == "Append" {
				return err
			}
			return nil
		})
	}
	for _, tt := range []struct {
		what     string
		do       func() (status, want int)
		level    string
		sentence string
	}{
		{"one server floods a box", func() (int, int) { failing(spool.ErrFull); return send(1), 429 }, "ERROR", "bring the box in contact with the hub, or turn it away with hallig-hub revoke"},
		{"the disk is full", func() (int, int) { failing(spool.ErrNoSpace); return send(2), 429 }, "ERROR", "see to its space and start the hub again"},
		{"an address floods", func() (int, int) { failing(nil); w.hub.crowded(netip.MustParsePrefix("192.0.2.1/32")); return 0, 0 }, "WARN", "shut it out at the firewall"},
		{"a box asks in another's name", func() (int, int) { return inName("other.test", b.id.Key) }, "WARN", "a box asks in another's name"},
		{"a box forges a request of another box", func() (int, int) {
			forged := other.id.Key
			forged.Private = b.id.Key.Private
			return inName("box2.test", forged)
		}, "WARN", "turn it away with hallig-hub revoke"},
		{"a box lies about its papers", func() (int, int) {
			c := b.contact()
			c.KeyDocument = []byte(`{"server_name":"box2.test"}`)
			status, _ := b.deposit(c)
			return status, 400
		}, "WARN", "what a box says of itself was not taken"},
		{"a server's key cannot be had", func() (int, int) {
			uri, body := sendPath+"1", []byte(`{"pdus":[]}`)
			status, _ := w.ask("box1.test", "PUT", uri, signed(t, federation.Local{Server: "gone.test", Key: w.far.Key}, "box1.test", "PUT", uri, body), body)
			return status, 429
		}, "WARN", "is the sender's name in reach of this hub?"},
		{"a box takes nothing", func() (int, int) {
			b.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
			status := send(3)
			w.await("the sentence", func() bool { return w.log.has("WARN", "a box does not take what waits for it") })
			b.answers(nil)
			return status, 200
		}, "WARN", "it is tried again"},
	} {
		if status, want := tt.do(); status != want {
			t.Errorf("%s: %d, want %d", tt.what, status, want)
		}
		if !w.log.has(tt.level, tt.sentence) {
			t.Errorf("%s: nobody is told %q", tt.what, tt.sentence)
		}
	}
	w.await("what was acknowledged to be taken", func() bool { return w.waiting("box1.test") == 0 })
	if got := b.heard(); len(got) < 2 || w.waiting("box2.test") != 0 || len(w.far.asked) != 0 {
		t.Errorf("the box heard %q, the far server %q", got, w.far.asked)
	}
}

// A key document that ends is told of before it does, and is still shown afterwards: events of its time are verified with it.
func TestKeyDocumentThatEnds(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	c := b.contact()
	b.deposit(c)
	b.away()
	now := time.Now()
	h := &Hub{spool: w.spool, log: w.hub.log, now: func() time.Time { return now }}
	h.roster.Store(w.hub.roster.Load())
	const sentence = "bring the box in contact with the hub, with the right time (hallig clock)"
	if h.watchKeys(t.Context()); w.log.has("WARN", sentence) {
		t.Error("told a year before")
	}
	now = endOf(c.KeyDocument).Add(-13 * 24 * time.Hour)
	if h.watchKeys(t.Context()); !w.log.has("WARN", sentence) {
		t.Error("nobody is told that it ends")
	}
	past := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(federation.Local{Server: "box1.test", Key: b.id.Key}), Now: func() time.Time { return time.Now().AddDate(-2, 0, 0) }})
	old, err := past.Document(federation.Local{Server: "box1.test", Key: b.id.Key})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.spool.Deposit(t.Context(), "box1.test", kindKey, "", old); err != nil {
		t.Fatal(err)
	}
	if status, out := w.ask("box1.test", "GET", keyPath, nil, nil); status != 200 || string(out) != string(old) {
		t.Errorf("after its end: %d %s", status, out)
	}
}

// A box that was put back from a backup older than its last key does not put the old key in the place of the new one; it is told what to do, and after that all is well.
func TestBoxFromAnOldBackup(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	before := b.id
	rotate := func(from identity.Identity) identity.Identity {
		t.Helper()
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		old, _ := from.Key.Private.Public().(ed25519.PublicKey)
		from.Old = map[string]federation.OldKey{from.Key.ID: {Key: old, ExpiredTS: time.Now().UnixMilli()}}
		from.Key = key
		return from
	}
	b.id = rotate(before)
	last := b.contact()
	if status, _ := b.deposit(last); status != 200 {
		t.Fatal(status)
	}
	document := func() string {
		t.Helper()
		doc, err := w.spool.Deposited(t.Context(), "box1.test", kindKey, "")
		if err != nil {
			t.Fatal(err)
		}
		return string(doc)
	}
	b.id = before // the backup
	if status, _ := b.deposit(b.contact()); status != 400 || document() != string(last.KeyDocument) {
		t.Errorf("from the backup: %d, deposited %s", status, document())
	}
	if !w.log.has("WARN", "hallig key rotate") {
		t.Error("nobody is told what to do")
	}
	b.id = rotate(before) // as it is told; its statement has the number of the one that was lost
	c := b.contact()
	if status, _ := b.deposit(c); status != 200 || document() != string(c.KeyDocument) || w.hub.signingKey("box1.test", b.id.Key.ID) == nil {
		t.Errorf("with a new key: %d, deposited %s", status, document())
	}
}

// A hub that has lost its memory says so, and turns nobody away for good: the same boxes pair again.
func TestLostMemoryIsSaid(t *testing.T) {
	w := newWorld(t)
	const sentence = "put the newest copy back and say so with hallig-hub restored, or pair the boxes again"
	if w.log.has("WARN", sentence) {
		t.Error("said of a new hub")
	}
	b := w.newBox("box1.test")
	if err := w.spool.Remove(t.Context(), "box1.test"); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.start()
	if !w.log.has("WARN", sentence) {
		t.Error("nobody is told")
	}
	code, _, err := w.hub.p2p.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.host.Take(t.Context(), code.String(), w.hub.Addrs()[0]); err != nil {
		t.Errorf("paired again: %v", err)
	}
}
