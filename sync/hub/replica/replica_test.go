// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// What a server sends to a box that is away, or a box sends out, is known to the copies at once, without a question to anybody; what is forged, or comes from whom the room's list shuts
// out, is not.
func TestPassingIsKnown(t *testing.T) {
	for _, version := range []string{"10", "12"} {
		n := newNetwork()
		box, far, out := n.node(t, "box1.test"), n.node(t, "far.test"), n.node(t, "out.test")
		id := box.create(version)
		far.join(id, "carl", "box1.test")
		out.join(id, "otto", "box1.test")
		far.takes(box, must(box.rooms.State(t.Context(), id))[memberKey("@otto:out.test")])
		acl := box.set(id, "anna", "m.room.server_acl", `{"allow":["*"],"deny":["out.*"]}`)
		far.takes(box, acl)
		h := newHub(t, n, Limits{}, "box1.test")
		h.told(box, box.listing(true, id))
		h.settled(1)
		n.questions()

		box.setAway(true)
		one, two := far.say(id, "carl", "eins"), far.say(id, "carl", "zwei")
		h.Passed("box1.test", "far.test", far.transaction(one))
		h.Passed("box1.test", "far.test", far.transaction(two))
		h.await("what far has sent", func() bool { return h.event("far.test", "box1.test", two) == 200 })
		if got := h.event("out.test", "box1.test", two); got != 403 {
			t.Errorf("one who is shut out is answered %d", got)
		}
		forged := strings.Replace(string(far.transaction(far.say(id, "carl", "drei"))), "anna", "carl", -1)
		forged = strings.Replace(forged, "drei", "vier", -1)
		banned := out.say(id, "otto", "trotzdem")
		h.Passed("box1.test", "out.test", out.transaction(banned))
		h.Passed("box1.test", "far.test", []byte(forged))
		h.Passed("box1.test", "far.test", []byte(`{"pdus":[{"room_id":"!x:y"},7,{}]}`))
		own := box.say(id, "anna", "von der Box")
		h.Passed("box1.test", "box1.test", box.transaction(own))
		h.await("all to be looked at", func() bool { s := h.Stats(); return s.Passed+s.Dropped == 6 })
		if got := h.event("far.test", "box1.test", own); got != 200 {
			t.Errorf("what the box has sent: %d", got)
		}
		if got := h.event("far.test", "box1.test", banned); got != 404 {
			t.Errorf("what somebody has sent who is shut out: %d", got)
		}
		if asked := n.questions(); len(asked) > 0 {
			t.Errorf("the hub has asked: %q", asked)
		}
		if !h.MayWrite(t.Context(), id, "far.test") || h.MayWrite(t.Context(), id, "out.test") || !h.MayWrite(t.Context(), "!unknown:x", "out.test") {
			t.Error("who may write")
		}
		h.stop() // the version's next hub listens to another network
	}
}

