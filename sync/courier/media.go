// SPDX-License-Identifier: EUPL-1.2

package courier

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// Files that people sent go along where there is room: those of this box's own users, of the newest messages of the rooms that a box is in, up to a size. A box says in its letter which it
// has. A file is cut into segments that follow each other; each begins with its head, as JSON. Files of others are not taken from a box: it cannot prove them.

const (
	mediaPart   = 4 << 20
	mediaEvents = 300  // newest messages of a room that are looked through
	mediaTold   = 4000 // files that a letter tells of
	eduMedia    = "hallig.media"
	mediaMark   = "media/" // and the id: in the place of a room in what an entry covers
)

// MediaFile is an open file of a user.
type MediaFile struct {
	Type, Name string
	Size       int64
	io.ReadCloser
}

// mediaHead is what a part says of its file.
type mediaHead struct {
	ID    string `json:"id"`
	Type  string `json:"type,omitempty"`
	Name  string `json:"name,omitempty"`
	Size  int64  `json:"size"`
	Part  int    `json:"part"`
	Parts int    `json:"parts"`
}

type mediaShort [8]byte

func shortMedia(id string) (s mediaShort) {
	sum := sha256.Sum256([]byte(id))
	copy(s[:], sum[:])
	return s
}

// files writes the files that a box may want.
func (e *export) files(ctx context.Context, p peer.Peer, box *BoxReport) error {
	c := e.c
	aboard := map[string]bool{}
	for _, it := range e.x.entries {
		if id, ok := it.media(); ok && it.reader == p.ID.Brief() {
			aboard[id] = true
		}
	}
	ids, err := c.mentioned(ctx, p)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if aboard[id] || c.has[p.ID][shortMedia(id)] {
			continue
		}
		f, err := c.c.OpenMedia(ctx, id)
		if err != nil {
			continue // removed, or never uploaded
		}
		if f.Size <= e.opt.Media && e.media+f.Size <= e.opt.MediaTotal {
			if err = e.file(ctx, p, id, f); err == nil {
				e.media += f.Size
				box.Files++
			}
		} else {
			box.Large++
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		e.note(Progress{Step: "files", Box: p.Server, Events: e.events, Bytes: e.report.Bytes})
	}
	return nil
}

// file writes one file; the index names all of its parts or none.
func (e *export) file(ctx context.Context, p peer.Peer, id string, f *MediaFile) error {
	before := e.x.entries
	parts := int((f.Size + mediaPart - 1) / mediaPart)
	for part := range parts {
		data := make([]byte, min(mediaPart, f.Size-int64(part)*mediaPart))
		_, err := io.ReadFull(f, data)
		if err == nil {
			var head []byte
			if head, err = json.Marshal(mediaHead{id, f.Type, f.Name, f.Size, part, parts}); err == nil {
				b := e.c.build(p, kindMedia)
				b.s.messages = [][]byte{head, data}
				err = e.write(b.s, entry{covers: []parcel.Vector{{Room: event.RoomID(mediaMark + id), Upto: uint64(part)}}})
			}
		}
		if err != nil {
			e.x.entries = before
			return fmt.Errorf("write file: %w", err)
		}
	}
	return e.commit(ctx)
}

// media is the file that an entry is a part of.
func (it *entry) media() (id string, ok bool) {
	if it.kind != kindMedia || len(it.covers) != 1 {
		return "", false
	}
	return strings.CutPrefix(string(it.covers[0].Room), mediaMark)
}

