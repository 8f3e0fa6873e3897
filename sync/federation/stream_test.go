// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// joinAnswer is what send_join gives.
type joinAnswer struct {
	Event     json.RawMessage   `json:"event"`
	State     []json.RawMessage `json:"state"`
	AuthChain []json.RawMessage `json:"auth_chain"`
	Omitted   *bool             `json:"members_omitted"`
	Servers   []string          `json:"servers_in_room"`
}

// sendJoin joins a user of b through a and gives the answer.
func sendJoin(t *testing.T, a, b *testBox, id, user string, q url.Values) (*event.Version, joinAnswer) {
	t.Helper()
	v, p, err := b.client.fromTemplate(t.Context(), a.name, "make_join", event.RoomID(id), event.UserID(user), "join", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	var out joinAnswer
	ask := call{method: http.MethodPut, path: v2("send_join", id, string(p.ID)), query: q, body: json.RawMessage(p.JSON()), limit: maxJoin}
	if err := b.client.ask(t.Context(), a.name, ask, &out); err != nil {
		t.Fatal(err)
	}
	return v, out
}

func parsed(t *testing.T, v *event.Version, list []json.RawMessage) map[event.ID]*event.PDU {
	t.Helper()
	out := make(map[event.ID]*event.PDU)
	for _, raw := range list {
		p, err := event.Parse(v, raw)
		if err != nil {
			t.Fatal(err)
		}
		if out[p.ID] != nil {
			t.Errorf("%s is told twice", p.ID)
		}
		out[p.ID] = p
	}
	return out
}

// members are the users whose memberships are among events.
func members(events map[event.ID]*event.PDU) (us []string) {
	for _, p := range events {
		if p.Type == "m.room.member" {
			us = append(us, *p.StateKey)
		}
	}
	slices.Sort(us)
	return us
}

// A server that asks for it gets a room without its members, but with all that authorises what it gets.
func TestSendJoinOmitsMembers(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	users := []*matrixclient.Client{a.user("anna")}
	for i := range 6 {
		users = append(users, a.user(fmt.Sprint("user", i)))
	}
	omit := url.Values{"omit_members": {"true"}}
	for _, version := range []string{"10", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			id := must[string](t)(users[0].CreateRoom(t.Context(), matrixclient.CreateRoom{Version: version, Preset: "public_chat"}))
			for _, u := range users[1:] {
				must[string](t)(u.Join(t.Context(), id))
			}
			var heroes, everybody []string
			for i, u := range users {
				if everybody = append(everybody, u.UserID); i < 5 {
					heroes = append(heroes, u.UserID)
				}
			}
			check := func(v *event.Version, got joinAnswer, omitted bool, wantMembers, wantServers []string) {
				t.Helper()
				state, auth := parsed(t, v, got.State), parsed(t, v, got.AuthChain)
				slices.Sort(wantMembers)
				if m := members(state); !slices.Equal(m, wantMembers) {
					t.Errorf("members in the state: %v, want %v", m, wantMembers)
				}
				slices.Sort(wantServers)
				if got.Omitted == nil || *got.Omitted != omitted || !slices.Equal(got.Servers, wantServers) {
					t.Errorf("members_omitted %v, servers %v, want %v %v", got.Omitted, got.Servers, omitted, wantServers)
				}
				join, err := event.Parse(v, got.Event)
				if err != nil {
					t.Fatal(err)
				}
				need := slices.Clone(join.Auth)
				for eid, p := range state {
					need = append(need, p.Auth...)
					if omitted && auth[eid] != nil {
						t.Errorf("%s %s is told in the state and again in the chain", p.Type, eid)
					}
				}
				for _, p := range auth {
					need = append(need, p.Auth...)
				}
				for _, eid := range need {
					if state[eid] == nil && auth[eid] == nil {
						t.Errorf("%s authorises something and is not told", eid)
					}
				}
			}
			v, got := sendJoin(t, a, b, id, "@bert:"+b.name, omit)
			check(v, got, true, heroes, []string{a.name})
			// With a name nobody is needed to tell the room from others; what authorises still is.
			if _, err := users[0].SetState(t.Context(), id, "m.room.name", "", map[string]string{"name": "Lage"}); err != nil {
				t.Fatal(err)
			}
			v, got = sendJoin(t, a, c, id, "@carl:"+c.name, omit)
			check(v, got, true, nil, []string{a.name, b.name})
			// Only who asks for it, and a server that is there already is there before the join too.
			for _, q := range []url.Values{nil, {"omit_members": {"false"}}, {"omit_members": {"yes"}}} {
				v, got = sendJoin(t, a, b, id, "@berta:"+b.name, q)
				all := append(slices.Clone(everybody), "@bert:"+b.name, "@carl:"+c.name)
				if q != nil { // berta joined before
					all = append(all, "@berta:"+b.name)
				}
				check(v, got, false, all, []string{a.name, b.name, c.name})
			}
			var old []json.RawMessage
			v, p, err := b.client.fromTemplate(t.Context(), a.name, "make_join", event.RoomID(id), event.UserID("@bruno:"+b.name), "join", "", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.client.ask(t.Context(), a.name, call{method: http.MethodPut, path: v1("send_join", id, string(p.ID)), query: omit, body: json.RawMessage(p.JSON()), limit: maxJoin}, &old); err != nil {
				t.Fatal(err)
			}
			if len(old) != 2 || string(old[0]) != "200" {
				t.Fatalf("the older form is %.100s", old)
			}
			if err := json.Unmarshal(old[1], &got); err != nil {
				t.Fatal(err)
			}
			check(v, got, false, append(slices.Clone(everybody), "@bert:"+b.name, "@carl:"+c.name, "@berta:"+b.name), []string{a.name, b.name, c.name})
		})
	}
}

