// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"

	"hallig/appliance/health"
	"hallig/appliance/store"
	"hallig/sync/courier"
	"hallig/sync/hub/api"
)

// This file writes what is for the hub onto a stick.

// errStickFull says that not even what the box says of itself has room.
var errStickFull = fmt.Errorf("nothing for the hub has room on the stick: %w", syscall.ENOSPC)

// toHubStick is what a box has put on a stick for its hub.
type toHubStick struct {
	written bool
	letters int64
	left    int64 // letters that had no room
	late    int   // servers that were just being spoken to
}

// fillHubStick puts onto a stick what is for the hub. Without force only when the stick is one of the hub's.
func (b *Box) fillHubStick(ctx context.Context, place string, force bool) (out toHubStick, err error) {
	hub, paired := b.exchange.hub()
	if !paired {
		return out, nil
	}
	b.exchange.parts.hub.Lock()
	defer b.exchange.parts.hub.Unlock()
	done, err := b.writable(ctx, place)
	if err != nil {
		return out, err
	}
	defer done()
	d, err := courier.Open(place, force)
	if err != nil {
		if errors.Is(err, courier.ErrNoCourier) {
			err = nil
		}
		return out, err
	}
	defer d.Close()
	ours, _, err := b.hubMail(d)
	if err != nil || !ours && !force {
		return out, err
	}
	m, err := b.stickMemory(ctx)
	if err != nil {
		return out, err
	}
	epoch := b.hubEpoch(&m)
	if epoch != "" && !b.exchange.hubInReach() {
		free, err := d.Free()
		if err != nil {
			return out, err
		}
		packs, stop := context.WithTimeout(ctx, stickPacks)
		out.late, err = b.fed.sender.Pack(packs, epoch, min(stickLetters, free))
		stop()
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return out, err
		}
	}
	note, err := b.noteForHub(ctx, &m, epoch)
	if err != nil {
		return out, err
	}
	head, err := json.Marshal(note)
	if err != nil {
		return out, err
	}
	users, err := b.usersForHub(ctx, epoch)
	if err != nil {
		return out, err
	}
	m.Back = note.Back
	err = courier.Stow(d, b.stickSelf(), hub.ID, func(w io.Writer, room, after int64) (whole bool, err error) {
		m.Serial = courier.NextSerial(b.clock.Now().UnixMilli(), m.Serial, after)
		if err := b.keepStick(ctx, &m); err != nil { // before it is said: a number is used once
			return false, err
		}
		bag, err := courier.NewBagWriter(w, b.id.Box, hub.ID, m.Serial)
		if err == nil {
			err = bag.Part(head)
		}
		if err != nil {
			return false, err
		}
		out.letters, out.left = 0, 0
		err = b.packBag(ctx, bag, users, room, &out)
		return out.left == 0, err
	})
	out.written = err == nil
	return out, err
}

// hubEpoch names the hub's memory as the box has heard of it last, by whichever way.
func (b *Box) hubEpoch(m *stickMemory) string {
	h := &b.exchange.post
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answer != nil && h.answer.Time > m.At {
		return h.answer.Epoch
	}
	return m.Epoch
}

// noteForHub is what the box says to the hub.
func (b *Box) noteForHub(ctx context.Context, m *stickMemory, epoch string) (note api.BoxNote, err error) {
	c, err := b.report(ctx)
	if err != nil {
		return note, err
	}
	c.Proposal = nil // nobody answers it
	if note.Contact, err = json.Marshal(c); err != nil {
		return note, err
	}
	note.Epoch, note.Heard = epoch, m.Heard
	if epoch == "" {
		return note, nil
	}
	note.Dealt = *m.dealt(epoch)
	if epoch == m.Epoch {
		note.Given = m.Given
	}
	heeded, err := b.fed.sender.Heeded(ctx)
	if err == nil && heeded.Epoch == epoch {
		note.Heeded = &heeded
	}
	if err == nil {
		note.Out, note.Back, err = b.fed.sender.Out(ctx, epoch)
	}
	return note, err
}

