// SPDX-License-Identifier: EUPL-1.2

package matrixclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

type events struct {
	Events []Event `json:"events"`
}

// Timeline is the timeline part of a room in /sync.
type Timeline struct {
	Events    []Event `json:"events"`
	Limited   bool    `json:"limited"`
	PrevBatch string  `json:"prev_batch"`
}

// JoinedRoom is one entry of rooms.join (and of rooms.leave, which has no more than timeline and state).
type JoinedRoom struct {
	Timeline    Timeline        `json:"timeline"`
	State       events          `json:"state"`
	Ephemeral   events          `json:"ephemeral"`
	AccountData events          `json:"account_data"`
	Summary     json.RawMessage `json:"summary"`
	Unread      struct {
		Notifications int `json:"notification_count"`
		Highlights    int `json:"highlight_count"`
	} `json:"unread_notifications"`
}

// InvitedRoom is one entry of rooms.invite.
type InvitedRoom struct {
	State events `json:"invite_state"`
}

// KnockedRoom is one entry of rooms.knock.
type KnockedRoom struct {
	State events `json:"knock_state"`
}

// SyncResponse is the answer of /sync.
type SyncResponse struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join   map[string]JoinedRoom  `json:"join"`
		Invite map[string]InvitedRoom `json:"invite"`
		Knock  map[string]KnockedRoom `json:"knock"`
		Leave  map[string]JoinedRoom  `json:"leave"`
	} `json:"rooms"`
	ToDevice    events `json:"to_device"`
	AccountData events `json:"account_data"`
	Presence    events `json:"presence"`
	DeviceLists struct {
		Changed []string `json:"changed"`
		Left    []string `json:"left"`
	} `json:"device_lists"`
	OneTimeKeys map[string]int `json:"device_one_time_keys_count"`
}

// SyncOptions are the query of /sync.
type SyncOptions struct {
	Since     string
	Timeout   time.Duration
	Filter    string // a filter id or a filter as JSON
	FullState bool
}

// Sync asks once.
func (c *Client) Sync(ctx context.Context, o SyncOptions) (*SyncResponse, error) {
	q := url.Values{"timeout": {strconv.FormatInt(o.Timeout.Milliseconds(), 10)}}
	if o.Since != "" {
		q.Set("since", o.Since)
	}
	if o.Filter != "" {
		q.Set("filter", o.Filter)
	}
	if o.FullState {
		q.Set("full_state", "true")
	}
	out := new(SyncResponse)
	if err := c.Do(ctx, http.MethodGet, Path("sync")+"?"+q.Encode(), nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

// Follow syncs from since on, hands each answer to f and goes on from its next_batch until f says done, ctx ends or
// the server refuses. It returns the token to go on from.
func (c *Client) Follow(ctx context.Context, since string, f func(*SyncResponse) (done bool)) (string, error) {
	o := SyncOptions{Since: since}
	for {
		r, err := c.Sync(ctx, o)
		if err != nil {
			return o.Since, err
		}
		o.Since = r.NextBatch
		o.Timeout = 30 * time.Second // the first answer comes at once, later ones wait for news
		if f(r) {
			return o.Since, nil
		}
	}
}

// WaitEvent follows /sync until a timeline event of room satisfies ok.
func (c *Client) WaitEvent(ctx context.Context, since, room string, ok func(Event) bool) (Event, string, error) {
	var found Event
	next, err := c.Follow(ctx, since, func(r *SyncResponse) bool {
		for _, e := range r.Rooms.Join[room].Timeline.Events {
			if ok(e) {
				found = e
				return true
			}
		}
		return false
	})
	return found, next, err
}
