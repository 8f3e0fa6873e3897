// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/peer"
)

// This file lets a box that reaches a server neither straight nor through its hub reach it through a paired box that does: a transaction of its users' events and messages between devices, the
// question whether it has arrived, devices and keys. All of it is signed by the box for that server; the one in between looks at the signature and sends it on as it is. It may be a
// line of 1200 bit/s that leads there, so nothing else goes this way, and nothing while this box reaches anybody straight: what the server has written comes as parcels, from the boxes that share its rooms.

const (
	passageStraight = 5 * time.Minute  // so often it is tried whether the server is in reach without help again
	passageRest     = 10 * time.Minute // so long, boxes that did not reach a server are not asked again
	passageQuiet    = time.Minute      // so long, no server was reached straight: then it is not the one server that is away but the way
	passageTry      = 15 * time.Second // for the straight way, while there is another
	passageLife     = 10 * time.Minute // for a request on a narrow line
	passageBody     = 4 << 20
	passageAtOnce   = 8
)

// passage is what a box knows of servers that it reached through others, or not even so.
type passage struct {
	quiet time.Duration // tests: in place of passageQuiet

	mu      sync.Mutex
	to      map[string]passed
	reached time.Time // when any server was last reached straight
}

type passed struct {
	narrow   bool      // it was reached by a box, and not straight since
	straight time.Time // when that is tried again
	rest     time.Time // until when no box is asked
}

func (p *passage) find(server string) passed {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.to[server]
}

func (p *passage) note(server string, x passed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil || len(p.to) >= 1000 {
		p.to = map[string]passed{}
	}
	p.to[server] = x
}

// reaches notes that a server was reached straight.
func (p *passage) reaches(server string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reached = now
	delete(p.to, server)
}

// lonely says that nobody was reached straight for a while.
func (p *passage) lonely(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.reached) > cmp.Or(p.quiet, passageQuiet)
}

// narrow says that nothing but a paired box leads to a server.
func (x *exchangeParts) narrow(server string) bool { return x.passage.find(server).narrow }

// mayPass says whether a request is one that boxes send on for each other.
func mayPass(method, path string) bool {
	part, ok := strings.CutPrefix(path, "/_matrix/federation/v1/")
	switch {
	case !ok:
		return false
	case method == http.MethodPut:
		return strings.HasPrefix(part, "send/")
	case method == http.MethodPost:
		return part == "user/keys/claim" || part == "user/keys/query"
	}
	return method == http.MethodGet && (strings.HasPrefix(part, "event/") || strings.HasPrefix(part, "user/devices/") || part == "query/profile")
}

// beyond takes a request to a server that is no box: straight, or through a paired box where that leads nowhere.
func (x *exchangeParts) beyond(req *http.Request, straight func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	server := req.URL.Host
	box, way := x.goBetween()
	known := x.passage.find(server)
	if !way || !mayPass(req.Method, req.URL.Path) || req.Body != nil && req.GetBody == nil {
		resp, err := straight(req)
		if err == nil {
			x.passage.reaches(server, time.Now())
		}
		return resp, err
	}
	now := time.Now()
	if known.narrow && now.Before(known.straight) {
		return x.byBox(req, box)
	}
	if known.narrow {
		resp, err := briefly(req, straight)
		if err == nil {
			x.passage.reaches(server, now)
			return resp, nil
		}
	} else {
		once, err := afresh(req)
		if err != nil {
			return nil, err
		}
		resp, err := straight(once)
		if err == nil {
			x.passage.reaches(server, time.Now())
		}
		if err == nil || now.Before(known.rest) || req.Context().Err() != nil || !x.passage.lonely(time.Now()) {
			return resp, err
		}
	}
	resp, err := x.byBox(req, box)
	if err != nil {
		x.passage.note(server, passed{rest: now.Add(passageRest)})
		return nil, err
	}
	x.passage.note(server, passed{narrow: true, straight: now.Add(passageStraight)})
	return resp, nil
}

