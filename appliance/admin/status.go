// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"encoding/json"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"hallig/appliance/health"
)

// nodeView is a node and what it explains, for a page.
type nodeView struct {
	health.Node
	Below []nodeView
}

func nodesBelow(t health.Tree, id string) []nodeView {
	var out []nodeView
	for _, n := range t.Under(id) {
		out = append(out, nodeView{n, nodesBelow(t, n.ID)})
	}
	return out
}

// treeView is a tree for a page: what the one sentence is about, what else is to be done, what is well.
type treeView struct {
	health.Tree
	First      *nodeView
	Rest, Well []nodeView
}

func viewTree(t health.Tree) treeView {
	v := treeView{Tree: t}
	for i, n := range t.Shouting() {
		if node := (nodeView{n, nodesBelow(t, n.ID)}); i == 0 {
			v.First = &node
		} else {
			v.Rest = append(v.Rest, node)
		}
	}
	for _, n := range t.Nodes {
		if n.State == health.OK {
			v.Well = append(v.Well, nodeView{Node: n})
		}
	}
	return v
}

// status is the page for anybody on the network.
func (p *Pages) status(w http.ResponseWriter, r *http.Request) {
	s, err := p.Status(r.Context())
	v := p.view(r, "Zustand der Box", "State of the box", nil)
	data := struct {
		Tree  treeView
		Clock Clock
	}{Tree: viewTree(p.Recent(r.Context()).Public())}
	if err == nil {
		data.Clock = s.Clock
	}
	v.Data, v.Refresh = data, 20
	p.render(w, http.StatusOK, "status.html", v)
}

// statusJSON is the same for programs.
func (p *Pages) statusJSON(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(p.Recent(r.Context()).Public()); err != nil {
		p.Log.Debug("answer state", "err", err)
	}
}

// ClockQuality names how good the clock is.
func (v view) ClockQuality(c Clock) string {
	if v.Lang != "de" {
		return c.Quality
	}
	switch c.Quality {
	case "untrusted":
		return "unbekannt"
	case "told by another box":
		return "von einer anderen Box"
	case "set by the operator":
		return "von Hand gestellt"
	case "exact":
		return "genau"
	}
	return c.Quality
}

// source serves the archive of the sources: https://eupl.eu/1.2/en, article 5.
func (p *Pages) source(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "Quelltext", "Source code", nil)
	if p.Source == "" {
		v.Bad = v.T("Diese Box führt ihren Quelltext nicht mit sich; er liegt da, woher das Programm kam.", "This box does not carry its source code; it is where the program came from.")
		p.render(w, http.StatusNotFound, "message.html", v)
		return
	}
	f, err := os.Open(p.Source)
	if err != nil {
		v.Bad = v.T("Diese Box führt ihren Quelltext nicht mit sich; er liegt da, woher das Abbild kam.", "This box does not carry its source code; it is where the image came from.")
		p.render(w, http.StatusNotFound, "message.html", v)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": filepath.Base(p.Source)}))
	http.ServeContent(w, r, "", time.Time{}, f)
}
