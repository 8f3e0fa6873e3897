// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
)

// Restored tells what came back.
type Restored struct {
	Manifest
	Path       string // the backup that was taken
	MediaFiles int
	Missing    []string // what of the media did not come back, and why
}

// Target is where a backup comes back to.
type Target struct {
	Data       string // the data directory of the new box
	Identities []age.Identity
	Replace    bool   // takes the place of a box that nobody has used yet: the caller has looked
	ServerName string // only a backup of this one; "": there must be backups of one box only
	Note       func(stage string, n, of int64)
}

// ErrLiving says that the data directory belongs to a box.
var ErrLiving = errors.New("a box lives in this data directory already, and is not overwritten")

// Restore brings the newest usable backup at a place into a data directory. Nothing is changed there until all is unpacked; after a power cut
// Finish completes it, or takes back what was not complete.
func Restore(ctx context.Context, place string, t Target) (Restored, error) {
	r, err := t.restore(ctx, place)
	if err != nil {
		return r, fmt.Errorf("restore from %s: %w", place, err)
	}
	return r, nil
}

func (t Target) restore(ctx context.Context, place string) (Restored, error) {
	if t.Note == nil {
		t.Note = func(string, int64, int64) {}
	}
	if err := os.MkdirAll(t.Data, 0o700); err != nil {
		return Restored{}, err
	}
	if err := Finish(t.Data); err != nil {
		return Restored{}, err
	}
	if !t.Replace {
		for _, name := range []string{database, "box.key", "signing.key"} {
			if _, err := os.Lstat(filepath.Join(t.Data, name)); !errors.Is(err, fs.ErrNotExist) {
				return Restored{}, fmt.Errorf("%w: %s is there; name an empty --data directory", ErrLiving, name)
			}
		}
	}
	found, err := List(place)
	if err != nil {
		return Restored{}, err
	}
	if found, err = t.choose(found); err != nil {
		return Restored{}, err
	}
	var trouble []error
	wrongKey := true
	for i := len(found) - 1; i >= 0; i-- { // the newest that can be read
		f := found[i]
		if f.Err == nil {
			var r Restored
			if r, err = t.take(ctx, f); err == nil {
				return r, nil
			}
			f.Err = err
		}
		trouble = append(trouble, fmt.Errorf("%s: %w", filepath.Base(f.Path), f.Err))
		if !errors.Is(f.Err, ErrWrongKey) {
			wrongKey = false
		}
		if errors.Is(f.Err, errRoom) || ctx.Err() != nil {
			break
		}
	}
	if wrongKey {
		return Restored{}, ErrWrongKey
	}
	return Restored{}, errors.Join(trouble...)
}

// choose keeps the backups of one box.
func (t Target) choose(found []Found) (out []Found, err error) {
	homes := map[string]bool{}
	var names []string
	for _, f := range found {
		if t.ServerName != "" && f.ServerName != t.ServerName {
			continue
		}
		out = append(out, f)
		if !homes[f.Home] {
			homes[f.Home] = true
			names = append(names, f.Home)
		}
	}
	switch {
	case len(out) == 0:
		return nil, fmt.Errorf("%w of %s", ErrNothing, t.ServerName)
	case len(homes) > 1:
		return nil, fmt.Errorf("there are backups of several boxes; name one of them: %s", strings.Join(names, ", "))
	}
	return out, nil
}

var errRoom = errors.New("the disk has no room for it")

// take unpacks one backup beside the data and puts it in place.
func (t Target) take(ctx context.Context, f Found) (r Restored, err error) {
	work := filepath.Join(t.Data, restoring)
	into := filepath.Join(work, "new")
	if err := os.RemoveAll(work); err != nil {
		return r, err
	}
	if err := os.MkdirAll(into, 0o700); err != nil {
		return r, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(work))
		}
	}()
	if free, err := freeBytes(t.Data); err == nil && free < f.Bytes()+f.Database+(32<<20) {
		return r, fmt.Errorf("%w: it takes %d MB and %d MB are free", errRoom, (f.Bytes()+f.Database)>>20, free>>20)
	}
	t.Note("data", 0, f.Bytes())
	if r.Manifest, err = unpackData(ctx, f, t.Identities, into); err != nil {
		return r, err
	}
	r.Path = f.Path
	for _, name := range []string{database, "box.key", "signing.key"} {
		if _, err := os.Stat(filepath.Join(into, name)); err != nil {
			return r, fmt.Errorf("it lacks %s", name)
		}
	}
	for i, p := range r.Media {
		t.Note("media", int64(i), int64(len(r.Media)))
		n, err := unpackMedia(ctx, filepath.Join(f.Home, mediaFolder), p, t.Identities, into)
		r.MediaFiles += n
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
		if err != nil { // the messages are worth more than a picture
			r.Missing = append(r.Missing, fmt.Sprintf("%s: %v", p.Name, err))
		}
	}
	if err := syncFS(work); err != nil {
		return r, err
	}
	if err := writeSynced(filepath.Join(work, complete), nil); err != nil {
		return r, err
	}
	if err := syncFS(work); err != nil {
		return r, err
	}
	return r, Finish(t.Data)
}

