// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/sync/hub"
	"hallig/sync/hub/spool"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
)

// asHub makes the test's program the hub itself, so that it can be killed.
const asHub = "HALLIG_TEST_HUB"

func TestMain(m *testing.M) {
	if os.Getenv(asHub) != "" {
		main()
	}
	if dir := os.Getenv(asBox); dir != "" {
		os.Exit(serveBox(dir))
	}
	os.Exit(m.Run())
}

func TestVerbs(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{nil, 0, "hallig-hub serve"},
		{[]string{"nonsense"}, 2, "no verb"},
		{[]string{"revoke", "box1.test", "--data", t.TempDir()}, 2, "--reason"},
		{[]string{"boxes", "a", "--data", t.TempDir()}, 2, "not expected"},
		{[]string{"status", "--data", t.TempDir()}, 1, "no hub is running"},
		{[]string{"token", "--data", t.TempDir()}, 1, "no hub is running"},
		{[]string{"policy", "--data", t.TempDir()}, 1, "no hub is running"},
		{[]string{"policy", "get", "--data", t.TempDir()}, 2, "set FILE"},
		{[]string{"policy", "set", "/nonexistent", "--data", t.TempDir()}, 1, "/nonexistent"},
		{[]string{"update", "--data", t.TempDir()}, 1, "no hub is running"},
		{[]string{"update", "add", "--data", t.TempDir()}, 2, "add FILE"},
		{[]string{"update", "roll", "1.2.0", "--data", t.TempDir()}, 2, "--share"},
		{[]string{"update", "roll", "1.2.0", "--share", "0", "--data", t.TempDir()}, 1, "no hub is running"},
		{[]string{"update", "stop", "1.2.0", "--share", "5", "--reason", "x", "--data", t.TempDir()}, 2, "--reason"},
		{[]string{"update", "stop", "1.2.0", "--data", t.TempDir()}, 2, "--reason"},
		{[]string{"update", "remove", "1.2.0", "--box", "a", "--data", t.TempDir()}, 2, "neither"},
		{[]string{"courier", "export", "--data", t.TempDir()}, 2, "where the stick is mounted"},
		{[]string{"courier", "import", "--box", "a", "/x", "--data", t.TempDir()}, 2, "where the stick is mounted"},
		{[]string{"courier", "burn", "/x", "--data", t.TempDir()}, 2, "export, import or status"},
		{[]string{"courier", "export", "/x", "--data", t.TempDir()}, 1, "no hub is running"},
		{[]string{"serve", "--data", t.TempDir(), "--name", "hub.test"}, 1, "--cert FILE"},
		{[]string{"serve", "--data", t.TempDir(), "--cert", "x"}, 1, "come together"},
		{[]string{"restored", "--data", t.TempDir()}, 1, "put the copy back first"},
		{[]string{"restored", "--data", withSpool(t)}, 0, "Start the hub now"},
	} {
		var out strings.Builder
		if code := run(t.Context(), tt.args, &out, &out); code != tt.code || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%q: %d, %s; want %d and %q", tt.args, code, out.String(), tt.code, tt.want)
		}
	}
}

