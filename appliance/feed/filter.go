// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

const (
	defaultTimeline = 10   // events of a room in one sync
	maxTimeline     = 1000 // as many as one answer may carry, whatever the filter says: a box that comes home gets hundreds at once
	maxMessages     = 1000
)

// eventFilter is https://spec.matrix.org/latest/client-server-api/#filtering; nil lists take everything, empty ones nothing.
type eventFilter struct {
	Limit        *int           `json:"limit"`
	Types        []string       `json:"types"`
	NotTypes     []string       `json:"not_types"`
	Senders      []event.UserID `json:"senders"`
	NotSenders   []event.UserID `json:"not_senders"`
	Rooms        []event.RoomID `json:"rooms"`
	NotRooms     []event.RoomID `json:"not_rooms"`
	ContainsURL  *bool          `json:"contains_url"`
	Lazy         bool           `json:"lazy_load_members"`
	Redundant    bool           `json:"include_redundant_members"`
	UnreadThread bool           `json:"unread_thread_notifications"`
	RelTypes     []string       `json:"related_by_rel_types"`
	RelSenders   []event.UserID `json:"related_by_senders"`
}

type roomFilter struct {
	Rooms        []event.RoomID `json:"rooms"`
	NotRooms     []event.RoomID `json:"not_rooms"`
	IncludeLeave bool           `json:"include_leave"`
	State        eventFilter    `json:"state"`
	Timeline     eventFilter    `json:"timeline"`
	Ephemeral    eventFilter    `json:"ephemeral"`
	AccountData  eventFilter    `json:"account_data"`
}

type filter struct {
	Fields      []string    `json:"event_fields"`
	Format      string      `json:"event_format"`
	Room        roomFilter  `json:"room"`
	AccountData eventFilter `json:"account_data"`
	Presence    eventFilter `json:"presence"`
}

// filter finds the filter that a request names: by id, or written out.
func (l *look) filter(s string) (*filter, error) {
	out := &filter{}
	raw, err := l.filterJSON(s)
	if err != nil || raw == nil {
		return out, err
	}
	if json.Unmarshal(raw, out) != nil {
		return nil, &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "the filter is not as it should be"}
	}
	return out, nil
}

// eventFilter is the same for requests that take a filter of events.
func (l *look) eventFilter(s string) (*eventFilter, error) {
	out := &eventFilter{}
	raw, err := l.filterJSON(s)
	if err != nil || raw == nil {
		return out, err
	}
	if json.Unmarshal(raw, out) != nil {
		return nil, &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "the filter is not as it should be"}
	}
	return out, nil
}

func (l *look) filterJSON(s string) (json.RawMessage, error) {
	switch {
	case s == "":
		return nil, nil
	case strings.HasPrefix(strings.TrimSpace(s), "{"):
		return json.RawMessage(s), nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return nil, &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "there is no such filter"}
	}
	raw, err := l.Filter(l.user, n)
	if err == nil && raw == nil {
		err = &room.Error{Code: "M_INVALID_PARAM", Status: 400, Text: "there is no such filter"}
	}
	return raw, err
}

// room says whether a filter lets anything of a room through.
func (x *eventFilter) room(id event.RoomID) bool {
	return (x.Rooms == nil || slices.Contains(x.Rooms, id)) && !slices.Contains(x.NotRooms, id)
}

func (x *roomFilter) room(id event.RoomID) bool {
	return (x.Rooms == nil || slices.Contains(x.Rooms, id)) && !slices.Contains(x.NotRooms, id)
}

// kind says whether a type passes.
func (x *eventFilter) kind(typ string) bool {
	return (x.Types == nil || matchesAny(x.Types, typ)) && !matchesAny(x.NotTypes, typ)
}

// event says whether an event passes, but for its room and its relations. hasURL is asked only when the filter wants to know.
func (x *eventFilter) event(typ string, sender event.UserID, hasURL func() bool) bool {
	return x.kind(typ) &&
		(x.Senders == nil || slices.Contains(x.Senders, sender)) && !slices.Contains(x.NotSenders, sender) &&
		(x.ContainsURL == nil || *x.ContainsURL == hasURL())
}

// plain says that a filter lets every event through.
func (x *eventFilter) plain() bool {
	return x.Types == nil && x.NotTypes == nil && x.Senders == nil && x.NotSenders == nil && x.Rooms == nil && x.NotRooms == nil && x.ContainsURL == nil
}

// limit is how many events a filter wants.
func (x *eventFilter) limit(def, most int) int {
	if x.Limit == nil || *x.Limit < 0 {
		return def
	}
	return min(*x.Limit, most)
}

// matchesAny compares with patterns in which * stands for any text.
func matchesAny(patterns []string, s string) bool {
	for _, p := range patterns {
		if p == s || strings.Contains(p, "*") && glob(p, s) {
			return true
		}
	}
	return false
}

// glob matches * only, in linear time.
func glob(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := parts[len(parts)-1]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, last)
}
