// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/room"
)

func TestTwoInARoom(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	anna.say(id, "before bert")
	bert.sync("")
	bert.join(id)
	r := bert.sync("").room(id)
	if got := bodies(r.Timeline.Events); !slices.Equal(got, []string{"before bert"}) {
		t.Errorf("shared history: got %q", got)
	}
	if r.Summary.Joined != 2 || !slices.Equal(r.Summary.Heroes, []event.UserID{anna.id}) {
		t.Errorf("summary %+v", r.Summary)
	}
	all := slices.Concat(r.State.Events, r.Timeline.Events)
	for _, typ := range []string{"m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.history_visibility"} {
		if find(all, typ, "") == nil {
			t.Errorf("%s is missing", typ)
		}
	}
	anna.sync("")
	e := bert.say(id, "hello")
	got := anna.sync("").room(id).Timeline.Events
	if len(got) != 1 || got[0].ID != e || got[0].body() != "hello" || got[0].Unsigned.Txn != "" || got[0].Unsigned.Membership != "join" || got[0].Unsigned.Age == nil {
		t.Fatalf("anna got %+v", got)
	}
	if got := bert.sync("").room(id).Timeline.Events; len(got) != 1 || got[0].Unsigned.Txn == "" {
		t.Errorf("bert's own event without transaction id: %+v", got)
	}
	if s := anna.sync(""); len(s.Rooms.Join) != 0 {
		t.Errorf("news without news: %+v", s.Rooms)
	}
}