// A box may lie: about its ends, its events, its states, how much it has. Nothing of it stays, everything else goes on, and honest boxes are copied.
func TestHostileBox(t *testing.T) {
	n := newNetwork()
	box, far, good := n.node(t, "box1.test"), n.node(t, "far.test"), n.node(t, "good.test")
	id, other := box.create("11"), good.create("12")
	far.join(id, "carl", "box1.test")
	far.join(other, "carl", "good.test")
	h := newHub(t, n, Limits{Recent: 20, Staged: 60}, "box1.test", "good.test")

	listing := box.listing(true, id)
	lying := api.Rooms{All: true, Rooms: []api.Room{{ID: string(id), Version: "11", Tips: []string{"$nowhere"}}, {ID: "!made:up", Version: "12", Tips: []string{"$up"}}, {ID: "!old:one", Version: "1", Tips: []string{"$x"}}}}
	h.told(box, lying)
	h.told(good, good.listing(true, other))
	h.await("the lies to be found out", func() bool { return h.Stats().Failed == 2 })
	h.await("the honest one, and nothing else", func() bool {
		s := h.Stats()
		return s.Rooms == 1 && s.Refused == 1 && s.Events == int64(len(must(good.rooms.State(t.Context(), other))))
	})

	// Wrong signatures in a state: they are left out, and so is what rests on them.
	box.lies(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		box.door.ServeHTTP(rec, r)
		_, _ = w.Write([]byte(strings.ReplaceAll(rec.String(), `"signatures":{"box1.test":{"ed25519:1":"`, `"signatures":{"box1.test":{"ed25519:1":"A`)))
	})
	h.later(time.Hour)
	h.told(box, listing)
	h.await("the wrong signatures", func() bool { return h.Stats().Failed >= 3 })
	if got := h.event("far.test", "box1.test", event.ID(listing.Rooms[0].Tips[0])); got != 404 {
		t.Errorf("an event that the box has spoilt: %d", got)
	}
	box.lies(nil)
	h.later(time.Hour)
	h.told(box, listing)
	h.await("both", func() bool { return h.Stats().Rooms == 2 })

	// A gap without an end: events that nobody else has ever seen, each on top of another one.
	chain := box.invent(id, 150)
	box.lies(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "/backfill/"), strings.Contains(r.URL.Path, "/get_missing_events/"):
			var pdus []json.RawMessage
			for range 50 {
				if len(chain) > 0 {
					pdus, chain = append(pdus, chain[len(chain)-1].JSON()), chain[:len(chain)-1]
				}
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"pdus": pdus, "events": pdus, "origin": "box1.test"})
		case strings.Contains(r.URL.Path, "/state"), strings.Contains(r.URL.Path, "/event/"):
			w.WriteHeader(http.StatusNotFound)
		default:
			box.door.ServeHTTP(w, r)
		}
	})
	h.told(box, api.Rooms{Rooms: []api.Room{{ID: string(id), Version: "11", Tips: []string{string(chain[len(chain)-1].ID)}}}})
	h.await("the room to be begun anew", func() bool {
		if err := h.tendOnce(t.Context()); err != nil {
			t.Fatal(err)
		}
		return h.Stats().Purged == 1
	})
	if got := h.event("far.test", "good.test", event.ID(good.listing(true, other).Rooms[0].Tips[0])); got != 200 {
		t.Errorf("the honest box's room meanwhile: %d", got)
	}
	box.lies(nil)
	h.told(box, box.listing(true, id))
	if due := h.dueIn(id); due < backDelay/2 || due == time.Hour {
		t.Errorf("a room that was too much is copied anew after %s", due)
	}
	h.later(2 * time.Hour)
	h.told(box, box.listing(false, id))
	h.settled(2)
	if !sameState(t, id, h.rooms, box.rooms) {
		t.Error("the state of the room that was begun anew is another one")
	}

	// A box that is not in the room tells all that one tells which is: it is not believed, and does not hold up the one that is.
	evil := n.node(t, "evil.test")
	evil.lies(func(w http.ResponseWriter, r *http.Request) {
		again := httptest.NewRequestWithContext(federation.WithGuest(r.Context(), "hub.test"), r.Method, r.URL.RequestURI(), nil)
		sign, err := federation.SignRequest(local("hub.test"), "box1.test", r.Method, r.URL.RequestURI(), nil)
		if err != nil {
			t.Error(err)
		}
		again.Header.Set("Authorization", sign.String())
		box.door.ServeHTTP(w, again)
	})
	third := box.create("12")
	far.join(third, "carl", "box1.test")
	stolen := box.listing(true, third)
	h.told(evil, stolen)
	h.await("the stranger to be found out", func() bool { s := h.Stats(); return s.Failed == 4 && s.Rooms == 2 })
	if ok, err := h.rooms.Knows(t.Context(), third); ok || err != nil {
		t.Errorf("what a stranger told is here: %v", err)
	}
	h.told(box, box.listing(false, third))
	h.await("the room by one who is in it", func() bool { return h.Stats().Rooms == 3 })

	many := api.Rooms{All: true}
	for i := range api.MaxRooms {
		many.Rooms = append(many.Rooms, api.Room{ID: fmt.Sprintf("!%d:box1.test", i), Version: "12", Tips: []string{"$x"}})
	}
	h.told(box, many)
	if err := h.Told(t.Context(), "box1.test", api.Rooms{Rooms: []api.Room{{ID: "!more:box1.test", Version: "12"}}}); err != nil || h.Stats().Refused != 2 {
		t.Errorf("a room too many: %v, %+v", err, h.Stats())
	}
}

