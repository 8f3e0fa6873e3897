// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"testing"
	"time"

	"hallig/tools/matrixclient"
)

// What was said last in rooms in which much lacks is told before any of them is whole; a room with a short gap is not worth a word; and all of it comes in the end, once.
func TestNewestAhead(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	a.ahead = make(chan []Head, 10)
	anna, bert := a.user("anna"), b.user("bert")
	var rooms []string
	for range 3 {
		id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "public_chat"}))
		must[string](t)(bert.Join(t.Context(), id, a.name))
		rooms = append(rooms, id)
	}
	warm := say(t, anna, rooms[2], 1, "warm")
	b.await("the rooms", func() bool { return b.has(rooms[2], warm) })
	a.sender.silent.Store(true)
	b.sender.silent.Store(true) // what it has is asked for
	for len(a.ahead) > 0 {
		<-a.ahead
	}
	said := map[string][]string{}
	for i, n := range []int{300, 20, 200} {
		said[rooms[i]] = say(t, bert, rooms[i], n, "viel")
	}
	a.sender.silent.Store(false)
	a.sender.LinkUp(b.name)
	select {
	case heads := <-a.ahead:
		if len(heads) != 2 {
			t.Errorf("told of %d rooms, want 2", len(heads))
		}
		for _, h := range heads {
			all := said[string(h.Room)]
			last := all[len(all)-1]
			if len(h.Newest) != headEvents || string(h.Newest[0].ID) != last || string(h.Newest[headEvents-1].ID) != all[len(all)-headEvents] {
				t.Errorf("%d events, the newest %s, want %s", len(h.Newest), h.Newest[0].ID, last)
			}
			if want := len(all) - headEvents; h.Before < want-5 || h.Before > want+5 {
				t.Errorf("%d events lie before them, want %d", h.Before, want)
			}
		}
	case <-time.After(time.Minute):
		t.Fatal("nobody was told of what is newest")
	}
	for _, id := range rooms {
		a.await("all of a room", func() bool { return a.has(id, said[id]) })
	}
}