// A poll wakes after the commit of what concerns its user, and only then.
func TestLongPollWakes(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	bert.join(id)
	wake := map[string]func(){
		"message":      func() { bert.say(id, "hi") },
		"typing":       func() { h.feed.SetTyping(id, bert.id, true, time.Minute) },
		"account data": func() { ok(t, h.accounts.SetAccountData(t.Context(), anna.id, "", "x", json.RawMessage(`{}`))) },
		"to device": func() {
			ok(t, h.accounts.SendToDevice(t.Context(), bert.s, "m.x", fmt.Sprint(h.txn.Add(1)), map[event.UserID]map[string]json.RawMessage{anna.id: {"*": json.RawMessage(`{}`)}}))
		},
		"invite": func() { bert.must(bert.create("private_chat"), anna, "invite") },
		"device list": func() {
			_, err := h.accounts.UploadKeys(t.Context(), bert.s, account.KeyUpload{DeviceKeys: json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q}`, bert.id, bert.dev))})
			ok(t, err)
		},
		"receipt": func() {
			ok(t, h.accounts.SetReceipt(t.Context(), account.Receipt{Room: id, User: bert.id, Type: "m.read", Event: bert.say(id, "read")}))
		},
	}
	for name, act := range wake {
		anna.sync("")
		for len(h.settled) > 0 {
			<-h.settled
		}
		got := make(chan *clientSync)
		go func() {
			s, err := anna.ask(SyncRequest{Since: anna.since, Timeout: patience})
			if err != nil {
				t.Error(err)
			}
			got <- s
		}()
		h.waitForPoll()
		start := time.Now()
		act()
		s := <-got
		if s == nil || s.Next == anna.since {
			t.Errorf("%s: the poll ended without news", name)
		}
		if d := time.Since(start); d > patience/2 {
			t.Errorf("%s: woke after %v", name, d)
		}
	}
}

// waitForPoll returns when a poll has looked and waits.
func (h *house) waitForPoll() { <-h.settled }

func TestPollEnds(t *testing.T) {
	h := newHouse(t)
	anna := h.person("anna")
	anna.sync("")
	if s, err := anna.ask(SyncRequest{Since: anna.since, Timeout: time.Millisecond}); err != nil || len(s.Rooms.Join) != 0 {
		t.Errorf("timeout: %+v %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := h.feed.Sync(ctx, anna.id, anna.dev, SyncRequest{Since: anna.since, Timeout: patience})
		done <- err
	}()
	h.waitForPoll()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a client that went away: %v", err)
	}
	go func() {
		_, err := anna.ask(SyncRequest{Since: anna.since, Timeout: patience})
		done <- err
	}()
	h.waitForPoll()
	h.feed.Close()
	if err := <-done; err != nil {
		t.Errorf("a stop of the box: %v", err)
	}
	for _, bad := range []string{"x", "s", "s-1", "sx", "s1_2_3_4", "p1_2", "s99999999999999999999"} {
		_, err := anna.ask(SyncRequest{Since: bad})
		wantCode(t, err, "M_INVALID_PARAM")
	}
	if s, err := anna.ask(SyncRequest{Since: "s999999999"}); err != nil || len(s.AccountData.Events) == 0 {
		t.Errorf("a token from a lost future begins anew: %+v %v", s, err)
	}
}

// Many write, one follows: every event once, each sender's in order.
func TestNothingIsLostOrTwice(t *testing.T) {
	const senders, each = 8, 40
	h := newHouse(t)
	reader := h.person("reader")
	rooms := []event.RoomID{reader.create("public_chat"), reader.create("public_chat")}
	var people []*person
	for i := range senders {
		p := h.person(fmt.Sprintf("p%d", i))
		for _, id := range rooms {
			p.join(id)
		}
		people = append(people, p)
	}
	reader.sync(`{"room":{"timeline":{"limit":100}}}`)
	var wg sync.WaitGroup
	for i, p := range people {
		wg.Go(func() {
			for n := range each {
				_, err := p.draft(room.Draft{Room: rooms[n%2], Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":"%d/%03d"}`, i, n))})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	seen := map[event.ID]bool{}
	last := map[string]string{}
	deadline := time.Now().Add(time.Minute)
	for len(seen) < senders*each && time.Now().Before(deadline) {
		start := time.Now()
		s, err := reader.ask(SyncRequest{Since: reader.since, Filter: `{"room":{"timeline":{"limit":100}}}`, Timeout: patience})
		ok(t, err)
		if d := time.Since(start); d > patience/2 {
			t.Fatalf("a wake-up was lost: the poll took %v with %d of %d seen", d, len(seen), senders*each)
		}
		reader.since = s.Next
		for id, r := range s.Rooms.Join {
			es := r.Timeline.Events
			if r.Timeline.Limited {
				es = append(h.gap(reader, id, r, seen), es...)
			}
			for _, e := range es {
				if e.Type != "m.room.message" {
					continue
				}
				if seen[e.ID] {
					t.Fatalf("%s came twice", e.body())
				}
				seen[e.ID] = true
				k := string(id) + e.body()[:1]
				if last[k] >= e.body() {
					t.Fatalf("%s after %s", e.body(), last[k])
				}
				last[k] = e.body()
			}
		}
	}
	wg.Wait()
	if len(seen) != senders*each {
		t.Fatalf("saw %d of %d events", len(seen), senders*each)
	}
}

// gap reads back from a limited timeline to what was seen.
func (h *house) gap(p *person, id event.RoomID, r *clientRoom, seen map[event.ID]bool) []clientEvent {
	var out []clientEvent
	from := r.Timeline.PrevBatch
	for from != "" {
		chunk, _, end := p.messages(id, MessagesRequest{From: from, Dir: "b", Limit: 50})
		for _, e := range chunk {
			if seen[e.ID] || e.Type != "m.room.message" {
				slices.Reverse(out)
				return out
			}
			out = append(out, e)
		}
		from = end
	}
	slices.Reverse(out)
	return out
}

