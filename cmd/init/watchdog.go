// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/logring"
)

// watchdog is the hardware's: unless it is petted it restarts the machine. A nil one is a machine without.
type watchdog struct {
	f    *os.File
	name string

	mu   sync.Mutex // guards last
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
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.last) < time.Second {
		return
	}
	w.last = time.Now()
	w.f.Write([]byte{0}) // any byte but 'V'
}

// leash pets while the main goroutine is in the hands of a disk: to replay a journal, to grow a file system or to erase can each take longer on a
// slow card than the watchdog waits (15 s on a Raspberry Pi), and a machine that is restarted in it begins the same again, for ever.
type leash struct {
	most  time.Duration
	until atomic.Int64 // since the leash was made
	began time.Time
	done  chan struct{}
}

// hold pets for at most so long, or until loose; more begins that time anew. What hangs for longer is the watchdog's, and late is called once.
func (w *watchdog) hold(most time.Duration, late func()) *leash {
	l := &leash{most: most, began: time.Now(), done: make(chan struct{})}
	l.more()
	go func() { // ends with loose, or when the time is over
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for time.Since(l.began) < time.Duration(l.until.Load()) {
			w.pet()
			select {
			case <-l.done:
				return
			case <-tick.C:
			}
		}
		late()
	}()
	return l
}

func (l *leash) more()  { l.until.Store(int64(time.Since(l.began) + l.most)) }
func (l *leash) loose() { close(l.done) }

func (w *watchdog) String() string {
	if w == nil {
		return ""
	}
	return w.name
}
