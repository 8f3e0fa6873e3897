// SPDX-License-Identifier: EUPL-1.2

package arq

import "hallig/radio/frame"

// Of what waits, the most urgent goes first; but of all that goes while they wait, a tenth belongs to the least urgent (routine or bulk), so that what was queued here is not
// overtaken for ever. Nothing goes before a flash by that right.
const (
	floorShare = 10
	floorFrom  = 3 // routine
)

// freshest is the priority to make a new frame of; -1: nothing waits.
func (l *Link) freshest() int {
	top, least := l.waiting()
	if top > 0 && least > top && least >= floorFrom && l.owed >= l.cfg.MTU {
		return least
	}
	return top
}

// waiting is the most and the least urgent priority that something waits in; -1: nothing does.
func (l *Link) waiting() (top, least int) {
	top, least = -1, -1
	for p := range frame.Priorities {
		if len(l.queue[p]) > 0 {
			if top < 0 {
				top = p
			}
			least = p
		}
	}
	return top, least
}

// account counts a new frame towards the floor, before what it holds has left its queue.
func (l *Link) account(p, n int) {
	switch _, least := l.waiting(); {
	case p < least && least >= floorFrom:
		l.owed = min(l.owed+n/(floorShare-1), 8*l.cfg.MTU)
	default:
		l.owed = max(0, l.owed-n)
	}
}