// usersForHub is what the hub may answer about the box's users, as items.
func (b *Box) usersForHub(ctx context.Context, epoch string) (items [][]byte, err error) {
	if epoch == "" {
		return nil, nil
	}
	var rows []store.AccountRow
	err = b.db.View(ctx, func(r *store.Read) (err error) {
		rows, err = r.Accounts()
		return err
	})
	for _, row := range rows {
		if err != nil {
			break
		}
		if row.Deactivated {
			continue
		}
		var u api.User
		var raw []byte
		if u, err = b.deposit(ctx, row.User, epoch); err == nil {
			raw, err = json.Marshal(u)
		}
		if err == nil {
			raw, err = api.StickItem{User: string(row.User), Body: raw}.Append(nil)
			items = append(items, raw)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("collect what the hub may answer about users: %w", err)
	}
	return items, nil
}

// packBag writes the users and the letters into a bag, as far as there is room, and its end.
func (b *Box) packBag(ctx context.Context, bag *courier.BagWriter, users [][]byte, room int64, out *toHubStick) error {
	if bag.Size()+stickEnd > room {
		return errStickFull
	}
	var part []byte
	flush := func() error {
		if len(part) == 0 {
			return nil
		}
		err := bag.Part(part)
		part = nil
		return err
	}
	// add says whether an item has found room.
	add := func(item []byte) (bool, error) {
		if len(part)+len(item) > stickPart {
			if err := flush(); err != nil {
				return false, err
			}
		}
		size := int64(len(part) + len(item))
		if len(item) > courier.MaxPart || bag.Size()+size+size>>7+stickSealed+stickEnd > room {
			return false, nil
		}
		part = append(part, item...)
		return true, nil
	}
	var end api.BoxEnd
	for _, u := range users {
		if ok, err := add(u); err != nil {
			return err
		} else if ok {
			end.Users++
		}
	}
	err := b.fed.sender.Packed(ctx, func(raw []byte) error {
		item, err := api.StickItem{Letter: true, Body: raw}.Append(nil)
		if err != nil {
			return err
		}
		if end.Left == 0 { // what comes after one that has no room must not overtake it
			ok, err := add(item)
			if err != nil {
				return err
			}
			if ok {
				end.Letters++
				return nil
			}
		}
		end.Left++
		return nil
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	out.letters, out.left = end.Letters, end.Left
	raw, err := json.Marshal(end)
	if err != nil {
		return err
	}
	return bag.End(raw)
}

// hubSentence adds to a sentence what was done for the hub.
func hubSentence(s health.Sentence, in fromHubStick, out toHubStick) health.Sentence {
	add := func(when bool, de, en string) {
		if when {
			if !s.Empty() {
				s.DE, s.EN = s.DE+" ", s.EN+" "
			}
			s.DE, s.EN = s.DE+de, s.EN+en
		}
	}
	add(in.there && in.came > 0, fmt.Sprintf("Vom Hub übernommen: %d.", in.came), fmt.Sprintf("Taken from the hub: %d.", in.came))
	add(in.there && in.came == 0 && in.waiting == 0, "Vom Hub ist nichts Neues dabei.", "There is nothing new from the hub.")
	add(in.waiting > 0, fmt.Sprintf("%d Sendungen vom Hub können noch nicht übernommen werden; sie kommen mit dem nächsten Stick wieder.", in.waiting),
		fmt.Sprintf("%d transactions from the hub cannot be taken yet; they come again with the next stick.", in.waiting))
	for _, t := range in.troubles {
		add(true, t.DE, t.EN)
	}
	add(out.written, fmt.Sprintf("Briefe für den Hub auf dem Stick: %d. Den Stick zum Hub zurückbringen.", out.letters), fmt.Sprintf("Letters for the hub on the stick: %d. Take the stick back to the hub.", out.letters))
	add(out.left > 0, fmt.Sprintf("Für %d Briefe ist kein Platz; sie kommen auf den nächsten Stick.", out.left), fmt.Sprintf("There is no room for %d letters; they go onto the next stick.", out.left))
	return s
}
