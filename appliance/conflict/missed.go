// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/store"
)

// Missed is an invite for a user of this box that had to be refused while the box was away. Its event is in no room; all texts are of strangers.
type Missed struct {
	User, By event.UserID
	Room     event.RoomID
	Name     string // of the room, as the invite told it
	At       time.Time
}

// Missed tells the user, unless they are in the room, or invited, by now, or do not want to hear of who invited them. It returns when the letter is written down.
func (c *Conflicts) Missed(ctx context.Context, m Missed) error {
	err := c.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		row, err := tx.Account(m.User)
		if row == nil || row.Deactivated || err != nil {
			return err
		}
		now, err := tx.MembershipOf(m.Room, m.User)
		if now.Membership == "join" || now.Membership == "invite" || err != nil {
			return err
		}
		raw, err := tx.AccountData(m.User, "", "m.ignored_user_list")
		if err != nil {
			return err
		}
		var ignored struct {
			Users map[event.UserID]json.RawMessage `json:"ignored_users"`
		}
		if raw != nil && json.Unmarshal(raw, &ignored) == nil && ignored.Users[m.By] != nil {
			return nil
		}
		return herald.Owe(tx, m.User, m.words())
	})
	if err != nil {
		return fmt.Errorf("tell %s of an invite: %w", m.User, err)
	}
	c.c.Told()
	return nil
}

func (m Missed) words() words {
	at, by, name := when(m.At), who(m.By), herald.OneLine(m.Name, 120)
	de, en := "den Raum „"+name+"“", "the room “"+name+"”"
	if name == "" {
		de, en = "einen Raum", "a room"
	}
	return say(fmt.Sprintf("%s wollte Sie am %s in %s einladen. Da war diese Box für andere nicht erreichbar, und die Einladung kam nicht zustande. Schreiben Sie %s, wenn Sie dazukommen möchten, und bitten Sie um eine neue.", by, at.De, de, by),
		fmt.Sprintf("%s wanted to invite you to %s on %s. This box was out of others' reach then, and nothing came of the invite. If you would like to join, write to %s and ask for a new one.", by, en, at.En, by))
}
