// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"strings"
	"testing"
)

// TestSeedIsARoom: a seed gives the same room each time, else no difference could be looked at twice.
func TestSeedIsARoom(t *testing.T) {
	for seed := range uint64(20) {
		a, b := play(seed), play(seed)
		if len(a.list) != len(b.list) || len(a.list) < 5 || a.compared != b.compared {
			t.Fatalf("seed %d: %d and %d events, %d and %d comparisons", seed, len(a.list), len(b.list), a.compared, b.compared)
		}
		for i := range a.list {
			if a.list[i].lit.id != b.list[i].lit.id {
				t.Fatalf("seed %d: event %d is %s, then %s", seed, i, a.list[i].lit.id, b.list[i].lit.id)
			}
		}
	}
}

// TestRoomsAreLively: the rooms hold what they are meant to hold, in every version.
func TestRoomsAreLively(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(300) {
		j := play(seed)
		for _, e := range j.list {
			what := e.lit.typ
			if m, ok := e.lit.content["membership"].(string); ok && what == "m.room.member" {
				what = m
			}
			if e.lit.rejected {
				what += " rejected"
			}
			seen[what]++
			if _, ok := e.lit.content["third_party_invite"]; ok && !e.lit.rejected {
				seen["redeemed"]++
			}
			if by := text(e.lit.content["join_authorised_via_users_server"]); by != "" && !e.lit.rejected {
				seen["authorised"]++
			}
			for _, a := range e.lit.auth {
				switch n := j.nodes[a]; {
				case n == nil:
					seen["auth unknown"]++
				case n.lit.rejected:
					seen["auth rejected"]++
				case n.lit.room != e.lit.room:
					seen["auth foreign"]++
				}
			}
		}
		seen["resolutions"] += j.resolutions
	}
	for _, what := range []string{"join", "leave", "ban", "invite", "knock", "join rejected", "ban rejected", "m.room.power_levels", "m.room.power_levels rejected", "m.room.join_rules",
		"m.room.third_party_invite", "redeemed", "authorised", "auth unknown", "auth rejected", "auth foreign", "m.room.redaction", "m.room.aliases", "resolutions"} {
		if seen[what] < 5 {
			t.Errorf("%s: only %d in 300 rooms", what, seen[what])
		}
	}
}

// TestFaultsAreArgued: each known fault has a name of its own and says what it is held against.
func TestFaultsAreArgued(t *testing.T) {
	names := map[string]bool{}
	for _, f := range faults {
		if f.name == "" || len(f.says) < 10 || f.applies == nil || f.what == "" || names[f.oracle+f.name] {
			t.Errorf("%s: %q is not argued, or stands there twice", f.oracle, f.name)
		}
		names[f.oracle+f.name] = true
	}
	for _, f := range twinFaults {
		if f.name == "" || len(f.says) < 10 {
			t.Errorf("%q is not argued", f.name)
		}
	}
}

// TestCanonicalExamples: the transcription writes the specification's own examples.
// https://spec.matrix.org/v1.16/appendices/#examples
func TestCanonicalExamples(t *testing.T) {
	for in, want := range map[string]string{
		`{}`:                             `{}`,
		`{"one": 1, "two": "Two"}`:       `{"one":1,"two":"Two"}`,
		`{"b": "2", "a": "1"}`:           `{"a":"1","b":"2"}`,
		`{"本": 2, "日": 1}`:               `{"日":1,"本":2}`,
		`{"a": "日本語"}`:                   `{"a":"日本語"}`,
		`{"a": "\u65E5"}`:                `{"a":"日"}`,
		`{"a": null}`:                    `{"a":null}`,
		`{"a": "\u0001\u001F\/\u000A"}`:  `{"a":"\u0001\u001f/\n"}`,
		`{"x": {"z": 1, "y": [3, 2]} }`:  `{"x":{"y":[3,2],"z":1}}`,
		`{"\u0022": 1, "!": 2, "\\": 3}`: `{"!":2,"\"":1,"\\":3}`,
	} {
		o, err := decode([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(litCanonical(o)); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// TestRun: some rooms, compared.
func TestRun(t *testing.T) {
	total := run(1, 60, false)
	for _, d := range total.differences {
		t.Errorf("seed %d: %s", d.judge.seed, d)
	}
	if total.compared < 10000 || len(total.faults) < 5 {
		t.Errorf("only %d comparisons, %d known faults", total.compared, len(total.faults))
	}
	for name := range total.faults {
		if strings.HasPrefix(name, "law: ") && !strings.Contains(name, "inside the full conflicted set") {
			t.Errorf("the transcription itself has no faults: %s", name)
		}
	}
}
