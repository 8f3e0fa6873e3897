// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// refuse makes what a client is told. https://spec.matrix.org/v1.13/client-server-api/#standard-error-response
func refuse(status int, code, text string) error {
	return &room.Error{Code: code, Status: status, Text: text}
}

func badJSON(text string) error { return refuse(http.StatusBadRequest, "M_BAD_JSON", text) }
func invalid(text string) error { return refuse(http.StatusBadRequest, "M_INVALID_PARAM", text) }
func missing(param string) error {
	return refuse(http.StatusBadRequest, "M_MISSING_PARAM", param+" is missing")
}
func forbidden(text string) error { return refuse(http.StatusForbidden, "M_FORBIDDEN", text) }
func notFound(text string) error  { return refuse(http.StatusNotFound, "M_NOT_FOUND", text) }

// told gives what a client may know of an error; false for faults of ours.
func told(err error) (code, text string, ok bool) {
	var e *room.Error
	if errors.As(err, &e) {
		return e.Code, e.Text, true
	}
	return "", "", false
}

// limited is a refusal that says when to come again.
type limited struct {
	after time.Duration
}

func (l *limited) Error() string { return "too many requests" }

// answer is a refusal with a body of its own (User-Interactive Authentication, soft logout).
type answer struct {
	status int
	body   any
}

func (a *answer) Error() string { return "answered with status " + strconv.Itoa(a.status) }

// errorBody is what goes over the wire.
type errorBody struct {
	Code       string `json:"errcode"`
	Text       string `json:"error"`
	RetryAfter int64  `json:"retry_after_ms,omitempty"`

	RoomVersion string `json:"room_version,omitempty"` // with M_INCOMPATIBLE_ROOM_VERSION
}

// fail answers err. What is no refusal is a fault of ours: the client gets an id, the log the cause.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, route string, err error) {
	var refusal *room.Error
	var lim *limited
	var full *store.Full
	var wrong account.WrongBackupVersion
	var ans *answer
	switch {
	case errors.As(err, &ans):
		reply(w, ans.status, ans.body)
	case errors.As(err, &lim):
		secs := int64((lim.after + time.Second - 1) / time.Second)
		w.Header().Set("Retry-After", strconv.FormatInt(max(secs, 1), 10))
		reply(w, http.StatusTooManyRequests, errorBody{Code: "M_LIMIT_EXCEEDED", Text: "too many requests", RetryAfter: max(lim.after.Milliseconds(), 1)})
	case errors.As(err, &wrong):
		reply(w, http.StatusForbidden, map[string]string{"errcode": "M_WRONG_ROOM_KEYS_VERSION", "error": wrong.Error(), "current_version": wrong.Current})
	case errors.As(err, &full):
		h.log.Warn("disk is full", "free", full.Free)
		reply(w, http.StatusForbidden, errorBody{Code: "M_RESOURCE_LIMIT_EXCEEDED", Text: "the disk of this box is full"})
	case errors.As(err, &refusal):
		status := refusal.Status
		if status == 0 {
			status = http.StatusBadRequest
		}
		reply(w, status, errorBody{Code: refusal.Code, Text: refusal.Text, RoomVersion: refusal.RoomVersion})
	case r.Context().Err() != nil || errors.Is(err, context.Canceled):
		// The client has gone or the box stops; whoever still listens may come again.
		reply(w, http.StatusServiceUnavailable, errorBody{Code: "M_UNKNOWN", Text: "the server is stopping or the request was given up"})
	default:
		id := shortID()
		h.log.Error("request failed", "id", id, "method", r.Method, "route", route, "err", err)
		reply(w, http.StatusInternalServerError, errorBody{Code: "M_UNKNOWN", Text: "internal error " + id})
	}
}

// reply writes v as JSON. v may be json.RawMessage, which is sent as it is.
func reply(w http.ResponseWriter, status int, v any) {
	var b []byte
	switch x := v.(type) {
	case nil:
		b = []byte("{}")
	case json.RawMessage:
		b = x
	default:
		var err error
		if b, err = json.Marshal(v); err != nil {
			status, b = http.StatusInternalServerError, []byte(`{"errcode":"M_UNKNOWN","error":"answer cannot be encoded"}`)
		}
	}
	head := w.Header()
	head.Set("Content-Type", "application/json")
	head.Set("Content-Length", strconv.Itoa(len(b)))
	head.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(b) // a client that has gone asks again
}
