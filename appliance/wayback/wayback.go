// SPDX-License-Identifier: EUPL-1.2

// Package wayback keeps the way back of a database: the copy from before a migration, and the note that says when an older program may put it back
// by itself. It moves whole files that nobody has open and knows nothing of what is in them; package store calls it while it opens, and the first process
// of an image leaves the note before it boots the older system.
//
// Beside the database DB stand:
//
//	DB.before-N   the database as it was before the migration from schema N; the latest one only
//	DB.note       the note, JSON: {"act":"trial","schema":N} or {"act":"back","schema":N}
//	DB.after-1    what "back" set aside: the newer database, which no program reads any more; -2 the next time
//
// The note "trial" is there from before a migration on trial until the trial is confirmed: while it is there nothing was acknowledged to anybody, so an older
// program that finds it may put the copy back and loses nothing. The note "back" says that somebody decided to go back knowing what is lost. A program
// that can read the database as it is takes either note for settled.
//
// It promises: after a power cut at any point the database is the old one or the new one, whole, and the next Put finishes what was begun.
package wayback

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
)

// Reserve is what a box keeps free of its disk, bytes: nothing is taken in that would go below, and no copy is made there.
const Reserve = 64 << 20

// Act is why a copy may be put back.
type Act string

// The acts.
const (
	Trial Act = "trial" // the migration was made on trial; nothing was acknowledged since
	Back  Act = "back"  // somebody goes back on purpose; what came since is set aside
)

// Note is what stands in DB.note.
type Note struct {
	Act    Act   `json:"act"`
	Schema int64 `json:"schema"` // of the copy
	// Putting: the copy is being moved; whoever finds this finishes it.
	Putting bool `json:"putting,omitempty"`
	// Restored: the copy is in place after Back. The box begins a new epoch and then settles the note.
	Restored bool `json:"restored,omitempty"`
}

func noteName(db string) string { return db + ".note" }

// ReadNote gives the note; a zero one when there is none. A note that cannot be read is an error: it might have been a decision.
func ReadNote(db string) (Note, error) {
	raw, err := os.ReadFile(noteName(db))
	if errors.Is(err, fs.ErrNotExist) {
		return Note{}, nil
	}
	if err != nil {
		return Note{}, fmt.Errorf("read the note of the way back: %w", err)
	}
	var n Note
	if err := json.Unmarshal(raw, &n); err != nil || n.Act != Trial && n.Act != Back || n.Schema < 1 {
		return Note{}, fmt.Errorf("the note of the way back cannot be read: look at %s and remove it if the database is the one you want", noteName(db))
	}
	return n, nil
}

// Leave writes the note durably. Written by root it belongs to the user whose directory it stands in, who must be able to read it.
func Leave(db string, n Note) error {
	raw, err := json.Marshal(n)
	if err == nil {
		err = writeNote(noteName(db), append(raw, '\n'))
	}
	if err == nil {
		err = syncDir(db)
	}
	if err != nil {
		return fmt.Errorf("leave the note of the way back: %w", err)
	}
	return nil
}

func writeNote(name string, raw []byte) error {
	f, err := renameio.NewPendingFile(name, renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // nothing is left when all went well
	if _, err := f.Write(raw); err != nil {
		return err
	}
	st, err := os.Stat(filepath.Dir(name))
	if err != nil {
		return err
	}
	if dir, ok := st.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := f.Chown(int(dir.Uid), int(dir.Gid)); err != nil {
			return err
		}
	}
	return f.CloseAtomicallyReplace()
}

// Settle removes the note durably. Without one it does nothing.
func Settle(db string) error {
	err := os.Remove(noteName(db))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncDir(db)
	}
	if err != nil {
		return fmt.Errorf("settle the note of the way back: %w", err)
	}
	return nil
}

func syncDir(db string) error {
	d, err := os.Open(filepath.Dir(db))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Copy is a copy from before a migration.
type Copy struct {
	Path   string
	Schema int64
	Size   int64
	Made   time.Time // by the box's own clock
}

// Copies lists those beside a database, the highest schema first.
func Copies(db string) ([]Copy, error) {
	names, err := filepath.Glob(globEscape(db) + ".before-*")
	if err != nil {
		return nil, fmt.Errorf("look for copies of the database: %w", err)
	}
	var list []Copy
	for _, name := range names {
		n, err := strconv.ParseInt(strings.TrimPrefix(name, db+".before-"), 10, 64)
		if err != nil || n < 1 {
			continue // one that was not finished
		}
		st, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("look for copies of the database: %w", err)
		}
		at := 0
		for at < len(list) && list[at].Schema > n {
			at++
		}
		list = append(list[:at], append([]Copy{{name, n, st.Size(), st.ModTime()}}, list[at:]...)...)
	}
	return list, nil
}

