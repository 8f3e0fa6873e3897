// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ioctlBytes is an ioctl that fills a buffer, for requests that x/sys has no function for.
func ioctlBytes(fd, req uintptr, b []byte) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, req, uintptr(unsafe.Pointer(&b[0]))); e != 0 {
		return e
	}
	return nil
}
