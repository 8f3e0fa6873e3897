// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// sendOut takes a box's request to a server that is none of ours, over HTTPS, as the box signed it.
func (h *Hub) sendOut(w http.ResponseWriter, r *http.Request, from entry, to string, signed bool) {
	switch {
	case !event.ValidServerName(to):
		refuse(w, http.StatusBadRequest, "M_INVALID_PARAM", "the request names no server")
		return
	case !between(r.URL) || !signed && !bare(r):
		h.log.Info("a box's request was not sent on", "box", from.Server, "to", to, "path", r.URL.Path, "signed", signed)
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", "a hub sends on what servers ask each other, signed by the box, and nothing else")
		return
	}
	body, release, ok := h.body(w, r)
	if !ok {
		return
	}
	defer release()
	req, err := verbatim(to, sealedOf(r, body))
	if err != nil {
		refuse(w, http.StatusBadRequest, "M_INVALID_PARAM", err.Error())
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/keys/claim") {
		// Nothing is sent of it: it lets net/http repeat the request when a kept connection turns out to be dead. A claim has an effect each time it arrives.
		req.Header["Idempotency-Key"] = []string{}
	}
	if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, sendPath) {
		h.replica.Passed(from.Server, from.Server, body)
		done, err := h.sendOnce(w, r, onceOf(from.Server, to, federation.SignedURI(r), body), func(ctx context.Context) (*http.Response, error) {
			resp, err := h.discovery.RoundTrip(req.WithContext(ctx))
			if err == nil {
				h.wentOut(ctx, from, to, signed)
			}
			return resp, err
		})
		if !done {
			h.unreached(w, r, from, to, err)
		}
		return
	}
	resp, err := h.discovery.RoundTrip(req.WithContext(r.Context()))
	if err != nil {
		h.unreached(w, r, from, to, err)
		return
	}
	defer resp.Body.Close()
	h.wentOut(r.Context(), from, to, signed)
	passOn(w, resp)
}

func (h *Hub) wentOut(ctx context.Context, from entry, to string, signed bool) {
	h.count.out.Add(1)
	if signed {
		h.spoke(ctx, from.Server, to, h.now())
	}
}

// unreached tells a box that its request has had no answer.
func (h *Hub) unreached(w http.ResponseWriter, r *http.Request, from entry, to string, err error) {
	if err == nil {
		err = errors.New("no whole answer came")
	}
	if r.Context().Err() == nil && h.seldom.may("reach "+from.Server, h.now()) {
		h.log.Warn("a box writes to a server that the hub does not reach", "box", from.Server, "to", to, "err", err)
	}
	refuse(w, http.StatusBadGateway, api.Unreachable, "the hub does not reach "+to+": "+err.Error())
}
