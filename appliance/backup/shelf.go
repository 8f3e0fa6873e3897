// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ShelfPath is where a Shelf answers: GET lists, PUT ShelfPath+NAME?sha256=HEX brings a file, DELETE takes one away.
const ShelfPath = "/_hallig/v1/kept/"

// Shelf keeps backups of other boxes, which it cannot read, in the form of this package: Dir is a place as List and Restore take it. Each box sees its
// own only. What it has answered with 200 is on its disk and was read back.
type Shelf struct {
	Dir   string
	Quota int64                       // bytes for each box
	Spare int64                       // bytes of the disk that stay free
	Free  func(string) (int64, error) // nil: statfs
	// Who says which box asks; ok is false for everybody else.
	Who func(*http.Request) (server, boxID string, ok bool)

	mu sync.Mutex // one file at a time
}

// shelfName are the files of a backup, from the folder of its box on.
var shelfName = regexp.MustCompile(`^(READ-ME\.txt|\d{6}-\d{8}T\d{4}Z/(backup\.json|data\.age(\.[0-9]{1,4})?)|media/m\d{6}-[0-9a-f]{8}\.age)$`)

// shelved is the answer to GET.
type shelved struct {
	Quota int64            `json:"quota"`
	Used  int64            `json:"used"`
	Files map[string]int64 `json:"files"`
}

func (s *Shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	server, id, ok := s.Who(r)
	name, under := strings.CutPrefix(r.URL.Path, ShelfPath)
	if !ok || !under {
		http.Error(w, "only paired boxes", http.StatusForbidden)
		return
	}
	home := filepath.Join(s.Dir, Folder, homeName(server, id))
	s.mu.Lock()
	defer s.mu.Unlock()
	answer, err := s.look(home)
	code := http.StatusInternalServerError
	switch {
	case err != nil:
	case r.Method == http.MethodGet && name == "":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // whoever hangs up asks again
		return
	case !shelfName.MatchString(name):
		code, err = http.StatusNotFound, errors.New("no file of a backup has this name")
	case r.Method == http.MethodPut:
		code, err = s.put(home, name, answer, r)
	case r.Method == http.MethodDelete:
		err = os.Remove(filepath.Join(home, name))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		_ = os.Remove(filepath.Dir(filepath.Join(home, name))) // goes when it is empty
	default:
		code, err = http.StatusMethodNotAllowed, errors.New("GET, PUT or DELETE")
	}
	if err != nil {
		http.Error(w, err.Error(), code)
	}
}

// look lists what a box has here, and clears away what an interrupted one left.
func (s *Shelf) look(home string) (shelved, error) {
	out := shelved{Quota: s.Quota, Files: map[string]int64{}}
	err := filepath.WalkDir(home, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if strings.HasSuffix(path, fresh) {
			return os.Remove(path)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(home, path)
		out.Files[filepath.ToSlash(rel)] = info.Size()
		out.Used += info.Size()
		return err
	})
	return out, err
}

func (s *Shelf) put(home, name string, have shelved, r *http.Request) (int, error) {
	size := r.ContentLength
	want := r.URL.Query().Get("sha256")
	if size < 0 || len(want) != 2*sha256.Size {
		return http.StatusBadRequest, errors.New("length and sha256 are needed")
	}
	free := s.Free
	if free == nil {
		free = freeBytes
	}
	left, err := free(s.Dir)
	if err != nil {
		return http.StatusInternalServerError, err
	}
	if have.Used-have.Files[name]+size > s.Quota || left-size < s.Spare {
		return http.StatusInsufficientStorage, fmt.Errorf("%d MB are kept for this box here, of at most %d, and %d MB of the disk are free", have.Used>>20, s.Quota>>20, left>>20)
	}
	to := filepath.Join(home, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return http.StatusInternalServerError, err
	}
	p := &parts{dir: filepath.Dir(to), name: func(int) string { return filepath.Base(to) + fresh }, limit: 1 << 62}
	_, err = copyContext(r.Context(), p, io.LimitReader(r.Body, size))
	err = errors.Join(err, p.next())
	if err == nil {
		err = sameHash(to+fresh, size, want)
	}
	if err != nil {
		return http.StatusBadRequest, errors.Join(err, os.RemoveAll(to+fresh))
	}
	if err := os.Rename(to+fresh, to); err != nil {
		return http.StatusInternalServerError, err
	}
	if err := syncFS(home); err != nil {
		return http.StatusInternalServerError, err
	}
	return http.StatusOK, nil
}

