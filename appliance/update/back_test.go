// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/wayback"
)

func TestPlanBack(t *testing.T) {
	db := filepath.Join(t.TempDir(), "hallig.db")
	older, newer := Manifest{Version: "1.0", Schema: 8}, Manifest{Version: "1.1", Schema: 9}
	if p, err := PlanBack(db, older, Manifest{Version: "0.9", Schema: 8}); err != nil || p.Note.Act != "" || !strings.Contains(p.Says.En, "Nothing is lost") {
		t.Errorf("the same schema: %+v, %v", p, err)
	}
	var r *Refusal
	if _, err := PlanBack(db, newer, older); !errors.As(err, &r) || !strings.Contains(r.De, "Ersatzbox") {
		t.Errorf("no copy: %v", err)
	}
	for _, f := range []string{db, db + ".before-8", db + ".before-9"} {
		if err := os.WriteFile(f, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	made := time.Date(2026, 11, 26, 14, 5, 0, 0, time.Local)
	if err := os.Chtimes(db+".before-8", made, made); err != nil {
		t.Fatal(err)
	}
	p, err := PlanBack(db, newer, older)
	if err != nil || p.Note != (wayback.Note{Act: wayback.Back, Schema: 8}) || !strings.Contains(p.Says.De, "26.11.2026 14:05") {
		t.Fatalf("%+v, %v", p, err)
	}
	if err := p.Leave(db); err != nil {
		t.Fatal(err)
	}
	if n, err := wayback.ReadNote(db); err != nil || n != p.Note {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestRoomFor(t *testing.T) {
	db := filepath.Join(t.TempDir(), "hallig.db")
	older, newer := Manifest{Schema: 8}, Manifest{Schema: 9}
	if err := RoomFor(db, older, newer, 0, 64<<20); err != nil {
		t.Errorf("a box without a database: %v", err)
	}
	if err := os.WriteFile(db, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	need := wayback.Need(8<<20) + 64<<20
	for _, x := range []struct {
		next Manifest
		free int64
		ok   bool
	}{{newer, need, true}, {newer, need - 1, false}, {older, 0, true}} {
		var r *Refusal
		if err := RoomFor(db, older, x.next, x.free, 64<<20); (err == nil) != x.ok || err != nil && !errors.As(err, &r) {
			t.Errorf("schema %d, %d free: %v", x.next.Schema, x.free, err)
		}
	}
	if err := os.WriteFile(db+".before-7", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := RoomFor(db, older, newer, need-1<<20, 64<<20); err != nil {
		t.Errorf("an old copy that will go: %v", err)
	}
}
