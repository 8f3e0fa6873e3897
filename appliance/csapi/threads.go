// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"hallig/appliance/event"
	"hallig/appliance/feed"
)

// maxThreadPages bounds how far back threads are looked for: pages of 1,000 events.
const maxThreadPages = 10

// thread is what one walk back through a room learns of a thread.
type thread struct {
	root   event.ID
	latest json.RawMessage
	count  int
	mine   bool // the asking user has written in it
}

// threads lists a room's threads, the one with the newest reply first. A token is the number of threads already told.
// The history is walked for each answer; a box's rooms are small, and the walk is bounded.
// https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv1roomsroomidthreads
func (h *Handler) threads(ctx context.Context, c *call) (any, error) {
	id, err := roomID(c.params[0])
	if err != nil {
		return nil, err
	}
	limit, err := c.number("limit", 20)
	if err != nil {
		return nil, err
	}
	from, err := c.number("from", 0)
	if err != nil {
		return nil, err
	}
	include := c.query("include")
	if include != "" && include != "all" && include != "participated" {
		return nil, invalid("include must be all or participated")
	}
	all, err := h.findThreads(ctx, c, id)
	if err != nil {
		return nil, err
	}
	chunk := []json.RawMessage{}
	next := ""
	at := 0
	for _, t := range all {
		root, err := h.Feed.Event(ctx, c.session.User, c.session.Device, id, t.root)
		if err != nil {
			continue // the user may not see where it began, or it has not come here
		}
		if sender(root) == c.session.User {
			t.mine = true
		}
		if include == "participated" && !t.mine {
			continue
		}
		if at++; at <= from {
			continue
		}
		if len(chunk) == max(1, min(limit, 100)) {
			next = strconv.Itoa(at - 1)
			break
		}
		dressed, err := t.dress(root)
		if err != nil {
			return nil, err
		}
		chunk = append(chunk, dressed)
	}
	out := map[string]any{"chunk": chunk}
	if next != "" {
		out["next_batch"] = next
	}
	return out, nil
}

func sender(raw json.RawMessage) event.UserID {
	var e struct {
		Sender event.UserID `json:"sender"`
	}
	_ = json.Unmarshal(raw, &e) // made by feed
	return e.Sender
}

// findThreads walks back through what the user may see.
func (h *Handler) findThreads(ctx context.Context, c *call, id event.RoomID) ([]*thread, error) {
	var found []*thread
	req := feed.MessagesRequest{Dir: "b", Limit: 1000}
	for range maxThreadPages {
		page, err := h.Feed.Messages(ctx, c.session.User, c.session.Device, id, req)
		if err != nil {
			return nil, err
		}
		for _, raw := range page.Chunk {
			var e struct {
				Sender  event.UserID `json:"sender"`
				Content struct {
					Relates struct {
						Type   string   `json:"rel_type"`
						Parent event.ID `json:"event_id"`
					} `json:"m.relates_to"`
				} `json:"content"`
			}
			if json.Unmarshal(raw, &e) != nil || e.Content.Relates.Type != "m.thread" || e.Content.Relates.Parent == "" {
				continue
			}
			i := slices.IndexFunc(found, func(t *thread) bool { return t.root == e.Content.Relates.Parent })
			if i < 0 { // newest first: this is its latest reply
				i = len(found)
				found = append(found, &thread{root: e.Content.Relates.Parent, latest: raw})
			}
			found[i].count++
			found[i].mine = found[i].mine || e.Sender == c.session.User
		}
		if page.End == "" || page.End == req.From || page.NeedBackfill {
			break
		}
		req.From = page.End
	}
	return found, nil
}

// dress puts the thread's summary into its root event.
// https://spec.matrix.org/v1.13/client-server-api/#server-side-aggregation-of-mthread-relationships
func (t *thread) dress(root json.RawMessage) (json.RawMessage, error) {
	var e, unsigned, relations map[string]json.RawMessage
	if err := json.Unmarshal(root, &e); err != nil {
		return nil, err
	}
	if json.Unmarshal(e["unsigned"], &unsigned) != nil || unsigned == nil {
		unsigned = map[string]json.RawMessage{}
	}
	if json.Unmarshal(unsigned["m.relations"], &relations) != nil || relations == nil {
		relations = map[string]json.RawMessage{}
	}
	var err error
	if relations["m.thread"], err = json.Marshal(map[string]any{"latest_event": t.latest, "count": t.count, "current_user_participated": t.mine}); err != nil {
		return nil, err
	}
	if unsigned["m.relations"], err = json.Marshal(relations); err != nil {
		return nil, err
	}
	if e["unsigned"], err = json.Marshal(unsigned); err != nil {
		return nil, err
	}
	return json.Marshal(e)
}
