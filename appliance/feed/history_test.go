// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// joinAcross lets bert join a room of another server as federation would.
func joinAcross(t *testing.T, far *house, bert *person, id event.RoomID) *event.PDU {
	t.Helper()
	ctx, key := t.Context(), string(bert.id)
	raw, v, err := far.rooms.Template(ctx, room.Draft{Room: id, Sender: bert.id, Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"join"}`)})
	ok(t, err)
	join, err := event.FromTemplate(v, raw, bert.h.name, bert.h.key)
	ok(t, err)
	res, err := far.rooms.Accept(ctx, room.Incoming{PDU: join, From: room.Source{Kind: "federation", Server: bert.h.name}})
	ok(t, err)
	if res.Outcome != room.Accepted {
		t.Fatalf("the join is %v: %s", res.Outcome, res.Reason)
	}
	told, err := far.rooms.TellState(ctx, join.ID)
	ok(t, err)
	pdus := func(nids []int64) (list []*event.PDU) {
		ok(t, told.Each(ctx, nids, func(raw json.RawMessage) error {
			p, err := event.Parse(v, raw)
			list = append(list, p)
			return err
		}))
		return list
	}
	ok(t, bert.h.rooms.Adopt(ctx, v, join, pdus(told.State), pdus(told.Auth), room.Source{Kind: "federation", Server: far.name}))
	return join
}

// A room joined through another server: its state at once, its history when it was fetched, in order, and then what comes.
func TestJoinedElsewhere(t *testing.T) {
	box, far := newHouse(t), newBox(t, "far.test")
	bert, anna := box.person("bert"), far.person("anna")
	id := anna.create("public_chat", room.StateDraft{Type: "m.room.name", Content: json.RawMessage(`{"name":"Lage"}`)})
	var want []string
	for i := range 30 {
		anna.say(id, fmt.Sprint(i))
		want = append(want, fmt.Sprint(i))
	}
	bert.sync("")
	got := make(chan *clientSync)
	go func() {
		s, err := bert.ask(SyncRequest{Since: bert.since, Timeout: patience})
		if err != nil {
			t.Error(err)
		}
		got <- s
	}()
	box.waitForPoll()
	join := joinAcross(t, far, bert, id)
	s := <-got
	r := s.room(id)
	if len(r.Timeline.Events) != 1 || r.Timeline.Events[0].ID != join.ID || !r.Timeline.Limited {
		t.Fatalf("timeline of the joined room: %+v", r.Timeline)
	}
	if find(r.State.Events, "m.room.name", "") == nil || find(r.State.Events, "m.room.create", "") == nil || r.Summary.Joined != 2 {
		t.Errorf("state %d events, summary %+v", len(r.State.Events), r.Summary)
	}
	if !slices.Contains(s.DeviceLists.Changed, anna.id) {
		t.Errorf("device lists %+v", s.DeviceLists)
	}
	bert.since = s.Next

	// Keys of users elsewhere are asked for once, and then kept while the room is shared.
	want2 := map[event.UserID][]string{anna.id: nil}
	out, remote, err := box.accounts.QueryKeys(t.Context(), bert.id, want2)
	ok(t, err)
	if len(remote["far.test"]) != 1 {
		t.Fatalf("whom to ask: %v", remote)
	}
	answer, _, err := far.accounts.QueryKeys(t.Context(), "", want2)
	ok(t, err)
	raw, err := json.Marshal(answer)
	ok(t, err)
	_, err = box.accounts.MergeRemoteKeys(t.Context(), bert.id, remote["far.test"], want2, raw, &out)
	ok(t, err)
	if _, remote, err = box.accounts.QueryKeys(t.Context(), bert.id, want2); err != nil || len(remote) != 0 {
		t.Errorf("asked again: %v %v", remote, err)
	}

	var bodiesBack []string
	from, tips := r.Timeline.PrevBatch, join.Prev
	for from != "" {
		m, err := box.feed.Messages(t.Context(), bert.id, bert.dev, id, MessagesRequest{From: from, Dir: "b", Limit: 8})
		ok(t, err)
		for _, raw := range m.Chunk {
			var e clientEvent
			ok(t, json.Unmarshal(raw, &e))
			if e.Type == "m.room.message" {
				bodiesBack = append(bodiesBack, e.body())
			}
		}
		from = m.End
		if m.NeedBackfill {
			tips = backfill(t, far, box, id, tips)
		}
	}
	slices.Reverse(bodiesBack)
	if !slices.Equal(bodiesBack, want) {
		t.Errorf("history %q, want %q", bodiesBack, want)
	}
	if s := bert.sync(""); len(s.Rooms.Join) != 0 {
		t.Errorf("fetched history comes as news: %+v", s.room(id).Timeline)
	}
	e := anna.say(id, "live")
	p, _, err := far.rooms.Event(t.Context(), e)
	ok(t, err)
	_, err = box.rooms.Accept(t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: "far.test"}})
	ok(t, err)
	if got := bodies(bert.sync("").room(id).Timeline.Events); !slices.Equal(got, []string{"live"}) {
		t.Errorf("after the history: %q", got)
	}
	if got := bodies(bert.history(id)); !slices.Equal(got, append(want, "live")) {
		t.Errorf("forwards: %q", got)
	}
}

// Where other servers have more between two events of a timeline, it begins after the hole and says so.
func TestTimelineBeginsAfterAHole(t *testing.T) {
	box, far := newHouse(t), newBox(t, "far.test")
	bert, anna := box.person("bert"), far.person("anna")
	id := anna.create("public_chat")
	joinAcross(t, far, bert, id)
	bert.sync("")
	mine := bert.say(id, "mine")
	for i := range 5 {
		anna.say(id, fmt.Sprint("unheard ", i))
	}
	late, _, err := far.rooms.Event(t.Context(), anna.say(id, "heard"))
	ok(t, err)
	state, err := far.rooms.StateBefore(t.Context(), late.ID)
	ok(t, err)
	res, err := box.rooms.Accept(t.Context(), room.Incoming{PDU: late, From: room.Source{Kind: "federation", Server: far.name}, State: slices.Collect(maps.Values(state))})
	ok(t, err)
	if res.Outcome != room.Accepted {
		t.Fatalf("%v: %s", res.Outcome, res.Reason)
	}
	r := bert.sync("").room(id)
	if got := bodies(r.Timeline.Events); !slices.Equal(got, []string{"heard"}) || !r.Timeline.Limited {
		t.Errorf("timeline %q, limited %v", got, r.Timeline.Limited)
	}
	m, err := box.feed.Messages(t.Context(), bert.id, bert.dev, id, MessagesRequest{From: r.Timeline.PrevBatch, Dir: "b", Limit: 1})
	ok(t, err)
	var e clientEvent
	if len(m.Chunk) != 1 || json.Unmarshal(m.Chunk[0], &e) != nil || e.ID != mine {
		t.Errorf("before the hole: %s", m.Chunk)
	}
}

// Whoever comes into a room is told to page back for what was before.
func TestNewcomersTimelineIsLimited(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	anna.say(id, "before")
	bert.sync("")
	bert.join(id)
	if r := bert.sync(`{"room":{"timeline":{"types":["m.room.message"]}}}`).room(id); !r.Timeline.Limited || len(r.Timeline.Events) != 1 {
		t.Errorf("limited %v, %d events", r.Timeline.Limited, len(r.Timeline.Events))
	}
}

// What another server sent with an invite may be whole events; clients see the stripped form.
func TestStrippedStateIsPruned(t *testing.T) {
	whole := `{"auth_events":[],"content":{"room_version":"12"},"depth":1,"hashes":{"sha256":"x"},"origin_server_ts":7,"sender":"@a:far.test","signatures":{},"state_key":"","type":"m.room.create"}`
	got, _, err := pruned(json.RawMessage(whole))
	ok(t, err)
	if want := `{"content":{"room_version":"12"},"origin_server_ts":7,"sender":"@a:far.test","state_key":"","type":"m.room.create"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, bad := range []string{`7`, `{"type":1}`, `{"type":"m.room.name"}`, `[]`} {
		if got, _, err := pruned(json.RawMessage(bad)); got != nil || err != nil {
			t.Errorf("%s: %s %v", bad, got, err)
		}
	}
}

// backfill fetches seven events that lead to tips, and gives the tips of the next seven.
func backfill(t *testing.T, far, box *house, id event.RoomID, tips []event.ID) []event.ID {
	t.Helper()
	pdus, err := far.rooms.Backfill(t.Context(), id, tips, 7)
	ok(t, err)
	if len(pdus) == 0 {
		t.Fatal("the other server has no more history")
	}
	for _, p := range pdus {
		res, err := box.rooms.Accept(t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: far.name}, Backfill: true})
		ok(t, err)
		if res.Outcome != room.Accepted && res.Outcome != room.Duplicate {
			t.Fatalf("history is %v: %s", res.Outcome, res.Reason)
		}
	}
	return pdus[len(pdus)-1].Prev
}

