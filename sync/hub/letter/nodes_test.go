// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hallig/sync/hub/spool"
	"hallig/tools/testpostgres"
)

// Environment that makes the test binary a node of a hub, so that it can be killed.
const (
	nodeName   = "HALLIG_LETTER_NODE"
	nodeAt     = "HALLIG_LETTER_NODE_AT"     // its database
	nodeCentre = "HALLIG_LETTER_NODE_CENTRE" // where it finds the centre
)

// nodeLease is short, so that a test does not wait long. On a machine that is slow a lease may end while its node lives: then two nodes are at work for a moment, which must harm nobody.
const nodeLease = 2 * time.Second

func TestMain(m *testing.M) {
	if name := os.Getenv(nodeName); name != "" {
		fmt.Fprintln(os.Stderr, runNode(name, os.Getenv(nodeAt), os.Getenv(nodeCentre)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// runNode brings letters until it is killed.
func runNode(name, at, centre string) error {
	ctx := context.Background()
	s, err := spool.Connect(ctx, at, spool.Limits{}, nil)
	if err != nil {
		return err
	}
	c := testConfig(testBoxes())
	c.Spool, c.Node, c.Lease, c.Log = s, name, nodeLease, slog.New(slog.NewTextHandler(os.Stderr, nil))
	c.Send = func(ctx context.Context, to, method, uri, auth string, body []byte) (int, []byte, error) {
		req, err := http.NewRequestWithContext(ctx, method, centre+"/", bytes.NewReader(body))
		if err != nil {
			return 0, nil, err
		}
		req.Header = http.Header{"Node": {name}, "To": {to}, "Uri": {uri}, "Authorization": {auth}}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, nil, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.StatusCode, text, err
	}
	go func() {
		for ; ; time.Sleep(nodeLease / 3) {
			_ = s.Renew(ctx, name, time.Now(), nodeLease) // it is tried again
		}
	}()
	return New(c).Run(ctx)
}

// nodes are the processes of a hub over one database, and the way from them to the centre.
type nodes struct {
	*world
	at, door string

	mu     sync.Mutex
	alive  map[string]*exec.Cmd
	asked  int
	killAt []int // when a node has asked so often it is killed, each second time after the centre has taken what it asks
	killed int
}

// ServeHTTP brings what a node sends to the centre. A node that is killed hears no answer.
func (n *nodes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	n.mu.Lock()
	n.asked++
	dies := len(n.killAt) > 0 && n.asked >= n.killAt[0]
	taken := n.killed%2 == 1
	if dies {
		n.killAt, n.killed = n.killAt[1:], n.killed+1
	}
	n.mu.Unlock()
	if dies && !taken {
		n.kill(r.Header.Get("Node"))
		return
	}
	status, text, err := n.centre.send(r.Context(), r.Header.Get("To"), r.Method, r.Header.Get("Uri"), r.Header.Get("Authorization"), body)
	if err != nil {
		n.Error(err)
	}
	if dies {
		n.kill(r.Header.Get("Node"))
		return
	}
	w.WriteHeader(status)
	_, _ = w.Write(text) // the node may have been killed
}

// start runs a node.
func (n *nodes) start(name string) {
	n.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), nodeName+"="+name, nodeAt+"="+n.at, nodeCentre+"="+n.door)
	cmd.Stderr = n.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		n.Fatal(err)
	}
	n.mu.Lock()
	n.alive[name] = cmd
	n.mu.Unlock()
}

// kill is kill -9.
func (n *nodes) kill(name string) {
	n.mu.Lock()
	cmd := n.alive[name]
	delete(n.alive, name)
	n.mu.Unlock()
	if cmd == nil { // it was killed over another request
		return
	}
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		n.Errorf("node %s has ended by itself: %v", name, err)
	}
}

func (n *nodes) await(what string, cond func() bool) {
	n.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			n.Fatalf("waited in vain for: %s", what)
		}
	}
}

