// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/radio/ether"
	"hallig/sync/federation"
)

// federate gives a box the real Server-Server API: its handler answers what comes over the link, its client asks over it. It
// is called before the box starts; the parts are made when it has.
type federated struct {
	*box
	client  *federation.Client
	handler http.Handler
	intake  *federation.Intake
	stop    func()
}

func (f *federated) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.handler.ServeHTTP(w, r) }

func federate(b *box) *federated {
	f := &federated{box: b}
	b.handler = f
	return f
}

// run makes the parts over the box's store and rooms.
func (f *federated) run(ctx context.Context) {
	local := federation.Local{Server: f.name, Key: f.sign}
	paired := func(server, keyID string) ed25519.PublicKey {
		for _, o := range f.w.boxes {
			if o.name == server {
				return o.peer.SigningKeys[keyID]
			}
		}
		return nil
	}
	ring := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(local), DB: f.db, Paired: paired})
	f.client = federation.NewClient(federation.ClientConfig{Local: local, Transport: f.link.RoundTripper(), Ring: ring, Rooms: f.rooms, Log: f.logger()})
	f.intake = federation.NewIntake(federation.IntakeConfig{Local: local, DB: f.db, Rooms: f.rooms, Client: f.client, Log: f.logger()})
	f.handler = federation.NewHandler(federation.HandlerConfig{Locals: federation.Only(local), DB: f.db, Ring: ring, Rooms: f.rooms, Client: f.client,
		Intake: f.intake, Log: f.logger()})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = f.intake.Run(ctx) }) // it ends with ctx and then says so
	f.stop = func() { cancel(); wg.Wait() }
}

// populate makes a room of so many members on four servers, with a text between any two joins, as rooms grow: what a join
// names as its ancestor is nothing that the room's state tells.
func (f *federated) populate(t *testing.T, members int) event.RoomID {
	ctx := t.Context()
	id := f.create("anna")
	for i := range members - 2 { // the creator, and who will join
		from := f.w.boxes[[]int{0, 0, 2, 3}[i%4]]
		user := string(from.user(fmt.Sprintf("%s.%s%d", []string{"anke", "boy", "christiansen.th", "elw", "fk2-florian"}[i%5], []string{"hansen", "petersen", "meier"}[i%3], i)))
		content := map[string]string{"membership": "join", "displayname": fmt.Sprintf("%s %s", []string{"Anke", "Boy", "Thea Christiansen", "ELW", "Florian FK2"}[i%5], []string{"Hansen", "Petersen", "Meier"}[i%3])}
		if i%3 == 0 {
			dice := dice(uint64(i))
			b := []byte("mxc://" + from.name + "/")
			for range 24 {
				b = append(b, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"[dice.IntN(52)])
			}
			content["avatar_url"] = string(b)
		}
		raw, _ := json.Marshal(content)
		tpl, v, err := f.rooms.Template(ctx, room.Draft{Room: id, Sender: event.UserID(user), Type: "m.room.member", StateKey: &user, Content: raw})
		if err != nil {
			t.Fatal(err)
		}
		p, err := event.FromTemplate(v, tpl, from.name, from.sign)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := f.rooms.Accept(ctx, room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: from.name}}); err != nil || res.Outcome != room.Accepted {
			t.Fatalf("join of %s: %v %v", user, res, err)
		}
		f.text(id, "anna", "Moin!")
		time.Sleep(7 * time.Second) // virtual
	}
	return id
}

// TestJoin200 measures how long it takes to join a room of 200 members over a serial line, with nothing but the line between the
// boxes and the real Server-Server API at both ends. `make bench` reads the lines that begin with "measured".
func TestJoin200(t *testing.T) {
	for _, rate := range []int{9600, 1200} {
		run(t, func(t *testing.T, w *world) {
			cfg := ether.Config{BitsPerSecond: rate, Seed: 1}
			air := ether.New(cfg)
			a, b := federate(w.box("anna")), federate(w.box("bert"))
			w.box("carl")
			w.box("dora")
			pair(a.box, b.box)
			radioed(air, cfg, a.box, b.box)
			w.boxes[2].halted, w.boxes[3].halted = true, true // they are away
			a.start()
			b.start()
			for _, f := range []*federated{a, b} {
				f.run(context.WithoutCancel(t.Context()))
				defer f.stop()
			}
			const members = 200
			id := a.populate(t, members)
			pass(time.Minute)
			began, before := time.Now(), spoken(air)
			if _, err := b.client.Join(t.Context(), string(id), b.user("bert"), []string{a.name}, "", nil); err != nil {
				t.Fatal(err)
			}
			joined, toJoin := time.Since(began), spoken(air)-before
			if err := b.rooms.AwaitWhole(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			whole, bytes := time.Since(began), spoken(air)-before
			state, err := b.rooms.State(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for k := range state {
				if k.Type == "m.room.member" {
					n++
				}
			}
			if n != members {
				t.Errorf("%d members are known, want %d", n, members)
			}
			fmt.Printf("measured join200_%d_s %.1f until all %d members are known, over a half-duplex line of %d bit/s without loss, real Server-Server API at both ends, four servers, an avatar for every third: %d bytes on the line; one can talk after %.1f s and %d bytes\n",
				rate, whole.Seconds(), n, rate, bytes, joined.Seconds(), toJoin)
		})
	}
}