// Two halves of a room set the topic while they are apart. Whoever wins, a client that lays states and timelines one over the
// other ends with the room's topic.
func TestClientsEndWithTheStateThatWon(t *testing.T) {
	for round := range 6 {
		box, far := newHouse(t), newBox(t, "far.test")
		bert, anna := box.person("bert"), far.person("anna")
		id := anna.create("public_chat", room.StateDraft{Type: "m.room.topic", Content: json.RawMessage(`{"topic":"old"}`)})
		joinAcross(t, far, bert, id)
		hand := func(from, to *house, e event.ID) {
			t.Helper()
			p, _, err := from.rooms.Event(t.Context(), e)
			ok(t, err)
			_, err = to.rooms.Accept(t.Context(), room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: from.name}})
			ok(t, err)
		}
		levels := map[string]any{}
		raw, err := far.feed.StateEvent(t.Context(), anna.id, id, "m.room.power_levels", "", false)
		ok(t, err)
		ok(t, json.Unmarshal(raw, &levels))
		users, _ := levels["users"].(map[string]any)
		if users == nil {
			users = map[string]any{}
		}
		users[string(bert.id)] = 90
		levels["users"] = users
		raw, err = json.Marshal(levels)
		ok(t, err)
		hand(far, box, anna.state(id, "m.room.power_levels", "", string(raw)))

		topic := ""
		follow := func() {
			r := bert.sync("").room(id)
			for _, e := range slices.Concat(r.State.Events, r.Timeline.Events) {
				if e.Type == "m.room.topic" {
					topic = e.Content["topic"].(string)
				}
			}
		}
		follow()
		theirs := anna.state(id, "m.room.topic", "", fmt.Sprintf(`{"topic":"theirs %d"}`, round))
		bert.state(id, "m.room.topic", "", `{"topic":"ours"}`)
		follow()
		hand(far, box, theirs)
		follow()
		follow()
		raw, err = box.feed.StateEvent(t.Context(), bert.id, id, "m.room.topic", "", false)
		ok(t, err)
		var want struct{ Topic string }
		ok(t, json.Unmarshal(raw, &want))
		if topic != want.Topic {
			t.Errorf("the client believes %q, the room says %q", topic, want.Topic)
		}
		if s := bert.sync(""); len(s.Rooms.Join) != 0 {
			t.Errorf("corrected again and again: %+v", s.room(id).State)
		}
	}
}

