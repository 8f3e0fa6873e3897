// SPDX-License-Identifier: EUPL-1.2

package matrixclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
)

// Event is a client event.
type Event struct {
	ID       string          `json:"event_id"`
	RoomID   string          `json:"room_id"`
	Sender   string          `json:"sender"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key"`
	TS       int64           `json:"origin_server_ts"`
	Content  json.RawMessage `json:"content"`
	Unsigned json.RawMessage `json:"unsigned"`
	Redacts  string          `json:"redacts"`
}

// Body returns content.body, "" when there is none.
func (e Event) Body() string { return e.field("body") }

// Membership returns content.membership, "" when there is none.
func (e Event) Membership() string { return e.field("membership") }

func (e Event) field(name string) string {
	var m map[string]json.RawMessage
	if json.Unmarshal(e.Content, &m) != nil {
		return ""
	}
	var s string
	if json.Unmarshal(m[name], &s) != nil {
		return ""
	}
	return s
}

// CreateRoom is the request of the same name; the zero value makes a private room.
type CreateRoom struct {
	Version         string           `json:"room_version,omitempty"`
	Preset          string           `json:"preset,omitempty"` // private_chat, public_chat, trusted_private_chat
	Visibility      string           `json:"visibility,omitempty"`
	Name            string           `json:"name,omitempty"`
	Topic           string           `json:"topic,omitempty"`
	Alias           string           `json:"room_alias_name,omitempty"`
	Invite          []string         `json:"invite,omitempty"`
	IsDirect        bool             `json:"is_direct,omitempty"`
	InitialState    []map[string]any `json:"initial_state,omitempty"`
	CreationContent map[string]any   `json:"creation_content,omitempty"`
	PowerOverride   map[string]any   `json:"power_level_content_override,omitempty"`
}

// CreateRoom makes a room and returns its id.
func (c *Client) CreateRoom(ctx context.Context, req CreateRoom) (string, error) {
	return c.roomID(ctx, Path("createRoom"), req)
}

func (c *Client) roomID(ctx context.Context, path string, in any) (string, error) {
	var out struct {
		RoomID string `json:"room_id"`
	}
	err := c.Do(ctx, http.MethodPost, path, in, &out)
	return out.RoomID, err
}

// Join joins by room id or alias; via names servers that know the room.
func (c *Client) Join(ctx context.Context, roomOrAlias string, via ...string) (string, error) {
	return c.roomID(ctx, Path("join", roomOrAlias)+viaQuery(via), nil)
}

// Knock asks to be let in.
func (c *Client) Knock(ctx context.Context, roomOrAlias string, via ...string) (string, error) {
	return c.roomID(ctx, Path("knock", roomOrAlias)+viaQuery(via), nil)
}

// viaQuery names the servers in both forms: the old one is what most servers still read.
func viaQuery(via []string) string {
	if len(via) == 0 {
		return ""
	}
	q := url.Values{}
	for _, v := range via {
		q.Add("server_name", v)
		q.Add("via", v)
	}
	return "?" + q.Encode()
}

func (c *Client) membership(ctx context.Context, room, act, user, reason string) error {
	body := map[string]string{}
	if user != "" {
		body["user_id"] = user
	}
	if reason != "" {
		body["reason"] = reason
	}
	return c.Do(ctx, http.MethodPost, Path("rooms", room, act), body, nil)
}

// Invite asks user into room.
func (c *Client) Invite(ctx context.Context, room, user string) error {
	return c.membership(ctx, room, "invite", user, "")
}

// Leave leaves room or refuses an invite.
func (c *Client) Leave(ctx context.Context, room string) error {
	return c.membership(ctx, room, "leave", "", "")
}

// Kick removes user from room.
func (c *Client) Kick(ctx context.Context, room, user, reason string) error {
	return c.membership(ctx, room, "kick", user, reason)
}

// Ban removes user and keeps them out.
func (c *Client) Ban(ctx context.Context, room, user, reason string) error {
	return c.membership(ctx, room, "ban", user, reason)
}

