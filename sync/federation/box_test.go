// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/csapi"
	"hallig/appliance/event"
	"hallig/appliance/feed"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// testBox is a homeserver of ours with the real rooms, accounts and client API, behind TLS and a link that can be cut.
type testBox struct {
	*testing.T
	name     string
	local    Local
	dir      string
	ca       *testpeer.CA
	link     *testpeer.Link
	stop     func()
	post     Post // nil: it has no hub
	db       *store.DB
	rooms    *room.Rooms
	users    *testUsers
	lax      atomic.Bool // asks no policy server about its own users' events
	ring     *KeyRing
	client   *Client
	intake   *Intake
	sender   *Sender
	handler  http.Handler
	url      string // of the client API
	changed  chan struct{}
	boxes    sync.Map // names of paired boxes
	refusals sync.Map // by server and room: the positions for which it told nothing
	seen     *requestLog
	trouble  Trouble
	narrow   atomic.Bool // nothing but a narrow line leads to others
	ahead    chan []Head // what it was told of rooms that are not whole; nil: nobody wants to know
}

func (b *testBox) tellAhead(_ context.Context, _ string, heads []Head) {
	if b.ahead != nil {
		b.ahead <- heads
	}
}

// requestLog notes the requests that other servers made.
type requestLog struct {
	mu   sync.Mutex
	list []string
	next http.Handler
	fail func(r *http.Request) bool // answers 502 instead
}

