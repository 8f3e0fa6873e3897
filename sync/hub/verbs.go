// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file is the local door: what `hallig-hub VERB` asks the running hub.

// Status is how a hub does.
type Status struct {
	Server    string
	Version   string
	ID        string // of its box key, for pairing
	Addresses []string
	World     string
	Started   time.Time
	Boxes     []BoxStatus

	// Since the start.
	Taken      int64 // transactions put into the spool
	Delivered  int64 // taken by boxes
	Refused    int64 // with a wrong signature or form, or by a box for good
	Full       int64 // turned back because they could not be kept
	SentOut    int64 // requests of boxes to other servers
	TurnedAway int64 // requests for boxes that were revoked
	TooMuch    int64 // deposits of boxes beyond what is kept for one box
	Crowded    int64 // connections at the world's port for which no place was left
}

// BoxStatus is how a box stands.
type BoxStatus struct {
	Server    string
	ID        string
	Mode      string
	Revoked   string // why; "": it was not
	Connected bool   // to this node
	Seen      time.Time
	Way       string
	Version   string
	Health    json.RawMessage
	KeyUntil  time.Time // end of its key document; zero: none is here
	Waiting   []api.Waiting
}

// Code is a pairing code.
type Code struct {
	Code    string
	Expires time.Time
}

// Order is what pair and revoke are asked for.
type Order struct {
	Code, Address string // pair: take this code; empty: show one
	Box, Reason   string // revoke
	Forget        bool
}

const codeLife = 10 * time.Minute

// verbs answers the local door.
func (h *Hub) verbs() http.Handler {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, out any, err error) {
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"Error": err.Error()})
			return
		}
		answer(w, http.StatusOK, out)
	}
	order := func(do func(*http.Request, Order) (any, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var o Order
			if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o); err != nil {
				say(w, nil, err)
				return
			}
			out, err := do(r, o)
			say(w, out, err)
		}
	}
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := h.status(r)
		say(w, s, err)
	})
	mux.HandleFunc("GET "+metricsPath, h.tellMetrics)
	mux.HandleFunc("POST /pair/show", func(w http.ResponseWriter, _ *http.Request) {
		code, _, err := h.p2p.ShowCode(codeLife)
		say(w, Code{Code: code.String(), Expires: time.Now().Add(codeLife)}, err)
	})
	mux.HandleFunc("POST /pair/take", order(func(r *http.Request, o Order) (any, error) {
		p, err := h.p2p.Take(r.Context(), o.Code, o.Address)
		return BoxStatus{Server: p.Server, ID: string(p.ID)}, err
	}))
	mux.HandleFunc("POST /revoke", order(func(r *http.Request, o Order) (any, error) {
		err := h.revoke(r.Context(), o.Box, o.Reason, o.Forget)
		if errors.Is(err, spool.ErrUnknown) {
			err = errors.New("no box is called " + o.Box + " here; hallig-hub boxes lists them")
		}
		return struct{}{}, err
	}))
	return mux
}

// status collects how the hub and its boxes do.
func (h *Hub) status(r *http.Request) (Status, error) {
	s := Status{
		Server: h.id.Server, Version: h.cfg.Version, ID: string(h.p2p.ID()), Addresses: h.p2p.Addrs(), World: h.world.Addr().String(), Started: h.started,
		Taken: h.count.taken.Load(), Delivered: h.count.delivered.Load(), Refused: h.count.refused.Load(), Full: h.count.full.Load(), SentOut: h.count.out.Load(),
		TurnedAway: h.count.turnedAway.Load(), TooMuch: h.count.tooMuch.Load(), Crowded: h.count.crowded.Load(), Boxes: []BoxStatus{},
	}
	rows, err := h.spool.Boxes(r.Context())
	if err != nil {
		return s, err
	}
	waiting, err := h.spool.Waiting(r.Context(), "")
	if err != nil {
		return s, err
	}
	for _, row := range rows {
		b := BoxStatus{Server: row.Server, ID: row.ID, Mode: string(row.Mode), Revoked: row.Revoked, Connected: h.p2p.InReach(row.Server), Seen: row.Seen, Way: row.Way,
			Version: row.Version, Health: row.Health}
		doc, err := h.spool.Deposited(r.Context(), row.Server, kindKey, "")
		if err != nil {
			return s, err
		}
		if doc != nil {
			b.KeyUntil = endOf(doc)
		}
		for _, q := range waiting {
			if q.Box == row.Server && q.In {
				b.Waiting = append(b.Waiting, api.Waiting{From: q.Other, Count: q.Count, Bytes: q.Bytes, Oldest: q.Oldest})
			}
		}
		s.Boxes = append(s.Boxes, b)
	}
	slices.SortFunc(s.Boxes, func(a, b BoxStatus) int { return strings.Compare(a.Server, b.Server) })
	return s, nil
}
