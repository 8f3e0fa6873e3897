// SPDX-License-Identifier: EUPL-1.2

package store

import "hallig/appliance/event"

// WaitingInvite is an invite that the other server could not be asked to sign yet.
type WaitingInvite struct {
	Room         event.RoomID
	User, Sender event.UserID
	Content      []byte
	Since        int64 // ms; of the first wish
}

// KeepInvite keeps an invite until it is handed on; one to the same user and room takes the place of the one before, but not its age.
func (tx *Tx) KeepInvite(w WaitingInvite) error {
	return tx.exec(`INSERT INTO invite_wait (room, user, sender, content, since) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (room, user) DO UPDATE SET sender = excluded.sender, content = excluded.content`, w.Room, w.User, w.Sender, w.Content, w.Since)
}

// DropInvite forgets an invite: it was handed on, is refused, or is not wanted any more.
func (tx *Tx) DropInvite(room event.RoomID, user event.UserID) error {
	return tx.exec(`DELETE FROM invite_wait WHERE room = ? AND user = ?`, room, user)
}

// WaitingInvite gives the invite of a user to a room that waits; nil when there is none.
func (r *Read) WaitingInvite(room event.RoomID, user event.UserID) (*WaitingInvite, error) {
	w := WaitingInvite{Room: room, User: user}
	found, err := r.one(`SELECT sender, content, since FROM invite_wait WHERE room = ? AND user = ?`, args(room, user), &w.Sender, &w.Content, &w.Since)
	if !found || err != nil {
		return nil, err
	}
	return &w, nil
}

// WaitingInvites gives up to limit invites that wait, after a room and user, in the order of those.
func (r *Read) WaitingInvites(room event.RoomID, user event.UserID, limit int) ([]WaitingInvite, error) {
	var out []WaitingInvite
	err := r.each(`SELECT room, user, sender, content, since FROM invite_wait WHERE (room, user) > (?, ?) ORDER BY room, user LIMIT ?`,
		args(room, user, limit), func(row *Row) error {
			var w WaitingInvite
			if err := row.Scan(&w.Room, &w.User, &w.Sender, &w.Content, &w.Since); err != nil {
				return err
			}
			out = append(out, w)
			return nil
		})
	return out, err
}
