// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/clock"
	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// islander is a box, or a server that is none, on a network of function calls, with a clock of its own.
type islander struct {
	t     *testing.T
	name  string
	local Local
	dir   string
	net   *island
	pairs map[string]bool // boxes it is paired with
	boot  int64
	mark  clock.Mark

	db      *store.DB
	clock   *clock.Clock
	rooms   *room.Rooms
	ring    *KeyRing
	client  *Client
	intake  *Intake
	handler http.Handler
	stop    func()
}

// island says who reaches whom.
type island struct {
	all   map[string]*islander
	reach func(from, to string) bool
	epoch time.Time
}

type passage struct{ from *islander }

func (p passage) RoundTrip(r *http.Request) (*http.Response, error) {
	to := p.from.net.all[r.URL.Host]
	if to == nil || !p.from.net.reach(p.from.name, to.name) {
		return nil, errors.New("no way to " + r.URL.Host)
	}
	if p.from.pairs[to.name] {
		CameBy(r.Context(), SourceBox+to.name, true)
	}
	return both{to.handler}.RoundTrip(r)
}

func (n *island) add(t *testing.T, name string, seed byte, pairs ...string) *islander {
	x := &islander{t: t, name: name, net: n, dir: t.TempDir(), pairs: map[string]bool{}, local: Local{Server: name, Key: testKey(seed)}}
	for _, p := range pairs {
		x.pairs[p] = true
	}
	n.all[name] = x
	x.start()
	return x
}