func TestContextAndEvent(t *testing.T) {
	h := newHouse(t)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	bert.join(id)
	var ids []event.ID
	for i := range 9 {
		ids = append(ids, bert.say(id, fmt.Sprint(i)))
	}
	c, err := h.feed.Context(t.Context(), anna.id, anna.dev, id, ids[4], 4, `{"lazy_load_members":true}`)
	ok(t, err)
	read := func(raws ...json.RawMessage) []clientEvent {
		var out []clientEvent
		for _, raw := range raws {
			var e clientEvent
			ok(t, json.Unmarshal(raw, &e))
			out = append(out, e)
		}
		return out
	}
	if got := bodies(read(c.Before...)); !slices.Equal(got, []string{"3", "2"}) {
		t.Errorf("before %q", got)
	}
	if got := bodies(read(c.After...)); !slices.Equal(got, []string{"5", "6"}) {
		t.Errorf("after %q", got)
	}
	if got := members(read(c.State...)); !slices.Equal(got, []event.UserID{bert.id}) {
		t.Errorf("members %v", got)
	}
	back, _, _ := anna.messages(id, MessagesRequest{From: c.Start, Dir: "b", Limit: 2})
	if got := bodies(back); !slices.Equal(got, []string{"1", "0"}) {
		t.Errorf("further back %q", got)
	}
	forth, _, _ := anna.messages(id, MessagesRequest{From: c.End, Dir: "f", Limit: 5})
	if got := bodies(forth); !slices.Equal(got, []string{"7", "8"}) {
		t.Errorf("further on %q", got)
	}
	other := anna.create("public_chat")
	_, err = h.feed.Event(t.Context(), anna.id, anna.dev, other, ids[4])
	wantCode(t, err, "M_NOT_FOUND")
	_, err = h.feed.Messages(t.Context(), anna.id, anna.dev, "!none:box.test", MessagesRequest{})
	wantCode(t, err, "M_FORBIDDEN")
	_, err = h.feed.Messages(t.Context(), anna.id, anna.dev, id, MessagesRequest{Dir: "x"})
	wantCode(t, err, "M_INVALID_PARAM")
}

