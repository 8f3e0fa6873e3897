// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/inbox"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/precedence"
)

// world is some boxes that know each other's keys.
type world struct {
	t     testing.TB
	codec *parcel.Codec
	boxes []*box
}

// box is one with a real store, real rooms, and a courier.
type box struct {
	t       testing.TB
	w       *world
	name    string
	peer    peer.Peer
	db      *store.DB
	rooms   *room.Rooms
	key     event.Key
	out     *outbox.Outbox
	courier *Courier
	roster  peer.Roster
	door    *shakyDoor

	mu   sync.Mutex
	edus []string
}

func newWorld(t testing.TB) *world {
	codec, err := parcel.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, codec: codec}
}

func seed(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

func (w *world) box(name string) *box { return w.boxAt(name, w.t.TempDir()) }

// boxAt opens a box whose files lie in dir.
func (w *world) boxAt(name, dir string) *box {
	t := w.t
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(dir, name+".db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	boxKey := ed25519.NewKeyFromSeed(seed("box " + name))
	b := &box{t: t, w: w, name: name, db: db, key: event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed("signing " + name))}}
	statement, err := peer.State(boxKey, peer.Peer{Server: name, Serial: 1, SigningKeys: map[string]ed25519.PublicKey{b.key.ID: b.key.Private.Public().(ed25519.PublicKey)}})
	if err != nil {
		t.Fatal(err)
	}
	if b.peer, err = peer.ReadStatement(statement); err != nil {
		t.Fatal(err)
	}
	b.rooms = room.New(db, room.Identity{Server: name, Key: b.key}, room.Options{OnAppend: inbox.Number(name)})
	if b.out, err = outbox.Open(t.Context(), db, precedence.New(), b.peer.ID, name, draw()); err != nil {
		t.Fatal(err)
	}
	b.door = &shakyDoor{Rooms: b.rooms}
	in := inbox.New(inbox.Config{DB: db, Rooms: b.door, Verify: w.verify, EDU: b.takeEDU})
	b.courier, err = New(Config{Key: boxKey, Server: name, DB: db, Inbox: in, Outbox: b.out, Codec: w.codec, Roster: func() peer.Roster { return b.roster },
		Statement: func() []byte { return statement }})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range w.boxes {
		if o.name != name {
			o.roster, b.roster = o.roster.With(b.peer), b.roster.With(o.peer)
		}
	}
	w.boxes = append(slices.DeleteFunc(w.boxes, func(o *box) bool { return o.name == name }), b)
	return b
}

func (w *world) verify(_ context.Context, p *event.PDU) error {
	for _, server := range p.SignedBy() {
		pub := ed25519.NewKeyFromSeed(seed("signing " + server)).Public().(ed25519.PublicKey)
		if err := p.VerifySignature(server, "ed25519:1", pub); err != nil {
			return err
		}
	}
	return nil
}

func (b *box) takeEDU(_ context.Context, origin, kind string, content []byte) error {
	do, err := b.door.act()
	if !do {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.edus = append(b.edus, origin+" "+kind+" "+string(content))
	return err
}

func (b *box) took() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.edus)
}

func (b *box) queue(to *box, kind, key, body string) {
	b.t.Helper()
	if err := b.db.Do(b.t.Context(), func(tx *store.Tx) error { return tx.EnqueueEDU(to.name, kind, key, []byte(body)) }); err != nil {
		b.t.Fatal(err)
	}
}

func (b *box) user() event.UserID { return event.UserID("@u:" + b.name) }

func (b *box) create() event.RoomID {
	b.t.Helper()
	id, err := b.rooms.Create(b.t.Context(), room.CreateRequest{Creator: b.user(), Preset: "public_chat"})
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}

func (b *box) say(id event.RoomID, text string) event.ID {
	b.t.Helper()
	body, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	if err != nil {
		b.t.Fatal(err)
	}
	eid, err := b.rooms.Send(b.t.Context(), room.Draft{Room: id, Sender: b.user(), Type: "m.room.message", Content: body})
	if err != nil {
		b.t.Fatal(err)
	}
	return eid
}

