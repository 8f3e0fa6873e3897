// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

const filePath = "/_matrix/federation/v1/media/download/"

// shelfOf is a box's files, given by the handler that boxes have.
type shelfOf struct {
	mu    sync.Mutex
	files map[string][]byte
	asked map[string]int
}

func (s *shelfOf) Open(_ context.Context, _, id string) (io.ReadCloser, string, string, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[id]++
	file := s.files[id]
	if file == nil {
		return nil, "", "", 0, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(file)), "image/jpeg", id + " am Deich.jpg", int64(len(file)), nil
}

func (s *shelfOf) Thumbnail(ctx context.Context, local, id string, _, _ int, _ string) (io.ReadCloser, string, int64, error) {
	r, typ, _, n, err := s.Open(ctx, local, "thumb-"+id)
	return r, typ, n, err
}

func (s *shelfOf) times(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[id]
}

// gives has the box give files, of so many bytes each.
func (b *testBox) gives(sizes map[string]int) *shelfOf {
	b.t.Helper()
	s := &shelfOf{files: map[string][]byte{}, asked: map[string]int{}}
	for id, n := range sizes {
		file := make([]byte, n)
		for i := range file {
			file[i] = byte(rand.Uint32())
		}
		s.files[id] = file
	}
	l := federation.Local{Server: b.id.Server, Key: b.id.Key}
	ring := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(l), Fetch: federation.FetchKeys(roundTrip(func(req *http.Request) (*http.Response, error) {
		out := req.Clone(req.Context()) // all keys come by the hub
		out.Host, out.URL.Host = req.URL.Host, "hub.test"
		return b.host.RoundTripper().RoundTrip(out)
	}))})
	door := federation.NewHandler(federation.HandlerConfig{Locals: federation.Only(l), Ring: ring, Media: s})
	b.answers(func(w http.ResponseWriter, r *http.Request) { door.ServeHTTP(w, r) })
	return s
}

// file asks for one as the far server, and reads the answer as its client does. ok: it came whole.
func (w *world) file(box, id string) (file []byte, typ, name string, ok bool) {
	w.Helper()
	c := federation.NewClient(federation.ClientConfig{Local: w.far.Local, Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
		out := req.Clone(req.Context())
		out.URL.Scheme, out.URL.Host = "https", box
		return w.client(box).Transport.RoundTrip(out)
	})})
	body, typ, name, err := c.Media(w.Context(), box, id)
	if err != nil {
		return nil, "", "", false
	}
	defer body.Close()
	file, err = io.ReadAll(body)
	return file, typ, name, err == nil
}

// status is what an absent file is answered with.
func (w *world) fileStatus(box, uri string) (int, string) {
	w.Helper()
	status, out := w.ask(box, "GET", uri, signed(w.T, w.far.Local, box, "GET", uri, nil), nil)
	return status, string(out)
}

func (w *world) absent(box, id string) {
	w.Helper()
	if status, out := w.fileStatus(box, filePath+id); status != 404 || !strings.Contains(out, "M_NOT_FOUND") || !strings.Contains(out, "try again") {
		w.Errorf("%s: %d %s", id, status, out)
	}
}

func (b *testBox) lists(files ...api.File) {
	b.t.Helper()
	raw, err := json.Marshal(api.Files{Files: files})
	if err != nil {
		b.t.Fatal(err)
	}
	if status, out := b.ask("hub.test", "PUT", api.FilesPath, nil, raw); status != 200 {
		b.t.Fatalf("%d %s", status, out)
	}
}

func (w *world) kept(box string) (files, bytes int64) {
	k := w.hub.depot.Stats().Boxes[box]
	return k.Files, k.Bytes
}

// A photo that its box has brought is given byte for byte while the box is away, also by a hub that was started anew, and not when the box was turned away.
func TestFilesOfABoxThatIsAway(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	s := b.gives(map[string]int{"photo": 3 << 20, "thumb": 20_000, "large": 11 << 20, "private": 100})
	now := time.Now().UnixMilli()
	b.lists(api.File{ID: "photo", Bytes: 3 << 20, At: now}, api.File{ID: "large", Bytes: 11 << 20, At: now}, api.File{ID: "thumb", Bytes: 20_000, At: now - 1000})
	w.await("the files to be fetched", func() bool { n, _ := w.kept("box1.test"); return n == 2 })
	b.away()
	whole := func() {
		t.Helper()
		for _, id := range []string{"photo", "thumb"} {
			file, typ, name, ok := w.file("box1.test", id)
			if !ok || !bytes.Equal(file, s.files[id]) || typ != "image/jpeg" || name != id+" am Deich.jpg" {
				t.Errorf("%s: %v, %d bytes %s %q", id, ok, len(file), typ, name)
			}
		}
		w.absent("box1.test", "large")
		w.absent("box1.test", "private")
	}
	whole()
	uri := filePath + "photo"
	if status, out := w.ask("box1.test", "GET", uri, signed(t, federation.Local{Server: "far.test", Key: b.id.Key}, "box1.test", "GET", uri, nil), nil); status != 401 {
		t.Errorf("with a wrong signature: %d %.80s", status, out)
	}
	if status, out := w.fileStatus("box1.test", "/_matrix/media/v3/download/box1.test/photo"); status != 404 {
		t.Errorf("without a signature there were files once: %d %.80s", status, out)
	}
	w.stop()
	w.start()
	whole()
	if s := w.hub.depot.Stats(); s.Answered != 2 || s.Boxes["box1.test"].Bytes != 3<<20+20_000 {
		t.Errorf("%+v", s)
	}
	if err := w.hub.revoke(t.Context(), "box1.test", "lost", false); err != nil {
		t.Fatal(err)
	}
	if status, _ := w.fileStatus("box1.test", uri); status != 403 {
		t.Errorf("of a revoked box: %d", status)
	}
	w.await("the files to be gone", func() bool { return w.fileCount() == 0 })
}

