// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/cert"
	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub"
	"hallig/sync/identity"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
)

// lonely is a hub with a box that only it reaches, and two servers far away: one is in rooms with the box, the other at first in one of them.
type lonely struct {
	*testing.T
	ca         *testpeer.CA
	servers    map[string]string
	hub        *hub.Hub
	hubDir     string
	stopHub    func()
	boxCfg     Config
	box        *running
	far, other *running
}

// freePort gives an address where nobody listens yet.
func freePort(t *testing.T) string {
	t.Helper()
	addr, err := testport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func newLonely(t *testing.T) *lonely {
	t.Helper()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := &lonely{T: t, ca: ca, servers: map[string]string{"far.test": freePort(t), "other.test": freePort(t)}}
	a.hub, a.hubDir, a.stopHub = startHub(t, ca, a.servers)
	outside := func(name string) *running {
		return startWith(t, Config{Data: t.TempDir(), ServerName: name, Federation: a.servers[name], FederationTLS: cert.Files{CACertificate: ca.File, CAKey: ca.KeyFile}, CAFile: ca.File,
			ServerAddresses: map[string]string{"box1.test": a.hub.World().String(), "far.test": a.servers["far.test"], "other.test": a.servers["other.test"], "hub.test": a.hub.World().String()},
			P2P:             P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}})
	}
	a.far, a.other = outside("far.test"), outside("other.test")
	a.boxCfg = Config{Data: t.TempDir(), ServerName: "box1.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"}}
	a.box = startWith(t, a.boxCfg)
	var code hub.Code
	if err := hub.Ask(t.Context(), a.hubDir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := a.box.takeCode(t.Context(), code.Code, a.hub.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "the contact", func() bool { s := a.box.hubStatus(); return s.InReach && s.Mode != "" })
	return a
}

func (a *lonely) status() (s hub.Status) {
	a.Helper()
	if err := hub.Ask(a.Context(), a.hubDir, "GET", "/status", nil, &s); err != nil {
		a.Fatal(err)
	}
	return s
}

// copied waits until the hub has so many rooms, as far as the box has them.
func (a *lonely) copied(rooms int) {
	a.Helper()
	awaitHub(a.T, fmt.Sprintf("%d copied rooms", rooms), func() bool {
		s := a.status().Hub.Copies
		h := &a.box.exchange.post
		h.mu.Lock()
		waits := len(h.touchedRooms)
		h.mu.Unlock()
		return waits == 0 && s.Rooms == rooms && s.Behind == 0
	})
}

// gone takes the box away.
func (a *lonely) gone() {
	a.Helper()
	a.box.end()
	awaitHub(a.T, "the hub to notice", func() bool { return !a.status().Boxes[0].Connected })
}

// question is what a server asks about a room.
type question struct{ method, uri, body string }

// ask puts a question to the box's name, signed by a server.
func (a *lonely) ask(l federation.Local, q question) (int, string) {
	a.Helper()
	var body []byte
	if q.body != "" {
		body = []byte(q.body)
	}
	sign, err := federation.SignRequest(l, "box1.test", q.method, q.uri, body)
	if err != nil {
		a.Fatal(err)
	}
	roots, err := cert.Roots(a.ca.File, "")
	if err != nil {
		a.Fatal(err)
	}
	conn := &tls.Dialer{Config: &tls.Config{RootCAs: roots, ServerName: "box1.test"}}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return conn.DialContext(ctx, network, a.hub.World().String())
	}}}
	req, err := http.NewRequestWithContext(a.Context(), q.method, "https://box1.test"+q.uri, bytes.NewReader(body))
	if err != nil {
		a.Fatal(err)
	}
	req.Header.Set("Authorization", sign.String())
	resp, err := client.Do(req)
	if err != nil {
		a.Fatalf("%s %s: %v", q.method, q.uri, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.Fatalf("%s %s: %v", q.method, q.uri, err)
	}
	return resp.StatusCode, string(text)
}

