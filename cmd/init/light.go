// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallig/appliance/steward"
)

// light is the LED on the case: steady when all is well, a blink every two seconds when somebody should look, fast when something does not work.
// A machine without a LED of its own has no light.
type light struct {
	dir string // "": there is none

	mu    sync.Mutex
	state string
	stop  chan struct{} // ends the blinking of a kernel without timers for lights
}

// newLight takes the light that says "activity" on a Raspberry Pi, or another one of the board. Lights of keyboards, disks and network ports are none.
func newLight(sys string) *light {
	dir := filepath.Join(sys, "class/leds")
	list, _ := os.ReadDir(dir)
	for _, want := range []string{"ACT", "led0", "status", "power", "sys"} {
		for _, e := range list {
			if name := e.Name(); name == want || strings.HasSuffix(strings.ToLower(name), ":"+strings.ToLower(want)) {
				return &light{dir: filepath.Join(dir, name)}
			}
		}
	}
	return &light{}
}

func (l *light) put(name, value string) error {
	return os.WriteFile(filepath.Join(l.dir, name), []byte(value), 0)
}

// set shows a state; the same one again changes nothing.
func (l *light) set(state string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir == "" || state == l.state {
		return
	}
	l.state = state
	if l.stop != nil {
		close(l.stop)
		l.stop = nil
	}
	half := time.Duration(0)
	switch state {
	case steward.LEDLook:
		half = time.Second
	case steward.LEDTrouble:
		half = 150 * time.Millisecond
	}
	if half == 0 {
		l.put("trigger", "none")
		l.put("brightness", "255") // the kernel takes the brightest there is
		return
	}
	if l.put("trigger", "timer") == nil && l.put("delay_on", millis(half)) == nil && l.put("delay_off", millis(half)) == nil {
		return
	}
	l.put("trigger", "none")
	stop := make(chan struct{})
	l.stop = stop
	go func() { // ends with the next state, or the machine
		on := true
		tick := time.NewTicker(half)
		defer tick.Stop()
		for {
			value := "0"
			if on {
				value = "255"
			}
			l.put("brightness", value)
			select {
			case <-stop:
				return
			case <-tick.C:
				on = !on
			}
		}
	}()
}

func millis(d time.Duration) string {
	return strconv.FormatInt(d.Milliseconds(), 10)
}