func TestRedactionIsShown(t *testing.T) {
	h := newHouse(t)
	anna := h.person("anna")
	id := anna.create("public_chat")
	e := anna.say(id, "a slip")
	anna.sync("")
	by, err := anna.draft(room.Draft{Room: id, Type: "m.room.redaction", Redacts: e, Content: json.RawMessage(fmt.Sprintf(`{"redacts":%q,"reason":"slip"}`, e))})
	ok(t, err)
	es := anna.sync("").room(id).Timeline.Events
	if len(es) != 1 || es[0].ID != by || es[0].Redacts != e {
		t.Errorf("the redaction: %+v", es)
	}
	raw, err := h.feed.Event(t.Context(), anna.id, anna.dev, id, e)
	ok(t, err)
	var got clientEvent
	ok(t, json.Unmarshal(raw, &got))
	if len(got.Content) != 0 || got.Unsigned.Because == nil || got.Unsigned.Because.ID != by {
		t.Errorf("the redacted event: %s", raw)
	}
}

// Where events were given an end is given; where none were left there is none.
func TestMessagesEnd(t *testing.T) {
	h := newHouse(t)
	anna := h.person("anna")
	id := anna.create("public_chat")
	anna.say(id, "one")
	for _, dir := range []string{"b", "f"} {
		chunk, _, end := anna.messages(id, MessagesRequest{Dir: dir, Limit: 50})
		if len(chunk) == 0 || end == "" {
			t.Fatalf("%s: %d events, end %q", dir, len(chunk), end)
		}
		if chunk, _, end = anna.messages(id, MessagesRequest{Dir: dir, From: end}); len(chunk) != 0 || end != "" {
			t.Errorf("%s: after the last %d events, end %q", dir, len(chunk), end)
		}
	}
}

