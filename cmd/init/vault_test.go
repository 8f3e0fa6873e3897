// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"testing"

	"hallig/appliance/disk"
)

// TestSuperblock: the file system that a vault gets is known again, and noise that has its magic by chance is not.
func TestSuperblock(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "device"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0x53, 0xef}, 1024+0x38); err != nil {
		t.Fatal(err)
	}
	if there, err := superblock(f, 1024); err != nil || there {
		t.Errorf("a magic alone counts as a file system (%v)", err)
	}
	if err := disk.Make(f); err != nil {
		t.Fatal(err)
	}
	if there, err := superblock(f, 1024); err != nil || !there {
		t.Errorf("the file system is not found (%v)", err)
	}
	if there, err := superblock(f, 64<<20); err == nil || there {
		t.Errorf("a superblock behind the end of the device: %v, %v", there, err)
	}
}