// join brings a user of b into a room of a, as a join over the Internet would.
func (b *box) join(a *box, id event.RoomID) {
	t := b.t
	t.Helper()
	ctx := t.Context()
	user := string(b.user())
	tpl, v, err := a.rooms.Template(ctx, room.Draft{Room: id, Sender: b.user(), Type: "m.room.member", StateKey: &user, Content: json.RawMessage(`{"membership":"join"}`)})
	if err != nil {
		t.Fatal(err)
	}
	join, err := event.FromTemplate(v, tpl, b.name, b.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.rooms.Accept(ctx, room.Incoming{PDU: join, From: room.Source{Kind: "federation", Server: b.name}}); err != nil {
		t.Fatal(err)
	}
	state, err := a.rooms.StateBefore(ctx, join.ID)
	if err != nil {
		t.Fatal(err)
	}
	var events []*event.PDU
	for _, e := range state {
		p, _, err := a.rooms.Event(ctx, e)
		if err != nil {
			t.Fatal(err)
		}
		events = append(events, p)
	}
	if err := b.rooms.Adopt(ctx, v, join, events, events, room.Source{Kind: "federation", Server: a.name}); err != nil {
		t.Fatal(err)
	}
}

// texts lists the messages of a room here, by id.
func (b *box) texts(id event.RoomID) (out []event.ID) {
	b.t.Helper()
	err := b.db.View(b.t.Context(), func(r *store.Read) error {
		rows, err := r.RoomEventsBetween(id, 0, 1<<60, 1<<20, false)
		for _, e := range rows {
			if e.Type == "m.room.message" {
				out = append(out, e.ID)
			}
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *box) has(id event.RoomID, want ...event.ID) {
	b.t.Helper()
	got := b.texts(id)
	seen := map[event.ID]int{}
	for _, e := range got {
		seen[e]++
	}
	lost, twice := 0, 0
	for _, e := range want {
		switch n := seen[e]; {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	if lost > 0 || twice > 0 || len(got) != len(want) {
		b.t.Errorf("%s: %d of %d texts are missing, %d doubled, %d here", b.name, lost, len(want), twice, len(got))
	}
}

// open gives the courier's folder of a stick.
func openStick(t testing.TB, place string) Disk {
	t.Helper()
	d, err := Open(place, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func (b *box) export(d Disk) *Report {
	b.t.Helper()
	r, err := b.courier.Export(b.t.Context(), d, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *box) imports(d Disk) *Report {
	b.t.Helper()
	r, err := b.courier.Import(b.t.Context(), d, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// visit is what a plugged stick has a box do.
func (b *box) visit(d Disk) (in, out *Report) {
	b.t.Helper()
	in = b.imports(d)
	return in, b.export(d)
}

func of(r *Report, b *box) BoxReport {
	for _, x := range r.Boxes {
		if x.Server == b.name {
			return x
		}
	}
	return BoxReport{}
}

// pending counts what a box still has to bring to another one: from the receipts that it has, not from what it has written.
func (b *box) pending(to *box) (events int) {
	b.t.Helper()
	f, err := b.out.Carry(b.t.Context(), to.peer, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for {
		items, err := f.Next(b.t.Context(), 500)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(items) == 0 {
			return events
		}
		events += len(items)
	}
}

func (b *box) queued(to *box) int {
	b.t.Helper()
	n := 0
	err := b.db.View(b.t.Context(), func(r *store.Read) error {
		rows, err := r.PendingEDUs(to.name, 0, 1<<20)
		n = len(rows)
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return n
}

func pair(t testing.TB) (w *world, a, b *box, id event.RoomID) {
	w = newWorld(t)
	a, b = w.box("a.test"), w.box("b.test")
	id = a.create()
	b.join(a, id)
	return w, a, b, id
}

func says(b *box, id event.RoomID, n int) (ids []event.ID) {
	for i := range n {
		ids = append(ids, b.say(id, fmt.Sprintf("%s sagt zum %d. Mal, dass der Pegel steigt", b.name, i)))
	}
	return ids
}

// left says by which way an event left last.
func (b *box) left(id event.RoomID, e event.ID) (way string) {
	b.w.t.Helper()
	if err := b.db.Do(b.w.t.Context(), func(*store.Tx) error { return nil }); err != nil { // what was noted lazily is there then
		b.w.t.Fatal(err)
	}
	err := b.db.View(b.w.t.Context(), func(r *store.Read) error {
		nid, err := r.EventNID(e)
		if err != nil {
			return err
		}
		places, err := r.PlacesOf(id, nid)
		for _, p := range places {
			leaves, err := r.Left(p.Log.N, p.Seq)
			if err != nil {
				return err
			}
			for _, x := range leaves {
				way = x.Way
			}
		}
		return err
	})
	if err != nil {
		b.w.t.Fatal(err)
	}
	return way
}