// plain is an answer without what differs between two that say the same: the time at which it was given, and the order of a state.
func plain(text string) string {
	var m map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &m) != nil {
		return text
	}
	delete(m, "origin_server_ts")
	for _, key := range []string{"auth_chain", "auth_chain_ids", "pdu_ids", "pdus"} {
		var list []json.RawMessage
		if json.Unmarshal(m[key], &list) != nil || key == "pdus" && m["auth_chain"] == nil {
			continue
		}
		slices.SortFunc(list, func(a, b json.RawMessage) int { return bytes.Compare(a, b) })
		m[key], _ = json.Marshal(list)
	}
	out, _ := json.Marshal(m)
	return string(out)
}

// about are all questions about the graph of a room that has these events, oldest first.
func about(room string, ids []string) (qs []question) {
	const v1 = "/_matrix/federation/v1/"
	esc := url.PathEscape
	for _, id := range ids {
		qs = append(qs,
			question{"GET", v1 + "event/" + esc(id), ""},
			question{"GET", v1 + "state/" + esc(room) + "?event_id=" + url.QueryEscape(id), ""},
			question{"GET", v1 + "state_ids/" + esc(room) + "?event_id=" + url.QueryEscape(id), ""},
			question{"GET", v1 + "event_auth/" + esc(room) + "/" + esc(id), ""},
		)
	}
	last := ids[len(ids)-1]
	for _, limit := range []int{1, 7, 100} {
		qs = append(qs, question{"GET", fmt.Sprintf("%sbackfill/%s?v=%s&limit=%d", v1, esc(room), url.QueryEscape(last), limit), ""})
		for _, earliest := range []string{ids[0], ids[len(ids)/2]} {
			qs = append(qs, question{"POST", v1 + "get_missing_events/" + esc(room),
				fmt.Sprintf(`{"earliest_events":[%q],"latest_events":[%q],"limit":%d,"min_depth":0}`, earliest, last, limit)})
		}
	}
	return append(qs, question{"GET", v1 + "event/" + esc("$gibtesnicht"), ""}, question{"GET", v1 + "state_ids/" + esc(room) + "?event_id=%24nie", ""},
		question{"GET", v1 + "state/" + esc("!nirgends:far.test") + "?event_id=" + url.QueryEscape(last), ""})
}

