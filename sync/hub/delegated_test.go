// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
)

// delegating is a box that lets the hub sign.
type delegating struct {
	*testBox
	local federation.Local
	ring  *federation.KeyRing
}

func (b *testBox) delegating() *delegating {
	d := &delegating{testBox: b, local: federation.Local{Server: b.id.Server, Key: b.id.Key, Old: b.id.Old}}
	d.ring = federation.NewKeyRing(federation.KeyRingConfig{Locals: func(name string) (federation.Local, bool) { return d.local, name == d.local.Server }})
	return d
}

// says makes contact in a mode, as a box does, and takes what the hub answers.
func (d *delegating) says(mode string) api.Answer {
	d.t.Helper()
	c := d.contact()
	c.Mode = mode
	var err error
	if c.KeyDocument, err = d.ring.Document(d.local); err != nil {
		d.t.Fatal(err)
	}
	if mode == api.Delegate {
		if c.Proposal, err = d.ring.Proposal(d.local); err != nil {
			d.t.Fatal(err)
		}
	}
	status, a := d.deposit(c)
	if status != 200 {
		d.t.Fatalf("contact: %d", status)
	}
	if a.Delegated != nil && a.Delegated.Document != nil {
		if err := d.ring.Cosigned(d.local, c.Proposal, a.Delegated.Document); err != nil {
			d.t.Error(err)
		}
	}
	return a
}

// agrees goes through the contacts after which the hub may sign.
func (d *delegating) agrees() api.Delegated {
	d.t.Helper()
	a := d.says(api.Delegate)
	if a.Delegated == nil || a.Mode != api.Delegate {
		d.t.Fatalf("no key was offered: %+v", a)
	}
	d.local.Delegated = federation.DelegatedKey{ID: a.Delegated.ID, Key: ed25519.PublicKey(a.Delegated.Key)}
	if a = d.says(api.Delegate); a.Delegated == nil || a.Delegated.Document == nil {
		d.t.Fatalf("the proposal was not signed: %+v", a)
	}
	return *a.Delegated
}

// retires takes the hub's key back.
func (d *delegating) retires() {
	key, err := identity.NewKey()
	if err != nil {
		d.t.Fatal(err)
	}
	now := time.Now().UnixMilli()
	pub, _ := d.local.Key.Private.Public().(ed25519.PublicKey)
	d.local = federation.Local{Server: d.local.Server, Key: key, Old: map[string]federation.OldKey{
		d.local.Key.ID: {Key: pub, ExpiredTS: now}, d.local.Delegated.ID: {Key: d.local.Delegated.Key, ExpiredTS: now}}}
	d.id.Key, d.id.Old = d.local.Key, d.local.Old
}

// signsFor gives the key with which the hub signs for a box; "": it does not.
func (w *world) signsFor(box string) string {
	w.Helper()
	l, ok := w.hub.delegated(w.Context(), box)
	if ok && l.Server != box {
		w.Errorf("it signs for %s as %s", box, l.Server)
	}
	return l.Key.ID
}

func mustBox(w *world, server string) entry {
	w.Helper()
	e, ok := w.hub.box(server)
	if !ok {
		w.Fatal(server, " is not known")
	}
	return e
}

