// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Bob is banned at the centre while he goes on writing on the box. Everything that the centre does not show is told him, with his texts, once, whatever ends in between.
func TestBannedMeanwhile(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "vorher")
	b.say(id, "bob", "auch vorher")
	b.meet(z, id)
	for i := range 25 {
		b.say(id, "bob", fmt.Sprintf("Pegel %d", i))
		b.say(id, "carl", fmt.Sprintf("level %d", i))
	}
	z.say(id, "alice", "Achtung")
	z.say(id, "alice", "Achtung!")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban","reason":"Streit"}`)
	z.say(id, "alice", "Ruhe")
	unseen := b.meet(z, id)
	if unseen != 25 {
		t.Fatalf("the centre does not show %d messages, want 25", unseen)
	}
	if b.noted() != 1 {
		t.Fatal("no conflict is noted")
	}
	if _, err := b.conflicts.Look(t.Context()); err != nil || b.noted() != 1 {
		t.Fatalf("looked at before the room came to rest (%v)", err)
	}
	b.again()
	b.settle()
	got := b.tells("bob", "25 Ihrer Nachrichten", "@alice:z hat Sie am", "gesperrt", "Streit", "„Lage“", "Pegel 24", "Pegel 5\n", "und 5 frühere")
	if strings.Contains(got, "Pegel 4\n") || strings.Contains(got, "vorher") || strings.Contains(got, "level") || strings.Contains(got, "English") {
		t.Errorf("too much was told:\n%s", got)
	}
	b.silent("carl", "dora")
	if n := b.counts(); n[CountMessages] != 25 || n[CountRooms] != 1 {
		t.Errorf("counted %v", n)
	}
	b.again()
	b.settle()
	b.tells("bob")
	z.settle()
	z.tells("alice", "@bob:b: 25")
	z.silent("zoe")
}

// A ban by somebody who knew all of the messages is no conflict, and neither is one that a silent user comes home to.
func TestOrdinaryBan(t *testing.T) {
	z, b, id := lage(t)
	for i := range 5 {
		b.say(id, "bob", fmt.Sprintf("Pegel %d", i))
	}
	b.meet(z, id)
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	b.meet(z, id)
	if n := b.noted(); n != 0 {
		t.Errorf("%d conflicts are noted", n)
	}
	b.settle()
	b.silent("bob", "carl")
}

// Only those may write at the centre who have power. Carl, who has none, wrote meanwhile; Bob, who has, did too.
func TestMutedMeanwhile(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "carl", "one")
	b.say(id, "bob", "zwei")
	b.say(id, "carl", "three")
	slip := b.say(id, "carl", "slip")
	b.send(room.Draft{Room: id, Sender: b.user("carl"), Type: "m.room.redaction", Redacts: slip, Content: json.RawMessage(`{"redacts":"` + string(slip) + `"}`)})
	z.power(id, `"@bob:b":50`, 25)
	if n := b.meet(z, id); n != 4 {
		t.Fatalf("the centre does not show %d events, want 4", n)
	}
	b.settle()
	b.tells("carl", "2 of your messages", "who may write", "one", "three")
	b.silent("bob")
}

// While a room is looked at, another branch comes: nothing of it is passed over.
func TestMoreComesMeanwhile(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "eins")
	b.say(id, "carl", "one")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	b.meet(z, id)
	b.now = b.now.Add(time.Hour)
	var open []store.Conflict
	if err := b.db.View(t.Context(), func(r *store.Read) (err error) { open, err = r.Conflicts(); return err }); err != nil || len(open) != 1 {
		t.Fatal(open, err)
	}
	notes := b.conflicts.notes(id)
	f, err := b.conflicts.find(t.Context(), open[0], b.now)
	if err != nil {
		t.Fatal(err)
	}
	b.say(id, "carl", "two")
	z.set(id, "alice", "m.room.member", "@carl:b", `{"membership":"leave"}`)
	b.meet(z, id)
	if err := b.conflicts.conclude(t.Context(), open[0], f, notes, b.now); err != nil {
		t.Fatal(err)
	}
	b.settle()
	b.tells("bob", "eins")
	if got := b.tells("carl", "one of your messages", "two"); strings.Contains(got, " one\n") {
		t.Errorf("too much was told:\n%s", got)
	}
}

// Put out, and back before anybody looked: what was written in between is not shown at the centre all the same.
func TestPutOutAndBack(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "carl", "one")
	z.set(id, "alice", "m.room.member", "@carl:b", `{"membership":"leave"}`)
	if n := b.meet(z, id); n != 1 {
		t.Fatalf("the centre does not show %d messages, want 1", n)
	}
	b.set(id, "carl", "m.room.member", "@carl:b", `{"membership":"join"}`)
	b.say(id, "carl", "two")
	if n := b.meet(z, id); n != 0 {
		t.Fatal("carl is not back")
	}
	b.settle()
	if got := b.tells("carl", "one of your messages", "removed you"); strings.Contains(got, "two") {
		t.Errorf("too much was told:\n%s", got)
	}
}