// unpackData unpacks the data archive, and gives the manifest from within, which alone is authentic.
func unpackData(ctx context.Context, f Found, ids []age.Identity, into string) (m Manifest, err error) {
	raw := &partReader{dir: f.Path, left: f.Parts}
	defer raw.Close()
	o, err := unseal(raw, ids, true)
	if err != nil {
		return m, err
	}
	defer o.Close()
	h, err := o.next()
	if err != nil {
		return m, err
	}
	if h.Name != innerFile || h.Size > maxManifest {
		return m, errors.New("it does not begin with its manifest")
	}
	text, err := io.ReadAll(o.tar)
	if err != nil {
		return m, err
	}
	if m, err = parseManifest(text); err != nil {
		return m, err
	}
	if m.ServerName != f.ServerName || m.BoxID != f.BoxID || m.Number != f.Number {
		return m, fmt.Errorf("it is backup %d of %s, not what %s says", m.Number, m.ServerName, manifestFile)
	}
	n := 0
	for {
		h, err := o.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return m, err
		}
		first, _, _ := strings.Cut(h.Name, "/")
		if strings.HasPrefix(first, ".") || first == marker || first == "lock" || first == "media" {
			return m, fmt.Errorf("%q is not what a backup holds", h.Name)
		}
		if err := unpackFile(ctx, filepath.Join(into, filepath.FromSlash(h.Name)), o.tar); err != nil {
			return m, err
		}
		n++
	}
	if n != m.Files {
		return m, fmt.Errorf("it holds %d files, not %d", n, m.Files)
	}
	m.Parts = f.Parts
	return m, nil
}

func unpackFile(ctx context.Context, name string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = copyContext(ctx, f, r)
	return errors.Join(err, f.Close())
}

// Finish completes a restore that a power cut interrupted after everything was unpacked, and takes back one that was not so far. To be called
// before anything in the data directory is opened; without a restore it does nothing.
func Finish(data string) error {
	work := filepath.Join(data, restoring)
	if _, err := os.Lstat(work); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(filepath.Join(work, complete)); errors.Is(err, fs.ErrNotExist) {
		return os.RemoveAll(work)
	} else if err != nil {
		return err
	}
	into, old := filepath.Join(work, "new"), filepath.Join(work, "old")
	if err := os.MkdirAll(old, 0o700); err != nil {
		return fmt.Errorf("finish restore: %w", err)
	}
	entries, err := os.ReadDir(into)
	if err != nil {
		return fmt.Errorf("finish restore: %w", err)
	}
	for _, e := range entries {
		names := []string{e.Name()}
		if e.Name() == database {
			beside, err := os.ReadDir(data)
			if err != nil {
				return fmt.Errorf("finish restore: %w", err)
			}
			for _, b := range beside {
				if strings.HasPrefix(b.Name(), database) && b.Name() != database { // logs, notes and copies of the database that goes
					names = append(names, b.Name())
				}
			}
		}
		for _, name := range names {
			if err := os.RemoveAll(filepath.Join(old, name)); err != nil {
				return fmt.Errorf("finish restore: %w", err)
			}
			if err := os.Rename(filepath.Join(data, name), filepath.Join(old, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("finish restore: %w", err)
			}
		}
		if err := os.Rename(filepath.Join(into, e.Name()), filepath.Join(data, e.Name())); err != nil {
			return fmt.Errorf("finish restore: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(data, marker), nil, 0o600); err != nil {
		return fmt.Errorf("finish restore: %w", err)
	}
	if err := syncFS(data); err != nil {
		return fmt.Errorf("finish restore: %w", err)
	}
	if err := os.Remove(filepath.Join(work, complete)); err != nil {
		return fmt.Errorf("finish restore: %w", err)
	}
	return os.RemoveAll(work)
}

// JustRestored says whether the data directory came from a backup and no box has begun a new epoch since.
func JustRestored(data string) bool {
	_, err := os.Lstat(filepath.Join(data, marker))
	return err == nil
}

// Begun notes that the new epoch has begun.
func Begun(data string) error {
	err := os.Remove(filepath.Join(data, marker))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
