// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/health"
	"hallig/tools/matrixclient"
)

// What init asks of a box on trial.
var trialNodes = []string{"database", "homeserver", "links"}

func healthOf(t *testing.T, r *running) health.Tree {
	t.Helper()
	var tree health.Tree
	if err := Ask(t.Context(), r.cfg.Data, "GET", "/health", nil, &tree); err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestTrial: of two boxes one tries out an update. It says how it does, and takes nothing and gives nothing, from phones and from the other
// box; when it is confirmed everything goes through.
func TestTrial(t *testing.T) {
	ctx := t.Context()
	cfg := Config{Data: t.TempDir(), ServerName: "b.test", P2P: P2PConfig{NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}}
	a := startBox(t, "a.test")
	cfg.P2P.Peers = a.exchange.host.Addrs()
	b := startWith(t, cfg)
	paired(t, a, b)
	b.end()
	b = startWith(t, cfg) // the roster is read at the start
	anna, bert := a.phone("anna"), b.phone("bert")
	room, err := anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	bert.until("the other box", func() bool { return b.exchange.host.InReach("a.test") })
	if _, err := bert.Join(ctx, room, "a.test"); err != nil {
		t.Fatal(err)
	}
	b.end()
	cfg.Trial = true
	b = startWith(t, cfg)
	before := b.db.Published()
	late := anna.say(room, "während der Probe")
	tree := healthOf(t, b)
	for _, id := range trialNodes {
		if n, ok := tree.Node(id); !ok || n.State != health.OK {
			t.Errorf("%s on trial: %+v, %s", id, n, n.Detail)
		}
	}
	for _, path := range []string{"/_matrix/client/versions", "/_matrix/client/v3/sync", "/"} {
		status, header, body := get(t, "http://"+b.clientListener.Addr().String()+path, "")
		if status != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !json.Valid(body) {
			t.Errorf("%s: %d, %v, %s", path, status, header, body)
		}
	}
	if status, _, body := get(t, "http://"+b.clientListener.Addr().String()+"/", "text/html"); status != 503 || !strings.Contains(string(body), "Update geprüft") {
		t.Errorf("a browser sees %d %s", status, body)
	}
	if status, _, _ := get(t, "http://"+b.clientListener.Addr().String()+"/status", ""); status == 503 {
		t.Error("how the box does may not be read")
	}
	// the other box does not even get in reach; if it did, it would be told to come again
	if resp, err := (&http.Client{Transport: a.exchange.host.RoundTripper()}).Get("http://b.test/_matrix/federation/v1/version"); err == nil {
		resp.Body.Close()
		if resp.StatusCode != 503 {
			t.Errorf("another box gets %s", resp.Status)
		}
	}
	time.Sleep(2 * time.Second) // what would arrive by now without the doors
	if got := b.db.Published(); got != before {
		t.Errorf("the log has moved from %d to %d", before, got)
	}
	for range 2 {
		if err := Ask(ctx, cfg.Data, "POST", "/trial/confirmed", struct{}{}, nil); err != nil {
			t.Fatal(err)
		}
	}
	bert.HTTP.Transport = b
	bert.until("what was said meanwhile", bert.has(late))
	answer := bert.say(room, "nach der Probe")
	anna.until("an answer", anna.has(answer))
	if n, ok := healthOf(t, b).Node("links"); !ok || n.State != health.OK {
		t.Errorf("links after the trial: %+v", n)
	}
}

func get(t *testing.T, url, accept string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, body
}

// A line that is there and cannot be opened fails a trial; one that is not plugged in does not.
func TestTrialLines(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "no-tty")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for device, ok := range map[string]bool{filepath.Join(dir, "absent"): true, file: false} {
		b := startWith(t, Config{Data: t.TempDir(), ServerName: "b.test", Trial: true, P2P: P2PConfig{Off: true}, Serial: []SerialConfig{{Device: device}}})
		n, _ := healthOf(t, b).Node("links")
		if (n.State == health.OK) != ok {
			t.Errorf("%s: %+v", device, n)
		}
		b.end()
	}
}
