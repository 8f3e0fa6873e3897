// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/radio/ether"
	"hallig/sync/federation"
)

// graph is the part of a whole box that asks other servers for what lies between events that came and those that are here, over the
// link like all requests. Boxes of stories that do not need it have none.
type graph struct {
	client  *federation.Client
	intake  *federation.Intake
	sender  *federation.Sender
	handler http.Handler
	work    sync.WaitGroup
}

// federate gives a box its graph, as composition does; the box's rooms are there.
func (b *box) federate() {
	l := federation.Local{Server: b.name, Key: b.sign}
	ring := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(l), DB: b.db, Now: b.now, Paired: func(server, keyID string) ed25519.PublicKey {
		p, _ := b.roster.ByServer(server)
		return p.SigningKeys[keyID]
	}})
	g := &graph{}
	over := asked(func(r *http.Request) (*http.Response, error) { return b.link.RoundTripper().RoundTrip(r) })
	g.client = federation.NewClient(federation.ClientConfig{Local: l, Transport: over, Ring: ring, Rooms: b.rooms, Now: b.now, Log: b.logger(),
		Longer: func(server, path string) time.Duration { return b.link.Patience(server, path) }})
	g.intake = federation.NewIntake(federation.IntakeConfig{Local: l, DB: b.db, Rooms: b.rooms, Client: g.client, Log: b.logger()})
	g.sender = federation.NewSender(federation.SenderConfig{Local: l, DB: b.db, Rooms: b.rooms, Client: g.client, Intake: g.intake, Log: b.logger(),
		IsBox: func(server string) bool { _, ok := b.roster.ByServer(server); return ok }})
	g.handler = federation.NewHandler(federation.HandlerConfig{Locals: federation.Only(l), DB: b.db, Ring: ring, Rooms: b.rooms, Client: g.client, Intake: g.intake,
		Now: b.now, Log: b.logger()})
	b.graph = g
}

type asked func(*http.Request) (*http.Response, error)

func (f asked) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// run works until ctx ends; halt waits for it.
func (g *graph) run(ctx context.Context, failed func(string, error)) {
	for what, run := range map[string]func(context.Context) error{"intake": g.intake.Run, "sender": g.sender.Run} {
		g.work.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				failed(what, err)
			}
		})
	}
}

// ServeHTTP answers joins as all boxes of these tests do, and the rest as a whole box does.
func (b *box) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if b.graph != nil && strings.HasPrefix(r.URL.Path, "/_matrix/") {
		b.graph.handler.ServeHTTP(w, r)
		return
	}
	b.serve(w, r)
}

// stage is what inbox is given for events whose ancestors the link does not bring.
func (b *box) stage() func(context.Context, string, *event.PDU) error {
	if b.graph == nil {
		return nil
	}
	return b.graph.intake.Take
}

// A hundred events of history are more than a narrow line brings in the minute that answers may take elsewhere.
func TestHistoryOverANarrowLine(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b := w.box("anna"), w.box("bert")
		a.asks, b.asks = true, true
		pair(a, b)
		cfg := ether.Config{BitsPerSecond: 300, Seed: 7}
		radioed(ether.New(cfg), cfg, a, b)
		w.start()
		pass(time.Minute)
		id := a.create("anna")
		var last event.ID
		for i := range 120 {
			last = a.text(id, "anna", fmt.Sprintf("Meldung %d: Wasserstand %d cm, Wind aus Nordwest", i, i*7919%900))
		}
		v, err := a.rooms.Version(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		b.join(a, id, "bert")
		began := time.Now()
		got, err := b.graph.client.History(t.Context(), a.name, id, v, []event.ID{last}, 100)
		if err != nil || len(got) != 100 {
			t.Fatalf("%d events of history after %v, error %v, want 100", len(got), time.Since(began), err)
		}
		t.Logf("100 events of history over 300 bit/s in %v", time.Since(began))
	})
}
