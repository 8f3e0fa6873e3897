// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// part is one member of an answer that is written while it is read: a room's state may be longer than what a small box can hold.
type part struct {
	name string
	// write writes the value. An error of the reading side is told apart from one of the connection by nobody: either way the answer is torn.
	write func(context.Context, *bufio.Writer) error
}

// streamWait is how long a listener may take for one buffer of an answer.
const (
	streamWait   = time.Minute
	streamBuffer = 32 << 10
)

// value is a part that is at hand.
func value(name string, v any) part {
	return part{name, func(_ context.Context, w *bufio.Writer) error {
		raw, err := json.Marshal(v)
		if err == nil {
			_, err = w.Write(raw)
		}
		return err
	}}
}

// events are the events of a telling, as an array.
func events(t *room.Telling, nids []int64) func(context.Context, *bufio.Writer) error {
	return func(ctx context.Context, w *bufio.Writer) error {
		return array(w, func(item func([]byte) error) error {
			return t.Each(ctx, nids, func(raw json.RawMessage) error { return item(raw) })
		})
	}
}

// ids are the ids of a telling's events, as an array.
func ids(t *room.Telling, nids []int64) func(context.Context, *bufio.Writer) error {
	return func(ctx context.Context, w *bufio.Writer) error {
		return array(w, func(item func([]byte) error) error {
			return t.EachID(ctx, nids, func(id event.ID) error { return item(quoted(string(id))) })
		})
	}
}

func array(w *bufio.Writer, each func(item func([]byte) error) error) error {
	sep := byte('[')
	err := each(func(raw []byte) error {
		if err := w.WriteByte(sep); err != nil {
			return err
		}
		sep = ','
		_, err := w.Write(raw)
		return err
	})
	if err == nil && sep == '[' {
		err = w.WriteByte('[')
	}
	if err == nil {
		err = w.WriteByte(']')
	}
	return err
}

// stream answers with an object whose members are written one after the other. What fails on the way tears the connection: the answer has no length and no
// end, so that nobody takes a part of a state for the whole.
func (h *Handler) stream(ctx context.Context, r *request, open, end string, parts []part) (any, error) {
	r.w.Header().Set("Content-Type", "application/json")
	r.w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return written{}, nil
	}
	slow := &patient{w: r.w, c: http.NewResponseController(r.w)}
	w := bufio.NewWriterSize(slow, streamBuffer)
	err := func() error {
		for _, p := range parts {
			_, _ = w.WriteString(open) // a failed writer says so to the next one
			_, _ = w.Write(quoted(p.name))
			_ = w.WriteByte(':')
			if err := p.write(ctx, w); err != nil {
				return err
			}
			open = ","
		}
		_, _ = w.WriteString(end)
		return w.Flush()
	}()
	_ = slow.c.SetWriteDeadline(time.Time{})
	if err != nil {
		h.log.Info("answer not sent whole", "path", r.URL.Path, "origin", r.origin, "err", err)
		panic(http.ErrAbortHandler) // the status has gone out; a torn connection tells that it is not whole
	}
	return written{}, nil
}

// patient writes with a deadline for each piece. Not every transport has deadlines.
type patient struct {
	w http.ResponseWriter
	c *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.c.SetWriteDeadline(time.Now().Add(streamWait))
	return p.w.Write(b)
}