// Two boxes have left letters and gone. Of the nodes of a hub over one PostgreSQL database each that brings them is killed (SIGKILL), before the centre has what it sends, or after; another goes on. Nothing is
// lost, all comes in order, and messages between devices once, since this centre knows the ids of transactions.
func TestNodesKilled(t *testing.T) {
	server, err := testpostgres.Start("fsync=off") // a process that is killed loses nothing by it
	if errors.Is(err, testpostgres.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Create("letters", ""); err != nil {
		t.Fatal(err)
	}
	kept, err := spool.Connect(t.Context(), server.URL("letters"), spool.Limits{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	n := &nodes{world: newWorld(t, kept), at: server.URL("letters"), alive: map[string]*exec.Cmd{}, killAt: []int{9, 25, 45, 60}}
	door := httptest.NewServer(n)
	defer door.Close()
	n.door = door.URL
	c := testConfig(n.boxes)
	c.Spool, c.Node, c.Lease, c.Log = n.spool, "taker", nodeLease, slog.New(slog.DiscardHandler)
	n.mail = New(c) // takes letters, and brings none
	const each = 20
	events, edus := map[string][]string{}, map[string][]string{}
	for i := range each {
		for _, box := range []string{"box1.test", "box2.test"} {
			room := map[string]string{"box1.test": "a", "box2.test": "b"}[box]
			one, two, edu := fmt.Sprintf("%s/%d.1", room, i), fmt.Sprintf("%s/%d.2", room, i), fmt.Sprint("edu ", room, i)
			n.leave(box, farAway, one, two)
			n.leave(box, farAway, edu)
			events[room], edus[room] = append(events[room], "$"+one, "$"+two), append(edus[room], edu)
		}
	}
	for i := range 3 {
		n.start(fmt.Sprint("node", i+1))
	}
	defer func() {
		for i := range 10 {
			n.kill(fmt.Sprint("node", i+1))
		}
	}()
	began := 3
	n.await("the letters to be through", func() bool {
		n.mu.Lock()
		alive := len(n.alive)
		n.mu.Unlock()
		if alive < 3 { // as an operator's system does
			began++
			n.start(fmt.Sprint("node", began))
		}
		return n.standing("box1.test", farAway).Waiting+n.standing("box2.test", farAway).Waiting == 0
	})
	for _, box := range []string{"box1.test", "box2.test"} {
		n.done(box, farAway, 2*each, 0)
	}
	n.centre.mu.Lock()
	defer n.centre.mu.Unlock()
	of := func(all []string, prefix string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !strings.HasPrefix(s, prefix) })
	}
	for room := range events {
		if got := of(n.centre.events, "$"+room); !slices.Equal(got, events[room]) {
			t.Errorf("of room %s came %q", room, got)
		}
		if got := of(n.centre.edus, "edu "+room); !slices.Equal(got, edus[room]) {
			t.Errorf("of the EDUs beside room %s came %q", room, got)
		}
	}
	if n.killed != 4 {
		t.Errorf("%d nodes were killed", n.killed)
	}
}

// A node that waits for another one's boxes takes them over when the lease of that one has ended, and does not wait for its next look at all queues.
func TestTakesOverAtOnce(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.set(func(c *centre) { c.down = true })
		w.leave("box1.test", farAway, "a/1")
		w.after(10 * time.Second) // the lease lasts until 30 s
		kill := w.stop
		w.stop = nil
		w.start("node2") // looks now, at 40 s and at 70 s
		w.after(time.Second)
		kill()
		before := w.centre.tries()
		w.after(17 * time.Second)
		if got := w.centre.tries(); got != before {
			t.Errorf("%d tries while the lease of another one lasts", got-before)
		}
		w.after(5 * time.Second)
		if got := w.centre.tries(); got == before {
			t.Error("no try after the lease has ended")
		}
	})
}

// A box that comes to another node takes its letters along at once, those that were left at the first as well.
func TestComesToAnotherNode(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.set(func(c *centre) { c.down = true })
		w.leave("box1.test", farAway, "a/1")
		w.after(time.Second)
		first := w.stop
		w.stop = nil
		w.start("node2")
		w.after(time.Second)
		first() // its lease lasts for half a minute
		w.centre.set(func(c *centre) { c.down = false })
		if _, ok, err := w.spool.Acquire(w.Context(), "box1.test", "node2", time.Now(), 30*time.Second, true); !ok || err != nil {
			w.Fatal(ok, err)
		}
		w.mail.Look(w.Context(), "box1.test")
		w.after(time.Second)
		w.centre.has("$a/1", -1)
		w.done("box1.test", farAway, 1, 0)
	})
}
