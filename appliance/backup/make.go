// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"
)

// Source is the box to be kept.
type Source struct {
	Data       string                                       // its data directory
	Snapshot   func(ctx context.Context, path string) error // writes a consistent copy of the database to a new file
	ServerName string
	BoxID      string
	Version    string
	Now        time.Time
	Trusted    bool // Now is
	Recipients []age.Recipient
	Keep       int                             // how many backups stay at a place; 0: 7
	Free       func(string) (int64, error)     // bytes that a place has left; nil: statfs
	Note       func(stage string, n, of int64) // told how far it is; may be nil
	partBytes  int64                           // tests; 0: partBytes
	archive    int64                           // tests; 0: archiveBytes
}

// Full says that a place has no room for the backup, with all older ones but the newest gone.
type Full struct {
	Place      string
	Need, Free int64
}

func (f *Full) Error() string {
	return fmt.Sprintf("back up to %s: it needs %d MB and %d MB are free; use a larger stick, or remove other files", f.Place, f.Need>>20+1, f.Free>>20)
}

const defaultKeep = 7

// Make writes one backup to a place and verifies it. When it fails, nothing of it remains but what the next one takes away.
func Make(ctx context.Context, place string, s Source) (Found, error) {
	f, err := s.make(ctx, place)
	if err != nil {
		return Found{}, fmt.Errorf("back up to %s: %w", place, err)
	}
	return f, nil
}

func (s Source) make(ctx context.Context, place string) (_ Found, err error) {
	if len(s.Recipients) == 0 {
		return Found{}, errors.New("no key to encrypt it for")
	}
	if s.Note == nil {
		s.Note = func(string, int64, int64) {}
	}
	if s.Free == nil {
		s.Free = freeBytes
	}
	if s.Keep <= 0 {
		s.Keep = defaultKeep
	}
	if s.partBytes == 0 {
		s.partBytes, s.archive = partBytes, archiveBytes
	}
	if !isDir(place) {
		return Found{}, errors.New("there is no such folder; is the stick plugged in?")
	}
	own, err := age.GenerateX25519Identity() // to read back what was written; forgotten afterwards
	if err != nil {
		return Found{}, err
	}
	s.Recipients = append(slices.Clone(s.Recipients), own.Recipient())
	home := filepath.Join(place, Folder, homeName(s.ServerName, s.BoxID))
	if err := os.MkdirAll(filepath.Join(home, mediaFolder), 0o700); err != nil {
		return Found{}, err
	}
	old, err := clean(home)
	if err != nil {
		return Found{}, err
	}
	index := filepath.Join(s.Data, indexFolder)
	if err := os.MkdirAll(index, 0o700); err != nil {
		return Found{}, err
	}
	snapshot := filepath.Join(index, snapshotFile)
	if err := os.RemoveAll(snapshot); err != nil {
		return Found{}, err
	}
	s.Note("database", 0, 0)
	if err := s.Snapshot(ctx, snapshot); err != nil {
		return Found{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(snapshot)) }()
	files, size, err := s.files(snapshot)
	if err != nil {
		return Found{}, err
	}
	missing, have, bytes, err := s.missingMedia(home)
	if err != nil {
		return Found{}, err
	}
	number := 1
	if n := len(old); n > 0 {
		number = old[n-1].Number + 1
	}
	for {
		less, err := s.makeRoom(place, old, size+bytes+(16<<20))
		if err != nil {
			return Found{}, err
		}
		if len(less) == len(old) {
			break
		}
		old = less
		if err := prune(home, old, len(old)); err != nil {
			return Found{}, err
		}
		if missing, have, bytes, err = s.missingMedia(home); err != nil { // some may have gone with the oldest
			return Found{}, err
		}
	}
	m := Manifest{Form: 1, Number: number, ServerName: s.ServerName, BoxID: s.BoxID, Version: s.Version, Made: s.Now.UTC().Truncate(time.Second), Trusted: s.Trusted, Files: len(files), Media: have}
	if info, err := os.Stat(snapshot); err == nil {
		m.Database = info.Size()
	}
	archives, err := s.writeMedia(ctx, home, m.Number, missing, bytes, own)
	if err != nil {
		return Found{}, err
	}
	for _, a := range archives {
		m.Media = append(m.Media, a.Piece)
	}
	dir := filepath.Join(home, fmt.Sprintf("%06d-%s", m.Number, m.Made.Format("20060102T1504Z")))
	if err := s.writeData(ctx, dir, &m, files, size, own); err != nil {
		return Found{}, err
	}
	for _, a := range archives {
		if err := a.note(index); err != nil {
			return Found{}, fmt.Errorf("the backup is good, but its note is not written: %w", err)
		}
	}
	f := read(dir)
	if err := prune(home, append(old, f), s.Keep); err != nil {
		return f, fmt.Errorf("the backup is good, but older ones could not be removed: %w", err)
	}
	return f, nil
}