// start is the start of the machine: uptime begins anew, and nobody vouches for the time yet.
func (x *islander) start() {
	t := x.t
	t.Helper()
	var err error
	if x.db, err = store.Open(t.Context(), filepath.Join(x.dir, "hallig.db"), store.Options{Reserve: -1}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	x.boot++
	x.clock = clock.New(clock.Config{Released: x.net.epoch.Add(-100 * 24 * time.Hour), Mark: x.mark, Boot: func() int64 { return x.boot }, Uptime: func() time.Duration { return time.Since(began) }})
	x.rooms = room.New(x.db, room.Identity{Server: x.name, Key: x.local.Key}, room.Options{Clock: x.clock.Now})
	x.ring = NewKeyRing(KeyRingConfig{Locals: Only(x.local), DB: x.db, Fetch: FetchKeys(passage{x}), Now: x.clock.Now, ClockTrusted: x.clock.Trusted,
		Paired: func(server, keyID string) ed25519.PublicKey {
			if other := x.net.all[server]; x.pairs[server] && other.local.Key.ID == keyID {
				return publicOf(other.local.Key)
			}
			return nil
		}})
	x.client = NewClient(ClientConfig{Local: x.local, Transport: passage{x}, Ring: x.ring, Rooms: x.rooms, Now: x.clock.Now})
	x.intake = NewIntake(IntakeConfig{Local: x.local, DB: x.db, Rooms: x.rooms, Client: x.client})
	x.handler = NewHandler(HandlerConfig{Locals: Only(x.local), DB: x.db, Ring: x.ring, Rooms: x.rooms, Client: x.client, Intake: x.intake, Now: x.clock.Now})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var loop sync.WaitGroup
	loop.Go(func() { _ = x.intake.Run(ctx) })
	x.stop = func() {
		cancel()
		loop.Wait()
		x.mark = x.clock.Mark()
		if err := x.db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (x *islander) user() event.UserID { return event.UserID("@u:" + x.name) }

func (x *islander) say(id event.RoomID, text string) event.ID {
	x.t.Helper()
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	return must[event.ID](x.t)(x.rooms.Send(x.t.Context(), room.Draft{Room: id, Sender: x.user(), Type: "m.room.message", Content: body}))
}

// carry hands what a has of the events and b lacks on to b, as a parcel or a transaction does. Nothing may be refused.
func (n *island) carry(t *testing.T, a, b *islander, ids []event.ID) {
	t.Helper()
	have := must[map[event.ID]bool](t)(a.rooms.Known(t.Context(), ids...))
	known := must[map[event.ID]bool](t)(b.rooms.Known(t.Context(), ids...))
	var pdus []*event.PDU
	for _, id := range ids {
		if have[id] && !known[id] {
			p, _, err := a.rooms.Event(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			pdus = append(pdus, p)
		}
	}
	for i, err := range b.intake.TakeAll(t.Context(), a.name, pdus) {
		if err != nil {
			t.Errorf("%s refuses %s of %s from %s: %v", b.name, pdus[i].ID, pdus[i].Sender, a.name, err)
		}
	}
}

// TestThirtyDaysOnAnIsland: four boxes share a room with the central server; then there is no Internet for thirty days. One box started in 1970 and lags, one leads
// by a day, one is set again and again, one knows the time; only neighbours reach each other, and each is paired with its neighbours only. All that is
// written arrives everywhere on the island, and afterwards the centre, which binds events to the validity of keys, takes all of it.
func TestThirtyDaysOnAnIsland(t *testing.T) {
	for _, version := range []string{"4", "12"} {
		t.Run("room version "+version, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { thirtyDays(t, version) }) })
	}
}

func thirtyDays(t *testing.T, version string) {
	const day = 24 * time.Hour
	n := &island{all: map[string]*islander{}, reach: func(string, string) bool { return true }, epoch: time.Now()}
	s := n.add(t, "s.example", 0)
	a := n.add(t, "a.test", 1, "b.test")
	b := n.add(t, "b.test", 2, "a.test", "c.test")
	c := n.add(t, "c.test", 3, "b.test", "d.test")
	d := n.add(t, "d.test", 4, "c.test")
	all := []*islander{s, a, b, c, d}
	defer func() {
		for _, x := range all {
			x.stop()
		}
	}()
	for _, x := range all {
		x.clock.Set(clock.Reading{Time: time.Now(), Quality: clock.Exact})
	}
	id := must[event.RoomID](t)(s.rooms.Create(t.Context(), room.CreateRequest{Creator: s.user(), Preset: "public_chat", Version: version}))
	ids := []event.ID{s.say(id, "willkommen")}
	for _, x := range all[1:] {
		if _, err := x.client.Join(t.Context(), string(id), x.user(), []string{s.name}, "", nil); err != nil {
			t.Fatal(err)
		}
		join := must[*event.PDU](t)(s.rooms.StateEvent(t.Context(), id, "m.room.member", string(x.user())))
		ids = append(ids, join.ID)
		for _, y := range all[1:] {
			if y == x {
				break
			}
			n.carry(t, s, y, ids)
		}
	}

	// The Internet goes. Two boxes are off for some hours; their clocks are of no use afterwards.
	order := map[string]int{s.name: -10, a.name: 1, b.name: 2, c.name: 3, d.name: 4}
	n.reach = func(from, to string) bool { gap := order[from] - order[to]; return gap >= -1 && gap <= 1 }
	for _, x := range []*islander{a, b, c} {
		x.stop()
	}
	time.Sleep(6 * time.Hour)
	for _, x := range []*islander{a, b, c} {
		x.start()
	}
	b.clock.Set(clock.Reading{Time: time.Now().Add(day), Quality: clock.Entered, Source: "a wrong watch"})
	if a.clock.Trusted() || a.clock.Now().After(time.Now()) {
		t.Fatalf("a's clock: %+v", a.clock.State())
	}
	ids = append(ids, s.say(id, "am Festland"))
	for i := range 30 {
		d.clock.Set(clock.Reading{Time: time.Now(), Quality: clock.Exact, Source: "GPS"})
		if i%4 == 0 {
			c.clock.Set(clock.Reading{Time: time.Now().Add([]time.Duration{-20 * day, 3 * day}[i/4%2]), Quality: clock.Entered, Source: "another guess"})
		}
		for _, x := range all[1:] {
			ids = append(ids, x.say(id, fmt.Sprintf("Tag %d", i)))
		}
		for _, pair := range [][2]*islander{{a, b}, {b, c}, {c, d}, {d, c}, {c, b}, {b, a}} {
			if err := pair[1].ring.Attest(t.Context(), pair[0].name); err != nil { // as boxes do while they are in reach
				t.Fatal(err)
			}
			n.carry(t, pair[0], pair[1], ids)
			time.Sleep(time.Minute)
		}
		time.Sleep(day - 6*time.Minute)
	}
	time.Sleep(time.Hour) // what waits for keys is tried again and again
	ownWords := ids[len(ids)-120:]
	for _, x := range all[1:] {
		n.decided(t, x, id, ownWords)
	}

	// Home again: each box brings its own events, in order.
	n.reach = func(string, string) bool { return true }
	for _, e := range ids {
		p, _, err := a.rooms.Event(t.Context(), e)
		if err != nil {
			p, _, err = s.rooms.Event(t.Context(), e)
		}
		if err != nil {
			t.Fatal(err)
		}
		if from := n.all[p.Sender.Server()]; from != s {
			n.carry(t, from, s, []event.ID{e})
		}
	}
	time.Sleep(time.Hour)
	n.decided(t, s, id, ids)
	for _, x := range all[1:] {
		n.carry(t, s, x, ids)
	}
	time.Sleep(time.Hour)
	for _, x := range all[1:] {
		n.decided(t, x, id, ids)
	}
}

// decided says that a server has accepted all of the events, and has none waiting.
func (n *island) decided(t *testing.T, x *islander, id event.RoomID, ids []event.ID) {
	t.Helper()
	var staged []store.StagedPDU
	if err := x.db.View(t.Context(), func(r *store.Read) (err error) { staged, err = r.Staged(id); return err }); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for _, e := range ids {
		if _, m, err := x.rooms.Event(t.Context(), e); err != nil || m.Pos <= 0 {
			lost++
		}
	}
	if lost > 0 || len(staged) > 0 {
		t.Errorf("%s lacks %d of %d events, %d wait", x.name, lost, len(ids), len(staged))
	}
}