// Two change the topic and the name without knowing of each other. Who may do so is told which holds, on both sides alike; what only one side has changed is no conflict.
func TestPowerFight(t *testing.T) {
	z, b, id := lage(t)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"zuvor"}`)
	b.meet(z, id)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"erst"}`)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"Wasser\nsteigt"}`)
	b.set(id, "bob", "m.room.join_rules", "", `{"join_rule":"invite"}`)
	b.set(id, "bob", "m.room.name", "", `{"name":"Lage 2"}`)
	z.now = z.now.Add(time.Hour)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"Wasser fällt"}`)
	z.set(id, "alice", "m.room.name", "", `{"name":"Lage 2"}`)
	z.set(id, "alice", "m.room.guest_access", "", `{"guest_access":"can_join"}`)
	b.meet(z, id)
	b.settle()
	z.settle()
	for _, got := range []string{b.tells("bob"), z.tells("alice")} {
		for _, part := range []string{"Es gilt „Wasser fällt“ (@alice:z", "Nicht mehr: „Wasser steigt“ (@bob:b", "Thema"} {
			if !strings.Contains(got, part) {
				t.Errorf("not told %q:\n%s", part, got)
			}
		}
		for _, part := range []string{"zuvor", "erst", "Name", "beitreten", "Gäste"} {
			if strings.Contains(got, part) {
				t.Errorf("told %q, which is no conflict:\n%s", part, got)
			}
		}
	}
	b.silent("carl")
	z.silent("zoe")
	if n := b.counts(); n[CountChanges] != 1 || n[CountMessages] != 0 {
		t.Errorf("counted %v", n)
	}
}

// Whoever fights all the time does not fill the others' rooms: people are told of one room every ten minutes at most, and of all of it.
func TestToldSeldom(t *testing.T) {
	z, b, id := lage(t)
	fight := func(n int) {
		b.set(id, "bob", "m.room.topic", "", fmt.Sprintf(`{"topic":"b%d"}`, n))
		z.now = b.now.Add(time.Hour)
		z.set(id, "alice", "m.room.topic", "", fmt.Sprintf(`{"topic":"z%d"}`, n))
		b.meet(z, id)
		b.settle()
	}
	fight(1)
	b.tells("bob", "„z1“", "„b1“")
	fight(2)
	fight(3)
	if got := b.told("bob"); len(got) != 1 {
		t.Errorf("told %d times within minutes", len(got))
	}
	b.now = b.now.Add(tellEvery)
	b.settle()
	if got := b.told("bob"); len(got) != 2 || !strings.Contains(got[1], "„z3“") || !strings.Contains(got[1], "„b2“") || !strings.Contains(got[1], "„b3“") {
		t.Errorf("told %q", got)
	}
}

// Bob loses his power while he changes the topic: nobody else has changed it, and it does not hold. He is told although he may not set it any more.
func TestChangeWithoutPower(t *testing.T) {
	z, b, id := lage(t)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"zuvor"}`)
	b.meet(z, id)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"Bobs"}`)
	z.power(id, ``, 0)
	b.meet(z, id)
	if got := text(b.pdu(b.holder(id, "m.room.topic")).Content, "topic"); got != "zuvor" {
		t.Fatalf("the topic is %q", got)
	}
	b.settle()
	b.tells("bob", "Es gilt „zuvor“", "Nicht mehr: „Bobs“")
	b.silent("carl")
}

// Profiles, joins and messages on two branches make nobody write a letter.
func TestNothingToTell(t *testing.T) {
	z, b, id := lage(t)
	b.set(id, "bob", "m.room.member", "@bob:b", `{"membership":"join","displayname":"Bob"}`)
	b.say(id, "bob", "hier")
	z.set(id, "zoe", "m.room.member", "@zoe:z", `{"membership":"join","displayname":"Zoe"}`)
	z.say(id, "zoe", "dort")
	b.meet(z, id)
	b.settle()
	b.silent("bob", "carl", "dora")
	if n := b.noted(); n != 0 {
		t.Errorf("%d conflicts are left", n)
	}
	if n := b.counts(); len(n) != 0 {
		t.Errorf("counted %v", n)
	}
}

// The newest event comes first, with the state before it, as it does from a server that is asked for what is new. Nobody is told before the history in between is here.
func TestNewestFirst(t *testing.T) {
	z, b, id := lage(t)
	b.say(id, "bob", "eins")
	z.say(id, "zoe", "dort")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	z.say(id, "alice", "Ruhe")
	theirs := z.news(id)
	newest := theirs[len(theirs)-1]
	b.takeNewest(z, newest)
	b.settle()
	b.silent("bob", "carl")
	if b.noted() != 1 {
		t.Fatal("the conflict is not noted any more")
	}
	if n := b.meet(z, id); n != 1 {
		t.Fatalf("the centre does not show %d messages, want 1", n)
	}
	b.settle()
	b.tells("bob", "gesperrt", "eins")
}