// clean removes what an interrupted backup left, and gives the others, the newest last.
func clean(home string) ([]Found, error) {
	for _, dir := range []string{home, filepath.Join(home, mediaFolder)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), fresh) {
				if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
					return nil, err
				}
			}
		}
	}
	old, err := List(home)
	if errors.Is(err, ErrNothing) {
		return nil, nil
	}
	return old, err
}

// makeRoom removes the oldest backup when fewer than need bytes are free; the newest good one stays.
func (s Source) makeRoom(place string, old []Found, need int64) ([]Found, error) {
	free, err := s.Free(place)
	if err != nil || free >= need {
		return old, err
	}
	good := 0
	for _, f := range old {
		if f.Err == nil {
			good++
		}
	}
	if len(old) == 0 || old[0].Err == nil && good <= 1 {
		return nil, &Full{Place: place, Need: need, Free: free}
	}
	return old[1:], remove(old[0].Path)
}

// remove takes a backup away so that no half of it remains under its name.
func remove(dir string) error {
	gone := dir + fresh
	if err := os.Rename(dir, gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// prune keeps the last backups and the media archives that they name. Damaged ones do not count.
func prune(home string, all []Found, keep int) error {
	good := 0
	needed := map[string]bool{}
	for _, f := range slices.Backward(all) {
		if good >= keep && keep > 0 {
			if err := remove(f.Path); err != nil {
				return err
			}
			continue
		}
		if f.Err == nil {
			good++
		}
		for _, p := range f.Media {
			needed[p.Name] = true
		}
	}
	entries, err := os.ReadDir(filepath.Join(home, mediaFolder))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !needed[e.Name()] && archiveName.MatchString(e.Name()) {
			if err := os.Remove(filepath.Join(home, mediaFolder, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// source is one file of the data directory and its name in the archive.
type source struct {
	path, name string
	size       int64
}

// left says what of the data directory is no part of a backup: the live database, locks and sockets, what can be made again.
func left(rel string, d fs.DirEntry) bool {
	first, _, _ := strings.Cut(rel, string(filepath.Separator))
	return strings.HasPrefix(first, database) || strings.HasPrefix(filepath.Base(rel), ".") || first == "lock" || first == "media" || first == marker ||
		rel == filepath.Join(indexFolder, snapshotFile) || rel == filepath.Join(indexFolder, OutFolder) || first == KeptFolder || !d.IsDir() && !d.Type().IsRegular()
}

func (s Source) files(snapshot string) (out []source, total int64, err error) {
	add := func(path, name string) error {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		out = append(out, source{path, name, info.Size()})
		total += info.Size()
		return nil
	}
	if err := add(snapshot, database); err != nil {
		return nil, 0, err
	}
	err = filepath.WalkDir(s.Data, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || path == s.Data {
			return err
		}
		rel, err := filepath.Rel(s.Data, path)
		if err != nil {
			return err
		}
		if left(rel, d) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		return add(path, filepath.ToSlash(rel))
	})
	return out, total, err
}

// writeData writes the data archive beside, reads it back and gives it its name.
func (s Source) writeData(ctx context.Context, dir string, m *Manifest, files []source, size int64, own age.Identity) (err error) {
	tmp := dir + fresh
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	p := &parts{dir: tmp, name: partName, limit: s.partBytes}
	defer func() {
		if p.file != nil {
			p.file.Close() // after an error
		}
	}()
	w, err := seal(p, s.Recipients, true)
	if err != nil {
		return err
	}
	inner, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := entry(ctx, w, innerFile, int64(len(inner)), bytes.NewReader(inner), s.Now); err != nil {
		return err
	}
	var done int64
	for _, f := range files {
		s.Note("write", done, size)
		r, err := os.Open(f.path)
		if err != nil {
			return err
		}
		// A file that grows meanwhile is taken as it was; one that shrinks is an error, and the next backup takes it.
		err = errors.Join(entry(ctx, w, f.name, f.size, io.LimitReader(r, f.size), s.Now), r.Close())
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		done += f.size
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := p.next(); err != nil {
		return err
	}
	m.Parts = p.done
	s.Note("verify", 0, 0)
	if err := verify(ctx, tmp, m.Parts, []age.Identity{own}, true, m.Files+1); err != nil {
		return fmt.Errorf("what was written cannot be read back, use another stick: %w", err)
	}
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(tmp, manifestFile), append(raw, '\n')); err != nil {
		return err
	}
	if err := readMe(filepath.Dir(dir), *m); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncFS(filepath.Dir(dir))
}

func entry(ctx context.Context, w *sealed, name string, size int64, r io.Reader, now time.Time) error {
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: now, Format: tar.FormatPAX}); err != nil {
		return err
	}
	n, err := copyContext(ctx, w, r)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// verify reads a stream to its end as a restore would.
func verify(ctx context.Context, dir string, pieces []Piece, ids []age.Identity, compressed bool, files int) error {
	r := &partReader{dir: dir, left: pieces}
	defer r.Close()
	o, err := unseal(r, ids, compressed)
	if err != nil {
		return err
	}
	defer o.Close()
	n := 0
	for {
		if _, err := o.next(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		if _, err := copyContext(ctx, io.Discard, o.tar); err != nil {
			return err
		}
		n++
	}
	if n != files {
		return fmt.Errorf("%d files were read back, not %d", n, files)
	}
	_, err = io.Copy(io.Discard, r) // to the end of the last part, whose hash is compared there
	return err
}

// readMe explains the folder to whoever finds it.
func readMe(home string, m Manifest) error {
	name := filepath.Join(home, "READ-ME.txt")
	text := fmt.Sprintf("Verschlüsselte Sicherung der Hallig-Box %[1]s (%[2]s).\r\nWiederherstellen auf einer neuen Box: doc/betrieb.md, Abschnitt 4 (Sicherung und Ersatzbox), oder\r\n    hallig restore DIESER-ORDNER --data DATEN --identity SCHLÜSSELDATEI\r\n"+
		"Die neue Box sichert nur, wenn in ihrer hallig.json neben \"restore\" auch \"backup\" steht. Danach den Schlüssel (hallig.json) vom Stick löschen.\r\nDie alte Box nie wieder einschalten.\r\n\r\n"+
		"Encrypted backup of the Hallig box %[1]s (%[2]s).\r\nTo restore it on a new box: doc/operation.md, section 4 (Backup and spare box), or\r\n    hallig restore THIS-FOLDER --data DATA --identity KEYFILE\r\n"+
		"The new box makes backups only if its hallig.json has \"backup\" beside \"restore\". Then delete the key (hallig.json) from the stick.\r\nNever switch the old box on again.\r\n", m.ServerName, m.BoxID)
	if old, err := os.ReadFile(name); err == nil && string(old) == text {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeSynced(name, []byte(text))
}

func writeSynced(name string, raw []byte) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncFS flushes the whole file system that holds dir: on FAT a folder alone cannot be.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err = unix.Syncfs(int(f.Fd())); err != nil {
		err = fmt.Errorf("flush %s: %w", dir, err)
	}
	return errors.Join(err, f.Close())
}

func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, nil
}

// randomName makes the name of a media archive.
func randomName(number int) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("m%06d-%s.age", number, hex.EncodeToString(b[:]))
}
