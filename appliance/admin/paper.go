// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"fmt"
	"html/template"
	"net/http"
	"strconv"
)

// This file is the page of messages on paper: it makes sheets with codes, and takes in what somebody scanned from one.

type paperPage struct {
	Peers []Peer
	Rooms []CourierRoom
	Codes []paperCode
	Note  string
}

// paperCode is one code, as a picture and as the text to type or send.
type paperCode struct {
	Picture template.HTML
	Text    string
}

func noStep(CourierStep) {}

func (p *Pages) paper(w http.ResponseWriter, r *http.Request) { p.paperPage(w, r, paperPage{}, "", "") }

func (p *Pages) paperPage(w http.ResponseWriter, r *http.Request, data paperPage, good, bad string) {
	v := p.view(r, "Nachrichten auf Papier", "Messages on paper", nil)
	v.Good, v.Bad = good, bad
	s, err := p.Status(r.Context())
	if err == nil {
		data.Peers = s.Peers
		var rooms CourierReport
		rooms, err = p.Courier(r.Context(), CourierOrder{Do: "rooms"}, noStep)
		data.Rooms = rooms.Rooms
	}
	if err != nil {
		v.Bad = p.said(v, "messages on paper", err)
	}
	v.Data = data
	p.render(w, http.StatusOK, "paper.html", v)
}

func (p *Pages) paperForm(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	var data paperPage
	order := CourierOrder{Do: "read", Text: r.PostFormValue("text")}
	if r.PostFormValue("do") == "make" {
		codes, err := strconv.Atoi(r.PostFormValue("codes"))
		if err != nil {
			codes = 1
		}
		order = CourierOrder{Do: "sheet", Box: r.PostFormValue("box"), Room: r.PostFormValue("room"), Codes: codes, Plain: r.PostFormValue("plain") == "1"}
	}
	got, err := p.Courier(r.Context(), order, noStep)
	if err != nil {
		p.paperPage(w, r, data, "", p.said(v, "messages on paper", err))
		return
	}
	if order.Do == "read" {
		p.paperPage(w, r, data, v.S(got.Sentence), "")
		return
	}
	data.Note = v.S(got.Sentence)
	for i, text := range got.Codes {
		data.Codes = append(data.Codes, paperCode{drawQR(text, fmt.Sprintf(v.T("QR-Code %d von %d", "QR code %d of %d"), i+1, len(got.Codes))), text})
	}
	p.paperPage(w, r, data, "", "")
}
