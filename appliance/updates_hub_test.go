// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/update"
	"hallig/sync/hub"
	"hallig/tools/testpeer"
)

// contactNow has the box speak with its hub at once, and waits for the answer.
func contactNow(t *testing.T, b *running) {
	t.Helper()
	h := &b.exchange.post
	h.mu.Lock()
	h.answer, h.next = nil, time.Time{}
	h.mu.Unlock()
	awaitHub(t, "the contact", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.answer != nil
	})
}

// TestUpdateFromTheHub: the box hears of the update that the hub has for it, takes it, and a hub with a failure tells nobody more. Its own law stays: what was withdrawn ends, people go first, and who
// wants nothing from the hub gets nothing.
func TestUpdateFromTheHub(t *testing.T) {
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h, dir, _ := startHub(t, ca, nil)
	run := t.TempDir()
	box := newSteward(t, run, 3, "amd64")
	cfg := Config{Data: t.TempDir(), Run: run, TLSListen: "off", ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"}}
	b := startWith(t, cfg)
	b.sharing.again, b.sharing.pause = 10*time.Millisecond, 10*time.Millisecond
	var code hub.Code
	if err := hub.Ask(t.Context(), dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, h.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "the contact", func() bool { return b.hubStatus().InReach && !b.hubStatus().Heard.IsZero() })

	data := make([]byte, 200_000)
	_, _ = rand.Read(data) // never fails
	var file bytes.Buffer
	if _, err := update.Write(&file, update.Manifest{Product: update.Product, Board: "amd64", Version: "1.5", Release: 5},
		[]update.Source{{File: update.RootPart, Data: bytes.NewReader(data), Size: int64(len(data))}}, update.GenerateKey("test")); err != nil {
		t.Fatal(err)
	}
	if err := hub.Ask(t.Context(), dir, "POST", "/update", bytes.NewReader(file.Bytes()), nil); err != nil {
		t.Fatal(err)
	}
	contactNow(t, b)
	if offers, err := b.updateOffers(t.Context()); err != nil || len(offers) != 0 {
		t.Errorf("before it is rolled out: %v %v", offers, err)
	}
	roll := func() {
		t.Helper()
		if err := hub.Ask(t.Context(), dir, "POST", "/update/1.5", hub.Roll{Boxes: []string{"box1.test"}}, nil); err != nil {
			t.Fatal(err)
		}
		contactNow(t, b)
	}
	roll()
	var offers []admin.UpdateOffer
	if err := Ask(t.Context(), cfg.Data, "GET", "/update/offers", nil, &offers); err != nil || len(offers) != 1 || offers[0] != (admin.UpdateOffer{Box: "hub.test", Version: "1.5", Release: 5}) {
		t.Fatalf("%+v %v", offers, err)
	}
	if err := b.updateByItself(t.Context(), quietForHub-time.Second); err != nil || box.took.Load() != nil {
		t.Errorf("while people write: %v", err)
	}
	b.cfg.Provisioned.Updates = &provision.Updates{Window: time.Now().Add(2*time.Hour).Format("15:04") + "-" + time.Now().Add(3*time.Hour).Format("15:04")}
	if err := b.updateByItself(t.Context(), time.Hour); err != nil || box.took.Load() != nil {
		t.Errorf("outside the window: %v", err)
	}
	b.cfg.Provisioned.Updates = &provision.Updates{NoHub: true}
	if err := b.updateByItself(t.Context(), time.Hour); err != nil || box.took.Load() != nil {
		t.Errorf("a box that wants nothing from its hub: %v", err)
	}
	if _, err := b.updateFrom(t.Context(), "hub.test"); err == nil {
		t.Error("by hand, too")
	}
	b.cfg.Provisioned.Updates = nil
	if err := b.updateByItself(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	if took := box.took.Load(); took == nil || !bytes.Equal(*took, file.Bytes()) {
		t.Error("what came is not what was laid down")
	}
	// Stopped in the middle: the box does not wait for what does not come.
	if err := hub.Ask(t.Context(), dir, "POST", "/update/1.5", hub.Roll{Stop: "test"}, nil); err != nil {
		t.Fatal(err)
	}
	box.took.Store(nil)
	short, stop := context.WithTimeout(t.Context(), inTime)
	if _, err := b.updateFrom(short, "hub.test"); err == nil || box.took.Load() != nil || short.Err() != nil {
		t.Errorf("withdrawn: %v, %v", err, short.Err())
	}
	stop()
	roll()
	// The trial fails: the hub hears of it at the next contact, and tells nobody more.
	box.state.Update = steward.Update{State: steward.UpdateFailed, Version: "1.5", Release: 5, Error: steward.Text{De: "nein", En: "no answer on trial"}}
	contactNow(t, b)
	var s hub.Status
	if err := hub.Ask(t.Context(), dir, "GET", "/status", nil, &s); err != nil || s.Updates[0].Stopped != "box1.test: no answer on trial" || s.Boxes[0].Said.Board != "amd64" || s.Boxes[0].Said.Release != 3 {
		t.Errorf("%+v %+v %v", s.Updates, s.Boxes, err)
	}
	if offers, err := b.updateOffers(t.Context()); err != nil || len(offers) != 0 {
		t.Errorf("after the failure: %v %v", offers, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "updates")); err != nil || len(left) != 2 {
		t.Errorf("%v %v", left, err)
	}
}

// A transfer by itself rests while people write.
func TestTransferRests(t *testing.T) {
	b := startBox(t, "b.test")
	b.sharing.pause = time.Hour
	polite := &transfer{b: b.Box, ctx: t.Context(), polite: true, position: b.db.Published()}
	if !polite.rest() {
		t.Error("it ends when nobody has written")
	}
	b.sharing.pause = 50 * time.Millisecond
	polite.position--
	began := time.Now()
	if !polite.rest() || time.Since(began) < b.sharing.pause || polite.position != b.db.Published() {
		t.Error("it goes on while people write")
	}
	if by := (&transfer{b: b.Box, ctx: t.Context(), position: polite.position - 1}); !by.rest() || by.position == polite.position {
		t.Error("what somebody asked for rests")
	}
}

func TestMayUpdate(t *testing.T) {
	at := time.Date(2026, 11, 27, 3, 0, 0, 0, time.Local)
	for name, tt := range map[string]struct {
		window string
		sure   bool
		quiet  time.Time
		want   bool
	}{
		"at any time": {"", false, time.Time{}, true}, "in the window": {"02:00-05:00", true, time.Time{}, true}, "not sure of the time": {"02:00-05:00", false, time.Time{}, false},
		"outside": {"04:00-05:00", true, time.Time{}, false}, "after a flash": {"", true, at.Add(time.Minute), false}, "long after one": {"", true, at.Add(-time.Minute), true},
	} {
		b := &Box{cfg: Config{Provisioned: provision.File{Updates: &provision.Updates{Window: tt.window}}}}
		if got := b.mayUpdate(at, tt.sure, tt.quiet); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
