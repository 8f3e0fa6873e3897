// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// template is the answer of make_join, make_leave and make_knock.
type template struct {
	Event   json.RawMessage `json:"event"`
	Version string          `json:"room_version"`
}

// Join lets a local user join a room through one of the servers, in the order given. The state and its auth chain are
// verified, and what cannot be verified is left out, before the room is adopted.
// https://spec.matrix.org/v1.16/server-server-api/#joining-rooms
func (c *Client) Join(ctx context.Context, id string, user event.UserID, servers []string, reason string, content json.RawMessage) (event.RoomID, error) {
	return c.through(id, servers, "join", func(server string) error {
		return c.joinThrough(ctx, server, event.RoomID(id), user, reason, content)
	})
}

// through tries servers in turn; the refusal that says most is what the client hears.
func (c *Client) through(id string, servers []string, what string, try func(server string) error) (event.RoomID, error) {
	var told error
	seen := map[string]bool{c.c.Local.Server: true}
	for _, server := range servers {
		if seen[server] || !event.ValidServerName(server) {
			continue
		}
		seen[server] = true
		err := try(server)
		if err == nil {
			return event.RoomID(id), nil
		}
		c.log.Info(what+" failed", "server", server, "room", id, "err", err)
		if told == nil || final(err) && !final(told) {
			told = err
		}
	}
	if told == nil {
		return "", &room.Error{Code: "M_NOT_FOUND", Status: http.StatusNotFound, Text: "no server is known through which the room could be reached"}
	}
	return "", toldAbout(what, told)
}

func (c *Client) joinThrough(ctx context.Context, server string, id event.RoomID, user event.UserID, reason string, content json.RawMessage) error {
	v, pdu, err := c.fromTemplate(ctx, server, "make_join", id, user, "join", reason, content)
	if err != nil {
		return err
	}
	return c.arrive(ctx, server, id, v, pdu)
}

// arrivalNote is the short part of the answer to a join.
type arrivalNote struct {
	signed  json.RawMessage // our join, with more signatures
	omitted bool
	servers []string
	create  *event.PDU
	state   []event.ID
}

// arrive sends a signed join and takes in the state that comes back. In a room where we have nobody yet the members may come later.
func (c *Client) arrive(ctx context.Context, server string, id event.RoomID, v *event.Version, pdu *event.PDU) error {
	omit := "true"
	if at, err := c.c.Rooms.Standing(ctx, id, c.c.Local.Server); err == nil && at.Resident {
		omit = "false" // what lacks of two joins would be too much to keep apart
	}
	var out arrivalNote
	q := call{method: http.MethodPut, path: v2("send_join", string(id), string(pdu.ID)), query: url.Values{"omit_members": {omit}},
		body: json.RawMessage(pdu.JSON()), limit: maxJoin, patient: true}
	if c.longer(server, q) > 0 {
		q.query.Set("omit_members", "false") // nobody could be asked for them
		omit = "false"
	}
	answer, err := c.askLong(ctx, server, q, []string{"state", "auth_chain"}, []string{"event", "members_omitted", "servers_in_room"},
		func(key string, n int, raw json.RawMessage) error {
			if n < 0 {
				return nil
			}
			return out.note(v, id, key, raw)
		})
	if err != nil {
		return err
	}
	if len(out.signed) > 0 && string(out.signed) != "null" { // when the server vouches for a restricted join
		signed, err := event.Parse(v, out.signed)
		if err != nil {
			return fmt.Errorf("read our own join: %w", err)
		}
		if signed.ID != pdu.ID {
			return fmt.Errorf("%s gave back another join than ours", server)
		}
		if signed.CheckHash() == nil {
			pdu = signed
		}
	}
	if err := c.VerifyPDU(ctx, pdu); err != nil {
		return err
	}
	if err := c.checkCreation(ctx, server, v, id, out.create); err != nil {
		return err
	}
	l := c.learner(server, id, v, out.create)
	if err := l.learn(ctx, answer, "auth_chain", "state"); err != nil {
		return err
	}
	a := room.Arrival{Version: v, Join: pdu, From: room.Source{Kind: "federation", Server: server}, Partial: out.omitted && omit == "true", Servers: out.servers}
	for _, s := range out.state {
		if l.isHere(s) {
			a.State = append(a.State, s)
		}
	}
	if err := c.c.Rooms.Arrive(ctx, a); err != nil {
		return fmt.Errorf("adopt room: %w", err)
	}
	if a.Partial {
		c.lacking.tell(id)
		soon, enough := context.WithTimeout(ctx, wholeAtOnce)
		defer enough()
		_ = c.c.Rooms.AwaitWhole(soon, id) // or they become known behind
	}
	return nil
}

// wholeAtOnce is how long a join waits for the members, although the user can talk already: those of an ordinary room are known by then, and nobody ever meets it
// without.
const wholeAtOnce = time.Second

// maxServers bounds the servers that are believed to be in a room because another one says so.
const maxServers = 20_000

// note takes a part of the answer.
func (t *arrivalNote) note(v *event.Version, id event.RoomID, key string, raw json.RawMessage) error {
	switch key {
	case "event":
		t.signed = bytes.Clone(raw)
	case "members_omitted":
		return json.Unmarshal(raw, &t.omitted)
	case "servers_in_room":
		err := json.Unmarshal(raw, &t.servers)
		t.servers = t.servers[:min(len(t.servers), maxServers)]
		return err
	case "state":
		p, err := event.Parse(v, bytes.Clone(raw))
		if err != nil || p.RoomID != id {
			return nil // it is left out, and said so, when it is to be stored
		}
		t.state = append(t.state, event.ID(strings.Clone(string(p.ID)))) // and not all the texts of the event
		if p.Is("m.room.create", "") && t.create == nil {
			t.create = p
		}
	}
	return nil
}

