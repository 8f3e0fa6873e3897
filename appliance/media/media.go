// SPDX-License-Identifier: EUPL-1.2

// Package media keeps files: what users upload, copies of other servers' media, and thumbnails of both.
//
// A file lies in DIR/xx/HASH under its SHA-256, so equal files lie there once; what an mxc:// address means is kept in the
// store. A file and its directory entry are flushed before the row that names it is committed: an answered upload is
// there after a power cut. Thumbnails lie in DIR/thumb/HASH-WxH-METHOD; they can be made again, so nobody counts or
// flushes them.
//
// It promises that at most the quota is used (thumbnails excepted) and that nothing a local user uploaded is ever removed to make room: only
// copies of others' media are. It leaves fetching from other servers and HTTP to its callers.
package media

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Options are the limits; zero values are the defaults.
type Options struct {
	MaxUpload int64            // bytes in one file; 0: 50 MiB
	Quota     int64            // bytes of all files; 0: 10 GiB
	PerServer int64            // bytes of the copies of one other server's media; 0: as many as Quota leaves
	Pixels    int              // of a picture of which a thumbnail is made; 0: 25 million
	Now       func() time.Time // nil: time.Now
}

// Media is the keeper of files. All methods may be called from any goroutine.
type Media struct {
	db               *store.DB
	server           string
	dir              string
	opt              Options
	maxUpload, quota atomic.Int64  // in force
	worker           chan struct{} // holds one token: one picture is decoded at a time, they are large in memory

	// placing is held for reading from the moment a file is placed until its row is committed, and for writing while
	// files without a row are removed.
	placing sync.RWMutex
}

// Info says what is known about a file besides its bytes.
type Info struct {
	Type string // content type as the uploader named it; not to be trusted
	Name string // file name as the uploader named it, may be empty
	Size int64
	Used time.Time // of what Cache is given: when it was of use last, as far as is known, so that it takes no room from what was so later; zero: now
}

// File is an open file. The caller closes it.
type File struct {
	Info
	*os.File
}

// ErrAbsent says that media of another server has no copy here yet.
var ErrAbsent = errors.New("no copy of this media here")

// ErrPending says that the id was announced, but its file has not been uploaded yet.
var ErrPending = errors.New("this media has not been uploaded yet")

// Open prepares dir and removes what an interrupted upload left there. Only one Media may use dir.
func Open(ctx context.Context, db *store.DB, server, dir string, opt Options) (*Media, error) {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Pixels == 0 {
		opt.Pixels = maxPixels
	}
	m := &Media{db: db, server: server, dir: dir, opt: opt, worker: make(chan struct{}, 1)}
	m.Limit(opt.MaxUpload, opt.Quota)
	for _, d := range []string{dir, m.thumbDir(), m.tempDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make media directory: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	if err := m.sweep(ctx); err != nil {
		return nil, fmt.Errorf("sweep media directory: %w", err)
	}
	return m, nil
}

// MaxUpload is the largest file that Upload takes.
func (m *Media) MaxUpload() int64 { return m.maxUpload.Load() }

// Limit changes how large one file and all of them may be, as in Options, for what comes from now on.
func (m *Media) Limit(maxUpload, quota int64) {
	if maxUpload == 0 {
		maxUpload = 50 << 20
	}
	if quota == 0 {
		quota = 10 << 30
	}
	m.maxUpload.Store(maxUpload)
	m.quota.Store(quota)
}

func (m *Media) thumbDir() string { return filepath.Join(m.dir, "thumb") }
func (m *Media) tempDir() string  { return filepath.Join(m.dir, "temp") }

func (m *Media) path(sum []byte) string {
	name := hex.EncodeToString(sum)
	return filepath.Join(m.dir, name[:2], name)
}

// sweep removes temporary files, and files and thumbnails of files that no row names. It runs before anybody can upload.
func (m *Media) sweep(ctx context.Context) error {
	if err := os.RemoveAll(m.tempDir()); err != nil {
		return err
	}
	if err := os.Mkdir(m.tempDir(), 0o700); err != nil {
		return err
	}
	return m.db.View(ctx, func(r *store.Read) error {
		return filepath.WalkDir(m.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if path == m.tempDir() {
					return fs.SkipDir
				}
				return ctx.Err()
			}
			name, _, _ := strings.Cut(d.Name(), "-") // what follows is a thumbnail's size
			sum, err := hex.DecodeString(name)
			if err != nil || len(sum) != sha256.Size {
				return nil // not ours
			}
			known, err := r.HasMediaFile(sum)
			if err != nil || known {
				return err
			}
			return os.Remove(path)
		})
	})
}

