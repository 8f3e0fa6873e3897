// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/logring"
)

// watchdog is the hardware's: unless it is petted it restarts the machine. A nil one is a machine without.
type watchdog struct {
	f    *os.File
	name string
	last time.Time
}

// openWatchdog starts the hardware watchdog, with a timeout of a minute where it can. The kernel keeps one petted that the firmware has started,
// until somebody opens it.
func openWatchdog(path string, log *logring.Ring) *watchdog {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			log.Printf("open watchdog: %v", err)
		}
		return nil
	}
	w := &watchdog{f: f, name: "watchdog"}
	if info, err := unix.IoctlGetWatchdogInfo(int(f.Fd())); err == nil {
		w.name = unix.ByteSliceToString(info.Identity[:])
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, 60); err != nil {
		// A Raspberry Pi's knows at most 15 s.
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, 15); err != nil {
			log.Printf("set watchdog: %v", err)
		}
	}
	left, _ := unix.IoctlGetInt(int(f.Fd()), unix.WDIOC_GETTIMEOUT)
	log.Printf("hardware watchdog %s, %d s", w.name, left)
	w.pet()
	return w
}

// pet says that the main loop lives; more than once a second is not needed.
func (w *watchdog) pet() {
	if w == nil || time.Since(w.last) < time.Second {
		return
	}
	w.last = time.Now()
	w.f.Write([]byte{0}) // any byte but 'V'
}

func (w *watchdog) String() string {
	if w == nil {
		return ""
	}
	return w.name
}