// A box that came late has history of which it does not know the state. The copy begins where it does, and the room is told from there on.
func TestCopyOfLatecomer(t *testing.T) {
	n := newNetwork()
	box, far := n.node(t, "box1.test"), n.node(t, "far.test")
	id := far.create("12")
	for i := range 30 {
		far.say(id, "anna", fmt.Sprint("vorher ", i))
	}
	before := must(far.rooms.Extremities(t.Context(), id))
	box.join(id, "berta", "far.test")
	history := must(box.client.History(t.Context(), "far.test", id, must(box.rooms.Version(t.Context(), id)), before, 20))
	for _, p := range history {
		if _, err := box.rooms.Accept(t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: "far.test"}, Backfill: true}); err != nil {
			t.Fatal(err)
		}
	}
	since := []event.ID{must(box.rooms.State(t.Context(), id))[memberKey("@berta:box1.test")]}
	for i := range 10 {
		since = append(since, box.say(id, "berta", fmt.Sprint("nachher ", i)))
	}
	h := newHub(t, n, Limits{}, "box1.test")
	h.told(box, box.listing(true, id))
	h.settled(1)
	if !sameState(t, id, h.rooms, box.rooms) {
		t.Error("the state is another one")
	}
	for _, id := range since {
		if got := h.event("far.test", "box1.test", id); got != 200 {
			t.Errorf("an event from the box's join on: %d", got)
		}
	}
	if s := h.Stats(); s.Failed > 0 || s.Copied != 1 {
		t.Errorf("%+v", s)
	}
}

