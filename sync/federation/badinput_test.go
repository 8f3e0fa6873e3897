// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// forger makes events of b's users for a room of a's, and sends them as b.
type forger struct {
	t    *testing.T
	a, b *testBox
	id   event.RoomID
	v    *event.Version
	user event.UserID
	tip  *event.PDU
	auth []event.ID
	n    int
}

func newForger(t *testing.T, version string) *forger {
	t.Helper()
	ca := testCA(t)
	f := &forger{t: t, a: newTestBox(t, ca), b: newTestBox(t, ca)}
	anna, bert := f.a.user("anna"), f.b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", Version: version}))
	must[string](t)(bert.Join(t.Context(), id, f.a.name))
	f.id, f.user = event.RoomID(id), event.UserID(bert.UserID)
	f.v, _ = event.Lookup(version)
	f.refresh()
	return f
}

func (f *forger) refresh() {
	f.t.Helper()
	ends := must[[]event.ID](f.t)(f.a.rooms.Extremities(f.t.Context(), f.id))
	var err error
	if f.tip, _, err = f.a.rooms.Event(f.t.Context(), ends[0]); err != nil {
		f.t.Fatal(err)
	}
	s := must[map[rules.Key]event.ID](f.t)(f.a.rooms.State(f.t.Context(), f.id))
	f.auth = []event.ID{s[rules.Key{Type: "m.room.create"}], s[rules.Key{Type: "m.room.power_levels"}], s[rules.Key{Type: "m.room.member", StateKey: string(f.user)}]}
	if f.v.CreateIsRoomID {
		f.auth = f.auth[1:]
	}
}

func (f *forger) proto() event.Proto {
	f.n++
	return event.Proto{RoomID: f.id, Sender: f.user, Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":"%d"}`, f.n)), Prev: []event.ID{f.tip.ID},
		Auth: f.auth, Depth: f.tip.Depth + 1, TS: time.Now().UnixMilli()}
}

func (f *forger) build(p event.Proto) *event.PDU {
	f.t.Helper()
	return must[*event.PDU](f.t)(event.Build(f.v, p, f.b.name, f.b.local.Key))
}

// object signs what Build would not make: a whole event as b's key signs it, hash and all.
func (f *forger) object(change func(m map[string]any)) json.RawMessage {
	f.t.Helper()
	var m map[string]any
	if err := json.Unmarshal(f.build(f.proto()).JSON(), &m); err != nil {
		f.t.Fatal(err)
	}
	change(m)
	raw, err := json.Marshal(m)
	if err != nil {
		f.t.Fatal(err)
	}
	return raw
}

// push sends a transaction with one event and gives what a says of it.
func (f *forger) push(raw json.RawMessage) map[event.ID]string {
	f.t.Helper()
	f.n++
	body := must[[]byte](f.t)(json.Marshal(map[string]any{"origin": f.b.name, "origin_server_ts": 1, "pdus": []json.RawMessage{raw}}))
	var out struct {
		PDUs map[event.ID]struct{ Error string } `json:"pdus"`
	}
	err := f.b.client.ask(f.t.Context(), f.a.name, call{method: "PUT", path: v1("send", fmt.Sprintf("forged-%d", f.n)), body: json.RawMessage(body)}, &out)
	if err != nil {
		f.t.Fatalf("%s: %v", raw[:min(200, len(raw))], err)
	}
	answers := map[event.ID]string{}
	for id, r := range out.PDUs {
		answers[id] = r.Error
	}
	return answers
}

// dump is every row of a box's database but the answers to transactions and what is known of other servers' keys.
func (b *testBox) dump() string {
	b.Helper()
	tables := must[[]byte](b)(exec.Command("sqlite3", "-readonly", filepath.Join(b.dir, "hallig.db"), `SELECT name FROM sqlite_schema WHERE type='table' ORDER BY name`).Output())
	var out bytes.Buffer
	for _, table := range strings.Fields(string(tables)) {
		if table == "fed_txn" || table == "server_key" || table == "meta" || strings.HasPrefix(table, "sqlite_") {
			continue
		}
		rows := must[[]byte](b)(exec.Command("sqlite3", "-readonly", filepath.Join(b.dir, "hallig.db"), `SELECT * FROM `+table).Output())
		fmt.Fprintf(&out, "%s\n%s\n", table, rows)
	}
	return out.String()
}