// History that never comes holds up nobody for longer than an hour: what can be told is.
func TestHistoryThatNeverComes(t *testing.T) {
	z, b, id := lage(t)
	z.now = z.now.Add(time.Hour)
	z.set(id, "alice", "m.room.topic", "", `{"topic":"dort"}`)
	z.say(id, "zoe", "verloren")
	z.say(id, "alice", "Ruhe")
	theirs := z.news(id)
	newest := theirs[len(theirs)-1]
	b.set(id, "bob", "m.room.topic", "", `{"topic":"hier"}`)
	b.takeNewest(z, newest)
	b.settle()
	b.silent("bob")
	b.now = b.now.Add(gapMost)
	b.settle()
	if n := b.noted(); n != 0 {
		t.Errorf("%d conflicts are left", n)
	}
	b.tells("bob", "Es gilt „dort“", "Nicht mehr: „hier“")
}

// Before anybody has looked at the first conflict, the sides meet again: what the other side knew when it banned Bob is shown there.
func TestKnewSome(t *testing.T) {
	z, b, id := lage(t)
	b.set(id, "bob", "m.room.topic", "", `{"topic":"Wasser"}`)
	b.say(id, "bob", "eins")
	z.say(id, "zoe", "dort")
	z.set(id, "alice", "m.room.topic", "", `{"topic":"Wasser"}`)
	b.meet(z, id)
	b.say(id, "bob", "zwei")
	b.meet(z, id)
	b.say(id, "bob", "drei")
	z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`)
	if n := b.meet(z, id); n != 1 {
		t.Fatalf("the centre does not show %d messages, want 1", n)
	}
	b.settle()
	if got := b.tells("bob", "Eine Ihrer Nachrichten", "drei"); strings.Contains(got, "eins") || strings.Contains(got, "zwei") {
		t.Errorf("too much was told:\n%s", got)
	}
}

// The centre says that nobody of the box is in the room any more, and nothing else is ever heard of it. Bob is told that, and not more than once a day; then of what he has
// written since. A server that is not in the room has nothing to say.
func TestBarred(t *testing.T) {
	_, b, id := lage(t)
	b.say(id, "bob", "vorher")
	refuse := func(server string, texts ...string) {
		var ids []event.ID
		for _, s := range texts {
			ids = append(ids, b.say(id, "bob", s))
		}
		first, last := b.positions(ids)
		if err := b.conflicts.Barred(t.Context(), server, id, first, last); err != nil {
			t.Fatal(err)
		}
	}
	refuse("fern", "null")
	if b.noted() != 0 {
		t.Error("a server that is not in the room was listened to")
	}
	refuse("z", "eins", "zwei")
	b.again()
	b.settle()
	if got := b.tells("bob", "2 Ihrer Nachrichten sieht auf z niemand", "niemand mehr im Raum", "eins", "zwei"); strings.Contains(got, "vorher") || strings.Contains(got, "null") {
		t.Errorf("too much was told:\n%s", got)
	}
	b.silent("carl")
	refuse("z", "drei")
	refuse("z", "vier")
	if b.noted() != 0 {
		t.Error("what bob has been told today is looked at again")
	}
	b.settle()
	b.tells("bob")
	b.now = b.now.Add(barredIn)
	refuse("z", "fünf")
	b.settle()
	got := b.told("bob")
	if len(got) != 2 || strings.Contains(got[1], "zwei") || !strings.Contains(got[1], "3 Ihrer") || !strings.Contains(got[1], "drei") || !strings.Contains(got[1], "fünf") {
		t.Errorf("told %q", got)
	}
}

// The ban comes alone, and nobody gives what came before it. It says who has done it; what its server refuses to answer for says which messages are meant.
func TestBanWithoutHistory(t *testing.T) {
	z, b, id := lage(t)
	if err := b.conflicts.c.Leave(t.Context(), b.user("carl"), id); err != nil {
		t.Fatal(err)
	}
	b.say(id, "bob", "vorher")
	b.meet(z, id)
	ids := []event.ID{b.say(id, "bob", "eins"), b.say(id, "bob", "zwei")}
	z.say(id, "alice", "hört niemand hier")
	ban := z.pdu(z.set(id, "alice", "m.room.member", "@bob:b", `{"membership":"ban"}`))
	first, last := b.positions(ids)
	if err := b.conflicts.Barred(t.Context(), "z", id, first, last); err != nil {
		t.Fatal(err)
	}
	state, err := b.rooms.State(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	in := room.Incoming{PDU: ban, From: room.Source{Kind: "federation", Server: "z"}}
	for _, e := range state {
		in.State = append(in.State, e)
	}
	if res, err := b.rooms.Accept(t.Context(), in); err != nil || res.Outcome != room.Accepted {
		t.Fatal(res, err)
	}
	b.settle()
	if got := b.tells("bob", "2 Ihrer Nachrichten", "@alice:z hat Sie am", "gesperrt", "eins", "zwei"); strings.Contains(got, "vorher") {
		t.Errorf("too much was told:\n%s", got)
	}
}
