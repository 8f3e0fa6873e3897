// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"crypto/rand"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"rsc.io/qr"

	"hallig/appliance/account"
	"hallig/appliance/event"
)

// This file is the page of accounts and of the codes with which people make them.

type peoplePage struct {
	Users       []account.User
	Tokens      []account.RegistrationToken
	NewPassword string // shown once
	For         string
	MayEnd      bool
}

func (p *Pages) people(w http.ResponseWriter, r *http.Request) {
	p.peoplePage(w, r, peoplePage{}, "", "")
}

func (p *Pages) peoplePage(w http.ResponseWriter, r *http.Request, data peoplePage, good, bad string) {
	v := p.view(r, "Konten", "Accounts", nil)
	v.Here = "/admin/users"
	v.Good, v.Bad = good, bad
	users, err := p.Accounts.Users(r.Context())
	if err != nil {
		v.Bad = p.said(v, "list accounts", err)
	}
	for _, u := range users {
		if !u.Deactivated {
			data.Users = append(data.Users, u)
		}
	}
	tokens, err := p.Accounts.RegistrationTokens(r.Context())
	if err != nil {
		v.Bad = p.said(v, "list registration tokens", err)
	}
	for _, t := range tokens {
		if t.Uses == 0 || t.Used < t.Uses {
			data.Tokens = append(data.Tokens, t)
		}
	}
	data.MayEnd = p.Deactivate != nil
	v.Data = data
	p.render(w, http.StatusOK, "people.html", v)
}

// newToken makes a code and shows its sheet.
func (p *Pages) newToken(w http.ResponseWriter, r *http.Request) {
	uses, err := strconv.Atoi(r.PostFormValue("uses"))
	if err != nil || uses < 1 || uses > 1000 {
		v := p.view(r, "", "", nil)
		p.peoplePage(w, r, peoplePage{}, "", v.T("Die Zahl der Konten muss zwischen 1 und 1000 liegen.", "The number of accounts must be between 1 and 1000."))
		return
	}
	t := account.RegistrationToken{Uses: uses, Admin: r.PostFormValue("admin") == "1"}
	if days, err := strconv.Atoi(r.PostFormValue("days")); err == nil && days > 0 && days < 3660 {
		t.Expires = p.Now().AddDate(0, 0, days)
	}
	t, err = p.Accounts.CreateRegistrationToken(r.Context(), t)
	if err != nil {
		v := p.view(r, "", "", nil)
		p.peoplePage(w, r, peoplePage{}, "", p.said(v, "make registration token", err))
		return
	}
	p.Log.Info("registration token made on the pages", "uses", t.Uses, "admin", t.Admin)
	http.Redirect(w, r, "/admin/users/sheet?token="+t.Token, http.StatusSeeOther)
}

type sheetPage struct {
	account.RegistrationToken
	URL  string
	Code template.HTML
}

// sheet is one code on a page to print and hand out.
func (p *Pages) sheet(w http.ResponseWriter, r *http.Request) {
	tokens, err := p.Accounts.RegistrationTokens(r.Context())
	v := p.view(r, "Ein Konto auf dieser Box anlegen", "Make an account on this box", nil)
	for _, t := range tokens {
		if t.Token != r.FormValue("token") {
			continue
		}
		page := sheetPage{RegistrationToken: t, URL: p.PhoneURL()}
		direct := strings.TrimRight(page.URL, "/") + v.T("/konto", "/account")
		page.Code = drawQR(direct+"?code="+url.QueryEscape(t.Token), v.T("QR-Code der Adresse ", "QR code of the address ")+direct)
		v.Data = page
		p.render(w, http.StatusOK, "sheet.html", v)
		return
	}
	v.Bad = v.T("Diesen Code gibt es nicht mehr.", "This code does not exist any more.")
	if err != nil {
		v.Bad = p.said(v, "list registration tokens", err)
	}
	p.render(w, http.StatusNotFound, "message.html", v)
}