// A key is made for a box that asks for it, is used from the moment at which its key document lists it, over restarts of the hub, and not a moment longer.
func TestDelegate(t *testing.T) {
	w := newWorld(t)
	sealed, d := w.newBox("box1.test").delegating(), w.newBox("box2.test").delegating()
	if a := sealed.says(api.Sealed); a.Delegated != nil || a.Mode != api.Sealed || w.signsFor("box1.test") != "" {
		t.Errorf("a sealed box is offered a key: %+v", a)
	}
	a := d.says(api.Delegate)
	if a.Delegated == nil || w.signsFor("box2.test") != "" {
		t.Fatalf("before the document lists it: %+v, signs with %q", a, w.signsFor("box2.test"))
	}
	key := d.agrees()
	if key.ID != a.Delegated.ID || w.signsFor("box2.test") != key.ID {
		t.Errorf("signs with %q, want %q as offered, %q", w.signsFor("box2.test"), key.ID, a.Delegated.ID)
	}
	doc, err := w.hub.spool.Deposited(t.Context(), "box2.test", kindKey, "")
	if err != nil || federation.CheckDocument(doc, "box2.test") != nil || !bytes.Equal(doc, key.Document) {
		t.Errorf("others are shown %s, %v", doc, err)
	}
	if again := d.says(api.Delegate); again.Delegated.ID != key.ID || again.Delegated.Document != nil {
		t.Errorf("at the next contact: %+v", again.Delegated)
	}
	w.stop()
	w.start()
	d.back()
	if got := w.signsFor("box2.test"); got != key.ID {
		t.Errorf("after a restart of the hub it signs with %q, want %q", got, key.ID)
	}

	for mode, want := range map[spool.Mode]string{spool.Sealed: "", spool.Delegate: key.ID} { // the mode alone decides, too
		if err := w.hub.addBox(mustBox(w, "box2.test").Peer, mode); err != nil {
			t.Fatal(err)
		}
		if got := w.signsFor("box2.test"); got != want {
			t.Errorf("in the mode %s it signs with %q, want %q", mode, got, want)
		}
	}
	if err := w.hub.addBox(mustBox(w, "box2.test").Peer, spool.Delegate); err != nil {
		t.Fatal(err)
	}

	d.retires() // and stays in the mode
	if a := d.says(api.Delegate); a.Delegated == nil || a.Delegated.ID == key.ID || w.signsFor("box2.test") != "" {
		t.Errorf("after it was taken back: %+v, signs with %q", a.Delegated, w.signsFor("box2.test"))
	}
	second := d.agrees()
	if got := w.signsFor("box2.test"); got != second.ID || got == key.ID {
		t.Errorf("signs with %q, want another one, %q", got, second.ID)
	}
	d.retires() // to go back to sealed
	if a := d.says(api.Sealed); a.Delegated != nil || a.Mode != api.Sealed || w.signsFor("box2.test") != "" {
		t.Errorf("sealed again: %+v, signs with %q", a, w.signsFor("box2.test"))
	}
	if raw, err := w.hub.spool.Deposited(t.Context(), "box2.test", kindDelegated, ""); raw != nil || err != nil {
		t.Errorf("the hub still has %s, %v", raw, err)
	}
}

