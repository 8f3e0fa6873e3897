// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"

	"hallig/sync/hub/api"
)

// played answers what waited at the hub, one request after the other, each as if it had come by itself. It stops at the first that is not dealt with for good: what its sender sent after it must not overtake it.
func (b *Box) played(w http.ResponseWriter, r *http.Request) {
	p, err := api.ReadPlay(http.MaxBytesReader(w, r.Body, 4<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	var out api.Played
	for _, q := range p.Requests {
		a := b.playedOne(r, q)
		out.Answers = append(out.Answers, a)
		if !dealtWith(a) || r.Context().Err() != nil {
			break
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // a hub that has gone plays them again
}

// dealtWith says whether an answer is the last word on its request: it was taken, or refused for what it is.
func dealtWith(a api.PlayedOne) bool {
	return a.Status == http.StatusOK || (a.Status == http.StatusBadRequest || a.Status == http.StatusRequestEntityTooLarge) && api.Considered([]byte(a.Text))
}

// playedOne answers a request that waited at the hub.
func (b *Box) playedOne(r *http.Request, q api.Waited) api.PlayedOne {
	u, err := url.ParseRequestURI(q.URI)
	if err != nil || u.Host != "" {
		return api.PlayedOne{Status: http.StatusBadRequest, Text: `{"errcode":"M_INVALID_PARAM","error":"no path"}`}
	}
	req := (&http.Request{Method: q.Method, URL: u, RequestURI: q.URI, Host: b.id.Server, RemoteAddr: r.RemoteAddr, Header: http.Header{}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader([]byte(q.Body))), ContentLength: int64(len(q.Body))}).WithContext(r.Context())
	req.Header.Set("Authorization", q.Authorization)
	req.Header.Set("Content-Type", "application/json")
	a := &answered{header: http.Header{}}
	b.answerHub(a, req, q.Received)
	out := api.PlayedOne{Status: a.status}
	if out.Status == 0 {
		out.Status = http.StatusOK
	}
	if out.Status != http.StatusOK {
		out.Text = string(a.text)
	}
	return out
}

// answered keeps the status of an answer, and the beginning of its text.
type answered struct {
	header http.Header
	status int
	text   []byte
}

func (a *answered) Header() http.Header { return a.header }

func (a *answered) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

func (a *answered) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	a.text = append(a.text, p[:min(len(p), api.PlayText-min(api.PlayText, len(a.text)))]...)
	return len(p), nil
}
