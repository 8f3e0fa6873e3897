// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"sync"

	"hallig/appliance/admin"
)

// watchers hands the commentary on to whoever watches. The zero value works. A watcher that does not keep up loses the
// newest lines: the commentary never holds up what it tells of.
type watchers struct {
	mu   sync.Mutex
	open map[chan admin.Travel]bool
}

func (w *watchers) tell(t admin.Travel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.open {
		select {
		case c <- t:
		default:
		}
	}
}

// watch hands each Travel to f until ctx ends or f fails.
func (w *watchers) watch(ctx context.Context, f func(admin.Travel) error) error {
	c := make(chan admin.Travel, 4096)
	w.mu.Lock()
	if w.open == nil {
		w.open = map[chan admin.Travel]bool{}
	}
	w.open[c] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.open, c)
	}()
	for {
		select {
		case t := <-c:
			if err := f(t); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
