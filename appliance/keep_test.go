// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/backup"
	"hallig/appliance/clock"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/store"
	"hallig/appliance/wayback"
	"hallig/tools/matrixclient"
)

func newKey(t *testing.T) (public, secret string) {
	t.Helper()
	public, secret, err := backup.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return public, secret
}

// TestSpareBox: a backup is made while people write; the box drowns; a spare one takes over from the stick by itself, answers under the old name to
// the old sessions, and the box that was paired with the drowned one goes on with it.
func TestSpareBox(t *testing.T) {
	ctx := t.Context()
	public, secret := newKey(t)
	quiet := P2PConfig{NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "b.test", P2P: quiet})
	data := t.TempDir()
	run := t.TempDir()
	stick := filepath.Join(run, "sticks", "KINGSTON")
	if err := os.MkdirAll(stick, 0o700); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Data: data, ServerName: "a.test", P2P: quiet, Backup: provision.Backup{Recipients: []string{public}, To: "stick"}}
	cfg.P2P.Peers = b.exchange.host.Addrs()
	a := startWith(t, cfg)
	paired(t, a, b)
	a.end()
	a = startWith(t, cfg)
	anna, bert := a.phone("anna"), b.phone("bert")
	room, err := anna.CreateRoom(ctx, matrixclient.CreateRoom{Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	bert.until("the other box", func() bool { return b.exchange.host.InReach("a.test") })
	if _, err := bert.Join(ctx, room, "a.test"); err != nil {
		t.Fatal(err)
	}
	mxc, err := anna.Upload(ctx, "image/png", "karte.png", strings.NewReader("Lagekarte"))
	if err != nil {
		t.Fatal(err)
	}
	before := []string{anna.say(room, "vor der Sicherung")}
	a.cfg.Run = run // as on the image
	if place := a.backupPlace(); place != stick {
		t.Fatalf("backups go to %q, want %q", place, stick)
	}
	writing, stop := context.WithCancel(ctx)
	wrote := make(chan int)
	go func() {
		n := 0
		for first := true; first || writing.Err() == nil; first = false { // the machine may let it begin late
			if _, err := anna.SendText(context.WithoutCancel(writing), room, fmt.Sprint("während der Sicherung ", n)); err == nil {
				n++
			}
		}
		wrote <- n
	}()
	made, err := a.backUp(ctx, stick, nil)
	stop()
	if n := <-wrote; n == 0 {
		t.Error("nobody could write while the backup was made")
	}
	if err != nil {
		t.Fatal(err)
	}
	if f := a.backupFacts(); !f.Wanted || f.Age == 0 || f.Age > time.Minute || !f.Err.Empty() {
		t.Errorf("the health of backups: %+v", f)
	}
	after := anna.say(room, "nach der Sicherung")
	bert.until("the message after the backup", bert.has(before[0], after))
	epoch := a.epoch()
	a.end() // drowned

	spare := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	file := write(t, filepath.Join(stick, "hallig.json"), `{"hallig":1,"server_name":"a.test","restore":{"identity":"`+secret+`"}}`)
	start := time.Now()
	trouble, err := TakeOver(ctx, spare, file, run, log)
	if err != nil || trouble.En != "" {
		t.Fatal(err, trouble)
	}
	if !backup.JustRestored(spare) {
		t.Error("the spare box does not know that it is one")
	}
	cfg.Data = spare
	a = startWith(t, cfg)
	t.Logf("the spare box answers %v after the start", time.Since(start).Round(time.Millisecond))
	if backup.JustRestored(spare) || a.epoch() == epoch {
		t.Errorf("the spare box is in the old epoch %d", epoch)
	}
	if f := a.backupFacts(); !f.Restored {
		t.Errorf("the spare box does not say that it is one: %+v", f)
	}
	if s := a.Screen(); s.ServerName != "a.test" || s.EnrolCode != "" {
		t.Errorf("the spare box shows %+v", s)
	}
	anna.HTTP.Transport = a
	anna.since = ""
	clear(anna.events)
	new := anna.say(room, "von der Ersatzbox")
	bert.until("the message of the spare box", bert.has(new))
	answer := bert.say(room, "verstanden")
	anna.until("what the backup lacked", anna.has(before[0], after, new, answer))
	sameState(t, room, anna, bert)
	if body, _, err := anna.Download(ctx, mxc); err != nil || string(body) != "Lagekarte" {
		t.Errorf("the picture came back as %q, %v", body, err)
	}
	// The stick stays in: with accounts nothing is restored again, and the next backup is the next number.
	a.end()
	if trouble, err := TakeOver(ctx, spare, file, run, log); err != nil || trouble.En != "" || backup.JustRestored(spare) {
		t.Errorf("restored over a living box: %v %v", err, trouble)
	}
	twins := func() (n int) {
		for _, p := range b.peerFacts(ctx, time.Now()) {
			if p.Twin {
				n++
			}
		}
		return n
	}
	if twins() != 0 {
		t.Error("a spare box alone is taken for two boxes")
	}
	// The old box was not drowned after all, and somebody switches it on again.
	old := cfg
	old.Data = data
	a = startWith(t, old)
	bert.until("the old box to be noticed", func() bool { return twins() == 1 })
	a.end()
	found, err := BackUp(ctx, cfg, stick, nil, log)
	if err != nil || found.Number != made.Number+1 || found.Home != made.Home {
		t.Errorf("the next backup is %d in %s, %v", found.Number, found.Home, err)
	}
}

func (r *running) epoch() (epoch uint32) {
	r.t.Helper()
	err := r.db.Do(context.Background(), func(tx *store.Tx) (err error) {
		epoch, err = tx.OpenExchange(string(r.boxID()), 1)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return epoch
}

// TestTakeOverInVain: without a backup, or with another key, the box comes up as a new one and says what is wrong; nothing is half there.
func TestTakeOverInVain(t *testing.T) {
	ctx, run, log := t.Context(), t.TempDir(), slog.New(slog.DiscardHandler)
	public, _ := newKey(t)
	_, wrong := newKey(t)
	stick := filepath.Join(run, "sticks", "a")
	if err := os.MkdirAll(stick, 0o700); err != nil {
		t.Fatal(err)
	}
	a := startWith(t, Config{Data: t.TempDir(), ServerName: "a.test", P2P: P2PConfig{Off: true}, Backup: provision.Backup{Recipients: []string{public}}})
	a.phone("anna")
	if _, err := a.backUp(ctx, stick, nil); err != nil {
		t.Fatal(err)
	}
	spare := t.TempDir()
	file := write(t, filepath.Join(run, "provision.json"), `{"hallig":1,"restore":{"identity":"`+wrong+`"}}`)
	trouble, err := TakeOver(ctx, spare, file, run, log)
	if err != nil || !strings.Contains(trouble.En, "another") || !strings.Contains(trouble.De, "kein Konto") {
		t.Errorf("with the wrong key: %v, %+v", err, trouble)
	}
	if left, _ := os.ReadDir(spare); len(left) != 1 || left[0].Name() != "lock" {
		t.Errorf("left behind: %v", left)
	}
	if strings.Contains(trouble.De+trouble.En, wrong) {
		t.Error("the sentence tells the key")
	}
}

// TestBackupByDoor: what an operator asks for and does wrong.
func TestBackupByDoor(t *testing.T) {
	public, secret := newKey(t)
	a := startWith(t, Config{Data: t.TempDir(), ServerName: "a.test", P2P: P2PConfig{Off: true}})
	ask := a.adminOptions().BackUp
	stick := t.TempDir()
	for _, c := range []struct {
		place, want string
		to          []string
	}{
		{stick, "hallig backup key", nil}, {stick, "backup key", []string{"age1x"}}, {"stick", "whole path", []string{public}},
		{filepath.Join(stick, "none"), "plugged in", []string{public}},
	} {
		_, err := ask(t.Context(), c.place, c.to)
		var refusal *admin.Refusal
		if !errors.As(err, &refusal) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("to %s for %q: %v", c.place, c.to, err)
		}
	}
	made, err := ask(t.Context(), stick, []string{public})
	if err != nil || made.Number != 1 || made.Bytes == 0 {
		t.Fatalf("got %+v, %v", made, err)
	}
	if _, err := Restore(t.Context(), stick, a.cfg.Data, secret, nil); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("restored into a running box: %v", err)
	}
	a.end()
	if _, err := Restore(t.Context(), stick, a.cfg.Data, secret, nil); !errors.Is(err, backup.ErrLiving) {
		t.Errorf("restored over a box: %v", err)
	}
	data := filepath.Join(t.TempDir(), "new")
	r, err := Restore(t.Context(), stick, data, secret, nil)
	if err != nil || r.ServerName != "a.test" {
		t.Fatalf("got %+v, %v", r, err)
	}
	if _, err := BackUp(t.Context(), Config{Data: t.TempDir()}, stick, []string{public}, slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil))); err == nil || !strings.Contains(err.Error(), "no box") {
		t.Errorf("backed up nothing: %v", err)
	}
}