// timeline gives the ids of the events that a user can see in a room, oldest first.
func timeline(t *testing.T, c *matrixclient.Client, room string) (ids []string) {
	t.Helper()
	events, err := c.AllMessages(t.Context(), room)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestHubAnswersAboutRooms: whoever asks about the rooms of a box that is away is told by the hub what the box would have told, or refused as the box would have.
func TestHubAnswersAboutRooms(t *testing.T) {
	a := newLonely(t)
	ctx, id := t.Context(), must[string](t)
	anna, carl, otto := a.box.phone("anna"), a.far.phone("carl"), a.other.phone("otto")

	type told struct {
		room string
		ids  []string
	}
	var rooms []told
	for _, version := range []string{"10", "12"} {
		for _, visibility := range []string{"shared", "joined"} {
			room := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: version, Preset: "public_chat", Name: "Lage " + visibility,
				InitialState: []map[string]any{{"type": "m.room.history_visibility", "state_key": "", "content": map[string]string{"history_visibility": visibility}}}}))
			for i := range 3 {
				anna.say(room, fmt.Sprintf("unter uns %d", i))
			}
			id(carl.Join(ctx, room, "box1.test"))
			mistake := anna.say(room, "das war falsch")
			id(anna.Redact(ctx, room, mistake, "falsch"))
			if visibility == "shared" {
				id(otto.Join(ctx, room, "box1.test"))
				id(otto.SetState(ctx, room, "m.room.member", otto.UserID, map[string]string{"membership": "join", "displayname": "Otto"}))
				if version == "12" {
					id(anna.SetState(ctx, room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"other.*"}}))
				}
			}
			carl.until("what anna says", carl.has(anna.say(room, "an alle"), anna.say(room, "noch etwas")))
			anna.until("what carl says", anna.has(carl.say(room, "verstanden")))
			rooms = append(rooms, told{room, timeline(t, anna.Client, room)})
		}
	}
	alone := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "private_chat"}))
	secret := anna.say(alone, "für niemanden sonst")
	a.copied(len(rooms))

	servers := []federation.Local{a.far.fed.local, a.other.fed.local}
	want, statuses := map[string]string{}, map[int]int{}
	for _, r := range rooms {
		for _, q := range about(r.room, r.ids) {
			for _, l := range servers {
				status, text := a.ask(l, q)
				want[fmt.Sprint(l.Server, q)] = fmt.Sprint(status, " ", plain(text))
				statuses[status]++
			}
		}
	}
	if statuses[200] < 100 || statuses[403] < 100 || statuses[404] < 10 {
		t.Errorf("the box's own answers: %v", statuses)
	}
	a.gone()
	for range 2 {
		for _, r := range rooms {
			for _, q := range about(r.room, r.ids) {
				for _, l := range servers {
					status, text := a.ask(l, q)
					got, want := fmt.Sprint(status, " ", plain(text)), want[fmt.Sprint(l.Server, q)]
					if status != 200 && status != 403 && status != 404 || got[:3] != want[:3] || status == 200 && got != want {
						t.Errorf("%s asks %s:\ngot  %.600s\nwant %.600s", l.Server, q, got, want)
					}
				}
			}
		}
		// What the box has to itself is nowhere; what a stranger says of himself counts nowhere.
		if status, text := a.ask(a.far.fed.local, question{"GET", "/_matrix/federation/v1/event/" + url.PathEscape(secret), ""}); status != 404 {
			t.Errorf("a room that is nobody else's: %d %s", status, text)
		}
		liar := federation.Local{Server: "far.test", Key: event.Key{ID: a.far.fed.local.Key.ID, Private: a.other.fed.local.Key.Private}}
		if status, text := a.ask(liar, about(rooms[0].room, rooms[0].ids)[0]); status != 401 {
			t.Errorf("a forged question: %d %s", status, text)
		}
		// The hub starts again, and knows all that without the box.
		a.restartHub(false)
	}
	if s := a.status(); s.Hub.Copies.Rooms != len(rooms) || s.Hub.Copies.Behind != 0 {
		t.Errorf("after two starts without the box: %+v", s.Hub.Copies)
	}

	// Its database is lost: it says that it does not know, and knows again when the box has been there.
	a.restartHub(true)
	first := about(rooms[0].room, rooms[0].ids)[0]
	if status, text := a.ask(a.far.fed.local, first); status != 404 {
		t.Errorf("without the database: %d %s", status, text)
	}
	a.box = startWith(t, a.boxCfg)
	a.copied(len(rooms))
	a.gone()
	if status, text := a.ask(a.far.fed.local, first); fmt.Sprint(status, " ", plain(text)) != want[fmt.Sprint("far.test", first)] {
		t.Errorf("with a new database: %d %s", status, text)
	}
}

// restartHub stops the hub and starts another one over what it left; lost: without its database.
func (a *lonely) restartHub(lost bool) {
	a.Helper()
	world, meeting := a.hub.World().String(), strings.Split(a.hub.Addrs()[0], "/p2p/")[0]
	a.stopHub()
	if lost {
		files, err := filepath.Glob(filepath.Join(a.hubDir, "hallig.db*"))
		if err != nil || len(files) == 0 {
			a.Fatal(files, err)
		}
		for _, f := range files {
			if err := os.RemoveAll(f); err != nil {
				a.Fatal(err)
			}
		}
	}
	a.hub, a.stopHub = startHubAt(a.T, a.ca, a.servers, a.hubDir, world, meeting)
}

