// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// Leave refuses a remote invite, takes a knock back, or leaves a room of which we hold no state, through the server that
// invited or any server of the room.
// https://spec.matrix.org/v1.16/server-server-api/#leaving-rooms-rejecting-invites
func (c *Client) Leave(ctx context.Context, id event.RoomID, user event.UserID, reason string) error {
	servers, err := c.c.Rooms.Servers(ctx, id)
	if err != nil && !isRefusal(err) {
		return err
	}
	inviter, err := c.inviter(ctx, id, user)
	if err != nil {
		return err
	}
	if inviter != "" {
		servers = append([]string{inviter.Server()}, servers...)
	}
	_, err = c.through(string(id), servers, "leave", func(server string) error {
		_, pdu, err := c.fromTemplate(ctx, server, "make_leave", id, user, "leave", reason, nil)
		if err != nil {
			return err
		}
		q := call{method: http.MethodPut, path: v2("send_leave", string(id), string(pdu.ID)), body: json.RawMessage(pdu.JSON())}
		if err := c.ask(ctx, server, q, nil); err != nil {
			return err
		}
		return c.c.Rooms.LeaveUnknown(ctx, id, user, pdu)
	})
	return err
}

// inviter gives who made a user's membership what it is: the sender of an invite.
func (c *Client) inviter(ctx context.Context, id event.RoomID, user event.UserID) (by event.UserID, err error) {
	db := c.c.Ring.c.DB
	if db == nil {
		return "", nil
	}
	err = db.View(ctx, func(r *store.Read) error {
		m, err := r.MembershipOf(id, user)
		if err != nil || m.Event == 0 {
			return err
		}
		e, err := r.EventByNID(m.Event)
		if e != nil {
			by = e.Sender
		}
		return err
	})
	return by, err
}

func isRefusal(err error) bool {
	var known *room.Error
	return errors.As(err, &known)
}

// Knock asks to be let in, through one of the servers.
// https://spec.matrix.org/v1.16/server-server-api/#knocking-upon-a-room
func (c *Client) Knock(ctx context.Context, id string, user event.UserID, servers []string, reason string, content json.RawMessage) (event.RoomID, error) {
	return c.through(id, servers, "knock", func(server string) error {
		v, pdu, err := c.fromTemplate(ctx, server, "make_knock", event.RoomID(id), user, "knock", reason, content)
		if err != nil {
			return err
		}
		var out struct {
			State []json.RawMessage `json:"knock_room_state"`
		}
		q := call{method: http.MethodPut, path: v1("send_knock", id, string(pdu.ID)), body: json.RawMessage(pdu.JSON())}
		if err := c.ask(ctx, server, q, &out); err != nil {
			return err
		}
		told, err := c.described(ctx, server, v, event.RoomID(id), out.State)
		if err != nil { // it has taken the knock; that it does not say upon which room is no reason to forget it
			c.log.Info("a room is not described as it should be", "server", server, "room", id, "err", err)
		}
		return c.c.Rooms.AcceptKnock(ctx, v, pdu, told)
	})
}

// Invite has the invitee's server co-sign an invite, and gives the event with its signature.
// https://spec.matrix.org/v1.16/server-server-api/#inviting-to-a-room
func (c *Client) Invite(ctx context.Context, v *event.Version, invite *event.PDU) (*event.PDU, error) {
	if invite.StateKey == nil {
		return nil, errors.New("invite without a state key")
	}
	server := event.UserID(*invite.StateKey).Server()
	defer c.inviting.begin(invite.RoomID, event.UserID(*invite.StateKey))()
	invite, err := c.Vet(ctx, invite)
	if err != nil {
		return nil, err
	}
	stripped, err := c.strippedState(ctx, invite.RoomID, invite.Sender)
	if err != nil {
		return nil, err
	}
	body := map[string]any{"event": json.RawMessage(invite.JSON()), "invite_room_state": stripped, "room_version": v.ID}
	var out struct {
		Event json.RawMessage `json:"event"`
	}
	q := call{method: http.MethodPut, path: v2("invite", string(invite.RoomID), string(invite.ID)), body: body}
	if err := c.ask(ctx, server, q, &out); err != nil {
		var no *Refusal
		switch {
		case !errors.As(err, &no):
		case no.Code == "M_INCOMPATIBLE_ROOM_VERSION":
			// To a client who invites it has another name. https://spec.matrix.org/v1.16/client-server-api/#post_matrixclientv3roomsroomidinvite
			return nil, &room.Error{Code: "M_UNSUPPORTED_ROOM_VERSION", Status: http.StatusBadRequest, Text: "the server of the invited user does not speak rooms of version " + v.ID}
		case no.Code == "M_MISSING_PARAM" || no.Code == "M_INVALID_PARAM": // our fault or theirs, not the client's
			err = fmt.Errorf("the invite was not understood: %w", &Refusal{Server: no.Server, Status: http.StatusBadGateway})
		}
		return nil, toldAbout("invite", err)
	}
	signed, err := event.Parse(v, out.Event)
	if err != nil {
		return nil, toldAbout("invite", fmt.Errorf("read signed invite: %w", err))
	}
	if signed.ID != invite.ID || signed.CheckHash() != nil {
		return nil, toldAbout("invite", errors.New("the signed invite is another event"))
	}
	for _, s := range signed.Signatures() {
		if s.Server != server {
			continue
		}
		pub, err := c.c.Ring.Key(ctx, server, s.KeyID, invite.TS)
		if err == nil && signed.VerifySignature(server, s.KeyID, pub) == nil {
			return signed, nil
		}
	}
	return nil, toldAbout("invite", fmt.Errorf("%s did not sign the invite", server))
}

