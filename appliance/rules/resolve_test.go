// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hallig/appliance/event"
)

// graph is a room's auth graph, drawn as text, one event per line, ancestors first:
//
//	name  sender  type  key  content  < names of auth events  @ time
//
// Types go without "m.room.", senders and member keys without "@" and with server a; key and content may be "-". The
// time is the number of the line if it is not told. create is never listed among the auth events; where the version wants it, it is added.
type graph struct {
	v      *event.Version
	events map[event.ID]*Event
}

func draw(t testing.TB, version, text string) *graph {
	t.Helper()
	v, ok := event.Lookup(version)
	if !ok {
		t.Fatalf("no version %s", version)
	}
	g := &graph{v: v, events: map[event.ID]*Event{}}
	for i, l := range strings.Split(strings.TrimSpace(text), "\n") {
		l, at, _ := strings.Cut(l, "@")
		head, auth, _ := strings.Cut(l, "<")
		f := strings.Fields(head)
		if len(f) != 5 {
			t.Fatalf("bad line %q", l)
		}
		p := &event.PDU{Version: v, ID: event.ID("$" + f[0]), RoomID: "!room:a", Sender: event.UserID("@" + f[1] + ":a"), Type: "m.room." + f[2],
			Content: json.RawMessage(strings.ReplaceAll(f[4], "@@", "@")), TS: int64(i + 1)}
		if v.CreateIsRoomID {
			p.RoomID = "!create"
		}
		if at = strings.TrimSpace(at); at != "" {
			n, err := strconv.ParseInt(at, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			p.TS = n
		}
		key := strings.TrimPrefix(f[3], "-")
		if f[2] == "member" {
			key = "@" + f[3] + ":a"
			p.Content = json.RawMessage(`{"membership":"` + f[4] + `"}`)
		} else if f[4] == "-" {
			p.Content = json.RawMessage(`{}`)
		}
		p.StateKey = &key
		if f[2] == "create" {
			p.Content = json.RawMessage(`{"creator":"@` + f[1] + `:a"}`)
		} else if p.Prev = []event.ID{"$prev"}; !v.CreateIsRoomID {
			p.Auth = append(p.Auth, "$create")
		}
		if f[2] == "power_levels" {
			p.Content = json.RawMessage(`{"users":{` + users(v, f[4]) + `}}`)
		}
		if f[2] == "join_rules" {
			p.Content = json.RawMessage(`{"join_rule":"` + f[4] + `"}`)
		}
		for _, a := range strings.Fields(auth) {
			if g.events[event.ID("$"+a)] == nil {
				t.Fatalf("%s: auth event %s is not drawn before it", f[0], a)
			}
			p.Auth = append(p.Auth, event.ID("$"+a))
		}
		e, err := Thin(p)
		if err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		if e.Member != nil && strings.Contains(f[4], "via:") {
			_, by, _ := strings.Cut(f[4], "via:")
			e.Member.Membership, e.Member.Authorised, e.Member.hasAuthorised = "join", event.UserID("@"+by+":a"), true
		}
		if len(p.Prev) > 0 && e.Member != nil && p.Sender == "@alice:a" && key == "@alice:a" && len(strings.Fields(auth)) == 0 {
			e.Prev = []event.ID{"$create"}
		}
		g.events[p.ID] = e
	}
	return g
}

// users reads "alice:100,bob:50"; alice is the creator and not listed where that is forbidden.
func users(v *event.Version, s string) string {
	var out []string
	for _, f := range strings.Split(s, ",") {
		name, level, ok := strings.Cut(f, ":")
		if ok && (name != "alice" || !v.Creators) {
			out = append(out, fmt.Sprintf(`"@%s:a":%s`, name, level))
		}
	}
	return strings.Join(out, ",")
}

func (g *graph) load(id event.ID) *Event { return g.events[id] }

// set makes a state of names.
func (g *graph) set(t testing.TB, names string) map[Key]event.ID {
	t.Helper()
	s := map[Key]event.ID{}
	for _, n := range strings.Fields(names) {
		e := g.events[event.ID("$"+n)]
		if e == nil {
			t.Fatalf("%s is not drawn", n)
		}
		s[Key{e.Type, *e.StateKey}] = e.ID
	}
	return s
}

func names(s map[Key]event.ID) string {
	var out []string
	for _, id := range s {
		out = append(out, string(id[1:]))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func sorted(s string) string {
	f := strings.Fields(s)
	slices.Sort(f)
	return strings.Join(f, " ")
}

// base is how all the rooms begin.
const base = `
	create  alice  create        -      -
	alice   alice  member        alice  join               <
	power   alice  power_levels  -      alice:100,bob:50   < alice
	rules   alice  join_rules    -      public             < alice power
	bob     bob    member        bob    join               < power rules
	carol   carol  member        carol  join               < power rules`

type resolveCase struct {
	name     string
	versions string
	draw     string
	sets     []string
	want     string
}

const common = "create alice "

var resolveCases = []resolveCase{
	{"one state", "3-", "", []string{common + "power rules bob carol"}, common + "power rules bob carol"},
	{"no state", "3-", "", nil, ""},
	{"the same twice", "3-", "", []string{common + "power", common + "power"}, common + "power"},
	{"only additions that do not touch", "3-", `
		name   bob    name   -  -  < bob power
		topic  alice  topic  -  -  < alice power`,
		[]string{common + "power rules bob carol name", common + "power rules bob carol topic"}, common + "power rules bob carol name topic"},
	{"a ban goes before what the banned did beside it", "3-", `
		topic1  alice  topic   -    -    < alice power
		topic2  bob    topic   -    -    < bob power
		ban     alice  member  bob  ban  < alice power bob`,
		[]string{common + "power rules carol topic1 ban", common + "power rules carol topic2 bob"}, common + "power rules carol topic1 ban"},
	{"two bans: who has more power goes first", "3-", `
		mod     carol  member        carol  join                       < power rules carol
		power2  alice  power_levels  -      alice:100,bob:50,carol:60  < alice power
		banB    carol  member        bob    ban                        < carol power2 bob   @ 200
		leaveC  alice  member        carol  ban                        < alice power2 carol @ 300`,
		[]string{common + "rules power2 banB carol", common + "rules power2 bob leaveC"}, common + "rules power2 bob leaveC"},
	{"power levels: the stronger first, the weaker judged under them", "3-", `
		powerA  alice  power_levels  -  alice:100,bob:0            < alice power @ 300
		powerB  bob    power_levels  -  alice:100,bob:50,carol:50  < bob power   @ 200`,
		[]string{common + "rules bob carol powerA", common + "rules bob carol powerB"}, common + "rules bob carol powerA"},
	{"power levels: equal power, the earlier first", "3-", `
		power2  alice  power_levels  -  alice:100,bob:50,carol:50         < alice power
		powerC  carol  power_levels  -  alice:100,bob:50,carol:50,eve:20  < carol power2 @ 300
		powerB  bob    power_levels  -  alice:100,bob:50,carol:50,eve:10  < bob power2   @ 200`,
		[]string{common + "rules bob carol powerC", common + "rules bob carol powerB"}, common + "rules bob carol powerC"},
	{"power levels: equal power and time, the smaller id first", "3-", `
		power2  alice  power_levels  -  alice:100,bob:50,carol:50         < alice power
		powerZ  carol  power_levels  -  alice:100,bob:50,carol:50,eve:20  < carol power2 @ 300
		powerB  bob    power_levels  -  alice:100,bob:50,carol:50,eve:10  < bob power2   @ 300`,
		[]string{common + "rules bob carol powerZ", common + "rules bob carol powerB"}, common + "rules bob carol powerZ"},
	{"an event is judged by its auth events, not by itself", "3-", `
		powerC  carol  power_levels  -  alice:100,bob:50,carol:100  < carol power`,
		[]string{common + "rules bob carol power", common + "rules bob carol powerC"}, common + "rules bob carol power"},
	{"closing the room goes before joins beside it", "3-", `
		closed  alice  join_rules  -    invite  < alice power
		eve     eve    member      eve  join    < power rules`,
		[]string{common + "power closed bob carol", common + "power rules bob carol eve"}, common + "power closed bob carol"},
	{"what came of an earlier power level yields to what came of a later, whatever the clocks say", "3-", `
		topic1  alice  topic         -  -                         < alice power  @ 900
		power2  alice  power_levels  -  alice:100,bob:50,eve:1    < alice power
		topic2  alice  topic         -  -                         < alice power2 @ 100`,
		[]string{common + "rules bob carol power topic1", common + "rules bob carol power2 topic2"}, common + "rules bob carol power2 topic2"},
	{"the same power level: the later clock wins", "3-", `
		topicL  alice  topic  -  -  < alice power @ 900
		topicE  bob    topic  -  -  < bob power   @ 100`,
		[]string{common + "power rules bob carol topicL", common + "power rules bob carol topicE"}, common + "power rules bob carol topicL"},
	{"no power level in the ancestry comes before all", "3-11", `
		topic0  alice  topic  -  -  < alice       @ 900
		topic1  bob    topic  -  -  < bob power   @ 100`,
		[]string{common + "power rules bob carol topic0", common + "power rules bob carol topic1"}, common + "power rules bob carol topic1"},
	{"2.1 sees no mainline where all agree on the power levels", "12", `
		topic0  alice  topic  -  -  < alice       @ 900
		topic1  bob    topic  -  -  < bob power   @ 100`,
		[]string{common + "power rules bob carol topic0", common + "power rules bob carol topic1"}, common + "power rules bob carol topic0"},
	{"no power level in the ancestry comes before all, with a mainline", "3-", `
		power2  alice  power_levels  -  alice:100,bob:50,eve:1  < alice power
		topic0  alice  topic  -  -  < alice       @ 900
		topic1  bob    topic  -  -  < bob power   @ 100`,
		[]string{common + "power rules bob carol topic0", common + "power2 rules bob carol topic1"}, common + "power2 rules bob carol topic1"},
	{"the creator has power before there are power levels", "3-", `
		rulesA  alice  join_rules  -    invite  < alice        @ 300
		first   dave   member      dave join    <              @ 100`,
		[]string{common + "rulesA", common + "rulesA first"}, common + "rulesA"},
	{"a state that lost a member: 2 judges the join by what is agreed now", "3-11", `
		closed  alice  join_rules  -  invite  < alice power`,
		[]string{common + "power closed bob carol", common + "power closed carol"}, common + "power closed carol"},
	{"2.1 starts from nothing and judges it by what held then", "12", `
		closed  alice  join_rules  -  invite  < alice power`,
		[]string{common + "power closed bob carol", common + "power closed carol"}, common + "power closed bob carol"},
	// power2 gave carol the power that power3 needs. All chains hold power2, as the name is made under it; so it is in no difference.
	{"2 falls back when what lies between is agreed on", "3-11", `
		power2  alice  power_levels  -  alice:100,bob:50,carol:50        < alice power
		power3  carol  power_levels  -  alice:100,bob:50,carol:50,eve:5  < carol power2
		name    alice  name          -  -                                < alice power2`,
		[]string{common + "rules bob carol name power", common + "rules bob carol name power3"}, common + "rules bob carol name power"},
	{"2.1 takes in what lies between", "12", `
		power2  alice  power_levels  -  alice:100,bob:50,carol:50        < alice power
		power3  carol  power_levels  -  alice:100,bob:50,carol:50,eve:5  < carol power2
		name    alice  name          -  -                                < alice power2`,
		[]string{common + "rules bob carol name power", common + "rules bob carol name power3"}, common + "rules bob carol name power3"},
	{"a restricted join opens nothing for the next one", "8-", `
		closed  alice  join_rules  -     restricted  < alice power
		dave    dave   member      dave  via:bob     < power closed bob @ 100
		eve     eve    member      eve   join        < power closed     @ 200`,
		[]string{common + "power closed bob carol dave", common + "power closed bob carol eve"}, common + "power closed bob carol dave"},
	{"leaving by oneself is no power event", "3-", `
		name1  alice  name    -    -      < alice power @ 50
		name2  bob    name    -    -      < bob power   @ 100
		gone   bob    member  bob  leave  < bob power   @ 200`,
		[]string{common + "power rules carol gone name1", common + "power rules bob carol name2"}, common + "power rules carol gone name2"},
	{"being removed is one", "3-", `
		name1   alice  name    -    -      < alice power      @ 50
		name2   bob    name    -    -      < bob power        @ 100
		kicked  alice  member  bob  leave  < alice power bob  @ 200`,
		[]string{common + "power rules carol kicked name1", common + "power rules bob carol name2"}, common + "power rules carol kicked name1"},
	{"three branches", "3-", `
		topicA  alice  topic   -      -    < alice power       @ 10
		topicB  bob    topic   -      -    < bob power         @ 20
		ban     alice  member  bob    ban  < alice power bob   @ 30`,
		[]string{common + "power rules bob carol topicA", common + "power rules bob carol topicB", common + "power rules ban carol"}, common + "power rules ban carol topicA"},
}

func TestResolve(t *testing.T) {
	for _, c := range resolveCases {
		for _, id := range spans(t, c.versions) {
			g := draw(t, id, base+c.draw)
			var sets []map[Key]event.ID
			for _, s := range c.sets {
				sets = append(sets, g.set(t, s))
			}
			for range 6 { // maps come in another order each time
				got, err := Resolve(g.v, sets, g.load)
				if err != nil {
					t.Fatal(err)
				}
				if names(got) != sorted(c.want) {
					t.Errorf("version %s, %s:\ngot  %s\nwant %s", id, c.name, names(got), sorted(c.want))
					break
				}
				slices.Reverse(sets)
			}
			if again := naive(g, sets); names(again) != sorted(c.want) {
				t.Errorf("version %s, %s: by the words of the specification\ngot  %s\nwant %s", id, c.name, names(again), sorted(c.want))
			}
		}
	}
}

func TestResolveRejectedAuthEvent(t *testing.T) {
	// bob's power to set the topic comes from an event that was rejected; nothing else speaks for him.
	text := `
		create  alice  create        -      -
		alice   alice  member        alice  join      <
		rules   alice  join_rules    -      public    < alice
		bob     bob    member        bob    join      < rules
		power   bob    power_levels  -      bob:50    < bob
		topicA  alice  topic         -      -         < alice
		topicB  bob    topic         -      -         < bob power`
	for _, id := range spans(t, "3-") {
		g := draw(t, id, text)
		sets := []map[Key]event.ID{g.set(t, "create alice rules bob topicA"), g.set(t, "create alice rules bob topicB")}
		for _, rejected := range []bool{false, true} {
			g.events["$power"].Rejected = rejected
			got, err := Resolve(g.v, sets, g.load)
			if err != nil {
				t.Fatal(err)
			}
			want := map[bool]event.ID{false: "$topicB", true: "$topicA"}[rejected]
			if got[Key{Type: "m.room.topic"}] != want || got[Key{Type: "m.room.power_levels"}] != "" {
				t.Errorf("version %s, rejected %t: %s", id, rejected, names(got))
			}
		}
	}
}

func TestResolveRejectedCreate(t *testing.T) {
	// Since version 12 no auth event names the create event; it must not come in by the room id either when it was rejected.
	g := draw(t, "12", base+`
		topicA  alice  topic  -  -  < alice power
		topicB  bob    topic  -  -  < bob power`)
	for _, rejected := range []bool{false, true} {
		g.events["$create"].Rejected = rejected
		got, err := Resolve(g.v, []map[Key]event.ID{g.set(t, "alice bob power topicA"), g.set(t, "alice bob power topicB")}, g.load)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := got[Key{Type: "m.room.topic"}]; ok == rejected {
			t.Errorf("rejected %t: %s", rejected, names(got))
		}
	}
}

func TestResolveUnknownEvents(t *testing.T) {
	g := draw(t, "12", base+`
		topicA  alice  topic  -  -  < alice power
		topicB  bob    topic  -  -  < bob power`)
	sets := []map[Key]event.ID{g.set(t, common+"power topicA"), g.set(t, common+"power bob topicB")}
	sets[1][Key{Type: "m.room.name"}] = "$unknown"
	delete(g.events, "$rules")
	var asked []event.ID
	got, err := Resolve(g.v, sets, func(id event.ID) *Event {
		if g.events[id] == nil {
			asked = append(asked, id)
		}
		return g.load(id)
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(asked)
	if fmt.Sprint(asked) != "[$rules $unknown]" {
		t.Errorf("asked for %v", asked)
	}
	if _, ok := got[Key{Type: "m.room.name"}]; ok {
		t.Error("an unknown event became state")
	}
}

func TestResolveRefusesVersion1(t *testing.T) {
	v, _ := event.Lookup("1")
	if _, err := Resolve(v, nil, nil); err == nil {
		t.Error("state resolution 1 is not spoken")
	}
}

// naive follows the words of the specification with sets of ids and no thought of speed.
func naive(g *graph, sets []map[Key]event.ID) map[Key]event.ID {
	agreed, conflicted := map[Key]event.ID{}, map[event.ID]bool{}
	for _, s := range sets {
		for k, id := range s {
			same := true
			for _, o := range sets {
				same = same && o[k] == id
			}
			if same {
				agreed[k] = id
			} else {
				conflicted[id] = true
			}
		}
	}
	if len(conflicted) == 0 {
		return agreed
	}
	var chain func(id event.ID, into map[event.ID]bool)
	chain = func(id event.ID, into map[event.ID]bool) {
		for _, a := range g.events[id].Auth {
			if !into[a] {
				into[a] = true
				chain(a, into)
			}
		}
	}
	chainOf := func(id event.ID) map[event.ID]bool {
		m := map[event.ID]bool{}
		chain(id, m)
		return m
	}
	count := map[event.ID]int{}
	for _, s := range sets {
		c := map[event.ID]bool{}
		for _, id := range s {
			chain(id, c)
		}
		for id := range c {
			count[id]++
		}
	}
	full := maps.Clone(conflicted)
	for id, n := range count {
		if n < len(sets) {
			full[id] = true
		}
	}
	if g.v.StateRes == 21 {
		for from := range conflicted {
			for mid := range chainOf(from) {
				for to := range chainOf(mid) {
					if conflicted[to] {
						full[mid] = true
					}
				}
			}
		}
	}
	level := func(e *Event) int64 {
		return UserLevel(func(k Key) *Event {
			for _, a := range e.Auth {
				if g.events[a].is(k.Type, k.StateKey) {
					return g.events[a]
				}
			}
			if k.Type == "m.room.create" {
				return g.events["$create"]
			}
			return nil
		}, e.Sender)
	}
	first := map[event.ID]bool{}
	for id := range full {
		if isPower(g.events[id]) {
			first[id] = true
			for a := range chainOf(id) {
				if full[a] {
					first[a] = true
				}
			}
		}
	}
	var order []event.ID
	for left := maps.Clone(first); len(left) > 0; {
		var best *Event
		for id := range left {
			e, free := g.events[id], true
			for a := range chainOf(id) {
				free = free && !left[a]
			}
			if free && (best == nil || level(e) > level(best) || level(e) == level(best) && byTime(e, best) < 0) {
				best = e
			}
		}
		order = append(order, best.ID)
		delete(left, best.ID)
	}
	state := map[Key]event.ID{}
	if g.v.StateRes == 2 {
		state = maps.Clone(agreed)
	}
	apply := func(ids []event.ID) {
		for _, id := range ids {
			e := g.events[id]
			if Allowed(e, func(k Key) *Event {
				if id, ok := state[k]; ok {
					return g.events[id]
				}
				for _, a := range e.Auth {
					if x := g.events[a]; x.is(k.Type, k.StateKey) && !x.Rejected {
						return x
					}
				}
				if k.Type == "m.room.create" && g.v.CreateIsRoomID {
					return g.events["$create"]
				}
				return nil
			}) == nil {
				state[Key{e.Type, *e.StateKey}] = id
			}
		}
	}
	apply(order)
	powerOf := func(id event.ID) event.ID {
		for _, a := range g.events[id].Auth {
			if g.events[a].Type == "m.room.power_levels" {
				return a
			}
		}
		return ""
	}
	mainline := map[event.ID]int{}
	for p := state[Key{Type: "m.room.power_levels"}]; p != ""; p = powerOf(p) {
		mainline[p] = len(mainline)
	}
	place := func(id event.ID) int {
		for p := powerOf(id); p != ""; p = powerOf(p) {
			if i, ok := mainline[p]; ok {
				return i
			}
		}
		return 1 << 30
	}
	var rest []event.ID
	for id := range full {
		if !first[id] {
			rest = append(rest, id)
		}
	}
	slices.SortFunc(rest, func(a, b event.ID) int {
		if n := place(b) - place(a); n != 0 {
			return n
		}
		return byTime(g.events[a], g.events[b])
	})
	apply(rest)
	maps.Copy(state, agreed)
	return state
}