// drawQR draws a code as SVG, which prints sharply and needs no picture file. Its text for screen readers is label.
func drawQR(text, label string) template.HTML {
	code, err := qr.Encode(text, qr.M)
	if err != nil {
		return "" // an address is never too long for a code; the sheet shows it as text as well
	}
	const quiet = 4
	size := code.Size + 2*quiet
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="qr" viewBox="0 0 %d %d" role="img" aria-label="%s" shape-rendering="crispEdges"><rect width="100%%" height="100%%" fill="#fff"/><path d="`, size, size, template.HTMLEscapeString(label))
	for y := range code.Size {
		for x := range code.Size {
			if code.Black(x, y) {
				fmt.Fprintf(&b, "M%d %dh1v1h-1z", x+quiet, y+quiet)
			}
		}
	}
	b.WriteString(`"/></svg>`)
	return template.HTML(b.String())
}

func (p *Pages) dropToken(w http.ResponseWriter, r *http.Request) {
	v := p.view(r, "", "", nil)
	if err := p.Accounts.DeleteRegistrationToken(r.Context(), r.PostFormValue("token")); err != nil {
		p.peoplePage(w, r, peoplePage{}, "", p.said(v, "delete registration token", err))
		return
	}
	p.peoplePage(w, r, peoplePage{}, v.T("Der Code gilt nicht mehr.", "The code is no longer valid."), "")
}

// changeUser does one thing to one account.
func (p *Pages) changeUser(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	v := p.view(r, "", "", nil)
	user := event.UserID(r.PostFormValue("user"))
	u, err := p.Accounts.User(ctx, user)
	if err != nil {
		p.peoplePage(w, r, peoplePage{}, "", v.T("Dieses Konto gibt es nicht.", "There is no such account."))
		return
	}
	s, _ := sessionOf(ctx)
	self := string(u.ID) == s.User
	var data peoplePage
	var good string
	switch do := r.PostFormValue("do"); {
	case do == "password":
		password := randomPassword()
		if err = p.Accounts.SetPassword(ctx, u.ID, password, true); err == nil {
			data.NewPassword, data.For = password, string(u.ID)
			if !self {
				p.sessions.EndOf(string(u.ID))
			}
		}
	case do == "logout":
		if err = p.Accounts.LogoutAll(ctx, u.ID); err == nil {
			good = v.T("Alle Geräte dieses Kontos sind abgemeldet.", "All devices of this account are signed out.")
			if !self {
				p.sessions.EndOf(string(u.ID))
			}
		}
	case self && (do == "unadmin" || do == "end"):
		err = &Refusal{Text: v.T("Das eigene Konto verwaltet die Box weiter; das kann nur jemand anderes ändern.", "Your own account goes on administering the box; only somebody else can change that.")}
	case do == "admin", do == "unadmin":
		if err = p.Accounts.SetAdmin(ctx, u.ID, do == "admin"); err == nil {
			good = v.T("Geändert.", "Changed.")
		}
	case do == "end" && p.Deactivate != nil:
		if r.PostFormValue("sure") != "1" {
			err = &Refusal{Text: v.T("Bitte das Häkchen setzen: Ein beendetes Konto kommt nicht wieder.", "Please tick the box: an account that was ended does not come back.")}
		} else if err = p.Deactivate(ctx, u.ID); err == nil {
			p.sessions.EndOf(string(u.ID))
			good = v.T("Das Konto ist beendet.", "The account is ended.")
		}
	default:
		err = &Refusal{Text: v.T("Das kann diese Seite nicht.", "This page cannot do that.")}
	}
	if err != nil {
		p.peoplePage(w, r, peoplePage{}, "", p.said(v, "change account", err))
		return
	}
	p.Log.Info("account changed on the pages", "user", u.ID, "do", r.PostFormValue("do"), "by", s.User)
	p.peoplePage(w, r, data, good, "")
}

// randomPassword can be read out over a radio: 5 groups of 4, without look-alikes, about 96 bits.
func randomPassword() string {
	const letters = "abcdefghjkmnpqrstuvwxyz23456789"
	var b strings.Builder
	for i := range 20 {
		if i > 0 && i%4 == 0 {
			b.WriteByte('-')
		}
		var raw [1]byte
		for {
			_, _ = rand.Read(raw[:]) // never fails
			if raw[0] < 248 {        // the highest multiple of 31: no letter is likelier
				break
			}
		}
		b.WriteByte(letters[raw[0]%31])
	}
	return b.String()
}