// checkCreation verifies the creation of a room that is joined, and that it fits the version.
func (c *Client) checkCreation(ctx context.Context, server string, v *event.Version, id event.RoomID, p *event.PDU) error {
	if p == nil {
		return fmt.Errorf("the state of %s has no creation", id)
	}
	if _, err := c.checked(ctx, server, p); err != nil {
		return fmt.Errorf("the state of %s has no verified creation: %w", id, err)
	}
	var content struct {
		Version *string `json:"room_version"`
	}
	if err := json.Unmarshal(p.Content, &content); err != nil {
		return errors.New("the room's creation cannot be read")
	}
	if content.Version == nil && v.ID != "1" || content.Version != nil && *content.Version != v.ID {
		return errors.New("the room's creation names another version")
	}
	return nil
}

// fromTemplate gets the template of a membership event, checks that it is what was asked for, and signs it.
func (c *Client) fromTemplate(ctx context.Context, server, how string, id event.RoomID, user event.UserID, membership, reason string, content json.RawMessage) (*event.Version, *event.PDU, error) {
	q := url.Values{}
	if how != "make_leave" {
		for _, known := range event.Known() {
			if v, ok := event.Lookup(known); ok && !v.Readable {
				q.Add("ver", known)
			}
		}
	}
	var t template
	if err := c.ask(ctx, server, call{method: http.MethodGet, path: v1(how, string(id), string(user)), query: q}, &t); err != nil {
		return nil, nil, err
	}
	if t.Version == "" {
		t.Version = "1" // as the specification has it for old servers
	}
	v, ok := event.Lookup(t.Version)
	if !ok || v.Readable {
		return nil, nil, &room.Error{Code: "M_INCOMPATIBLE_ROOM_VERSION", Status: http.StatusBadRequest, Text: "rooms of version " + t.Version + " are not spoken here", RoomVersion: t.Version}
	}
	raw, err := fillTemplate(t.Event, id, user, membership, reason, content, millis(c.now()))
	if err != nil {
		return nil, nil, fmt.Errorf("%s of %s: %w", how, server, err)
	}
	pdu, err := event.FromTemplate(v, raw, c.c.Local.Server, c.c.Local.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("%s of %s: %w", how, server, err)
	}
	if pdu.RoomID != id {
		return nil, nil, fmt.Errorf("%s of %s: another room", how, server)
	}
	return v, pdu, nil
}

// fillTemplate puts our content into a template. Another server must not make us sign anything but the membership we asked for.
func fillTemplate(raw json.RawMessage, id event.RoomID, user event.UserID, membership, reason string, content json.RawMessage, ts int64) ([]byte, error) {
	var e map[string]json.RawMessage
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, errors.New("the template is no object")
	}
	var head struct {
		Type     string       `json:"type"`
		Room     event.RoomID `json:"room_id"`
		Sender   event.UserID `json:"sender"`
		StateKey event.UserID `json:"state_key"`
		Content  struct {
			Membership string `json:"membership"`
			Via        string `json:"join_authorised_via_users_server"`
		} `json:"content"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, errors.New("the template has a strange form")
	}
	if head.Type != "m.room.member" || head.Room != id || head.Sender != user || head.StateKey != user || head.Content.Membership != membership {
		return nil, errors.New("the template is for something else")
	}
	c := map[string]json.RawMessage{}
	if len(content) > 0 {
		if err := json.Unmarshal(content, &c); err != nil {
			return nil, fmt.Errorf("read content: %w", err)
		}
	}
	delete(c, "join_authorised_via_users_server")
	c["membership"] = quoted(membership)
	if reason != "" {
		c["reason"] = quoted(reason)
	}
	if head.Content.Via != "" && membership == "join" {
		c["join_authorised_via_users_server"] = quoted(head.Content.Via)
	}
	var err error
	if e["content"], err = json.Marshal(c); err != nil {
		return nil, err
	}
	if e["origin_server_ts"], err = json.Marshal(ts); err != nil {
		return nil, err
	}
	for _, k := range []string{"unsigned", "signatures", "hashes", "event_id", "origin"} {
		delete(e, k)
	}
	return json.Marshal(e)
}

func quoted(s string) json.RawMessage {
	raw, _ := json.Marshal(s) // strings always can
	return raw
}

// verifyMany verifies events in parallel. What has a bad signature, or one of a server whose key cannot be had, is left out; the latter is named in later.
func (c *Client) verifyMany(ctx context.Context, server string, pdus []*event.PDU) (good map[event.ID]*event.PDU, later []event.ID, err error) {
	const workers = 8
	good = make(map[event.ID]*event.PDU, len(pdus))
	var mu sync.Mutex
	var wg sync.WaitGroup
	next := make(chan *event.PDU)
	for range workers {
		wg.Go(func() { // waited for below
			for p := range next {
				ready, err := c.checked(ctx, server, p)
				if err != nil {
					c.log.Info("event left out", "room", p.RoomID, "event", p.ID, "err", err)
					if errors.Is(err, ErrKeyUnavailable) {
						mu.Lock()
						later = append(later, p.ID)
						mu.Unlock()
					}
					continue
				}
				mu.Lock()
				good[p.ID] = ready
				mu.Unlock()
			}
		})
	}
	for _, p := range pdus {
		next <- p
	}
	close(next)
	wg.Wait()
	return good, later, ctx.Err()
}