// fileCount counts the files on the hub's disk.
func (w *world) fileCount() (n int) {
	w.Helper()
	err := filepath.WalkDir(filepath.Join(w.dir, filesDir), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		if errors.Is(err, fs.ErrNotExist) { // it went meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// What somebody has asked a box for is kept as it passes: the line carries it once, and it is there when the box is not. What does not come whole is not kept.
func TestFilesThatPass(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	s := b.gives(map[string]int{"photo": 300_000, "torn": 300_000, "thumb-photo2": 5000})
	for range 2 {
		if file, _, _, ok := w.file("box1.test", "photo"); !ok || !bytes.Equal(file, s.files["photo"]) {
			t.Fatalf("%d bytes, whole: %v", len(file), ok)
		}
		w.await("it to be kept", func() bool { n, _ := w.kept("box1.test"); return n == 1 })
	}
	if n := s.times("photo"); n != 1 {
		t.Errorf("the box was asked %d times", n)
	}
	uri := "/_matrix/federation/v1/media/thumbnail/photo2?width=96&height=96&method=crop"
	status, first := w.fileStatus("box1.test", uri)
	if status != 200 {
		t.Fatalf("%d %s", status, first)
	}
	w.await("the thumbnail to be kept", func() bool { n, _ := w.kept("box1.test"); return n == 2 })
	b.mu.Lock()
	door := b.next
	b.mu.Unlock()
	var tears atomic.Int32
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		tears.Add(1)
		door(&tearing{ResponseWriter: w, left: 100_000}, r)
	})
	if _, _, _, ok := w.file("box1.test", "torn"); ok || tears.Load() == 0 {
		t.Error("it came whole")
	}
	b.away()
	if file, _, _, ok := w.file("box1.test", "photo"); !ok || !bytes.Equal(file, s.files["photo"]) {
		t.Errorf("while the box is away: %d bytes, whole: %v", len(file), ok)
	}
	if status, out := w.fileStatus("box1.test", uri); status != 200 || !strings.Contains(out, string(s.files["thumb-photo2"])) {
		t.Errorf("the thumbnail: %d, %d bytes", status, len(out))
	}
	w.absent("box1.test", "torn")
	w.absent("box1.test", "photo2")
	if n, _ := w.kept("box1.test"); n != 2 {
		t.Errorf("%d are kept", n)
	}
}

// tearing is an answer that breaks off.
type tearing struct {
	http.ResponseWriter
	left int
}

func (w *tearing) Write(b []byte) (int, error) {
	if w.left -= len(b); w.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(b)
}

// A file that the disk has changed is given to nobody, and is gone.
func TestDamagedFile(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	b.gives(map[string]int{"photo": 300_000})
	if _, _, _, ok := w.file("box1.test", "photo"); !ok {
		t.Fatal("the box does not give it")
	}
	w.await("it to be kept", func() bool { n, _ := w.kept("box1.test"); return n == 1 })
	b.away()
	err := filepath.WalkDir(filepath.Join(w.dir, filesDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.WriteFile(path, bytes.Repeat([]byte("x"), 300_000), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	w.absent("box1.test", "photo")
	if n := w.fileCount(); n != 0 || w.hub.depot.Stats().Damaged != 1 || !w.log.has("WARN", "damaged on the disk") {
		t.Errorf("%d files lie there, %+v", n, w.hub.depot.Stats())
	}
}

// Who keeps no files says so in hub.json: then nothing is fetched or kept, and what was is gone.
func TestNoFiles(t *testing.T) {
	w := newWorld(t)
	b := w.newBox("box1.test")
	s := b.gives(map[string]int{"photo": 3000})
	if _, _, _, ok := w.file("box1.test", "photo"); !ok {
		t.Fatal("the box does not give it")
	}
	w.await("it to be kept", func() bool { n, _ := w.kept("box1.test"); return n == 1 })
	w.stop()
	w.with = func(c *Config) { c.Files.Off = true }
	w.start()
	if n := w.fileCount(); n != 0 {
		t.Errorf("%d files lie there", n)
	}
	w.await("the box to be back", func() bool { return w.hub.p2p.InReach("box1.test") })
	if file, _, _, ok := w.file("box1.test", "photo"); !ok || !bytes.Equal(file, s.files["photo"]) {
		t.Error("the box itself does not give it any more")
	}
	b.away()
	w.absent("box1.test", "photo")
}

func TestFilesConfig(t *testing.T) {
	for _, c := range []FilesConfig{{FileMegabytes: -1}, {Megabytes: 1 << 40}} {
		if c.check() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	if l := (FilesConfig{FileMegabytes: 5, NoFetch: true}).limits(); l.File != 5<<20 || l.Fetch || l.Off {
		t.Errorf("%+v", l)
	}
}