func TestLimitedTimelineAndGap(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	bert.join(id)
	anna.sync("")
	since := anna.since
	var want []event.ID
	for i := range 25 {
		want = append(want, bert.say(id, fmt.Sprint(i)))
		if i == 3 {
			want = append(want, anna.state(id, "m.room.topic", "", `{"topic":"in the gap"}`))
		}
		if i == 22 {
			want = append(want, anna.state(id, "m.room.name", "", `{"name":"in the timeline"}`))
		}
	}
	r := anna.sync(`{"room":{"timeline":{"limit":5}}}`).room(id)
	if !r.Timeline.Limited || len(r.Timeline.Events) != 5 {
		t.Fatalf("limited %v, %d events", r.Timeline.Limited, len(r.Timeline.Events))
	}
	if e := find(r.State.Events, "m.room.topic", ""); e == nil || len(r.State.Events) != 1 {
		t.Errorf("state of the gap: %+v", r.State.Events)
	}
	var got []event.ID
	from := r.Timeline.PrevBatch
	for from != "" {
		chunk, _, end := anna.messages(id, MessagesRequest{From: from, To: since, Dir: "b", Limit: 4})
		for _, e := range chunk {
			got = append(got, e.ID)
		}
		from = end
	}
	slices.Reverse(got)
	for _, e := range r.Timeline.Events {
		got = append(got, e.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("gap and timeline give %d events, want %d: %v", len(got), len(want), got)
	}
	// The same since again gives what is there now, with the state after it when asked for.
	s, err := anna.ask(SyncRequest{Since: since, Filter: `{"room":{"timeline":{"limit":2}}}`, StateAfter: true})
	ok(t, err)
	after := s.room(id).StateAfter
	if after == nil || find(after.Events, "m.room.topic", "") == nil || find(after.Events, "m.room.name", "") == nil {
		t.Errorf("state_after %+v", after)
	}
}

func TestInvitesAndLeaving(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("private_chat", room.StateDraft{Type: "m.room.name", Content: json.RawMessage(`{"name":"Lage"}`)})
	anna.say(id, "secret")
	bert.sync("")
	anna.must(id, bert, "invite")
	inv := bert.sync("").Rooms.Invite[id]
	if inv == nil || find(inv.Invite.Events, "m.room.name", "") == nil || find(inv.Invite.Events, "m.room.member", string(bert.id)) == nil {
		t.Fatalf("invite %+v", inv)
	}
	if create := find(inv.Invite.Events, "m.room.create", ""); create == nil || create.ID == "" || create.TS == 0 {
		t.Errorf("the invite shows the create event as %+v", create)
	}
	if s := bert.sync(""); len(s.Rooms.Invite) != 0 {
		t.Error("the invite came twice")
	}
	bert.leave(id) // declined
	s := bert.sync("")
	left := s.Rooms.Leave[id]
	if left == nil || len(bodies(left.Timeline.Events)) != 0 || find(left.Timeline.Events, "m.room.member", string(bert.id)) == nil {
		t.Fatalf("declined invite: %+v", left)
	}
	_, err := h.feed.Messages(t.Context(), bert.id, bert.dev, id, MessagesRequest{})
	wantCode(t, err, "M_FORBIDDEN")

	anna.must(id, bert, "invite")
	bert.join(id)
	if r := bert.sync("").Rooms.Join[id]; r == nil || find(slices.Concat(r.State.Events, r.Timeline.Events), "m.room.name", "") == nil {
		t.Fatalf("joined room %+v", r)
	}
	anna.say(id, "for bert")
	bert.sync("")
	anna.say(id, "last words")
	anna.must(id, bert, "leave") // kicked
	anna.say(id, "behind his back")
	left = bert.sync("").Rooms.Leave[id]
	if left == nil || !slices.Equal(bodies(left.Timeline.Events), []string{"last words"}) {
		t.Fatalf("kicked: %+v", left)
	}
	if got := bodies(bert.history(id)); !slices.Equal(got, []string{"secret", "for bert", "last words"}) {
		t.Errorf("history of one who left: %q", got)
	}
	if s := bert.sync(""); len(s.Rooms.Leave) != 0 {
		t.Error("the leaving came twice")
	}
	if s, _ := bert.ask(SyncRequest{}); len(s.Rooms.Leave) != 0 {
		t.Error("an initial sync without include_leave has left rooms")
	}
	s, err = bert.ask(SyncRequest{Filter: `{"room":{"include_leave":true}}`})
	ok(t, err)
	if l := s.Rooms.Leave[id]; l == nil || slices.Contains(bodies(l.Timeline.Events), "behind his back") || find(slices.Concat(l.State.Events, l.Timeline.Events), "m.room.name", "") == nil {
		t.Errorf("include_leave: %+v", l)
	}
	anna.must(id, bert, "ban")
	if l := bert.sync("").Rooms.Leave[id]; l == nil || find(l.Timeline.Events, "m.room.member", string(bert.id)) == nil || slices.Contains(bodies(l.Timeline.Events), "behind his back") {
		t.Errorf("ban: %+v", l)
	}
	if got := bodies(bert.history(id)); !slices.Equal(got, []string{"secret", "for bert", "last words"}) {
		t.Errorf("history of one who was banned after leaving: %q", got)
	}
	other := bert.create("private_chat")
	bert.sync("")
	carl := h.person("carl")
	anna.must(id, carl, "invite")
	carl.leave(id)
	anna.must(id, carl, "ban")
	_, err = h.feed.Messages(t.Context(), carl.id, carl.dev, id, MessagesRequest{})
	wantCode(t, err, "M_FORBIDDEN") // was never in
	wantCode(t, h.feed.Forget(t.Context(), anna.id, id), "M_UNKNOWN")
	late := bert.since
	bert.must(other, bert, "leave")
	ok(t, h.feed.Forget(t.Context(), bert.id, other))
	if s, err := bert.ask(SyncRequest{Since: late}); err != nil || s.Rooms.Leave[other] == nil {
		t.Errorf("the leaving of a room that was forgotten at once is not told: %v", err)
	}
	bert.sync("")
	ok(t, h.feed.Forget(t.Context(), bert.id, id))
	s, err = bert.ask(SyncRequest{Filter: `{"room":{"include_leave":true}}`})
	ok(t, err)
	if len(s.Rooms.Leave) != 0 {
		t.Error("a forgotten room comes up")
	}
}

func TestJoinLeaveJoin(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	bert.join(id)
	bert.sync("")
	bert.leave(id)
	anna.say(id, "while away")
	bert.join(id)
	anna.say(id, "welcome back")
	s := bert.sync("")
	if r := s.Rooms.Join[id]; r == nil || len(s.Rooms.Leave) != 0 || !slices.Contains(bodies(r.Timeline.Events), "welcome back") {
		t.Fatalf("join, leave, join: %+v", s.Rooms)
	}
}

func TestHistoryVisibility(t *testing.T) {
	for _, c := range []struct {
		history string
		want    []string
	}{
		{"world_readable", []string{"before", "invited", "joined"}},
		{"shared", []string{"before", "invited", "joined"}},
		{"invited", []string{"invited", "joined"}},
		{"joined", []string{"joined"}},
	} {
		t.Run(c.history, func(t *testing.T) {
			h := newHouse(t)
			anna, bert, stranger := h.person("anna"), h.person("bert"), h.person("stranger")
			id := anna.create("private_chat", room.StateDraft{Type: "m.room.history_visibility", Content: json.RawMessage(fmt.Sprintf(`{"history_visibility":%q}`, c.history))})
			before := anna.say(id, "before")
			anna.must(id, bert, "invite")
			anna.say(id, "invited")
			bert.join(id)
			anna.say(id, "joined")
			if got := bodies(bert.history(id)); !slices.Equal(got, c.want) {
				t.Errorf("/messages: got %q, want %q", got, c.want)
			}
			r := bert.sync(`{"room":{"timeline":{"limit":50}}}`).room(id)
			if got := bodies(r.Timeline.Events); !slices.Equal(got, c.want) {
				t.Errorf("/sync: got %q, want %q", got, c.want)
			}
			_, err := h.feed.Event(t.Context(), bert.id, bert.dev, id, before)
			if (err == nil) != (len(c.want) == 3) {
				t.Errorf("/event: %v", err)
			}
			_, err = h.feed.Messages(t.Context(), stranger.id, stranger.dev, id, MessagesRequest{})
			if (err == nil) != (c.history == "world_readable") {
				t.Errorf("a stranger: %v", err)
			}
		})
	}
}

func TestFilters(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id, other := anna.create("public_chat"), anna.create("public_chat")
	bert.join(id)
	for i := range 30 {
		bert.say(id, fmt.Sprint(i))
	}
	wanted := anna.say(id, "anna's")
	for i := range 30 {
		bert.say(id, fmt.Sprint(i))
	}
	s, err := anna.ask(SyncRequest{Filter: fmt.Sprintf(`{"room":{"rooms":[%q],"timeline":{"limit":3,"senders":[%q],"types":["m.room.mess*"]},"state":{"types":["m.room.create"]}}}`, id, anna.id)})
	ok(t, err)
	r := s.room(id)
	if s.Rooms.Join[other] != nil || len(r.Timeline.Events) != 1 || r.Timeline.Events[0].ID != wanted || r.Timeline.Limited {
		t.Errorf("timeline %+v", r.Timeline)
	}
	if len(r.State.Events) != 1 || r.State.Events[0].Type != "m.room.create" {
		t.Errorf("state %+v", r.State.Events)
	}
	saved, err := h.accounts.SaveFilter(t.Context(), anna.id, json.RawMessage(`{"room":{"timeline":{"limit":0},"not_rooms":["`+string(other)+`"]}}`))
	ok(t, err)
	s, err = anna.ask(SyncRequest{Filter: saved})
	ok(t, err)
	if r := s.room(id); len(r.Timeline.Events) != 0 || !r.Timeline.Limited || s.Rooms.Join[other] != nil {
		t.Errorf("saved filter: %+v", r.Timeline)
	}
	_, err = anna.ask(SyncRequest{Filter: "77"})
	wantCode(t, err, "M_INVALID_PARAM")
	chunk, _, _ := anna.messages(id, MessagesRequest{Dir: "b", Limit: 5, Filter: fmt.Sprintf(`{"not_senders":[%q],"types":["m.room.message"]}`, bert.id)})
	if len(chunk) != 1 || chunk[0].ID != wanted {
		t.Errorf("/messages with a filter: %+v", chunk)
	}
}

func TestLazyMembers(t *testing.T) {
	h := newHouse(t)
	anna := h.person("anna")
	id := anna.create("public_chat", room.StateDraft{Type: "m.room.name", Content: json.RawMessage(`{"name":"n"}`)})
	var people []*person
	for i := range 6 {
		p := h.person(fmt.Sprintf("p%d", i))
		p.join(id)
		people = append(people, p)
	}
	for range 3 {
		anna.say(id, "x")
	}
	people[2].say(id, "y")
	const lazy = `{"room":{"timeline":{"limit":3},"state":{"lazy_load_members":true}}}`
	r := anna.sync(lazy).room(id)
	if got := members(r.State.Events); !slices.Equal(got, []event.UserID{anna.id, people[2].id}) {
		t.Errorf("lazy members %v", got)
	}
	people[2].say(id, "again")
	if got := members(anna.sync(lazy).room(id).State.Events); len(got) != 0 {
		t.Errorf("redundant members %v", got)
	}
	before := anna.since
	people[3].say(id, "new voice")
	for range 2 { // a lost answer: the member comes again
		s, err := anna.ask(SyncRequest{Since: before, Filter: lazy})
		ok(t, err)
		if got := members(s.room(id).State.Events); !slices.Equal(got, []event.UserID{people[3].id}) {
			t.Errorf("members %v", got)
		}
	}
	_, state, _ := anna.messages(id, MessagesRequest{Dir: "b", Limit: 2, Filter: `{"lazy_load_members":true}`})
	if got := members(state); !slices.Equal(got, []event.UserID{people[2].id, people[3].id}) {
		t.Errorf("/messages members %v", got)
	}
}

func members(es []clientEvent) []event.UserID {
	out := []event.UserID{}
	for _, e := range es {
		if e.Type == "m.room.member" {
			out = append(out, event.UserID(*e.Key))
		}
	}
	slices.Sort(out)
	return out
}

func TestToDeviceOnceAcrossALostAnswer(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	anna.sync("")
	send := func(n int) {
		ok(t, h.accounts.SendToDevice(t.Context(), bert.s, "m.x", fmt.Sprint(n), map[event.UserID]map[string]json.RawMessage{anna.id: {anna.dev: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n))}}))
	}
	for n := range maxLetter + 10 {
		send(n)
	}
	lost, err := anna.ask(SyncRequest{Since: anna.since})
	ok(t, err)
	h.restart()
	next := 0
	for next < maxLetter+10 {
		s := anna.sync("")
		if len(s.ToDevice.Events) == 0 {
			t.Fatalf("stopped at %d", next)
		}
		for _, e := range s.ToDevice.Events {
			if int(e.Content["n"].(float64)) != next {
				t.Fatalf("letter %v, want %d", e.Content, next)
			}
			next++
		}
	}
	if len(lost.ToDevice.Events) != maxLetter {
		t.Errorf("one answer held %d letters", len(lost.ToDevice.Events))
	}
	if s := anna.sync(""); len(s.ToDevice.Events) != 0 {
		t.Errorf("letters came twice: %+v", s.ToDevice)
	}
}

