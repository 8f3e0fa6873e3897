// SPDX-License-Identifier: EUPL-1.2

package depot

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"hallig/appliance/event"
	"hallig/appliance/media"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// boxes are boxes that give files, and what is around a depot.
type boxes struct {
	*testing.T
	*Depot
	dir string

	mu     sync.Mutex
	files  map[string][]byte // by id
	asked  []string
	away   map[string]bool
	turned map[string]bool // turned away
	noisy  bool
	free   int64
	give   func(w http.ResponseWriter, id string) // in place of the file
}

// inTime bounds a wait for something that has to come.
const inTime = 20 * time.Second

func newBoxes(t *testing.T, l Limits) *boxes {
	t.Helper()
	b := &boxes{T: t, dir: t.TempDir(), files: map[string][]byte{}, away: map[string]bool{}, turned: map[string]bool{}, free: 1 << 40}
	db, err := store.Open(t.Context(), filepath.Join(b.dir, "hallig.db"), store.Options{Reserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if l.Tend == 0 {
		l.Tend = 10 * time.Millisecond
	}
	local := federation.Local{Server: "hub.test", Key: event.Key{ID: "ed25519:1", Private: key}}
	under := func(m map[string]bool) func(string) bool {
		return func(box string) bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return !m[box]
		}
	}
	b.Depot, err = Open(t.Context(), Config{
		DB: db, Dir: filepath.Join(b.dir, "files"), Local: local, Ring: federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(local)}), Boxes: roundTrip(b.answer), InReach: under(b.away),
		Quiet: func(context.Context, string) bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return !b.noisy
		},
		Known: under(b.turned), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Limits: l,
		Free: func() (int64, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.free, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { b.Depot.Run(ctx) })
	t.Cleanup(func() { stop(); run.Wait() })
	return b
}

// set changes what is around the depot.
func (b *boxes) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// answer is what a box answers.
func (b *boxes) answer(req *http.Request) (*http.Response, error) {
	id := strings.TrimPrefix(req.URL.Path, downloadPath)
	b.mu.Lock()
	b.asked = append(b.asked, req.URL.Host+"/"+id)
	file, give := b.files[id], b.give
	b.mu.Unlock()
	w := httptest.NewRecorder()
	switch {
	case give != nil:
		give(w, id)
	case file == nil:
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errcode":"M_NOT_FOUND","error":"none"}`)
	default:
		multi(w, file)
	}
	resp := w.Result()
	resp.Request = req
	return resp, nil
}

// multi writes a file as boxes answer.
func multi(w http.ResponseWriter, file []byte) {
	w.Header().Set("Content-Type", "multipart/mixed; boundary=x")
	fmt.Fprintf(w, "--x\r\nContent-Type: application/json\r\n\r\n{}\r\n--x\r\nContent-Type: image/jpeg\r\nContent-Disposition: attachment; filename=a.jpg\r\n\r\n%s\r\n--x--\r\n", file)
}

// has gives a box's list: files of so many bytes, the first the newest.
func (b *boxes) has(files ...api.File) api.Files {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range files {
		files[i].At = time.Now().Add(-time.Duration(i) * time.Hour).UnixMilli()
		b.files[files[i].ID] = bytes.Repeat([]byte(files[i].ID[:1]), int(files[i].Bytes))
	}
	return api.Files{Files: files}
}

func (b *boxes) told(box string, l api.Files) {
	b.Helper()
	if err := b.Told(b.Context(), box, l); err != nil {
		b.Fatal(err)
	}
}

func (b *boxes) heard() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.asked, " ")
}

func (b *boxes) await(what string, cond func() bool) {
	b.Helper()
	for end := time.Now().Add(inTime); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("waited in vain for: %s; asked: %s; %+v", what, b.heard(), b.Stats())
		}
	}
}

// fetched waits until so many files were fetched, and nothing more is.
func (b *boxes) fetched(n int64) {
	b.Helper()
	b.await(fmt.Sprintf("%d files", n), func() bool { return b.count.fetched.Load() == n && b.idle() })
}

// idle says that nothing is being fetched, and nothing could be.
func (b *boxes) idle() bool {
	b.Depot.mu.Lock()
	defer b.Depot.mu.Unlock()
	for name, one := range b.Depot.boxes {
		if _, more := b.soon(name); more || one.busy {
			return false
		}
	}
	return true
}

