// SPDX-License-Identifier: EUPL-1.2

package rules

import (
	"fmt"
	"testing"

	"hallig/appliance/event"
)

func TestRequiredLevel(t *testing.T) {
	levels := `@alice:a m.room.power_levels = {"events_default":10,"state_default":20,"events":{"m.x":0,"m.y":90,"m.room.redaction":70},"users":{"@mod:a":50}}`
	runAuth(t, []authCase{
		{"3-", "", `@bob:b m.x - {}`, ""},
		{"3-", "", `@eve:e m.x - {}`, "sender"},
		{"3-", asInvited, `@eve:e m.x - {}`, "sender"},
		{"3-", "", `@bob:b m.x = {}`, "required level"},
		{"3-", "", `@mod:a m.x = {}`, ""},
		{"3-", "no m.room.power_levels ", `@bob:b m.x = {}`, "required level"},
		{"3-", "no m.room.power_levels ", `@bob:b m.x - {}`, ""},
		{"3-", "no m.room.power_levels ", `@alice:a m.x = {}`, ""},
		{"3-", levels, `@bob:b m.z - {}`, "required level"},
		{"3-", levels, `@bob:b m.x = {}`, ""},
		{"3-", levels, `@mod:a m.y - {}`, "required level"},
		{"3-", levels, `@mod:a m.z = {}`, ""},
		{"12", levels, `@alice:a m.y - {}`, ""},
		{"3-11", levels, `@alice:a m.y - {}`, "required level"},
		{"3-", levels, `@mod:a m.room.redaction - {}`, "required level"}, // as any other event, from version 3 on
		{"3-", "", `@bob:b m.room.redaction - {}`, ""},
		{"3-", "", `@mod:a m.x @bob:b {}`, "state key"},
		{"3-", "", `@mod:a m.x @mod:a {}`, ""},
		{"3-", "", `@mod:a m.x _@bob:b {}`, ""},
	})
}

