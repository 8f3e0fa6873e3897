// SPDX-License-Identifier: EUPL-1.2

package inbox

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// ready says which events may go through the door at once: those that are not here, in rooms that are, with good signatures. A batch is looked up in
// one view, and its signatures are checked by as many processors as there are: they are most of the work.
func (b *Inbox) ready(ctx context.Context, hs []*held) ([]bool, error) {
	ok := make([]bool, len(hs))
	err := b.c.DB.View(ctx, func(r *store.Read) error {
		in := make(map[event.RoomID]bool)
		for i, h := range hs {
			id := h.pdu.RoomID
			if _, looked := in[id]; !looked {
				rm, err := r.Room(id)
				if err != nil {
					return err
				}
				in[id] = rm != nil && rm.Cur != 0
			}
			if !in[id] {
				continue
			}
			row, err := r.Event(h.pdu.ID)
			if err != nil {
				return err
			}
			ok[i] = row == nil || row.Is(store.Outlier)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for %d events: %w", len(hs), err)
	}
	workers := min(runtime.GOMAXPROCS(0), len(hs)/minEach)
	if workers < 2 {
		for i, h := range hs {
			ok[i] = ok[i] && b.c.Verify(ctx, h.pdu) == nil
		}
		return ok, nil
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() { // waited for below
			for i := int(next.Add(1)) - 1; i < len(hs); i = int(next.Add(1)) - 1 {
				ok[i] = ok[i] && b.c.Verify(ctx, hs[i].pdu) == nil
			}
		})
	}
	wg.Wait()
	return ok, nil
}

// minEach is how many events make it worth to start another goroutine.
const minEach = 4
