// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"encoding/json"

	"hallig/appliance/event"
)

// formReceipt is an EDU parcel that holds one user's receipt in one room, the only kind that boxes send all day:
// sequence number, room, user, event, time after the event's, thread. Anything that does not come out byte for byte goes
// as any other EDU.
const formReceipt = 1

const typeReceipt = "m.receipt"

type receipt struct {
	room   event.RoomID
	user   string
	id     event.ID
	ts     int64
	thread string
}

// json writes the content of the EDU.
// https://spec.matrix.org/v1.16/server-server-api/#receipts
func (x receipt) json() []byte {
	b := appendString([]byte{'{'}, string(x.room))
	b = appendString(append(b, `:{"m.read":{`...), x.user)
	b = append(b, `:{"data":{`...)
	if x.thread != "" {
		b = append(appendString(append(b, `"thread_id":`...), x.thread), ',')
	}
	b = appendInt(append(b, `"ts":`...), x.ts)
	b = append(b, `},"event_ids":[`...)
	b = appendString(b, string(x.id))
	return append(b, `]}}}}`...)
}

// parseReceipt reads a content that json would write in the very same way.
func parseReceipt(content []byte) (receipt, bool) {
	var x receipt
	var rooms map[event.RoomID]map[string]map[string]struct {
		IDs  []event.ID `json:"event_ids"`
		Data struct {
			TS     int64  `json:"ts"`
			Thread string `json:"thread_id"`
		} `json:"data"`
	}
	if json.Unmarshal(content, &rooms) != nil || len(rooms) != 1 {
		return x, false
	}
	for room, types := range rooms {
		for user, r := range types["m.read"] {
			if len(r.IDs) == 1 {
				x = receipt{room, user, r.IDs[0], r.Data.TS, r.Data.Thread}
			}
		}
	}
	return x, x.room != "" && bytes.Equal(x.json(), content)
}

func (w *writer) receipt(seq uint64, x receipt) {
	w.uvarint(seq)
	w.room(x.room)
	w.name(x.user)
	at := w.lookup(x.room, x.id)
	k, _ := w.s.recall(at)
	w.event(at, x.id)
	w.varint(x.ts - k.ts)
	w.raw([]byte(x.thread))
}

func (r *reader) receipt() *EDU {
	e := &EDU{Seq: r.uvarint(), Type: typeReceipt}
	x := receipt{room: r.room(), user: r.name()}
	id, k, _ := r.event()
	x.id, x.ts, x.thread = id, k.ts+r.varint(), string(r.rest())
	e.Content = x.json()
	return e
}
