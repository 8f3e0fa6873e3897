// SPDX-License-Identifier: EUPL-1.2

package replica

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// network is servers in one process. A request of the hub comes to a box over the connection that proves it.
type network struct {
	mu    sync.Mutex
	nodes map[string]*node
	asked []string // by the hub: "box METHOD path"
}

// node is a server: real rooms over a real database, with a door that a test can have lie.
type node struct {
	t      *testing.T
	net    *network
	local  federation.Local
	db     *store.DB
	ring   *federation.KeyRing
	rooms  *room.Rooms
	intake *federation.Intake
	client *federation.Client
	door   http.Handler

	mu   sync.Mutex
	away bool
	lie  http.HandlerFunc // answers in place of the door
}

func local(name string) federation.Local {
	seed := make([]byte, ed25519.SeedSize)
	copy(seed, name)
	return federation.Local{Server: name, Key: event.Key{ID: "ed25519:1", Private: ed25519.NewKeyFromSeed(seed)}}
}

func (n *network) node(t *testing.T, name string) *node {
	t.Helper()
	s := &node{t: t, net: n, local: local(name)}
	var err error
	if s.db, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "box.db"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.db.Close() })
	s.ring = n.ring(s.local, s.db)
	s.rooms = room.New(s.db, room.Identity{Server: name, Key: s.local.Key}, room.Options{OnAppend: func(tx *store.Tx, a room.AppendInfo) error { return s.intake.Appended(tx, a) }})
	s.client = federation.NewClient(federation.ClientConfig{Local: s.local, Transport: n, Ring: s.ring, Rooms: s.rooms})
	s.intake = federation.NewIntake(federation.IntakeConfig{Local: s.local, DB: s.db, Rooms: s.rooms, Client: s.client})
	s.door = federation.NewHandler(federation.HandlerConfig{Locals: federation.Only(s.local), DB: s.db, Ring: s.ring, Rooms: s.rooms, Client: s.client, Intake: s.intake})
	n.nodes[name] = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.intake.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	return s
}

func (n *network) ring(l federation.Local, db *store.DB) *federation.KeyRing {
	return federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(l), DB: db, Fetch: func(_ context.Context, server string) ([]byte, error) {
		other := local(server)
		return federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(other)}).Document(other)
	}})
}

func (n *network) inReach(name string) bool {
	n.mu.Lock()
	s := n.nodes[name]
	n.mu.Unlock()
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.away
}

// RoundTrip takes a request to a node.
func (n *network) RoundTrip(req *http.Request) (*http.Response, error) {
	if !n.inReach(req.URL.Host) {
		return nil, errors.New("out of reach")
	}
	s := n.nodes[req.URL.Host]
	in := httptest.NewRequestWithContext(req.Context(), req.Method, req.URL.RequestURI(), req.Body)
	in.Header, in.Host = req.Header, req.URL.Host
	if a, err := federation.ParseAuthorization(req.Header.Get("Authorization")); err == nil && a.Origin == "hub.test" {
		in = in.WithContext(federation.WithGuest(in.Context(), "hub.test"))
		n.mu.Lock()
		n.asked = append(n.asked, s.local.Server+" "+req.Method+" "+req.URL.Path)
		n.mu.Unlock()
	}
	s.mu.Lock()
	door := s.door
	if s.lie != nil {
		door = s.lie
	}
	s.mu.Unlock()
	w := httptest.NewRecorder()
	door.ServeHTTP(w, in)
	return w.Result(), nil
}

func (n *network) questions() (asked []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	asked, n.asked = n.asked, nil
	return asked
}

func (s *node) setAway(away bool) {
	s.mu.Lock()
	s.away = away
	s.mu.Unlock()
}

func (s *node) lies(f http.HandlerFunc) {
	s.mu.Lock()
	s.lie = f
	s.mu.Unlock()
}

func (s *node) user(name string) event.UserID { return event.UserID("@" + name + ":" + s.local.Server) }

