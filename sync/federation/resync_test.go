// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/tools/matrixclient"
)

// crowd is a room of a with many members, some of whom have left.
func crowd(t *testing.T, a *testBox, anna *matrixclient.Client) string {
	t.Helper()
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", Name: "Markt"}))
	for i := range 45 {
		user := fmt.Sprintf("@n%d:%s", i, a.name)
		for _, m := range []string{"join", "leave"}[:1+i%3/2] {
			_, err := a.rooms.Send(t.Context(), room.Draft{Room: event.RoomID(id), Sender: event.UserID(user), Type: "m.room.member", StateKey: &user,
				Content: json.RawMessage(`{"membership":"` + m + `"}`)})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return id
}

// Only sees what is asked about states, or answers it in its own way.
func (b *testBox) onState(f func(w http.ResponseWriter, r *http.Request)) {
	b.seen.mu.Lock()
	defer b.seen.mu.Unlock()
	b.seen.next = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/state_ids/") || strings.Contains(r.URL.Path, "/state/") {
			f(w, r)
			return
		}
		b.handler.ServeHTTP(w, r)
	})
}

func (b *testBox) lacking(id string) bool {
	b.Helper()
	return must[bool](b.T)(b.rooms.NotWhole(b.Context(), event.RoomID(id)))
}

// While the members of a room are not known, the user talks and hears; nobody else is let in through us, who asks for all members waits, and so does who
// asks for the state.
func TestTalkBeforeMembers(t *testing.T) {
	ca := testCA(t)
	a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
	anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
	id := crowd(t, a, anna)
	hold := make(chan struct{})
	a.onState(func(w http.ResponseWriter, r *http.Request) { <-hold; a.handler.ServeHTTP(w, r) })
	must[string](t)(bert.Join(t.Context(), id, a.name))
	if !b.lacking(id) {
		t.Fatal("the members are known though nobody has told them")
	}
	fromA, fromB := say(t, anna, id, 2, "moin"), say(t, bert, id, 2, "moin moin")
	a.await("bert's messages", func() bool { return a.has(id, fromB) })
	b.await("anna's messages", func() bool { return b.has(id, fromA) })
	if _, err := cora.Join(t.Context(), id, b.name); err == nil {
		t.Error("somebody was let in by who does not know who is banned")
	}
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := bert.Do(soon, "GET", matrixclient.Path("rooms", id, "members"), nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who asks for all members: %v", err)
	}
	if _, _, err := a.client.StateIDs(soon, b.name, event.RoomID(id), event.ID(fromB[0])); err == nil {
		t.Error("the state was told though members lack")
	}
	close(hold)
	sameState(t, id, a, b)
	var members struct {
		Chunk []json.RawMessage `json:"chunk"`
	}
	if err := bert.Do(t.Context(), "GET", matrixclient.Path("rooms", id, "members"), nil, &members); err != nil || len(members.Chunk) != 47 {
		t.Errorf("%d members, %v", len(members.Chunk), err)
	}
	must[string](t)(cora.Join(t.Context(), id, b.name))
	a.await("cora", func() bool {
		return must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))[event.UserID(cora.UserID)] == "join"
	})
	sameState(t, id, a, b, c)
}

