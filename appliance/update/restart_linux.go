// SPDX-License-Identifier: EUPL-1.2

package update

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// restart2 reboots with a word for the firmware. It returns only when it fails.
func restart2(word string) error {
	arg, err := unix.BytePtrFromString(word)
	if err != nil {
		return err
	}
	_, _, errno := unix.Syscall6(unix.SYS_REBOOT, unix.LINUX_REBOOT_MAGIC1, unix.LINUX_REBOOT_MAGIC2, unix.LINUX_REBOOT_CMD_RESTART2, uintptr(unsafe.Pointer(arg)), 0, 0)
	return errno
}