// The ways to a box are words.
func TestWay(t *testing.T) {
	for name, want := range map[string]string{"p2p": "p2p", "radio:b.example:8448": "radio through b.example:8448", "relay:b.example": "boxes in between, the last of them b.example", "net:b.example": "a local network through b.example"} {
		if got := way(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// withSpool gives a hub's directory with a spool in it.
func withSpool(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	s, err := spool.Open(filepath.Join(dir, "spool.db"), spool.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A hub with a database waits for it, and says so.
func TestWaitsForDatabase(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "hub.json"), []byte(`{"database":"postgres://hub@/hub?host=`+dir+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	said := make(chan struct{})
	code := make(chan int)
	var out strings.Builder
	go func() {
		code <- run(ctx, []string{"serve", "--data", dir, "--name", "hub.test"}, &out, watchFor{"waits for its database", said})
	}()
	select {
	case <-said:
	case <-time.After(time.Minute):
		t.Error("no word of a database that is away")
	}
	cancel()
	if c := <-code; c != 1 {
		t.Errorf("exit status %d", c)
	}
}

// watchFor closes a channel at a word.
type watchFor struct {
	word string
	said chan struct{}
}

func (w watchFor) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.word) {
		close(w.said)
	}
	return len(b), nil
}

// central is a server that nobody here wrote.
type central struct {
	name, client, secret string
	ca                   *testpeer.CA
	away, back           func() error
	untracked            bool // it shows the keys of people with whom it shares no room
	forgets              bool // it gives messages between devices out twice when a connection ends over their transaction, as it notes a transaction when it is through with it
}

// dendrite is the one of the tests.
func dendrite(t *testing.T) central {
	t.Helper()
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p, err := testpeer.Start(t.Context(), testpeer.Options{Dir: t.TempDir(), CA: ca})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("the central server's log ends:\n" + p.LogTail(6000))
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return central{name: p.Name, client: p.Client, secret: p.Secret, ca: ca, forgets: true, away: p.Stop, back: func() error { return p.Restart(t.Context()) }}
}

// synapse is one that somebody else has started: HALLIG_SYNAPSE names a file of KEY=VALUE lines with SERVER_NAME, CLIENT_URL, SHARED_SECRET, CA_FILE (its key beside it) and CTL_URL, where
// POST /down and /up cut it off from other servers.
func synapse(t *testing.T) central {
	t.Helper()
	file := os.Getenv("HALLIG_SYNAPSE")
	if file == "" {
		t.Skip("NOT TRIED with a Synapse: HALLIG_SYNAPSE names no file that says where one is")
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			at[k] = v
		}
	}
	control := func(path string) func() error {
		return func() error {
			resp, err := http.Post(at["CTL_URL"]+path, "", nil)
			if err != nil {
				return err
			}
			return resp.Body.Close()
		}
	}
	return central{name: at["SERVER_NAME"], client: at["CLIENT_URL"], secret: at["SHARED_SECRET"],
		ca: &testpeer.CA{File: at["CA_FILE"], KeyFile: strings.TrimSuffix(at["CA_FILE"], ".crt") + ".key"}, away: control("/down"), back: control("/up"), untracked: true}
}

// home is a central server, a hub that is a process of its own, and a box that only the hub reaches.
type home struct {
	*testing.T
	central
	mode    string // in which the hub serves the box
	hubDir  string
	world   string // where others find the hub, and so the box's name
	listen  string // where the hub answers them
	meeting string // where the box finds the hub
	hub     *exec.Cmd
	boxDir  string
	box     *appliance.Box
	noLine  bool // the box has no libp2p: nothing leads to the hub
	stopBox func()
	change  func(*appliance.Config) // of the box's configuration; nil: it stays
	anna    *matrixclient.Client    // of the box
	carl    *matrixclient.Client    // of the central server
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := testport.Take()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

func newHome(t *testing.T, c central, mode string) *home {
	t.Helper()
	h := &home{T: t, central: c, mode: mode, hubDir: t.TempDir(), boxDir: t.TempDir(), world: freeAddr(t), meeting: freeAddr(t)}
	h.listen = h.world
	h.configure(h.hubDir, h.meeting, nil)
	h.open()
	return h
}

// configure writes hub.json, with more entries.
func (h *home) configure(dir, meeting string, more map[string]any) {
	h.Helper()
	_, port, _ := net.SplitHostPort(meeting)
	config := map[string]any{"ca_file": h.ca.File, "private_addresses": true, "page": "127.0.0.1:0", "p2p": map[string]any{"listen": []string{"/ip4/127.0.0.1/tcp/" + port}}}
	maps.Copy(config, more)
	raw, err := json.Marshal(config)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "hub.json"), raw, 0o600)
	}
	if err != nil {
		h.Fatal(err)
	}
}