// Who has left does not stand for a room in which somebody is.
func TestSendJoinNamesWhoIsThere(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, gone := a.user("anna"), a.user("gone")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Version: "11", Preset: "public_chat"}))
	must[string](t)(gone.Join(t.Context(), id))
	if err := gone.Leave(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	v, got := sendJoin(t, a, b, id, "@bert:"+b.name, url.Values{"omit_members": {"true"}})
	if m := members(parsed(t, v, got.State)); !slices.Equal(m, []string{anna.UserID}) {
		t.Errorf("members %v, want anna alone", m)
	}
}

// throttle stands before a handler and meddles with the writing of long answers.
type throttle struct {
	http.ResponseWriter
	before func()
}

func (w throttle) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w throttle) Write(b []byte) (int, error) {
	n, err := w.ResponseWriter.Write(b)
	w.before()
	return n, err
}

// longRoom is a room whose state is not read at once.
func longRoom(t *testing.T, a, b *testBox) (id string, last event.ID) {
	t.Helper()
	anna, bert := a.user("anna"), b.user("bert")
	id = must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
	must[string](t)(bert.Join(t.Context(), id, a.name))
	b.await("the members", func() bool { return !must[bool](t)(b.rooms.NotWhole(t.Context(), event.RoomID(id))) })
	for i := range 12 {
		if _, err := anna.SetState(t.Context(), id, "test.long", fmt.Sprint(i), map[string]string{"text": strings.Repeat("Deich ", 9000)}); err != nil {
			t.Fatal(err)
		}
	}
	return id, event.ID(must[string](t)(anna.SendText(t.Context(), id, "moin")))
}

// What fails in the middle of a state tears the answer: nobody takes the half for the whole.
func TestStateFailsInTheMiddle(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	id, last := longRoom(t, a, b)
	v := must[*event.Version](t)(a.rooms.Version(t.Context(), event.RoomID(id)))
	whole, _, err := b.client.StateEvents(t.Context(), a.name, event.RoomID(id), v, last)
	if err != nil || len(whole) < 16 {
		t.Fatalf("%d events, %v", len(whole), err)
	}
	a.seen.mu.Lock()
	a.seen.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.URL.Path, "/state/") { // b asks other things as well
			a.handler.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		a.handler.ServeHTTP(throttle{w, cancel}, r.WithContext(ctx))
	})
	a.seen.mu.Unlock()
	half, _, err := b.client.StateEvents(t.Context(), a.name, event.RoomID(id), v, last)
	if err == nil || len(half) > 0 {
		t.Fatalf("half an answer gave %d events, error %v", len(half), err)
	}
}

// Listeners that do not listen hold up nobody else.
func TestSlowListenersOfStates(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	id, last := longRoom(t, a, b)
	v := must[*event.Version](t)(a.rooms.Version(t.Context(), event.RoomID(id)))
	goOn, begun := make(chan struct{}), make(chan struct{}, 1000)
	a.seen.mu.Lock()
	a.seen.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/state/") {
			w = throttle{w, func() { begun <- struct{}{}; <-goOn }}
		}
		a.handler.ServeHTTP(w, r)
	})
	a.seen.mu.Unlock()
	const listeners = 6 // more than the database has readers
	var all sync.WaitGroup
	for range listeners {
		all.Go(func() {
			if got, _, err := b.client.StateEvents(t.Context(), a.name, event.RoomID(id), v, last); err != nil || len(got) < 16 {
				t.Errorf("%d events, %v", len(got), err)
			}
		})
	}
	for range listeners {
		<-begun
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := a.rooms.State(ctx, event.RoomID(id)); err != nil {
		t.Errorf("while others listen: %v", err)
	}
	close(goOn)
	all.Wait()
}