// Upload keeps a file of a local user and returns its media id. It is durable when it returns.
func (m *Media) Upload(ctx context.Context, user event.UserID, info Info, body io.Reader) (id string, err error) {
	f, err := m.receive(body)
	if err != nil {
		return "", err
	}
	id = newID()
	err = m.keep(ctx, f, "", time.Time{}, func(tx *store.Tx, now int64) error {
		return tx.InsertMedia(store.Media{Server: m.server, ID: id, Hash: f.sum, Type: clean(info.Type), Name: clean(info.Name),
			Uploader: user, Created: now, Used: now})
	})
	return id, err
}

// maxPending is how many announced ids one user may hold without a file.
const maxPending = 50

// Create announces an id whose file comes later through Fill. https://spec.matrix.org/v1.13/client-server-api/#post_matrixmediav1create
func (m *Media) Create(ctx context.Context, user event.UserID) (id string, err error) {
	id = newID()
	now := m.opt.Now().UnixMilli()
	err = m.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.PendingMedia(user)
		if err != nil {
			return err
		}
		if n >= maxPending {
			return refuse(http.StatusTooManyRequests, "M_LIMIT_EXCEEDED", "too many announced uploads are unfinished")
		}
		return tx.InsertMedia(store.Media{Server: m.server, ID: id, Uploader: user, Created: now, Used: now})
	})
	return id, err
}

// Fill uploads the file of an announced id.
func (m *Media) Fill(ctx context.Context, user event.UserID, id string, info Info, body io.Reader) error {
	check := func(r *store.Read) error {
		row, err := r.Media(m.server, id)
		switch {
		case err != nil:
			return err
		case row == nil:
			return refuse(http.StatusNotFound, "M_NOT_FOUND", "this media id was never announced")
		case row.Uploader != user:
			return refuse(http.StatusForbidden, "M_FORBIDDEN", "another user announced this media id")
		case row.Hash != nil:
			return refuse(http.StatusConflict, "M_CANNOT_OVERWRITE_MEDIA", "this media id has its file already")
		}
		return nil
	}
	if err := m.db.View(ctx, check); err != nil {
		return err
	}
	f, err := m.receive(body)
	if err != nil {
		return err
	}
	return m.keep(ctx, f, "", time.Time{}, func(tx *store.Tx, now int64) error {
		if err := check(tx.Read); err != nil {
			return err
		}
		return tx.FillMedia(m.server, id, f.sum, clean(info.Type), clean(info.Name))
	})
}

// Cache keeps a copy of another server's media.
func (m *Media) Cache(ctx context.Context, server, id string, info Info, body io.Reader) error {
	f, err := m.receive(body)
	if err != nil {
		return err
	}
	return m.keep(ctx, f, server, info.Used, func(tx *store.Tx, now int64) error {
		used := now
		if !info.Used.IsZero() {
			used = min(now, info.Used.UnixMilli())
		}
		return tx.InsertMedia(store.Media{Server: server, ID: id, Hash: f.sum, Type: clean(info.Type), Name: clean(info.Name),
			Created: now, Used: used})
	})
}