func TestRedactionRule(t *testing.T) {
	for _, id := range []string{"1", "2"} {
		h := newHouse(t, id)
		for _, c := range []struct{ sender, target, want string }{{"@bob:b", "$x:b", ""}, {"@bob:b", "$x:a", "redaction"}, {"@mod:a", "$x:b", ""}, {"@bob:b", "", "redaction"}} {
			p := line(t, h.v, c.sender+" m.room.redaction - {}")
			p.Redacts = event.ID(c.target)
			e, err := Thin(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := verdict(Allowed(e, h.get)); got != c.want {
				t.Errorf("version %s, %+v: got %q", id, c, got)
			}
		}
	}
	h := newHouse(t, "12")
	for _, c := range []struct {
		sender, author event.UserID
		want           bool
	}{{"@bob:b", "@other:b", true}, {"@bob:b", "@alice:a", false}, {"@mod:a", "@bob:b", true}, {"@alice:a", "@bob:b", true}} {
		if got := CanRedact(h.get, c.sender, c.author); got != c.want {
			t.Errorf("CanRedact(%s, %s) = %t", c.sender, c.author, got)
		}
	}
}

func TestPowerLevels(t *testing.T) {
	with := func(content string) string { return `@mod:a m.room.power_levels = ` + content }
	old := func(content string) string { return `@alice:a m.room.power_levels = ` + content }
	// In most cases mod, with 50, changes levels in a room that lets him send power levels.
	base := `"users":{"@mod:a":50,"@eq:x":50,"@low:x":10,"@high:x":80}`
	keep := func(more string) string { return `{` + more + base + `}` }
	runAuth(t, []authCase{
		{"3-", old(keep("")), with(keep("")), ""},
		{"3-", "no m.room.power_levels ", `@alice:a m.room.power_levels = {"users":{"@bob:b":100},"ban":1000}`, ""},
		{"3-", "no m.room.power_levels ", with(`{}`), "required level"},
		{"3-", "", `@bob:b m.room.power_levels = {}`, "required level"},
		// The named levels: added, changed, removed.
		{"3-", old(keep("")), with(keep(`"ban":50,`)), ""},
		{"3-", old(keep("")), with(keep(`"ban":51,`)), "power levels"},
		{"3-", old(keep(`"ban":51,`)), with(keep(`"ban":50,`)), "power levels"},
		{"3-", old(keep(`"ban":51,`)), with(keep(``)), "power levels"},
		{"3-", old(keep(`"ban":51,`)), with(keep(`"ban":51,`)), ""},
		{"3-", old(keep(`"ban":50,`)), with(keep(``)), ""},
		{"3-", old(keep("")), with(keep(`"users_default":51,`)), "power levels"},
		{"3-", old(keep("")), with(keep(`"events_default":51,`)), "power levels"},
		{"3-", old(keep("")), with(keep(`"state_default":51,`)), "power levels"},
		{"3-", old(keep("")), with(keep(`"kick":51,`)), "power levels"},
		{"3-", old(keep("")), with(keep(`"redact":51,`)), "power levels"},
		{"3-", old(keep("")), with(keep(`"invite":51,`)), "power levels"},
		{"3-", old(keep("")), with(keep(`"users_default":20,"events_default":1,"state_default":50,"kick":0,"redact":-5,"invite":50,`)), ""},
		{"3-", old(keep(`"users_default":60,`)), with(keep(`"users_default":10,`)), "power levels"},
		// events
		{"3-", old(keep(`"events":{"a":50,"b":60},`)), with(keep(`"events":{"a":40,"b":60,"c":50},`)), ""},
		{"3-", old(keep(`"events":{"b":60},`)), with(keep(`"events":{"b":50},`)), "power levels"},
		{"3-", old(keep(`"events":{"b":60},`)), with(keep(``)), "power levels"},
		{"3-", old(keep(``)), with(keep(`"events":{"b":60},`)), "power levels"},
		{"3-", old(keep(`"events":{"b":10},`)), with(keep(`"events":{"b":60},`)), "power levels"},
		// notifications
		{"3-5", old(keep(`"notifications":{"room":60},`)), with(keep(``)), ""},
		{"6-", old(keep(`"notifications":{"room":60},`)), with(keep(``)), "power levels"},
		{"6-", old(keep(``)), with(keep(`"notifications":{"room":60},`)), "power levels"},
		{"3-", old(keep(`"notifications":{"room":50},`)), with(keep(`"notifications":{"room":20},`)), ""}, // equal levels may change
		{"12", `@alice:a m.room.power_levels = {"notifications":{"room":9000}}`, `@alice:a m.room.power_levels = {"notifications":{"room":1}}`, ""},
		// users
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":50,"@high:x":80}}`), ""},                                      // below: removed
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":50,"@low:x":50,"@high:x":80}}`), ""},                          // below: raised to own
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":50,"@low:x":51,"@high:x":80}}`), "power levels"},              // above own
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@low:x":10,"@high:x":80}}`), "power levels"},                         // equal: removed
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":49,"@low:x":10,"@high:x":80}}`), "power levels"},              // equal: lowered
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":50,"@low:x":10}}`), "power levels"},                           // higher: removed
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":10,"@eq:x":50,"@low:x":10,"@high:x":80}}`), ""},                          // oneself: lowered
		{"3-", old(keep(``)), with(`{"users":{"@eq:x":50,"@low:x":10,"@high:x":80}}`), ""},                                      // oneself: removed
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":51,"@eq:x":50,"@low:x":10,"@high:x":80}}`), "power levels"},              // oneself: raised
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":50,"@low:x":10,"@high:x":80,"@new:x":50}}`), ""},              // added
		{"3-", old(keep(``)), with(`{"users":{"@mod:a":50,"@eq:x":50,"@low:x":10,"@high:x":80,"@new:x":51}}`), "power levels"},  // added above own
		{"3-", old(`{"users_default":50}`), with(`{"users_default":50,"users":{"@new:x":50}}`), ""},                             // own power by default
		{"12", `@alice:a m.room.power_levels = {"users":{"@mod:a":100,"@bob:b":100}}`, `@alice:a m.room.power_levels = {}`, ""}, // creators stand above
		{"3-11", `@alice:a m.room.power_levels = {"users":{"@alice:a":100,"@bob:b":100}}`, `@alice:a m.room.power_levels = {"users":{"@alice:a":100}}`, "power levels"},
		// creators
		{"12", "", `@alice:a m.room.power_levels = {"users":{"@alice:a":100}}`, "power levels"},
		{"12", "no m.room.power_levels ", `@alice:a m.room.power_levels = {"users":{"@alice:a":100}}`, "power levels"},
		{"12", `@alice:a m.room.create = {"additional_creators":["@bob:b"]}`, `@alice:a m.room.power_levels = {"users":{"@bob:b":0}}`, "power levels"},
		// forms
		{"3-", "", `@alice:a m.room.power_levels = {"users":[]}`, "content"},
		{"3-", "", `@alice:a m.room.power_levels = {"users":{"bob":1}}`, "content"},
		{"3-", "", `@alice:a m.room.power_levels = {"users":{"@bob:b":"x"}}`, "content"},
		{"3-", "", `@alice:a m.room.power_levels = {"users":{"@bob:b":null}}`, "content"},
		{"3-", "", `@alice:a m.room.power_levels = {"ban":{}}`, "content"},
		{"10-", "", `@alice:a m.room.power_levels = {"events":1}`, "content"},
		{"10-", "", `@alice:a m.room.power_levels = {"notifications":{"room":"1"}}`, "content"},
		{"10-", "", `@alice:a m.room.power_levels = {"ban":"50"}`, "content"},
		{"10-", "", `@alice:a m.room.power_levels = {"ban":null}`, "content"},
		{"12", "", `@alice:a m.room.power_levels = {"users":{"@x:y":"1"}}`, "content"},
		{"3-9", "", `@alice:a m.room.power_levels = {"ban":" +050 ","users":{"@alice:a":"100","@mod:a":" 0050"}}`, ""},
		{"3-9", "", `@alice:a m.room.power_levels = {"ban":"5 0"}`, "content"},
		{"3-9", "", `@alice:a m.room.power_levels = {"ban":"50.0"}`, "content"},
		{"3-9", "", `@alice:a m.room.power_levels = {"ban":""}`, "content"},
		{"3-5", "", `@alice:a m.room.power_levels = {"ban":50.9,"users":{"@alice:a":1.00999e2,"@mod:a":5E1}}`, ""},
		{"6-", "", `@alice:a m.room.power_levels = {"ban":50.9}`, "content"},
		{"3-9", old(keep(`"ban":"99999999999999999999",`)), with(keep(`"ban":50,`)), "power levels"},
		{"3-9", "", `@alice:a m.room.power_levels = {"users":{"@alice:a":100,"@mod:a":"-99999999999999999999"}}`, ""},
		// Levels beyond 64 bits keep their order: mod cannot raise ban from the higher to the lower of two giants.
		{"3-5", old(keep(`"ban":99999999999999999999,`)), with(keep(`"ban":50,`)), "power levels"},
		{"3-5", `@alice:a m.room.power_levels = {"users":{"@alice:a":9000000000000000000,"@mod:a":9e30}}`, `@alice:a m.room.power_levels = {"users":{"@alice:a":9000000000000000000}}`, "power levels"},
	})
}

func TestLevels(t *testing.T) {
	h := newHouse(t, "12")
	h.set(t, `@alice:a m.room.create = {"additional_creators":["@bob:b"]}`)
	got := fmt.Sprintln(UserLevel(h.get, "@alice:a") == InfiniteLevel, UserLevel(h.get, "@bob:b") == InfiniteLevel, UserLevel(h.get, "@mod:a"), UserLevel(h.get, "@x:y"),
		NeededLevel(h.get, "m.x", true), NeededLevel(h.get, "m.x", false), Membership(h.get, "@bob:b"), Membership(h.get, "@x:y"), JoinRule(h.get))
	if want := "true true 50 0 50 0 join leave public\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, c := range []struct{ version, creator, want string }{{"10", "@bob:b", "0 100"}, {"11", "@bob:b", "100 0"}} {
		h := newHouse(t, c.version)
		h.set(t, `@alice:a m.room.create = {"creator":"`+c.creator+`"}`)
		delete(h.state, Key{Type: "m.room.power_levels"})
		if got := fmt.Sprint(UserLevel(h.get, "@alice:a"), " ", UserLevel(h.get, "@bob:b")); got != c.want {
			t.Errorf("version %s without power levels: %s, want %s", c.version, got, c.want)
		}
	}
}
