// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// chain makes n messages that follow each other, and does not send them.
func (f *forger) chain(n int) (pdus []*event.PDU) {
	f.t.Helper()
	for range n {
		p := f.build(f.proto())
		pdus, f.tip = append(pdus, p), p
	}
	return pdus
}

// stageAll puts events into a's stage as if they had come one after the other.
func (f *forger) stageAll(pdus []*event.PDU) {
	f.t.Helper()
	err := f.a.db.Do(f.t.Context(), func(tx *store.Tx) error {
		for _, p := range pdus {
			if err := tx.StagePDU(store.StagedPDU{Room: f.id, ID: p.ID, Origin: f.b.name, Verified: true, JSON: p.JSON()}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// A long chain that came newest first waits for its oldest event, across a restart. When that comes, all are taken in causal order, and never is more than a page
// of them in memory.
func TestLongChainWaitsForItsOldest(t *testing.T) {
	f := newForger(t, "11")
	const n = 1500
	pdus := f.chain(n)
	f.b.link.Cut()
	f.a.stop()
	f.a.start()
	rest := slices.Clone(pdus[1:])
	slices.Reverse(rest)
	f.stageAll(rest)
	in := f.a.intake
	in.poke(f.id)
	f.a.await("all are tried", func() bool {
		todo := 0
		if err := f.a.db.View(t.Context(), func(r *store.Read) error {
			rows, err := nextPage(r, f.id)
			todo = len(rows)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return todo == 0
	})
	f.a.stop()
	f.a.start()
	f.b.link.Join()
	f.push(pdus[0].JSON())
	ids := make([]string, n)
	for i, p := range pdus {
		ids[i] = string(p.ID)
	}
	f.a.await("the whole chain", func() bool { return f.a.has(string(f.id), ids[n-1:]) })
	last := int64(0)
	for _, p := range pdus {
		_, meta, err := f.a.rooms.Event(t.Context(), p.ID)
		if err != nil || meta.Pos <= last {
			t.Fatalf("%s at %d after %d: %v", p.ID, meta.Pos, last, err)
		}
		last = meta.Pos
	}
	if err := f.a.db.View(t.Context(), func(r *store.Read) error {
		left, err := r.StagedCount(f.id)
		if left != 0 {
			t.Errorf("%d are still staged", left)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// Who has so much waiting here is told to come again, before anything is kept; others are not held up, and what was kept stays.
func TestOriginWithTooMuchWaiting(t *testing.T) {
	f := newForger(t, "11")
	first := f.build(f.proto())
	f.tip = first
	waits := f.chain(1)[0]
	f.push(waits.JSON())
	var filler []store.StagedPDU
	for i := range maxStagedBy {
		filler = append(filler, store.StagedPDU{Room: f.id, ID: event.ID(fmt.Sprintf("$filler%038d", i)), Origin: f.b.name, Verified: true, JSON: waits.JSON()})
	}
	err := f.a.db.Do(t.Context(), func(tx *store.Tx) error {
		for i, p := range filler { // as if all had been tried
			if err := tx.StagePDU(p); err != nil {
				return err
			}
			if err := tx.BlockStaged(f.id, int64(i+2), store.LackPrev, []event.ID{"$none"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	body := json.RawMessage(`{"origin":"b","origin_server_ts":1,"pdus":[` + string(first.JSON()) + `]}`)
	var ref *Refusal
	err = f.b.client.ask(t.Context(), f.a.name, call{method: "PUT", path: v1("send", "full"), body: body}, nil)
	if !errors.As(err, &ref) || ref.Status != http.StatusTooManyRequests || ref.Code != "M_LIMIT_EXCEEDED" {
		t.Errorf("got %v", err)
	}
	if _, _, err := f.a.rooms.Event(t.Context(), first.ID); err == nil {
		t.Error("the event was taken all the same")
	}
	if err := f.b.client.ask(t.Context(), f.a.name, call{method: "PUT", path: v1("send", "edu"), body: json.RawMessage(`{"pdus":[],"edus":[]}`)}, nil); err != nil {
		t.Errorf("a transaction without events: %v", err)
	}
	if full, err := f.a.intake.Full(t.Context(), "somebody.else"); full || err != nil {
		t.Errorf("another origin: %v, %v", full, err)
	}
	if err := f.a.db.View(t.Context(), func(r *store.Read) error {
		left, err := r.StagedCount(f.id)
		if left != maxStagedBy+1 {
			t.Errorf("%d staged", left)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// An event rests on an authorising event that nobody in reach has: it is refused for the time being and stops nothing. When the authorising event comes, it counts.
func TestAuthorityThatComesLater(t *testing.T) {
	f := newForger(t, "11")
	s := must[map[rules.Key]event.ID](t)(f.a.rooms.State(t.Context(), f.id))
	self := string(f.user)
	profile := f.proto()
	profile.Type, profile.StateKey, profile.Content = "m.room.member", &self, json.RawMessage(`{"membership":"join","displayname":"Bert"}`)
	profile.Auth = append(slices.Clone(f.auth), s[rules.Key{Type: "m.room.join_rules"}])
	late := f.build(profile)
	word := f.proto()
	word.Auth = []event.ID{f.auth[0], f.auth[1], late.ID}
	early := f.build(word)
	f.tip = early
	next := f.build(f.proto())
	if answers := f.push(early.JSON()); answers[early.ID] != "" {
		t.Errorf("answers %v", answers)
	}
	f.push(next.JSON())
	f.a.await("what builds on it", func() bool { return f.a.has(string(f.id), []string{string(next.ID)}) })
	if _, meta, err := f.a.rooms.Event(t.Context(), early.ID); err != nil || !meta.Rejected || !strings.Contains(meta.Reason, "missing") {
		t.Errorf("%+v, %v", meta, err)
	}
	f.push(late.JSON())
	f.a.await("the event that was refused", func() bool { return f.a.has(string(f.id), []string{string(early.ID), string(late.ID)}) })
}

// The whole of a room's graph is asked for when a server names only its newest event, and a server that keeps silent about an ancestor does not stop what others have.
func TestStateStandsInForAnAncestor(t *testing.T) {
	f := newForger(t, "11")
	pdus := f.chain(3)
	// b has the middle one as it has any event of its room, but not the first.
	before := must[map[rules.Key]event.ID](t)(f.b.rooms.State(t.Context(), f.id))
	var ids []event.ID
	for _, id := range before {
		ids = append(ids, id)
	}
	for i, p := range pdus[1:] {
		in := room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: "x"}}
		if i == 0 {
			in.State = ids
		}
		if res := must[room.Result](t)(f.b.rooms.Accept(t.Context(), in)); res.Outcome != room.Accepted {
			t.Fatalf("%+v", res)
		}
	}
	f.push(pdus[2].JSON())
	f.a.await("the newest two", func() bool { return f.a.has(string(f.id), []string{string(pdus[1].ID), string(pdus[2].ID)}) })
	if gaps := must[[]event.ID](t)(f.a.rooms.Gaps(t.Context(), f.id)); !slices.Contains(gaps, pdus[0].ID) {
		t.Errorf("gaps %v", gaps)
	}
	f.push(pdus[0].JSON())
	f.a.await("the oldest", func() bool { return f.a.has(string(f.id), []string{string(pdus[0].ID)}) })
}

// Gaps of many rooms are closed one after the other, that room first in which people wrote last: long before the last question it is whole, where all of them would be at the end.
func TestGapsCloseInTurn(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	var rooms []string
	for range 6 {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
		must[string](t)(bert.Join(t.Context(), id, a.name))
		rooms = append(rooms, id)
	}
	warm := say(t, anna, rooms[5], 1, "warm")
	b.await("the rooms", func() bool { return b.has(rooms[5], warm) })
	a.sender.silent.Store(true)
	b.sender.silent.Store(true) // what it has is asked for
	said := map[string][]string{}
	for _, id := range rooms {
		said[id] = say(t, bert, id, 320, "viel")
	}
	say(t, anna, rooms[2], 1, "hier schreiben wir")
	b.seen.mu.Lock()
	b.seen.list = nil
	b.seen.mu.Unlock()
	line := testpeer.NewRate(4_000_000)
	b.link.Pace(line, line)
	a.sender.silent.Store(false)
	a.sender.LinkUp(b.name)
	for _, id := range rooms {
		a.await("a room's messages", func() bool { return a.has(id, said[id]) })
	}
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	last, n := map[string]int{}, 0
	ahead := map[string]bool{} // the first question about each room is for what is newest
	for _, s := range b.seen.list {
		if !strings.Contains(s, "/backfill/") && !strings.Contains(s, "/get_missing_events/") {
			continue
		}
		for _, id := range rooms {
			if !strings.HasSuffix(s, id) {
				continue
			}
			if !ahead[id] {
				ahead[id] = true
				continue
			}
			n++
			last[id] = n
		}
	}
	if last[rooms[2]] > n*3/4 { // in turn it would be among the last five of 24
		t.Errorf("of %d questions the last about the room in which people wrote was number %d", n, last[rooms[2]])
	}
}
