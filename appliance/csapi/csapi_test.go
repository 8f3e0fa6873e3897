// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/feed"
	"hallig/appliance/media"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

const boxName = "box.example"

// box is a homeserver in a temporary directory, with the real rooms behind it.
type box struct {
	testing.TB
	h   *Handler
	url string
	ctx context.Context
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func newBox(t testing.TB, change ...func(*Config)) *box {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	db, err := store.Open(ctx, filepath.Join(dir, "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	rooms := room.New(db, room.Identity{Server: boxName, Key: event.Key{ID: "ed25519:a", Private: key}}, room.Options{Log: log})
	feeds := feed.New(db, rooms, feed.Options{Log: log, Presence: true})
	files, err := media.Open(ctx, db, boxName, filepath.Join(dir, "media"), media.Options{MaxUpload: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		ServerName: boxName, DB: db, Rooms: rooms, Feed: feeds, Media: files, Log: log, OpenRegistration: true, SharedSecret: "geheim", Limits: Limits{Off: true},
		Accounts: account.New(db, boxName, account.Options{Log: log, Cost: account.Cost{MemoryKiB: 64, Passes: 1}}),
	}
	for _, f := range change {
		f(&cfg)
	}
	h := New(cfg)
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		feeds.Close()
		srv.Close()
		h.Close()
		cancel()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return &box{t, h, srv.URL, ctx}
}

// user registers an account and gives its client.
func (b *box) user(name string) *matrixclient.Client {
	b.Helper()
	c := matrixclient.New(b.url)
	if err := c.Register(b.ctx, name, "password-"+name, ""); err != nil {
		b.Fatal(err)
	}
	return c
}

// must stops the test at an error.
func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (b *box) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// refused checks a refusal.
func (b *box) refused(what string, err error, status int, code string) {
	b.Helper()
	if matrixclient.Status(err) != status || matrixclient.Code(err) != code {
		b.Errorf("%s: got %v, want %d %s", what, err, status, code)
	}
}

func (b *box) room(c *matrixclient.Client, req matrixclient.CreateRoom) string {
	b.Helper()
	id, err := c.CreateRoom(b.ctx, req)
	return must(b, id, err)
}

// raw sends a request as it stands and gives status, headers and the decoded body.
func (b *box) raw(method, path, token, body string, head ...string) (int, http.Header, map[string]any) {
	b.Helper()
	req, err := http.NewRequestWithContext(b.ctx, method, b.url+path, strings.NewReader(body))
	b.ok(err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(head); i += 2 {
		req.Header.Set(head[i], head[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	b.ok(err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	b.ok(err)
	var m map[string]any
	if len(raw) > 0 && raw[0] == '{' {
		if err := json.Unmarshal(raw, &m); err != nil {
			b.Errorf("%s %s: answer is no JSON: %v", method, path, err)
		}
	}
	return resp.StatusCode, resp.Header, m
}

func handlerThatPanics(context.Context, *call) (any, error) { panic("on purpose") }
