// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"encoding/json"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"
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

// treeView is a tree for a page: what the one sentence is about, what else is to be done, what is on its way, what is well.
type treeView struct {
	health.Tree
	First              *nodeView
	Rest, Coming, Well []nodeView
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
		switch {
		case n.State != health.OK:
		case n.Waits:
			v.Coming = append(v.Coming, nodeView{Node: n})
		default:
			v.Well = append(v.Well, nodeView{Node: n})
		}
	}
	return v
}

// status is the page for anybody on the network.
func (p *Pages) status(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "Zustand der Box", "State of the box", struct {
		Tree  treeView
		Clock Clock
		Quiet time.Time
	}{viewTree(p.Recent(r.Context()).Public()), p.Clock(), p.quiet()})
	v.Refresh = 20
	p.render(w, http.StatusOK, "status.html", v)
}

func (p *Pages) quiet() time.Time {
	if p.Quiet == nil {
		return time.Time{}
	}
	return p.Quiet()
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
	if de := qualitiesDE[c.Quality]; de != "" {
		return de
	}
	return c.Quality
}

// qualitiesDE are those of package clock; a test keeps them complete.
var qualitiesDE = map[string]string{
	"untrusted": "unbekannt", "by users' devices": "von Telefonen", "kept by the hardware": "von der Uhr mit Batterie", "told by another box": "von einer anderen Box",
	"by the network's time server": "vom Zeitserver des Netzes", "set by the operator": "von Hand gestellt", "exact": "genau", "exact, by satellite": "genau, von Satelliten",
}

// sources of time in German, as the beginnings of what the clock says.
var sourcesDE = [][2]string{
	{"the last time that was known", "die letzte bekannte Zeit"}, {"as before the restart", "wie vor dem Neustart"}, {"the operator", "die Verwaltung"},
	{"the system's clock, as configured", "die Systemuhr, wie eingestellt"}, {"the system's clock, synchronised", "die abgeglichene Systemuhr"}, {"the hardware's clock", "die Uhr mit Batterie"}, {"the administrator's device", "das Telefon der Verwaltung"},
	{"devices of two users", "die Telefone von zwei Personen"}, {"time server ", "Zeitserver "}, {"box ", "Box "}, {"hub ", "Hub "},
}

// ClockSource names where the time comes from, and since when it has not been heard.
func (v view) ClockSource(c Clock) string {
	source := c.Source
	for _, s := range sourcesDE {
		if rest, ok := strings.CutPrefix(source, s[0]); ok && v.Lang == "de" {
			source = s[1] + rest
			break
		}
	}
	ago, err := time.ParseDuration(c.HeardAgo)
	if err != nil || !c.Trusted {
		return source
	}
	return source + ", " + v.Since(ago)
}

// Join lists names; those that the box only has where others took its own are left out.
func (v view) Join(names []string) string {
	var out []string
	for _, n := range names {
		if len(n) != len("hallig-2.local") || !strings.HasPrefix(n, "hallig-") || !strings.HasSuffix(n, ".local") {
			out = append(out, n)
		}
	}
	return strings.Join(out, ", ")
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
