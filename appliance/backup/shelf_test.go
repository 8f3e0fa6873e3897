// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// shelf is another box; who asks is said in a header.
func shelf(t *testing.T, quota int64) (*Shelf, string) {
	t.Helper()
	s := &Shelf{Dir: t.TempDir(), Quota: quota, Who: func(r *http.Request) (string, string, bool) {
		return "box7.feuerwehr.example", "ABCDEFGHIJKLMNOP", r.Header.Get("Stranger") == ""
	}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, srv.URL
}

// onDisk counts the blocks of a folder, in bytes.
func onDisk(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !empty(path) {
			info, err := d.Info()
			n += info.Size()
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestOnAnotherBox: backups go to another box, piece by piece; nothing of them stays here but names; the other box's folder restores.
func TestOnAnotherBox(t *testing.T) {
	b := newBox(t)
	s, base := shelf(t, 1<<20)
	media := []string{b.upload(random(30_000))}
	var last Found
	for i := range 5 {
		if i == 3 {
			media = append(media, b.upload(random(30_000)))
		}
		last = b.backUp()
		if err := Mirror(t.Context(), http.DefaultClient, base, last.Home); err != nil {
			t.Fatal(err)
		}
		if n := onDisk(t, b.place); n > 10_000 {
			t.Errorf("backup %d leaves %d bytes here", i+1, n)
		}
	}
	found, err := List(s.Dir)
	if err != nil || len(found) != 3 || found[2].Number != 5 || found[0].Err != nil || len(found[2].Media) != 2 {
		t.Fatalf("on the other box: %+v, %v", found, err)
	}
	data := filepath.Join(t.TempDir(), "data")
	r, err := Restore(t.Context(), s.Dir, Target{Data: data, Identities: b.ids()})
	if err != nil || len(r.Missing) != 0 {
		t.Fatal(err, r.Missing)
	}
	b.same(data, media...)
	// The other box loses a media archive: it is noticed, and the backup after that brings it again.
	if err := os.Remove(filepath.Join(found[2].Home, "media", last.Media[0].Name)); err != nil {
		t.Fatal(err)
	}
	if err := Mirror(t.Context(), http.DefaultClient, base, last.Home); !errors.Is(err, ErrLost) {
		t.Fatalf("got %v, want ErrLost", err)
	}
	last = b.backUp()
	if err := Mirror(t.Context(), http.DefaultClient, base, last.Home); err != nil {
		t.Fatal(err)
	}
	data = filepath.Join(t.TempDir(), "data")
	if r, err := Restore(t.Context(), s.Dir, Target{Data: data, Identities: b.ids()}); err != nil || len(r.Missing) != 0 {
		t.Fatal(err, r.Missing)
	}
	b.same(data, media...)
}

// TestShelfIsFull: older backups make room there too; when that does not help nothing is lost, here or there.
func TestShelfIsFull(t *testing.T) {
	b := newBox(t)
	b.Keep = 1
	s, base := shelf(t, 40_000) // room for one of 25 kB
	for range 3 {
		f := b.backUp()
		if err := Mirror(t.Context(), http.DefaultClient, base, f.Home); err != nil {
			t.Fatal(err)
		}
	}
	b.upload(random(30_000))
	f := b.backUp()
	err := Mirror(t.Context(), http.DefaultClient, base, f.Home)
	var refused *Refused
	if !errors.As(err, &refused) || !refused.Full() {
		t.Fatalf("got %v, want full", err)
	}
	if found, err := List(s.Dir); err != nil || len(found) != 1 || found[0].Err != nil || found[0].Number != 3 {
		t.Errorf("the older one is not on the other box any more: %+v, %v", found, err)
	}
	if n := onDisk(t, b.place); n < 50_000 {
		t.Errorf("what was not taken is gone here: %d bytes are left", n)
	}
	s.Quota = 1 << 20
	if err := Mirror(t.Context(), http.DefaultClient, base, f.Home); err != nil {
		t.Fatal(err)
	}
	if found, err := List(s.Dir); err != nil || len(found) != 1 || found[0].Number != f.Number || found[0].Err != nil {
		t.Errorf("on the other box: %+v, %v", found, err)
	}
}

// TestShelfRefuses: strangers, names that lead elsewhere, what does not arrive whole, and a disk that is nearly full.
func TestShelfRefuses(t *testing.T) {
	s, base := shelf(t, 1000)
	const sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc"
	put := func(name, body, sum string, header ...string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "PUT", base+ShelfPath+name+"?sha256="+sum, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range header {
			req.Header.Set(h, "x")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	const good = "000001-20261126T1542Z/data.age"
	if code := put(good, "abc", sum, "Stranger"); code != 403 {
		t.Errorf("a stranger got %d", code)
	}
	for _, name := range []string{"../x", "x", "media/../../x", "000001-20261126T1542Z/..%2f..%2fx", "000001-20261126T1542Z/data.age.new", "READ-ME.txt/x", "media/m000001-0000000g.age"} {
		if code := put(name, "abc", sum); code == 200 {
			t.Errorf("%s was taken", name)
		}
	}
	if code := put(good, "abx", sum); code != 400 {
		t.Errorf("a wrong sum got %d", code)
	}
	if code := put(good, strings.Repeat("x", 1001), sum); code != 507 {
		t.Errorf("too much got %d", code)
	}
	s.Free, s.Spare = func(string) (int64, error) { return 1002, nil }, 1000
	if code := put(good, "abc", sum); code != 507 {
		t.Errorf("a nearly full disk: %d", code)
	}
	s.Free = nil
	s.Spare = 0
	var files []string
	_ = filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
	if code := put(good, "abc", sum); code != 200 {
		t.Errorf("a good file got %d", code)
	}
}