// here asks as a server far away.
func (b *boxes) file(box, id string) (*httptest.ResponseRecorder, bool) {
	w := httptest.NewRecorder()
	return w, b.Answer(w, httptest.NewRequest("GET", downloadPath+id, nil), federation.Question{Local: box, Origin: "far.test"})
}

// Small files come first, among these and the others the newest, and no more than there is room for; a file too large for the bounds is not asked for.
func TestOrderAndBounds(t *testing.T) {
	b := newBoxes(t, Limits{Fetch: true, File: 200_000, Box: 350_000, Pace: 1 << 30, AtOnce: 1})
	l := b.has(api.File{ID: "A", Bytes: 100_000}, api.File{ID: "huge", Bytes: 200_001}, api.File{ID: "b", Bytes: 10}, api.File{ID: "C", Bytes: 150_000}, api.File{ID: "d", Bytes: 20}, api.File{ID: "E", Bytes: 120_000}, api.File{ID: "f", Bytes: 5})
	b.told("box1.test", l)
	b.fetched(4)
	if got, want := b.heard(), "box1.test/b box1.test/d box1.test/A box1.test/C"; got != want {
		t.Errorf("asked: %s, want %s", got, want)
	}
	if _, ok := b.file("box1.test", "E"); ok {
		t.Error("more is here than there is room for")
	}
	if _, ok := b.file("box2.test", "A"); ok {
		t.Error("it is given in another box's name")
	}
	w, ok := b.file("box1.test", "C")
	if !ok || !bytes.Contains(w.Body.Bytes(), b.files["C"]) {
		t.Errorf("%v, %d bytes", ok, w.Body.Len())
	}
	b.told("box1.test", l) // nothing of it is fetched again
	b.fetched(4)
}

// What is newer takes the room of what is older, and nothing is asked for that has no room: the files of one box within its bound, those of all within the node's.
func TestNewerTakesRoom(t *testing.T) {
	b := newBoxes(t, Limits{Fetch: true, Box: 200_000, Node: 250_000, Pace: 1 << 30})
	old := b.has(api.File{ID: "New", Bytes: 100_000}, api.File{ID: "Old", Bytes: 100_000})
	b.told("box1.test", old)
	b.fetched(2)
	b.told("box2.test", api.Files{Files: []api.File{{ID: "Other", Bytes: 100_000, At: time.Now().Add(-24 * time.Hour).UnixMilli()}}})
	b.await("nothing to fetch", b.idle)
	if strings.Contains(b.heard(), "Other") {
		t.Error("a file was asked for that is older than all that is here")
	}
	b.set(func() { b.files["Other"] = make([]byte, 100_000) })
	b.told("box2.test", api.Files{Files: []api.File{{ID: "Other", Bytes: 100_000, At: time.Now().UnixMilli()}}})
	b.fetched(3)
	for id, want := range map[string]bool{"box1.test/New": true, "box1.test/Old": false, "box2.test/Other": true} {
		box, id, _ := strings.Cut(id, "/")
		if _, ok := b.file(box, id); ok != want {
			t.Errorf("%s is here: %v", id, ok)
		}
	}
}

// When others need the disk the least used files go, and nothing more is kept until there is room again.
func TestFullDisk(t *testing.T) {
	b := newBoxes(t, Limits{Fetch: true, File: 1 << 20, Free: 1 << 30, Pace: 1 << 30})
	l := b.has(api.File{ID: "New", Bytes: 100_000}, api.File{ID: "Old", Bytes: 100_000})
	b.told("box1.test", l)
	b.fetched(2)
	b.set(func() { b.free = 1<<30 - 50_000 })
	b.await("a file to be given up", func() bool { s := b.Stats(); return s.Full && s.Boxes["box1.test"].Files <= 1 })
	b.set(func() { b.free = 1 << 30 }) // no less than what is left to others, and no room for a file either
	b.await("it to be over", func() bool { return !b.Stats().Full })
	if _, ok := b.file("box1.test", "Old"); ok {
		t.Error("the older one stayed")
	}
	if err := b.keep(t.Context(), "box1.test", "x", media.Info{}, strings.NewReader("x")); !errors.Is(err, errNoDisk) {
		t.Errorf("it is kept with no room for it: %v", err)
	}
	b.set(func() { b.free = 1 << 40 })
	b.told("box1.test", l)
	b.await("both to be here again", func() bool { return b.Stats().Boxes["box1.test"].Files == 2 })
}