// TestBackupSchedule: when the next one is due, and where it goes.
func TestBackupSchedule(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name string
		k    *keeper
		want bool
	}{
		{"never", &keeper{}, true},
		{"an hour ago", &keeper{last: lastBackup{Made: now.Add(-time.Hour)}}, false},
		{"yesterday", &keeper{last: lastBackup{Made: now.Add(-25 * time.Hour)}}, true},
		{"in the future: the clock was wrong", &keeper{last: lastBackup{Made: now.AddDate(3, 0, 0)}}, true},
		{"failed just now", &keeper{err: errors.New("x"), tried: time.Now()}, false},
		{"failed a while ago", &keeper{err: errors.New("x"), tried: time.Now().Add(-time.Hour)}, true},
	} {
		if got := c.k.due(now, 24*time.Hour); got != c.want {
			t.Errorf("%s: due %v, want %v", c.name, got, c.want)
		}
	}
	run := t.TempDir()
	b := &Box{cfg: Config{Run: run, Backup: provision.Backup{To: "stick"}}}
	at := func(names ...string) string {
		return filepath.Join(append([]string{run, "sticks"}, names...)...)
	}
	expect := func(want, when string) {
		t.Helper()
		if got := b.backupPlace(); got != want {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	expect("", "no stick")
	for _, n := range []string{"a", "b"} {
		if err := os.MkdirAll(at(n), 0o700); err != nil {
			t.Fatal(err)
		}
		if n == "a" {
			expect(at("a"), "the only stick")
		}
	}
	expect("", "two sticks, none of them meant")
	if err := os.Mkdir(at("b", backup.Folder), 0o700); err != nil {
		t.Fatal(err)
	}
	expect(at("b"), "two sticks, one with the folder")
	b.cfg.Backup = provision.Backup{To: "folder", Folder: "/mnt/nas"}
	expect("/mnt/nas", "a folder")
}

// TestBackupLeavesRoom: a backup does not take the room that messages need.
func TestBackupLeavesRoom(t *testing.T) {
	public, _ := newKey(t)
	a := startWith(t, Config{Data: t.TempDir(), ServerName: "a.test", P2P: P2PConfig{Off: true}, Backup: provision.Backup{Recipients: []string{public}, To: "stick"}})
	a.keeper.free = func(dir string) (int64, error) {
		if dir == a.cfg.Data {
			return 2*wayback.Reserve + 1000, nil
		}
		return freeBytes(dir)
	}
	stick := t.TempDir()
	if _, err := a.backUp(t.Context(), stick, nil); !errors.Is(err, errNoRoom) {
		t.Errorf("got %v, want errNoRoom", err)
	}
	if f := a.backupFacts(); !strings.Contains(f.Err.EN, "too little room") {
		t.Errorf("the health of backups: %+v", f)
	}
	a.keeper.free = nil
	if _, err := a.backUp(t.Context(), stick, nil); err != nil {
		t.Error(err)
	}
	if f := a.backupFacts(); !f.Err.Empty() {
		t.Errorf("the health of backups: %+v", f)
	}
}

// TestStickIsMadeWritable: sticks are read-only on the image until the steward is asked; when it refuses, its sentence is told.
func TestStickIsMadeWritable(t *testing.T) {
	public, _ := newKey(t)
	run := t.TempDir()
	stick := filepath.Join(run, "sticks", "KINGSTON 8")
	if err := os.MkdirAll(stick, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(run, "steward.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	refuse := false
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if !strings.HasPrefix(r.URL.Path, "/stick") {
			http.NotFound(w, r)
			return
		}
		asked = append(asked, r.Method+" "+r.URL.Path)
		if refuse {
			w.WriteHeader(http.StatusConflict)
			json.NewEncoder(w).Encode(steward.Answer{Error: steward.Text{De: "Schreibgeschützt.", En: "Write-protected."}})
		}
	})}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	a := startWith(t, Config{Data: t.TempDir(), Run: run, TLSListen: "off", ServerName: "a.test", P2P: P2PConfig{Off: true}, Backup: provision.Backup{Recipients: []string{public}, To: "stick"}})
	if _, err := a.backUp(t.Context(), stick, nil); err != nil || len(asked) != 1 || asked[0] != "PUT /stick/KINGSTON 8/write" {
		t.Errorf("asked %q, %v", asked, err)
	}
	if _, err := a.backUp(t.Context(), t.TempDir(), nil); err != nil || len(asked) != 1 {
		t.Errorf("for a folder the steward was asked %q, %v", asked, err)
	}
	mu.Lock()
	refuse = true
	mu.Unlock()
	if _, err := a.adminOptions().BackUp(t.Context(), stick, nil); err == nil || !strings.Contains(err.Error(), "Write-protected") {
		t.Errorf("a protected stick: %v", err)
	}
	if f := a.backupFacts(); f.Err.DE != "Schreibgeschützt." {
		t.Errorf("the health of backups: %+v", f)
	}
}

