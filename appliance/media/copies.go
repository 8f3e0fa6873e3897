// SPDX-License-Identifier: EUPL-1.2

package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"

	"hallig/appliance/store"
)

// This file is for who keeps copies alone, in place of other servers: a hub. What it keeps it can have anew.

// forgetStep is how many copies are forgotten in one act.
const forgetStep = 200

// Whole opens a copy as Get does, when its bytes are those that were kept. A damaged one is thrown away, and absent.
func (m *Media) Whole(ctx context.Context, server, id string) (*File, error) {
	row, err := m.row(ctx, server, id)
	if err != nil {
		return nil, err
	}
	f, err := m.Get(ctx, server, id)
	switch {
	case err == nil:
		whole, err := isWhole(f, row.Hash)
		if whole {
			return f, nil
		}
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read a copy: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	if lost := m.forgetFile(ctx, row.Hash); lost != nil {
		return nil, fmt.Errorf("forget a damaged copy: %w", lost)
	}
	return nil, fmt.Errorf("%w: it was damaged on the disk", ErrAbsent)
}

// isWhole reads a file once; then it stands at its beginning. What the disk cannot read is not whole.
func isWhole(f *File, sum []byte) (bool, error) {
	h := sha256.New()
	_, err := io.Copy(h, f.File)
	if errors.Is(err, syscall.EIO) {
		return false, nil
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	return err == nil && bytes.Equal(h.Sum(nil), sum), err
}

func (m *Media) forgetFile(ctx context.Context, sum []byte) error {
	var gone [][]byte
	err := m.db.DoSmall(ctx, func(tx *store.Tx) (err error) {
		gone, err = tx.ForgetFile(sum)
		return err
	})
	if err != nil {
		return err
	}
	return m.remove(ctx, gone)
}

// Has says whether there is a copy.
func (m *Media) Has(ctx context.Context, server, id string) (has bool, err error) {
	err = m.db.View(ctx, func(r *store.Read) error {
		row, err := r.Media(server, id)
		has = row != nil && row.Hash != nil
		return err
	})
	return has, err
}

// Fits says whether there is room for a copy of a server's media that was of use last at used.
func (m *Media) Fits(ctx context.Context, server string, size int64, used time.Time) (fits bool, err error) {
	err = m.db.View(ctx, func(r *store.Read) error {
		all, err := r.CopiesSince(used.UnixMilli(), "")
		if err != nil {
			return err
		}
		own, err := r.CopiesSince(used.UnixMilli(), server)
		fits = all+size <= m.quota.Load() && (own+size <= m.opt.PerServer || m.opt.PerServer == 0)
		return err
	})
	return fits, err
}

// ForgetServer throws away all copies of a server's media.
func (m *Media) ForgetServer(ctx context.Context, server string) error {
	for n := forgetStep; n == forgetStep; {
		var gone [][]byte
		err := m.db.DoSmall(ctx, func(tx *store.Tx) (err error) {
			n, gone, err = tx.ForgetCopies(server, forgetStep)
			return err
		})
		if err == nil {
			err = m.remove(ctx, gone)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Shrink throws away the least used copies until all files take so many bytes at most.
func (m *Media) Shrink(ctx context.Context, most int64) error {
	var gone [][]byte
	err := m.db.DoSmall(ctx, func(tx *store.Tx) (err error) {
		gone, err = tx.MakeRoomForMedia(0, most)
		return err
	})
	if err != nil {
		return err
	}
	return m.remove(ctx, gone)
}

// Kept is what there is of one server's media.
type Kept struct{ Files, Bytes int64 }

// Kept says what there is, by server.
func (m *Media) Kept(ctx context.Context) (map[string]Kept, error) {
	all := map[string]Kept{}
	err := m.db.View(ctx, func(r *store.Read) error {
		return r.MediaByServer(func(server string, files, bytes int64) { all[server] = Kept{files, bytes} })
	})
	return all, err
}
