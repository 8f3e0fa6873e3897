// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"hallig/appliance/disk"
	"hallig/appliance/provision"
)

// firstVault makes an encrypted partition when a stick says so at the first start.
func (b *box) firstVault(dev disk.Device) bool { return false }

// openVault waits for the key.
func (b *box) openVault(dev disk.Device) {}

// lockable refuses a file that wants encryption too late.
func (b *box) lockable(f provision.File, from found, perm string) error { return nil }
