// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"encoding/json"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file notes, in the transaction of an event, from where on a server is owed a room.

// Appended belongs into room.Options.OnAppend: in the transaction of an event it notes from where on a server that comes into a
// room is owed our events, and that a server is owed the very event that turns its invited user away.
func (s *Sender) Appended(tx *store.Tx, a room.AppendInfo) error {
	if s.c.Intake != nil {
		if err := s.c.Intake.Appended(tx, a); err != nil {
			return err
		}
	}
	p := a.PDU
	if a.Pos <= 0 || a.Outcome != room.Accepted || p.Type != "m.room.member" || p.StateKey == nil {
		return nil
	}
	server := event.UserID(*p.StateKey).Server()
	if server == s.c.Local.Server && a.From.Kind == "federation" && a.From.Server != "" && !s.c.IsBox(a.From.Server) {
		return tx.AddFederationCursor(a.From.Server, p.RoomID, a.Pos) // our user came in through it: it has this event
	}
	if server == s.c.Local.Server || server == "" || s.c.IsBox(server) {
		return nil
	}
	var content struct {
		Membership string `json:"membership"`
	}
	if json.Unmarshal(p.Content, &content) != nil {
		return nil
	}
	switch content.Membership {
	case "join":
		pos, err := s.owedFrom(tx, server, p)
		if err != nil {
			return err
		}
		return tx.AddFederationCursor(server, p.RoomID, pos)
	case "leave", "ban":
		return tx.AddFederationCursor(server, p.RoomID, a.Pos-1)
	}
	return nil
}

// owedFrom gives the position from which on a server that comes into a room is owed our events: after the newest one that its join builds on. What we wrote
// beside the join is not part of the state that it was given, whichever of the two came first here.
func (s *Sender) owedFrom(tx *store.Tx, server string, join *event.PDU) (int64, error) {
	cursors, err := tx.FederationCursors(server)
	if err != nil {
		return 0, err
	}
	for _, c := range cursors {
		if c.Room == join.RoomID {
			return c.Pos, nil // it was there already, or is owed something from before
		}
	}
	const most = 2000 // events to look at; more is repeated to the server in the end, which hurts nobody
	own := int64(0)
	seen := map[event.ID]bool{}
	for todo := slices.Clone(join.Prev); len(todo) > 0 && len(seen) < most; todo = todo[1:] {
		if seen[todo[0]] {
			continue
		}
		seen[todo[0]] = true
		row, err := tx.Event(todo[0])
		if err != nil {
			return 0, err
		}
		switch {
		case row == nil || row.Is(store.Outlier):
		case row.Is(store.Local) && row.Pos > 0:
			own = max(own, row.Pos) // it builds on all that we had written before it
		default:
			todo = append(todo, prevOf(row.JSON)...)
		}
	}
	return own, nil
}