// Everything that is wrong with an event before the law is asked: the specified answer, one count, one line in the log, and no row changes.
func TestBadEventsChangeNothing(t *testing.T) {
	if _, err := exec.LookPath("sqlite3"); err != nil {
		t.Skip("needs sqlite3 to look into the file")
	}
	for _, version := range []string{"11", "12"} {
		f := newForger(t, version)
		other := newForger(t, version)
		many := func(n int) (ids []any) {
			for i := range n {
				ids = append(ids, "$"+strings.Repeat("A", 42)+string(rune('A'+i)))
			}
			return ids
		}
		good := f.build(f.proto())
		flipped := func(m map[string]any) {
			sigs := m["signatures"].(map[string]any)[f.b.name].(map[string]any)
			for k := range sigs {
				sigs[k] = strings.Repeat("A", 86)
			}
		}
		future := f.proto()
		future.TS = time.Now().Add(400 * 24 * time.Hour).UnixMilli()
		spoof := f.proto()
		spoof.Sender = event.UserID("@anna:" + f.a.name)
		third := f.proto()
		third.Sender = "@mallory:127.0.0.1:1"
		cases := []struct {
			name, kind string
			raw        json.RawMessage
			told       bool // the sender hears of it
		}{
			{"a number", Malformed, json.RawMessage(`7`), false},
			{"a text", Malformed, json.RawMessage(`"x"`), false},
			{"nothing", Malformed, json.RawMessage(`null`), false},
			{"an empty object", Malformed, json.RawMessage(`{}`), false},
			{"a list", Malformed, json.RawMessage(`[[[[]]]]`), false},
			{"of a room that nobody knows", ForeignRoom, f.object(func(m map[string]any) { m["room_id"] = "!x:y" }), false},
			{"of a room elsewhere", ForeignRoom, other.build(other.proto()).JSON(), false},
			{"a room id that is none", ForeignRoom, f.object(func(m map[string]any) { m["room_id"] = strings.Repeat("!", 300) }), false},
			{"a room id that is a number", Malformed, f.object(func(m map[string]any) { m["room_id"] = 7 }), false},
			{"too large", Malformed, f.object(func(m map[string]any) { m["content"] = map[string]string{"body": strings.Repeat("x", 65_536)} }), false},
			{"a type that is too long", Malformed, f.object(func(m map[string]any) { m["type"] = strings.Repeat("t", 256) }), false},
			{"a state key that is too long", Malformed, f.object(func(m map[string]any) { m["state_key"] = strings.Repeat("k", 256) }), false},
			{"a sender that is none", Malformed, f.object(func(m map[string]any) { m["sender"] = "bert" }), false},
			{"without a sender", Malformed, f.object(func(m map[string]any) { delete(m, "sender") }), false},
			{"without a content", Malformed, f.object(func(m map[string]any) { delete(m, "content") }), false},
			{"without prev events", Malformed, f.object(func(m map[string]any) { delete(m, "prev_events") }), false},
			{"a number that is no integer", Malformed, f.object(func(m map[string]any) { m["content"] = map[string]any{"n": 1.5} }), false},
			{"a number that is too large", Malformed, f.object(func(m map[string]any) { m["content"] = map[string]any{"n": 1e300} }), false},
			{"a time that is a text", Malformed, f.object(func(m map[string]any) { m["origin_server_ts"] = "now" }), false},
			{"a depth below zero", Malformed, f.object(func(m map[string]any) { m["depth"] = -1 << 60 }), false},
			{"21 prev events", Malformed, f.object(func(m map[string]any) { m["prev_events"] = many(21) }), false},
			{"11 authorising events", Malformed, f.object(func(m map[string]any) { m["auth_events"] = many(11) }), false},
			{"prev events that are no ids", Malformed, f.object(func(m map[string]any) { m["prev_events"] = []any{[]any{"$x", map[string]any{}}} }), false},
			{"without a signature", BadSignature, f.object(func(m map[string]any) { delete(m, "signatures") }), true},
			{"with a signature that is none", BadSignature, f.object(flipped), true},
			{"signed with a key that is none of its server's", BadSignature, bytes.Replace(good.JSON(), []byte("ed25519:box"), []byte("ed25519:bxo"), 1), true},
			{"changed where the signature counts", BadSignature, f.object(func(m map[string]any) { m["depth"] = 9_999 }), true},
			{"dated beyond the validity of its key", BadSignature, f.build(future).JSON(), true},
			{"in the name of our user", BadSignature, f.build(spoof).JSON(), true},
		}
		settle(t, f.a)
		before, counted := f.a.dump(), f.a.trouble.Counts()
		for _, c := range cases {
			answers := f.push(c.raw)
			if c.told != (len(answers) == 1) {
				t.Errorf("version %s, %s: answers %v", version, c.name, answers)
			}
			for id, text := range answers {
				if text == "" {
					t.Errorf("version %s, %s: %s was taken", version, c.name, id)
				}
			}
			now := f.a.trouble.Counts()
			if want := counted[c.kind] + 1; now[c.kind] != want || sum(now) != sum(counted)+1 {
				t.Errorf("version %s, %s: counts %v after %v, want one more %s", version, c.name, now, counted, c.kind)
			}
			counted = now
		}
		settle(t, f.a)
		if after := f.a.dump(); after != before {
			t.Errorf("version %s: the database changed:\n%s", version, firstDifference(before, after))
		}
		// The room is as it was, and a good event is taken.
		if answers := f.push(good.JSON()); len(answers) != 1 || answers[good.ID] != "" {
			t.Errorf("version %s: a good event: %v", version, answers)
		}
		f.a.await("the good event", func() bool { return f.a.has(string(f.id), []string{string(good.ID)}) })
	}
}