func TestRestart(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id, quiet := anna.create("public_chat"), anna.create("public_chat")
	bert.join(id)
	anna.sync("")
	bert.say(id, "before the restart")
	h.restart()
	bert.say(id, "after it")
	s := anna.sync("")
	if got := bodies(s.room(id).Timeline.Events); !slices.Equal(got, []string{"before the restart", "after it"}) || s.Rooms.Join[quiet] != nil {
		t.Errorf("got %q, %d rooms", got, len(s.Rooms.Join))
	}
	h.restart()
	if s := anna.sync(""); len(s.Rooms.Join) != 0 {
		t.Errorf("news after a restart: %+v", s.Rooms.Join)
	}
}

func TestEphemeralAndCounters(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	bert.join(id)
	anna.sync("")
	first := bert.say(id, "one")
	last := bert.say(id, "two for @anna:box.test, anna")
	r := anna.sync("").room(id)
	if r.Unread.Notifications != 2 || r.Unread.Highlights != 1 {
		t.Errorf("unread %+v", r.Unread)
	}
	receipt := func(p *person, typ string, e event.ID) {
		t.Helper()
		ok(t, h.accounts.SetReceipt(t.Context(), account.Receipt{Room: id, User: p.id, Type: typ, Event: e, TS: 7}))
		ok(t, h.accounts.SetAccountData(t.Context(), p.id, "", "flush", json.RawMessage(fmt.Sprintf(`{"n":%d}`, h.txn.Add(1))))) // lazy writes join the next batch
	}
	receipt(anna, "m.read.private", first)
	r = anna.sync("").room(id)
	if r.Unread.Notifications != 1 || find2(r.Ephemeral.Events, "m.receipt") == nil {
		t.Errorf("after a private receipt: %+v %+v", r.Unread, r.Ephemeral)
	}
	if e := find2(bert.sync("").room(id).Ephemeral.Events, "m.receipt"); e != nil {
		t.Errorf("a private receipt is shown: %+v", e)
	}
	receipt(anna, "m.read", last)
	if r = anna.sync("").room(id); r.Unread.Notifications != 0 {
		t.Errorf("after reading all: %+v", r.Unread)
	}
	if e := find2(bert.sync("").room(id).Ephemeral.Events, "m.receipt"); e == nil || e.Content[string(last)] == nil {
		t.Errorf("bert sees %+v", e)
	}
	reply, err := bert.draft(room.Draft{Room: id, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"msgtype":"m.text","body":"r","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, first))})
	ok(t, err)
	before := anna.since
	s, err := anna.ask(SyncRequest{Since: before, Filter: `{"room":{"timeline":{"unread_thread_notifications":true}}}`})
	ok(t, err)
	if r := s.room(id); r.Unread.Notifications != 0 || r.Threads[string(first)].Notifications != 1 {
		t.Errorf("threads apart: %+v %+v", r.Unread, r.Threads)
	}
	if r := anna.sync("").room(id); r.Unread.Notifications != 1 || r.Threads != nil {
		t.Errorf("threads together: %+v %+v", r.Unread, r.Threads)
	}
	ok(t, h.accounts.SetReceipt(t.Context(), account.Receipt{Room: id, User: anna.id, Type: "m.read", Event: reply, Thread: string(first)}))
	ok(t, h.accounts.SetAccountData(t.Context(), anna.id, "", "flush", json.RawMessage(`{}`)))
	if r := anna.sync("").room(id); r.Unread.Notifications != 0 {
		t.Errorf("after reading the thread: %+v", r.Unread)
	}
	bert.sync("")
	receipt(anna, "m.read", first) // older: passed over
	if s := bert.sync(""); len(s.Rooms.Join) != 0 {
		t.Errorf("an older receipt came through: %+v", s.Rooms.Join)
	}
	h.feed.SetTyping(id, bert.id, true, time.Minute)
	if e := find2(anna.sync("").room(id).Ephemeral.Events, "m.typing"); e == nil || len(e.Content["user_ids"].([]any)) != 1 {
		t.Errorf("typing %+v", e)
	}
	h.feed.SetTyping(id, bert.id, false, 0)
	if e := find2(anna.sync("").room(id).Ephemeral.Events, "m.typing"); e == nil || len(e.Content["user_ids"].([]any)) != 0 {
		t.Errorf("end of typing %+v", e)
	}
}

func find2(es []clientEvent, typ string) *clientEvent {
	for i := range es {
		if es[i].Type == typ {
			return &es[i]
		}
	}
	return nil
}

func TestDeviceListsInSync(t *testing.T) {
	h := newHouse(t)
	anna, bert, carl := h.person("anna"), h.person("bert"), h.person("carl")
	id := anna.create("public_chat")
	anna.sync("")
	bert.sync("")
	bert.join(id)
	if s := anna.sync(""); !slices.Equal(s.DeviceLists.Changed, []event.UserID{bert.id}) {
		t.Errorf("bert came: %+v", s.DeviceLists)
	}
	if s := bert.sync(""); !slices.Equal(s.DeviceLists.Changed, []event.UserID{anna.id}) {
		t.Errorf("bert came to anna: %+v", s.DeviceLists)
	}
	from := anna.since
	upload := func(p *person) {
		t.Helper()
		_, err := h.accounts.UploadKeys(t.Context(), p.s, account.KeyUpload{DeviceKeys: json.RawMessage(fmt.Sprintf(`{"user_id":%q,"device_id":%q}`, p.id, p.dev)),
			OneTimeKeys: map[string]json.RawMessage{"signed_curve25519:A": json.RawMessage(`{"key":"a"}`)}, FallbackKeys: map[string]json.RawMessage{"signed_curve25519:F": json.RawMessage(`{"key":"f"}`)}})
		ok(t, err)
	}
	upload(bert)
	upload(carl) // a stranger to both
	s := anna.sync("")
	if !slices.Equal(s.DeviceLists.Changed, []event.UserID{bert.id}) {
		t.Errorf("bert's keys: %+v", s.DeviceLists)
	}
	s = bert.sync("")
	if s.Keys["signed_curve25519"] != 1 || !slices.Equal(s.Fallback, []string{"signed_curve25519"}) {
		t.Errorf("own keys %v %v", s.Keys, s.Fallback)
	}
	bert.leave(id)
	if s := anna.sync(""); !slices.Equal(s.DeviceLists.Left, []event.UserID{bert.id}) {
		t.Errorf("bert went: %+v", s.DeviceLists)
	}
	if s := bert.sync(""); !slices.Equal(s.DeviceLists.Left, []event.UserID{anna.id}) {
		t.Errorf("bert went from anna: %+v", s.DeviceLists)
	}
	changed, left, err := h.feed.KeyChanges(t.Context(), anna.id, from, anna.since)
	ok(t, err)
	if len(changed) != 0 || !slices.Equal(left, []event.UserID{bert.id}) {
		t.Errorf("/keys/changes: %v %v", changed, left)
	}
}
