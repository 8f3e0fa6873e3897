// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"hallig/appliance/event"
)

// This file is about servers that no longer tell us of a room, because in their view we have nobody in it any more: all of our users there were put out
// while we did not hear of it.

// barred says whether a server refuses to tell us anything of a room.
func barred(err error) bool {
	var ref *Refusal
	return errors.As(err, &ref) && ref.Status == http.StatusForbidden
}

// putOut accepts an event by which one of our users is put out and whose ancestors nobody gives us, for we are out: what came between it and what we have is no longer for us
// to know. It stands by the state that is in force here and by what it names itself, so whoever had no power to put our user out by either is refused.
func (in *Intake) putOut(ctx context.Context, l *lane, k lack) (bool, error) {
	p := k.child.pdu
	var c struct {
		Membership string `json:"membership"`
	}
	if p.Type != "m.room.member" || p.StateKey == nil || *p.StateKey == string(p.Sender) || event.UserID(*p.StateKey).Server() != in.c.Local.Server ||
		json.Unmarshal(p.Content, &c) != nil || c.Membership != "leave" && c.Membership != "ban" {
		return false, nil
	}
	state, err := in.c.Rooms.State(ctx, l.room)
	if err != nil {
		return false, err
	}
	ids := make([]event.ID, 0, len(state))
	for _, id := range state {
		ids = append(ids, id)
	}
	return in.acceptOne(ctx, k.child, ids)
}

// barred tells that a server which is in a room with us will not say whether it has what our users wrote there.
func (d *dest) barred(ctx context.Context, id event.RoomID, f *ledger, err error) error {
	if d.s.c.Barred == nil || f.gone || !barred(err) {
		return nil
	}
	return d.s.c.Barred(ctx, d.name, id, f.window[0].Pos, f.window[len(f.window)-1].Pos)
}
