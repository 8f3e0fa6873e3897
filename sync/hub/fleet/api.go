// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"hallig/appliance/page"
)

// This file is the API for scripts: JSON, opened by "Authorization: Bearer TOKEN"; no cookie opens it, so that no page of another site can use it.
//
//	GET  /api/v1/hub                  Hub
//	GET  /api/v1/boxes                {"boxes":[Box, ...]}, trouble first
//	GET  /api/v1/boxes/NAME           Box
//	POST /api/v1/boxes/NAME/revoke    {"reason":"stolen"}, or {"forget":true}; answered with {}
//	POST /api/v1/pair                 {}: Code, to be taken on the box; or {"code":"...","address":"..."}: the one that a box shows, answered with Box
//	GET  /api/v1/updates              {"updates":[shelf.File, ...]}
//	POST /api/v1/updates              the body is an update file; answered with shelf.File. Nobody is told of it yet
//	POST /api/v1/updates/VERSION      Roll; answered with {}
//	GET  /api/v1/policy               {"policy":Policy}, or null
//	POST /api/v1/policy               the body is a signed policy; answered with Policy
//
// Errors have a status of 400 and above and the body {"error":{"de":"...","en":"..."}}.

func (p *Pages) apiRoutes() {
	p.mux.HandleFunc("/api/", p.script(func(http.ResponseWriter, *http.Request) (any, error) { return nil, errNoRoute }))
	p.mux.HandleFunc("GET /api/v1/hub", p.script(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		s, err := p.State(r.Context())
		return s.Hub, err
	}))
	p.mux.HandleFunc("GET /api/v1/boxes", p.script(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		s, err := p.State(r.Context())
		return map[string]any{"boxes": s.Boxes}, err
	}))
	p.mux.HandleFunc("GET /api/v1/boxes/{server}", p.script(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		return p.find(r.Context(), r.PathValue("server"))
	}))
	p.mux.HandleFunc("POST /api/v1/boxes/{server}/revoke", p.script(func(w http.ResponseWriter, r *http.Request) (any, error) {
		var in struct {
			Reason string `json:"reason"`
			Forget bool   `json:"forget"`
		}
		if err := read(w, r, &in); err != nil {
			return nil, err
		}
		if (in.Reason == "") != in.Forget {
			return nil, refuse("Entweder reason oder forget.", "Want either reason or forget.")
		}
		p.Log.Info("box turned away by the API", "box", r.PathValue("server"), "forget", in.Forget, "from", r.RemoteAddr)
		return struct{}{}, p.Revoke(r.Context(), r.PathValue("server"), in.Reason, in.Forget)
	}))
	p.mux.HandleFunc("POST /api/v1/pair", p.script(func(w http.ResponseWriter, r *http.Request) (any, error) {
		var in struct {
			Code    string `json:"code"`
			Address string `json:"address"`
		}
		if err := read(w, r, &in); err != nil {
			return nil, err
		}
		if in.Code == "" {
			return p.Show()
		}
		return p.Take(r.Context(), in.Code, in.Address)
	}))
}

var (
	errNoRoute = refuse("Diesen Weg gibt es nicht.", "There is no such route.")
	errNoToken = say("Es braucht das Token des Hubs: Authorization: Bearer TOKEN. Ein neues macht: hallig-hub token", "It needs the hub's token: Authorization: Bearer TOKEN. A new one is made with: hallig-hub token")
)

// read reads the body of a script's request: one JSON value without unknown fields.
func read(w http.ResponseWriter, r *http.Request, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, page.MaxForm))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return refuse("Das JSON ist nicht zu lesen: "+err.Error(), "The JSON cannot be read: "+err.Error())
	}
	return nil
}

// script serves those who have the token.
func (p *Pages) script(f func(http.ResponseWriter, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || !p.Key.Opens(token) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="hallig-hub"`)
			p.tell(w, http.StatusUnauthorized, map[string]any{"error": errNoToken})
			return
		}
		out, err := f(w, r)
		status := http.StatusOK
		if err != nil {
			refusal := (*Refusal)(nil)
			switch {
			case err == errNoRoute:
				status = http.StatusNotFound
			case errors.As(err, &refusal):
				status = http.StatusBadRequest
			default:
				status = http.StatusInternalServerError
			}
			out = map[string]any{"error": p.sentence(err)}
		}
		p.tell(w, status, out)
	}
}

func (p *Pages) tell(w http.ResponseWriter, status int, out any) {
	raw, err := json.Marshal(out)
	if err != nil {
		p.Log.Error("answer not written", "err", err)
		status, raw = http.StatusInternalServerError, []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(raw) // who has gone needs no answer
}
