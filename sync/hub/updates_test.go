// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"hallig/appliance/update"
	"hallig/sync/hub/api"
)

// updateFile makes one that somebody has signed, of so many bytes and some.
func updateFile(t *testing.T, version string, release int64, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data) // never fails
	var b bytes.Buffer
	if _, err := update.Write(&b, update.Manifest{Product: update.Product, Board: "amd64", Version: version, Release: release},
		[]update.Source{{File: update.RootPart, Data: bytes.NewReader(data), Size: int64(size)}}, update.GenerateKey("test")); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// get fetches over libp2p, as a box does.
func (b *testBox) get(uri, ranges string) (*http.Response, []byte) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), "GET", "matrix://hub.test"+uri, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := b.host.RoundTripper().RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, raw
}

// A box is told of an update that is rolled out to it, fetches it from where it broke off, and no box more is told of it once it has failed.
func TestUpdateThroughTheHub(t *testing.T) {
	w := newWorld(t)
	b, other := w.newBox("box1.test"), w.newBox("box2.test")
	said := func(x *testBox, release int64, u *api.UpdateState) *api.Update {
		t.Helper()
		c := x.contact()
		c.Board, c.Release, c.Update = "amd64", release, u
		status, a := x.deposit(c)
		if status != 200 {
			t.Fatal(status)
		}
		return a.Update
	}
	file := updateFile(t, "1.3.0", 9, 300_000)
	var added UpdateFile
	if err := Ask(t.Context(), w.dir, "POST", "/update", bytes.NewReader(file), &added); err != nil || added.Version != "1.3.0" || added.Bytes != int64(len(file)) {
		t.Fatalf("%+v %v", added, err)
	}
	if err := Ask(t.Context(), w.dir, "POST", "/update", strings.NewReader("no update"), nil); err == nil || !strings.Contains(err.Error(), "not an update file") {
		t.Errorf("something else: %v", err)
	}
	const path = api.UpdatePath + "amd64/9"
	if u := said(b, 8, nil); u != nil {
		t.Errorf("told before it is rolled out: %+v", u)
	}
	if resp, _ := b.get(path, ""); resp.StatusCode != 404 {
		t.Errorf("given before it is rolled out: %d", resp.StatusCode)
	}
	if err := Ask(t.Context(), w.dir, "POST", "/update/1.3.0", Roll{Boxes: []string{"box1.test"}}, nil); err != nil {
		t.Fatal(err)
	}
	if u := said(b, 8, nil); u == nil || *u != (api.Update{Board: "amd64", Version: "1.3.0", Release: 9, Bytes: int64(len(file))}) {
		t.Errorf("told %+v", u)
	}
	if u := said(b, 9, nil); u != nil {
		t.Errorf("a box that runs it is told %+v", u)
	}
	if u := said(other, 8, nil); u != nil {
		t.Errorf("another box is told %+v", u)
	}
	if resp, _ := other.get(path, ""); resp.StatusCode != 404 {
		t.Errorf("another box is given: %d", resp.StatusCode)
	}
	resp, got := b.get(path, "")
	if resp.StatusCode != 200 || !bytes.Equal(got, file) || resp.Header.Get(api.UpdateRelease) != "9" || resp.Header.Get(api.UpdateVersion) != "1.3.0" {
		t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(got), resp.Header)
	}
	if resp, got = b.get(path, "bytes=200000-"); resp.StatusCode != 206 || !bytes.Equal(got, file[200000:]) {
		t.Errorf("the rest: %d, %d bytes", resp.StatusCode, len(got))
	}
	for _, bad := range []string{"amd64/", "amd64/x", "amd64", "", "rpi/9", "amd64/8", "..%2f..%2fspool.db/9"} {
		if resp, _ := b.get(api.UpdatePath+bad, ""); resp.StatusCode != 404 && resp.StatusCode != 400 {
			t.Errorf("%q: %d", bad, resp.StatusCode)
		}
	}
	if status, _ := w.ask("hub.test", "GET", path, nil, nil); status != 404 {
		t.Errorf("the world is given updates: %d", status)
	}
	for range cap(w.hub.fetching) {
		w.hub.fetching <- struct{}{}
	}
	if resp, _ := b.get(path, ""); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one too many: %d", resp.StatusCode)
	}
	for range cap(w.hub.fetching) {
		<-w.hub.fetching
	}
	all := 100
	if err := Ask(t.Context(), w.dir, "POST", "/update/1.3.0", Roll{Share: &all}, nil); err != nil {
		t.Fatal(err)
	}
	if u := said(other, 8, &api.UpdateState{State: "failed", Release: 5, Error: "long ago"}); u == nil {
		t.Error("an old failure of another release stops it")
	}
	if u := said(b, 8, &api.UpdateState{State: api.UpdateFailed, Version: "1.3.0", Release: 9, Error: "no answer on trial"}); u != nil {
		t.Errorf("the box on which it failed is told %+v", u)
	}
	if u := said(other, 8, nil); u != nil {
		t.Errorf("after a failure another box is told %+v", u)
	}
	var s Status
	if err := Ask(t.Context(), w.dir, "GET", "/status", nil, &s); err != nil || len(s.Updates) != 1 || s.Updates[0].Stopped != "box1.test: no answer on trial" {
		t.Errorf("%+v %v", s.Updates, err)
	}
	for _, bad := range []Roll{{}, {Share: &all, Stop: "x"}, {Stop: "x", Remove: true}} {
		if err := Ask(t.Context(), w.dir, "POST", "/update/1.3.0", bad, nil); err == nil {
			t.Errorf("%+v was done", bad)
		}
	}
	if err := Ask(t.Context(), w.dir, "POST", "/update/1.3.0", Roll{Remove: true}, nil); err != nil {
		t.Error(err)
	}
}

// One box fetches no faster than it may.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &sink{}
		began := time.Now()
		p := &paced{ResponseWriter: w, ctx: t.Context(), pace: rate.NewLimiter(100<<10, updateChunk), out: http.NewResponseController(w)}
		if n, err := p.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
			t.Fatal(n, err)
		}
		if took := time.Since(began); took < 10*time.Second || took > 11*time.Second {
			t.Errorf("a MiB at 100 kB/s took %v", took)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		p.ctx = ctx
		if n, err := p.Write(make([]byte, 1<<20)); err == nil || n == 1<<20 {
			t.Errorf("for a box that has gone: %d %v", n, err)
		}
		if w.n < 1<<20 || fmt.Sprint(w.until.Sub(began)) == "0s" {
			t.Errorf("%d bytes, deadline %v", w.n, w.until)
		}
	})
}

// sink is a response that goes nowhere.
type sink struct {
	n     int
	until time.Time
}

func (s *sink) Header() http.Header                 { return http.Header{} }
func (s *sink) WriteHeader(int)                     {}
func (s *sink) SetWriteDeadline(at time.Time) error { s.until = at; return nil }
func (s *sink) Write(p []byte) (int, error)         { s.n += len(p); return len(p), nil }
