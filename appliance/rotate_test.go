// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/sync/identity"
	"hallig/tools/matrixclient"
)

// TestKeyRotation: a box gets a new signing key twice. Its users talk on, the paired box takes what the new key signs, and what the old ones signed
// stays valid there and on the box itself.
func TestKeyRotation(t *testing.T) {
	if !inside(t) {
		return
	}
	cfgA := Config{Data: t.TempDir(), ServerName: "a.test", P2P: P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}}}
	a, b := startWith(t, cfgA), startBox(t, "b.test")
	anna, bert := a.phone("anna"), b.phone("bert")
	code, err := a.adminOptions().ShowCode(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.takeCode(t.Context(), code.Code, ""); err != nil {
		t.Fatal(err)
	}
	near(t, a, b, "after the pairing")
	room, err := anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat", Invite: []string{bert.UserID}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bert.Join(t.Context(), room); err != nil {
		t.Fatal(err)
	}
	said := []string{anna.say(room, "mit dem ersten Schlüssel")}
	bert.until("the first message", bert.has(said...))
	keys := map[string]bool{a.id.Key.ID: true}
	for range 2 {
		if err := a.adminOptions().RotateKey(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case err = <-a.done:
		case <-time.After(inTime):
			t.Fatal("the box does not stop to rotate its key")
		}
		if err != ErrRotate {
			t.Fatalf("ended with %v, want ErrRotate", err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		a.stop()
		a.stop = nil
		id, err := RotateKey(t.Context(), cfgA, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		a = startWith(t, cfgA)
		anna.HTTP.Transport = a
		if a.id.Key.ID != id || keys[id] {
			t.Errorf("the box signs with %s, want the new key %s", a.id.Key.ID, id)
		}
		keys[id] = true
		said = append(said, anna.say(room, "mit dem nächsten Schlüssel"))
		bert.until("a message under the new key", bert.has(said...))
	}
	if len(a.id.Old) != 2 {
		t.Errorf("%d old keys, want 2", len(a.id.Old))
	}
	b.askBoxesForKeys(t.Context())
	for _, box := range []*running{a, b} {
		for _, id := range said {
			p, _, err := box.rooms.Event(t.Context(), event.ID(id))
			if err != nil {
				t.Fatal(err)
			}
			if err := box.fed.client.VerifyPDU(t.Context(), p); err != nil {
				t.Errorf("%s: %v", box.id.Server, err)
			}
		}
	}
	raw, err := a.fed.ring.Document(a.fed.local)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Old map[string]json.RawMessage `json:"old_verify_keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || len(doc.Old) != 2 {
		t.Errorf("document %s, %v; want two old keys", raw, err)
	}
}

// TestRotationMakesNothing: where there is no box there is nothing to rotate, and a running one is left alone.
func TestRotationMakesNothing(t *testing.T) {
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	if _, err := RotateKey(t.Context(), Config{Data: dir}, log); err == nil {
		t.Error("a key was rotated where there is no box")
	}
	for _, name := range []string{identity.SigningKeyFile, identity.BoxKeyFile, "hallig.db"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s was made", name)
		}
	}
	b := startWith(t, Config{Data: t.TempDir(), P2P: P2PConfig{Off: true}})
	before := b.id.Key.ID
	if _, err := RotateKey(context.Background(), b.cfg, log); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("a running box: %v", err)
	}
	b.end()
	id, err := identity.Load(b.cfg.Data, "", true)
	if err != nil || id.Key.ID != before {
		t.Errorf("key %s, %v; want %s as before", id.Key.ID, err, before)
	}
}
