// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"net/http"
	"runtime/debug"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// Archive answers questions about the graphs of rooms, and for files, in place of servers that are away, from copies, by the rules by which they would answer. It signs
// nothing, and asks nobody. Safe for concurrent use.
type Archive struct {
	h   *Handler
	mux *http.ServeMux
}

// NewArchive returns an archive. Of c, DB, Rooms, Holds, Intake, Trouble, Media, Log and Now count; Intake takes what Take is given. What is left out is not told of: with Media alone it
// gives files.
func NewArchive(c HandlerConfig) *Archive {
	h, _ := NewHandler(c).(*Handler)
	a := &Archive{h: h, mux: http.NewServeMux()}
	for path, m := range h.routes() {
		what, _, _ := strings.Cut(strings.TrimPrefix(path, "/_matrix/federation/v1/"), "/")
		switch what {
		case "backfill", "get_missing_events", "state", "state_ids", "event", "event_auth":
			if c.Rooms != nil {
				a.mux.Handle(path, archived(m))
			}
		case "media":
			if c.Media != nil {
				a.mux.Handle(path, archived(m))
			}
		}
	}
	return a
}

// Question is a request whose signature has been verified, and whose body has been read.
type Question struct {
	Local  string // the server that it is for
	Origin string // the server that asks
	Body   []byte
}

type questionKey struct{}

// Answer answers a question about a room, or for a file. What it cannot tell is 404, never a status that central servers hold against a name. false: it is no such question, and nothing
// was written.
func (a *Archive) Answer(w http.ResponseWriter, r *http.Request, q Question) bool {
	next, pattern := a.mux.Handler(r)
	m, ok := next.(archived)
	if !ok || pattern == "" || m.endpoint(r.Method) == nil {
		return false
	}
	defer func() {
		if p := recover(); p != nil {
			if p == http.ErrAbortHandler {
				panic(p)
			}
			a.h.log.Error("panic in an answer from the archive", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			answer(w, http.StatusNotFound, errorBody{"M_NOT_FOUND", errArchive})
		}
	}()
	a.mux.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), questionKey{}, q)))
	return true
}

const errArchive = "this server is not in reach at the moment, and its hub could not look up what was asked for"

// archived is one path of an archive.
type archived methods

func (m archived) endpoint(method string) endpoint {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	return m.by[method]
}

func (m archived) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	asked, _ := r.Context().Value(questionKey{}).(Question)
	q := &request{Request: r, local: Local{Server: asked.Local}, origin: asked.Origin, body: asked.Body, w: w}
	out, err := m.endpoint(r.Method)(r.Context(), q)
	if err == nil {
		if _, done := out.(written); !done {
			answer(w, http.StatusOK, out)
		}
		return
	}
	var known *room.Error
	if !errors.As(err, &known) || known.Status/100 != 4 || known.Status == http.StatusUnauthorized || known.Status == http.StatusTooManyRequests {
		if r.Context().Err() == nil {
			m.h.log.Warn("not answered from the archive", "path", r.URL.Path, "origin", asked.Origin, "err", err)
		}
		err = notFound(errArchive)
	}
	m.h.fail(w, q, err)
}

// Admits says whether a room's access list lets a server take part; *room.Error M_NOT_FOUND when the room is not here.
// https://spec.matrix.org/v1.16/server-server-api/#server-access-control-lists-acls
func (a *Archive) Admits(ctx context.Context, id event.RoomID, server string) (bool, error) {
	st, err := a.h.c.Rooms.Standing(ctx, id, server)
	if err != nil || !st.ACL {
		return err == nil, err
	}
	err = a.h.checkACL(ctx, id, server)
	var refused *room.Error
	if errors.As(err, &refused) {
		return false, nil
	}
	return err == nil, err
}

// Take takes in the events of a verified transaction that passes by, from origin to the server local. What belongs to no room here is passed over. ErrBusy: too much of
// that origin waits for its ancestors.
func (a *Archive) Take(ctx context.Context, local, origin string, body []byte) error {
	t, err := parseTransaction(body)
	if err != nil || len(t.PDUs) == 0 {
		return err
	}
	if full, err := a.h.c.Intake.Full(ctx, origin); full || err != nil {
		return errors.Join(err, ErrBusy)
	}
	_, err = a.h.takePDUs(ctx, Local{Server: local}, origin, t.PDUs)
	return err
}
