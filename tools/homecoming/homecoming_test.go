// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"crypto/ecdh"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hallig/appliance/clock"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

func TestSatellitesAreBelieved(t *testing.T) {
	now := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	g := &clock.GPS{Released: now.AddDate(0, -1, 0)}
	for n := range 20 {
		at := now.Add(time.Duration(n) * time.Second)
		if r, ok := g.Line(string(sentence(at)), time.Duration(n)*time.Second); ok {
			if !r.Time.Equal(at) {
				t.Errorf("told %v, want %v", r.Time, at)
			}
			return
		}
	}
	t.Error("a box does not take what the satellites say")
}

func TestSynapseFile(t *testing.T) {
	whole := "# as synapse-up prints it\nSERVER_NAME=127.0.0.11:8448\nCLIENT_URL=http://127.0.0.11:8008\nFED_URL=https://127.0.0.11:8448\nCA_FILE=/ca/ca.crt\nADMIN_TOKEN=syt_a=b\n\nSTART=KEEP=1 ./synapse-up central 127.0.0.11\n"
	at, err := parseEnv(whole)
	if err != nil || at["ADMIN_TOKEN"] != "syt_a=b" || at["CA_KEY"] != "/ca/ca.key" || at["START"] != "KEEP=1 ./synapse-up central 127.0.0.11" {
		t.Errorf("%v, %v", at, err)
	}
	for _, bad := range []string{"", strings.ReplaceAll(whole, "ADMIN_TOKEN", "TOKEN"), whole + "nonsense\n"} {
		if _, err := parseEnv(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// The judge must see what a bad homecoming looks like.
func TestVerdict(t *testing.T) {
	n := &night{toDevice: [2][]int{{1}, {2}}}
	n.events[onBox], n.events[onLand] = []written{{id: "$a", n: 3}}, []written{{id: "$b", n: 4}}
	good := func() *verdict {
		return &verdict{night: n, toDevice: [2]int{1, 1}, devices: [2]bool{true, true}, told: [2]bool{true, true}, claimed: [2]bool{true, true}, counted: [2]bool{true, true}}
	}
	if err := good().failure(); err != nil {
		t.Fatal(err)
	}
	if got, want := sum([]*verdict{good()}), "homecoming: 1 events each way, lost 0, duplicated 0, gap requests 0, state equal"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for name, spoil := range map[string]func(*verdict){
		"lost 1": func(v *verdict) { v.lost[onLand] = 1 }, "lost 0 (and 2 not live)": func(v *verdict) { v.paged[onBox] = 2 },
		"duplicated 1": func(v *verdict) { v.toDeviceTwice[onBox] = 1 }, "state differs in 1 places": func(v *verdict) { v.diff = []string{"topic"} },
		"gap requests 3": func(v *verdict) {
			v.atBox = map[string]testpeer.Asked{"backfill": {Requests: 1}, "state_ids": {Requests: 2}, "send": {Requests: 9}}
		},
		"lost 0,": func(v *verdict) { v.toDevice[onLand] = 0 }, "gap requests 0,": func(v *verdict) { v.counted[onBox] = false },
	} {
		v := good()
		spoil(v)
		if line := sum([]*verdict{v}); v.failure() == nil || !strings.Contains(line, name) {
			t.Errorf("%s: %v, %s", name, v.failure(), line)
		}
	}
}

// With a hub, the central server must notice nothing, and what was written to the dark box must be readable.
func TestVerdictWithHub(t *testing.T) {
	good := func() *verdict {
		n := &night{toDevice: [2][]int{{1}, {2}}, sealed: []int{3}}
		n.events[onBox], n.events[onLand] = []written{{id: "$a", n: 4}}, []written{{id: "$b", n: 5}}
		n.receipts[onLand] = n.events[onBox]
		return &verdict{hub: true, night: n, toDevice: [2]int{1, 1}, sealed: 1, receipts: [2]int{1, 0},
			devices: [2]bool{true, true}, told: [2]bool{true, true}, claimed: [2]bool{true, true}, counted: [2]bool{true, true}}
	}
	if v := good(); v.failure() != nil || !v.arrivedRest(false) {
		t.Fatal(v.failure())
	}
	for want, spoil := range map[string]func(*verdict){
		"given the box up":   func(v *verdict) { v.night.off = true },
		"were not given":     func(v *verdict) { v.night.unclaimed = 1 },
		"could not be read":  func(v *verdict) { v.sealed = 0 },
		"read receipts were": func(v *verdict) { v.receipts[onBox] = 0 },
	} {
		v := good()
		if spoil(v); v.failure() == nil || !strings.Contains(v.failure().Error(), want) {
			t.Errorf("%q: %v", want, v.failure())
		}
	}
}

// A message under a one-time key is read once, with the key that was given out, and a key that is given twice is noticed.
func TestSealed(t *testing.T) {
	r := &keyring{keys: map[string]*ecdh.PrivateKey{}}
	anna, bert := matrixclient.New(""), matrixclient.New("")
	anna.UserID, anna.DeviceID, bert.UserID, bert.DeviceID = "@anna:box", "A", "@bert:box", "B"
	id, public, err := r.make(anna)
	if err != nil {
		t.Fatal(err)
	}
	other, _, err := r.make(anna)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"another device's": r.give(bert, id, public), "another one": r.give(anna, other, public), "no key": r.give(anna, id, "?")} {
		if err == nil {
			t.Errorf("%s is taken for a key of the device", name)
		}
	}
	if err := r.give(anna, id, public); err != nil {
		t.Fatal(err)
	}
	if err := r.give(anna, id, public); err == nil {
		t.Error("a key that is given twice is not noticed")
	}
	m, err := seal(7, id, public)
	if err != nil {
		t.Fatal(err)
	}
	raw := func(m sealed) json.RawMessage {
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	wrong := m
	wrong.Key = other // its private half is gone afterwards, as with Olm
	if r.opens(anna, 7, raw(wrong)) {
		t.Error("read with another key")
	}
	if !r.opens(anna, 7, raw(m)) {
		t.Error("not read")
	}
	if r.opens(anna, 7, raw(m)) {
		t.Error("read twice")
	}
}

// A follower counts an event that comes twice, a message that comes as two events, and messages between devices.
func TestFollowerCounts(t *testing.T) {
	f := &follower{}
	f.forget()
	raw := func(n string) json.RawMessage { return json.RawMessage(`{"n":` + n + `}`) }
	answer := func(events ...matrixclient.Event) *matrixclient.SyncResponse {
		r := &matrixclient.SyncResponse{}
		r.Rooms.Join = map[string]matrixclient.JoinedRoom{"!r": {Timeline: matrixclient.Timeline{Events: events}}}
		return r
	}
	f.take(answer(matrixclient.Event{ID: "$a", Content: raw("1")}, matrixclient.Event{ID: "$b", Content: raw("2")}))
	if len(f.twice) != 0 {
		t.Errorf("twice: %v", f.twice)
	}
	f.take(answer(matrixclient.Event{ID: "$a", Content: raw("1")}, matrixclient.Event{ID: "$c", Content: raw("2")}))
	if len(f.twice) != 2 {
		t.Errorf("twice: %v", f.twice)
	}
	r := answer()
	r.ToDevice.Events = []matrixclient.Event{{Content: raw("7")}, {Content: raw("7")}}
	f.take(r)
	if f.toDevice[7] != 2 {
		t.Errorf("between devices: %v", f.toDevice)
	}
	if lack := f.missing([]written{{id: "$a"}, {id: "$z"}}); len(lack) != 1 || lack[0].id != "$z" {
		t.Errorf("missing %v", lack)
	}
}
