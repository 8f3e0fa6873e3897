// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The buttons of a box: the power button ends it in order. A button of its own that the kernel reports as KEY_RESTART (gpio-keys on a Raspberry Pi, set up in
// config.txt) resets it to its factory state when it is held for ten seconds. The power button of a PC cannot do that: its firmware
// reports a press and no release, and switches the machine off when it is held.
const (
	keyPower   = 116   // KEY_POWER, linux/input-event-codes.h
	keySleep   = 142   // KEY_SLEEP: some cases have no other
	keyRestart = 0x198 // KEY_RESTART
	held       = 10 * time.Second
	eventBytes = 24 // struct input_event on 64-bit machines
	typeKey    = 1  // EV_KEY
)

// press is one change of a key.
type press struct {
	key   uint16
	value int32 // 1 pressed, 0 let go, 2 still held
}

// parsePress reads an input_event; false for what is no key.
func parsePress(b []byte) (press, bool) {
	if len(b) < eventBytes || binary.NativeEndian.Uint16(b[16:]) != typeKey {
		return press{}, false
	}
	return press{binary.NativeEndian.Uint16(b[18:]), int32(binary.NativeEndian.Uint32(b[20:]))}, true
}

// buttons reads all input devices that have one of the keys, until the box ends. Keyboards that are plugged in later are not read.
func (b *box) buttons() error {
	names, err := filepath.Glob(filepath.Join(b.at.Dev, "input/event*"))
	if err != nil {
		return fmt.Errorf("find buttons: %w", err)
	}
	var all sync.WaitGroup
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			b.log.Printf("open button: %v", err)
			continue
		}
		if !hasKey(f) {
			f.Close()
			continue
		}
		all.Go(func() { b.button(f) })
	}
	all.Wait()
	return nil
}

// hasKey asks a device whether it has one of our keys: EVIOCGBIT(EV_KEY).
func hasKey(f *os.File) bool {
	var bits [96]byte
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	const get = 0x80604521 // _IOR('E', 0x20+EV_KEY, 96 bytes)
	ok := false
	raw.Control(func(fd uintptr) { ok = ioctlBytes(fd, get, bits[:]) == nil })
	if !ok {
		return false
	}
	for _, k := range []int{keyPower, keySleep, keyRestart} {
		if bits[k/8]>>(k%8)&1 == 1 {
			return true
		}
	}
	return false
}

// button acts on one device.
func (b *box) button(f *os.File) {
	stop := make(chan struct{})
	defer close(stop)
	go func() { // ends with this function
		select {
		case <-b.running.Done():
			f.Close()
		case <-stop:
			f.Close()
		}
	}()
	var hold *time.Timer
	defer func() {
		if hold != nil {
			hold.Stop()
		}
	}()
	buf := make([]byte, eventBytes*16)
	for {
		n, err := f.Read(buf)
		if err != nil {
			return // the device is gone, or the box ends
		}
		for e := buf[:n]; len(e) >= eventBytes; e = e[eventBytes:] {
			p, ok := parsePress(e)
			if !ok {
				continue
			}
			switch {
			case (p.key == keyPower || p.key == keySleep) && p.value == 1:
				b.ask(ending{kind: powerOff, why: "the power button was pressed"})
			case p.key == keyRestart && p.value == 1 && hold == nil:
				b.log.Printf("the reset button is held")
				hold = time.AfterFunc(held, func() { b.ask(ending{kind: reset, why: "the reset button was held for ten seconds"}) })
			case p.key == keyRestart && p.value == 0 && hold != nil:
				hold.Stop()
				hold = nil
			}
		}
	}
}