// open starts the hub and the box, pairs them, and lets people in.
func (h *home) open() {
	h.Helper()
	t := h.T
	h.startHub()
	t.Cleanup(func() { h.killHub() })
	h.startBox()
	t.Cleanup(func() { h.stopBox() })
	h.pair()
	carl := fmt.Sprintf("carl%d", time.Now().UnixNano()) // a central server may outlive the test
	h.anna, h.carl = matrixclient.New(h.box.URL()), matrixclient.New(h.client)
	if err := errors.Join(h.anna.Register(t.Context(), "anna", "a long enough password", ""),
		h.carl.RegisterShared(t.Context(), h.secret, carl, "a long enough password", false)); err != nil {
		t.Fatal(err)
	}
}

// talk is a room in which anna and carl have written to each other, and what each of them sees from then on.
func (h *home) talk() (room string, anna, carl *reader) {
	h.Helper()
	ctx, alias := h.Context(), fmt.Sprintf("lage%d", time.Now().UnixNano())
	room, err := h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Lage", Alias: alias})
	if err != nil {
		h.Fatal(err)
	}
	if _, err := h.anna.Join(ctx, "#"+alias+":"+h.name); err != nil {
		h.Fatal("join through the hub: ", err)
	}
	anna, carl = h.reader(h.anna), h.reader(h.carl)
	carl.sees("talk", h.say(h.anna, room, 3, "von der Box")...)
	anna.sees("talk", h.say(h.carl, room, 3, "von der Zentrale")...)
	return room, anna, carl
}

// startHub starts the process and waits until it answers.
func (h *home) startHub() {
	h.Helper()
	h.hub = h.hubProcess(h.hubDir, h.listen)
	h.await("the hub to answer", func() bool { _, err := h.hubStatus(); return err == nil })
}

// hubProcess starts one.
func (h *home) hubProcess(dir, listen string) *exec.Cmd {
	h.Helper()
	cmd := exec.Command(os.Args[0], "serve", "--data", dir, "--name", "hub.test", "--listen", listen, "--ca", h.ca.File, "--ca-key", h.ca.KeyFile, "--verbose")
	cmd.Env = append(os.Environ(), asHub+"=1")
	cmd.Stderr = prefixed{h.T, "hub"}
	if err := cmd.Start(); err != nil {
		h.Fatal(err)
	}
	return cmd
}

// killHub is kill -9.
func (h *home) killHub() {
	_ = h.hub.Process.Kill()
	_ = h.hub.Wait() // it was killed
}

type prefixed struct {
	t    *testing.T
	name string
}

func (p prefixed) Write(b []byte) (int, error) {
	fmt.Fprintf(p.t.Output(), "%s: %s", p.name, b)
	return len(b), nil
}

func (h *home) hubStatus() (s hub.Status, err error) {
	err = hub.Ask(h.Context(), h.hubDir, "GET", "/status", nil, &s)
	return s, err
}

func (h *home) boxConfig() appliance.Config {
	return appliance.Config{Data: h.boxDir, ServerName: h.world, Listen: "127.0.0.1:0", OpenRegistration: true,
		P2P: appliance.P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true}, Hub: appliance.HubConfig{Server: "hub.test", Mode: h.mode}}
}

func (h *home) boxLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(prefixed{h.T, "box"}, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// startBox opens the box over its data directory. It has no federation port, trusts no certificate of the central server and may not go to its address: only the hub leads there.
func (h *home) startBox() {
	h.Helper()
	cfg := h.boxConfig()
	cfg.P2P.Off = h.noLine
	if h.change != nil {
		h.change(&cfg)
	}
	box, err := appliance.Open(h.Context(), cfg, h.boxLog())
	if err != nil {
		h.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- box.Run(ctx) }() // stopBox waits for it
	h.box = box
	h.stopBox = sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, box.Close()); err != nil {
			h.Error(err)
		}
	})
	if h.anna != nil {
		h.anna.Base = box.URL()
	}
}

func (h *home) boxStatus() (s admin.Status) {
	h.Helper()
	if err := appliance.Ask(h.Context(), h.boxDir, "GET", "/status", nil, &s); err != nil {
		h.Fatal(err)
	}
	return s
}

