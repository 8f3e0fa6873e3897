// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/steward"
)

// fakeSteward is a first process that runs a release and takes what it is given.
type fakeSteward struct {
	t       *testing.T
	state   steward.State
	file    []byte       // what it gives on
	broken  atomic.Int32 // so many answers end in the middle
	asked   atomic.Int32
	refuses steward.Text
	took    atomic.Pointer[[]byte]
}

func (f *fakeSteward) listen(dir string) {
	l, err := net.Listen("unix", filepath.Join(dir, "steward.sock"))
	if err != nil {
		f.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(f.state); err != nil {
			f.t.Error(err)
		}
	})
	mux.HandleFunc("GET /update/file", func(w http.ResponseWriter, _ *http.Request) {
		f.asked.Add(1)
		if f.broken.Add(-1) >= 0 {
			w.Write(f.file[:len(f.file)/2+min(1000, int(f.broken.Load()))])
			panic(http.ErrAbortHandler)
		}
		w.Write(f.file)
	})
	mux.HandleFunc("POST /update", func(w http.ResponseWriter, r *http.Request) {
		if !f.refuses.Empty() {
			w.WriteHeader(http.StatusConflict)
			json.NewEncoder(w).Encode(steward.Answer{Error: f.refuses})
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusConflict)
			json.NewEncoder(w).Encode(steward.Answer{Error: steward.Text{De: "unvollständig", En: "incomplete"}})
			return
		}
		f.took.Store(&b)
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("PUT /led", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })
	srv := &http.Server{Handler: mux}
	go srv.Serve(l) // the clean-up ends it
	f.t.Cleanup(func() { srv.Close() })
}

func newSteward(t *testing.T, dir string, release int64, board string) *fakeSteward {
	t.Helper()
	f := &fakeSteward{t: t, file: make([]byte, 3<<20), state: steward.State{
		Version: "1." + string(rune('0'+release)), Release: release, Slot: "a", Machine: steward.Machine{Board: board}, Update: steward.Update{State: steward.UpdateNone},
	}}
	rand.Read(f.file)
	f.listen(dir)
	return f
}

// TestUpdateFromABox: the box with the older system takes the newer one from the box beside it.
func TestUpdateFromABox(t *testing.T) {
	ctx := t.Context()
	dirs := [2]string{t.TempDir(), t.TempDir()}
	old, newer := newSteward(t, dirs[0], 3, "amd64"), newSteward(t, dirs[1], 5, "amd64")
	near := P2PConfig{NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}
	b := startWith(t, Config{Data: t.TempDir(), Run: dirs[1], TLSListen: "off", ServerName: "b.test", P2P: near})
	near.Peers = b.exchange.host.Addrs()
	cfg := Config{Data: t.TempDir(), Run: dirs[0], TLSListen: "off", ServerName: "a.test", P2P: near}
	a := startWith(t, cfg)
	if _, err := a.updateFrom(ctx, ""); err == nil || !strings.Contains(err.Error(), "no newer system") {
		t.Errorf("alone: %v", err)
	}
	paired(t, a, b)
	a.end()
	a = startWith(t, cfg)
	a.sharing.again = 10 * time.Millisecond
	anna := a.phone("anna")
	anna.until("the other box", func() bool { return a.exchange.host.InReach("b.test") && b.exchange.host.InReach("a.test") })

	if offers, err := b.updateOffers(ctx); err != nil || len(offers) != 0 {
		t.Errorf("the newer box is offered %v, %v", offers, err)
	}
	var offers []admin.UpdateOffer
	if err := Ask(ctx, cfg.Data, "GET", "/update/offers", nil, &offers); err != nil || len(offers) != 1 || offers[0] != (admin.UpdateOffer{Box: "b.test", Version: "1.5", Release: 5}) {
		t.Fatalf("offers %+v, %v", offers, err)
	}
	old.refuses = steward.Text{De: "kein Platz", En: "no room"}
	if err := Ask(ctx, cfg.Data, "POST", "/update/from", map[string]string{"Box": "b.test"}, nil); err == nil || err.Error() != "no room" {
		t.Errorf("a refusal of the first process reads %v", err)
	}
	old.refuses = steward.Text{}
	newer.asked.Store(0)
	newer.broken.Store(3) // the second and third answers end before what came already: nothing new
	if got, err := a.updateFrom(ctx, ""); err != nil || got.Release != 5 {
		t.Fatalf("%+v, %v", got, err)
	}
	if took := old.took.Load(); took == nil || !bytes.Equal(*took, newer.file) {
		t.Error("what came is not what was given")
	}
	if n := newer.asked.Load(); n != 4 {
		t.Errorf("asked %d times for a file that was cut off 3 times", n)
	}
	short, stop := context.WithTimeout(ctx, 2*time.Second)
	newer.broken.Store(1 << 20)
	old.took.Store(nil)
	if _, err := a.updateFrom(short, "b.test"); err == nil || old.took.Load() != nil {
		t.Errorf("half a file was taken for a whole one: %v", err)
	}
	stop()
	newer.broken.Store(0)
	if _, err := a.updateFrom(ctx, "c.test"); err == nil || !strings.Contains(err.Error(), "c.test") {
		t.Errorf("an unknown box: %v", err)
	}
	newer.state.Machine.Board = "rpi"
	if offers, err := a.updateOffers(ctx); err != nil || len(offers) != 0 {
		t.Errorf("another kind of box offers %v, %v", offers, err)
	}
	newer.state.Machine.Board, newer.state.Trial, newer.state.Update.State = "amd64", true, steward.UpdateTrial
	if offers, err := a.updateOffers(ctx); err != nil || len(offers) != 0 {
		t.Errorf("a system on trial is given on: %v, %v", offers, err)
	}
}

