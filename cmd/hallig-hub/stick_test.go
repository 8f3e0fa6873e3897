// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/tools/matrixclient"
)

// TestCourierStick: a box that has no line any more, and a central server, talk by a stick that somebody carries: what each says, messages between devices as well, is there once after two journeys. The hub is killed in between, the
// stick is read twice.
func TestCourierStick(t *testing.T) {
	for name, start := range map[string]func(*testing.T) central{"dendrite": dendrite, "synapse": synapse} {
		t.Run(name, func(t *testing.T) { byStick(newHome(t, start(t), "sealed")) })
	}
}

// verb is hallig-hub as somebody types it.
func (h *home) verb(args ...string) string {
	h.Helper()
	var out strings.Builder
	if code := run(h.Context(), append(args, "--data", h.hubDir), &out, &out); code != 0 {
		h.Fatalf("hallig-hub %q: %d, %s", args, code, out.String())
	}
	h.Logf("hallig-hub %s: %s", strings.Join(args, " "), out.String())
	return out.String()
}

// plug has the box serve the stick.
func (h *home) plug(stick string) admin.CourierReport {
	h.Helper()
	r, err := appliance.Courier(h.Context(), h.boxDir, admin.CourierOrder{Do: "import", Place: stick}, func(admin.CourierStep) {})
	if err != nil {
		h.Fatal(err)
	}
	h.Logf("the box says: %s", r.Sentence.EN)
	return r
}

func byStick(h *home) {
	t := h.T
	ctx, alias := t.Context(), fmt.Sprintf("stick%d", time.Now().UnixNano())
	room, err := h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Lage", Alias: alias})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.anna.Join(ctx, "#"+alias+":"+h.name); err != nil {
		t.Fatal("join through the hub: ", err)
	}
	anna, carl := h.reader(h.anna), h.reader(h.carl)
	carl.sees("in the yard", h.say(h.anna, room, 1, "von der Box")...)
	anna.sees("in the yard", h.say(h.carl, room, 1, "von der Zentrale")...)

	// The box leaves the yard, and has no line from now on.
	h.stopBox()
	h.noLine = true
	h.startBox()
	h.await("the hub to notice", func() bool { s, err := h.hubStatus(); return err == nil && !s.Boxes[0].Connected })
	stick := t.TempDir()
	out := h.say(h.anna, room, 120, "von draußen")
	in := h.say(h.carl, room, 110, "von drinnen")
	whisper := func(n int) {
		path := matrixclient.Path("sendToDevice", "org.hallig.test", fmt.Sprint("o", n))
		if err := h.anna.Do(ctx, "PUT", path, map[string]any{"messages": map[string]any{h.carl.UserID: map[string]any{h.carl.DeviceID: map[string]string{"n": fmt.Sprint(n)}}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		h.whisper(fmt.Sprint(i))
		whisper(i)
	}
	h.await("the central server to be rid of it", func() bool {
		s, err := h.hubStatus()
		n := int64(0)
		if err == nil {
			for _, q := range s.Boxes[0].Waiting {
				n += q.Count
			}
		}
		return n >= 20
	})
	time.Sleep(2 * time.Second) // what is on its way to the hub

	// The first journey: to the box and back.
	h.verb("courier", "export", stick)
	h.verb("courier", "status", stick)
	h.killHub() // the hub need not be there meanwhile
	h.plug(stick)
	anna.sees("the stick", in...)
	h.startHub()
	if s := h.verb("courier", "status", stick); !strings.Contains(s, "letters") {
		t.Errorf("what is on the stick: %s", s)
	}
	h.verb("courier", "import", stick)
	if s, err := h.hubStatus(); err != nil || s.Boxes[0].Way != "stick" || len(s.Boxes[0].Waiting) > 1 {
		t.Errorf("after the stick was read: %+v, %v", s.Boxes[0], err)
	}
	h.verb("courier", "import", stick) // again
	carl.sees("the stick", out...)
	carl.inOrder(out)

	// The second one: each hears of the other's receipt, and of what came meanwhile.
	more, back := h.say(h.anna, room, 5, "noch mehr"), h.say(h.carl, room, 5, "noch etwas")
	h.await("the letters to be through", func() bool { s, err := h.hubStatus(); return err == nil && len(s.Boxes[0].Letters) == 0 })
	time.Sleep(2 * time.Second)
	h.verb("courier", "export", stick)
	h.plug(stick)
	h.plug(stick) // pulled out and plugged in once more
	anna.sees("the second journey", back...)
	left := func() (left int) {
		for _, s := range h.boxStatus().Servers {
			left += s.Left
		}
		return left
	}
	if n := left(); n >= 120 || n < 5 {
		t.Errorf("the box counts %d events as not arrived", n)
	}
	h.verb("courier", "import", stick)
	carl.sees("the second journey", more...)
	for i := range 20 { // messages between devices come beside
		anna.look()
		carl.look()
		if len(anna.whispers) == 3 && len(carl.whispers) == 3 {
			break
		}
		if i == 19 {
			t.Errorf("messages between devices: %v at the box, %v at the central server", anna.whispers, carl.whispers)
		}
	}

	// Back in the yard nothing is sent once more, and all goes on.
	h.stopBox()
	h.noLine = false
	h.startBox()
	carl.sees("back in the yard", h.say(h.anna, room, 2, "wieder da")...)
	anna.sees("back in the yard", h.say(h.carl, room, 2, "schön")...)
	h.await("the box to know that all has arrived", func() bool { return left() == 0 })
	anna.look()
	carl.look()
	for _, r := range []*reader{anna, carl} {
		for _, seen := range []map[string]int{r.seen, r.whispers} {
			for what, n := range seen {
				if n != 1 {
					t.Errorf("%s was shown %s %d times", r.c.UserID, what, n)
				}
			}
		}
	}
}
