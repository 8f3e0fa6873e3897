// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/tools/testpeer"
	"hallig/tools/testpostgres"
)

// newHubNodes gives so many nodes of one hub over one PostgreSQL database; n is at least 1.
func newHubNodes(t *testing.T, n int) (nodes []*world) {
	t.Helper()
	server, err := testpostgres.Start("fsync=off")
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
	if err := server.Create("hub", ""); err != nil {
		t.Fatal(err)
	}
	ca, err := testpeer.NewCA(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	far := newFar(t, ca, "far.test")
	for i := range n {
		kept, err := spool.Connect(t.Context(), server.URL("hub"), spool.Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := &world{T: t, ca: ca, far: far, dir: t.TempDir(), spool: &breakable{Spool: kept}, with: func(c *Config) { c.Internal = "127.0.0.1:0" }}
		if i > 0 {
			for _, name := range []string{identity.BoxKeyFile, identity.SigningKeyFile} {
				raw, err := os.ReadFile(filepath.Join(nodes[0].dir, name))
				if err == nil {
					err = os.WriteFile(filepath.Join(w.dir, name), raw, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		w.start()
		t.Cleanup(func() {
			w.stop()
			if err := kept.Close(); err != nil {
				t.Error(err)
			}
		})
		nodes = append(nodes, w)
	}
	return nodes
}

// holds waits until a node holds a box, and all nodes know the box.
func holds(nodes []*world, holder *world, box string) {
	holder.Helper()
	holder.await("the node to hold the box", func() bool {
		l, err := holder.spool.Holder(holder.Context(), box)
		return err == nil && l.Node == holder.hub.node
	})
	for _, w := range nodes {
		if err := w.hub.readRoster(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) question(method, uri string) (int, string) {
	w.Helper()
	status, out := w.ask("box1.test", method, uri, signed(w.T, w.far.Local, "box1.test", method, uri, nil), nil)
	return status, string(out)
}

// What is asked at one node is answered by the box that is connected to another, as if it had come straight; a transaction is played there. When that node dies the box is somewhere else soon, and
// is asked there.
func TestQuestionReachesTheNodeThatHasTheBox(t *testing.T) {
	nodes := newHubNodes(t, 2)
	one, two := nodes[0], nodes[1]
	b := two.newBox("box1.test")
	holds(nodes, two, "box1.test")
	const invite, join, event = "/_matrix/federation/v2/invite/!r%3Afar.test/$e", "/_matrix/federation/v1/make_join/!r%3Abox1.test/@u%3Afar.test?ver=10", "/_matrix/federation/v1/event/$x"
	for _, q := range []struct{ method, uri string }{{"PUT", invite}, {"GET", join}, {"GET", event}} {
		header := signed(t, one.far.Local, "box1.test", q.method, q.uri, nil)
		status, out := one.ask("box1.test", q.method, q.uri, header, nil)
		heard := b.heard()
		if want := q.method + " " + q.uri + " " + header.Get("Authorization") + " "; status != 200 || len(heard) == 0 || heard[len(heard)-1] != want {
			t.Errorf("%s: %d %s; the box was asked %q", q.uri, status, out, heard)
		}
	}
	if n, m := one.hub.count.elsewhere.Load(), two.hub.count.elsewhere.Load(); n != 3 || m != 0 {
		t.Errorf("passed on: %d and %d", n, m)
	}
	for _, bad := range []int{401, 429, 500, 421} {
		b.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(bad) })
		if status, out := one.question("GET", event); status != 404 {
			t.Errorf("the box answers %d: %d %s", bad, status, out)
		}
	}
	b.answers(nil)
	uri, header, body := one.far.transaction("box1.test", 1)
	one.ask("box1.test", "PUT", uri, header, body)
	one.await("the transaction", func() bool {
		return slices.ContainsFunc(b.heard(), func(s string) bool { return strings.HasPrefix(s, "PUT "+uri) })
	})
	// The node dies in the middle of an answer; nothing of it counts as a whole one.
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		w.WriteHeader(200)
		io.WriteString(w, "{")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	type answer struct {
		text string
		err  error
	}
	heard := func() (n int) { // transactions may be played again meanwhile
		for _, s := range b.heard() {
			if strings.HasPrefix(s, "GET "+event) {
				n++
			}
		}
		return n
	}
	whole, before := make(chan answer, 1), heard()
	go func() {
		text, err := one.tryQuestion(event)
		whole <- answer{text, err}
	}()
	one.await("the question to be at the box", func() bool { return heard() > before })
	two.stop()
	if a := <-whole; a.err == nil && !strings.Contains(a.text, "M_NOT_FOUND") {
		t.Errorf("half an answer counts as a whole one: %q", a.text)
	}
	b.stop()
	b.answers(nil)
	b.w = one // as boxes do that know both
	b.back()
	holds(nodes[:1], one, "box1.test")
	before = heard()
	if status, out := one.question("GET", event); status != 200 || heard() != before+1 {
		t.Errorf("at the other node: %d %s", status, out)
	}
}

// tryQuestion asks; an answer that breaks off is an error.
func (w *world) tryQuestion(uri string) (string, error) {
	client := w.client("box1.test")
	req, err := http.NewRequestWithContext(w.Context(), "GET", "https://box1.test"+uri, nil)
	if err != nil {
		return "", err
	}
	req.Header = signed(w.T, w.far.Local, "box1.test", "GET", uri, nil)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return string(raw), err
}

// A lease that names a node which does not have the box costs one question between the nodes, and no circle: each of two that believe the other to have it answers in its place.
func TestQuestionGoesInNoCircle(t *testing.T) {
	nodes := newHubNodes(t, 2)
	one, two := nodes[0], nodes[1]
	one.newBox("box1.test").away()
	for _, w := range nodes {
		if err := w.hub.readRoster(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	one.await("the box to be let go", func() bool { return one.carriers() == 0 })
	for _, tt := range []struct {
		name, node string
	}{
		{"the other node", two.hub.node}, {"a node that is gone", "word@127.0.0.1:1"}, {"a node that cannot be asked", "word"}, {"itself", one.hub.node},
	} {
		if _, _, err := one.spool.Acquire(t.Context(), "box1.test", tt.node, time.Now(), time.Minute, true); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		status, out := one.question("GET", "/_matrix/federation/v1/event/$x")
		if status != 404 || time.Since(began) >= askPatience {
			t.Errorf("%s: %d %s after %v", tt.name, status, out, time.Since(began))
		}
	}
	if n, m := one.hub.count.elsewhere.Load(), two.hub.count.elsewhere.Load(); n != 0 || m != 0 {
		t.Errorf("counted as answered elsewhere: %d and %d", n, m)
	}
	// What comes by the line between nodes is never passed on, whatever the lease says.
	if _, _, err := one.spool.Acquire(t.Context(), "box1.test", one.hub.node, time.Now(), time.Minute, true); err != nil {
		t.Fatal(err)
	}
	req, err := verbatim("box1.test", sealed{method: "GET", uri: "/_matrix/federation/v1/event/$x"})
	if err != nil {
		t.Fatal(err)
	}
	for uri, want := range map[string]int{"/_matrix/federation/v1/event/$x": 421, "/_hallig/hub/v1/contact": 421, sendPath + "1": 421} {
		req.URL.Opaque = uri
		resp, err := one.hub.nodes.RoundTrip(two.hub.nodes.Addr(), req.WithContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s between nodes: %d, want %d", uri, resp.StatusCode, want)
		}
	}
}
