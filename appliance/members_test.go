// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/signet"
	"hallig/sync/federation"
	"hallig/sync/hub"
	"hallig/sync/muster"
	"hallig/sync/peer"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// fleetOf is a hub with boxes that are paired with it and not with each other, and whose addresses lead nowhere.
type fleetOf struct {
	*testing.T
	root   ed25519.PrivateKey
	hub    *hub.Hub
	hubDir string
	boxes  map[string]*running
	cfg    map[string]Config
}

func newFleet(t *testing.T, names ...string) *fleetOf {
	t.Helper()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	public, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &fleetOf{T: t, root: root, hubDir: t.TempDir(), boxes: map[string]*running{}, cfg: map[string]Config{}}
	f.hub, _ = startHubAt(t, ca, nil, f.hubDir, "127.0.0.1:0", "/ip4/127.0.0.1/tcp/0", func(c *hub.Config) { c.OrganisationKey = signet.Organisation.Text(signet.Key{Key: public}) })
	for _, name := range names {
		f.cfg[name] = Config{Data: t.TempDir(), ServerName: name, Hub: HubConfig{Server: "hub.test"}, OrganisationKey: signet.Organisation.Text(signet.Key{Key: public}),
			P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true, Announce: []string{"/ip4/127.0.0.1/tcp/1"}}}
		b := startWith(t, f.cfg[name])
		f.boxes[name] = b
		var code hub.Code
		if err := hub.Ask(t.Context(), f.hubDir, "POST", "/pair/show", struct{}{}, &code); err != nil {
			t.Fatal(err)
		}
		if _, err := b.takeCode(t.Context(), code.Code, f.hub.Addrs()[0]); err != nil {
			t.Fatal(err)
		}
		awaitHub(t, "the contact", func() bool { s := b.hubStatus(); return s.InReach && s.Mode != "" })
	}
	return f
}

// sign makes a roster of the boxes that the hub knows, without those that are revoked.
func (f *fleetOf) sign(serial uint64, revoked ...string) []byte {
	f.Helper()
	var draft struct{ Lines string }
	if err := hub.Ask(f.Context(), f.hubDir, "GET", "/roster/draft", nil, &draft); err != nil {
		f.Fatal(err)
	}
	r := peer.Fleet{Serial: serial, Issued: time.Now().Unix()}
	for line := range strings.Lines(draft.Lines) {
		m, err := peer.ParseMember(line)
		if err != nil {
			f.Fatal(err)
		}
		if slices.Contains(revoked, m.Server) {
			r.Revoked = append(r.Revoked, peer.Revocation{ID: m.ID, Server: m.Server, Reason: "gestohlen"})
		} else {
			r.Boxes = append(r.Boxes, m)
		}
	}
	raw, err := peer.SignFleet(f.root, r)
	if err != nil {
		f.Fatal(err)
	}
	return raw
}

func (f *fleetOf) hasRoster(serial uint64, names ...string) {
	f.Helper()
	for _, n := range names {
		awaitHub(f.T, "the roster at "+n, func() bool { return f.boxes[n].exchange.fleet.Fleet().Serial == serial })
	}
}

func (f *fleetOf) together(a, b string) bool {
	return f.boxes[a].exchange.host.InReach(b) && f.boxes[b].exchange.host.InReach(a)
}