// A box that is stopped at any question it has asked, or behind any of its commits, goes on where it was.
func TestResyncSurvivesStops(t *testing.T) {
	ca := testCA(t)
	a := newTestBox(t, ca)
	anna := a.user("anna")
	id := crowd(t, a, anna)
	for n := range int32(10) {
		b := newTestBox(t, ca)
		bert := b.user("bert")
		var asked atomic.Int32
		var again atomic.Bool
		stop := make(chan struct{})
		a.onState(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) == n+1 && n < 1 && !again.Load() {
				close(stop)
				<-r.Context().Done() // it is cut off without an answer
				panic(http.ErrAbortHandler)
			}
			a.handler.ServeHTTP(w, r)
		})
		joined := make(chan error, 1)
		joiner := matrixclient.New(b.url) // bert's own client moves on to the box's new address
		joiner.UserID, joiner.Token = bert.UserID, bert.Token
		go func() { _, err := joiner.Join(t.Context(), id, a.name); joined <- err }() // its answer is read below
		if n < 1 {
			<-stop
			if !b.lacking(id) {
				t.Error("the members are known though not all was answered")
			}
		}
		var err error
		over := false
		for range n { // commits
			select {
			case <-b.changed:
			case err = <-joined:
				over = true
			}
			if over {
				break
			}
		}
		if n < 1 && !over { // the answer is that the user is in, whoever else is
			err, over = <-joined, true
		}
		again.Store(true)
		lacked, _ := b.rooms.NotWhole(t.Context(), event.RoomID(id))
		b.restart(bert)
		if !over {
			err = <-joined
		}
		if err != nil { // cut off in the middle
			must[string](t)(bert.Join(t.Context(), id, a.name))
		}
		sameState(t, id, a, b)
		if got := asked.Load(); lacked && got == 0 {
			t.Errorf("stop %d: nothing was asked after the restart", n)
		}
		fromB := say(t, bert, id, 1, "moin")
		a.await("bert's message", func() bool { return a.has(id, fromB) })
		if err := bert.Leave(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		a.await("bert's leaving", func() bool {
			return must[map[event.UserID]string](t)(a.rooms.Members(t.Context(), event.RoomID(id)))[event.UserID(bert.UserID)] == "leave"
		})
		b.stop()
	}
}

// What one server does not tell, or not truly, another one does.
func TestResyncAsksOthers(t *testing.T) {
	ca := testCA(t)
	torn := func(a *testBox) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.URL.Path, "/state/") {
				_, _ = io.WriteString(w, `{"auth_chain":[],"pdus":[{`)
				panic(http.ErrAbortHandler)
			}
			a.handler.ServeHTTP(w, r)
		}
	}
	text := func(s string) func(*testBox) http.HandlerFunc {
		return func(*testBox) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
		}
	}
	made := make([]string, 150)
	for i := range made {
		made[i] = fmt.Sprintf(`"$%043d"`, i)
	}
	for name, lie := range map[string]func(*testBox) http.HandlerFunc{
		"nothing":      text(`{}`),
		"an empty one": text(`{"pdu_ids":[],"auth_chain_ids":[]}`),
		"no ids":       text(`{"pdu_ids":[1],"auth_chain_ids":[]}`),
		"made-up ids":  text(`{"pdus":[],"pdu_ids":[` + strings.Join(made, ",") + `],"auth_chain_ids":[],"auth_chain":[]}`),
		"half of it":   torn,
		"silence": func(a *testBox) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { a.link.Cut(); w.WriteHeader(http.StatusBadGateway) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b, c := newTestBox(t, ca), newTestBox(t, ca), newTestBox(t, ca)
			anna, bert, cora := a.user("anna"), b.user("bert"), c.user("cora")
			id := crowd(t, a, anna)
			must[string](t)(cora.Join(t.Context(), id, a.name))
			sameState(t, id, a, c)
			hold := make(chan struct{})
			lie := lie(a)
			a.onState(func(w http.ResponseWriter, r *http.Request) { <-hold; lie(w, r) })
			must[string](t)(bert.Join(t.Context(), id, a.name))
			c.await("bert", func() bool {
				return must[map[event.UserID]string](t)(c.rooms.Members(t.Context(), event.RoomID(id)))[event.UserID(bert.UserID)] == "join"
			})
			close(hold)
			sameState(t, id, b, c)
			if n := c.seen.count("/state_ids/"); n == 0 {
				t.Error("nobody else was asked")
			}
		})
	}
}

