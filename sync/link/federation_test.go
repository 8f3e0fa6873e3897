// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"strings"
	"sync"

	"hallig/appliance/event"
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
	g.client = federation.NewClient(federation.ClientConfig{Local: l, Transport: over, Ring: ring, Rooms: b.rooms, Now: b.now, Log: b.logger()})
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