// TestFleet: boxes that nobody has paired with each other and that do not reach each other share a room, because their organisation has signed that they belong together; one of them is lost.
func TestFleet(t *testing.T) {
	f := newFleet(t, "a.test", "b.test", "c.test")
	a, b, c := f.boxes["a.test"], f.boxes["b.test"], f.boxes["c.test"]
	if a.exchange.paired().Len() != 0 {
		t.Fatalf("paired with %d boxes before anybody has said so", a.exchange.paired().Len())
	}
	first := f.sign(1)
	var told struct{ Serial, Missing uint64 }
	if err := hub.Ask(t.Context(), f.hubDir, "POST", "/roster", struct{ Roster []byte }{first}, &told); err != nil || told.Serial != 1 || told.Missing != 0 {
		t.Fatalf("%+v, %v", told, err)
	}
	f.hasRoster(1, "a.test", "b.test", "c.test")
	awaitHub(t, "the boxes to meet", func() bool {
		return f.together("a.test", "b.test") && f.together("a.test", "c.test") && f.together("b.test", "c.test")
	})

	anna, ben := a.phone("anna"), b.phone("ben")
	room, err := anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat", Name: "Lage"})
	if err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "a join", func() bool { // of two connections that boxes have when they meet one is given up, perhaps with a question on it
		_, err := ben.Join(t.Context(), room, "a.test")
		if err != nil && matrixclient.Status(err) != http.StatusBadGateway {
			t.Fatal("join: ", err)
		}
		return err == nil
	})
	anna.until("what Ben writes", anna.has(ben.say(room, "von b")))
	ben.until("what Anna writes", ben.has(anna.say(room, "von a")))
	sameState(t, room, anna, ben)

	// Whoever forgets a box of the fleet has nothing to do with it, until somebody pairs them.
	if err := b.forgetPeer(t.Context(), "c.test"); err != nil {
		t.Fatal(err)
	}
	awaitHub(t, "b to let go of c", func() bool { return !b.exchange.host.InReach("c.test") })
	again := f.sign(2)
	if _, err := b.takeRoster(again); err != nil {
		t.Fatal(err)
	}
	f.hasRoster(2, "a.test", "c.test") // from b, by way of the others
	if b.exchange.isBox("c.test") || !a.exchange.isBox("c.test") {
		t.Error("a newer roster wins over what somebody at b has said, or a follows b")
	}

	if err := a.addPeer(statementOf(t, c)); err != nil { // a pairing by code saves nobody
		t.Fatal(err)
	}
	// c is lost. The operator has a box at hand, not the hub.
	if _, err := a.takeRoster(f.sign(3, "c.test")); err != nil {
		t.Fatal(err)
	}
	f.hasRoster(3, "b.test")
	awaitHub(t, "everybody to let go of c", func() bool {
		return !a.exchange.host.InReach("c.test") && !c.exchange.host.InReach("a.test") && !c.exchange.host.InReach("hub.test")
	})
	var s hub.Status
	if err := hub.Ask(t.Context(), f.hubDir, "GET", "/status", nil, &s); err != nil || s.Hub.Roster == nil || s.Hub.Roster.Serial != 3 {
		t.Fatalf("the hub: %+v, %v", s.Hub.Roster, err)
	}
	for _, x := range s.Boxes {
		if (x.Server == "c.test") != (x.Revoked == "gestohlen") {
			t.Errorf("at the hub %s is revoked: %q", x.Server, x.Revoked)
		}
	}
	f.outlaws(a, c)

	// A box that was off all the while, or starts without any network, still knows.
	a.end()
	cfg := f.cfg["a.test"]
	cfg.P2P.Off = true
	a = startWith(t, cfg)
	if _, lost := a.exchange.revoked("c.test"); !lost || a.exchange.isBox("c.test") || !a.exchange.isBox("b.test") {
		t.Error("after a restart c is back, or b is gone")
	}
	for what, raw := range map[string][]byte{"the first roster": first, "the one before": again, "of another root": otherRoot(t)} {
		_, err := a.takeRoster(raw)
		var no *admin.Refusal
		if !errors.As(err, &no) || !strings.Contains(no.Text, "ign ") || !strings.Contains(no.DE, "unterschreiben") || a.exchange.fleet.Fleet().Serial != 3 {
			t.Errorf("%s: %v, serial %d", what, err, a.exchange.fleet.Fleet().Serial)
		}
	}
	f.outlaws(a, c)
}