// briefly gives the straight way to a server that was out of reach some time: the other one needs what is left of the request's. Once it has answered, the body may take as long as it takes.
func briefly(req *http.Request, straight func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	once, err := afresh(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(req.Context())
	late := time.AfterFunc(passageTry, cancel)
	resp, err := straight(once.WithContext(ctx))
	if !late.Stop() && err == nil { // it came too late by a hair: its body would break off
		resp.Body.Close()
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &letGo{resp.Body, cancel}
	return resp, nil
}

// letGo lets go of a request when its answer was read.
type letGo struct {
	io.ReadCloser
	done func()
}

func (b *letGo) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

// afresh gives a request that can be sent while the first may be, too.
func afresh(req *http.Request) (*http.Request, error) {
	out := req.Clone(req.Context())
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		out.Body = body
	}
	return out, nil
}

// goBetween gives the paired box to which the widest way leads.
func (x *exchangeParts) goBetween() (best peer.Peer, ok bool) {
	if x.link == nil {
		return best, false
	}
	most := 0
	for _, s := range x.link.Status() { // what is open language carries no messages between devices
		if s.Carries != "" && !s.Open && s.BitsPerSecond > most {
			best, most, ok = s.Peer, s.BitsPerSecond, true
		}
	}
	return best, ok
}

// byBox asks a box to send a request on.
func (x *exchangeParts) byBox(req *http.Request, box peer.Peer) (*http.Response, error) {
	out, err := afresh(req)
	if err != nil {
		return nil, err
	}
	resp, err := x.link.Through(box.Server).RoundTrip(out)
	if err != nil {
		return nil, fmt.Errorf("through %s: %w", box.Server, err)
	}
	if resp.StatusCode != http.StatusBadGateway && resp.StatusCode != http.StatusNotFound {
		return resp, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	resp.Body.Close()
	var refusal struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	if err == nil && json.Unmarshal(text, &refusal) == nil && (refusal.Code == api.Unreachable || refusal.Code == "M_UNRECOGNIZED") {
		x.passage.note(req.URL.Host, passed{rest: time.Now().Add(passageRest)})
		return nil, fmt.Errorf("through %s: %s", box.Server, refusal.Text)
	}
	resp.Body = io.NopCloser(bytes.NewReader(text)) // the server's own answer
	return resp, nil
}

// passing sends on what paired boxes ask of servers beyond this one, and hands all else to next.
func (b *Box) passing(next http.Handler) http.Handler {
	places := make(chan struct{}, passageAtOnce)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, ok := strings.CutPrefix(r.RemoteAddr, "box:")
		if !ok || r.Host == b.id.Server || b.exchange.isBox(r.Host) || !mayPass(r.Method, r.URL.Path) {
			next.ServeHTTP(w, r)
			return
		}
		from, ok := b.exchange.paired().ByID(peer.ID(id))
		if !ok {
			refusePassage(w, http.StatusForbidden, "M_FORBIDDEN", "the box is not paired")
			return
		}
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
		default:
			refusePassage(w, http.StatusBadGateway, api.Unreachable, "too much is being sent on already")
			return
		}
		b.pass(w, r, from)
	})
}

func refusePassage(w http.ResponseWriter, status int, code, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"errcode": code, "error": text}) // whoever has gone does not wait for it
}

// pass looks at a box's signature and sends its request on.
func (b *Box) pass(w http.ResponseWriter, r *http.Request, from peer.Peer) {
	body, err := io.ReadAll(io.LimitReader(r.Body, passageBody+1))
	if err != nil || len(body) > passageBody {
		refusePassage(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", "this is more than boxes send on for each other")
		return
	}
	a, err := federation.ParseAuthorization(r.Header.Get("Authorization"))
	if err == nil && (a.Origin != from.Server || a.Destination != r.Host || !event.ValidServerName(r.Host)) {
		err = errors.New("the request is not the box's own, or for another server")
	}
	if err == nil {
		err = federation.VerifyRequest(a, r.Method, r.RequestURI, body, from.SigningKeys[a.Key])
	}
	if err != nil {
		b.log.Warn("a request of a paired box was not sent on", "box", from.Server, "to", r.Host, "err", err)
		refusePassage(w, http.StatusUnauthorized, "M_UNAUTHORIZED", err.Error())
		return
	}
	req := (&http.Request{Method: r.Method, URL: r.URL, Host: r.Host, Header: http.Header{"Authorization": r.Header["Authorization"], "User-Agent": {"Hallig"}}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(r.Context())
	u := *r.URL
	u.Scheme, u.Host, u.Opaque = federation.Scheme, r.Host, r.RequestURI // as it was signed
	req.URL = &u
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody() // never fails
	}
	if !strings.HasSuffix(r.URL.Path, "/claim") {
		req.Header["Idempotency-Key"] = []string{} // lets net/http repeat it when a kept connection turns out to be dead
	}
	resp, err := b.exchange.straight(req, b.fed.discovery)
	if err != nil {
		b.log.Debug("a server is out of reach for a paired box, too", "box", from.Server, "to", r.Host, "err", err)
		refusePassage(w, http.StatusBadGateway, api.Unreachable, "not in reach of this box either")
		return
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, passageBody+1))
	if err != nil || len(answer) > passageBody {
		refusePassage(w, http.StatusBadGateway, api.Unreachable, "the answer did not arrive")
		return
	}
	if resp.StatusCode == http.StatusOK && strings.Contains(r.URL.Path, "/v1/event/") && isOwn(answer, from.Server) {
		answer = []byte("{}") // it wants to know whether the server has it, and has it itself
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(resp.StatusCode)
	_, _ = w.Write(answer) // whoever has gone asks again
}

// isOwn says whether an answer is one event of a server's user.
func isOwn(answer []byte, server string) bool {
	var a struct {
		PDUs []struct {
			Sender event.UserID `json:"sender"`
		} `json:"pdus"`
	}
	return json.Unmarshal(answer, &a) == nil && len(a.PDUs) == 1 && a.PDUs[0].Sender.Server() == server
}

// straight takes a request to a server that is no box by the box's own ways: through the hub when that is in reach, and over HTTPS otherwise.
func (x *exchangeParts) straight(req *http.Request, public http.RoundTripper) (*http.Response, error) {
	if !x.hubInReach() {
		return public.RoundTrip(req)
	}
	resp, source, err := x.byHub(req, public)
	federation.CameBy(req.Context(), source, source == federation.SourceTLS)
	return resp, err
}
