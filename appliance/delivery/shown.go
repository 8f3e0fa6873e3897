// SPDX-License-Identifier: EUPL-1.2

package delivery

import (
	"context"
	"fmt"
	"maps"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// What devices were shown is told to others at once when nothing was for a while, else as soon as it is worth a message, and stored seldom: phones that are switched on
// say it again after a restart, the table is for those that are not.
const (
	tellSoon   = 300 * time.Millisecond // several devices of a user ask at the same time
	tellEvery  = 5 * time.Second
	storeEvery = time.Minute
)

// Load reads what devices were shown before the start.
func (d *Delivery) Load(ctx context.Context) error {
	last := d.c.DB.Published()
	return wrap(d.c.DB.View(ctx, func(r *store.Read) error {
		shown, err := r.Shown()
		if err != nil {
			return err
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for user, pos := range shown {
			d.shown[user] = max(d.shown[user], min(pos, last))
		}
		return nil
	}))
}

// Noted takes it that a device of a user holds everything up to a stream position. It is called for every sync, so it only remembers.
func (d *Delivery) Noted(user event.UserID, pos int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if pos <= d.shown[user] {
		return
	}
	d.shown[user] = pos
	d.fresh[user] = pos
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Shown tells up to which stream position devices of this box's users were shown everything. The map is the caller's.
func (d *Delivery) Shown() map[event.UserID]int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.shown)
}

// Run tells and stores what devices were shown until ctx ends.
func (d *Delivery) Run(ctx context.Context) error {
	var told, stored time.Time
	for {
		select {
		case <-ctx.Done():
			d.store()
			return nil
		case <-d.wake:
		}
		pause := time.NewTimer(max(tellSoon, tellEvery-time.Since(told)))
		select {
		case <-ctx.Done():
			pause.Stop()
			d.store()
			return nil
		case <-pause.C:
		}
		select {
		case <-d.wake: // what came meanwhile is told with it
		default:
		}
		told = time.Now()
		if d.c.Moved != nil {
			d.c.Moved()
		}
		if time.Since(stored) >= storeEvery {
			stored = time.Now()
			d.store()
		}
	}
}

// store hands what is new to the store, without haste.
func (d *Delivery) store() {
	d.mu.Lock()
	fresh := d.fresh
	d.fresh = make(map[event.UserID]int64, len(fresh))
	d.mu.Unlock()
	if len(fresh) == 0 {
		return
	}
	d.c.DB.Lazy(func(tx *store.Tx) error {
		for user, pos := range fresh {
			if err := tx.Shown(user, pos); err != nil {
				return fmt.Errorf("store what devices were shown: %w", err)
			}
		}
		return nil
	})
}
