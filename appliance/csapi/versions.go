// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"net/http"

	"hallig/appliance/event"
)

// versions says what we speak. Unstable features are listed only when they work here. What no version could be claimed
// without, were it taken to the letter, and is not here: POST /search, GET /notifications, OpenID tokens, third-party
// identifiers, URL previews. They are answered with M_UNRECOGNIZED, as the specification asks.
func (h *Handler) versions(context.Context, *call) (any, error) {
	return map[string]any{
		"versions": []string{"r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13"},
		"unstable_features": map[string]bool{
			"org.matrix.e2e_cross_signing": true,
			"org.matrix.msc2285.stable":    true, // private read receipts
			"org.matrix.msc3916.stable":    true, // authenticated media
			"org.matrix.msc3440.stable":    true, // threads as relations
			"uk.tcpip.msc4133.stable":      true, // profile fields
		},
	}, nil
}

// baseURL is where the asking client reaches us.
func (h *Handler) baseURL(r *http.Request) string {
	if h.PublicBaseURL != "" {
		return h.PublicBaseURL
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host
}

func (h *Handler) wellKnownClient(_ context.Context, c *call) (any, error) {
	return map[string]any{"m.homeserver": map[string]string{"base_url": h.baseURL(c.r)}}, nil
}

// capabilities: https://spec.matrix.org/v1.13/client-server-api/#capabilities-negotiation
func (h *Handler) capabilities(context.Context, *call) (any, error) {
	available := map[string]string{}
	for _, id := range event.Known() {
		if creatable(id) {
			available[id] = "stable"
		}
	}
	on := map[string]bool{"enabled": true}
	off := map[string]bool{"enabled": false}
	return map[string]any{"capabilities": map[string]any{
		"m.change_password": on,
		"m.set_displayname": on,
		"m.set_avatar_url":  on,
		"m.profile_fields":  on,
		"m.3pid_changes":    off,
		"m.get_login_token": on,
		"m.room_versions":   map[string]any{"default": h.Rooms.DefaultVersion().ID, "available": available},
	}}, nil
}

func creatable(version string) bool {
	v, ok := event.Lookup(version)
	return ok && !v.Readable
}

// turnServer has nothing to offer: on one network, clients find each other.
func (h *Handler) turnServer(context.Context, *call) (any, error) { return nil, nil }

// nothing answers the questions about bridges to other networks.
func (h *Handler) nothing(context.Context, *call) (any, error) { return nil, nil }

func (h *Handler) noProtocol(context.Context, *call) (any, error) {
	return nil, notFound("there are no bridges to other networks")
}

func (h *Handler) noThreePIDs(context.Context, *call) (any, error) {
	return map[string]any{"threepids": []any{}}, nil
}
