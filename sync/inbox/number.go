// SPDX-License-Identifier: EUPL-1.2

package inbox

import (
	"encoding/json"
	"errors"
	"fmt"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// KindPDU is the kind of the EDU that carries an event to a box that is not in its room: it lost its invitation there.
const KindPDU = "hallig.pdu"

// DirectPDU is the content of such an EDU.
type DirectPDU struct {
	Version string          `json:"room_version"`
	PDU     json.RawMessage `json:"pdu"`
}

// Number gives the function that composition hands to room.Options.OnAppend: in the transaction that stores an event it
// gives the event its place in this box's log, or notes the place that the giver named, and keeps account of which
// server was in which room when. server is this box's server name.
func Number(server string) func(*store.Tx, room.AppendInfo) error {
	return func(tx *store.Tx, e room.AppendInfo) error {
		if e.Outlier || e.Backfill {
			return nil
		}
		if err := number(tx, e); err != nil {
			return err
		}
		if err := resolvedOut(tx, e, server); err != nil {
			return fmt.Errorf("note who is out of %s: %w", e.Room, err)
		}
		if e.Outcome != room.Accepted || e.PDU.Type != "m.room.member" || e.PDU.StateKey == nil {
			return nil
		}
		if err := stay(tx, e, server); err != nil {
			return fmt.Errorf("note who is in %s: %w", e.Room, err)
		}
		return nil
	}
}

func number(tx *store.Tx, e room.AppendInfo) error {
	switch {
	case e.Log != nil:
		mark := tx.MarkEntry
		if e.Log.ByOwner {
			mark = tx.OwnerMark
		}
		if _, err := mark(e.Room, e.Log.Box, uint32(e.Log.Epoch), e.Log.Seq, 0, e.NID); err != nil && !errors.Is(err, store.ErrManyLogs) { // it gets a place below, then
			return err
		}
		if e.Outcome == room.Rejected {
			return nil
		}
		return tx.SecondPlace(e.Room, e.Log.Box, uint32(e.Log.Epoch), e.Log.Seq, e.NID)
	case e.Outcome == room.Rejected || e.From.Kind == "link":
		return nil // an ancestor that a box gave on request stands in somebody's log already
	}
	if e.Again { // its giver may have named its place when it was still refused
		if n, err := tx.Places(e.Room, e.NID); n > 0 || err != nil {
			return err
		}
	}
	_, err := tx.NumberEvent(e.Room, e.NID)
	return err
}

// resolvedOut closes the stays of servers that state resolution has put out of a room, without an event that says so: what came up to
// the event that did it is still theirs, or they would never learn that they are out, and go on talking to themselves.
func resolvedOut(tx *store.Tx, e room.AppendInfo, self string) error {
	if e.Outcome != room.Accepted || len(e.Servers) == 0 {
		return nil
	}
	if len(e.PDU.Prev) == 1 {
		if row, err := tx.Room(e.Room); row == nil || !row.TipsListed() || err != nil {
			return err // the event is the only tip: nothing was resolved
		}
	}
	for _, server := range e.Servers {
		if server == self || e.PDU.Type == "m.room.member" && e.PDU.StateKey != nil && event.UserID(*e.PDU.StateKey).Server() == server {
			continue
		}
		n, err := tx.JoinedOf(e.Room, server)
		if err != nil {
			return err
		}
		if n == 0 {
			if err := tx.CloseSpan(server, e.Room, e.NID); err != nil {
				return err
			}
		}
	}
	return nil
}

// stay opens or closes a server's stay in a room.
func stay(tx *store.Tx, e room.AppendInfo, self string) error {
	user := event.UserID(*e.PDU.StateKey)
	server := user.Server()
	if server == self || server == "" {
		return nil
	}
	was, err := membershipBefore(tx, e.NID, user)
	if err != nil {
		return err
	}
	now := membershipOf(e.PDU.Content)
	if now == "join" && was == "join" { // a new name or picture
		return nil
	}
	joined, err := tx.JoinedOf(e.Room, server)
	if err != nil {
		return err
	}
	switch {
	case now == "join" && was != "join" && joined == 1:
		base, err := baseOf(tx, e)
		if err != nil {
			return err
		}
		return tx.OpenSpan(server, e.Room, base)
	case now == "join" && was != "join" && joined == 0:
		// The join lost at once against a branch that its box does not know: it believes to be in, and must learn what put it out.
		base, err := baseOf(tx, e)
		if err != nil {
			return err
		}
		if err := tx.OpenSpan(server, e.Room, base); err != nil {
			return err
		}
		return tx.CloseSpan(server, e.Room, e.NID)
	case now != "join" && was == "join" && joined == 0:
		return tx.CloseSpan(server, e.Room, e.NID)
	case (now == "leave" || now == "ban") && joined == 0 && e.PDU.Sender.Server() != server:
		return direct(tx, e, server)
	}
	return nil
}

// direct queues the event for a box that has nobody in the room: its user's invitation was taken back.
func direct(tx *store.Tx, e room.AppendInfo, server string) error {
	peers, err := tx.Peers()
	if err != nil {
		return err
	}
	for _, p := range peers {
		if p.Server != server {
			continue
		}
		body, err := json.Marshal(DirectPDU{Version: e.PDU.Version.ID, PDU: e.PDU.JSON()})
		if err != nil {
			return err
		}
		return tx.EnqueueEDU(server, KindPDU, "", body)
	}
	return nil
}

func membershipOf(content json.RawMessage) string {
	var c struct {
		Membership string `json:"membership"`
	}
	if json.Unmarshal(content, &c) != nil {
		return ""
	}
	return c.Membership
}

func membershipBefore(tx *store.Tx, nid int64, user event.UserID) (string, error) {
	row, err := tx.EventByNID(nid)
	if row == nil || err != nil {
		return "", err
	}
	old, err := tx.StateEventAt(row.Before, "m.room.member", string(user))
	if old == nil || err != nil {
		return "", err
	}
	p, err := event.ParseTrusted(versionOf(tx, old.Room), old.ID, old.JSON)
	if err != nil {
		return "", err
	}
	return membershipOf(p.Content), nil
}

func versionOf(tx *store.Tx, id event.RoomID) *event.Version {
	if r, err := tx.Room(id); err == nil && r != nil {
		if v, ok := event.Lookup(r.Version); ok {
			return v
		}
	}
	return event.Default()
}

// baseWindow is how many events are looked at in one go.
const baseWindow = 500

// baseOf finds the event number up to which everything is an ancestor of a join: the joining server has the state there and
// is owed what comes after. Looking back ends at a window that holds ancestors only: beyond it lies what both sides of
// any fork have in common.
func baseOf(tx *store.Tx, e room.AppendInfo) (int64, error) {
	ancestors := make(map[event.ID]bool)
	for _, id := range e.PDU.Prev {
		ancestors[id] = true
	}
	base, to := e.NID-1, e.Pos-1
	for to > 0 {
		rows, err := tx.RoomEventsBetween(e.Room, 0, to, baseWindow, true)
		if err != nil || len(rows) == 0 {
			return base, err
		}
		forked := false
		for _, row := range rows {
			if !ancestors[row.ID] {
				base, forked = min(base, row.NID-1), true
				continue
			}
			p, err := event.ParseTrusted(e.PDU.Version, row.ID, row.JSON)
			if err != nil {
				return 0, err
			}
			for _, id := range p.Prev {
				ancestors[id] = true
			}
		}
		if !forked {
			return base, nil
		}
		to = rows[len(rows)-1].Pos - 1
	}
	return base, nil
}
