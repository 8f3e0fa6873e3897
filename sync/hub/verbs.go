// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"net/http"
	"time"

	"hallig/sync/hub/fleet"
	"hallig/sync/peer"
)

// This file is the local door: what `hallig-hub VERB` asks the running hub.

// Order is what pair and revoke are asked for.
type Order struct {
	Code, Address string // pair: take this code; empty: show one
	Box, Reason   string // revoke
	Forget        bool
}

// Token opens the pages and their API.
type Token struct {
	Token string
	Page  string // address of the pages; "": there are none
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
		s, err := h.state(r.Context())
		say(w, s, err)
	})
	mux.HandleFunc("GET "+metricsPath, h.tellMetrics)
	mux.HandleFunc("POST /pair/show", func(w http.ResponseWriter, _ *http.Request) {
		code, err := h.showCode()
		say(w, code, err)
	})
	mux.HandleFunc("POST /pair/take", order(func(r *http.Request, o Order) (any, error) {
		return h.takeCode(r.Context(), o.Code, o.Address)
	}))
	mux.HandleFunc("POST /revoke", order(func(r *http.Request, o Order) (any, error) {
		return struct{}{}, h.turnAway(r.Context(), o.Box, o.Reason, o.Forget)
	}))
	mux.HandleFunc("POST /update", func(w http.ResponseWriter, r *http.Request) {
		f, err := h.shelf.Add(r.Context(), r.Body)
		say(w, f, err)
	})
	mux.HandleFunc("POST /update/{version}", func(w http.ResponseWriter, r *http.Request) {
		var o fleet.Roll
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o)
		if err == nil {
			err = o.Do(h.shelf, r.PathValue("version"))
		}
		say(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /policy", h.policyVerb)
	mux.HandleFunc("GET /roster/draft", func(w http.ResponseWriter, _ *http.Request) { say(w, struct{ Lines string }{h.draft()}, nil) })
	mux.HandleFunc("POST /roster", func(w http.ResponseWriter, r *http.Request) {
		var in struct{ Roster []byte }
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*peer.MaxFleet)).Decode(&in); err != nil {
			say(w, nil, err)
			return
		}
		s, err := h.importRoster(in.Roster)
		say(w, s, err)
	})
	mux.HandleFunc("GET /courier/boxes", func(w http.ResponseWriter, r *http.Request) {
		out, err := h.bagBoxes(r.Context())
		say(w, out, err)
	})
	mux.HandleFunc("POST /courier/export", h.bagOut)
	mux.HandleFunc("POST /courier/import", h.bagIn)
	mux.HandleFunc("POST /courier/look", func(w http.ResponseWriter, r *http.Request) {
		out, err := h.bagLook(r)
		say(w, out, err)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		token, err := h.newToken()
		say(w, Token{Token: token, Page: h.Page()}, err)
	})
	return mux
}