// TestBackupOnAnotherBox: a backup goes to a paired box, which cannot read it; from there it comes onto a stick, and a spare box takes over.
func TestBackupOnAnotherBox(t *testing.T) {
	ctx := t.Context()
	public, secret := newKey(t)
	quiet := P2PConfig{NoMDNS: true, Listen: []string{"/ip4/127.0.0.1/tcp/0"}}
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "b.test", P2P: quiet})
	cfg := Config{Data: t.TempDir(), ServerName: "a.test", P2P: quiet, Backup: provision.Backup{Recipients: []string{public}, To: "peer"}}
	cfg.P2P.Peers = b.exchange.host.Addrs()
	a := startWith(t, cfg)
	paired(t, a, b)
	a.end()
	a = startWith(t, cfg)
	anna := a.phone("anna")
	if _, err := anna.Upload(ctx, "image/png", "karte.png", strings.NewReader("Lagekarte")); err != nil {
		t.Fatal(err)
	}
	bert := b.phone("bert")
	bert.until("the other box", func() bool { return a.keeperInReach() == "b.test" })
	stick := t.TempDir()
	if _, err := b.exportBackups(ctx, "a.test", stick); err == nil || !strings.Contains(err.Error(), "no backup of a.test") {
		t.Errorf("exported nothing: %v", err)
	}
	a.backUpToBox(ctx)
	if f := a.backupFacts(); !f.Err.Empty() || f.Age == 0 || a.keeper.last.Place != "b.test" {
		t.Fatalf("after bringing it: %+v, %+v", f, a.keeper.last)
	}
	a.backUpToBox(ctx) // not due
	if a.keeper.last.Number != 1 {
		t.Errorf("backup %d was brought, though it was not due", a.keeper.last.Number)
	}
	got, err := b.exportBackups(ctx, "a.test", stick)
	if err != nil || got.Number != 1 {
		t.Fatalf("exported %+v, %v", got, err)
	}
	data := filepath.Join(t.TempDir(), "spare")
	r, err := Restore(ctx, stick, data, secret, nil)
	if err != nil || r.ServerName != "a.test" || r.MediaFiles != 1 || len(r.Missing) != 0 {
		t.Errorf("restored %+v, %v", r, err)
	}
	if entries, err := os.ReadDir(filepath.Join(data, "backup")); err == nil {
		for _, e := range entries {
			if e.Name() == backup.OutFolder {
				t.Error("the backup holds backups")
			}
		}
	}
	// A keeper that has no room says so, and what is wrong is shown.
	b.end()
	b = startWith(t, Config{Data: b.cfg.Data, ServerName: "b.test", P2P: b.cfg.P2P, KeepForBoxesBytes: 10})
	a.end()
	cfg.P2P.Peers = b.exchange.host.Addrs()
	a = startWith(t, cfg)
	a.keeper.last.Made = time.Time{}
	bert = b.phone("berta")
	bert.until("the other box", func() bool { return a.keeperInReach() == "b.test" })
	a.backUpToBox(ctx)
	if f := a.backupFacts(); !strings.Contains(f.Err.EN, "no room") {
		t.Errorf("a full keeper: %+v", f)
	}
	// A stranger is not answered.
	w := httptest.NewRecorder()
	b.keeping(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", backup.ShelfPath, nil))
	if w.Code != http.StatusForbidden {
		t.Errorf("a stranger got %d", w.Code)
	}
}