func (l *requestLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.list = append(l.list, r.Method+" "+r.URL.Path)
	fail, next := l.fail, l.next
	l.mu.Unlock()
	if fail != nil && fail(r) {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	next.ServeHTTP(w, r)
}

func (l *requestLog) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, s := range l.list {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

type testLog struct {
	mu   sync.Mutex
	t    *testing.T
	name string
	over bool
}

func (l *testLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.t.Log(l.name, strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

func newTestBox(t *testing.T, ca *testpeer.CA) *testBox {
	t.Helper()
	link, err := testpeer.NewLink("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(link.Close)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := &testBox{T: t, name: link.Addr(), link: link, ca: ca, dir: t.TempDir(), changed: make(chan struct{}, 1), seen: &requestLog{}}
	b.local = Local{Server: b.name, Key: event.Key{ID: "ed25519:box", Private: private}}
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start makes all parts over the data directory; stop lets go of it.
func (b *testBox) start() {
	b.Helper()
	out := &testLog{t: b.T, name: b.name}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	var err error
	if b.db, err = store.Open(b.Context(), filepath.Join(b.dir, "hallig.db"), store.Options{Reserve: -1, Log: log}); err != nil {
		b.Fatal(err)
	}
	b.db.OnCommit(func(store.Commit) { poke(b.changed) })
	l := b.local
	b.rooms = room.New(b.db, room.Identity{Server: l.Server, Key: l.Key}, room.Options{Log: log,
		OnAppend: func(tx *store.Tx, a room.AppendInfo) error { return b.sender.Appended(tx, a) },
		Vet: func(ctx context.Context, p *event.PDU) (*event.PDU, error) {
			if b.lax.Load() {
				return p, nil
			}
			return b.client.Vet(ctx, p)
		}})
	accounts := account.New(b.db, b.name, account.Options{Log: log, Cost: account.Cost{MemoryKiB: 64, Passes: 1}})
	feeds := feed.New(b.db, b.rooms, feed.Options{Log: log})
	b.users = &testUsers{Accounts: accounts, db: b.db, rooms: b.rooms, feed: feeds}

	pem, err := os.ReadFile(b.ca.File)
	if err != nil {
		b.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	way := NewDiscovery(DiscoveryConfig{Roots: roots, AllowPrivate: true})
	b.ring = NewKeyRing(KeyRingConfig{Locals: Only(l), DB: b.db, Fetch: FetchKeys(way)})
	b.client = NewClient(ClientConfig{Local: l, Transport: way, Ring: b.ring, Rooms: b.rooms, Log: log, Patience: 30 * time.Second,
		Heard: func(server string, ok bool) {
			if ok {
				b.sender.Heard(server)
			}
		}})
	b.intake = NewIntake(IntakeConfig{Local: l, DB: b.db, Rooms: b.rooms, Client: b.client, Log: log, Trouble: &b.trouble})
	b.sender = NewSender(SenderConfig{Local: l, DB: b.db, Rooms: b.rooms, Client: b.client, Intake: b.intake, Log: log, Probe: 2 * time.Second, Post: b.post, Narrow: func(string) bool { return b.narrow.Load() }, Ahead: b.tellAhead,
		Barred: func(_ context.Context, server string, room event.RoomID, first, last int64) error {
			b.refusals.Store(server+" "+string(room), [2]int64{first, last})
			return nil
		},
		IsBox: func(server string) bool { _, ok := b.boxes.Load(server); return ok }})
	b.handler = NewHandler(HandlerConfig{Locals: Only(l), DB: b.db, Ring: b.ring, Rooms: b.rooms, Client: b.client, Intake: b.intake, Users: b.users, Log: log, Trouble: &b.trouble,
		Heard: func(server string) { b.ring.Reachable(server); b.sender.Heard(server) }})
	b.seen.mu.Lock()
	b.seen.next = b.handler
	b.seen.mu.Unlock()

	clients := csapi.New(csapi.Config{ServerName: b.name, DB: b.db, Rooms: b.rooms, Feed: feeds, Accounts: accounts, Remote: b.client, Log: log,
		OpenRegistration: true, Limits: csapi.Limits{Off: true}})
	clientServer := httptest.NewServer(clients)
	b.url = clientServer.URL
	fed := b.serve()
	ctx, stop := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	loops.Go(func() { _ = b.intake.Run(ctx) })
	loops.Go(func() { _ = b.sender.Run(ctx) })
	loops.Go(func() { clients.HandOnInvites(ctx) })
	b.stop = sync.OnceFunc(func() {
		stop()
		loops.Wait()
		feeds.Close()
		clientServer.CloseClientConnections()
		clientServer.Close()
		clients.Close()
		fed.Close()
		way.CloseIdle()
		if err := b.db.Close(); err != nil {
			b.Error(err)
		}
		out.mu.Lock()
		out.over = true
		out.mu.Unlock()
	})
}

// serve opens the federation port behind the link.
func (b *testBox) serve() *http.Server {
	cert, key := filepath.Join(b.dir, "s.crt"), filepath.Join(b.dir, "s.key")
	if err := b.ca.Issue("127.0.0.1", cert, key); err != nil {
		b.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		b.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.link.Lead(l.Addr().String())
	srv := &http.Server{Handler: b.seen, TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}}, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go srv.ServeTLS(l, "", "") // ends with Close
	return srv
}

// restart is a power cycle; clients go on at the new address.
func (b *testBox) restart(clients ...*matrixclient.Client) {
	b.Helper()
	b.stop()
	b.start()
	for _, c := range clients {
		c.Base = b.url
	}
}

// user registers somebody.
func (b *testBox) user(name string) *matrixclient.Client {
	b.Helper()
	c := matrixclient.New(b.url)
	if err := c.Register(b.Context(), name, "a long enough password", ""); err != nil {
		b.Fatal(err)
	}
	return c
}

// await waits until cond holds, looking again after each commit.
func (b *testBox) await(what string, cond func() bool) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 60*time.Second)
	defer cancel()
	for !cond() {
		select {
		case <-b.changed:
		case <-ctx.Done():
			b.Fatalf("%s: waited in vain for: %s", b.name, what)
		}
	}
}

// has says whether all events are in the room's live timeline.
func (b *testBox) has(id string, events []string) bool {
	b.Helper()
	return len(b.lacks(id, events)) == 0
}

func (b *testBox) lacks(_ string, events []string) (lack []string) {
	b.Helper()
	for _, e := range events {
		_, meta, err := b.rooms.Event(b.Context(), event.ID(e))
		if err != nil || meta.Pos <= 0 {
			lack = append(lack, e)
		}
	}
	return lack
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// testUsers answers from the real accounts.
type testUsers struct {
	*account.Accounts
	db    *store.DB
	rooms *room.Rooms
	feed  *feed.Feed

	mu   sync.Mutex
	edus []string
	last string // content of the newest
}

func (u *testUsers) Profile(ctx context.Context, user event.UserID, _ string) (json.RawMessage, error) {
	p, err := u.Accounts.Profile(ctx, user)
	if err != nil {
		return nil, err
	}
	return json.Marshal(p)
}

func (u *testUsers) Devices(ctx context.Context, user event.UserID) (json.RawMessage, error) {
	return u.UserDevices(ctx, user)
}

func (u *testUsers) QueryKeys(ctx context.Context, req json.RawMessage) (json.RawMessage, error) {
	var in struct {
		DeviceKeys map[event.UserID][]string `json:"device_keys"`
	}
	if err := json.Unmarshal(req, &in); err != nil {
		return nil, err
	}
	out, _, err := u.Accounts.QueryKeys(ctx, "", in.DeviceKeys)
	if err != nil {
		return nil, err
	}
	return json.Marshal(out)
}

func (u *testUsers) ClaimKeys(ctx context.Context, req json.RawMessage) (json.RawMessage, error) {
	var in struct {
		OneTimeKeys map[event.UserID]map[string]string `json:"one_time_keys"`
	}
	if err := json.Unmarshal(req, &in); err != nil {
		return nil, err
	}
	out, err := u.Accounts.ClaimKeys(ctx, in.OneTimeKeys)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"one_time_keys": out})
}

func (u *testUsers) EDU(ctx context.Context, origin, kind string, content json.RawMessage) error {
	u.mu.Lock()
	u.edus, u.last = append(u.edus, kind), string(content)
	u.mu.Unlock()
	switch kind {
	case "m.direct_to_device":
		return u.ReceiveToDevice(ctx, origin, content)
	case "m.receipt":
		return u.ReceiveReceipts(ctx, origin, content)
	}
	return nil
}

func (u *testUsers) Alias(ctx context.Context, alias string) (id event.RoomID, servers []string, err error) {
	err = u.db.View(ctx, func(r *store.Read) (err error) {
		id, _, err = r.Alias(alias)
		return err
	})
	if err == nil && id == "" {
		err = notFound("no such alias")
	}
	if err == nil {
		servers, err = u.rooms.Servers(ctx, id)
	}
	return id, servers, err
}

func (u *testUsers) PublicRooms(context.Context, string, json.RawMessage) (json.RawMessage, error) {
	return json.RawMessage(`{"chunk":[],"total_room_count_estimate":0}`), nil
}

func (u *testUsers) Hierarchy(context.Context, event.RoomID, string, bool) (json.RawMessage, error) {
	return json.RawMessage(`{"room":{},"children":[]}`), nil
}

func (u *testUsers) OpenID(context.Context, string, string) (event.UserID, error) {
	return "", notFound("none")
}