func TestStateAndMembers(t *testing.T) {
	h := newHouse(t)
	anna, bert, carl := h.person("anna"), h.person("bert"), h.person("carl")
	id := anna.create("public_chat", room.StateDraft{Type: "m.room.topic", Content: json.RawMessage(`{"topic":"old"}`)})
	anna.say(id, "moin")
	bert.join(id)
	anna.sync("")
	at := anna.since
	bert.leave(id)
	carl.join(id)
	anna.state(id, "m.room.topic", "", `{"topic":"new"}`)
	content := func(p *person, typ string) string {
		raw, err := h.feed.StateEvent(t.Context(), p.id, id, typ, "", false)
		if err != nil {
			return code(err)
		}
		return string(raw)
	}
	if got := content(anna, "m.room.topic"); got != `{"topic":"new"}` {
		t.Errorf("anna: %s", got)
	}
	if got := content(bert, "m.room.topic"); got != `{"topic":"old"}` {
		t.Errorf("bert, who left: %s", got)
	}
	if got := content(anna, "m.none"); got != "M_NOT_FOUND" {
		t.Errorf("no such state: %s", got)
	}
	if got := content(h.person("stranger"), "m.room.topic"); got != "M_FORBIDDEN" {
		t.Errorf("a stranger: %s", got)
	}
	list := func(req MembersRequest) []event.UserID {
		raw, err := h.feed.Members(t.Context(), anna.id, anna.dev, id, req)
		ok(t, err)
		var out struct{ Chunk []clientEvent }
		ok(t, json.Unmarshal(raw, &out))
		return members(out.Chunk)
	}
	if got := list(MembersRequest{}); !slices.Equal(got, []event.UserID{anna.id, bert.id, carl.id}) {
		t.Errorf("members %v", got)
	}
	if got := list(MembersRequest{NotMembership: "leave"}); !slices.Equal(got, []event.UserID{anna.id, carl.id}) {
		t.Errorf("members who have not left %v", got)
	}
	if got := list(MembersRequest{At: at, Membership: "join"}); !slices.Equal(got, []event.UserID{anna.id, bert.id}) {
		t.Errorf("members at the token %v", got)
	}
	whole, err := anna.ask(SyncRequest{})
	ok(t, err)
	if got := list(MembersRequest{At: whole.room(id).Timeline.PrevBatch}); !slices.Equal(got, []event.UserID{anna.id}) {
		t.Errorf("members at the room's beginning %v", got)
	}
	raw, err := h.feed.JoinedMembers(t.Context(), anna.id, id)
	ok(t, err)
	var joined struct {
		Joined map[event.UserID]json.RawMessage `json:"joined"`
	}
	ok(t, json.Unmarshal(raw, &joined))
	if len(joined.Joined) != 2 {
		t.Errorf("joined %s", raw)
	}
	_, err = h.feed.JoinedMembers(t.Context(), bert.id, id)
	wantCode(t, err, "M_FORBIDDEN")
}

