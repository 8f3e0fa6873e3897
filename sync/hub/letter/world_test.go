// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// world is Mail over a real spool, two boxes, and a centre that fails as central servers do, under a clock that waits for nobody.
type world struct {
	*testing.T
	spool  *breakable
	centre *centre
	mail   *Mail
	boxes  map[string]federation.Local
	gone   map[string]bool // revoked
	config func(*Config)
	stop   func()
	told   map[string]int
	mu     sync.Mutex
	n      map[string]int64
}

// inWorld runs a story.
func inWorld(t *testing.T, story func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		kept, err := spool.Open(filepath.Join(t.TempDir(), "spool.db"), spool.Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, kept)
		w.start("node1")
		story(w)
		w.stop()
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
}

// newWorld is one in which no hub runs yet.
func newWorld(t *testing.T, kept spool.Spool) *world {
	t.Helper()
	w := &world{T: t, spool: &breakable{Spool: kept}, centre: &centre{t: t, txns: map[string]string{}, hidden: map[string]int{}}, boxes: testBoxes(),
		gone: map[string]bool{}, told: map[string]int{}, n: map[string]int64{}}
	for name := range w.boxes {
		if err := kept.PutBox(t.Context(), spool.Box{Server: name, ID: name, Mode: spool.Sealed, Added: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// testBoxes are the boxes of all worlds, with the same keys in each process.
func testBoxes() map[string]federation.Local {
	boxes := map[string]federation.Local{}
	for _, name := range []string{"box1.test", "box2.test"} {
		boxes[name] = federation.Local{Server: name, Key: event.Key{ID: "ed25519:k", Private: ed25519.NewKeyFromSeed([]byte(strings.Repeat(name[3:4], 32)))}}
	}
	return boxes
}

// testConfig is what all hubs of a test have in common.
func testConfig(boxes map[string]federation.Local) Config {
	return Config{
		Local: federation.Local{Server: "hub.test", Key: event.Key{ID: "ed25519:h", Private: ed25519.NewKeyFromSeed(make([]byte, 32))}},
		Key: func(box, id string) ed25519.PublicKey {
			l, ok := boxes[box]
			if !ok || id != l.Key.ID {
				return nil
			}
			return l.Key.Private.Public().(ed25519.PublicKey)
		},
		Boxes:   func(s string) (ours, good bool) { _, ok := boxes[s]; return ok, ok },
		Changed: func(string) {},
	}
}

// start begins again over the same spool, as after a kill.
func (w *world) start(node string) {
	w.Helper()
	if w.stop != nil {
		w.stop()
	}
	c := testConfig(w.boxes)
	c.Spool, c.Node, c.Lease, c.Send, c.Log = w.spool, node, 30*time.Second, w.centre.send, slog.New(slog.NewTextHandler(w.Output(), nil))
	c.Boxes = func(s string) (bool, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		_, ok := w.boxes[s]
		return ok, ok && !w.gone[s]
	}
	c.Changed = func(box string) {
		w.mu.Lock()
		w.told[box]++
		w.mu.Unlock()
	}
	if w.config != nil {
		w.config(&c)
	}
	w.mail = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // stop waits for it
		defer close(done)
		_ = w.mail.Run(ctx)
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
}

// revoke turns a box away, or takes that back.
func (w *world) revoke(box string, gone bool) {
	w.mu.Lock()
	w.gone[box] = gone
	w.mu.Unlock()
}

// letter makes a letter with events; each is "ROOM/NAME". What begins with "edu" makes one of EDUs alone.
func (w *world) letter(box, to string, events ...string) api.Letter {
	w.Helper()
	w.n[box]++
	n := w.n[box]
	epoch, err := w.spool.Epoch(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	l := api.Letter{To: to, Series: "s", N: n, Epoch: epoch}
	var pdus, edus []any
	last := map[string]string{}
	for _, e := range events {
		room, _, ok := strings.Cut(e, "/")
		if !ok {
			edus = append(edus, map[string]string{"name": e})
			continue
		}
		pdus = append(pdus, map[string]any{"room_id": "!" + room, "name": "$" + e, "prev_events": []string{}})
		l.Events = append(l.Events, "$"+e)
		last["!"+room] = "$" + e
	}
	if l.Body, err = json.Marshal(map[string]any{"origin": box, "pdus": append([]any{}, pdus...), "edus": append([]any{}, edus...)}); err != nil {
		w.Fatal(err)
	}
	l.Once = len(pdus) == 0
	ways := 3
	if l.Once {
		ways = 1
	}
	for i := range ways {
		l.Sends = append(l.Sends, w.sign(box, to, "PUT", fmt.Sprintf("/_matrix/federation/v1/send/%s.%d.%d", box, n, i), l.Body))
	}
	for room, id := range last {
		l.Asks = append(l.Asks, api.Ask{Signed: w.sign(box, to, "GET", "/_matrix/federation/v1/event/"+strings.ReplaceAll(id, "/", "%2F"), nil), Room: room, Event: id})
	}
	return l
}

func (w *world) sign(box, to, method, uri string, body []byte) api.Signed {
	w.Helper()
	a, err := federation.SignRequest(w.boxes[box], to, method, uri, body)
	if err != nil {
		w.Fatal(err)
	}
	return api.Signed{URI: uri, Auth: a.String()}
}

// take leaves a letter.
func (w *world) take(box string, l api.Letter) error {
	w.Helper()
	raw, err := l.Append(nil)
	if err != nil {
		w.Fatal(err)
	}
	return w.mail.Take(w.Context(), box, raw)
}

func (w *world) leave(box, to string, events ...string) api.Letter {
	w.Helper()
	l := w.letter(box, to, events...)
	if err := w.take(box, l); err != nil {
		w.Fatal(err)
	}
	return l
}

// standing is what a box hears of its letters for a server.
func (w *world) standing(box, to string) api.Standing {
	w.Helper()
	all, err := w.mail.Standing(w.Context(), box)
	if err != nil {
		w.Fatal(err)
	}
	for _, s := range all.To {
		if s.To == to {
			return s
		}
	}
	return api.Standing{}
}

// after lets time pass and everybody come to rest.
func (w *world) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// done checks how far the letters of a box have come.
func (w *world) done(box, to string, n, waiting int64) {
	w.Helper()
	s := w.standing(box, to)
	got := int64(0)
	if len(s.Done) > 0 {
		got = s.Done[len(s.Done)-1].N
	}
	if got != n || s.Waiting != waiting {
		w.Errorf("%s to %s: done up to %d, %d wait (%s); want %d, %d", box, to, got, s.Waiting, s.Trouble, n, waiting)
	}
}

// breakable is a spool that fails in two ways: nothing happened, or it happened and nobody was told.
type breakable struct {
	spool.Spool
	mu            sync.Mutex
	fails, unsaid string // the act that does, once
}

func (b *breakable) breaks(what string, do func() error) error {
	b.mu.Lock()
	fails, unsaid := b.fails == what, b.unsaid == what
	if fails {
		b.fails = ""
	}
	if unsaid {
		b.unsaid = ""
	}
	b.mu.Unlock()
	if fails {
		return errors.New("input/output error")
	}
	err := do()
	if unsaid && err == nil {
		return spool.ErrAway
	}
	return err
}

func (b *breakable) Settle(ctx context.Context, q spool.Queue, through int64, now time.Time, l spool.Lease) error {
	return b.breaks("settle", func() error { return b.Spool.Settle(ctx, q, through, now, l) })
}

func (b *breakable) Next(ctx context.Context, q spool.Queue, after int64, most int) (rs []spool.Request, err error) {
	err = b.breaks("next", func() (err error) { rs, err = b.Spool.Next(ctx, q, after, most); return err })
	return rs, err
}

func (b *breakable) Amend(ctx context.Context, box, kind, key string, change func([]byte) ([]byte, error)) error {
	return b.breaks("amend", func() error { return b.Spool.Amend(ctx, box, kind, key, change) })
}

// centre is a central server: it takes a transaction once, knows events later, and fails as told.
type centre struct {
	t  *testing.T
	mu sync.Mutex

	down   bool
	dead   string         // so begin the names of servers that do not answer, after a while
	trying int            // to reach those
	tried  int            // at most at once since this was set
	atDead int            // how often in all
	status int            // of each PUT, in place of 200
	askIs  int            // of each GET
	drops  int            // so many transactions are answered 200 and forgotten
	slow   time.Duration  // until an event is known
	hidden map[string]int // events that are dropped so often, "from hub" too
	denies string         // events of which it says that they are not for it

	txns   map[string]string // by id: who sent it
	sent   []string          // each PUT, "ORIGIN ID"
	asked  int
	events []string // in the order in which they were taken
	edus   []string
	at     map[string]time.Time
	most   int // unconfirmed of a room
	open   map[string]int
}

func (c *centre) send(_ context.Context, to, method, uri, auth string, body []byte) (int, []byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != "" && strings.HasPrefix(to, c.dead) {
		c.trying++
		c.tried, c.atDead = max(c.tried, c.trying), c.atDead+1
		c.mu.Unlock()
		time.Sleep(15 * time.Second)
		c.mu.Lock()
		c.trying--
		return 0, nil, errors.New("no route to host")
	}
	if c.at == nil {
		c.at, c.open = map[string]time.Time{}, map[string]int{}
	}
	a, err := federation.ParseAuthorization(auth)
	if err != nil || a.Destination != to {
		c.t.Errorf("signed %q for %s: %v", auth, to, err)
	}
	id := uri[strings.LastIndexByte(uri, '/')+1:]
	if method == "GET" {
		c.asked++
	} else {
		c.sent = append(c.sent, a.Origin+" "+id)
	}
	if c.down {
		return 0, nil, errors.New("connection refused")
	}
	if method == "GET" {
		return c.event("$" + strings.ReplaceAll(strings.TrimPrefix(id, "$"), "%2F", "/"))
	}
	if c.status != 0 {
		return c.status, []byte(`{"errcode":"M_X"}`), nil
	}
	return 200, c.transaction(a.Origin, id, body), nil
}

func (c *centre) event(id string) (int, []byte, error) {
	if c.askIs != 0 {
		return c.askIs, nil, nil
	}
	at, ok := c.at[id]
	if !ok || time.Since(at) < c.slow {
		return 404, nil, nil
	}
	delete(c.open, room(id))
	return 200, []byte(`{}`), nil
}

func room(id string) string { r, _, _ := strings.Cut(id, "/"); return r }

func (c *centre) transaction(origin, id string, body []byte) []byte {
	var t struct {
		PDUs []struct{ Name string }
		EDUs []struct{ Name string }
	}
	if err := json.Unmarshal(body, &t); err != nil {
		c.t.Error(err)
	}
	answer := map[string]map[string]string{}
	_, seen := c.txns[id]
	c.txns[id] = origin
	drop := c.drops > 0 && !seen
	if drop {
		c.drops--
	}
	for _, p := range t.PDUs {
		answer[p.Name] = map[string]string{}
		if p.Name == c.denies && origin != "hub.test" {
			answer[p.Name]["error"] = "not for me"
			continue
		}
		if seen || drop {
			continue
		}
		if c.hidden[p.Name] > 0 {
			c.hidden[p.Name]--
			continue
		}
		if !slices.Contains(c.events, p.Name) {
			c.events = append(c.events, p.Name)
			c.at[p.Name] = time.Now()
			c.open[room(p.Name)]++
			c.most = max(c.most, c.open[room(p.Name)])
		}
	}
	if !seen && !drop {
		for _, e := range t.EDUs {
			c.edus = append(c.edus, e.Name)
		}
	}
	raw, err := json.Marshal(map[string]any{"pdus": answer})
	if err != nil {
		c.t.Error(err)
	}
	return raw
}

// has checks what the centre took, in order, and how many transactions it was sent.
func (c *centre) has(events string, sent int) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if got := strings.Join(c.events, " "); got != events || sent >= 0 && len(c.sent) != sent {
		c.t.Errorf("the centre has %q by %d transactions %q; want %q by %d", got, len(c.sent), c.sent, events, sent)
	}
}

func (c *centre) set(f func(c *centre)) {
	c.mu.Lock()
	f(c)
	c.mu.Unlock()
}

// tries counts transactions that were sent, whether they arrived or not.
func (c *centre) tries() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent)
}

// last is the one that was sent last.
func (c *centre) last() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent[len(c.sent)-1]
}
