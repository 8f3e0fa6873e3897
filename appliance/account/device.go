// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Device is what its owner sees of a device.
type Device struct {
	ID       string `json:"device_id"`
	Name     string `json:"display_name,omitempty"`
	LastIP   string `json:"last_seen_ip,omitempty"`
	LastSeen int64  `json:"last_seen_ts,omitempty"` // ms
}

func deviceOf(row store.DeviceRow) Device {
	return Device{ID: row.ID, Name: row.Name, LastIP: row.IP, LastSeen: row.Seen}
}

// Devices lists a user's devices.
func (a *Accounts) Devices(ctx context.Context, user event.UserID) ([]Device, error) {
	out := []Device{}
	err := a.db.View(ctx, func(r *store.Read) error {
		rows, err := r.Devices(user)
		for _, row := range rows {
			out = append(out, deviceOf(row))
		}
		return err
	})
	return out, err
}

// Device gives one device; M_NOT_FOUND.
func (a *Accounts) Device(ctx context.Context, user event.UserID, id string) (Device, error) {
	var d Device
	err := a.db.View(ctx, func(r *store.Read) error {
		row, err := r.Device(user, id)
		if err != nil {
			return err
		}
		if row == nil {
			return notFound("there is no such device")
		}
		d = deviceOf(*row)
		return nil
	})
	return d, err
}

// RenameDevice sets the name that other users of the room may see too; so it is a change of the device list.
func (a *Accounts) RenameDevice(ctx context.Context, user event.UserID, id, name string) error {
	if len(name) > 256 {
		return refuse(400, "M_INVALID_PARAM", "a device name has at most 256 bytes")
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := tx.Device(user, id)
		if err != nil {
			return err
		}
		if row == nil {
			return notFound("there is no such device")
		}
		if err := tx.RenameDevice(user, id, name); err != nil {
			return err
		}
		return a.devicesChanged(tx, user, id)
	})
}

// DeleteDevices ends devices with all that belongs to them; unknown ids are passed over.
func (a *Accounts) DeleteDevices(ctx context.Context, user event.UserID, ids ...string) error {
	want := make(map[string]bool, len(ids))
	for _, id := range ids {
		want[id] = true
	}
	return a.deleteDevices(ctx, user, func(id string) bool { return want[id] }, nil)
}

// deleteDevices removes the devices that drop picks, after first has done its part in the same transaction.
func (a *Accounts) deleteDevices(ctx context.Context, user event.UserID, drop func(id string) bool, first func(*store.Tx) error) error {
	var gone []string
	err := a.db.Do(ctx, func(tx *store.Tx) error {
		gone = gone[:0]
		if first != nil {
			if err := first(tx); err != nil {
				return err
			}
		}
		rows, err := tx.Devices(user)
		if err != nil {
			return err
		}
		for _, row := range rows {
			if !drop(row.ID) {
				continue
			}
			if err := tx.DeleteDevice(user, row.ID); err != nil {
				return err
			}
			gone = append(gone, row.ID)
		}
		if len(gone) == 0 {
			return nil
		}
		return a.devicesChanged(tx, user, gone...)
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		a.dropSessions(user, id)
	}
	return nil
}
