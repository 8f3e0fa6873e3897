// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
)

// program is the path of the hallig under test; set once by TestMain.
var program string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hallig-lab-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "hallig")
	if out, err := exec.Command("go", "build", "-o", program, "hallig/cmd/hallig").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "lab: build hallig: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// lines keeps what a process says; safe while it still talks.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// box is one `hallig serve` with a directory that outlives its processes.
type box struct {
	t      *testing.T
	name   string
	dir    string
	listen string
	base   string
	config map[string]any // config.json of the next start
	log    *lines

	cmd  *exec.Cmd
	done chan error
}

// newBox makes a box that is not started yet. Its libp2p is off.
func newBox(t *testing.T, name string) *box {
	t.Helper()
	b := &box{t: t, name: name, dir: t.TempDir(), listen: must[string](t, "take a port")(testport.Take()), log: new(lines)}
	b.base = "http://" + b.listen
	b.config = map[string]any{"p2p": map[string]any{"off": true}}
	t.Cleanup(func() {
		if b.cmd != nil {
			b.stop()
		}
		if t.Failed() {
			said := b.log.String()
			t.Logf("%s said:\n%s", name, said[max(0, len(said)-6000):])
		}
	})
	return b
}

func (b *box) command(args ...string) *exec.Cmd {
	all := append([]string{"serve", "--data", b.dir, "--open-registration", "--listen", b.listen}, args...)
	if os.Getenv("HALLIG_LAB_VERBOSE") != "" {
		all = append(all, "--verbose")
	}
	cmd := exec.Command(program, all...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // it must not outlive a test that was killed
	return cmd
}

// start runs the box and waits until it answers.
func (b *box) start(args ...string) {
	b.t.Helper()
	raw, err := json.Marshal(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), raw, 0o600); err != nil {
		b.t.Fatal(err)
	}
	cmd := b.command(append([]string{"--name", b.name}, args...)...)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	if err := cmd.Start(); err != nil {
		b.t.Fatalf("start %s: %v", b.name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the process, which stop and kill wait for
	b.cmd, b.done = cmd, done
	eventually(b.t, inTime, b.name+" answers", func() error {
		select {
		case err := <-done:
			b.cmd = nil
			b.t.Fatalf("%s ended at once: %v\n%s", b.name, err, b.log)
		default:
		}
		resp, err := http.Get(b.base + "/_matrix/client/versions")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("/versions: %s", resp.Status)
		}
		return nil
	})
}

// stop ends the box as an operator would, and says how long that took.
func (b *box) stop() time.Duration {
	b.t.Helper()
	began := time.Now()
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		b.t.Errorf("stop %s: %v", b.name, err)
	}
	select {
	case err := <-b.done:
		if err != nil {
			b.t.Errorf("%s ended badly: %v", b.name, err)
		}
	case <-time.After(inTime):
		b.t.Errorf("%s does not stop; killed", b.name)
		b.kill()
		return time.Since(began)
	}
	b.cmd = nil
	return time.Since(began)
}

// kill is kill -9.
func (b *box) kill() {
	b.t.Helper()
	if err := b.cmd.Process.Kill(); err != nil {
		b.t.Errorf("kill %s: %v", b.name, err)
	}
	<-b.done
	b.cmd = nil
}

// verify reads the whole database of the stopped box.
func (b *box) verify() {
	b.t.Helper()
	db, err := store.Open(b.t.Context(), filepath.Join(b.dir, "hallig.db"), store.Options{})
	if err != nil {
		b.t.Fatalf("open the database of %s: %v", b.name, err)
	}
	if err := db.Verify(b.t.Context()); err != nil {
		b.t.Errorf("database of %s: %v", b.name, err)
	}
	if err := db.Close(); err != nil {
		b.t.Errorf("close the database of %s: %v", b.name, err)
	}
}

// ask asks the local door.
func (b *box) ask(method, path string, in, out any) {
	b.t.Helper()
	if err := appliance.Ask(b.t.Context(), b.dir, method, path, in, out); err != nil {
		b.t.Fatalf("ask %s %s: %v", b.name, path, err)
	}
}