// Get opens a file. It answers ErrAbsent for media of other servers without a copy, ErrPending for an id without its
// file, and M_NOT_FOUND for one of ours that does not exist.
func (m *Media) Get(ctx context.Context, server, id string) (*File, error) {
	row, err := m.row(ctx, server, id)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(m.path(row.Hash))
	if err != nil {
		return nil, fmt.Errorf("open media file: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("look at media file: %w", err)
	}
	m.touch(row)
	return &File{Info{Type: row.Type, Name: row.Name, Size: st.Size()}, f}, nil
}

func (m *Media) row(ctx context.Context, server, id string) (*store.Media, error) {
	var row *store.Media
	err := m.db.View(ctx, func(r *store.Read) (err error) {
		row, err = r.Media(server, id)
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case row == nil && server == m.server:
		return nil, refuse(http.StatusNotFound, "M_NOT_FOUND", "there is no such media")
	case row == nil:
		return nil, ErrAbsent
	case row.Hash == nil:
		return nil, ErrPending
	}
	return row, nil
}

// touch notes the use of a copy, at most once a day and without waiting: it only orders what may go when room is short.
func (m *Media) touch(row *store.Media) {
	const day = 24 * 60 * 60 * 1000
	now := m.opt.Now().UnixMilli()
	if row.Uploader != "" || now-row.Used < day {
		return
	}
	m.db.Lazy(func(tx *store.Tx) error { return tx.UseMedia(row.Server, row.ID, now) })
}

// received is a file in the temporary directory.
type received struct {
	path string
	sum  []byte
	size int64
}

// receive writes body to a temporary file and flushes it.
func (m *Media) receive(body io.Reader) (f received, err error) {
	t, err := os.CreateTemp(m.tempDir(), "upload-")
	if err != nil {
		return f, fmt.Errorf("make upload file: %w", err)
	}
	defer func() {
		if cerr := t.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("close upload file: %w", cerr)
		}
		if err != nil {
			_ = os.Remove(t.Name())
		}
	}()
	var h hash.Hash = sha256.New()
	most := m.MaxUpload()
	n, err := io.Copy(io.MultiWriter(t, h), io.LimitReader(body, most+1))
	if err != nil {
		if e := new(fs.PathError); errors.As(err, &e) {
			return f, fmt.Errorf("write upload file: %w", err)
		}
		return f, refuse(http.StatusBadRequest, "M_UNKNOWN", "the upload broke off")
	}
	if n > most {
		return f, refuse(http.StatusRequestEntityTooLarge, "M_TOO_LARGE", fmt.Sprintf("files may have at most %d bytes", most))
	}
	if err := t.Sync(); err != nil {
		return f, fmt.Errorf("flush upload file: %w", err)
	}
	return received{t.Name(), h.Sum(nil), n}, nil
}

// keep moves a received file to its place and commits the rows that name it. Files without a row are swept at the next
// start, so the order is file first. A copy says of which server, and when it was of use last.
func (m *Media) keep(ctx context.Context, f received, of string, used time.Time, insert func(tx *store.Tx, now int64) error) error {
	gone, err := m.place(ctx, f, of, used, insert)
	if err != nil {
		_ = m.remove(context.WithoutCancel(ctx), [][]byte{f.sum}) // it may lie in its place; no row names it
		return err
	}
	return m.remove(ctx, gone)
}

// remove deletes files that no row needs any more, and their thumbnails.
func (m *Media) remove(ctx context.Context, gone [][]byte) error {
	if len(gone) == 0 {
		return nil
	}
	m.placing.Lock()
	defer m.placing.Unlock()
	return m.db.View(ctx, func(r *store.Read) error {
		for _, sum := range gone {
			if back, err := r.HasMediaFile(sum); err != nil {
				return err
			} else if back {
				continue
			}
			_ = os.Remove(m.path(sum)) // what stays is swept at the next start
			for _, s := range sizes {
				_ = os.Remove(m.thumbPath(sum, s))
			}
		}
		return nil
	})
}

// place does the work of keep and gives the hashes whose files may go.
func (m *Media) place(ctx context.Context, f received, of string, used time.Time, insert func(tx *store.Tx, now int64) error) (gone [][]byte, err error) {
	defer os.Remove(f.path) // gone already if it was moved
	m.placing.RLock()
	defer m.placing.RUnlock()
	final := m.path(f.sum)
	dir := filepath.Dir(final)
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := syncDir(m.dir); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make media directory: %w", err)
	}
	if err := os.Rename(f.path, final); err != nil {
		return nil, fmt.Errorf("place media file: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return nil, err
	}
	now := m.opt.Now().UnixMilli()
	err = m.db.Do(ctx, func(tx *store.Tx) (err error) {
		if gone, err = m.makeRoom(tx, f, of, used); err != nil {
			return err
		}
		return insert(tx, now)
	})
	if errors.Is(err, store.ErrMediaQuota) {
		return nil, refuse(http.StatusForbidden, "M_RESOURCE_LIMIT_EXCEEDED", "the box has no room for more files")
	}
	return gone, err
}

// makeRoom enters a file, and gives the hashes of those that give way to it.
func (m *Media) makeRoom(tx *store.Tx, f received, of string, used time.Time) (gone [][]byte, err error) {
	most := int64(math.MaxInt64)
	if !used.IsZero() {
		most = used.UnixMilli()
	}
	if of != "" && m.opt.PerServer > 0 {
		if gone, err = tx.MakeRoomForCopy(f.size, m.opt.PerServer, of, most); err != nil {
			return nil, err
		}
	}
	known, err := tx.HasMediaFile(f.sum)
	if known || err != nil {
		return gone, err
	}
	more, err := tx.MakeRoomForCopy(f.size, m.quota.Load(), "", most)
	if err != nil {
		return nil, err
	}
	return append(gone, more...), tx.InsertMediaFile(f.sum, f.size)
}

// syncDir makes directory entries durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory to flush it: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("flush directory: %w", err)
	}
	return nil
}

// newID makes a media id of 24 letters and digits.
func newID() string {
	var b [15]byte
	_, _ = rand.Read(b[:]) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}

// clean bounds what an uploader says about a file, so that it can go into a header.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	for len(s) > 255 {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}

func refuse(status int, code, text string) error {
	return &room.Error{Code: code, Status: status, Text: text}
}