// TestRestoredIsTold: what is left to do after a restore is told through restarts, while the time is not known, and for thirty days from when it is;
// where backups are set up, for one.
func TestRestoredIsTold(t *testing.T) {
	for to, want := range map[string][]bool{"": {true, true, false}, "stick": {true, false, false}} {
		data := t.TempDir()
		note := filepath.Join(data, restoredNote)
		write(t, note, `{"since":"0001-01-01T00:00:00Z"}`)
		start := func(at time.Time) *Box {
			t.Helper()
			c := clock.New(clock.Config{Released: firstRelease})
			if !at.IsZero() && !c.Set(clock.Reading{Time: at, Quality: clock.Entered, Source: "test"}) {
				t.Fatal("the clock is not set")
			}
			b := &Box{cfg: Config{Data: data, Backup: provision.Backup{To: to}}, clock: c, log: slog.New(slog.DiscardHandler)}
			if err := b.noteRestored(); err != nil {
				t.Fatal(err)
			}
			return b
		}
		if !start(time.Time{}).tellRestored() {
			t.Errorf("%q: not told while the time is not known", to)
		}
		first := firstRelease.AddDate(1, 0, 0)
		for i, days := range []int{0, 29, 31} {
			if got := start(first.AddDate(0, 0, days)).tellRestored(); got != want[i] {
				t.Errorf("%q, day %d: told %v, want %v", to, days, got, want[i])
			}
		}
		if _, err := os.Stat(note); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the note is still there: %v", to, err)
		}
	}
	data := t.TempDir()
	if b := (&Box{cfg: Config{Data: data}}); b.noteRestored() != nil || b.tellRestored() {
		t.Error("a box that never was restored says so")
	}
}

// TestBackupIsAboutToStart: with a stick in and nothing failed, nobody is told to plug one in.
func TestBackupIsAboutToStart(t *testing.T) {
	run := t.TempDir()
	b := &Box{cfg: Config{Data: t.TempDir(), Run: run, Backup: provision.Backup{To: "stick"}}, clock: clock.New(clock.Config{Released: firstRelease})}
	if f := b.backupFacts(); f.Starting {
		t.Errorf("without a stick: %+v", f)
	}
	if err := os.MkdirAll(filepath.Join(run, "sticks", "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f := b.backupFacts(); !f.Starting || !f.ToStick {
		t.Errorf("with a stick: %+v", f)
	}
	b.keeper.tried, b.keeper.err = time.Now(), errNoRoom
	if f := b.backupFacts(); f.Starting || f.Err.Empty() {
		t.Errorf("after one that failed: %+v", f)
	}
	b.keeper.err, b.keeper.last.Made = nil, b.clock.Now()
	if f := b.backupFacts(); f.Starting {
		t.Errorf("after one that was made: %+v", f)
	}
}