func TestUpdateWithoutAnImage(t *testing.T) {
	b := startBox(t, "b.test")
	if err := Ask(t.Context(), b.cfg.Data, "POST", "/update/from", map[string]string{"Box": ""}, nil); err == nil || !strings.Contains(err.Error(), "does not run from the image") {
		t.Errorf("%v", err)
	}
}

// What a box that updates itself does, by what it sees.
func TestNextStep(t *testing.T) {
	stick := func(release int64, newer bool) []steward.Stick {
		return []steward.Stick{{Updates: []steward.Bundle{{Path: "/s/u", Release: release, Newer: newer}}}}
	}
	offer := []admin.UpdateOffer{{Box: "b", Release: 6}, {Box: "c", Release: 5}}
	for name, x := range map[string]struct {
		s      steward.State
		offers []admin.UpdateOffer
		quiet  time.Duration
		want   autoStep
	}{
		"nothing new":                    {steward.State{Release: 6}, offer, time.Hour, autoStep{}},
		"the newest of the boxes":        {steward.State{Release: 4}, offer, 0, autoStep{Box: "b"}},
		"the stick has a newer one":      {steward.State{Release: 4, Sticks: stick(7, true)}, offer, 0, autoStep{Stick: "/s/u"}},
		"the stick has an older one":     {steward.State{Release: 4, Sticks: stick(5, true)}, offer, 0, autoStep{Box: "b"}},
		"the stick's is refused":         {steward.State{Release: 4, Sticks: stick(7, false)}, nil, 0, autoStep{}},
		"it failed once":                 {steward.State{Release: 4, Update: steward.Update{State: steward.UpdateFailed, Release: 6}}, offer, 0, autoStep{Box: "c"}},
		"somebody went back from it":     {steward.State{Release: 4, Update: steward.Update{State: steward.UpdateNone, Release: 6}}, offer, 0, autoStep{Box: "c"}},
		"all that there is failed":       {steward.State{Release: 4, Update: steward.Update{State: steward.UpdateFailed, Release: 6}}, offer[:1], 0, autoStep{}},
		"written, people write":          {steward.State{Release: 4, Update: steward.Update{State: steward.UpdateWritten, Release: 6}}, offer, time.Minute, autoStep{}},
		"written, and quiet":             {steward.State{Release: 4, Update: steward.Update{State: steward.UpdateWritten, Release: 6}}, offer, time.Hour, autoStep{Start: true}},
		"being written":                  {steward.State{Release: 4, Update: steward.Update{State: steward.UpdateWriting}}, offer, time.Hour, autoStep{}},
		"on trial":                       {steward.State{Release: 4, Trial: true, Update: steward.Update{State: steward.UpdateTrial}}, offer, time.Hour, autoStep{}},
		"kept, and something newer came": {steward.State{Release: 5, Trial: true, Update: steward.Update{State: steward.UpdateDone, Release: 5}}, offer, 0, autoStep{Box: "b"}},
	} {
		if got := nextStep(x.s, x.offers, x.quiet); got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}