// A box whose line is needed is left alone; one that is not in reach is asked for nothing; what it has not got is no harm.
func TestLeftAlone(t *testing.T) {
	b := newBoxes(t, Limits{Fetch: true, Pace: 1 << 30})
	b.set(func() { b.noisy, b.away["box2.test"] = true, true })
	b.Came("box1.test")
	b.told("box1.test", b.has(api.File{ID: "a", Bytes: 10}))
	b.told("box2.test", b.has(api.File{ID: "b", Bytes: 10}))
	for range 3 { // once it has been read the one before was looked at
		b.wake <- struct{}{}
	}
	if got := b.heard(); got != "" {
		t.Errorf("asked: %s", got)
	}
	b.set(func() { b.noisy = false })
	b.told("box1.test", api.Files{Files: []api.File{{ID: "none", Bytes: 10}, {ID: "a", Bytes: 10}}})
	b.await("the failure", func() bool { return b.count.failed.Load() == 1 })
	b.Came("box1.test") // rests no more
	poke(b.wake)
	b.fetched(1)
}

// Over a narrow line small files come alone, and nobody else asks the box for any; when it is connected anew that is over.
func TestNarrowLine(t *testing.T) {
	b := newBoxes(t, Limits{Fetch: true, Pace: 1 << 30})
	large := b.has(api.File{ID: "Large", Bytes: 100_000})
	f := large.Files[0]
	b.told("box1.test", api.Files{})
	b.over(t.Context(), "box1.test", f, errNarrow)
	if _, err := b.Enter(t.Context(), "box1.test"); !errors.Is(err, ErrNarrow) {
		t.Errorf("it is asked for a file: %v", err)
	}
	if !b.idle() {
		t.Error("a large file is fetched")
	}
	b.Came("box1.test")
	poke(b.wake)
	b.fetched(1)
	leave, err := b.Enter(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

// A line that brings not even small files is tried less and less often, and anew when it has brought one.
func TestLineThatBringsNothing(t *testing.T) {
	b := newBoxes(t, Limits{})
	b.told("box1.test", api.Files{})
	b.Came("box1.test")
	rest := func(err error) time.Duration {
		b.over(t.Context(), "box1.test", api.File{ID: "s", Bytes: 10}, err)
		b.Depot.mu.Lock()
		defer b.Depot.mu.Unlock()
		return b.Depot.boxes["box1.test"].delay
	}
	for _, want := range []time.Duration{restFirst, 2 * restFirst, 4 * restFirst} {
		if got := rest(errNarrow); got != want {
			t.Errorf("it rests for %v, want %v", got, want)
		}
	}
	for range 20 {
		rest(errNarrow)
	}
	if got := rest(errNarrow); got != restMost {
		t.Errorf("in the end it rests for %v", got)
	}
	if rest(nil); rest(errNarrow) != restFirst {
		t.Error("it is not tried anew after it has brought something")
	}
}

// A line that brings little is known for it soon, and one that brings enough carries no more than it is to.
func TestPaced(t *testing.T) {
	read := func(each int, gap time.Duration, total int) (took time.Duration, n int64, err error) {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			p := &paced{Reader: &dripping{each, gap, total}, ctx: t.Context(), began: began, pace: rate.NewLimiter(256<<10, pacedPiece), wide: 32 << 10}
			n, err = io.Copy(io.Discard, p)
			took = time.Since(began)
		})
		return took, n, err
	}
	if took, n, err := read(1<<20, 0, 10<<20); err != nil || n != 10<<20 || took < 39*time.Second || took > 41*time.Second {
		t.Errorf("a wide line: %v for %d bytes, %v", took, n, err)
	}
	if took, n, err := read(8<<10, time.Second, 10<<20); !errors.Is(err, errNarrow) || took > 10*time.Second {
		t.Errorf("a narrow line: %v for %d bytes, %v", took, n, err)
	}
	if _, n, err := read(8<<10, time.Second, 50_000); err != nil || n != 50_000 {
		t.Errorf("a small file over a narrow line: %d bytes, %v", n, err)
	}
}

// dripping gives some bytes at a time.
type dripping struct {
	each int
	gap  time.Duration
	left int
}

func (d *dripping) Read(b []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	time.Sleep(d.gap)
	n := min(len(b), d.each, d.left)
	d.left -= n
	return n, nil
}

