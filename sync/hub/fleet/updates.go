// SPDX-License-Identifier: EUPL-1.2

package fleet

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/health"
	"hallig/sync/hub/api"
	"hallig/sync/hub/shelf"
)

// laid is an update file and where it has arrived.
type laid struct {
	shelf.File
	On, Of   int64 // boxes of its board that run it or a newer one, and all of them
	Failures []failure
}

// failure is a box that an update did not work on, and what it said.
type failure struct {
	Box string
	Why health.Sentence
}

// failures gives them by name. The shelf keeps the English sentence; the German one is there for as long as the box says it.
func failures(f shelf.File, boxes []Box) []failure {
	var out []failure
	for _, box := range slices.Sorted(maps.Keys(f.Failed)) {
		why := say(f.Failed[box], f.Failed[box])
		for _, b := range boxes {
			if u := b.Said.Update; b.Server == box && u != nil && u.Release == f.Release {
				why.DE = cmp.Or(u.ErrorDE, why.DE)
			}
		}
		if why.EN == api.WentBack {
			why.DE = "Dort ist jemand zum vorigen System zurückgegangen."
		}
		out = append(out, failure{box, why})
	}
	return out
}

// Arrived counts the boxes that run an update or something newer, and all boxes of its board.
func (s State) Arrived(f shelf.File) (on, of int64) {
	for _, b := range s.Boxes {
		if b.Revoked != "" || b.Said.Board != f.Board {
			continue
		}
		if of++; b.Said.Release >= f.Release {
			on++
		}
	}
	return on, of
}

// laidDown says where the update files have arrived.
func laidDown(s State) []laid {
	out := []laid{}
	for _, f := range s.Updates {
		l := laid{File: f, Failures: failures(f, s.Boxes)}
		l.On, l.Of = s.Arrived(f)
		out = append(out, l)
	}
	return out
}

func (p *Pages) updates(w http.ResponseWriter, r *http.Request) {
	p.updatesPage(w, r, http.StatusOK, nil)
}

func (p *Pages) updatesPage(w http.ResponseWriter, r *http.Request, status int, bad error) {
	s, err := p.State(r.Context())
	if err != nil {
		p.failed(w, r, err)
		return
	}
	v := p.view(r, "Updates", "Updates", laidDown(s))
	if bad != nil {
		v.Bad = p.sentence(bad).In(string(v.Lang))
	}
	p.render(w, status, "updates.html", v)
}

func (p *Pages) changeUpdate(w http.ResponseWriter, r *http.Request) {
	board, version := r.PostFormValue("board"), r.PostFormValue("version")
	var err error
	switch do := r.PostFormValue("do"); {
	case do == "roll":
		share, bad := strconv.Atoi(r.PostFormValue("share"))
		if bad != nil {
			share = -1
		}
		err = p.Shelf.Roll(board, version, share, names(r.PostFormValue("boxes")))
	case do == "stop":
		err = p.Shelf.Stop(board, version, p.Now().UTC().Format("2006-01-02 15:04")+": "+operator)
	case do == "remove" && r.PostFormValue("sure") != "":
		err = p.Shelf.Remove(board, version)
	default:
		err = refuse("Nichts getan: Zum Entfernen bitte bestätigen.", "Nothing was done: please confirm to remove it.")
	}
	if err != nil {
		p.updatesPage(w, r, http.StatusBadRequest, err)
		return
	}
	p.Log.Info("update changed on the pages", "do", r.PostFormValue("do"), "board", board, "version", version, "from", r.RemoteAddr)
	http.Redirect(w, r, "/updates", http.StatusSeeOther)
}

// policy shows what the organisation says, and where it has arrived.
func (p *Pages) policy(w http.ResponseWriter, r *http.Request) {
	s, err := p.State(r.Context())
	if err != nil {
		p.failed(w, r, err)
		return
	}
	data := struct {
		*Policy
		Text   string // its settings
		On, Of int64  // boxes where it is in force, and all that belong to an organisation
	}{Policy: s.Policy}
	if s.Policy != nil {
		raw, err := json.MarshalIndent(s.Policy.Settings, "", "  ")
		if err != nil {
			p.failed(w, r, err)
			return
		}
		data.Text = string(raw)
		for _, b := range s.Boxes {
			if b.Revoked != "" || b.Said.Policy == nil {
				continue
			}
			if data.Of++; *b.Said.Policy >= s.Policy.Serial {
				data.On++
			}
		}
	}
	p.render(w, http.StatusOK, "policy.html", p.view(r, "Vorgaben", "Policy", data))
}

// names takes names apart that blanks or commas separate.
func names(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\r' || r == '\t' || r == ';' })
}

func (p *Pages) updateRoutes() {
	p.mux.HandleFunc("GET /policy", p.inside(p.policy))
	p.mux.HandleFunc("GET /api/v1/policy", p.script(func(_ http.ResponseWriter, r *http.Request) (any, error) {
		s, err := p.State(r.Context())
		return map[string]any{"policy": s.Policy}, err
	}))
	p.mux.HandleFunc("POST /api/v1/policy", p.script(func(_ http.ResponseWriter, r *http.Request) (any, error) { return p.SetPolicy(r.Body) }))
	p.mux.HandleFunc("GET /updates", p.inside(p.updates))
	p.mux.HandleFunc("POST /updates", p.form(p.changeUpdate))
	p.mux.HandleFunc("GET /api/v1/updates", p.script(func(_ http.ResponseWriter, _ *http.Request) (any, error) {
		return map[string]any{"updates": p.Shelf.Files()}, nil
	}))
	p.mux.HandleFunc("POST /api/v1/updates", p.script(func(_ http.ResponseWriter, r *http.Request) (any, error) { return p.Shelf.Add(r.Context(), r.Body) }))
	p.mux.HandleFunc("POST /api/v1/updates/{version}", p.script(func(w http.ResponseWriter, r *http.Request) (any, error) {
		var in Roll
		if err := read(w, r, &in); err != nil {
			return nil, err
		}
		return struct{}{}, in.Do(p.Shelf, r.PathValue("version"))
	}))
}

// Roll is what is to become of an update on the shelf.
type Roll struct {
	Board  string   `json:"board,omitempty"` // "": of all boards
	Share  *int     `json:"share,omitempty"` // roll it out: percent of the boxes
	Boxes  []string `json:"boxes,omitempty"` // and these
	Stop   string   `json:"stop,omitempty"`  // stop it: why
	Remove bool     `json:"remove,omitempty"`
}

// Do has the shelf do one of the three; more than one, or none, is refused.
func (o Roll) Do(s *shelf.Shelf, version string) error {
	roll := o.Share != nil || len(o.Boxes) > 0
	switch {
	case roll && o.Stop == "" && !o.Remove:
		share := 0
		if o.Share != nil {
			share = *o.Share
		}
		return s.Roll(o.Board, version, share, o.Boxes)
	case !roll && o.Stop != "" && !o.Remove:
		return s.Stop(o.Board, version, o.Stop)
	case !roll && o.Stop == "" && o.Remove:
		return s.Remove(o.Board, version)
	}
	return refuse("Entweder share und boxes, oder stop, oder remove.", "Want share and boxes, or stop, or remove.")
}
