// SPDX-License-Identifier: EUPL-1.2

// Package sham is modems that are none, for tests and demonstrations: each speaks to a box as the real one does by its published framing, and
// what it "sends" reaches the other modems on the same Air, after the time that it would take and without those that Lose picks. They are strict: what the
// real device would drop or misread, they drop. Knobs make them as bad as devices are: silent, slow to start, full, unwilling.
//
// Serve runs a modem on any stream, such as a pseudo terminal, until the stream ends; under testing/synctest its time is virtual.
package sham

import (
	"sync"
	"time"
)

// Air carries packets between modems.
type Air struct {
	Airtime func(n int) time.Duration // of a packet of n bytes; nil: none
	Lose    func() bool               // picks packets that nobody hears; nil: none

	mu   sync.Mutex
	ears map[any]func(packet []byte)
	sent int
}

// Sent is how many packets were on the air.
func (a *Air) Sent() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sent
}

func (a *Air) listen(who any, hear func([]byte)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ears == nil {
		a.ears = map[any]func([]byte){}
	}
	a.ears[who] = hear
}

func (a *Air) leave(who any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.ears, who)
}

// transmit takes as long as the packet is on the air.
func (a *Air) transmit(from any, packet []byte) {
	if a.Airtime != nil {
		time.Sleep(a.Airtime(len(packet)))
	}
	a.mu.Lock()
	a.sent++
	var hear []func([]byte)
	if a.Lose == nil || !a.Lose() {
		for who, f := range a.ears {
			if who != from {
				hear = append(hear, f)
			}
		}
	}
	a.mu.Unlock()
	for _, f := range hear {
		f(append([]byte(nil), packet...))
	}
}
