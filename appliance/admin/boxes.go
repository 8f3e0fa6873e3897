// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"errors"
	"net/http"
	"time"
)

// This file is the pages of the overview, of the other boxes and of the clock.

func (p *Pages) overview(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "Übersicht", "Overview", nil)
	s, err := p.Status(r.Context())
	if err != nil {
		v.Bad = p.said(v, "status", err)
	}
	v.Data = struct {
		Tree   treeView
		Status Status
		Up     time.Duration
	}{viewTree(p.Recent(r.Context())), s, time.Since(s.Started)}
	v.Refresh = 30
	p.render(w, http.StatusOK, "overview.html", v)
}

type boxesPage struct {
	Status Status
	Code   *PairCode
	Paired string
}

func (p *Pages) boxes(w http.ResponseWriter, r *http.Request) {
	p.boxesPage(w, r, boxesPage{}, "", "")
}

func (p *Pages) boxesPage(w http.ResponseWriter, r *http.Request, data boxesPage, good, bad string) {
	v := p.view(r, "Boxen", "Boxes", nil)
	v.Good, v.Bad = good, bad
	var err error
	if data.Status, err = p.Status(r.Context()); err != nil {
		v.Bad = p.said(v, "status", err)
	}
	v.Data = data
	p.render(w, http.StatusOK, "boxes.html", v)
}

func (p *Pages) pair(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	var data boxesPage
	var good string
	var err error
	switch r.PostFormValue("do") {
	case "show":
		var c PairCode
		if c, err = p.ShowCode(r.Context()); err == nil {
			data.Code = &c
		}
	case "take":
		var peer Peer
		if peer, err = p.Take(r.Context(), r.PostFormValue("code"), r.PostFormValue("address")); err == nil {
			good = v.T("Gekoppelt mit ", "Paired with ") + peer.ServerName + ". " + v.S(peer.OtherName())
		}
	case "forget":
		if err = p.Forget(r.Context(), r.PostFormValue("box")); err == nil {
			good = v.T("Die Box ist nicht mehr gekoppelt.", "The box is no longer paired.")
		}
	default:
		err = &Refusal{Text: v.T("Das kann diese Seite nicht.", "This page cannot do that.")}
	}
	bad := ""
	if err != nil {
		bad = p.said(v, "pair", err)
	}
	p.boxesPage(w, r, data, good, bad)
}

type clockPage struct {
	Ask   *clockQuestion // nil: nothing is asked
	Clock Clock
	Zones []zone
	Date  string
	RTC   *bool // whether the machine has a clock that runs without power; nil: not known
}

// zone is a choice on the clock page. The box has no zone of its own: it counts in UTC.
type zone struct {
	Offset   string
	Text     string
	Selected bool
}

// clockQuestion is asked before a time far ahead is taken: what was typed, and what is odd about it.
type clockQuestion struct{ Text, Date, Time, Zone string }

func (p *Pages) clock(w http.ResponseWriter, r *http.Request) { p.clockPage(w, r, nil, "", "") }

func (p *Pages) clockPage(w http.ResponseWriter, r *http.Request, ask *clockQuestion, good, bad string) {
	v := p.view(r, "Uhr", "Clock", nil)
	v.Good, v.Bad = good, bad
	s, err := p.Status(r.Context())
	if err != nil {
		v.Bad = p.said(v, "status", err)
	}
	summer := centralEuropeanSummer(s.Clock.Time)
	data := clockPage{Ask: ask, Clock: s.Clock, Date: s.Clock.Time.UTC().Format(time.DateOnly), Zones: []zone{
		{"+02:00", v.T("Mitteleuropa, Sommerzeit", "Central Europe, summer time"), summer},
		{"+01:00", v.T("Mitteleuropa, Winterzeit", "Central Europe, winter time"), !summer},
		{"+00:00", "UTC", false},
	}}
	if p.Steward != nil {
		if st, err := p.Steward.State(r.Context()); err == nil {
			data.RTC = &st.Clock.RTC
		}
	}
	v.Data = data
	p.render(w, http.StatusOK, "clock.html", v)
}

// centralEuropeanSummer follows directive 2000/84/EC: from 01:00 UTC on the last Sunday of March to that of October.
func centralEuropeanSummer(t time.Time) bool {
	t = t.UTC()
	last := func(m time.Month) time.Time {
		d := time.Date(t.Year(), m, 31, 1, 0, 0, 0, time.UTC)
		return d.AddDate(0, 0, -int(d.Weekday()))
	}
	return !t.Before(last(time.March)) && t.Before(last(time.October))
}

func (p *Pages) setClock(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	q := clockQuestion{Date: r.PostFormValue("date"), Time: r.PostFormValue("time"), Zone: r.PostFormValue("zone")}
	at, err := time.Parse("2006-01-02T15:04Z07:00", q.Date+"T"+q.Time+q.Zone)
	if err != nil {
		p.clockPage(w, r, nil, "", v.T("Das ist keine Uhrzeit. Beispiel: Datum 2026-11-26, Zeit 14:05.", "That is no time. Example: date 2026-11-26, time 14:05."))
		return
	}
	var refusal *Refusal
	switch err := p.SetClock(r.Context(), at, r.PostFormValue("sure") == "1"); {
	case errors.As(err, &refusal) && refusal.Ask:
		q.Text = p.said(v, "set clock", err)
		bad := ""
		if r.PostFormValue("asked") == "1" {
			bad = v.T("Bitte das Häkchen setzen.", "Please tick the box.")
		}
		p.clockPage(w, r, &q, "", bad)
		return
	case err != nil:
		p.clockPage(w, r, nil, "", p.said(v, "set clock", err))
		return
	}
	p.clockPage(w, r, nil, v.T("Die Uhr ist gestellt.", "The clock is set."), "")
}
