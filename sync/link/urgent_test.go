// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/room"
	"hallig/radio/ether"
)

// radioPair is two boxes on one radio channel whose users anna and bert share a room; anna made it.
func radioPair(t *testing.T, w *world, cfg ether.Config) (a, b *box, id event.RoomID, air *ether.Ether) {
	t.Helper()
	air = ether.New(cfg)
	a, b = w.box("anna"), w.box("bert")
	pair(a, b)
	radioed(air, cfg, a, b)
	a.handler, b.handler = withFiles(a), withFiles(b)
	w.start()
	until(t, 10*time.Minute, "greeting", func() bool {
		s, u := a.link.Status(), b.link.Status()
		return len(s) == 1 && s[0].Greeted && len(u) == 1 && u[0].Greeted
	})
	id = a.create("anna")
	b.join(a, id, "bert")
	pass(5 * time.Minute)
	return a, b, id, air
}

// withFiles answers as a box does, and gives files of the size that their name says.
func withFiles(b *box) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, ok := strings.CutPrefix(r.URL.Path, "/media/")
		if !ok {
			b.serve(w, r)
			return
		}
		n, _ := strconv.Atoi(size)
		file := make([]byte, n)
		rng := rand.New(rand.NewPCG(uint64(n), 0))
		for i := range file {
			file[i] = byte(rng.Uint32())
		}
		_, _ = w.Write(file)
	})
}

// fetch asks another box for a file and says how many bytes came; the channel is closed when all is over.
func (b *box) fetch(from *box, size int) (got func() int) {
	done := make(chan int, 1)
	go func() { // ends with the request, at the latest when the box halts
		n := 0
		r, err := http.NewRequestWithContext(b.w.t.Context(), http.MethodGet, "matrix-federation://"+from.name+"/media/"+strconv.Itoa(size), nil)
		if err == nil {
			if resp, err := b.roundTrip(r); err == nil {
				raw, _ := io.ReadAll(resp.Body)
				n = len(raw)
			}
		}
		done <- n
	}()
	n := -1
	return func() int {
		select {
		case n = <-done:
		default:
		}
		return n
	}
}

// says sends a text that asks for a priority.
func (b *box) says(id event.RoomID, by, text string, level priority.Level) event.ID {
	b.w.t.Helper()
	content, _ := json.Marshal(map[string]string{"msgtype": "m.text", "body": text, priority.Type: level.String()})
	eid, err := b.rooms.Send(b.w.t.Context(), room.Draft{Room: id, Sender: b.user(by), Type: "m.room.message", Content: content})
	if err != nil {
		b.w.t.Fatalf("%s says %q: %v", b.user(by), text, err)
	}
	return eid
}

// shows says whether a box shows an event.
func (b *box) shows(id event.RoomID, e event.ID) bool {
	for _, x := range b.timeline(id) {
		if x == e {
			return true
		}
	}
	return false
}

// A flash goes before a file, whichever way the file goes, and before the texts that wait; who may not raise does not.
func TestFlashOvertakes(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 1})
		other := a.create("anna")
		b.join(a, other, "bert")
		pass(5 * time.Minute)
		b.fetch(a, 100<<10) // a quarter of an hour
		a.fetch(b, 100<<10)
		pass(time.Minute)
		var texts []event.ID
		for i := range 30 {
			texts = append(texts, a.text(other, "anna", fmt.Sprintf("Nummer %d von vielen, die auf der Leitung warten", i)))
		}
		pass(5 * time.Second)
		for _, s := range []struct {
			from, to *box
			by       string
		}{{a, b, "anna"}, {b, a, "bert"}} {
			if s.from == b {
				a.state(id, "anna", priority.Type, "", map[string]any{"power": map[string]int{"flash": 0}})
				pass(time.Minute)
			}
			e := s.from.says(id, s.by, "Deich bricht bei Kilometer 7", priority.Flash)
			took := until(t, time.Minute, "flash of "+s.by, func() bool { return s.to.shows(id, e) })
			if took > 15*time.Second {
				t.Errorf("the flash of %s took %v, want at most 15s", s.by, took)
			}
		}
		if n := count(texts, b.timeline(other)); n == 0 {
			t.Error("all texts had arrived before the flash: nothing was overtaken")
		}
	})
}

// In a room without a policy a user without power gets priority at most, whatever the content says, at both boxes: no quiet, and no haste.
func TestWhoMayNotRaise(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 2})
		e := b.says(id, "bert", "mich hört niemand schneller", priority.Flash)
		until(t, time.Minute, "text", func() bool { return a.shows(id, e) })
		if a.link.Quiet() != (time.Time{}) || b.link.Quiet() != (time.Time{}) {
			t.Error("a user without power made the links quiet")
		}
		e = a.says(id, "anna", "ich darf das", priority.Flash)
		until(t, time.Minute, "text", func() bool { return b.shows(id, e) })
		if a.link.Quiet().IsZero() || b.link.Quiet().IsZero() {
			t.Error("after a flash of the room's creator the links are not quiet")
		}
	})
}