func (s *node) create(version string) event.RoomID {
	s.t.Helper()
	id, err := s.rooms.Create(s.t.Context(), room.CreateRequest{Creator: s.user("anna"), Version: version, Preset: "public_chat"})
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

func (s *node) say(id event.RoomID, user, text string) event.ID {
	s.t.Helper()
	raw, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	if err != nil {
		s.t.Fatal(err)
	}
	e, err := s.rooms.Send(s.t.Context(), room.Draft{Room: id, Sender: s.user(user), Type: "m.room.message", Content: raw})
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *node) set(id event.RoomID, user, typ, content string) event.ID {
	s.t.Helper()
	key := ""
	e, err := s.rooms.Send(s.t.Context(), room.Draft{Room: id, Sender: s.user(user), Type: typ, StateKey: &key, Content: json.RawMessage(content)})
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *node) join(id event.RoomID, user, through string) {
	s.t.Helper()
	if _, err := s.client.Join(s.t.Context(), string(id), s.user(user), []string{through}, "", nil); err != nil {
		s.t.Fatal(err)
	}
	if err := s.rooms.AwaitWhole(s.t.Context(), id); err != nil {
		s.t.Fatal(err)
	}
}

func (s *node) pdu(id event.ID) *event.PDU {
	s.t.Helper()
	p, _, err := s.rooms.Event(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// transaction holds events of a node.
func (s *node) transaction(ids ...event.ID) []byte {
	s.t.Helper()
	var pdus []json.RawMessage
	for _, id := range ids {
		pdus = append(pdus, s.pdu(id).JSON())
	}
	raw, err := json.Marshal(map[string]any{"origin": s.local.Server, "origin_server_ts": 1, "pdus": pdus})
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// takes has a node take what another one sends.
func (s *node) takes(from *node, ids ...event.ID) {
	s.t.Helper()
	for _, id := range ids {
		if err := s.intake.Take(s.t.Context(), from.local.Server, from.pdu(id)); err != nil {
			s.t.Fatal(err)
		}
	}
}

// listing is what a box says of rooms.
func (s *node) listing(all bool, ids ...event.RoomID) api.Rooms {
	s.t.Helper()
	l := api.Rooms{All: all}
	for _, id := range ids {
		v, err := s.rooms.Version(s.t.Context(), id)
		if err != nil {
			s.t.Fatal(err)
		}
		tips, err := s.rooms.Extremities(s.t.Context(), id)
		if err != nil {
			s.t.Fatal(err)
		}
		r := api.Room{ID: string(id), Version: v.ID}
		for _, t := range tips {
			r.Tips = append(r.Tips, string(t))
		}
		l.Rooms = append(l.Rooms, r)
	}
	return l
}

// memory is a Memory.
type memory struct {
	mu sync.Mutex
	of map[string][]byte
}

func (m *memory) Deposit(_ context.Context, box, kind, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of[box+" "+kind+" "+key] = value
	return nil
}

func (m *memory) Deposited(_ context.Context, box, kind, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[box+" "+kind+" "+key], nil
}

// hub is a replica that runs, over what the one before it left.
type hub struct {
	*Replica
	t      *testing.T
	net    *network
	dir    string
	memory *memory
	limits Limits
	boxes  []string
	stop   func()

	mu   sync.Mutex
	late time.Duration // that the clock is ahead
	free int64
}

func newHub(t *testing.T, n *network, limits Limits, boxes ...string) *hub {
	t.Helper()
	h := &hub{t: t, net: n, dir: t.TempDir(), memory: &memory{of: map[string][]byte{}}, limits: limits, boxes: boxes, free: 1 << 40}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *hub) now() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Add(h.late)
}

func (h *hub) start() {
	h.t.Helper()
	db, err := store.Open(h.t.Context(), filepath.Join(h.dir, "hallig.db"), store.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	l := local("hub.test")
	h.limits.Settle = time.Millisecond
	h.Replica, err = Open(h.t.Context(), Config{DB: db, Local: l, Ring: h.net.ring(l, db), Boxes: h.net, InReach: h.net.inReach, Memory: h.memory, Limits: h.limits, Now: h.now,
		Free: func() (int64, error) { h.mu.Lock(); defer h.mu.Unlock(); return h.free, nil },
		Log:  slog.New(slog.NewTextHandler(h.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}, h.boxes)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { h.Run(ctx); close(done) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		if err := db.Close(); err != nil {
			h.t.Error(err)
		}
	})
}

func (h *hub) restart() {
	h.stop()
	h.start()
}

func (h *hub) told(box *node, l api.Rooms) {
	h.t.Helper()
	if err := h.Told(h.t.Context(), box.local.Server, l); err != nil {
		h.t.Fatal(err)
	}
}

func (h *hub) await(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("waited in vain for: %s; %+v", what, h.Stats())
		}
	}
}

// settled waits until so many rooms are here, as far as boxes have said.
func (h *hub) settled(rooms int) {
	h.t.Helper()
	h.await(fmt.Sprintf("%d rooms", rooms), func() bool { s := h.Stats(); return s.Rooms == rooms && s.Behind == 0 })
}

// ask puts a question to a box that is away.
func (h *hub) ask(origin, box, method, uri, body string) (int, string) {
	h.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(h.t.Context(), method, uri, bytes.NewReader([]byte(body)))
	if !h.Answer(w, r, federation.Question{Local: box, Origin: origin, Body: []byte(body)}) {
		h.t.Fatalf("%s %s: no question about a room", method, uri)
	}
	return w.Code, w.Body.String()
}

func (h *hub) event(origin, box string, id event.ID) int {
	h.t.Helper()
	status, _ := h.ask(origin, box, "GET", "/_matrix/federation/v1/event/"+url.PathEscape(string(id)), "")
	return status
}

func newNetwork() *network { return &network{nodes: map[string]*node{}} }

func sameState(t *testing.T, id event.RoomID, a, b *room.Rooms) bool {
	t.Helper()
	sa, err := a.State(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := b.State(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return maps.Equal(sa, sb)
}
