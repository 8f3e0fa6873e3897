// SPDX-License-Identifier: EUPL-1.2

// Package shelf keeps the update files that the operator of a hub has laid down for his boxes, and decides which box is told of which: a share of the boxes or named ones
// first, none any more once a trial has failed.
//
// It vouches for nothing: boxes take what enough of their own keys have signed, whoever hands it to them. It refuses what no box would take: damaged files, files that nobody has
// signed, and, when it is told whom the boxes trust, files that too few of those have signed.
//
// On the disk, in one directory: BOARD-RELEASE.hallig-update, and beside it BOARD-RELEASE.json, which says how far it is rolled out. A file without that is passed over. Lost
// with them: nothing that cannot be laid down again.
package shelf

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"hallig/appliance/health"
	"hallig/appliance/update"
)

// MaxFile bounds an update file, in bytes.
const MaxFile = 1 << 30

const halfDone = ".new-"

// mostFiles bounds how many there are, so that a disk is not filled by forgetting.
const mostFiles = 30

// File is one update file and how far it is rolled out.
type File struct {
	Board    string    `json:"board"`
	Version  string    `json:"version"`
	Release  int64     `json:"release"`
	Security bool      `json:"security,omitempty"`
	DE       string    `json:"de,omitempty"` // what is new
	EN       string    `json:"en,omitempty"`
	Bytes    int64     `json:"bytes"`
	Added    time.Time `json:"added"`
	SignedBy []string  `json:"signed_by"`         // the keys whose signatures are good
	Trusted  bool      `json:"trusted,omitempty"` // enough of those whom the boxes trust are among them, as far as the hub was told

	Share   int               `json:"share"`             // of all boxes, percent
	Boxes   []string          `json:"boxes"`             // these anyway
	Stopped string            `json:"stopped,omitempty"` // why nobody is told of it now
	Failed  map[string]string `json:"failed,omitempty"`  // boxes that it did not work on, and what they said
}

// Refusal is why something is not done, for people.
type Refusal struct{ health.Sentence }

func (r *Refusal) Error() string { return r.EN }

func refuse(de, en string) error { return &Refusal{health.Sentence{DE: de, EN: en}} }

// Shelf is safe for concurrent use.
type Shelf struct {
	dir  string
	keys *update.Keys // whom boxes trust; nil: the hub was not told
	now  func() time.Time

	adding sync.Mutex // one file at a time

	mu    sync.Mutex
	files []File // by board, the newest first; what is in it is not changed but replaced
}

// Open reads what lies in dir, which need not exist. keysFile says whom the boxes trust, as update.ParseKeys reads it; "": it is not known here.
func Open(dir, keysFile string, now func() time.Time) (*Shelf, error) {
	s := &Shelf{dir: dir, now: now}
	if keysFile != "" {
		raw, err := os.ReadFile(keysFile)
		if err != nil {
			return nil, fmt.Errorf("read whom the boxes trust: %w", err)
		}
		k, err := update.ParseKeys(raw)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", keysFile, err)
		}
		s.keys = &k
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	notes, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, fmt.Errorf("read the shelf of updates: %w", err)
	}
	for _, name := range notes {
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read the shelf of updates: %w", err)
		}
		var f File
		if err := json.Unmarshal(raw, &f); err != nil || s.note(f) != name {
			return nil, fmt.Errorf("%s is no note of an update file; delete it and add the file again", name)
		}
		if info, err := os.Stat(s.path(f)); err != nil || info.Size() != f.Bytes {
			return nil, fmt.Errorf("%s is not the file that %s speaks of; delete both and add it again", s.path(f), name)
		}
		s.files = append(s.files, f)
	}
	s.order()
	return s, nil
}

// sweep deletes what a hub that was killed has left half done.
func sweep(dir string) error {
	half, err := filepath.Glob(filepath.Join(dir, halfDone+"*"))
	for _, name := range half {
		err = errors.Join(err, os.Remove(name))
	}
	if err != nil {
		return fmt.Errorf("clean the shelf of updates: %w", err)
	}
	return nil
}