// After a flash routine and bulk wait for as long as the room's policy says, then go on by themselves; what is raised goes meanwhile.
func TestQuiet(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 3})
		a.state(id, "anna", priority.Type, "", map[string]any{"quiet_min": 3})
		pass(time.Minute)
		a.says(id, "anna", "Ruhe im Kanal", priority.Flash)
		pass(20 * time.Second)
		routine := b.text(id, "bert", "gewöhnlicher Verkehr")
		file := b.fetch(a, 1000)
		pass(5 * time.Second)
		urgent := b.says(id, "bert", "Vorrang geht", priority.Priority)
		until(t, 20*time.Second, "raised text", func() bool { return a.shows(id, urgent) })
		if !a.shows(id, routine) {
			t.Error("what the raised text builds on did not go with it")
		}
		routine = b.text(id, "bert", "noch etwas Gewöhnliches")
		pass(time.Minute)
		if a.shows(id, routine) || file() >= 0 {
			t.Error("routine and bulk used the narrow link in the quiet after a flash")
		}
		pass(2 * time.Minute)
		until(t, time.Minute, "routine after the quiet", func() bool { return a.shows(id, routine) && file() == 1000 })
		if !a.link.Quiet().IsZero() {
			t.Error("the quiet did not end")
		}
	})
}

// Who sets quiet_min to 0 ends the quiet that runs, at both boxes; who only shortens it shortens that; and it is not made longer by another change of state.
func TestQuietIsCalledOff(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 6})
		quiet := func() (left [2]time.Duration) {
			for i, x := range []*box{a, b} {
				if u := x.link.Quiet(); !u.IsZero() {
					left[i] = time.Until(u)
				}
			}
			return left
		}
		a.state(id, "anna", priority.Type, "", map[string]any{"quiet_min": 20})
		pass(time.Minute)
		a.says(id, "anna", "Ruhe im Kanal", priority.Flash)
		pass(time.Minute)
		a.state(id, "anna", "m.room.topic", "", map[string]any{"topic": "Deich"})
		pass(30 * time.Second)
		if q := quiet(); q[0] < 18*time.Minute || q[1] < 18*time.Minute || q[0] > 19*time.Minute || q[1] > 19*time.Minute {
			t.Fatalf("quiet for another %v, want some 18 minutes", q)
		}
		a.state(id, "anna", priority.Type, "", map[string]any{"quiet_min": 5})
		pass(30 * time.Second)
		if q := quiet(); q[0] < 2*time.Minute || q[1] < 2*time.Minute || q[0] > 4*time.Minute || q[1] > 4*time.Minute {
			t.Fatalf("quiet for another %v, want some 3 minutes", q)
		}
		texts := backlog(a, id, 3)
		pass(30 * time.Second)
		if n := count(texts, b.timeline(id)); n != 3 {
			t.Fatalf("%d of 3 texts wait in the quiet", n)
		}
		a.state(id, "anna", priority.Type, "", map[string]any{"quiet_min": 0})
		until(t, 30*time.Second, "texts after the quiet was called off", func() bool { return count(texts, b.timeline(id)) == 0 })
		until(t, 10*time.Second, "end of the quiet", func() bool { return quiet() == [2]time.Duration{} })
	})
}

// However many flashes come, others get their turn: quiet lasts half an hour at most in one piece.
func TestQuietIsBounded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, _ := radioPair(t, w, ether.Config{BitsPerSecond: 1200, Seed: 4})
		a.state(id, "anna", priority.Type, "", map[string]any{"per_10_min": map[string]int{"flash": 0}, "quiet_min": 20})
		pass(time.Minute)
		routine := b.text(id, "bert", "das hier kommt auch dran")
		pass(time.Millisecond)
		began := time.Now()
		for range 10 {
			a.says(id, "anna", "noch ein Blitz", priority.Flash)
			pass(5 * time.Minute)
		}
		if !a.shows(id, routine) {
			t.Errorf("a text waits since %v behind flash after flash", time.Since(began))
		}
	})
}

// The least urgent has a tenth of the line, however much the others have.
func TestBulkFloor(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		a, b, id, air := radioPair(t, w, ether.Config{BitsPerSecond: 2400, Seed: 5})
		const size = 3 << 10
		file := b.fetch(a, size)
		before, began := air.Counters(0).Bytes, time.Now()
		for i := 0; file() < 0 && time.Since(began) < 10*time.Minute; i++ {
			a.says(id, "anna", fmt.Sprintf("Vorrang %d, und die Leitung ist dauernd voll davon", i), priority.Priority)
			pass(400 * time.Millisecond)
		}
		if file() != size {
			t.Fatalf("bulk starved: %d bytes of the file after %v", file(), time.Since(began))
		}
		took := time.Since(began)
		share := float64(size) / float64(air.Counters(0).Bytes-before)
		t.Logf("%d bytes of bulk in %v beside a full line, %.0f %% of what was sent", size, took, 100*share)
		if share > 0.3 {
			t.Errorf("the line was not full: bulk had %.0f %% of it", 100*share)
		}
	})
}
