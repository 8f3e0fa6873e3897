// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"context"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// nearChunk is how many events are read at once in search of one that the reader may see.
const nearChunk = 50

// AtTime finds the event that the user may see whose time is nearest to ts: at or after it, or at or before it if back.
// https://spec.matrix.org/v1.13/client-server-api/#get_matrixclientv1roomsroomidtimestamp_to_event
func (f *Feed) AtTime(ctx context.Context, user event.UserID, device string, id event.RoomID, ts int64, back bool) (found event.ID, at int64, err error) {
	err = f.view(ctx, user, device, func(l *look) error {
		p, end, err := l.readable(id)
		if err != nil {
			return err
		}
		for seen := 0; seen < maxScan; seen += nearChunk {
			es, err := l.EventsNear(id, ts, seen, nearChunk, back)
			if err != nil {
				return err
			}
			if e, err := l.firstVisible(es, p, end); err != nil {
				return err
			} else if e != nil {
				found, at = e.ID, e.TS
				return nil
			}
			if len(es) < nearChunk {
				break
			}
		}
		return noEvent()
	})
	return found, at, err
}

// firstVisible is the first of some events that the reader may see.
func (l *look) firstVisible(es []*store.Event, p past, end int64) (*store.Event, error) {
	for _, e := range es {
		if e.Pos > end {
			continue
		}
		if ok, err := l.visible(e, p); ok || err != nil {
			return e, err
		}
	}
	return nil, nil
}