// The database alone has no key: it opens with the hub's box.key only, and for the box that it was made for.
func TestDelegatedKeyIsKeptSealed(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").delegating().agrees()
	e, _ := w.hub.box("box1.test")
	k, _, err := w.hub.keyOf(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := w.spool.Deposited(t.Context(), "box1.test", kindDelegated, "")
	if err != nil {
		t.Fatal(err)
	}
	var kept keptKey
	if err := json.Unmarshal(raw, &kept); err != nil || kept.ID != k.ID || bytes.Contains(kept.Sealed, k.Private.Seed()) {
		t.Errorf("kept as %s, %v", raw, err)
	}
	other := e
	other.Server = "box2.test"
	if err := w.spool.PutBox(t.Context(), spool.Box{Server: "box2.test", ID: "x", Mode: spool.Delegate}); err != nil {
		t.Fatal(err)
	}
	if err := w.spool.Deposit(t.Context(), "box2.test", kindDelegated, "", raw); err != nil {
		t.Fatal(err)
	}
	if k, _, err := w.hub.keyOf(t.Context(), other); err == nil {
		t.Errorf("the key opens for another box: %s", k.ID)
	}
	stranger := &Hub{cfg: w.hub.cfg, log: w.hub.log, spool: w.spool, id: w.hub.id}
	_, stranger.id.Box, err = ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if k, _, err := stranger.keyOf(t.Context(), e); err == nil {
		t.Errorf("the key opens with another box.key: %s", k.ID)
	}
	same := &Hub{cfg: w.hub.cfg, log: w.hub.log, spool: w.spool, id: w.hub.id, now: time.Now}
	same.roster.Store(w.hub.roster.Load())
	if l, ok := same.delegated(t.Context(), "box1.test"); !ok || l.Key.ID != k.ID {
		t.Error("another node with the same box.key has no key")
	}
}

// The hub's operator may forbid it, and nobody imposes it.
func TestDelegateForbidden(t *testing.T) {
	w := newWorld(t)
	d := w.newBox("box1.test").delegating()
	key := d.agrees()
	w.hub.cfg.NoDelegate = true
	if got := w.signsFor("box1.test"); got != "" {
		t.Errorf("signs with %q though it is forbidden", got)
	}
	if a := d.says(api.Delegate); a.Delegated != nil || a.Mode != api.Sealed {
		t.Errorf("the box hears %+v", a)
	}
	w.hub.cfg.NoDelegate = false
	if a := d.says(api.Delegate); a.Delegated == nil || a.Delegated.ID == key.ID {
		t.Errorf("allowed again: %+v; want a new key", a)
	}
}

// After an older copy of the memory was put back, a key in it may have been retired since: it signs nothing before the box has spoken.
func TestKeyOfAnOlderCopy(t *testing.T) {
	w := newWorld(t)
	d := w.newBox("box1.test").delegating()
	key := d.agrees()
	d.away()
	w.stop()
	if err := w.spool.Restored(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.start()
	if got := w.signsFor("box1.test"); got != "" {
		t.Errorf("signs with %q before the box has spoken", got)
	}
	d.back()
	if a := d.says(api.Delegate); a.Delegated == nil || a.Delegated.ID != key.ID || w.signsFor("box1.test") != key.ID {
		t.Errorf("the box hears %+v, and it signs with %q; want %q as before", a.Delegated, w.signsFor("box1.test"), key.ID)
	}
}

// With a box that is turned away goes the key.
func TestRevokedBoxHasNoKey(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").delegating().agrees()
	if err := w.hub.revoke(t.Context(), "box1.test", "stolen", false); err != nil {
		t.Fatal(err)
	}
	raw, err := w.spool.Deposited(t.Context(), "box1.test", kindDelegated, "")
	if got := w.signsFor("box1.test"); got != "" || raw != nil || err != nil {
		t.Errorf("signs with %q, has %s, %v", got, raw, err)
	}
}

// What a box proposes is signed when it lists the hub's key and is the box's own; all else changes nothing.
func TestProposals(t *testing.T) {
	w := newWorld(t)
	d, other := w.newBox("box1.test").delegating(), w.newBox("box2.test").delegating()
	d.agrees()
	before, _ := w.spool.Deposited(t.Context(), "box1.test", kindKey, "")
	other.agrees()
	theirs, _ := w.spool.Deposited(t.Context(), "box2.test", kindKey, "")
	for name, proposal := range map[string]string{
		"another box's": string(theirs), "no document": `{}`, "no object": `7`, "without the box's signature": strings.Replace(string(before), `"signatures"`, `"unsigned"`, 1),
		"of another hub": fmt.Sprintf(`{"server_name":"box1.test","verify_keys":{"ed25519:x":{"key":"%s"}},"old_verify_keys":{},"valid_until_ts":9999999999999}`, strings.Repeat("A", 43)),
	} {
		c := d.contact()
		c.Mode, c.Proposal = api.Delegate, json.RawMessage(proposal)
		c.KeyDocument, _ = d.ring.Document(d.local)
		if status, a := d.deposit(c); status != 200 || a.Delegated == nil || a.Delegated.Document != nil {
			t.Errorf("%s: %d %+v", name, status, a.Delegated)
		}
		if after, err := w.spool.Deposited(t.Context(), "box1.test", kindKey, ""); err != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: others are shown %s, %v", name, after, err)
		}
	}
	c := d.contact()
	c.Proposal = json.RawMessage(before)
	raw, _ := json.Marshal(c)
	if status, _ := d.ask("hub.test", "PUT", api.ContactPath, nil, raw); status != 400 {
		t.Errorf("a sealed box that proposes something: %d", status)
	}
}

// A letter whose signature a server does not take any more goes under the hub's, where the box lets it; a sealed box's waits for the box.
func TestLettersUnderTheSecondKey(t *testing.T) {
	w := newWorld(t)
	d, sealed := w.newBox("box1.test").delegating(), w.newBox("box2.test").delegating()
	key := d.agrees()
	sealed.says(api.Sealed)
	var bad atomic.Int64
	w.far.mu.Lock()
	w.far.next = func(rw http.ResponseWriter, r *http.Request) {
		a, err := federation.ParseAuthorization(r.Header.Get("Authorization"))
		switch {
		case err != nil || a.Key != key.ID:
			refuse(rw, 401, "M_UNAUTHORIZED", "no such key")
		case a.Origin != "box1.test" || a.Destination != "far.test":
			bad.Add(1)
			fallthrough
		default:
			answer(rw, 200, map[string]any{"pdus": struct{}{}})
		}
	}
	w.far.mu.Unlock()
	for _, b := range []*testBox{d.testBox, sealed.testBox} {
		if status, text := b.leave(b.letter(1)); status != 200 {
			t.Fatalf("%d %s", status, text)
		}
	}
	w.await("the letter to be through", func() bool { return w.hub.mail.Count.Done.Load() == 1 })
	w.await("the sealed box's to be tried", func() bool {
		n := 0
		for _, asked := range w.far.heard() {
			if strings.Contains(asked, `origin="box2.test"`) {
				n++
			}
		}
		return n > 0
	})
	if n := w.waiting("box2.test"); n != 1 || bad.Load() != 0 || w.waiting("box1.test") != 0 {
		t.Errorf("%d letters of the sealed box wait, want 1; %d requests were not as they should be", n, bad.Load())
	}
}
