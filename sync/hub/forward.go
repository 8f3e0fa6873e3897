// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"net/http"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/sync/hub/api"
)

// sendPatience is for a transaction of a box at a busy server.
const sendPatience = 5 * time.Minute

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
	}
	ctx := r.Context()
	if r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, sendPath) {
		// What has begun goes on when the box is gone: a Dendrite whose transaction is broken off has done a part of it, forgets its id, and does that part twice when it comes again.
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(context.WithoutCancel(ctx), sendPatience)
		defer stop()
	}
	resp, err := h.discovery.RoundTrip(req.WithContext(ctx))
	if err != nil {
		if r.Context().Err() == nil && h.seldom.may("reach "+from.Server, h.now()) {
			h.log.Warn("a box writes to a server that the hub does not reach", "box", from.Server, "to", to, "err", err)
		}
		refuse(w, http.StatusBadGateway, api.Unreachable, "the hub does not reach "+to+": "+err.Error())
		return
	}
	defer resp.Body.Close()
	h.count.out.Add(1)
	if signed {
		h.spoke(r.Context(), from.Server, to, h.now())
	}
	passOn(w, resp)
}
