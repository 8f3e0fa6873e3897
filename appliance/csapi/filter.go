// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"encoding/json"

	"hallig/appliance/event"
)

// filterShape is what a filter may look like: https://spec.matrix.org/v1.13/client-server-api/#filtering
type filterShape struct {
	Fields      []string    `json:"event_fields"`
	Format      string      `json:"event_format"`
	Presence    eventFilter `json:"presence"`
	AccountData eventFilter `json:"account_data"`
	Room        struct {
		Rooms        []string    `json:"rooms"`
		NotRooms     []string    `json:"not_rooms"`
		IncludeLeave bool        `json:"include_leave"`
		Timeline     eventFilter `json:"timeline"`
		State        eventFilter `json:"state"`
		Ephemeral    eventFilter `json:"ephemeral"`
		AccountData  eventFilter `json:"account_data"`
	} `json:"room"`
}

type eventFilter struct {
	Limit       int      `json:"limit"`
	Types       []string `json:"types"`
	NotTypes    []string `json:"not_types"`
	Senders     []string `json:"senders"`
	NotSenders  []string `json:"not_senders"`
	Rooms       []string `json:"rooms"`
	NotRooms    []string `json:"not_rooms"`
	ContainsURL *bool    `json:"contains_url"`
	Lazy        bool     `json:"lazy_load_members"`
	Redundant   bool     `json:"include_redundant_members"`
}

// checkFilter refuses a filter that could never be applied, when it is stored rather than when it is used.
func checkFilter(raw json.RawMessage) error {
	var f filterShape
	if err := unmarshal(raw, &f); err != nil {
		return err
	}
	switch f.Format {
	case "", "client", "federation":
	default:
		return invalid("event_format must be client or federation")
	}
	if err := goodRooms(f.Room.Rooms, f.Room.NotRooms); err != nil {
		return err
	}
	for _, e := range []eventFilter{f.Presence, f.AccountData, f.Room.Timeline, f.Room.State, f.Room.Ephemeral, f.Room.AccountData} {
		if err := goodRooms(e.Rooms, e.NotRooms); err != nil {
			return err
		}
		for _, list := range [][]string{e.Senders, e.NotSenders} {
			for _, u := range list {
				if _, err := event.ParseUserID(u); err != nil {
					return invalid("a filter names senders by user ids")
				}
			}
		}
	}
	return nil
}

func goodRooms(lists ...[]string) error {
	for _, list := range lists {
		for _, id := range list {
			if _, err := roomID(id); err != nil {
				return invalid("a filter names rooms by room ids")
			}
		}
	}
	return nil
}