func (b *box) status() (s admin.Status) {
	b.t.Helper()
	b.ask("GET", "/status", nil, &s)
	return s
}

// carrier is the transport that carries to another box now, without its number: "p2p", "serial" or "".
func (b *box) carrier(other *box) string {
	b.t.Helper()
	for _, p := range b.status().Peers {
		if p.ServerName == other.name {
			kind, _, _ := strings.Cut(p.Carrier, ":")
			return kind
		}
	}
	return ""
}

// register makes an account.
func (b *box) register(user string) *matrixclient.Client {
	b.t.Helper()
	c := matrixclient.New(b.base)
	if err := c.Register(b.t.Context(), user, "Rungholt lebt 1362", ""); err != nil {
		b.t.Fatalf("register %s at %s: %v", user, b.name, err)
	}
	return c
}

// listenP2P makes the box listen for libp2p at a free port behind a link that can be cut; what it tells others of itself is
// the link.
func (b *box) listenP2P() *testpeer.Link {
	b.t.Helper()
	real := must[string](b.t, "take a port")(testport.Take())
	link, err := testpeer.NewLink(real)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(link.Close)
	b.config["p2p"] = map[string]any{"no_mdns": true, "listen": []string{multiaddr(real)}, "announce": []string{multiaddr(link.Addr())}}
	return link
}

func multiaddr(hostPort string) string {
	host, port, _ := strings.Cut(hostPort, ":")
	return "/ip4/" + host + "/tcp/" + port
}

// pair pairs two boxes by a code; at is where taker finds shower.
func pair(t *testing.T, shower, taker *box, at string) {
	t.Helper()
	var code admin.PairCode
	shower.ask("POST", "/pair/show", struct{}{}, &code)
	var p admin.Peer
	taker.ask("POST", "/pair/take", map[string]string{"Code": code.Code, "Address": at}, &p)
	if p.ServerName != shower.name {
		t.Errorf("%s has paired with %q, want %s", taker.name, p.ServerName, shower.name)
	}
}

// inTime bounds a wait for something that has to come; a test that runs into it fails. It is for a machine that does much else.
const inTime = time.Minute

// eventually polls until f has no complaint.
func eventually(t *testing.T, within time.Duration, what string, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		took := time.Since(began)
		if err == nil {
			return took
		}
		if took > within {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		<-tick.C
	}
}

// within is a context that ends with the test or after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, stop := context.WithTimeout(t.Context(), d)
	t.Cleanup(stop)
	return ctx
}

func must[T any](t *testing.T, what string) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return v
	}
}

func ok(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// history is all that a user is shown of a room, newest first; an event that comes twice is an error.
func history(c *matrixclient.Client, ctx context.Context, room string) ([]matrixclient.Event, error) {
	all, err := c.AllMessages(ctx, room)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, e := range all {
		if seen[e.ID] {
			return nil, fmt.Errorf("%s comes twice in the history", e.ID)
		}
		seen[e.ID] = true
	}
	return all, nil
}

// state is a room's state as sorted lines, to be compared between boxes.
func state(c *matrixclient.Client, ctx context.Context, room string) (string, error) {
	events, err := c.State(ctx, room)
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprintf("%s %q %s", e.Type, *e.StateKey, e.ID))
	}
	slices.Sort(out)
	return strings.Join(out, "\n"), err
}

// same says what two users of a room see differently: the events in the history by id, and the state.
func same(ctx context.Context, room string, a, b *matrixclient.Client, want []string) error {
	var ids [2]map[string]bool
	var states [2]string
	for i, c := range []*matrixclient.Client{a, b} {
		all, err := history(c, ctx, room)
		if err != nil {
			return err
		}
		ids[i] = map[string]bool{}
		for _, e := range all {
			ids[i][e.ID] = true
		}
		missing := 0
		for _, id := range want {
			if !ids[i][id] {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Errorf("%s lacks %d of %d events", c.UserID, missing, len(want))
		}
		if states[i], err = state(c, ctx, room); err != nil {
			return err
		}
	}
	if states[0] != states[1] {
		return fmt.Errorf("state differs:\n%s\n-- and --\n%s", states[0], states[1])
	}
	return nil
}
