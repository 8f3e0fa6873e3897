// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"hallig/sync/hub/api"
	"hallig/sync/hub/shelf"
)

// This file hands update files to boxes: what a box is told of at contact it may fetch, in pieces, at a pace that leaves its line to people.

const (
	updatesDir   = "updates"
	updatePace   = 256         // kB a second for one box, unless the operator says otherwise
	updateAtOnce = 8           // boxes that fetch at a time
	updateStall  = time.Minute // a box that takes nothing for so long is let go; it asks for the rest again
	updateChunk  = 16 << 10    // bytes that go at a time
)

// UpdatesConfig says how update files are handed to boxes.
type UpdatesConfig struct {
	// Keys is a file that says whom the boxes trust, as image/update.json in the sources of their image: {"threshold":1,"keys":["hallig-update-1 BASE64 NAME"]}. Files that too few of those have signed are then
	// refused here already. Empty: any file that somebody has signed is laid down; boxes check for themselves in any case.
	Keys string `json:"keys,omitempty"`
	// KilobytesPerSecond bounds how fast one box fetches; 0: 256.
	KilobytesPerSecond int `json:"kilobytes_per_second,omitempty"`
	// AtOnce is how many boxes fetch at a time; 0: 8.
	AtOnce int `json:"at_once,omitempty"`
}

func (c *UpdatesConfig) check() error {
	if c.KilobytesPerSecond < 0 || c.AtOnce < 0 {
		return errors.New("updates: kilobytes_per_second and at_once are numbers from 1, or left out")
	}
	if c.KilobytesPerSecond == 0 {
		c.KilobytesPerSecond = updatePace
	}
	if c.AtOnce == 0 {
		c.AtOnce = updateAtOnce
	}
	return nil
}

// heardOfUpdate takes what a box says of an update, and stops the roll-out of one that did not work.
func (h *Hub) heardOfUpdate(from string, c api.Contact) {
	u := c.Update
	if u == nil || u.Release == 0 {
		return
	}
	why := u.Error
	switch u.State {
	case api.UpdateFailed:
	case api.UpdateNone: // with a release: somebody went back from it
		why = api.WentBack
	default:
		return
	}
	stopped, err := h.shelf.Failed(from, c.Board, u.Release, why)
	if err != nil {
		h.log.Error("that an update did not work on a box is not noted; it says so again", "box", from, "err", err)
	}
	if stopped {
		h.log.Warn("an update did not work on a box; nobody is told of it any more until it is rolled out again: hallig-hub update roll", "box", from, "board", c.Board, "version", u.Version, "reason", why)
	}
}

// updateFor is the update that a box is told of; nil: none.
func (h *Hub) updateFor(box, board string, release int64) *api.Update {
	if board == "" || release == 0 { // a box that does not run from an image, or from a development one
		return nil
	}
	f, ok := h.shelf.For(box, board, release)
	if !ok {
		return nil
	}
	return &api.Update{Board: f.Board, Version: f.Version, Release: f.Release, Bytes: f.Bytes}
}

// giveUpdate hands out a file that the box was told of: GET UpdatePath BOARD/RELEASE, whole or from a byte on (Range).
func (h *Hub) giveUpdate(w http.ResponseWriter, r *http.Request, from entry) {
	board, number, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, api.UpdatePath), "/")
	release, err := strconv.ParseInt(number, 10, 64)
	if err != nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusBadRequest, "M_UNRECOGNIZED", "want GET and BOARD/RELEASE")
		return
	}
	f, file, err := h.shelf.Give(from.Server, board, release)
	if errors.Is(err, shelf.ErrNone) {
		refuse(w, http.StatusNotFound, "M_NOT_FOUND", "this box is told of no such update, or not any more")
		return
	}
	if err != nil {
		h.log.Error("an update file cannot be read", "err", err)
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot read the file now")
		return
	}
	defer file.Close() //nolint:errcheck // only read
	select {
	case h.fetching <- struct{}{}:
		defer func() { <-h.fetching }()
	default:
		w.Header().Set("Retry-After", "60")
		refuse(w, http.StatusServiceUnavailable, "M_LIMIT_EXCEEDED", "other boxes fetch updates now")
		return
	}
	h.log.Info("a box fetches an update", "box", from.Server, "version", f.Version, "range", r.Header.Get("Range"))
	head := w.Header()
	head.Set(api.UpdateVersion, f.Version)
	head.Set(api.UpdateRelease, strconv.FormatInt(f.Release, 10))
	head.Set("Content-Type", "application/octet-stream")
	head.Set("Accept-Ranges", "bytes")
	pace := rate.NewLimiter(rate.Limit(h.cfg.Updates.KilobytesPerSecond<<10), updateChunk)
	http.ServeContent(&paced{ResponseWriter: w, ctx: r.Context(), pace: pace, out: http.NewResponseController(w)}, r, "", time.Time{}, file)
}

// paced writes no faster than it may, and not for ever to somebody who takes nothing.
type paced struct {
	http.ResponseWriter
	ctx  context.Context // of the request that it answers
	pace *rate.Limiter
	out  *http.ResponseController
}

func (p *paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		piece := b[:min(len(b), updateChunk)]
		if err := p.pace.WaitN(p.ctx, len(piece)); err != nil {
			return n, err
		}
		if err := p.out.SetWriteDeadline(time.Now().Add(updateStall)); err != nil {
			return n, err
		}
		m, err := p.ResponseWriter.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		b = b[len(piece):]
	}
	return n, nil
}
