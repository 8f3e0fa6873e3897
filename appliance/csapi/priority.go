// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/rules"
)

// A message that asks for more than its sender may have is sent as the most that they may have, and says so: the box writes what was granted into the content
// before it signs it, and into its answer. An error would be worse: at three in the morning the message is what counts, and clients that do not know of priorities
// would show "not sent". Only a word that is no priority at all is refused, since it is a mistake of a program.

// granting counts what the users of this box have been granted.
type granting struct {
	mu    sync.Mutex
	meter priority.Meter
}

// grant gives the content as it is to be sent, and the priority that the sender is told, "" where they have what they asked for.
func (h *Handler) grant(ctx context.Context, id event.RoomID, sender event.UserID, typ string, content json.RawMessage) (json.RawMessage, string, error) {
	if !bytes.Contains(content, []byte(priority.Type)) || typ == "m.room.redaction" {
		return content, "", nil
	}
	asked, said, err := priority.Asked(content)
	if err != nil {
		return nil, "", invalid(err.Error())
	}
	if !said || asked >= priority.Routine {
		return content, "", nil
	}
	policy := priority.Unset()
	e, err := h.Rooms.StateEvent(ctx, id, priority.Type, "")
	if err != nil {
		return nil, "", err
	}
	if e != nil {
		policy, _ = priority.Parse(e.Content) // what is not sensible in it does not hold
	}
	state, err := h.Rooms.LawState(ctx, id)
	if err != nil {
		return nil, "", err
	}
	h.granting.mu.Lock()
	granted := h.granting.meter.Take(h.Now(), string(id), string(sender), &policy, asked, rules.UserLevel(state, sender))
	h.granting.mu.Unlock()
	if granted == asked {
		return content, "", nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(content, &fields); err != nil {
		return nil, "", badJSON("the content must be an object")
	}
	fields[priority.Type] = json.RawMessage(`"` + granted.String() + `"`)
	content, err = json.Marshal(fields)
	if err != nil {
		return nil, "", fmt.Errorf("write content: %w", err)
	}
	return content, granted.String(), nil
}

// grantedBody is the answer to who got less than they asked for.
type grantedBody struct {
	ID       event.ID `json:"event_id"`
	Priority string   `json:"org.hallig.priority"`
}

// checkPolicy refuses a policy that would not hold as it is written.
func checkPolicy(content json.RawMessage) error {
	if _, err := priority.Parse(content); err != nil {
		return invalid(err.Error())
	}
	return nil
}