// settle has what is written lazily written: it joins the next batch.
func settle(t *testing.T, b *testBox) {
	t.Helper()
	if err := b.db.Do(t.Context(), func(*store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

func sum(m map[string]int64) (n int64) {
	for v := range maps.Values(m) {
		n += v
	}
	return n
}

func firstDifference(a, b string) string {
	as, bs := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(as), len(bs)) {
		if as[i] != bs[i] {
			return as[i] + "\n" + bs[i]
		}
	}
	return fmt.Sprintf("%d lines, then %d", len(as), len(bs))
}

// What the law refuses is told, kept as refused and counted; nothing that a user or another server sees changes. What was changed on the way is taken as
// redaction leaves it.
func TestRefusedEventsAreSeenByNobody(t *testing.T) {
	f := newForger(t, "11")
	empty := ""
	state := must[map[rules.Key]event.ID](t)(f.a.rooms.State(t.Context(), f.id))
	ends := must[[]event.ID](t)(f.a.rooms.Extremities(t.Context(), f.id))
	power := f.proto()
	power.Type, power.StateKey, power.Content = "m.room.power_levels", &empty, json.RawMessage(fmt.Sprintf(`{"users":{"%s":100}}`, f.user))
	create := f.proto()
	create.Type, create.StateKey, create.Content = "m.room.create", &empty, json.RawMessage(`{"room_version":"11"}`)
	twice := f.proto()
	twice.Auth = append(twice.Auth[:len(twice.Auth):len(twice.Auth)], twice.Auth[0])
	strangers := f.proto()
	strangers.Sender = event.UserID("@nobody:" + f.b.name)
	for name, p := range map[string]event.Proto{"power": power, "a second create event": create, "the same authority twice": twice, "a stranger": strangers} {
		pdu := f.build(p)
		if answers := f.push(pdu.JSON()); !strings.HasPrefix(answers[pdu.ID], "rejected: ") {
			t.Errorf("%s: %v", name, answers)
		}
		if _, meta, err := f.a.rooms.Event(t.Context(), pdu.ID); err != nil || !meta.Rejected || meta.Pos != 0 {
			t.Errorf("%s: %+v, %v", name, meta, err)
		}
		if answers := f.push(pdu.JSON()); len(answers) != 1 {
			t.Errorf("%s, once more: %v", name, answers)
		}
	}
	if got := must[map[rules.Key]event.ID](t)(f.a.rooms.State(t.Context(), f.id)); !maps.Equal(got, state) {
		t.Error("the state changed")
	}
	if got := must[[]event.ID](t)(f.a.rooms.Extremities(t.Context(), f.id)); len(got) != 1 || got[0] != ends[0] {
		t.Errorf("ends %v, want %v", got, ends)
	}
	if n := f.a.trouble.Counts()[Refused]; n != 4 {
		t.Errorf("%d refused were counted", n)
	}
	pdu := f.build(f.proto())
	changed := bytes.Replace(pdu.JSON(), []byte(`"body":"`), []byte(`"body":"nicht `), 1)
	if answers := f.push(changed); len(answers) != 1 || answers[pdu.ID] != "" {
		t.Errorf("changed on the way: %v", answers)
	}
	if p, meta, err := f.a.rooms.Event(t.Context(), pdu.ID); err != nil || meta.Pos <= 0 || string(p.Content) != `{}` {
		t.Errorf("changed on the way: %s, %+v, %v", p.Content, meta, err)
	}
}

// A flood of bad events is one line in the log, and then one with how many there were.
func TestTroubleIsSaidOnce(t *testing.T) {
	var out bytes.Buffer
	now := time.UnixMilli(1)
	tr := &Trouble{Log: slog.New(slog.NewTextHandler(&out, nil)), Now: func() time.Time { return now }}
	for i := range 1000 {
		tr.Note("evil", Malformed, "!r", "", fmt.Errorf("fault %d", i))
	}
	tr.Note("evil", BadSignature, "!r", "$e", context.Canceled)
	tr.Note("other", Malformed, "!r", "", context.Canceled)
	if n := strings.Count(out.String(), "\n"); n != 3 {
		t.Errorf("%d lines", n)
	}
	now = now.Add(sayAgain)
	tr.Note("evil", Malformed, "!r", "", context.Canceled)
	if !strings.Contains(out.String(), "more_before=999") {
		t.Errorf("log: %s", out.String())
	}
	if got := tr.Counts(); got[Malformed] != 1002 || got[BadSignature] != 1 {
		t.Errorf("counts %v", got)
	}
	for i := range 3 * maxSaid {
		tr.Note(fmt.Sprint("server", i), Malformed, "!r", "", context.Canceled)
	}
	if len(tr.said) > maxSaid {
		t.Errorf("%d origins are remembered", len(tr.said))
	}
	(*Trouble)(nil).Note("", Malformed, "", "", nil)
}