// So many ask a box for a file at once; the others wait for a while.
func TestPlacesAtABox(t *testing.T) {
	b := newBoxes(t, Limits{Asked: 1})
	leave, err := b.Enter(t.Context(), "box1.test")
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.Enter(t.Context(), "box2.test")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, hangUp := context.WithCancel(t.Context())
	got := make(chan error, 2)
	go func() { _, err := b.Enter(ctx, "box1.test"); got <- err }()
	hangUp()
	if err := <-got; err == nil {
		t.Error("two at once")
	}
	go func() { _, err := b.Enter(t.Context(), "box1.test"); got <- err }()
	leave()
	if err := <-got; err != nil {
		t.Error(err)
	}
}

// Files of boxes that are turned away go, also when another box comes under the name at once.
func TestForget(t *testing.T) {
	b := newBoxes(t, Limits{Fetch: true, Pace: 1 << 30})
	for _, box := range []string{"box1.test", "box2.test", "box3.test"} {
		b.told(box, b.has(api.File{ID: "a", Bytes: 10}))
	}
	b.fetched(3)
	b.Forget("box1.test")
	b.set(func() { b.turned["box2.test"] = true })
	b.await("two to be gone", func() bool {
		kept := b.Stats().Boxes
		return len(kept) == 1 && kept["box3.test"].Files == 1
	})
	if _, ok := b.file("box3.test", "a"); !ok {
		t.Error("another box's file is gone")
	}
}

// An answer that is no file, lies elsewhere, is torn or too long is not kept; and who reads it waits for nothing of that.
func TestWhatPasses(t *testing.T) {
	whole := httptest.NewRecorder()
	multi(whole, []byte("ein Foto"))
	raw := whole.Body.String()
	const typ = "multipart/mixed; boundary=x"
	for _, tt := range []struct {
		what, method, path, typ, body string
		status                        int
		torn                          bool
		want                          bool
	}{
		{"a file", "GET", downloadPath + "a", typ, raw, 200, false, true},
		{"a word about it", "HEAD", downloadPath + "a", typ, raw, 200, false, false},
		{"a refusal", "GET", downloadPath + "a", typ, raw, 404, false, false},
		{"another question", "GET", "/_matrix/federation/v1/event/a", typ, raw, 200, false, false},
		{"a name that is none", "GET", downloadPath + "a%2Fb", typ, raw, 200, false, false},
		{"no parts", "GET", downloadPath + "a", "image/jpeg", raw, 200, false, false},
		{"torn in the end", "GET", downloadPath + "a", typ, raw[:len(raw)-8], 200, false, false},
		{"torn after the end", "GET", downloadPath + "a", typ, raw, 200, true, false},
		{"elsewhere", "GET", downloadPath + "a", typ, strings.Replace(raw, "Content-Disposition", "Location: https://cdn.test/a\r\nX", 1), 200, false, false},
		{"too long", "GET", downloadPath + "a", typ, strings.Replace(raw, "ein Foto", strings.Repeat("F", 2000), 1), 200, false, false},
	} {
		b := newBoxes(t, Limits{File: 1000})
		var body io.Reader = strings.NewReader(tt.body)
		if tt.torn {
			body = io.MultiReader(body, failing{})
		}
		resp := &http.Response{StatusCode: tt.status, Header: http.Header{"Content-Type": {tt.typ}}, Body: io.NopCloser(body), ContentLength: -1}
		b.Passes(httptest.NewRequest(tt.method, tt.path, nil), "box1.test", resp)
		got, _ := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil || string(got) != tt.body {
			t.Errorf("%s: %d bytes, %v", tt.what, len(got), err)
		}
		b.passing.Wait()
		if _, ok := b.file("box1.test", "a"); ok != tt.want {
			t.Errorf("%s: kept %v", tt.what, ok)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Who reads an answer waits for no disk; what cannot be written down in time is not kept.
func TestReaderWaitsForNoDisk(t *testing.T) {
	b := newBoxes(t, Limits{})
	answer := httptest.NewRecorder()
	multi(answer, bytes.Repeat([]byte("F"), 4<<20))
	resp := answer.Result()
	resp.ContentLength = -1
	b.set(func() { // who looks how much is free hangs
		b.Passes(httptest.NewRequest("GET", downloadPath+"a", nil), "box1.test", resp)
		buf := make([]byte, 32<<10)
		var n int
		for {
			m, err := resp.Body.Read(buf)
			n += m
			if err != nil {
				break
			}
		}
		if n <= 4<<20 {
			t.Errorf("%d bytes were read", n)
		}
	})
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	b.passing.Wait()
	if _, ok := b.file("box1.test", "a"); ok || b.Stats().Passed != 0 {
		t.Error("it was kept, though not all of it can have been written down")
	}
}