// mentioned lists the files of our users that the newest messages of a box's rooms mention, the newest first in each room.
func (c *Courier) mentioned(ctx context.Context, p peer.Peer) (ids []string, err error) {
	seen := map[string]bool{}
	err = c.c.DB.View(ctx, func(r *store.Read) error {
		rooms, err := r.DueRooms(p.Server)
		if err != nil {
			return err
		}
		for _, id := range rooms {
			if n, err := r.JoinedOf(id, p.Server); n == 0 || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			rows, err := r.RoomEventsBetween(id, 0, 1<<62, mediaEvents, true)
			if err != nil {
				return err
			}
			for _, row := range rows {
				if row.Sender.Server() != c.c.Server {
					continue
				}
				for _, m := range mentions(row.JSON, c.c.Server) {
					if !seen[m] {
						seen[m] = true
						ids = append(ids, m)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for files: %w", err)
	}
	return ids, nil
}

// mentions finds the media of a server that a message names: the file itself, before its preview.
// https://spec.matrix.org/v1.16/client-server-api/#mroommessage-msgtypes
func mentions(raw []byte, server string) (ids []string) {
	type file struct {
		URL string `json:"url"`
	}
	var e struct {
		Content struct {
			file
			File file `json:"file"`
			Info struct {
				Thumb file   `json:"thumbnail_file"`
				URL   string `json:"thumbnail_url"`
			} `json:"info"`
		} `json:"content"`
	}
	if json.Unmarshal(raw, &e) != nil {
		return nil
	}
	for _, url := range []string{e.Content.URL, e.Content.File.URL, e.Content.Info.URL, e.Content.Info.Thumb.URL} {
		if id, ok := strings.CutPrefix(url, "mxc://"+server+"/"); ok && id != "" && len(id) < 256 {
			ids = append(ids, id)
		}
	}
	return ids
}

// tellMedia says which files of a box are here, for its next export.
func (c *Courier) tellMedia(ctx context.Context, p peer.Peer) (*parcel.EDU, error) {
	var list []byte
	err := c.c.DB.View(ctx, func(r *store.Read) error {
		return r.MediaOf(p.Server, mediaTold, func(id string) {
			s := shortMedia(id)
			list = append(list, s[:]...)
		})
	})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &parcel.EDU{Type: eduMedia, Content: list}, nil
}

// heardMedia takes the same of a box.
func (c *Courier) heardMedia(id peer.ID, list []byte) bool {
	if len(list)%8 != 0 || len(list) > 8*mediaTold {
		return false
	}
	has := make(map[mediaShort]bool, len(list)/8)
	for ; len(list) > 0; list = list[8:] {
		has[mediaShort(list[:8])] = true
	}
	c.has[id] = has
	return true
}

// importFile takes in a file whose first part is the first of entries, and says how many entries it used.
func (c *Courier) importFile(ctx context.Context, d Disk, p peer.Peer, entries []entry, box *BoxReport, report *Report) (used int, err error) {
	r := &mediaReader{c: c, d: d, p: p, entries: entries}
	head, err := r.part()
	if err != nil || head.Part != 0 {
		report.note(entries[0].name(p.ID), cmpErr(err, errMalformed))
		return 1, nil
	}
	err = c.c.KeepMedia(ctx, p.Server, head.ID, head.Type, head.Name, r)
	report.Bytes += r.bytes
	switch {
	case r.bad != nil:
		report.note(entries[r.used-1].name(p.ID), r.bad)
		return r.used, nil
	case ctx.Err() != nil:
		return r.used, ctx.Err()
	case err != nil:
		c.log.Warn("file from a stick not kept", "peer", p.Server, "bytes", head.Size, "err", err)
		box.Refused++
		return r.used, nil
	}
	box.Files++
	err = c.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		for _, it := range entries[:r.used] {
			if err := tx.TakeSegment(it.hash, string(p.ID)); err != nil {
				return err
			}
		}
		return nil
	})
	return r.used, err
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// mediaReader reads a file part by part.
type mediaReader struct {
	c       *Courier
	d       Disk
	p       peer.Peer
	entries []entry
	used    int
	head    mediaHead // of the first part
	data    []byte
	read    int64 // of the file
	bytes   int64 // of segments
	bad     error
}

// part opens the next part.
func (r *mediaReader) part() (h mediaHead, err error) {
	if r.used == len(r.entries) || r.entries[r.used].kind != kindMedia || r.entries[r.used].reader != r.c.self.Brief() {
		return h, errMalformed
	}
	it := &r.entries[r.used]
	r.used++
	raw, err := readSegment(r.d, r.p.ID, it)
	if err != nil {
		return h, err
	}
	r.bytes += it.size
	s, err := unseal(raw, r.c.c.Codec, r.c.id, r.c.self, r.p.ID)
	if err != nil {
		return h, err
	}
	if s.kind != kindMedia || len(s.messages) != 2 || json.Unmarshal(s.messages[0], &h) != nil || h.Size <= 0 || h.ID == "" || len(h.ID) > 255 || strings.ContainsAny(h.ID, "/?#") {
		return h, errMalformed
	}
	if r.used == 1 {
		r.head = h
	}
	r.data = s.messages[1]
	return h, nil
}

func (r *mediaReader) Read(b []byte) (int, error) {
	for len(r.data) == 0 {
		if r.read == r.head.Size {
			return 0, io.EOF
		}
		before := r.used
		h, err := r.part()
		if err == nil && (h.ID != r.head.ID || h.Size != r.head.Size || h.Part != before) {
			err = errMalformed
		}
		if err != nil {
			r.bad = err
			return 0, err
		}
	}
	n := copy(b, r.data)
	r.data = r.data[n:]
	if r.read += int64(n); r.read > r.head.Size {
		r.bad = errMalformed
		return 0, r.bad
	}
	return n, nil
}
