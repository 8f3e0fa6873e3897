// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"

	"hallig/appliance/event"
)

// Users is what federation needs to know and tell about the users of our names. Refusals are *room.Error. Where neither a user nor an alias says
// which of our names is asked, local does.
type Users interface {
	// Profile answers /query/profile; field may be empty.
	Profile(ctx context.Context, user event.UserID, field string) (json.RawMessage, error)
	// Devices answers /user/devices.
	Devices(ctx context.Context, user event.UserID) (json.RawMessage, error)
	// QueryKeys and ClaimKeys answer the requests of those names for local users.
	QueryKeys(ctx context.Context, req json.RawMessage) (json.RawMessage, error)
	ClaimKeys(ctx context.Context, req json.RawMessage) (json.RawMessage, error)
	// EDU takes in the content of an EDU from a server. What is durable by nature (to-device, device lists) is durable when it
	// returns nil; an error means that the transaction must come again.
	EDU(ctx context.Context, origin, kind string, content json.RawMessage) error
	// Alias answers /query/directory: an unknown alias is M_NOT_FOUND.
	Alias(ctx context.Context, alias string) (event.RoomID, []string, error)
	// PublicRooms answers /publicRooms of one of our names.
	PublicRooms(ctx context.Context, local string, req json.RawMessage) (json.RawMessage, error)
	// Hierarchy answers /hierarchy for a server: the room, its children, and those the server may not see. M_NOT_FOUND: it may not see the room.
	Hierarchy(ctx context.Context, id event.RoomID, server string, suggested bool) (json.RawMessage, error)
	// OpenID gives the user of one of our names behind an OpenID token.
	OpenID(ctx context.Context, local, token string) (event.UserID, error)
}

// Media opens the files of one of our names for other servers. Refusals are *room.Error.
type Media interface {
	Open(ctx context.Context, local, id string) (body io.ReadCloser, contentType, filename string, size int64, err error)
	Thumbnail(ctx context.Context, local, id string, width, height int, method string) (body io.ReadCloser, contentType string, size int64, err error)
}

func (h *Handler) local(r *request, user string) (event.UserID, error) {
	u, err := event.ParseUserID(user)
	if err != nil {
		return "", refuse(http.StatusBadRequest, "M_INVALID_PARAM", "that is no user id")
	}
	if u.Server() != r.local.Server {
		return "", notFound("the user does not live on this server")
	}
	if h.c.Users == nil {
		return "", notFound("there is no such user")
	}
	return u, nil
}

func (h *Handler) profile(ctx context.Context, r *request) (any, error) {
	u, err := h.local(r, r.query("user_id"))
	if err != nil {
		return nil, err
	}
	return h.c.Users.Profile(ctx, u, r.query("field"))
}

// otherQuery answers kinds of queries that nobody has defined.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1queryquerytype
func (h *Handler) otherQuery(_ context.Context, r *request) (any, error) {
	return nil, refuse(http.StatusNotFound, "M_UNRECOGNIZED", "queries of this type are not answered here")
}

func (h *Handler) directory(ctx context.Context, r *request) (any, error) {
	alias := r.query("room_alias")
	_, server, ok := strings.Cut(alias, ":")
	if !ok || !strings.HasPrefix(alias, "#") {
		return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "that is no room alias")
	}
	if server != r.local.Server || h.c.Users == nil {
		return nil, notFound("the alias does not belong to this server")
	}
	room, servers, err := h.c.Users.Alias(ctx, alias)
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": room, "servers": servers}, nil
}

func (h *Handler) userDevices(ctx context.Context, r *request) (any, error) {
	u, err := h.local(r, r.PathValue("user"))
	if err != nil {
		return nil, err
	}
	return h.c.Users.Devices(ctx, u)
}

func (h *Handler) keysQuery(ctx context.Context, r *request) (any, error) {
	return h.keys(r, "device_keys", func(req json.RawMessage) (json.RawMessage, error) { return h.c.Users.QueryKeys(ctx, req) })
}

func (h *Handler) keysClaim(ctx context.Context, r *request) (any, error) {
	return h.keys(r, "one_time_keys", func(req json.RawMessage) (json.RawMessage, error) { return h.c.Users.ClaimKeys(ctx, req) })
}