func (s *Shelf) order() {
	slices.SortFunc(s.files, func(a, b File) int {
		if a.Board != b.Board {
			return strings.Compare(a.Board, b.Board)
		}
		return int(min(1, max(-1, b.Release-a.Release)))
	})
}

func (s *Shelf) path(f File) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%d.hallig-update", f.Board, f.Release))
}

func (s *Shelf) note(f File) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%d.json", f.Board, f.Release))
}

// Files lists what there is, by board, the newest first.
func (s *Shelf) Files() []File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.files)
}

// Add takes an update file, to its end. Nobody is told of it before Roll. The error is a *Refusal when people can do something about it.
func (s *Shelf) Add(ctx context.Context, r io.Reader) (File, error) {
	s.adding.Lock()
	defer s.adding.Unlock()
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return File{}, fmt.Errorf("make the shelf of updates: %w", err)
	}
	tmp, err := os.CreateTemp(s.dir, halfDone+"*")
	if err != nil {
		return File{}, fmt.Errorf("add an update: %w", err)
	}
	defer os.Remove(tmp.Name()) // it has another name when all went well
	defer tmp.Close()
	f, err := s.take(ctx, tmp, r)
	if err != nil {
		return File{}, err
	}
	if len(s.Files()) >= mostFiles {
		return File{}, refuse(fmt.Sprintf("Hier liegen schon %d Update-Dateien: erst alte entfernen.", mostFiles), fmt.Sprintf("%d update files are here already: remove old ones first.", mostFiles))
	}
	for _, o := range s.Files() {
		if o.Board == f.Board && o.Release == f.Release {
			return File{}, refuse(fmt.Sprintf("%s für %s liegt schon hier.", f.Version, f.Board), fmt.Sprintf("%s for %s is here already.", f.Version, f.Board))
		}
	}
	if err := errors.Join(tmp.Sync(), os.Chmod(tmp.Name(), 0o600), os.Rename(tmp.Name(), s.path(f))); err != nil {
		return File{}, fmt.Errorf("add an update: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return f, s.put(f)
}

// take copies a file and reads it once more, as a box would.
func (s *Shelf) take(ctx context.Context, tmp *os.File, r io.Reader) (File, error) {
	n, err := io.Copy(tmp, io.LimitReader(contextReader{ctx, r}, MaxFile+1))
	if err != nil {
		return File{}, fmt.Errorf("add an update: %w; see to the disk of the hub", err)
	}
	if n > MaxFile {
		return File{}, refuse("Die Datei ist zu groß für ein Update.", "The file is too large for an update.")
	}
	if _, err := tmp.Seek(0, io.SeekStart); err != nil {
		return File{}, fmt.Errorf("add an update: %w", err)
	}
	m, by, err := update.Inspect(tmp)
	if err != nil {
		return File{}, asRefusal(err)
	}
	f := File{Board: m.Board, Version: m.Version, Release: m.Release, Security: m.Security, DE: m.De, EN: m.En, Bytes: n, Added: s.now(), Boxes: []string{}, SignedBy: []string{}}
	if !plain(f.Board) {
		return File{}, refuse("Die Datei nennt kein Gerät, das es gibt.", "The file names no board that there is.")
	}
	for _, k := range by {
		f.SignedBy = append(f.SignedBy, k.String())
	}
	if len(by) == 0 {
		return File{}, refuse("Niemand hat diese Update-Datei gültig unterschrieben; keine Box nähme sie.", "Nobody has validly signed this update file; no box would take it.")
	}
	if s.keys != nil {
		if _, err := tmp.Seek(0, io.SeekStart); err != nil {
			return File{}, fmt.Errorf("add an update: %w", err)
		}
		rd, err := update.Open(tmp, update.Running{Board: m.Board, Release: m.Release - 1, Keys: *s.keys})
		if err != nil {
			return File{}, asRefusal(err)
		}
		rd.Close()
		f.Trusted = true
	}
	return f, nil
}

func asRefusal(err error) error {
	if r := (*update.Refusal)(nil); errors.As(err, &r) {
		return refuse(r.De, r.En)
	}
	return err
}

// plain says whether a board may be part of a file's name.
func plain(board string) bool {
	return board != "" && !strings.ContainsFunc(board, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
}

type contextReader struct {
	ctx context.Context // of the one call
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// put keeps how a file stands. Under mu.
func (s *Shelf) put(f File) error {
	raw, err := json.Marshal(f)
	if err == nil {
		err = renameio.WriteFile(s.note(f), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep how far an update is rolled out: %w", err)
	}
	s.files = slices.DeleteFunc(slices.Clone(s.files), func(o File) bool { return o.Board == f.Board && o.Release == f.Release })
	s.files = append(s.files, f)
	s.order()
	return nil
}

// find gives the files of a version; board "": of every board. Under mu.
func (s *Shelf) find(board, version string) ([]File, error) {
	var found []File
	for _, f := range s.files {
		if f.Version == version && (board == "" || f.Board == board) {
			found = append(found, f)
		}
	}
	if len(found) == 0 {
		return nil, refuse("Hier liegt kein Update, das "+version+" heißt; hallig-hub update zählt sie auf.", "No update called "+version+" is here; hallig-hub update lists them.")
	}
	return found, nil
}

// Remove deletes a version, for one board or, with "", for all.
func (s *Shelf) Remove(board, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(board, version)
	if err != nil {
		return err
	}
	for _, f := range found {
		if err := errors.Join(gone(s.note(f)), gone(s.path(f))); err != nil { // the note first: a file without one is none
			return fmt.Errorf("remove an update: %w", err)
		}
		s.files = slices.DeleteFunc(slices.Clone(s.files), func(o File) bool { return o.Board == f.Board && o.Release == f.Release })
	}
	return nil
}

func gone(name string) error {
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Roll tells so many percent of the boxes, and these, of a version. One that was stopped goes on; boxes on which it has failed do not stop it again.
func (s *Shelf) Roll(board, version string, share int, boxes []string) error {
	if share < 0 || share > 100 {
		return refuse("Der Anteil ist eine Zahl von 0 bis 100.", "The share is a number from 0 to 100.")
	}
	return s.change(board, version, func(f *File) { f.Share, f.Boxes, f.Stopped = share, append([]string{}, boxes...), "" })
}

// Stop tells nobody of a version any more. What boxes have taken already stays.
func (s *Shelf) Stop(board, version, why string) error {
	return s.change(board, version, func(f *File) { f.Stopped = why })
}

func (s *Shelf) change(board, version string, do func(*File)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(board, version)
	for _, f := range found {
		do(&f)
		if err := s.put(f); err != nil {
			return err
		}
	}
	return err
}

// For gives the update that a box is told of: the newest for its board that is newer than what it runs, and rolled out to it.
func (s *Shelf) For(box, board string, running int64) (File, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.Board == board && f.Release > running && f.reaches(box) {
			return f, true
		}
	}
	return File{}, false
}

// reaches says whether a box is told of a file. Which boxes make up a share is chance, another one for each release, and the same boxes are in every larger share.
func (f File) reaches(box string) bool {
	if f.Stopped != "" || f.Failed[box] != "" {
		return false
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s", f.Board, f.Release, box))
	return slices.Contains(f.Boxes, box) || binary.BigEndian.Uint32(sum[:4])%100 < uint32(f.Share)
}

// Give opens the file for a box that was told of it; ErrNone when it was not, or not any more. The caller closes it.
func (s *Shelf) Give(box, board string, release int64) (File, *os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.Board == board && f.Release == release && f.reaches(box) {
			file, err := os.Open(s.path(f))
			return f, file, err
		}
	}
	return File{}, nil, ErrNone
}

// ErrNone is answered to who asks for what he was not told of.
var ErrNone = errors.New("no such update for this box")

// Failed notes that an update did not work on a box, and stops its roll-out the first time that this box says so. It says whether it did.
func (s *Shelf) Failed(box, board string, release int64, why string) (stopped bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		if f.Board != board || f.Release != release || f.Failed[box] != "" || !f.reaches(box) {
			continue
		}
		if why == "" {
			why = "?"
		}
		failed := map[string]string{box: why}
		for b, w := range f.Failed {
			failed[b] = w
		}
		f.Failed, f.Stopped = failed, fmt.Sprintf("%s: %s", box, why)
		return true, s.put(f)
	}
	return false, nil
}
