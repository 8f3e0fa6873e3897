// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"

	"hallig/appliance/event"
)

// TypeNotice is the ephemeral event that shows a room's provisional notices: flash texts that came over a narrow link ahead of their signature. It has all of
// them, each time anything changed; an empty list takes them back. What becomes an event leaves the list in the moment in which the event is in the timeline.
//
//	{"type": "org.hallig.notice", "content": {"notices": [{
//	    "sender": "@anna:box1", "origin_server_ts": 1790000000000, "content": {"msgtype": "m.text", "body": "..."},
//	    "via": "12D3Koo...", "received_ts": 1790000000500, "state": "unverified"}]}}
//
// via is the box that said so; state is "unverified", or "expired" when the signature has not come for an hour. Clients that know the type must show that nobody has signed this
// yet. Others see nothing until the event itself is there, mostly a second or two later: a notice has no place in the room's graph, and no event id that would stay true, so it must not
// be told as one.
const TypeNotice = "org.hallig.notice"

type notice struct {
	Sender   event.UserID    `json:"sender"`
	TS       int64           `json:"origin_server_ts"`
	Content  json.RawMessage `json:"content"`
	Via      string          `json:"via"`
	Received int64           `json:"received_ts"`
	State    string          `json:"state"`
}

// notices adds a room's notices when they have changed; a client that begins anew is told of those that there are.
func (s *syncer) notices(id event.RoomID, after int64, out *joinedRoom) error {
	x := &s.filter.Room.Ephemeral
	if !x.room(id) || !x.kind(TypeNotice) {
		return nil
	}
	pos, err := s.NoticesChanged(id)
	if err != nil || pos <= after {
		return err
	}
	rows, err := s.Notices(id)
	if err != nil || after == 0 && len(rows) == 0 {
		return err
	}
	list := make([]notice, 0, len(rows))
	for _, n := range rows {
		if s.ignored[n.Sender] {
			continue
		}
		state := "unverified"
		if n.Expired {
			state = "expired"
		}
		list = append(list, notice{n.Sender, n.TS, n.Content, n.Box, n.Since, state})
	}
	raw, err := json.Marshal(map[string][]notice{"notices": list})
	if err != nil {
		return err
	}
	out.Ephemeral.Events = append(out.Ephemeral.Events, typed(TypeNotice, raw))
	return nil
}