// sameHash reads a file back from the disk.
func sameHash(name string, size int64, want string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return err
	}
	if n != size || hex.EncodeToString(h.Sum(nil)) != want {
		return errors.New("what arrived is not what was sent")
	}
	return nil
}

// Refused is what a shelf answered.
type Refused struct {
	Code int
	Text string
}

func (r *Refused) Error() string {
	return "the other box refused the backup: " + strings.TrimSpace(r.Text)
}

// Full says that the shelf has no room for it.
func (r *Refused) Full() bool { return r.Code == http.StatusInsufficientStorage }

// ErrLost says that the shelf no longer has what it once kept. What of it is no longer here either was forgotten; the next backup brings it anew.
var ErrLost = errors.New("the other box has lost parts of older backups")

// Mirror brings the backups of one box from the folder home to a shelf at base ("http://SERVER"), and takes from the shelf what home no longer has. What
// has arrived takes no room in home any more but keeps its name and size there: home can only be mirrored and added to, not restored from. Older backups go
// from the shelf when the new one is complete there; before, only when it has no room for both and has room for the new one without them.
func Mirror(ctx context.Context, c *http.Client, base, home string) error {
	var remote shelved
	if err := ask(ctx, c, http.MethodGet, base+ShelfPath, nil, 0, &remote); err != nil {
		return err
	}
	local, err := (&Shelf{}).look(home)
	if err != nil {
		return fmt.Errorf("mirror backup: %w", err)
	}
	var bring, drop []string
	lost := false
	for name, size := range local.Files {
		if !shelfName.MatchString(name) {
			continue
		}
		if n, ok := remote.Files[name]; ok && n == size && !strings.HasSuffix(name, ".txt") {
			continue
		}
		if empty(filepath.Join(home, name)) {
			lost = true
			gone := filepath.Join(home, name)
			if filepath.Base(filepath.Dir(gone)) != mediaFolder {
				gone = filepath.Dir(gone) // the whole backup
			}
			if err := os.RemoveAll(gone); err != nil {
				return fmt.Errorf("mirror backup: %w", err)
			}
			continue
		}
		bring = append(bring, name)
	}
	if lost {
		return ErrLost
	}
	for name := range remote.Files {
		if _, ok := local.Files[name]; !ok {
			drop = append(drop, name)
		}
	}
	// Media first and manifests last: a backup on the shelf is complete when its manifest is there, and none any more when that is gone.
	order := func(name string) int {
		switch {
		case strings.HasPrefix(name, mediaFolder):
			return 0
		case strings.HasSuffix(name, manifestFile):
			return 2
		}
		return 1
	}
	slices.SortFunc(bring, func(a, b string) int { return order(a) - order(b) })
	slices.SortFunc(drop, func(a, b string) int { return order(b) - order(a) })
	after := remote.Used
	for _, name := range bring {
		after += local.Files[name] - remote.Files[name]
	}
	for _, name := range drop {
		after -= remote.Files[name]
	}
	for _, name := range bring {
		err := upload(ctx, c, base, home, name)
		if refused := (*Refused)(nil); errors.As(err, &refused) && refused.Full() && len(drop) > 0 && after <= remote.Quota {
			if err := dropAll(ctx, c, base, drop); err != nil {
				return err
			}
			drop = nil
			err = upload(ctx, c, base, home, name)
		}
		if err != nil {
			return err
		}
	}
	if err := dropAll(ctx, c, base, drop); err != nil {
		return err
	}
	for name := range local.Files {
		if shelfName.MatchString(name) && strings.Contains(name, ".age") {
			if err := hollow(filepath.Join(home, name)); err != nil {
				return fmt.Errorf("mirror backup: %w", err)
			}
		}
	}
	return nil
}

