// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

func v1(segments ...string) []string { return append([]string{"federation", "v1"}, segments...) }
func v2(segments ...string) []string { return append([]string{"federation", "v2"}, segments...) }

// Version asks a server what it is; for those who want a sign of life.
func (c *Client) Version(ctx context.Context, server string) error {
	return c.ask(ctx, server, call{method: http.MethodGet, path: v1("version")}, nil)
}

// Profile asks a user's server for display name and avatar.
func (c *Client) Profile(ctx context.Context, user event.UserID) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.ask(ctx, user.Server(), call{method: http.MethodGet, path: v1("query", "profile"), query: url.Values{"user_id": {string(user)}}}, &out)
	return out, toldAbout("profile of "+string(user), err)
}

// ResolveAlias asks an alias's server for its room and for servers in it.
func (c *Client) ResolveAlias(ctx context.Context, alias string) (event.RoomID, []string, error) {
	_, server, ok := strings.Cut(alias, ":")
	if !ok {
		return "", nil, &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "that is no room alias"}
	}
	var out struct {
		Room    event.RoomID `json:"room_id"`
		Servers []string     `json:"servers"`
	}
	err := c.ask(ctx, server, call{method: http.MethodGet, path: v1("query", "directory"), query: url.Values{"room_alias": {alias}}}, &out)
	if err != nil {
		return "", nil, toldAbout("room alias "+alias, err)
	}
	if !strings.HasPrefix(string(out.Room), "!") {
		return "", nil, &room.Error{Code: "M_NOT_FOUND", Status: 404, Text: "the alias's server knows no room for it"}
	}
	return out.Room, out.Servers, nil
}

// QueryKeys asks for the device keys of a server's users; req is the federation request body.
func (c *Client) QueryKeys(ctx context.Context, server string, req json.RawMessage) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.ask(ctx, server, call{method: http.MethodPost, path: v1("user", "keys", "query"), body: req, limit: maxEvents}, &out)
	return out, toldAbout("device keys", err)
}

// ClaimKeys claims one-time keys of a server's users; req is the federation request body.
func (c *Client) ClaimKeys(ctx context.Context, server string, req json.RawMessage) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.ask(ctx, server, call{method: http.MethodPost, path: v1("user", "keys", "claim"), body: req, limit: maxEvents, once: true}, &out)
	return out, toldAbout("one-time keys", err)
}

// UserDevices asks for all devices of a user, with the stream id that device list updates refer to.
func (c *Client) UserDevices(ctx context.Context, user event.UserID) (json.RawMessage, error) {
	var out json.RawMessage
	err := c.ask(ctx, user.Server(), call{method: http.MethodGet, path: v1("user", "devices", string(user)), limit: maxEvents}, &out)
	return out, err
}

// PublicRooms asks for a server's room directory; req is the client's request body (nil: all).
func (c *Client) PublicRooms(ctx context.Context, server string, req json.RawMessage) (json.RawMessage, error) {
	q := call{method: http.MethodPost, path: v1("publicRooms"), body: req}
	if req == nil {
		q.method, q.body = http.MethodGet, nil
	}
	var out json.RawMessage
	err := c.ask(ctx, server, q, &out)
	return out, toldAbout("public rooms of "+server, err)
}
