// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/tools/testpostgres"
)

// Two nodes over one PostgreSQL database have the same key for a box: what one has agreed with the box the other signs with, while the first is down.
func TestNodesShareTheKey(t *testing.T) {
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
	if err := server.Create("keys", ""); err != nil {
		t.Fatal(err)
	}
	node := func() spool.Spool {
		s, err := spool.Connect(t.Context(), server.URL("keys"), spool.Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	dir := ""
	w := newWorldWith(t, func(c *Config) {
		c.Spool = node()
		if dir != "" {
			c.Data = dir
		}
	})
	d := w.newBox("box1.test").delegating()
	d.hasUser("@anna:box1.test")
	key := d.agrees()
	d.away()
	w.stop()

	dir = t.TempDir() // the other node: the same keys, and nothing else
	for _, name := range []string{identity.BoxKeyFile, identity.SigningKeyFile} {
		raw, err := os.ReadFile(filepath.Join(w.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.start()
	if got := w.signsFor("box1.test"); got != key.ID {
		t.Errorf("the other node signs with %q, want %q", got, key.ID)
	}
	status, out, _ := w.invite(invite{user: "@anna:box1.test"})
	var a struct {
		Event struct {
			Signatures map[string]map[string]string
		}
	}
	if err := json.Unmarshal(out, &a); err != nil || status != 200 || a.Event.Signatures["box1.test"][key.ID] == "" {
		t.Errorf("%d %s", status, out)
	}
	d.back()
	w.await("the invite to be taken", func() bool { h := d.heard(); return len(h) > 0 && strings.Contains(h[len(h)-1], "/invite/") })
}