// Backfill asks the room's other servers for history before what we hold, and places it there.
func (c *Client) Backfill(ctx context.Context, id event.RoomID, limit int) error {
	v, err := c.c.Rooms.Version(ctx, id)
	if err != nil {
		return err
	}
	gaps, err := c.c.Rooms.Gaps(ctx, id)
	if err != nil || len(gaps) == 0 {
		return err
	}
	servers, err := c.c.Rooms.Servers(ctx, id)
	if err != nil {
		return err
	}
	var last error
	for _, server := range servers {
		if server == c.c.Local.Server {
			continue
		}
		most := min(max(limit, 1), askAtOnce)
		pdus, err := c.History(ctx, server, id, v, gaps, most)
		if final(err) { // not for rooms of this version, with some servers; the gap between nothing and what we have is the same
			var heads []event.ID
			if heads, err = c.gapHeads(ctx, id); err == nil {
				pdus, err = c.Missing(ctx, server, id, v, []event.ID{}, heads, most)
			}
		}
		if err != nil || len(pdus) == 0 {
			last = err
			continue
		}
		if last = c.placeHistory(ctx, server, id, v, pdus); last == nil {
			return nil
		}
	}
	if last != nil {
		return toldAbout("history", last)
	}
	return nil
}

// gapHeads gives the events here whose ancestors lack.
func (c *Client) gapHeads(ctx context.Context, id event.RoomID) (heads []event.ID, err error) {
	db := c.c.Ring.c.DB
	if db == nil {
		return nil, errors.New("no database to look into")
	}
	err = db.View(ctx, func(r *store.Read) (err error) {
		heads, err = r.GapHeads(id)
		return err
	})
	return heads, err
}

// placeHistory accepts old events, oldest first. Authorising events that are unknown are asked for.
func (c *Client) placeHistory(ctx context.Context, server string, id event.RoomID, v *event.Version, pdus []*event.PDU) error {
	in := NewIntake(IntakeConfig{Local: c.c.Local, Rooms: c.c.Rooms, Client: c, Log: c.log}) // for its questions; it stages nothing here
	old := make(map[event.ID]*waiting, len(pdus))
	for _, p := range pdus {
		old[p.ID] = &waiting{pdu: p, origin: server}
	}
	placed := 0
	var last error
	for _, w := range causal(old) {
		p, err := c.checked(ctx, server, w.pdu)
		if err != nil {
			last = err
			continue
		}
		i := room.Incoming{PDU: p, From: room.Source{Kind: "federation", Server: server}, Backfill: true}
		res, err := c.c.Rooms.Accept(ctx, i)
		if err == nil && res.Outcome == room.Missing {
			if err = in.authority(ctx, server, id, v, res.Missing); err == nil {
				res, err = c.c.Rooms.Accept(ctx, i)
			}
		}
		if err != nil {
			last = err
			continue
		}
		if res.Outcome == room.Accepted || res.Outcome == room.SoftFailed {
			placed++
		}
	}
	if placed == 0 {
		return last
	}
	return nil
}

// ourMember says whether a joined member of the room lives on this server, and who.
func (c *Client) ourMember(ctx context.Context, id event.RoomID) (event.UserID, error) {
	ours, err := c.c.Rooms.JoinedFrom(ctx, id, c.c.Local.Server)
	if len(ours) == 0 || err != nil {
		return "", err
	}
	return ours[0], nil
}
