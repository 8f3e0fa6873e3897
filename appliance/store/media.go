// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"
	"math"

	"hallig/appliance/event"
)

// Media is what one mxc:// address means on this box.
type Media struct {
	Server   string
	ID       string
	Hash     []byte // SHA-256 of the file; nil while only the id is announced
	Type     string
	Name     string
	Uploader event.UserID // "" for copies of other servers' media
	Created  int64        // ms
	Used     int64        // ms
}

// ErrMediaQuota says that the files of local users leave no room.
var ErrMediaQuota = errors.New("media quota exceeded")

// Media gives the row of an address; nil when there is none.
func (r *Read) Media(server, id string) (*Media, error) {
	m := Media{Server: server, ID: id}
	ok, err := r.one(`SELECT hash, type, name, uploader, created, used FROM media WHERE server = ? AND id = ?`,
		args(server, id), &m.Hash, &m.Type, &m.Name, &m.Uploader, &m.Created, &m.Used)
	if err != nil || !ok {
		return nil, err
	}
	return &m, nil
}

// MediaOf tells the ids of a server's media of which there are copies here, the newest first, at most so many.
func (r *Read) MediaOf(server string, most int, f func(id string)) error {
	return r.each(`SELECT id FROM media WHERE server = ? AND hash IS NOT NULL ORDER BY created DESC LIMIT ?`, args(server, most), func(row *Row) error {
		var id string
		err := row.Scan(&id)
		f(id)
		return err
	})
}

// Uploads tells of the files that a server's users have uploaded here and their sizes, the newest first, at most so many.
func (r *Read) Uploads(server string, most int, f func(m Media, size int64)) error {
	return r.each(`SELECT m.id, m.hash, m.type, m.name, m.uploader, m.created, m.used, f.size FROM media m JOIN media_file f ON f.hash = m.hash
		WHERE m.server = ? AND m.uploader != '' ORDER BY m.created DESC, m.id LIMIT ?`, args(server, most), func(row *Row) error {
		m := Media{Server: server}
		var size int64
		err := row.Scan(&m.ID, &m.Hash, &m.Type, &m.Name, &m.Uploader, &m.Created, &m.Used, &size)
		f(m, size)
		return err
	})
}

// HasMediaFile says whether a file with this hash is kept.
func (r *Read) HasMediaFile(hash []byte) (bool, error) {
	var n int
	return r.one(`SELECT 1 FROM media_file WHERE hash = ?`, args(hash), &n)
}

// MediaBytes is the size of all kept files.
func (r *Read) MediaBytes() (int64, error) {
	var n int64
	_, err := r.one(`SELECT coalesce(sum(size), 0) FROM media_file`, nil, &n)
	return n, err
}

// PendingMedia counts the ids that a user announced and never filled.
func (r *Read) PendingMedia(user event.UserID) (int, error) {
	var n int
	_, err := r.one(`SELECT count(*) FROM media WHERE uploader = ? AND hash IS NULL`, args(user), &n)
	return n, err
}

// InsertMedia enters an address; what an address means never changes, so a second copy of a foreign one changes nothing.
func (tx *Tx) InsertMedia(m Media) error {
	return tx.exec(`INSERT INTO media (server, id, hash, type, name, uploader, created, used) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING`,
		m.Server, m.ID, m.Hash, m.Type, m.Name, m.Uploader, m.Created, m.Used)
}

// FillMedia gives an announced address its file.
func (tx *Tx) FillMedia(server, id string, hash []byte, typ, name string) error {
	return tx.exec(`UPDATE media SET hash = ?, type = ?, name = ? WHERE server = ? AND id = ?`, hash, typ, name, server, id)
}

// UseMedia notes when a copy was last asked for.
func (tx *Tx) UseMedia(server, id string, at int64) error {
	return tx.exec(`UPDATE media SET used = ? WHERE server = ? AND id = ?`, at, server, id)
}

// InsertMediaFile enters a file that lies on disk.
func (tx *Tx) InsertMediaFile(hash []byte, size int64) error {
	return tx.exec(`INSERT INTO media_file (hash, size) VALUES (?, ?)`, hash, size)
}

// MakeRoomForMedia takes out the least used copies of others' media until size more bytes fit into quota, and gives the hashes
// whose files are needed no longer. ErrMediaQuota when that is not enough; nothing has changed then, as the caller's
// operation is rolled back.
func (tx *Tx) MakeRoomForMedia(size, quota int64) (gone [][]byte, err error) {
	return tx.MakeRoomForCopy(size, quota, "", math.MaxInt64)
}

