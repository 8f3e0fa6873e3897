// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/muster"
	"hallig/sync/peer"
)

// This file decides by the name that a request is for; DESIGN.md has the table.

// fromWorld answers what comes over TLS.
func (h *Hub) fromWorld(w http.ResponseWriter, r *http.Request) {
	to := h.addressed(r)
	if to == h.id.Server {
		if r.URL.Path == metricsPath {
			h.metricsPage(w, r)
			return
		}
		h.underOwnName(w, r)
		return
	}
	if e, ok := h.box(to); ok {
		h.front(w, r, e)
		return
	}
	refuse(w, http.StatusMisdirectedRequest, "M_UNRECOGNIZED", "no server of this name is here")
}

// fromBox answers what a paired box asks over libp2p. What it signs it signs as itself.
func (h *Hub) fromBox(w http.ResponseWriter, r *http.Request) {
	id, _ := r.Context().Value(boxKey{}).(peer.ID)
	from, ok := h.boxByID(id)
	if !ok || from.revoked != "" {
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", "this hub does not know the box (any more); pair them again")
		return
	}
	to := h.addressed(r)
	if to == h.id.Server {
		switch {
		case r.URL.Path == muster.Path:
			h.fleet.ServeHTTP(w, r)
		case r.URL.Path == api.ContactPath:
			h.contact(w, r, from)
		case r.URL.Path == api.StatusPath:
			h.answerContact(w, r, from, api.Answer{})
		case strings.HasPrefix(r.URL.Path, api.UserPath):
			h.putUser(w, r, from)
		case r.URL.Path == api.LetterPath:
			h.letter(w, r, from)
		case r.URL.Path == api.LettersPath:
			h.letters(w, r, from)
		case strings.HasPrefix(r.URL.Path, api.UpdatePath):
			h.giveUpdate(w, r, from)
		case r.URL.Path == api.GivenPath:
			h.given(w, r, from)
		case r.URL.Path == api.RoomsPath:
			h.rooms(w, r, from)
		case r.URL.Path == api.DealtPath:
			h.dealt(w, r, from)
		case r.URL.Path == api.ReachPath:
			h.hearReach(w, r, from)
		case r.URL.Path == api.FilesPath:
			h.listFiles(w, r, from)
		default:
			h.notary.ServeHTTP(w, r)
		}
		return
	}
	if e, ok := h.forAnother(r, from); ok { // it reaches nobody but this box
		h.fromBeyond(w, r, e, to)
		return
	}
	signed, err := signedAs(r, from.Server, to)
	if err != nil {
		h.count.refused.Add(1)
		if h.seldom.may("name "+from.Server, h.now()) {
			h.log.Warn("a box asks in another's name, or with a signature that cannot be read; it is refused. If nobody has changed its name, turn it away with hallig-hub revoke", "box", from.Server, "to", to, "err", err)
		}
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", err.Error())
		return
	}
	if e, ok := h.box(to); ok {
		h.front(w, r, e)
		return
	}
	h.sendOut(w, r, from, to, signed)
}

func (h *Hub) boxByID(id peer.ID) (entry, bool) {
	r := h.roster.Load()
	e, ok := r.by[r.ids[id]]
	return e, ok
}

// addressed is the name that a request is for: the destination of its signature, or else the Host, with or without port.
func (h *Hub) addressed(r *http.Request) string {
	for _, header := range r.Header.Values("Authorization") {
		if a, err := federation.ParseAuthorization(header); err == nil && a.Destination != "" {
			return a.Destination
		}
	}
	ours := func(name string) bool {
		_, ok := h.box(name)
		return ok || name == h.id.Server
	}
	if bare := hostOf(r.Host); !ours(r.Host) && ours(bare) {
		return bare
	}
	return r.Host
}

// signedAs says whether a request carries a signature. All that it carries must be of that origin, for that destination.
func signedAs(r *http.Request, origin, destination string) (signed bool, err error) {
	for _, header := range r.Header.Values("Authorization") {
		a, err := federation.ParseAuthorization(header)
		if err != nil {
			return false, err
		}
		if a.Origin != origin || a.Destination != "" && a.Destination != destination {
			return false, errors.New("a box speaks to others as itself only")
		}
		signed = true
	}
	return signed, nil
}

// verifier has the places for those who ask this.
func (h *Hub) verifier(r *http.Request) *federation.Verifier {
	if _, ok := r.Context().Value(boxKey{}).(peer.ID); ok {
		return h.fromOurs
	}
	if _, ok := r.Context().Value(passedKey{}).(bool); ok {
		return h.fromNodes
	}
	return h.fromAfar
}

// body reads the body of a request. When it cannot be had that is answered, and ok is false.
func (h *Hub) body(w http.ResponseWriter, r *http.Request) (raw []byte, release func(), ok bool) {
	raw, release, err := h.verifier(r).Body(w, r)
	switch {
	case errors.Is(err, federation.ErrBusy):
		comeAgain(w, "too many requests at once, or the body did not arrive")
	case err != nil:
		refuse(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "the body is too long")
	}
	return raw, release, err == nil
}

