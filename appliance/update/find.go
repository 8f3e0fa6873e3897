// SPDX-License-Identifier: EUPL-1.2

package update

import "fmt"

// Find gives where a file of the boot file system lies on the disk, in bytes. One that does not lie in one piece is an error: tools/pack
// checks with it what it has laid out.
func (d *Disk) Find(name string) (at, size int64, err error) {
	s, err := d.vol.find(name)
	if err != nil {
		return 0, 0, fmt.Errorf("boot file system: %w", err)
	}
	return s.at, s.size, nil
}