// Unban lifts a ban.
func (c *Client) Unban(ctx context.Context, room, user string) error {
	return c.membership(ctx, room, "unban", user, "")
}

// Forget removes a left room from the user's view.
func (c *Client) Forget(ctx context.Context, room string) error {
	return c.membership(ctx, room, "forget", "", "")
}

type eventID struct {
	ID string `json:"event_id"`
}

// Send sends a message event under a transaction id of the caller ("" = a fresh one).
func (c *Client) Send(ctx context.Context, room, typ, txn string, content any) (string, error) {
	if txn == "" {
		txn = c.NextTxn()
	}
	var out eventID
	err := c.Do(ctx, http.MethodPut, Path("rooms", room, "send", typ, txn), content, &out)
	return out.ID, err
}

// SendText sends an m.room.message of msgtype m.text.
func (c *Client) SendText(ctx context.Context, room, text string) (string, error) {
	return c.Send(ctx, room, "m.room.message", "", map[string]string{"msgtype": "m.text", "body": text})
}

// Redact removes the content of an event.
func (c *Client) Redact(ctx context.Context, room, id, reason string) (string, error) {
	body := map[string]string{}
	if reason != "" {
		body["reason"] = reason
	}
	var out eventID
	err := c.Do(ctx, http.MethodPut, Path("rooms", room, "redact", id, c.NextTxn()), body, &out)
	return out.ID, err
}

// SetState sends a state event.
func (c *Client) SetState(ctx context.Context, room, typ, key string, content any) (string, error) {
	var out eventID
	err := c.Do(ctx, http.MethodPut, Path("rooms", room, "state", typ, key), content, &out)
	return out.ID, err
}

// State reads the whole current state.
func (c *Client) State(ctx context.Context, room string) ([]Event, error) {
	var out []Event
	err := c.Do(ctx, http.MethodGet, Path("rooms", room, "state"), nil, &out)
	return out, err
}

// StateEvent reads the content of one state event into out.
func (c *Client) StateEvent(ctx context.Context, room, typ, key string, out any) error {
	return c.Do(ctx, http.MethodGet, Path("rooms", room, "state", typ, key), nil, out)
}

// Event reads one event.
func (c *Client) Event(ctx context.Context, room, id string) (Event, error) {
	var out Event
	err := c.Do(ctx, http.MethodGet, Path("rooms", room, "event", id), nil, &out)
	return out, err
}

// Members lists the member events.
func (c *Client) Members(ctx context.Context, room string) ([]Event, error) {
	var out struct {
		Chunk []Event `json:"chunk"`
	}
	err := c.Do(ctx, http.MethodGet, Path("rooms", room, "members"), nil, &out)
	return out.Chunk, err
}

// Messages is one page of history.
type Messages struct {
	Chunk []Event `json:"chunk"`
	State []Event `json:"state"`
	Start string  `json:"start"`
	End   string  `json:"end"` // "" at the end of the history
}

// Messages reads a page; dir is "b" or "f", from may be "" for the newest or oldest end.
func (c *Client) Messages(ctx context.Context, room, from, dir string, limit int) (*Messages, error) {
	q := url.Values{"dir": {dir}, "limit": {strconv.Itoa(limit)}}
	if from != "" {
		q.Set("from", from)
	}
	out := new(Messages)
	err := c.Do(ctx, http.MethodGet, Path("rooms", room, "messages")+"?"+q.Encode(), nil, out)
	return out, err
}

// AllMessages pages back through the whole history and returns it newest first.
func (c *Client) AllMessages(ctx context.Context, room string) ([]Event, error) {
	var all []Event
	from := ""
	for {
		m, err := c.Messages(ctx, room, from, "b", 100)
		if err != nil {
			return all, err
		}
		all = append(all, m.Chunk...)
		if m.End == "" || m.End == from {
			return all, nil
		}
		from = m.End
	}
}
