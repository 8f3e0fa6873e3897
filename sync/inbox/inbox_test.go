// SPDX-License-Identifier: EUPL-1.2

package inbox

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
	"hallig/sync/recon"
)

// home is a store with its rooms.
type home struct {
	t     *testing.T
	name  string
	db    *store.DB
	rooms *room.Rooms
	key   event.Key
}

func newHome(t *testing.T, name string) *home {
	t.Helper()
	db, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	key := event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[:1]), 32))}
	err = db.Do(t.Context(), func(tx *store.Tx) error {
		_, err := tx.OpenExchange(name, 7)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return &home{t, name, db, room.New(db, room.Identity{Server: name, Key: key}, room.Options{OnAppend: Number(name)}), key}
}

func (h *home) event(id event.ID) *event.PDU {
	h.t.Helper()
	p, _, err := h.rooms.Event(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

func (h *home) say(id event.RoomID, text string) event.ID {
	h.t.Helper()
	body, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	eid, err := h.rooms.Send(h.t.Context(), room.Draft{Room: id, Sender: event.UserID("@u:" + h.name), Type: "m.room.message", Content: body})
	if err != nil {
		h.t.Fatal(err)
	}
	return eid
}

// far is the giver in these tests: a box with the server name a.test.
var far = peer.Peer{ID: peer.IDOf(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32)).Public().(ed25519.PublicKey)), Server: "a.test"}

// shared makes a room of a that b has joined.
func shared(t *testing.T, a, b *home) event.RoomID {
	t.Helper()
	ctx := t.Context()
	id, err := a.rooms.Create(ctx, room.CreateRequest{Creator: event.UserID("@u:" + a.name), Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	joinTo(t, a, b, id)
	return id
}

// joinTo lets b join a room of a.
func joinTo(t *testing.T, a, b *home, id event.RoomID) {
	t.Helper()
	ctx := t.Context()
	user := "@u:" + b.name
	tpl, v, err := a.rooms.Template(ctx, room.Draft{Room: id, Sender: event.UserID(user), Type: "m.room.member", StateKey: &user, Content: json.RawMessage(`{"membership":"join"}`)})
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
		events = append(events, a.event(e))
	}
	if err := b.rooms.Adopt(ctx, v, join, events, events, room.Source{Kind: "federation", Server: a.name}); err != nil {
		t.Fatal(err)
	}
}

func ref(n uint64) parcel.LogRef { return parcel.LogRef{Box: far.ID, Epoch: 3, Seq: n} }

func kept(t *testing.T, h *home, id event.RoomID) uint64 {
	t.Helper()
	var top uint64
	err := h.db.View(t.Context(), func(r *store.Read) error {
		l, _, err := r.LogOf(id, string(far.ID), 3)
		top = l.Top
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func good(context.Context, *event.PDU) error { return nil }

func TestAnyOrderBecomesCausalOrder(t *testing.T) {
	a, b := newHome(t, "a.test"), newHome(t, "b.test")
	id := shared(t, a, b)
	box := New(Config{DB: b.db, Rooms: b.rooms, Verify: good})
	var es []*parcel.Event
	for i := range 12 {
		es = append(es, &parcel.Event{Log: ref(uint64(i) + 1), PDU: a.event(a.say(id, fmt.Sprint("text ", i)))})
	}
	for _, e := range []int{11, 3, 4, 10, 2, 1, 9, 8, 5, 7, 6} {
		taken, err := box.Events(t.Context(), far, []*parcel.Event{es[e]})
		if err != nil {
			t.Fatal(err)
		}
		if len(taken.Kept) != 0 {
			t.Errorf("receipt %v although the first event is missing", taken.Kept)
		}
	}
	if !box.Waiting(id) {
		t.Error("nothing is held")
	}
	taken, err := box.Events(t.Context(), far, []*parcel.Event{es[0], es[0], es[5]})
	if err != nil {
		t.Fatal(err)
	}
	if want := []parcel.Vector{{Room: id, Box: far.ID, Epoch: 3, Upto: 12}}; !slices.Equal(taken.Kept, want) {
		t.Errorf("receipt: got %v, want %v", taken.Kept, want)
	}
	if box.Waiting(id) || kept(t, b, id) != 12 {
		t.Errorf("held %v, kept %d, want nothing and 12", box.Waiting(id), kept(t, b, id))
	}
	for _, e := range es {
		if _, _, err := b.rooms.Event(t.Context(), e.PDU.ID); err != nil {
			t.Errorf("event %s: %v", e.PDU.ID, err)
		}
	}
}

func TestHolesAreNotKept(t *testing.T) {
	b := newHome(t, "b.test")
	for _, step := range []struct{ seq, gap, want uint64 }{
		{57, 0, 0}, {60, 0, 0}, {56, 55, 57}, {57, 0, 57}, {59, 0, 57}, {58, 0, 60}, {70, 8, 60}, {61, 0, 70},
	} {
		var got uint64
		err := b.db.Do(t.Context(), func(tx *store.Tx) (err error) {
			got, err = tx.MarkEntry("!r:a.test", string(far.ID), 3, step.seq, step.gap, 0)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got != step.want {
			t.Errorf("after place %d (gap %d): kept %d, want %d", step.seq, step.gap, got, step.want)
		}
	}
}

func TestRefusedCountsAsKept(t *testing.T) {
	a, b := newHome(t, "a.test"), newHome(t, "b.test")
	id := shared(t, a, b)
	wait := errors.New("key not known yet")
	var verdict error
	box := New(Config{DB: b.db, Rooms: b.rooms, Later: func(err error) bool { return errors.Is(err, wait) },
		Verify: func(context.Context, *event.PDU) error { return verdict }})
	e := &parcel.Event{Log: ref(1), PDU: a.event(a.say(id, "text"))}
	verdict = wait
	if taken, err := box.Events(t.Context(), far, []*parcel.Event{e}); err != nil || len(taken.Kept) != 0 {
		t.Errorf("without a key: receipt %v, error %v, want none", taken.Kept, err)
	}
	verdict = errors.New("bad signature")
	taken, err := box.Events(t.Context(), far, []*parcel.Event{e})
	if err != nil || len(taken.Kept) != 1 || taken.Kept[0].Upto != 1 || taken.Events[0].Outcome != room.Rejected {
		t.Errorf("with a bad signature: %+v, error %v, want refused and kept", taken, err)
	}
	if _, _, err := b.rooms.Event(t.Context(), e.PDU.ID); err == nil {
		t.Error("the event with the bad signature was stored")
	}
}

func TestLongChainIsHandedOn(t *testing.T) {
	a, b := newHome(t, "a.test"), newHome(t, "b.test")
	id := shared(t, a, b)
	var staged []event.ID
	box := New(Config{DB: b.db, Rooms: b.rooms, Verify: good, Stage: func(_ context.Context, _ string, p *event.PDU) error {
		staged = append(staged, p.ID)
		return nil
	}})
	var ids []event.ID
	for i := range maxDepth + 5 {
		ids = append(ids, a.say(id, fmt.Sprint("text ", i)))
	}
	next := parcel.Event{Log: ref(99), PDU: a.event(ids[len(ids)-1])}
	asked := 0
	for {
		taken, err := box.Events(t.Context(), far, []*parcel.Event{&next})
		if err != nil {
			t.Fatal(err)
		}
		if len(taken.Want) == 0 {
			break
		}
		asked++
		next = parcel.Event{PDU: a.event(taken.Want[0])}
	}
	if asked != maxDepth || len(staged) != 1 {
		t.Errorf("asked %d times and handed on %d events, want %d and 1", asked, len(staged), maxDepth)
	}
}

// An event that cannot be handed on holds up nothing of what came with it, and nothing that waited for that.
func TestRefusedHandOnHoldsUpNothing(t *testing.T) {
	for _, stage := range []func(context.Context, string, *event.PDU) error{nil, func(context.Context, string, *event.PDU) error { return errors.New("disk full") }} {
		a, b := newHome(t, "a.test"), newHome(t, "b.test")
		id := shared(t, a, b)
		parent, child, unknown := a.say(id, "parent"), a.say(id, "child"), a.say(id, "its key is not there")
		box := New(Config{DB: b.db, Rooms: b.rooms, Stage: stage, Later: func(error) bool { return true }, Verify: func(_ context.Context, p *event.PDU) error {
			if p.ID == unknown {
				return errors.New("no key")
			}
			return nil
		}})
		taken, err := box.Events(t.Context(), far, []*parcel.Event{{PDU: a.event(child), Log: ref(2)}})
		if err != nil || len(taken.Want) != 1 {
			t.Errorf("the child alone: %+v, error %v, want it to wait for its parent", taken, err)
		}
		taken, err = box.Events(t.Context(), far, []*parcel.Event{{PDU: a.event(unknown), Log: ref(3)}, {PDU: a.event(parent), Log: ref(1)}})
		if err != nil || len(taken.Events) != 2 || taken.Events[0].Event != parent || taken.Events[1].Event != child || len(taken.Kept) != 1 || taken.Kept[0].Upto != 2 {
			t.Errorf("took %+v, error %v, want parent and child", taken, err)
		}
		if _, _, err := b.rooms.Event(t.Context(), unknown); err == nil {
			t.Error("the event that was not handed on is in the room")
		}
	}
}

func TestEDUOnceAndAgainAfterFailure(t *testing.T) {
	b := newHome(t, "b.test")
	var got []string
	var fail error
	box := New(Config{DB: b.db, Rooms: b.rooms, Verify: good, EDU: func(_ context.Context, origin, kind string, content []byte) error {
		if fail == nil {
			got = append(got, origin+kind+string(content))
		}
		return fail
	}})
	e := &parcel.EDU{Seq: 5, Type: "m.x", Content: []byte("1")}
	fail = errors.New("disk full")
	if k, err := box.EDU(t.Context(), far, 3, e); err == nil || k != 0 {
		t.Errorf("failed handler: kept %d, error %v", k, err)
	}
	fail = nil
	for range 2 {
		if k, err := box.EDU(t.Context(), far, 3, e); err != nil || k != 5 {
			t.Errorf("kept %d, error %v, want 5", k, err)
		}
	}
	if _, err := box.EDU(t.Context(), far, 4, e); err != nil { // a new epoch counts anew
		t.Error(err)
	}
	if _, err := box.EDU(t.Context(), far, 3, &parcel.EDU{Seq: 6, Type: "m.x", Origin: "other.test"}); err == nil {
		t.Error("a box spoke for another server and was heard")
	}
	if want := []string{"a.testm.x1", "a.testm.x1"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An event was refused for want of an authorising event when its giver named its place in a log, or came from a server that is no box. When it is accepted after all, it
// stands in one log once: in the giver's, or in ours.
func TestAcceptedAfterAllIsNumberedOnce(t *testing.T) {
	a, b := newHome(t, "a.test"), newHome(t, "b.test")
	id := shared(t, a, b)
	ctx := t.Context()
	self := "@u:b.test"
	root := b.event(must[[]event.ID](t)(b.rooms.Extremities(ctx, id))[0])
	s := must[map[rules.Key]event.ID](t)(b.rooms.State(ctx, id))
	power, rule, join := s[rules.Key{Type: "m.room.power_levels"}], s[rules.Key{Type: "m.room.join_rules"}], s[rules.Key{Type: "m.room.member", StateKey: self}]
	build := func(typ string, key *string, content string, auth ...event.ID) *event.PDU {
		return must[*event.PDU](t)(event.Build(root.Version, event.Proto{RoomID: id, Sender: event.UserID(self), Type: typ, StateKey: key, Content: json.RawMessage(content),
			Prev: []event.ID{root.ID}, Auth: auth, Depth: root.Depth + 1, TS: root.TS + 1}, b.name, b.key))
	}
	profile := build("m.room.member", &self, `{"membership":"join","displayname":"U"}`, power, rule, join)
	byBox := build("m.room.message", nil, `{"body":"1"}`, power, profile.ID)
	byServer := build("m.room.message", nil, `{"body":"2"}`, power, profile.ID)
	take := func(p *event.PDU, log *room.LogRef, want room.Outcome) {
		t.Helper()
		res, err := a.rooms.Accept(ctx, room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: b.name}, NoAuth: true, Log: log})
		if err != nil || res.Outcome != want {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	take(byBox, &room.LogRef{Box: string(far.ID), Epoch: 3, Seq: 1}, room.Rejected)
	take(byServer, nil, room.Rejected)
	take(profile, nil, room.Accepted)
	for _, p := range []*event.PDU{byBox, byServer, profile} {
		_, meta, err := a.rooms.Event(ctx, p.ID)
		if err != nil || meta.Rejected {
			t.Fatalf("%+v, %v", meta, err)
		}
		places := 0
		err = a.db.View(ctx, func(r *store.Read) (err error) { places, err = r.Places(id, meta.NID); return err })
		if err != nil || places != 1 {
			t.Errorf("%s stands in %d places, %v", p.Content, places, err)
		}
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestManyLogs: others cannot make this box remember logs without end, neither of boxes that they make up nor of one that there is; that one can still say
// itself which it has, and no event is lost, here or for those that it goes on to.
func TestManyLogs(t *testing.T) {
	a, b := newHome(t, "a.test"), newHome(t, "b.test")
	id := shared(t, a, b)
	box := New(Config{DB: b.db, Rooms: b.rooms, Verify: good})
	liar := peer.Peer{ID: peer.IDOf(bytes.Repeat([]byte{77}, 32)), Server: "m.test"}
	resolve := func(who peer.ID) func(recon.Log) (event.RoomID, peer.ID, bool) {
		return func(recon.Log) (event.RoomID, peer.ID, bool) { return id, who, true }
	}
	skip := func(from peer.Peer, who peer.ID, epoch uint32) Taken {
		t.Helper()
		got, _, _, err := box.Note(t.Context(), from, recon.Note{Skips: []recon.Range{{Log: recon.Log{Epoch: epoch}, UpTo: 1}}}, resolve(who))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	logs := func() (all, own int) {
		t.Helper()
		if err := b.db.View(t.Context(), func(r *store.Read) error {
			ls, err := r.Logs(id)
			for _, l := range ls {
				all++
				if l.Own {
					own = int(l.Top)
				}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return all, own
	}
	before, _ := logs()
	for epoch := range uint32(1000) {
		skip(liar, far.ID, 100+epoch)
	}
	if n, _ := logs(); n > before+8 || b.db.LogsRefused() != 1000-int64(n-before) {
		t.Errorf("%d logs more of one box by another's word, %d refused", n-before, b.db.LogsRefused())
	}
	for i := range 1000 {
		got := skip(liar, peer.IDOf(fmt.Appendf(nil, "%032d", i)), 1)
		if len(got.Kept) != 1 || got.Kept[0].Upto != 1 {
			t.Fatalf("receipt %+v, want one: the giver would say it for ever", got.Kept)
		}
	}
	if n, _ := logs(); n > 300 {
		t.Errorf("%d logs by one box's word", n)
	}
	for epoch := range uint32(1000) {
		skip(liar, liar.ID, epoch+1)
	}
	if n, _ := logs(); n > 340 {
		t.Errorf("%d logs, with those of the liar itself", n)
	}
	var boxes int
	if err := b.db.View(t.Context(), func(r *store.Read) error {
		ids, err := r.Boxes()
		boxes = len(ids)
		return err
	}); err != nil || boxes > 300 {
		t.Errorf("%d boxes are known, %v", boxes, err)
	}
	// The box itself is heard: its log is new here.
	_, own := logs()
	e := &parcel.Event{Log: ref(1), PDU: a.event(a.say(id, "true"))}
	if _, err := box.Events(t.Context(), far, []*parcel.Event{e}); err != nil || kept(t, b, id) != 1 {
		t.Errorf("of its own box's word: kept up to %d, %v", kept(t, b, id), err)
	}
	// Somebody passes on another log of it: that is one too many, but the event comes in, goes on as one of ours, and its giver comes to an end.
	e = &parcel.Event{Log: parcel.LogRef{Box: far.ID, Epoch: 5, Seq: 9}, PDU: a.event(a.say(id, "passed on"))}
	got, err := box.Events(t.Context(), peer.Peer{ID: peer.IDOf(bytes.Repeat([]byte{78}, 32)), Server: "c.test"}, []*parcel.Event{e})
	if err != nil || len(got.Kept) != 1 || got.Kept[0].Upto != 9 || got.Events[0].Outcome != room.Accepted {
		t.Errorf("passed on: %+v, %v", got, err)
	}
	if _, now := logs(); now != own+1 {
		t.Errorf("our own log went from %d to %d, want one more", own, now)
	}
}

// A user leaves and comes back while the others write on, and his box's clock is behind: by the rules of state resolution his return does not hold. His box, which
// knows nothing of what was written meanwhile, is owed it, or would believe him to be in for ever; and no more than that.
func TestReturnThatDoesNotHold(t *testing.T) {
	a, c := newHome(t, "a.test"), newHome(t, "c.test")
	id := shared(t, a, c)
	user := "@u:c.test"
	member := func(membership string, late bool) *event.PDU {
		t.Helper()
		tpl, v, err := a.rooms.Template(t.Context(), room.Draft{Room: id, Sender: event.UserID(user), Type: "m.room.member", StateKey: &user,
			Content: json.RawMessage(`{"membership":"` + membership + `"}`)})
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(tpl, &fields); err != nil {
			t.Fatal(err)
		}
		if late {
			fields["origin_server_ts"] = json.RawMessage("1000")
		}
		if tpl, err = json.Marshal(fields); err != nil {
			t.Fatal(err)
		}
		p, err := event.FromTemplate(v, tpl, c.name, c.key)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	take := func(p *event.PDU) {
		t.Helper()
		res, err := a.rooms.Accept(t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: c.name}})
		if err != nil || res.Outcome != room.Accepted {
			t.Fatalf("%v, %v", res, err)
		}
	}
	owed := func(e event.ID) (yes bool) {
		t.Helper()
		if err := a.db.View(t.Context(), func(r *store.Read) error {
			n, err := r.EventNID(e)
			if err != nil {
				return err
			}
			spans, err := r.Spans(c.name, id)
			yes = slices.ContainsFunc(spans, func(s store.Span) bool { return s.Holds(n) })
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return yes
	}
	joined := func() (n int) {
		t.Helper()
		if err := a.db.View(t.Context(), func(r *store.Read) (err error) {
			n, err = r.JoinedOf(id, c.name)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	in := a.say(id, "he is in")
	take(member("leave", false))
	back := member("join", true)
	out := a.say(id, "he is out")
	if !owed(in) || owed(out) {
		t.Fatalf("before his return: what came while he was in is owed: %v, what came then: %v", owed(in), owed(out))
	}
	take(back)
	if joined() != 0 {
		t.Fatal("his return holds: the test shows nothing")
	}
	after := a.say(id, "he is out still")
	if !owed(in) || !owed(out) || !owed(back.ID) || owed(after) {
		t.Errorf("owed: %v while he was in, %v before his return, %v his return, %v after it; want all but the last", owed(in), owed(out), owed(back.ID), owed(after))
	}
}

// A message was written while this box joined, on the same event as its join, and this box has that event: as state that it was given, not as part of the
// graph. The message comes in, and is kept.
func TestBesideTheJoinOnState(t *testing.T) {
	a, b := newHome(t, "a.test"), newHome(t, "b.test")
	ctx := t.Context()
	id, err := a.rooms.Create(ctx, room.CreateRequest{Creator: "@u:a.test", Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	tpl, v, err := a.rooms.Template(ctx, room.Draft{Room: id, Sender: "@u:a.test", Type: "m.room.message", Content: json.RawMessage(`{"msgtype":"m.text","body":"beside"}`)})
	if err != nil {
		t.Fatal(err)
	}
	beside, err := event.FromTemplate(v, tpl, a.name, a.key)
	if err != nil {
		t.Fatal(err)
	}
	joinTo(t, a, b, id)
	box := New(Config{DB: b.db, Rooms: b.rooms, Verify: good})
	got, err := box.Events(ctx, far, []*parcel.Event{{Log: ref(1), PDU: beside}})
	if err != nil || len(got.Kept) != 1 || got.Kept[0].Upto != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}
