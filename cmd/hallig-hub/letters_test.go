// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"testing"
	"time"

	"hallig/tools/matrixclient"
)

// TestLettersReachHome: the central server is away, people on the box write and the box drives off. Its hub, killed again and again, brings all of it when the central server is back, in order and once,
// messages between devices as well. When the box returns it has nothing to send.
func TestLettersReachHome(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T) central{"dendrite": dendrite, "synapse": synapse} {
		t.Run(name, func(t *testing.T) { lettersHome(newHome(t, start(t), "sealed")) })
	}
}

func lettersHome(h *home) {
	t := h.T
	room, anna, carl := h.talk()
	gone, before := h.writeLetters(room)
	h.stopBox()
	for range 2 {
		h.killHub()
		h.startHub()
	}
	s, err := h.hubStatus()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Boxes[0].Letters) != 1 || s.Boxes[0].Letters[0].Server != h.name || s.Boxes[0].Letters[0].Count < 4 {
		t.Errorf("the hub says that there wait: %+v", s.Boxes[0].Letters)
	}
	if err := h.back(); err != nil {
		t.Fatal(err)
	}
	for i := range 4 { // whatever it is at
		time.Sleep(time.Duration(100+150*i) * time.Millisecond)
		h.killHub()
		h.startHub()
	}
	carl.sees("the box is gone, the central server back", gone...)
	h.await("the messages between devices", func() bool {
		carl.sees("a look", h.say(h.carl, room, 1, "ein Blick")...)
		return len(carl.whispers) == 3
	})
	h.await("the hub to have nothing left", func() bool { s, err := h.hubStatus(); return err == nil && len(s.Boxes[0].Letters) == 0 })
	carl.inOrder(gone)

	h.boxHears(before + 3)
	carl.sees("the box is back", h.say(h.anna, room, 3, "bin wieder da")...)
	anna.sees("the box is back", h.say(h.carl, room, 3, "schön")...)
	for what, n := range carl.whispers {
		switch {
		case n == 1:
		case h.forgets:
			t.Logf("%s came %d times: the hub was killed over its transaction, and this server takes the same one again", what, n)
		default:
			t.Errorf("%s came %d times", what, n)
		}
	}
}

// boxHears starts the box, which learns that so much of what it had left has arrived, and has nothing to send.
func (h *home) boxHears(through int) {
	h.Helper()
	h.startBox()
	h.await("the box to hear of it", func() bool {
		for _, s := range h.boxStatus().Servers {
			if s.Name == h.name {
				return s.Queued == 0 && s.Left == 0 && s.Through >= through
			}
		}
		return false
	})
}

// writeLetters has people on the box write while the central server is away, and the box leave all of it with its hub: 130 events in a room, then three messages between devices. The box has left so many before these.
func (h *home) writeLetters(room string) (gone []string, before int) {
	h.Helper()
	if err := h.away(); err != nil {
		h.Fatal(err)
	}
	gone = h.say(h.anna, room, 130, "Zentrale ist weg")
	left := func() (n int) {
		for _, s := range h.boxStatus().Servers {
			n += s.Left
		}
		return n
	}
	h.await("all that was written to be left with the hub", func() bool { return left() >= 130 })
	time.Sleep(time.Second) // until receipts and the like are as well
	before = left()
	for i := range 3 {
		path := matrixclient.Path("sendToDevice", "org.hallig.test", fmt.Sprint("w", i))
		if err := h.anna.Do(h.Context(), "PUT", path, map[string]any{"messages": map[string]any{h.carl.UserID: map[string]any{h.carl.DeviceID: map[string]string{"n": fmt.Sprint(i)}}}}, nil); err != nil {
			h.Fatal(err)
		}
		h.await("the message between devices to be left as well", func() bool { return left() >= before+1+i })
	}
	return gone, before
}

// inOrder checks that events were shown in their order.
func (r *reader) inOrder(ids []string) {
	r.h.Helper()
	for i := 1; i < len(ids); i++ {
		if r.order[ids[i]] <= r.order[ids[i-1]] {
			r.h.Errorf("%s was shown %s, which is %d of %d, before the one that was written before it", r.c.UserID, ids[i], i, len(ids))
			return
		}
	}
}