// pair takes the hub's code on the box, as an operator does.
func (h *home) pair() {
	h.Helper()
	if s := h.boxStatus(); s.Hub == nil || s.Hub.Paired {
		h.Errorf("before the pairing the box says of its hub: %+v", s.Hub)
	}
	var code hub.Code
	if err := hub.Ask(h.Context(), h.hubDir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		h.Fatal(err)
	}
	if err := appliance.Ask(h.Context(), h.boxDir, "POST", "/pair/take", map[string]string{"Code": code.Code, "Address": h.meeting}, nil); err != nil {
		h.Fatal(err)
	}
	h.await("the contact", func() bool {
		s := h.boxStatus()
		return s.Hub.InReach && !s.Hub.Heard.IsZero() && s.Hub.Mode == h.mode
	})
}

func (h *home) await(what string, cond func() bool) {
	h.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			h.Fatalf("waited in vain for: %s", what)
		}
	}
}

// reader follows a room as a client does, and counts.
type reader struct {
	h        *home
	c        *matrixclient.Client
	since    string
	seen     map[string]int
	order    map[string]int // when it was shown first, among all
	whispers map[string]int // to-device messages: nobody can ask for them again
	bodies   []string
}

// reads waits until something was said.
func (r *reader) reads(what string) {
	r.h.Helper()
	r.h.await(what, func() bool {
		r.look()
		return slices.ContainsFunc(r.bodies, func(b string) bool { return strings.Contains(b, what) })
	})
}

func (h *home) reader(c *matrixclient.Client) *reader {
	return &reader{h: h, c: c, seen: map[string]int{}, order: map[string]int{}, whispers: map[string]int{}}
}

// sees waits until all events have been shown, each once, as long as more and more are: how fast the servers are depends on the machine.
func (r *reader) sees(what string, ids ...string) {
	r.h.Helper()
	const still = 3 * time.Minute
	began := time.Now()
	for end, least := began.Add(still), len(ids); ; {
		lack := 0
		for _, id := range ids {
			if r.seen[id] == 0 {
				lack++
			}
		}
		if lack == 0 {
			break
		}
		if lack < least {
			end, least = time.Now().Add(still), lack
		}
		if time.Now().After(end) {
			r.h.Fatalf("%s: %s does not see %d of %d", what, r.c.UserID, lack, len(ids))
		}
		r.look()
	}
	r.h.Logf("%s: %s sees all %d after %s", what, r.c.UserID, len(ids), time.Since(began).Round(10*time.Millisecond))
}

// look asks once what is new.
func (r *reader) look() {
	r.h.Helper()
	s, err := r.c.Sync(r.h.Context(), matrixclient.SyncOptions{Since: r.since, Timeout: 500 * time.Millisecond, Filter: `{"room":{"timeline":{"limit":1000}}}`})
	if err != nil {
		time.Sleep(100 * time.Millisecond) // it is being started
		return
	}
	r.since = s.NextBatch
	for _, e := range s.ToDevice.Events {
		r.whispers[string(e.Content)]++
	}
	for id, room := range s.Rooms.Join {
		for _, e := range room.Timeline.Events {
			if r.order[e.ID] == 0 {
				r.order[e.ID] = len(r.order) + 1
			}
			if r.seen[e.ID]++; r.seen[e.ID] > 1 {
				r.h.Errorf("%s was shown %s in %s twice", r.c.UserID, e.ID, id)
			}
			var c struct{ Body string }
			if json.Unmarshal(e.Content, &c) == nil {
				r.bodies = append(r.bodies, c.Body)
			}
		}
	}
}

