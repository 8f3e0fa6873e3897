// SPDX-License-Identifier: EUPL-1.2

package outbox

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Over a way that allows open language only (amateur radio), rooms that are encrypted from end to end and messages between devices are not due:
// they wait, with everything else about them, until another way leads to the peer.

// SetOpen says whether the way to the peer allows open language only. It goes before the Rewind that a change of ways needs anyway.
func (f *Feed) SetOpen(open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open, f.sealed, f.letters = open, nil, false
}

// Withheld names the rooms of which something waits for another way, and says whether messages between devices do.
func (f *Feed) Withheld() (rooms []event.RoomID, letters bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.SortedFunc(maps.Keys(f.sealed), func(a, b event.RoomID) int { return cmp.Compare(a, b) }), f.letters
}

func (f *Feed) onlyOpen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open
}

// hold notes that something waits: a room, or "" for messages between devices.
func (f *Feed) hold(id event.RoomID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == "" {
		f.letters = true
		return
	}
	if f.sealed == nil {
		f.sealed = map[event.RoomID]bool{}
	}
	if len(f.sealed) < 1000 {
		f.sealed[id] = true
	}
}

// withheld says whether nothing of a room may go to the peer now.
func (f *Feed) withheld(r *store.Read, id event.RoomID) (bool, error) {
	if !f.onlyOpen() {
		return false, nil
	}
	sealed, err := Sealed(r, id)
	if sealed {
		f.hold(id)
	}
	return sealed, err
}

// Sealed says whether a room is encrypted from end to end.
func Sealed(r *store.Read, id event.RoomID) (bool, error) {
	e, err := r.CurrentStateEvent(id, "m.room.encryption", "")
	return e != nil, err
}

// readable says whether EDUs of a kind may go over open language: messages between devices carry secrets, or the making of them.
func readable(e store.EDU) bool {
	switch e.Kind {
	case "m.receipt", "m.typing", "m.presence", "m.device_list_update":
		return true
	case "m.direct_to_device":
		return false
	}
	return !bytes.Contains(e.Body, []byte(`"type":"m.room.encrypted"`))
}
