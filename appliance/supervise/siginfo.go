// SPDX-License-Identifier: EUPL-1.2

package supervise

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigchldPID is si_pid of a siginfo_t, which x/sys leaves in the padding: on 64-bit machines three ints, four bytes to align the union, then the
// process (asm-generic/siginfo.h).
func sigchldPID(info *unix.Siginfo) int32 {
	return *(*int32)(unsafe.Add(unsafe.Pointer(info), 16))
}
