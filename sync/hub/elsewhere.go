// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"hallig/sync/hub/nodes"
)

// This file takes a question to the node of the hub that a box is connected to. Transactions need none of it: they are in the spool, and the node that has the box plays them.

// passedKey marks the context of a request that another node has passed on.
type passedKey struct{}

// openNodes opens the port for other nodes, and makes its address part of the node's name: whoever reads a lease knows where to ask.
func (h *Hub) openNodes() (err error) {
	if h.cfg.Internal == "" {
		return nil
	}
	if h.nodes, err = nodes.Listen(h.cfg.Internal, h.id.Box, h.log); err != nil {
		return err
	}
	h.node += "@" + h.nodes.Addr()
	return nil
}

// nodeOf is where a node is asked, by its name; "": it cannot be.
func nodeOf(name string) string {
	_, addr, _ := strings.Cut(name, "@")
	return addr
}

// askElsewhere has the node that holds the box ask it. False: there is none, or the box is not connected there either.
func (h *Hub) askElsewhere(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	if h.nodes == nil {
		return false
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	patience := time.AfterFunc(patienceFor(r), cancel)
	defer patience.Stop()
	l, err := h.spool.Holder(ctx, to.Server)
	if err != nil {
		if h.seldom.may("spool", h.now()) {
			h.log.Error("look which node of the hub has a box", "box", to.Server, "err", err)
		}
		return false
	}
	addr := nodeOf(l.Node)
	if l.Node == h.node || addr == "" || !l.Until.After(h.now()) {
		return false
	}
	req, err := verbatim(to.Server, sealedOf(r, body))
	if err != nil {
		return false
	}
	resp, err := h.nodes.RoundTrip(addr, req.WithContext(ctx))
	if err != nil {
		if !errors.Is(err, nodes.ErrGone) {
			h.log.Debug("another node did not answer", "box", to.Server, "node", addr, "path", r.URL.Path, "err", err)
		}
		return false
	}
	defer func() { resp.Body.Close() }() // it may be another one by then
	if resp.StatusCode == http.StatusMisdirectedRequest || !fit(resp.StatusCode) {
		return false
	}
	h.count.elsewhere.Add(1)
	patience.Reset(bodyPatience)
	h.depot.Passes(r, to.Server, resp)
	passOn(w, resp)
	return true
}

// fromNode answers a question that another node passes on, by the box that is connected here and by nothing else. It is not passed on again: two nodes that each believe the other to have the box make
// no circle.
func (h *Hub) fromNode(w http.ResponseWriter, r *http.Request) {
	r = r.WithContext(context.WithValue(r.Context(), passedKey{}, true))
	e, ok := h.box(r.Host)
	if !ok || e.revoked != "" || !between(r.URL) || strings.HasPrefix(r.URL.Path, sendPath) || !h.p2p.InReach(e.Server) {
		notHere(w)
		return
	}
	body, release, err := h.verifier(r).Body(w, r)
	if err != nil {
		notHere(w)
		return
	}
	defer release()
	if !h.ask(w, r, e, body) {
		notHere(w)
	}
}

// notHere has the other node go on without us.
func notHere(w http.ResponseWriter) {
	refuse(w, http.StatusMisdirectedRequest, "M_UNRECOGNIZED", "the box is not connected to this node of the hub")
}