func TestRelations(t *testing.T) {
	h := newHouse(t)
	anna := h.person("anna")
	id := anna.create("public_chat")
	parent := anna.say(id, "parent")
	relate := func(rel string, to event.ID) event.ID {
		e, err := anna.draft(room.Draft{Room: id, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":%q,"m.relates_to":{"rel_type":%q,"event_id":%q}}`, rel, rel, to))})
		ok(t, err)
		return e
	}
	first := relate("m.thread", parent)
	anna.say(id, "noise")
	edit := relate("m.replace", first)
	second := relate("m.thread", parent)
	get := func(rel string, recurse bool, dir string) []event.ID {
		raw, err := h.feed.Relations(t.Context(), anna.id, anna.dev, id, parent, rel, "", MessagesRequest{Dir: dir}, recurse)
		ok(t, err)
		var out struct{ Chunk []clientEvent }
		ok(t, json.Unmarshal(raw, &out))
		ids := []event.ID{}
		for _, e := range out.Chunk {
			ids = append(ids, e.ID)
		}
		return ids
	}
	for _, c := range []struct {
		rel     string
		recurse bool
		dir     string
		want    []event.ID
	}{
		{"m.thread", false, "", []event.ID{second, first}},
		{"m.thread", false, "f", []event.ID{first, second}},
		{"m.replace", false, "", []event.ID{}},
		{"", true, "f", []event.ID{first, edit, second}},
	} {
		if got := get(c.rel, c.recurse, c.dir); !slices.Equal(got, c.want) {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func TestTyping(t *testing.T) {
	h := newHouse(t)
	var told []string
	h.feed.opt.OnTyping = func(_ event.RoomID, u event.UserID, typing bool) { told = append(told, fmt.Sprint(u, typing)) }
	anna := h.person("anna")
	id := anna.create("public_chat")
	h.feed.SetTyping(id, anna.id, true, time.Minute)
	h.feed.SetTyping(id, anna.id, true, time.Minute) // said again: nothing new
	if got := h.feed.Typing(id); !slices.Equal(got, []event.UserID{anna.id}) {
		t.Errorf("typing %v", got)
	}
	h.feed.SetTyping(id, anna.id, false, 0)
	if want := []string{"@anna:box.testtrue", "@anna:box.testfalse"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	edu := func(origin string, user event.UserID) {
		t.Helper()
		ok(t, h.feed.ReceiveTyping(t.Context(), origin, json.RawMessage(fmt.Sprintf(`{"room_id":%q,"user_id":%q,"typing":true}`, id, user))))
	}
	edu("far.test", anna.id)       // not its user
	edu("far.test", "@z:far.test") // not in the room
	if got := h.feed.Typing(id); len(got) != 0 {
		t.Errorf("typing after strangers' words: %v", got)
	}
}

func TestPresence(t *testing.T) {
	h := newHouse(t)
	anna, bert, carl := h.person("anna"), h.person("bert"), h.person("carl")
	wantCode(t, h.feed.SetPresence(anna.id, "online", nil), "M_FORBIDDEN") // off
	h.feed.opt.Presence = true
	id := anna.create("public_chat")
	bert.join(id)
	anna.sync("")
	bert.sync("")
	status := "am Deich"
	wantCode(t, h.feed.SetPresence(bert.id, "sleepy", nil), "M_INVALID_PARAM")
	ok(t, h.feed.SetPresence(bert.id, "unavailable", &status))
	ok(t, h.feed.SetPresence(carl.id, "online", nil)) // shares no room
	s := anna.sync("")
	if len(s.Presence.Events) != 1 || s.Presence.Events[0].Sender != bert.id || s.Presence.Events[0].Content["status_msg"] != status {
		t.Errorf("anna got %+v", s.Presence)
	}
	if s := anna.sync(""); len(s.Presence.Events) != 0 {
		t.Errorf("presence came twice: %+v", s.Presence)
	}
	got, err := h.feed.Presence(t.Context(), anna.id, bert.id)
	ok(t, err)
	if got.Presence != "unavailable" || got.Status != status {
		t.Errorf("asked: %+v", got)
	}
	carl.join(id)
	if s := anna.sync(""); len(s.Presence.Events) != 1 || s.Presence.Events[0].Sender != carl.id {
		t.Errorf("carl has come: %+v", s.Presence)
	}
	if s := anna.sync(""); len(s.Presence.Events) != 0 {
		t.Errorf("carl's presence came twice: %+v", s.Presence)
	}
	carl.leave(id)
	anna.sync("")
	_, err = h.feed.Presence(t.Context(), anna.id, carl.id)
	wantCode(t, err, "M_FORBIDDEN")
	ok(t, h.feed.ReceivePresence(t.Context(), "far.test", json.RawMessage(fmt.Sprintf(`{"push":[{"user_id":%q,"presence":"online"}]}`, bert.id))))
	if s := anna.sync(""); len(s.Presence.Events) != 0 {
		t.Errorf("another server spoke for bert: %+v", s.Presence)
	}
	known := len(h.feed.present)
	ok(t, h.feed.ReceivePresence(t.Context(), "far.test", json.RawMessage(`{"push":[{"user_id":"@stranger:far.test","presence":"online"}]}`)))
	if len(h.feed.present) != known {
		t.Error("strangers fill the memory")
	}
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"s1", "s12_3", "s12_3_4", "p-5", "s", "p1_2", "s1_-1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parseToken(s)
		if err != nil {
			return
		}
		if s[0] == 's' {
			again, err := parseToken(tok.String())
			if err != nil || again != tok {
				t.Fatalf("%q is read as %+v and written as %q", s, tok, tok.String())
			}
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add(`{"room":{"timeline":{"limit":5,"types":["m.*"]}}}`, "m.room.message")
	f.Add(`{"room":{"state":{"lazy_load_members":true,"not_senders":["@a:b"]}}}`, "a*b")
	f.Fuzz(func(t *testing.T, s, typ string) {
		var x filter
		if json.Unmarshal([]byte(s), &x) != nil {
			return
		}
		x.Room.Timeline.event(typ, "@a:b", func() bool { return true })
		if n := x.Room.Timeline.limit(defaultTimeline, maxTimeline); n < 0 || n > maxTimeline {
			t.Fatalf("limit %d", n)
		}
	})
}

func FuzzPath(f *testing.F) {
	f.Add(`content.m\.mentions.user_ids`, "hal*ig", "the Hallig")
	f.Add(`\`, "?", "")
	f.Fuzz(func(t *testing.T, path, pattern, text string) {
		x := subject{root: map[string]any{"content": map[string]any{"m.mentions": map[string]any{"user_ids": []any{"a"}}}}}
		x.field(path)
		r := newRuleset()
		r.word(pattern, text)
		r.whole(pattern, text)
	})
}