// keys checks that a request names users of this server only.
func (h *Handler) keys(r *request, field string, ask func(json.RawMessage) (json.RawMessage, error)) (any, error) {
	var req map[string]json.RawMessage
	if err := r.decode(&req); err != nil {
		return nil, err
	}
	var users map[event.UserID]json.RawMessage
	if err := json.Unmarshal(req[field], &users); err != nil {
		return nil, badJSON(field + " is missing")
	}
	for u := range users {
		if u.Server() != r.local.Server {
			return nil, refuse(http.StatusBadRequest, "M_INVALID_PARAM", "not all users live on this server")
		}
	}
	if h.c.Users == nil {
		return map[string]any{field: map[string]any{}}, nil
	}
	return ask(r.body)
}

func (h *Handler) publicRooms(ctx context.Context, r *request) (any, error) {
	if h.c.Users == nil {
		return map[string]any{"chunk": []any{}, "total_room_count_estimate": 0}, nil
	}
	req := json.RawMessage(r.body)
	if r.Method == http.MethodGet {
		req = publicRoomsQuery(r.URL.Query())
	}
	return h.c.Users.PublicRooms(ctx, r.local.Server, req)
}

// publicRoomsQuery turns the GET form into the POST form.
// https://spec.matrix.org/v1.19/server-server-api/#get_matrixfederationv1publicrooms
func publicRoomsQuery(q url.Values) json.RawMessage {
	m := map[string]any{}
	if n := number(q, "limit", 0, 1000); n > 0 {
		m["limit"] = n
	}
	for _, name := range []string{"since", "third_party_instance_id"} {
		if s := q.Get(name); s != "" {
			m[name] = s
		}
	}
	if q.Get("include_all_networks") == "true" {
		m["include_all_networks"] = true
	}
	raw, _ := json.Marshal(m) // strings and numbers only
	return raw
}

func (h *Handler) openID(ctx context.Context, r *request) (any, error) {
	token := r.query("access_token")
	if token == "" || h.c.Users == nil {
		return nil, refuse(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "the token is not known")
	}
	u, err := h.c.Users.OpenID(ctx, r.local.Server, token)
	if err != nil {
		return nil, refuse(http.StatusUnauthorized, "M_UNKNOWN_TOKEN", "the token is not known")
	}
	return map[string]any{"sub": u}, nil
}

func (h *Handler) mediaDownload(ctx context.Context, r *request) (any, error) {
	if h.c.Media == nil {
		return nil, notFound("there is no such media")
	}
	body, typ, name, _, err := h.c.Media.Open(ctx, r.local.Server, r.PathValue("media"))
	if err != nil {
		return nil, err
	}
	return h.mediaAnswer(r, body, typ, name)
}

func (h *Handler) mediaThumbnail(ctx context.Context, r *request) (any, error) {
	if h.c.Media == nil {
		return nil, notFound("there is no such media")
	}
	q := r.URL.Query()
	body, typ, _, err := h.c.Media.Thumbnail(ctx, r.local.Server, r.PathValue("media"), number(q, "width", 96, 4096), number(q, "height", 96, 4096), q.Get("method"))
	if err != nil {
		return nil, err
	}
	return h.mediaAnswer(r, body, typ, "")
}

// mediaAnswer writes the two parts: empty metadata, then the file.
// https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1mediadownloadmediaid
func (h *Handler) mediaAnswer(r *request, body io.ReadCloser, typ, name string) (any, error) {
	defer body.Close()
	mw := multipart.NewWriter(r.w)
	r.w.Header().Set("Content-Type", "multipart/mixed; boundary="+mw.Boundary())
	r.w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return written{}, nil
	}
	part, err := mw.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
	if err == nil {
		_, err = part.Write([]byte("{}"))
	}
	if err == nil {
		head := textproto.MIMEHeader{"Content-Type": {typ}}
		disposition := "attachment"
		if name != "" {
			disposition = mime.FormatMediaType("attachment", map[string]string{"filename": name})
		}
		head.Set("Content-Disposition", disposition)
		part, err = mw.CreatePart(head)
	}
	if err == nil {
		_, err = io.Copy(part, body)
	}
	if err == nil {
		err = mw.Close()
	}
	if err != nil {
		h.log.Info("media not sent whole", "origin", r.origin, "err", err)
		panic(http.ErrAbortHandler) // the status has gone out; a torn connection tells that it is not whole
	}
	return written{}, nil
}
