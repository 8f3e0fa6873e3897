// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"cmp"
	"encoding/json"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// nameOf is what people call a room: its name, or else its id.
func nameOf(r *store.Read, id event.RoomID) (string, error) {
	e, err := r.CurrentStateEvent(id, "m.room.name", "")
	if e == nil || err != nil {
		return string(id), err
	}
	var c struct {
		Content struct {
			Name string `json:"name"`
		} `json:"content"`
	}
	if json.Unmarshal(e.JSON, &c) != nil {
		return string(id), nil // a name that is no text is none
	}
	return cmp.Or(c.Content.Name, string(id)), nil
}