func dropAll(ctx context.Context, c *http.Client, base string, names []string) error {
	for _, name := range names {
		if err := ask(ctx, c, http.MethodDelete, base+ShelfPath+name, nil, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

func upload(ctx context.Context, c *http.Client, base, home, name string) error {
	f, err := os.Open(filepath.Join(home, name))
	if err != nil {
		return fmt.Errorf("mirror backup: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	size, err := io.Copy(h, f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("mirror backup: %w", err)
	}
	return ask(ctx, c, http.MethodPut, base+ShelfPath+name+"?sha256="+url.QueryEscape(hex.EncodeToString(h.Sum(nil))), f, size, nil)
}

func ask(ctx context.Context, c *http.Client, method, to string, body io.Reader, size int64, into any) error {
	if size == 0 {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return fmt.Errorf("ask for the shelf: %w", err)
	}
	req.ContentLength = size
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("ask for the shelf: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	switch {
	case err != nil:
		return fmt.Errorf("ask for the shelf: %w", err)
	case resp.StatusCode != http.StatusOK:
		return &Refused{resp.StatusCode, strconv.Itoa(resp.StatusCode) + " " + string(raw[:min(len(raw), 300)])}
	case into == nil:
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("ask for the shelf: %w", err)
	}
	return nil
}

// hollow gives a file's room back and leaves its name and size.
func hollow(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	return errors.Join(os.Truncate(name, 0), os.Truncate(name, info.Size()))
}

// empty says whether a file was hollowed.
func empty(name string) bool {
	var s unix.Stat_t
	return unix.Stat(name, &s) == nil && s.Size > 0 && s.Blocks == 0
}

// Copy copies the newest complete backup of a box from one place to another, and reads it back by its sums.
func Copy(ctx context.Context, from, server, to string) (Found, error) {
	found, err := List(from)
	if err != nil {
		return Found{}, err
	}
	found = slices.DeleteFunc(found, func(f Found) bool { return f.ServerName != server || f.Err != nil })
	if len(found) == 0 {
		return Found{}, ErrNothing
	}
	f := found[len(found)-1]
	if !isDir(to) {
		return Found{}, fmt.Errorf("copy backup: there is no folder %s; is the stick plugged in?", to)
	}
	home := filepath.Join(to, Folder, filepath.Base(f.Home))
	dir := filepath.Join(home, filepath.Base(f.Path))
	if err := errors.Join(os.MkdirAll(filepath.Join(home, mediaFolder), 0o700), os.RemoveAll(dir+fresh), os.RemoveAll(dir), os.Mkdir(dir+fresh, 0o700)); err != nil {
		return Found{}, fmt.Errorf("copy backup: %w", err)
	}
	for _, p := range f.Media {
		if p.there(filepath.Join(home, mediaFolder)) == nil {
			continue
		}
		if err := copyPiece(ctx, filepath.Join(f.Home, mediaFolder), p, filepath.Join(home, mediaFolder)); err != nil {
			return Found{}, fmt.Errorf("copy backup: %w", err)
		}
	}
	for _, p := range f.Parts {
		if err := copyPiece(ctx, f.Path, p, dir+fresh); err != nil {
			return Found{}, fmt.Errorf("copy backup: %w", err)
		}
	}
	raw, err := os.ReadFile(filepath.Join(f.Path, manifestFile))
	if err == nil {
		err = writeSynced(filepath.Join(dir+fresh, manifestFile), raw)
	}
	if err == nil {
		err = readMe(home, f.Manifest)
	}
	if err == nil {
		err = os.Rename(dir+fresh, dir)
	}
	if err = errors.Join(err, syncFS(home)); err != nil {
		return Found{}, fmt.Errorf("copy backup: %w", err)
	}
	return read(dir), nil
}

// copyPiece copies one file under another name, reads it back, and gives it its name.
func copyPiece(ctx context.Context, from string, p Piece, to string) error {
	r := &partReader{dir: from, left: []Piece{p}}
	defer r.Close()
	w := &parts{dir: to, name: func(int) string { return p.Name + fresh }, limit: 1 << 62}
	if err := os.RemoveAll(filepath.Join(to, p.Name+fresh)); err != nil {
		return err
	}
	_, err := copyContext(ctx, w, r)
	if err = errors.Join(err, w.next()); err != nil {
		return err
	}
	if err := sameHash(filepath.Join(to, p.Name+fresh), p.Size, p.SHA256); err != nil {
		return err
	}
	return os.Rename(filepath.Join(to, p.Name+fresh), filepath.Join(to, p.Name))
}