// TestHubReadsSharedRoomsOnly: the hub may read what it is to answer about: by its own connection, under its own name, in rooms that others are in as well.
func TestHubReadsSharedRoomsOnly(t *testing.T) {
	a := newLonely(t)
	ctx, id := t.Context(), must[string](t)
	anna, carl := a.box.phone("anna"), a.far.phone("carl")
	visibility := []map[string]any{{"type": "m.room.history_visibility", "state_key": "", "content": map[string]string{"history_visibility": "joined"}}}
	shared := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat", InitialState: visibility}))
	before := anna.say(shared, "vor den anderen")
	id(carl.Join(ctx, shared, "box1.test"))
	own := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"}))
	secret := anna.say(own, "unter uns")
	left := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"}))
	gone := anna.say(left, "damals")
	id(carl.Join(ctx, left, "box1.test"))
	a.copied(2)
	if err := anna.Leave(ctx, left); err != nil {
		t.Fatal(err)
	}
	a.copied(1) // the hub has no more of what the box has left

	papers, err := identity.Load(a.hubDir, "hub.test", true)
	if err != nil {
		t.Fatal(err)
	}
	hubs := federation.Local{Server: "hub.test", Key: papers.Key}
	handler := a.box.fromHub(a.box.fed.handler)
	for _, tt := range []struct {
		what, conn string
		by         federation.Local
		event      string
		status     int
		whole      bool
	}{
		{"what it is there for", "hub.test", hubs, before, 200, true},
		{"the box's own room", "hub.test", hubs, secret, 403, false},
		{"a room that the box has left", "hub.test", hubs, gone, 403, false},
		{"not by its connection", "192.0.2.1:443", hubs, before, 403, false},
		{"handed on for a member", "hub.test", a.far.fed.local, before, 200, false},
		{"handed on for a stranger", "hub.test", a.other.fed.local, before, 403, false},
	} {
		uri := "/_matrix/federation/v1/event/" + url.PathEscape(tt.event)
		sign, err := federation.SignRequest(tt.by, "box1.test", "GET", uri, nil)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequestWithContext(ctx, "GET", uri, nil)
		r.Header.Set("Authorization", sign.String())
		r.RemoteAddr = tt.conn
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.status || strings.Contains(w.Body.String(), "vor den anderen") != tt.whole {
			t.Errorf("%s: %d %s", tt.what, w.Code, w.Body)
		}
	}
}

// TestBoxAsksAboutAbsentBox: boxes of one hub that never met ask each other through it, also when one is away.
func TestBoxAsksAboutAbsentBox(t *testing.T) {
	a := newLonely(t)
	ctx, id := t.Context(), must[string](t)
	two := startWith(t, Config{Data: t.TempDir(), ServerName: "box2.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: HubConfig{Server: "hub.test"}})
	var code hub.Code
	if err := hub.Ask(ctx, a.hubDir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		t.Fatal(err)
	}
	if _, err := two.takeCode(ctx, code.Code, a.hub.Addrs()[0]); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "the contact", func() bool { s := two.hubStatus(); return s.InReach && s.Mode != "" })
	anna, berta := a.box.phone("anna"), two.phone("berta")
	room := id(anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: "12", Preset: "public_chat"}))
	before := anna.say(room, "vorher")
	id(berta.Join(ctx, room, "box1.test"))
	a.copied(1)
	a.gone()
	v, ok := event.Lookup("12")
	if !ok {
		t.Fatal("version 12 is unknown")
	}
	got, err := two.fed.client.History(ctx, "box1.test", event.RoomID(room), v, []event.ID{event.ID(before)}, 1)
	if err != nil || len(got) != 1 || string(got[0].ID) != before {
		t.Errorf("box2 hears of box1's history %d events, %v", len(got), err)
	}
}