// globEscape makes a path stand for itself.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// For gives the copy that a program of this schema can read, the newest of them.
func For(db string, schema int64) (Copy, bool, error) {
	list, err := Copies(db)
	if err != nil {
		return Copy{}, false, err
	}
	for _, c := range list {
		if c.Schema <= schema {
			return c, true, nil
		}
	}
	return Copy{}, false, nil
}

// Forget removes all copies but that of one schema; 0: all of them.
func Forget(db string, but int64) error {
	list, err := Copies(db)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Schema == but {
			continue
		}
		if err := os.Remove(c.Path); err != nil {
			return fmt.Errorf("remove an old copy of the database: %w", err)
		}
	}
	return nil
}

// NoRoom says that the disk does not take a copy.
type NoRoom struct{ Need, Free int64 }

func (n *NoRoom) Error() string {
	return fmt.Sprintf("the disk has no room for a copy of the database before it is changed (%d MB needed, %d MB free): delete media or enlarge the disk, then start again", n.Need>>20+1, n.Free>>20)
}

// Need is how much room a copy takes, with what a migration may write.
func Need(size int64) int64 { return size + size/4 + 1<<20 }

// Make copies a database that nobody writes to and whose log is folded. from is open on it. Older copies go first: the system that could read them
// is gone once another one is to be migrated to. free is what the disk takes beside what must stay free.
func Make(from *os.File, db string, schema, free int64) error {
	st, err := from.Stat()
	if err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	list, err := Copies(db)
	if err != nil {
		return err
	}
	for _, c := range list {
		free += c.Size
	}
	if need := Need(st.Size()); need > free {
		return &NoRoom{need, free}
	}
	if err := Forget(db, 0); err != nil {
		return err
	}
	if err := write(from, fmt.Sprintf("%s.before-%d", db, schema), st.Size()); err != nil {
		return fmt.Errorf("copy the database: %w", err)
	}
	return nil
}

func write(from *os.File, name string, size int64) error {
	tmp := name + ".tmp"
	to, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp) //nolint:errcheck // renamed away when all went well
	defer to.Close()
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if n, err := io.Copy(to, from); err != nil {
		return err
	} else if n != size {
		return fmt.Errorf("%d of %d bytes", n, size)
	}
	if err := to.Sync(); err != nil {
		return err
	}
	if err := to.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp, name); err != nil {
		return err
	}
	return syncDir(name)
}

// Put puts the copy that the note names back in the database's place. Nobody may have the database open, and its log must be folded when the newer one is
// to be set aside. What a power cut interrupts, the next Put finishes. For Back the note stays, Restored; for Trial it is settled.
func Put(db string, n Note) error {
	if n.Restored {
		return nil
	}
	copied := fmt.Sprintf("%s.before-%d", db, n.Schema)
	there, err := exists(copied)
	if err != nil {
		return err
	}
	if !there && !n.Putting {
		return fmt.Errorf("put the database back: there is no %s", copied)
	}
	if there {
		if err := put(db, copied, n); err != nil {
			return fmt.Errorf("put the database back: %w", err)
		}
	}
	if n.Act == Trial {
		return Settle(db)
	}
	n.Putting, n.Restored = false, true
	return Leave(db, n)
}

func put(db, copied string, n Note) error {
	n.Putting = true
	if err := Leave(db, n); err != nil {
		return err
	}
	if n.Act == Back {
		if err := aside(db); err != nil {
			return err
		}
	}
	for _, log := range []string{"-wal", "-shm"} { // those of the newer one; a log would be played into the older one
		if err := os.Remove(db + log); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := syncDir(db); err != nil {
		return err
	}
	if err := os.Rename(copied, db); err != nil {
		return err
	}
	return syncDir(db)
}

// aside gives the newer database a second name. Doing it twice does no harm.
func aside(db string) error {
	now, err := os.Stat(db)
	if err != nil {
		return err
	}
	for i := 1; ; i++ {
		name := fmt.Sprintf("%s.after-%d", db, i)
		st, err := os.Stat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return os.Link(db, name)
		case err != nil:
			return err
		case os.SameFile(now, st):
			return nil
		}
	}
}

// Aside lists what Back has set aside.
func Aside(db string) ([]string, error) {
	names, err := filepath.Glob(globEscape(db) + ".after-*")
	if err != nil {
		return nil, fmt.Errorf("look for what was set aside: %w", err)
	}
	return names, nil
}

func exists(name string) (bool, error) {
	_, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
