// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"errors"

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
	used, err := tx.MediaBytes()
	if err != nil {
		return nil, err
	}
	for used+size > quota {
		var m Media
		ok, err := tx.one(`SELECT server, id, hash FROM media WHERE uploader = '' AND hash IS NOT NULL ORDER BY used LIMIT 1`, nil,
			&m.Server, &m.ID, &m.Hash)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, ErrMediaQuota
		}
		if err := tx.exec(`DELETE FROM media WHERE server = ? AND id = ?`, m.Server, m.ID); err != nil {
			return nil, err
		}
		var n int
		if still, err := tx.one(`SELECT 1 FROM media WHERE hash = ?`, args(m.Hash), &n); err != nil || still {
			if err != nil {
				return nil, err
			}
			continue
		}
		var freed int64
		if _, err := tx.one(`SELECT size FROM media_file WHERE hash = ?`, args(m.Hash), &freed); err != nil {
			return nil, err
		}
		if err := tx.exec(`DELETE FROM media_file WHERE hash = ?`, m.Hash); err != nil {
			return nil, err
		}
		used -= freed
		gone = append(gone, m.Hash)
	}
	return gone, nil
}