// What a box has said while the hub did not hear it is asked of the box, on both branches of a room, and told when it is away again.
func TestGapIsPulled(t *testing.T) {
	n := newNetwork()
	box, far := n.node(t, "box1.test"), n.node(t, "far.test")
	id := box.create("12")
	far.join(id, "carl", "box1.test")
	h := newHub(t, n, Limits{}, "box1.test")
	h.told(box, box.listing(true, id))
	h.settled(1)
	n.questions()
	base := must(box.rooms.Extremities(t.Context(), id))[0]
	var ours, theirs []event.ID
	for i := range 250 {
		ours = append(ours, box.say(id, "anna", fmt.Sprint("dunkel ", i)))
		if i < 120 {
			theirs = append(theirs, far.say(id, "carl", fmt.Sprint("hell ", i)))
		}
	}
	box.takes(far, theirs...)
	merged := box.say(id, "anna", "beides")
	h.told(box, box.listing(false, id))
	h.await("the gap to close", func() bool { return h.event("far.test", "box1.test", merged) == 200 })
	if asked := n.questions(); len(asked) > 12 {
		t.Errorf("%d questions for %d events: %q", len(asked), 371, asked)
	}
	box.setAway(true)
	body := fmt.Sprintf(`{"earliest_events":[%q],"latest_events":[%q],"limit":100,"min_depth":0}`, base, merged)
	status, text := h.ask("far.test", "box1.test", "POST", "/_matrix/federation/v1/get_missing_events/"+url.PathEscape(string(id)), body)
	var out struct {
		Events []json.RawMessage `json:"events"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil || status != 200 || len(out.Events) != 100 {
		t.Errorf("the gap: %d, %d events, %v", status, len(out.Events), err)
	}
	for _, e := range append(ours, theirs...) {
		if got := h.event("far.test", "box1.test", e); got != 200 {
			t.Fatalf("an event of the gap: %d", got)
		}
	}
	if !sameState(t, id, h.rooms, box.rooms) {
		t.Error("the state is another one")
	}
}

// The copies keep within their bounds; what they hold is told all the same.
func TestBounds(t *testing.T) {
	n := newNetwork()
	box, far, two := n.node(t, "box1.test"), n.node(t, "far.test"), n.node(t, "box2.test")
	id := box.create("12")
	far.join(id, "carl", "box1.test")
	two.join(id, "tom", "box1.test")
	small := box.create("11")
	far.join(small, "carl", "box1.test")
	h := newHub(t, n, Limits{Recent: 10, RoomRows: 60}, "box1.test", "box2.test")
	h.told(box, box.listing(true, id, small))
	h.settled(2)
	var first, last event.ID
	for i := range 80 {
		last = box.say(id, "anna", fmt.Sprint(i))
		if i == 40 {
			first = last
		}
		h.Passed("box1.test", "box1.test", box.transaction(last))
	}
	h.await("all that was said", func() bool { return h.event("far.test", "box1.test", last) == 200 })
	if got := h.event("far.test", "box1.test", first); got != 200 {
		t.Errorf("an event of the middle: %d", got)
	}
	h.tend()
	h.await("the room to be begun anew", func() bool { s := h.Stats(); return s.Purged == 1 && s.Rooms == 2 && s.Behind == 0 })
	if a, b := h.event("far.test", "box1.test", first), h.event("far.test", "box1.test", last); a != 404 || b != 200 {
		t.Errorf("after it was begun anew: %d for an old event, %d for the newest", a, b)
	}
	if !sameState(t, id, h.rooms, box.rooms) {
		t.Error("its state is another one")
	}

	// No more is taken when the disk is needed by others, and what is here is told.
	h.mu.Lock()
	h.free = 1 << 20
	h.mu.Unlock()
	h.tend()
	n.questions()
	unseen := box.say(id, "anna", "Platte voll")
	h.Passed("box1.test", "box1.test", box.transaction(unseen))
	if got := h.Stats().Dropped; got != 1 {
		t.Errorf("with a full disk %d transactions were passed over, want 1", got)
	}
	h.told(box, box.listing(false, id))
	h.later(time.Second)
	if j, _ := h.next(); j != nil || h.dueIn(id) > 0 {
		t.Errorf("with a full disk: %+v, due in %s", j, h.dueIn(id))
	}
	if a, b := h.event("far.test", "box1.test", last), h.event("far.test", "box1.test", unseen); a != 200 || b != 404 || !h.Stats().Full {
		t.Errorf("with a full disk: %d for what is here, %d for what came since, %+v", a, b, h.Stats())
	}
	if asked := n.questions(); len(asked) > 0 {
		t.Errorf("with a full disk the hub has asked: %q", asked)
	}
	h.mu.Lock()
	h.free = 1 << 40
	h.mu.Unlock()
	h.tend()
	h.await("what came meanwhile", func() bool { return h.event("far.test", "box1.test", unseen) == 200 })

	// A room goes with the last box that lists it, also over a start.
	h.told(two, two.listing(true, id))
	h.settled(2)
	h.restart()
	if a, b := h.event("far.test", "box1.test", last), h.event("far.test", "box2.test", last); a != 200 || b != 200 {
		t.Errorf("after a start: %d, %d", a, b)
	}
	if err := h.Told(t.Context(), "box1.test", api.Rooms{Gone: []string{string(small)}}); err != ErrAll {
		t.Errorf("a part of a listing after a start: %v", err)
	}
	h.told(box, api.Rooms{All: true})
	h.await("the small room to be gone", func() bool { s := h.Stats(); return s.Rooms == 1 && s.Purged == 1 })
	if a, b := h.event("far.test", "box1.test", last), h.event("far.test", "box2.test", last); a != 404 || b != 200 {
		t.Errorf("a room that one of two lists: %d for who does not, %d for who does", a, b)
	}
	h.Forget("box2.test")
	h.await("nothing to be left", func() bool { s := h.Stats(); return s.Rooms == 0 && s.Events == 0 })
	if ok, err := h.rooms.Knows(t.Context(), id); ok || err != nil {
		t.Errorf("the room of a box that was removed is still held: %v", err)
	}
}

// A box that is sending is not asked for the same meanwhile, but for ten minutes at most while its room is not here at all.
func TestSendingBoxIsLeftAlone(t *testing.T) {
	n := newNetwork()
	box, far := n.node(t, "box1.test"), n.node(t, "far.test")
	id := box.create("12")
	far.join(id, "carl", "box1.test")
	h := newHub(t, n, Limits{}, "box1.test")
	h.Replica.mu.Lock()
	h.c.Limits.Settle = time.Minute
	h.Replica.mu.Unlock()
	h.told(box, box.listing(true, id))
	for range 19 {
		h.later(30 * time.Second)
		h.Passed("box1.test", "box1.test", box.transaction(box.say(id, "anna", "noch etwas")))
		h.told(box, box.listing(false, id))
		if due := h.dueIn(id); due <= 0 || due > time.Minute {
			t.Fatalf("while it is sending it is asked in %s", due)
		}
	}
	if asked := n.questions(); len(asked) > 0 {
		t.Errorf("asked of a box that is sending: %q", asked)
	}
	h.later(30 * time.Second)
	h.Passed("box1.test", "box1.test", box.transaction(box.say(id, "anna", "und noch etwas")))
	h.told(box, box.listing(false, id))
	h.await("the room", func() bool { return h.Stats().Rooms == 1 })
}

// A box that takes more than its share is held to it, and nobody else is.
func TestShareOfBox(t *testing.T) {
	n := newNetwork()
	box, far, good := n.node(t, "box1.test"), n.node(t, "far.test"), n.node(t, "good.test")
	big, small, other := box.create("12"), box.create("12"), good.create("12")
	for _, id := range []event.RoomID{big, small} {
		far.join(id, "carl", "box1.test")
	}
	far.join(other, "carl", "good.test")
	h := newHub(t, n, Limits{Recent: 10, BoxBytes: 60_000}, "box1.test", "good.test")
	h.told(box, box.listing(true, big))
	h.settled(1)
	said := func(i int) event.ID {
		id := box.say(big, "anna", strings.Repeat("viel ", 300)+fmt.Sprint(i))
		h.Passed("box1.test", "box1.test", box.transaction(id))
		return id
	}
	first := said(0)
	for i := range 60 {
		said(i + 1)
	}
	h.await("all that was said", func() bool { return h.Stats().Passed == 61 })
	h.tend()
	h.await("the room to be begun anew", func() bool { s := h.Stats(); return s.Purged == 1 && s.Rooms == 1 && s.Behind == 0 })
	if got := h.event("far.test", "box1.test", first); got != 404 {
		t.Errorf("what was too much: %d", got)
	}
	last := said(99)
	h.await("what comes then", func() bool { return h.event("far.test", "box1.test", last) == 200 })

	h.share(10)
	h.tend()
	h.told(box, box.listing(false, small))
	h.told(good, good.listing(true, other))
	dropped := h.Stats().Dropped
	said(100)
	if got := h.Stats().Dropped; got != dropped+1 {
		t.Errorf("%d transactions of a box that has more than its share were passed over, want 1", got-dropped)
	}
	h.later(time.Second)
	h.await("nothing more to be copied from the one, and the other's room", func() bool {
		return h.event("far.test", "good.test", must(good.rooms.Extremities(t.Context(), other))[0]) == 200
	})
	if ok, err := h.rooms.Knows(t.Context(), small); ok || err != nil || h.dueIn(small) > 0 {
		t.Errorf("a room of a box that has more than its share was copied: %v, %v", ok, err)
	}
	h.share(1 << 30)
	h.tend()
	h.await("it when the box has less", func() bool { return h.Stats().Rooms == 3 })
}

// dueIn is after which time a room is got that is to be got; an hour: it is not, or is being got now.
func (h *hub) dueIn(id event.RoomID) time.Duration {
	h.Replica.mu.Lock()
	defer h.Replica.mu.Unlock()
	d := h.pending[id]
	if d == nil || d.working {
		return time.Hour
	}
	return h.Replica.due(d, h.soonest(d)).Sub(h.now())
}

// share sets what is kept of one box.
func (h *hub) share(bytes int64) {
	h.Replica.mu.Lock()
	h.c.Limits.BoxBytes = bytes
	h.Replica.mu.Unlock()
}

// later moves the clock.
func (h *hub) later(d time.Duration) {
	h.mu.Lock()
	h.late += d
	h.mu.Unlock()
}

// tend looks at the bounds now.
func (h *hub) tend() {
	h.t.Helper()
	if err := h.tendOnce(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
}

// invent makes a chain of events above one that does not exist, oldest first.
func (s *node) invent(id event.RoomID, n int) (chain []*event.PDU) {
	s.t.Helper()
	v := must(s.rooms.Version(s.t.Context(), id))
	newest := s.pdu(must(s.rooms.Extremities(s.t.Context(), id))[0])
	prev := event.ID("$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	anna := s.pdu(s.say(id, "anna", "ein echtes"))
	for i := range n {
		p, err := event.Build(v, event.Proto{RoomID: id, Sender: s.user("anna"), Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, i)), Prev: []event.ID{prev}, Auth: anna.Auth,
			Depth: newest.Depth + 10 + int64(i), TS: time.Now().UnixMilli()}, s.local.Server, s.local.Key)
		if err != nil {
			s.t.Fatal(err)
		}
		chain, prev = append(chain, p), p.ID
	}
	return chain
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func memberKey(user string) rules.Key { return rules.Key{Type: "m.room.member", StateKey: user} }

// recorder keeps a body back.
type recorder struct {
	http.ResponseWriter
	strings.Builder
}

func (r *recorder) Write(b []byte) (int, error) { return r.Builder.Write(b) }
func (r *recorder) Header() http.Header         { return http.Header{} }
func (r *recorder) WriteHeader(int)             {}
