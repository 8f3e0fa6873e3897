// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// This file knows which boxes reach others that are not connected themselves, and takes what those send through them.

// Ways by which a box was in contact, as the spool keeps them; by another box it is the way and that one's name.
const wayNet = "p2p"

// reachMost bounds the rate that is believed of a line, in bit/s.
const reachMost = 1_000_000_000

// line is by what a box reaches another one.
type line struct {
	rate int // bit/s
	way  string
	said time.Time // for the first time since it came
}

// passage is a way to a box through another one.
type passage struct {
	line
	by string
}

// name is the way as it is shown: "radio:box2.example.org".
func (p passage) name() string { return p.way + ":" + p.by }

// hearReach takes in whom a box reaches.
func (h *Hub) hearReach(w http.ResponseWriter, r *http.Request, from entry) {
	raw, release, ok := h.putBody(w, r)
	if !ok {
		return
	}
	defer release()
	l, err := api.ReadReach(raw)
	if err != nil {
		h.log.Warn("what a box says of the boxes in its reach was not taken", "box", from.Server, "err", err)
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	said := map[string]line{}
	for _, b := range l.Boxes {
		if e, ok := h.box(b.Server); ok && e.revoked == "" && b.Server != from.Server { // of others it is none of our business
			said[b.Server] = line{min(b.Rate, reachMost), b.Way, h.now()}
		}
	}
	h.noteReach(from.Server, said)
	answer(w, http.StatusOK, struct{}{})
}

// noteReach notes whom a box reaches, in place of what it said before, and wakes those who wait for a line that has come.
func (h *Hub) noteReach(by string, said map[string]line) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(said) > 0 && !h.p2p.InReach(by) { // it has gone meanwhile, and that was noted, or is about to be
		return
	}
	for box, lines := range h.reach {
		if _, still := said[box]; !still {
			delete(lines, by)
		}
		if len(lines) == 0 {
			delete(h.reach, box)
		}
	}
	for box, l := range said {
		if h.carriers[box] != nil && l.way == api.ByNet {
			continue // in a fleet on one network all reach all; should it lose the hub, it is told again
		}
		lines := h.reach[box]
		if lines == nil {
			lines = map[string]line{}
			h.reach[box] = lines
		}
		if old, there := lines[by]; there {
			l.said = old.said
		} else if f := h.ferries[box]; f != nil {
			poke(f.wake)
		} else {
			poke(h.reached)
		}
		lines[by] = l
	}
}

// passages gives the ways to a box that is not connected itself, the best first; none to one that is.
func (h *Hub) passages(box string) (out []passage) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.carriers[box] != nil {
		return nil
	}
	for by, l := range h.reach[box] {
		out = append(out, passage{l, by})
	}
	slices.SortFunc(out, func(a, b passage) int { return cmp.Or(cmp.Compare(b.rate, a.rate), strings.Compare(a.by, b.by)) })
	return out
}

// beyond lists the boxes to which there are passages and that nobody serves yet.
func (h *Hub) beyond() (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for box := range h.reach {
		if h.carriers[box] == nil && h.ferries[box] == nil {
			out = append(out, box)
		}
	}
	return out
}

// runFerries has one ferryman for each box that others alone reach, until ctx ends. It stays when the line goes, as lines do, and ends when the box comes by itself.
func (h *Hub) runFerries(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		for _, box := range h.beyond() {
			if e, ok := h.box(box); !ok || e.revoked != "" {
				continue
			}
			f, fctx, err := h.newFerryman(ctx, box)
			if err != nil {
				h.log.Error("hand something on through another box", "box", box, "err", err) // a box key that is none was never paired
				continue
			}
			h.mu.Lock()
			came := h.carriers[box] != nil // meanwhile, and boxUp has seen nobody whose end it has to wait for
			if !came {
				h.ferries[box] = f
			}
			h.mu.Unlock()
			if came {
				f.cancel()
				continue
			}
			wg.Go(func() {
				f.run(fctx)
				f.over()
			})
		}
		select {
		case <-h.reached:
		case <-ctx.Done():
			return
		}
	}
}

// forAnother says whether a request is one that a box has signed which reaches nobody but the box that brings it: one of this hub.
func (h *Hub) forAnother(r *http.Request, by entry) (e entry, ok bool) {
	headers := r.Header.Values("Authorization")
	if len(headers) == 0 {
		return e, false
	}
	for _, header := range headers {
		a, err := federation.ParseAuthorization(header)
		if err != nil || a.Origin == by.Server || e.Server != "" && a.Origin != e.Server {
			return entry{}, false
		}
		if e, ok = h.box(a.Origin); !ok || e.revoked != "" {
			return entry{}, false
		}
	}
	return e, true
}

// fromBeyond takes a request of a box that another one has brought. Its signature is looked at first: so a box brings nothing in another's name.
func (h *Hub) fromBeyond(w http.ResponseWriter, r *http.Request, from entry, to string) {
	body, release, ok := h.body(w, r)
	if !ok {
		return
	}
	defer release()
	_, _, err := h.verifier(r).Verify(r, body, h.now(), func(a federation.Authorization) error {
		if a.Origin != from.Server || a.Destination != to {
			return errors.New("it is signed by another box, or for another server")
		}
		return nil
	})
	switch {
	case errors.Is(err, federation.ErrBusy), errors.Is(err, federation.ErrKeyUnavailable):
		if !errors.Is(err, federation.ErrBusy) && h.seldom.may("curious "+from.Server, h.now()) { // whoever names a key that there is not must not fill the box's line with questions
			h.askForKey(from.Server)
		}
		comeAgain(w, "the box's key cannot be had now")
		return
	case err != nil:
		h.count.refused.Add(1)
		if h.seldom.may("name "+from.Server, h.now()) {
			h.log.Warn("a box has brought a request in another one's name that this one has not signed; it is refused. If it does so again, turn it away with hallig-hub revoke", "named", from.Server, "to", to, "err", err)
		}
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", fmt.Sprintf("the request is not signed by %s", from.Server))
		return
	}
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if e, ok := h.box(to); ok {
		h.front(w, r, e)
		return
	}
	h.sendOut(w, r, from, to, true)
}

// askForKey has a box that others reach say all of itself: it has another key, perhaps.
func (h *Hub) askForKey(box string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.ferries[box]; f != nil {
		f.curious.Store(true)
		poke(f.wake)
	}
}
