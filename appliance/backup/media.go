// SPDX-License-Identifier: EUPL-1.2

package backup

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/age"
	"github.com/google/renameio/v2"
)

// digest names a file of media.
type digest [sha256.Size]byte

func (d digest) path() string {
	name := hex.EncodeToString(d[:])
	return filepath.Join("media", name[:2], name)
}

func parseDigest(name string) (d digest, ok bool) {
	n, err := hex.Decode(d[:], []byte(name[:min(len(name), 2*len(d))]))
	return d, err == nil && n == len(d) && len(name) == 2*len(d)
}

// archive is a media archive at a place and the files in it.
type archive struct {
	Piece
	files []digest
}

// note writes down what lies in the archive.
func (a archive) note(index string) error {
	sum, err := hex.DecodeString(a.SHA256)
	if err != nil {
		return err
	}
	raw := binary.BigEndian.AppendUint64(sum, uint64(a.Size))
	for _, d := range a.files {
		raw = append(raw, d[:]...)
	}
	return renameio.WriteFile(filepath.Join(index, a.Name+".idx"), raw, 0o600)
}

// parseNote reads a note; ok is false when it is damaged, and then the archive counts as not there.
func parseNote(name string, raw []byte) (a archive, ok bool) {
	const head = sha256.Size + 8
	if len(raw) < head || (len(raw)-head)%sha256.Size != 0 || !archiveName.MatchString(name) {
		return a, false
	}
	a.Piece = Piece{Name: name, SHA256: hex.EncodeToString(raw[:sha256.Size]), Size: int64(binary.BigEndian.Uint64(raw[sha256.Size:]))}
	for rest := raw[head:]; len(rest) > 0; rest = rest[sha256.Size:] {
		a.files = append(a.files, digest(rest[:sha256.Size]))
	}
	return a, a.Size > 0
}

// missingMedia compares the media of the box with the archives at a place: which files have to be written, which archives are needed, and how many
// bytes come. An archive of which more than half is gone from the box is not needed any more: what it has left is written anew.
func (s Source) missingMedia(home string) (missing []digest, have []Piece, bytes int64, err error) {
	sizes := map[digest]int64{}
	err = filepath.WalkDir(filepath.Join(s.Data, "media"), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() {
			if name == "thumb" || name == "temp" {
				return fs.SkipDir
			}
			return nil
		}
		sum, ok := parseDigest(d.Name())
		if info, err := d.Info(); ok && err == nil && info.Mode().IsRegular() {
			sizes[sum] = info.Size()
		}
		return nil
	})
	if err != nil {
		return nil, nil, 0, err
	}
	there := map[digest]bool{}
	index := filepath.Join(s.Data, indexFolder)
	notes, err := filepath.Glob(filepath.Join(index, "m*.age.idx"))
	if err != nil {
		return nil, nil, 0, err
	}
	for _, note := range notes {
		raw, err := os.ReadFile(note)
		if err != nil {
			return nil, nil, 0, err
		}
		name := filepath.Base(note)
		a, ok := parseNote(name[:len(name)-len(".idx")], raw)
		if !ok || a.there(filepath.Join(home, mediaFolder)) != nil {
			continue // of another stick
		}
		var live []digest
		for _, d := range a.files {
			if _, ok := sizes[d]; ok && !there[d] {
				live = append(live, d)
			}
		}
		if 2*len(live) < len(a.files) {
			continue
		}
		for _, d := range live {
			there[d] = true
		}
		have = append(have, a.Piece)
	}
	for d, n := range sizes {
		if !there[d] {
			missing = append(missing, d)
			bytes += n
		}
	}
	return missing, have, bytes, nil
}

// writeMedia writes the missing files into new archives, each read back before it gets its name.
func (s Source) writeMedia(ctx context.Context, home string, number int, missing []digest, of int64, own age.Identity) (out []archive, err error) {
	dir := filepath.Join(home, mediaFolder)
	var done int64
	for len(missing) > 0 {
		name := randomName(number)
		a := archive{}
		p := &parts{dir: dir, name: func(int) string { return name + fresh }, limit: 1 << 62}
		w, err := seal(p, s.Recipients, false)
		if err != nil {
			return nil, err
		}
		var size int64
		for len(missing) > 0 && size < s.archive && err == nil {
			d := missing[0]
			missing = missing[1:]
			s.Note("media", done, of)
			var n int64
			if n, err = s.addMedia(ctx, w, d); n >= 0 && err == nil {
				a.files = append(a.files, d)
				size, done = size+n, done+n
			}
		}
		if err == nil {
			err = w.Close()
		}
		err = errors.Join(err, p.next())
		tmp := filepath.Join(dir, name+fresh)
		if err == nil && len(a.files) > 0 {
			s.Note("verify media", done, of)
			err = verify(ctx, dir, p.done, []age.Identity{own}, false, len(a.files))
		}
		if err != nil || len(a.files) == 0 {
			if err = errors.Join(err, os.Remove(tmp)); err != nil {
				return nil, err
			}
			continue
		}
		if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
			return nil, err
		}
		a.Piece = p.done[0]
		a.Name = name
		out = append(out, a)
	}
	return out, nil
}

// addMedia adds one file; n is negative when it is gone meanwhile.
func (s Source) addMedia(ctx context.Context, w *sealed, d digest) (n int64, err error) {
	f, err := os.Open(filepath.Join(s.Data, d.path()))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), entry(ctx, w, filepath.ToSlash(d.path()), info.Size(), io.LimitReader(f, info.Size()), s.Now)
}

// unpackMedia takes the files of an archive that are what their names say. It gives how many they are; an error says why there are not more.
func unpackMedia(ctx context.Context, dir string, p Piece, ids []age.Identity, into string) (n int, err error) {
	r := &partReader{dir: dir, left: []Piece{p}}
	defer r.Close()
	o, err := unseal(r, ids, false)
	if err != nil {
		return 0, err
	}
	for {
		h, err := o.next()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		d, ok := parseDigest(filepath.Base(h.Name))
		if !ok || filepath.FromSlash(h.Name) != d.path() {
			return n, fmt.Errorf("%q is no file of media", h.Name)
		}
		name := filepath.Join(into, d.path())
		sum := sha256.New()
		if err := unpackFile(ctx, name, io.TeeReader(o.tar, sum)); err != nil {
			return n, err
		}
		if digest(sum.Sum(nil)) != d {
			return n, errors.Join(fmt.Errorf("%q is not what its name says", h.Name), os.Remove(name))
		}
		n++
	}
}