// MakeRoomForCopy is MakeRoomForMedia for a copy that was of use last at used, in ms: what was so later stays. With a server only the copies of its media count, and go.
func (tx *Tx) MakeRoomForCopy(size, quota int64, server string, used int64) (gone [][]byte, err error) {
	sum := tx.MediaBytes
	if server != "" {
		sum = func() (int64, error) { return tx.mediaBytesOf(server) }
	}
	taken, err := sum()
	if err != nil {
		return nil, err
	}
	for taken+size > quota {
		m := Media{Server: server}
		ok, err := tx.one(`SELECT server, id, hash FROM media WHERE uploader = '' AND hash IS NOT NULL AND used <= ? AND ? IN ('', server) ORDER BY used LIMIT 1`, args(used, server),
			&m.Server, &m.ID, &m.Hash)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, ErrMediaQuota
		}
		freed, hash, err := tx.dropCopy(m)
		if err != nil {
			return nil, err
		}
		if hash != nil {
			gone = append(gone, hash)
		}
		taken -= freed
		if freed == 0 && server != "" { // another server has the same file: it counts for both
			if taken, err = sum(); err != nil {
				return nil, err
			}
		}
	}
	return gone, nil
}

// dropCopy forgets one copy. hash is that of the file when nothing else needs it, and freed its size.
func (tx *Tx) dropCopy(m Media) (freed int64, hash []byte, err error) {
	if err := tx.exec(`DELETE FROM media WHERE server = ? AND id = ?`, m.Server, m.ID); err != nil {
		return 0, nil, err
	}
	var n int
	if still, err := tx.one(`SELECT 1 FROM media WHERE hash = ?`, args(m.Hash), &n); err != nil || still {
		return 0, nil, err
	}
	if _, err := tx.one(`SELECT size FROM media_file WHERE hash = ?`, args(m.Hash), &freed); err != nil {
		return 0, nil, err
	}
	return freed, m.Hash, tx.exec(`DELETE FROM media_file WHERE hash = ?`, m.Hash)
}

func (r *Read) mediaBytesOf(server string) (n int64, err error) {
	_, err = r.one(`SELECT coalesce(sum(size), 0) FROM media_file WHERE hash IN (SELECT hash FROM media WHERE server = ?)`, args(server), &n)
	return n, err
}

// CopiesSince is the bytes of the copies that were of use after a time in ms: of all, or of one server's media.
func (r *Read) CopiesSince(used int64, server string) (n int64, err error) {
	_, err = r.one(`SELECT coalesce(sum(f.size), 0) FROM media m JOIN media_file f ON f.hash = m.hash WHERE m.used > ? AND m.uploader = '' AND ? IN ('', m.server)`, args(used, server), &n)
	return n, err
}

// ForgetCopies forgets the copies of a server's media, at most so many, and gives the hashes whose files are needed no longer. What there was more is found when it is asked again.
func (tx *Tx) ForgetCopies(server string, most int) (forgotten int, gone [][]byte, err error) {
	return tx.forgetCopies(`server = ?`, args(server), most)
}

// ForgetFile forgets all copies that are the file of a hash. What a local user has uploaded stays.
func (tx *Tx) ForgetFile(hash []byte) (gone [][]byte, err error) {
	for n := 1; n > 0 && err == nil; {
		var some [][]byte
		n, some, err = tx.forgetCopies(`hash = ?`, args(hash), 100)
		gone = append(gone, some...)
	}
	return gone, err
}

func (tx *Tx) forgetCopies(where string, a []any, most int) (forgotten int, gone [][]byte, err error) {
	var all []Media
	err = tx.each(`SELECT server, id, hash FROM media WHERE uploader = '' AND hash IS NOT NULL AND `+where+` LIMIT ?`, append(a, most), func(row *Row) error {
		var m Media
		err := row.Scan(&m.Server, &m.ID, &m.Hash)
		all = append(all, m)
		return err
	})
	for _, m := range all {
		if err != nil {
			break
		}
		var hash []byte
		if _, hash, err = tx.dropCopy(m); hash != nil {
			gone = append(gone, hash)
		}
	}
	return len(all), gone, err
}

// MediaByServer tells of each server how many addresses of it have a file here, and the bytes of these.
func (r *Read) MediaByServer(f func(server string, files, bytes int64)) error {
	return r.each(`SELECT m.server, count(*), sum(f.size) FROM media m JOIN media_file f ON f.hash = m.hash GROUP BY m.server`, nil, func(row *Row) error {
		var server string
		var files, bytes int64
		err := row.Scan(&server, &files, &bytes)
		f(server, files, bytes)
		return err
	})
}
