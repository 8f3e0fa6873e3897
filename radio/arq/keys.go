// SPDX-License-Identifier: EUPL-1.2

package arq

import (
	"fmt"
	"time"

	"hallig/radio/frame"
)

// The two ends never get their keys at the same moment, and each may need an acknowledgement from the other before it has
// them. So: a message queued under keys goes under those keys only. One queued before, and bare acknowledgements, go as
// before until the far end has shown that it has the new keys; repetitions alternate, as nobody knows. From that moment on
// everything goes under the new keys and nothing else is taken.

// SetKeys sets the keys for messages sent from now on and for frames received; nil clears. They end with the contact.
// Clearing ends the contact, too, if messages queued under keys have not arrived: they must not go in the clear.
func (l *Link) SetKeys(send, receive []byte) error {
	if send == nil && receive == nil {
		if l.secrets() {
			l.lose()
			l.seek(time.Time{})
		}
		l.clearKeys()
		return nil
	}
	key := frame.NewKey
	if l.cfg.Open {
		key = frame.NewOpenKey
	}
	s, err := key(send)
	if err != nil {
		return fmt.Errorf("set send key: %w", err)
	}
	r, err := key(receive)
	if err != nil {
		return fmt.Errorf("set receive key: %w", err)
	}
	if l.proven {
		l.priorSend, l.priorRecv = l.sendKey, l.recvKey
	}
	l.sendKey, l.recvKey, l.proven = s, r, false
	l.generation++
	return nil
}

func (l *Link) clearKeys() {
	l.generation, l.sendKey, l.recvKey, l.priorSend, l.priorRecv, l.proven = 0, nil, nil, nil, nil, false
}

// secrets says whether messages queued under keys are under way.
func (l *Link) secrets() bool {
	for p := range l.queue {
		for _, m := range l.queue[p] {
			if m.generation > 0 {
				return true
			}
		}
	}
	for s := l.una; s != l.nxt; s++ {
		if o := &l.out[s%window]; o.state != acked && o.generation > 0 {
			return true
		}
	}
	return false
}

// dataKey chooses the key for a data frame (nil: plain).
func (l *Link) dataKey(o *outFrame) *frame.Key {
	bound := o.generation == l.generation || o.generation > 0 && l.priorSend == nil
	if bound || l.proven || o.tries%2 == 1 {
		return l.sendKey
	}
	return l.priorSend
}

// controlKey chooses the key for a control frame.
func (l *Link) controlKey(poll bool) *frame.Key {
	if l.proven || poll && l.fails%2 == 1 {
		return l.sendKey
	}
	return l.priorSend
}

// ackApart says whether an acknowledgement must not ride on this frame, because the far end may not be able to read it.
func (l *Link) ackApart(o *outFrame) bool {
	return l.sendKey != nil && !l.proven && l.dataKey(o) == l.sendKey
}

// open checks a frame against the keys in force.
func (l *Link) open(raw []byte, f *frame.Frame) bool {
	c := frame.Context{Sender: l.peer, Receiver: l.my}
	if !f.Keyed {
		return !l.proven && l.priorRecv == nil && frame.Open(raw, f, c, nil) == nil
	}
	if l.recvKey != nil && frame.Open(raw, f, c, l.recvKey) == nil {
		l.proven, l.priorSend, l.priorRecv, l.suspect = true, nil, nil, 0
		return true
	}
	return l.priorRecv != nil && frame.Open(raw, f, c, l.priorRecv) == nil
}