// putBody is body for what is told with PUT.
func (h *Hub) putBody(w http.ResponseWriter, r *http.Request) (raw []byte, release func(), ok bool) {
	if r.Method != http.MethodPut {
		refuse(w, http.StatusMethodNotAllowed, "M_UNRECOGNIZED", "want PUT")
		return nil, nil, false
	}
	return h.body(w, r)
}

// between says whether a path is one that servers ask each other for, in its plain form: nothing that leads elsewhere gets to a box or out of the hub.
func between(u *url.URL) bool {
	if strings.Contains(u.EscapedPath(), "//") || path.Clean(u.Path) != u.Path && path.Clean(u.Path)+"/" != u.Path {
		return false
	}
	for _, prefix := range []string{"/_matrix/federation/", "/_matrix/key/", "/_matrix/policy/", "/_matrix/media/"} {
		if strings.HasPrefix(u.Path, prefix) {
			return true
		}
	}
	return false
}

// bare says whether a request may go out without a signature: questions for keys, and files from servers that know no other way.
func bare(r *http.Request) bool {
	get := r.Method == http.MethodGet || r.Method == http.MethodHead
	return get && (strings.HasPrefix(r.URL.Path, "/_matrix/key/v2/") || strings.HasPrefix(r.URL.Path, "/_matrix/media/v3/") || r.URL.Path == "/_matrix/federation/v1/version" ||
		r.URL.Path == "/_matrix/federation/v1/openid/userinfo") || r.Method == http.MethodPost && r.URL.Path == "/_matrix/key/v2/query"
}

// refuse answers with an error of Matrix.
func refuse(w http.ResponseWriter, status int, code, text string) {
	answer(w, status, map[string]string{"errcode": code, "error": text})
}

// comeAgain is the answer to what cannot be taken now: central servers try the same again, for some minutes, before they leave the name alone.
func comeAgain(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", "10")
	answer(w, http.StatusTooManyRequests, map[string]any{"errcode": "M_LIMIT_EXCEEDED", "error": text, "retry_after_ms": 10_000})
}

func answer(w http.ResponseWriter, status int, body any) {
	raw, err := json.Marshal(body)
	if err != nil { // plain values always marshal
		status, raw = http.StatusNotFound, []byte(`{"errcode":"M_NOT_FOUND"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw) // who has gone needs no answer
}

// passedOn are the headers of answers that mean something to the one who asked.
var passedOn = []string{"Content-Type", "Content-Length", "Content-Disposition", "Location", "Cache-Control", "Retry-After"}

// maxPassedOn bounds an answer: the state of a very large room.
const maxPassedOn = 512 << 20

// passOn copies an answer. One that breaks off breaks off for who has asked, too.
func passOn(w http.ResponseWriter, resp *http.Response) {
	for _, name := range passedOn {
		if v := resp.Header.Values(name); len(v) > 0 {
			w.Header()[name] = v
		}
	}
	w.WriteHeader(resp.StatusCode)
	out := http.NewResponseController(w)
	buf := make([]byte, 32<<10)
	for n := int64(0); ; {
		m, err := resp.Body.Read(buf)
		if n += int64(m); n > maxPassedOn {
			panic(http.ErrAbortHandler)
		}
		if m > 0 {
			if _, err := w.Write(buf[:m]); err != nil {
				panic(http.ErrAbortHandler)
			}
			_ = out.Flush() // not every way can
		}
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// verbatim makes the request that another one was: what its signature covers, and the signature.
func verbatim(to string, s sealed) (*http.Request, error) {
	u := &url.URL{Scheme: federation.Scheme, Host: to, Opaque: s.uri}
	if p, err := url.ParseRequestURI(s.uri); err == nil {
		u.Path = p.Path // for those who look at it; what goes out is Opaque
	}
	req := &http.Request{Method: s.method, URL: u, Host: to, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
	if !strings.HasPrefix(s.uri, "/") || strings.HasPrefix(s.uri, "//") {
		return nil, fmt.Errorf("%.20q is no path", s.uri)
	}
	if len(s.body) > 0 {
		req.Body, req.ContentLength = io.NopCloser(strings.NewReader(string(s.body))), int64(len(s.body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(string(s.body))), nil }
		req.Header.Set("Content-Type", "application/json")
	}
	for _, a := range s.authorization {
		req.Header.Add("Authorization", a)
	}
	if s.accept != "" {
		req.Header.Set("Accept", s.accept)
	}
	req.Header.Set("User-Agent", "Hallig-Hub")
	return req, nil
}

// sealed is a request as it came: method, URI and body, which a signature covers, and that.
type sealed struct {
	method, uri   string
	authorization []string
	accept        string
	body          []byte
}

func sealedOf(r *http.Request, body []byte) sealed {
	return sealed{method: r.Method, uri: federation.SignedURI(r), authorization: r.Header.Values("Authorization"), accept: r.Header.Get("Accept"), body: body}
}

// received gives the header that says when a request came in.
func received(at time.Time) string { return strconv.FormatInt(at.UnixMilli(), 10) }
