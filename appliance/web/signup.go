// SPDX-License-Identifier: EUPL-1.2

package web

import (
	"html/template"
	"net/http"
	"net/url"
	"unicode/utf8"
)

// signUpView is the form for an account, and what came of it.
type signUpView struct {
	view
	Code, Name string // as they were given
	User       string // the account that was made
	Invite     string // address at which the next person makes an account; "": none
	InviteCode string // its registration token
	InviteQR   template.HTML
	Problem    string
	Safer      string // the same page over TLS; "": this is it, or there is none
}

// maxForm bounds a form.
const maxForm = 16 << 10

// MinPassword is how many characters a password has at least: some of these accounts administer the box.
const MinPassword = 8

// signUp shows the form, and takes it. The registration token may come with the address, from a code that was scanned.
func (h *site) signUp(w http.ResponseWriter, r *http.Request) {
	if h.SignUp == nil {
		http.NotFound(w, r)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	v := signUpView{view: h.see(r), Code: r.FormValue("code"), Name: r.FormValue("name")}
	if !v.Secure && v.Trust != nil {
		v.Safer = v.HTTPS + r.URL.Path
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		password := r.PostFormValue("password")
		switch {
		case password == "":
			v.Problem = v.ProblemNoPassword
		case password != r.PostFormValue("again"):
			v.Problem = v.ProblemDiffer
		case utf8.RuneCountInString(password) < MinPassword:
			v.Problem = v.ProblemShort
		default:
			var code string
			v.User, code = h.SignUp(r, v.Name, password, v.Code)
			v.Problem = v.problem(code)
			if v.Problem == "" && h.Invite != nil {
				v.invite(r.URL.Path, h.Invite(r, v.User))
			}
		}
		if v.Problem != "" {
			status = http.StatusBadRequest
		}
	}
	h.showAs(w, status, "signup", v.Lang, v)
}

// invite shows how the next person gets an account with a token.
func (v *signUpView) invite(path, token string) {
	if token == "" {
		return
	}
	v.Invite, v.InviteCode = v.Base+path, token
	v.InviteQR = code(v.Invite + "?code=" + url.QueryEscape(token))
}

// problem puts an error code into words.
func (t texts) problem(code string) string {
	switch code {
	case "":
		return ""
	case "M_USER_IN_USE", "M_EXCLUSIVE":
		return t.ProblemTaken
	case "M_INVALID_USERNAME":
		return t.ProblemName
	case "M_FORBIDDEN":
		return t.ProblemToken
	case "M_MISSING_PARAM":
		return t.ProblemMissing
	case "M_WEAK_PASSWORD":
		return t.ProblemLong
	case "M_LIMIT_EXCEEDED":
		return t.ProblemOften
	}
	return t.ProblemBox
}
