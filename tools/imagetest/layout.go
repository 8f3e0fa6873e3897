// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"

	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
)

// whole checks an image before it is ever booted: what each firmware would boot is what the update file beside it holds, byte for byte.
func (r *run) whole(f vm.Firmware) error {
	b, err := r.released(f)
	if err != nil {
		return err
	}
	img, err := r.image(f)
	if err != nil {
		return err
	}
	d, err := offline.Open(img)
	if err != nil {
		return err
	}
	defer d.Close()
	s, slot, err := d.Boots(f, b.system())
	if err != nil {
		return fmt.Errorf("%s: %w", img, err)
	}
	if err := d.Boot(r.dir); err != nil {
		return fmt.Errorf("%s: %w", img, err)
	}
	r.say("%v boots %s from slot %c; the boot file system is clean", f, s.Name, slot)
	return nil
}