func (h *home) say(c *matrixclient.Client, room string, n int, what string) (ids []string) {
	h.Helper()
	for i := range n {
		id, err := c.SendText(h.Context(), room, fmt.Sprintf("%s %d", what, i))
		if err != nil {
			h.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// whisper sends a message to anna's devices.
func (h *home) whisper(what string) {
	h.Helper()
	path := matrixclient.Path("sendToDevice", "org.hallig.test", "w"+what)
	if err := h.carl.Do(h.Context(), "PUT", path, map[string]any{"messages": map[string]any{h.anna.UserID: map[string]any{h.anna.DeviceID: map[string]string{"n": what}}}}, nil); err != nil {
		h.Fatal(err)
	}
}

// uploadKeys gives the keys of somebody's device, n of them to be used once, and says when.
func (h *home) uploadKeys(c *matrixclient.Client, n int) time.Time {
	h.Helper()
	one := map[string]any{}
	for i := range n {
		one[fmt.Sprintf("signed_curve25519:K%02d", i)] = map[string]any{"key": fmt.Sprintf("einmal%d", i), "signatures": map[string]any{}}
	}
	body := map[string]any{"one_time_keys": one, "device_keys": map[string]any{"user_id": c.UserID, "device_id": c.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": map[string]string{"curve25519:" + c.DeviceID: "c", "ed25519:" + c.DeviceID: "e"}, "signatures": map[string]any{}}}
	if err := c.Do(h.Context(), "POST", matrixclient.Path("keys", "upload"), body, nil); err != nil {
		h.Fatal(err)
	}
	return time.Now()
}

// keysLeft is how many one-time keys anna's device is told that it has.
func (h *home) keysLeft() int {
	h.Helper()
	var out struct {
		Counts map[string]int `json:"one_time_key_counts"`
	}
	if err := h.anna.Do(h.Context(), "POST", matrixclient.Path("keys", "upload"), map[string]any{}, &out); err != nil {
		h.Fatal(err)
	}
	return out.Counts["signed_curve25519"]
}

// claim has the central server claim keys of anna's device, one after the other. When the server says that it had no answer in its own time it is asked again, as clients do; "there is none" is an answer.
func (h *home) claim(n int) (ids []string) {
	h.Helper()
	for range n {
		var out struct {
			Keys     map[string]map[string]map[string]json.RawMessage `json:"one_time_keys"`
			Failures map[string]json.RawMessage                       `json:"failures"`
		}
		h.await("an answer to a claim", func() bool {
			clear(out.Keys)
			clear(out.Failures)
			body := map[string]any{"one_time_keys": map[string]any{h.anna.UserID: map[string]string{h.anna.DeviceID: "signed_curve25519"}}}
			if err := h.carl.Do(h.Context(), "POST", matrixclient.Path("keys", "claim"), body, &out); err != nil {
				h.Fatal(err)
			}
			if len(out.Failures) > 0 {
				h.Logf("a claim: %s", out.Failures)
			}
			return len(out.Failures) == 0
		})
		got := slices.Collect(maps.Keys(out.Keys[h.anna.UserID][h.anna.DeviceID]))
		if len(got) != 1 {
			h.Errorf("claimed %v", out.Keys)
		}
		ids = append(ids, got...)
	}
	return ids
}

// knows asks the central server for the keys and the profile of somebody on a box that is away.
func (h *home) knows(c *matrixclient.Client, name string) {
	h.Helper()
	var keys struct {
		Devices map[string]map[string]json.RawMessage `json:"device_keys"`
	}
	if err := h.carl.Do(h.Context(), "POST", matrixclient.Path("keys", "query"), map[string]any{"device_keys": map[string]any{c.UserID: []string{}}}, &keys); err != nil {
		h.Fatal(err)
	}
	if h.untracked && keys.Devices[c.UserID][c.DeviceID] == nil {
		h.Errorf("keys of the device: %v", keys.Devices)
	}
	var profile struct {
		Name string `json:"displayname"`
	}
	if err := h.carl.Do(h.Context(), "GET", matrixclient.Path("profile", c.UserID), nil, &profile); err != nil || profile.Name != name {
		h.Errorf("profile of %s: %+v, %v", name, profile, err)
	}
}

// TestHomecomingThroughTheHub: a box without a port of its own lives in rooms of a central server through its hub, whatever of the three is away or killed meanwhile; nothing is lost and nothing
// shown twice.
func TestHomecomingThroughTheHub(t *testing.T) {
	for name, start := range map[string]func(*testing.T) central{"dendrite": dendrite, "synapse": synapse} {
		t.Run(name, func(t *testing.T) { throughTheHub(newHome(t, start(t), "sealed")) })
	}
}

func throughTheHub(h *home) {
	t := h.T
	ctx := t.Context()
	room, anna, carl := h.talk()
	if err := h.carl.Invite(ctx, must(t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "private_chat"})), h.anna.UserID); err != nil {
		t.Error("invite through the hub: ", err)
	}

	bert := matrixclient.New(h.box.URL()) // nobody has heard of him
	if err := bert.Register(ctx, "bert", "a long enough password", ""); err != nil {
		t.Fatal(err)
	}
	h.uploadKeys(bert, 10)
	keys := h.uploadKeys(h.anna, 30)
	early := h.claim(1) // from the box itself
	h.await("the keys to be with the hub", func() bool { s := h.boxStatus(); return s.Hub.Told.After(keys) })

	// The box is away, and the hub is killed while it keeps what is for the box.
	h.stopBox()
	h.await("the hub to notice", func() bool { s, err := h.hubStatus(); return err == nil && !s.Boxes[0].Connected })
	kept := h.say(h.carl, room, 20, "Box ist weg")
	for i := range 3 {
		h.whisper(fmt.Sprint(i))
	}
	h.await("the central server to be rid of it", func() bool {
		s, err := h.hubStatus()
		return err == nil && len(s.Boxes[0].Waiting) > 0 && s.Boxes[0].Waiting[0].Server == h.name
	})
	if err := h.carl.Invite(ctx, must(t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Name: "Nachtwache"})), h.anna.UserID); matrixclient.Status(err) != http.StatusForbidden || !strings.Contains(err.Error(), "erfährt davon") {
		t.Errorf("an invite while the box is away: %v", err)
	}
	kept = append(kept, h.say(h.carl, room, 5, "Hub gleich auch")...)
	h.knows(bert, "bert")
	dark := h.claim(3)
	h.killHub()
	h.startHub()
	dark = append(dark, h.claim(3)...)
	h.startBox()
	anna.sees("the box is back", kept...)
	anna.reads(h.carl.UserID + " wollte Sie am ")
	anna.reads("in den Raum „Nachtwache“ einladen")
	h.await("the messages between devices", func() bool {
		anna.sees("a look", h.say(h.anna, room, 1, "ein Blick")...)
		return len(anna.whispers) == 3
	})
	h.await("the hub to have nothing left", func() bool { s, err := h.hubStatus(); return err == nil && len(s.Boxes[0].Waiting) == 0 })
	carl.sees("the box is back", h.say(h.anna, room, 3, "bin wieder da")...)
	h.await("the box to cross out what was given away", func() bool { return h.keysLeft() <= 30-1-6 })
	once := map[string]bool{}
	for _, id := range slices.Concat(early, dark, h.claim(6)) {
		if once[id] {
			t.Errorf("%s was given away twice", id)
		}
		once[id] = true
	}

	// The central server is stopped.
	if err := h.away(); err != nil {
		t.Fatal(err)
	}
	alone := h.say(h.anna, room, 10, "Zentrale ist weg")
	if err := h.back(); err != nil {
		t.Fatal(err)
	}
	carl.sees("the central server is back", alone...)
	anna.sees("the central server is back", h.say(h.carl, room, 3, "wieder da")...)

	// The hub is killed in the middle of it, three times.
	var fromA, fromC []string
	for i := range 3 {
		for j := range 10 {
			fromA = append(fromA, h.say(h.anna, room, 1, fmt.Sprintf("hin %d.%d", i, j))...)
			fromC = append(fromC, h.say(h.carl, room, 1, fmt.Sprintf("her %d.%d", i, j))...)
			if j == 5 {
				h.killHub()
			}
		}
		h.startHub()
	}
	carl.sees("the hub was killed", fromA...)
	anna.sees("the hub was killed", append(fromC, h.say(h.carl, room, 1, "zum Schluss")...)...)
	for _, r := range []*reader{anna, carl} {
		for id, n := range r.seen {
			if n != 1 {
				t.Errorf("%s was shown %s %d times", r.c.UserID, id, n)
			}
		}
	}
	for what, n := range anna.whispers {
		if n != 1 {
			t.Errorf("%s came %d times", what, n)
		}
	}
	if s := h.boxStatus(); len(s.Peers) != 0 {
		t.Errorf("the hub counts as a box: %+v", s.Peers)
	}
	for what, n := range anna.whispers {
		if n != 1 {
			t.Errorf("%s came %d times", what, n)
		}
	}
	if s := h.boxStatus(); len(s.Peers) != 0 {
		t.Errorf("the hub counts as a box: %+v", s.Peers)
	}
	h.await("the box to have its hub", func() bool { s := h.boxStatus(); return s.Hub != nil && s.Hub.InReach && s.Hub.Trouble == "" }) // it was killed a moment ago
}

func must(t *testing.T) func(string, error) string {
	return func(s string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// TestHistoryOfAnAbsentBox: people of a central server who came late read what was written before them in a box's room, and open a photo, while the box is away: their server asks the box's name, and the
// hub answers.
func TestHistoryOfAnAbsentBox(t *testing.T) {
	for name, start := range map[string]func(*testing.T) central{"dendrite": dendrite, "synapse": synapse} {
		t.Run(name, func(t *testing.T) { historyOfAnAbsentBox(newHome(t, start(t), "sealed")) })
	}
}

func historyOfAnAbsentBox(h *home) {
	t := h.T
	ctx := t.Context()
	room := must(t)(h.anna.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Lage"}))
	said := h.say(h.anna, room, 150, "vor der Zentrale")
	photo := make([]byte, 700_000)
	_, _ = rand.Read(photo) // never fails
	mxc := must(t)(h.anna.Upload(ctx, "image/jpeg", "Deich.jpg", bytes.NewReader(photo)))
	said = append(said, must(t)(h.anna.Send(ctx, room, "m.room.message", h.anna.NextTxn(), map[string]string{"msgtype": "m.image", "body": "Deich.jpg", "url": mxc})))
	if _, err := h.carl.Join(ctx, room, h.world); err != nil {
		t.Fatal("join through the hub: ", err)
	}
	h.await("the hub to have copied the room, and the photo", func() bool {
		s, err := h.hubStatus()
		return err == nil && s.Hub.Copies.Rooms == 1 && s.Hub.Copies.Behind == 0 && s.Boxes[0].Files.Count == 1
	})
	h.stopBox()
	h.await("the hub to notice", func() bool { s, err := h.hubStatus(); return err == nil && !s.Boxes[0].Connected })
	h.killHub() // what it has copied is on its disk
	h.startHub()
	all, err := h.carl.AllMessages(ctx, room)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, e := range all {
		seen[e.ID] = true
	}
	lack := 0
	for _, id := range said {
		if !seen[id] {
			lack++
		}
	}
	s, err := h.hubStatus()
	if err != nil || lack > 0 || s.Hub.Copies.Answered == 0 {
		t.Errorf("%s sees %d of %d messages from before him; the hub has answered %d questions, %d not; %v", h.carl.UserID, len(said)-lack, len(said), s.Hub.Copies.Answered, s.Hub.Copies.Unknown, err)
	}
	t.Logf("%d messages, by %d answers of the hub", len(said), s.Hub.Copies.Answered)
	if got, head, err := h.carl.Download(ctx, mxc); err != nil || !bytes.Equal(got, photo) || head.Get("Content-Type") != "image/jpeg" {
		t.Errorf("%s opens the photo: %d of %d bytes, %q; %v", h.carl.UserID, len(got), len(photo), head.Get("Content-Type"), err)
	}
}
