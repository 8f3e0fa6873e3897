// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"net/http"
	"syscall"

	"hallig/appliance/metric"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/replica"
)

// This file answers about the rooms of a box that is away, from the copies of them (hub/replica).

// openReplica takes up the copies of the boxes' rooms.
func (h *Hub) openReplica(ctx context.Context) (err error) {
	var boxes []string
	for server, e := range h.roster.Load().by {
		if e.revoked == "" {
			boxes = append(boxes, server)
		}
	}
	h.replica, err = replica.Open(ctx, replica.Config{
		DB: h.db, Local: h.local, Ring: h.ring, Boxes: roundTrip(h.way), InReach: h.p2p.InReach, Memory: h.spool, Free: h.diskFree, Log: h.log.With("room", "replica"), Now: h.now, Limits: h.cfg.Replica,
	}, boxes)
	return err
}

// diskFree is how many bytes are free where the hub's data lies.
func (h *Hub) diskFree() (int64, error) {
	var disk syscall.Statfs_t
	err := syscall.Statfs(h.cfg.Data, &disk)
	return int64(disk.Bavail) * disk.Bsize, err
}

// rooms takes in which rooms a box shares with others.
func (h *Hub) rooms(w http.ResponseWriter, r *http.Request, from entry) {
	if r.Method != http.MethodPut {
		refuse(w, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "want PUT")
		return
	}
	raw, release, err := h.verifier(r).Body(w, r)
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "the body is too long or did not arrive")
		return
	}
	defer release()
	told, err := api.ReadRooms(raw)
	if err != nil {
		h.log.Warn("what a box says of its rooms was not taken", "box", from.Server, "err", err)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	err = h.replica.Told(r.Context(), from.Server, told)
	switch {
	case errors.Is(err, replica.ErrAll):
		refuse(w, http.StatusConflict, "M_UNKNOWN", err.Error())
	case err != nil:
		if h.seldom.may("rooms "+from.Server, h.now()) {
			h.log.Error("note which rooms a box has; it says so again", "box", from.Server, "err", err)
		}
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot keep it now")
	default:
		answer(w, http.StatusOK, struct{}{})
	}
}

// aboutRooms answers a signed question about the graph of a room of a box that is away. False: nothing of it is known here.
func (h *Hub) aboutRooms(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	a, ok := h.signedQuestion(w, r, to, body)
	if a.Origin == "" {
		return ok
	}
	return h.replica.Answer(w, r, federation.Question{Local: to.Server, Origin: a.Origin, Body: body})
}

// copyMetrics counts the copies for monitoring.
func (h *Hub) copyMetrics(m *metric.Metrics) {
	s := h.replica.Stats()
	full := 0.0
	if s.Full {
		full = 1
	}
	for _, c := range []struct {
		name, help string
		total      bool
		n          float64
	}{
		{"rooms", "Rooms of boxes that this node has copies of.", false, float64(s.Rooms)},
		{"behind", "Rooms that boxes have listed and of which the copy is not there, or not as far as the boxes have said.", false, float64(s.Behind)},
		{"events", "Events in the copies.", false, float64(s.Events)},
		{"bytes", "Bytes of the copies' database.", false, float64(s.Bytes)},
		{"full", "1: no more is copied, for want of disk.", false, full},
		{"answered_total", "Questions about rooms answered in place of boxes since the start.", true, float64(s.Answered)},
		{"unanswered_total", "Questions about rooms since the start to which the answer was not here, or not for the one who asked.", true, float64(s.Unknown)},
		{"copied_total", "Rooms copied from boxes since the start.", true, float64(s.Copied)},
		{"failed_total", "Copies of rooms that did not succeed since the start; they are tried again.", true, float64(s.Failed)},
		{"passed_total", "Transactions that passed through since the start and were looked at for the copies.", true, float64(s.Passed)},
		{"dropped_total", "Transactions that passed through since the start and were not; what they brought is asked of the box.", true, float64(s.Dropped)},
		{"purged_total", "Copies deleted or begun anew since the start.", true, float64(s.Purged)},
		{"refused_total", "Rooms that boxes listed since the start beyond what is kept of one box, or of versions that are not spoken.", true, float64(s.Refused)},
	} {
		m.Add("hallig_hub_copies_"+c.name, c.help, c.total, c.n)
	}
}
