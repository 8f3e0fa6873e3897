// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"

	"hallig/appliance/metric"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/depot"
)

// This file answers questions for files of boxes, from what is kept of them (hub/depot) or by the box.

const filesDir = "files"

// FilesConfig says which files of boxes the hub keeps. 0: the default of depot.Limits.
type FilesConfig struct {
	// Off: none; what was kept before is thrown away.
	Off bool `json:"off,omitempty"`
	// NoFetch: only what somebody has asked a box for while it was connected.
	NoFetch            bool  `json:"no_fetch,omitempty"`
	FileMegabytes      int64 `json:"file_megabytes,omitempty"`            // of one file; 10
	BoxMegabytes       int64 `json:"box_megabytes,omitempty"`             // of one box, and fetched from it in a day; 256
	Megabytes          int64 `json:"megabytes,omitempty"`                 // of all; 4096
	FreeMegabytes      int64 `json:"free_megabytes,omitempty"`            // of the disk that are left to others; 1024
	KilobytesPerSecond int64 `json:"kilobytes_per_second,omitempty"`      // that are fetched from one box; 256
	WideKilobytes      int64 `json:"wide_kilobytes_per_second,omitempty"` // a line that brings less is narrow: nothing large is asked of the box; 32
}

func (c FilesConfig) check() error {
	for _, n := range []int64{c.FileMegabytes, c.BoxMegabytes, c.Megabytes, c.FreeMegabytes, c.KilobytesPerSecond, c.WideKilobytes} {
		if n < 0 || n > 1<<30 {
			return errors.New("files: a bound is negative or beyond all measure; leave it out for the default, or keep no files with \"off\": true")
		}
	}
	return nil
}

func (c FilesConfig) limits() depot.Limits {
	return depot.Limits{Off: c.Off, Fetch: !c.NoFetch, File: c.FileMegabytes << 20, Box: c.BoxMegabytes << 20, Node: c.Megabytes << 20, Free: c.FreeMegabytes << 20,
		Pace: c.KilobytesPerSecond << 10, Wide: c.WideKilobytes << 10}
}

func (h *Hub) openDepot(ctx context.Context) (err error) {
	h.depot, err = depot.Open(ctx, depot.Config{
		DB: h.db, Dir: filepath.Join(h.cfg.Data, filesDir), Local: h.local, Ring: h.ring, Boxes: roundTrip(h.way), InReach: h.p2p.InReach, Quiet: h.quiet, Known: h.serving, Free: h.diskFree,
		Log: h.log.With("room", "depot"), Now: h.now, Limits: h.cfg.Files.limits(),
	})
	return err
}

// serving says whether a server is a box of this hub that was not turned away.
func (h *Hub) serving(server string) bool {
	e, ok := h.box(server)
	return ok && e.revoked == ""
}

// quiet says whether nothing else goes over the line of a box.
func (h *Hub) quiet(ctx context.Context, box string) bool {
	h.mu.Lock()
	asked := h.asking[box]
	h.mu.Unlock()
	if asked > 0 || !h.replica.Quiet(box) {
		return false
	}
	waiting, err := h.spool.Waiting(ctx, box)
	if err != nil {
		return false
	}
	for _, q := range waiting {
		if q.In {
			return false
		}
	}
	return true
}

// file answers a question for a file of a box: from what is kept, so that a line carries it once, and else by the box. A box on a narrow line is asked for none. false: nobody has it.
func (h *Hub) file(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	a, done := h.signedQuestion(w, r, to, body)
	if done {
		return true
	}
	kept := func() bool {
		return a.Origin != "" && h.depot.Answer(w, r, federation.Question{Local: to.Server, Origin: a.Origin})
	}
	if kept() {
		return true
	}
	if h.p2p.InReach(to.Server) {
		leave, err := h.depot.Enter(r.Context(), to.Server)
		switch {
		case errors.Is(err, depot.ErrNarrow):
			refuse(w, http.StatusNotFound, "M_NOT_FOUND", "this server is connected by a narrow line at the moment, and its hub does not have the file; try again later")
			return true
		case err != nil:
			return false
		}
		defer leave()
		if kept() { // by somebody who asked before us
			return true
		}
	}
	return h.live(w, r, to, body)
}

// listFiles takes in which files of a box others may ask for.
func (h *Hub) listFiles(w http.ResponseWriter, r *http.Request, from entry) {
	raw, release, ok := h.putBody(w, r)
	if !ok {
		return
	}
	defer release()
	told, err := api.ReadFiles(raw)
	if err != nil {
		h.log.Warn("what a box says of its files was not taken", "box", from.Server, "err", err)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	if err := h.depot.Told(r.Context(), from.Server, told); err != nil {
		if h.seldom.may("files "+from.Server, h.now()) {
			h.log.Error("note which files a box has; it says so again", "box", from.Server, "err", err)
		}
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot look now what it has")
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

// fileMetrics counts the files for monitoring.
func (h *Hub) fileMetrics(m *metric.Metrics) {
	s := h.depot.Stats()
	var files, bytes int64
	for _, k := range s.Boxes {
		files, bytes = files+k.Files, bytes+k.Bytes
	}
	full := 0.0
	if s.Full {
		full = 1
	}
	for _, c := range []struct {
		name, help string
		total      bool
		n          float64
	}{
		{"", "Files of boxes that this node keeps.", false, float64(files)},
		{"_bytes", "The bytes of these.", false, float64(bytes)},
		{"_full", "1: no more are kept, for want of disk.", false, full},
		{"_answered_total", "Files given in place of boxes since the start.", true, float64(s.Answered)},
		{"_passed_total", "Files kept since the start as a box gave them to somebody.", true, float64(s.Passed)},
		{"_fetched_total", "Files fetched from boxes since the start.", true, float64(s.Fetched)},
		{"_fetched_bytes_total", "Bytes fetched from boxes since the start.", true, float64(s.FetchedBytes)},
		{"_failed_total", "Files not fetched since the start, though it was tried.", true, float64(s.Failed)},
		{"_damaged_total", "Files thrown away since the start, because the disk had changed them.", true, float64(s.Damaged)},
	} {
		m.Add("hallig_hub_files"+c.name, c.help, c.total, c.n)
	}
}