// otherRoot is a roster that somebody else has signed.
func otherRoot(t *testing.T) []byte {
	t.Helper()
	_, thief, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := peer.SignFleet(thief, peer.Fleet{Serial: 99})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// outlaws checks that a box has nothing to do with a revoked one, whatever way that comes.
func (f *fleetOf) outlaws(a, c *running) {
	f.Helper()
	handler := a.mustering(a.fromHub(a.timed(a.fed.handler)))
	for _, tt := range []struct {
		method, uri string
		body        []byte
		want        int
	}{
		{"GET", "/_matrix/federation/v1/event/$x", nil, http.StatusForbidden},
		{"PUT", "/_matrix/federation/v1/send/1", []byte(`{"origin":"c.test","origin_server_ts":1,"pdus":[]}`), http.StatusBadRequest},
	} {
		auth, err := federation.SignRequest(c.fed.local, "a.test", tt.method, tt.uri, tt.body)
		if err != nil {
			f.Fatal(err)
		}
		r := httptest.NewRequest(tt.method, tt.uri, strings.NewReader(string(tt.body)))
		r.Header.Set("Authorization", auth.String())
		r.RemoteAddr = "hub.test"
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != tt.want || !strings.Contains(w.Body.String(), "revoked") {
			f.Errorf("c asks %s: %d %s", tt.uri, w.Code, w.Body)
		}
	}
	if err := a.addPeer(statementOf(f.T, c)); err == nil || !strings.Contains(err.Error(), "revoked") {
		f.Errorf("c is paired by code: %v", err)
	}
	req := httptest.NewRequest("GET", "https://c.test/_matrix/key/v2/server", nil)
	if _, err := a.exchange.ways(roundTrip(func(*http.Request) (*http.Response, error) {
		f.Error("c is asked by HTTPS")
		return nil, http.ErrNotSupported
	})).RoundTrip(req); err == nil || !strings.Contains(err.Error(), "revoked") {
		f.Errorf("c is asked: %v", err)
	}
	word := federation.SourceBox + string(c.boxID())
	if !a.exchange.distrusted("third.test", word) || a.exchange.distrusted("c.test", word) || a.exchange.distrusted("third.test", federation.SourceTLS) {
		f.Error("the word of c on others still counts, or the keys by which what it wrote before is checked do not")
	}
}

func statementOf(t *testing.T, b *running) peer.Peer {
	t.Helper()
	raw, err := b.id.Statement()
	if err != nil {
		t.Fatal(err)
	}
	p, err := peer.ReadStatement(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A stick brings the roster where no network leads; what is none changes nothing.
func TestRosterFromStick(t *testing.T) {
	public, root, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "b.test", OrganisationKey: signet.Organisation.Text(signet.Key{Key: public}), P2P: P2PConfig{Off: true}})
	line, err := b.fleetLine()
	if err != nil {
		t.Fatal(err)
	}
	m, err := peer.ParseMember(line)
	if err != nil || m.Server != "b.test" {
		t.Fatalf("%q: %v", line, err)
	}
	raw, err := peer.SignFleet(root, peer.Fleet{Serial: 4, Boxes: []peer.Member{m}})
	if err != nil {
		t.Fatal(err)
	}
	stick := t.TempDir()
	b.rosterFromStick(stick)
	if err := os.WriteFile(filepath.Join(stick, rosterFile), append([]byte("x"), raw...), 0o600); err != nil {
		t.Fatal(err)
	}
	b.rosterFromStick(stick)
	if s := b.fleetStatus(); s.Serial != 0 || s.NotTaken != 1 {
		t.Errorf("%+v", s)
	}
	if err := os.WriteFile(filepath.Join(stick, rosterFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b.rosterFromStick(stick)
	if s := b.fleetStatus(); s.Serial != 4 || !s.Member || s.Boxes != 1 {
		t.Errorf("%+v", s)
	}
	onward := t.TempDir()
	for range 2 {
		b.rosterOntoStick(t.Context(), onward)
	}
	c := startWith(t, Config{Data: t.TempDir(), ServerName: "c.test", OrganisationKey: signet.Organisation.Text(signet.Key{Key: public}), P2P: P2PConfig{Off: true}})
	c.rosterFromStick(onward)
	if s := c.fleetStatus(); s.Serial != 4 || s.Member {
		t.Errorf("the box that the stick came to: %+v", s)
	}
	w := httptest.NewRecorder()
	b.mustering(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", muster.Path+"?after=3", nil))
	if w.Code != http.StatusOK || w.Body.String() != string(raw) {
		t.Errorf("asked for the roster: %d, %d bytes", w.Code, w.Body.Len())
	}
}