// A long answer is read as it was written, more than once.
func TestSpool(t *testing.T) {
	s := newSpool()
	var want bytes.Buffer
	for i := range 20_000 {
		line := fmt.Sprintf("%d %x\n", i, i*i*2654435761)
		want.WriteString(line)
		if _, err := io.WriteString(s, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.done(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := io.ReadAll(s.read())
		if err != nil || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("%d bytes of %d, %v", len(got), want.Len(), err)
		}
	}
	if len(s.chunks) < 2 || s.size != int64(want.Len()) {
		t.Errorf("%d chunks of %d bytes", len(s.chunks), s.size)
	}
}

func TestWalkAnswerBounds(t *testing.T) {
	long := strings.Repeat("x", maxElement+maxElement/2)
	for _, bad := range []string{"", "[]", "{", `{"pdus":1}`, `{"pdus":{}}`, `{"pdus":[}`, `{"pdus":["` + long + `"]}`, `{"other":"` + long + `"}`, `{"other":` + strings.Repeat("[", 2*maxDepth) + `}`} {
		err := walkAnswer(strings.NewReader(bad), []string{"pdus"}, []string{"event"}, func(string, int, json.RawMessage) error { return nil })
		if err == nil {
			t.Errorf("%.40s is taken for an answer", bad)
		}
	}
	n := 0
	many := `{"other":[` + strings.Repeat(`{"a":[1,2,{}]},`, 200_000) + `1],"pdus":[` + strings.Repeat(`{"a":"b"},`, 200_000) + `{}],"event":{"x":1}}`
	err := walkAnswer(strings.NewReader(many), []string{"pdus"}, []string{"event"}, func(key string, at int, raw json.RawMessage) error {
		if key == "pdus" && at >= 0 {
			n++
		}
		return nil
	})
	if err != nil || n != 200_001 {
		t.Errorf("%d elements, %v", n, err)
	}
}

// FuzzWalkAnswer compares with a reader that holds everything.
func FuzzWalkAnswer(f *testing.F) {
	f.Add([]byte(`{"event":{"a":1},"state":[{"x":[]},2,"$a"],"auth_chain":null,"more":{"deep":[[{}]]}}`))
	f.Add([]byte(`{"state":[],"state":[1],"members_omitted":true}`))
	f.Add([]byte(` { "state" : [ 1 , 2 ] } trailing`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		lists := map[string][]string{}
		values := map[string]string{}
		twice := false
		err := walkAnswer(bytes.NewReader(raw), []string{"state", "auth_chain"}, []string{"event"}, func(key string, n int, raw json.RawMessage) error {
			switch {
			case key == "event":
				_, had := values[key]
				twice = twice || had
				values[key] = string(raw)
			case n < 0:
				twice = twice || lists[key] != nil
				lists[key] = []string{}
			default:
				if n != len(lists[key]) && !twice {
					t.Fatalf("element %d after %d", n, len(lists[key]))
				}
				lists[key] = append(lists[key], string(raw))
			}
			return nil
		})
		if err != nil || twice {
			return
		}
		var whole struct {
			State []json.RawMessage `json:"state"`
			Auth  []json.RawMessage `json:"auth_chain"`
			Event json.RawMessage   `json:"event"`
		}
		d := json.NewDecoder(bytes.NewReader(raw))
		if err := d.Decode(&whole); err != nil {
			t.Fatalf("%q is an answer, and is none: %v", raw, err)
		}
		same := func(a []string, b []json.RawMessage) bool {
			return slices.EqualFunc(a, b, func(a string, b json.RawMessage) bool { return a == string(b) })
		}
		// Names that differ in case alone are one to the reader that holds everything.
		if bytes.Contains(bytes.ToLower(raw), []byte(`\u`)) || len(bytes.ToLower(raw)) != len(raw) || strings.ToLower(string(raw)) != string(raw) {
			return
		}
		if !same(lists["state"], whole.State) || !same(lists["auth_chain"], whole.Auth) || values["event"] != string(whole.Event) {
			t.Fatalf("%q gives %q %q", raw, lists, values)
		}
	})
}
