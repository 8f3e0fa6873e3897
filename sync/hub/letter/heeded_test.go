// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// heed has a box say what it has heard of its letters: all that it is told.
func (w *world) heed(box string) (amiss []api.Amiss) {
	w.Helper()
	all, err := w.mail.Standing(w.Context(), box)
	if err == nil {
		err = w.mail.Heeded(w.Context(), box, all)
	}
	if err != nil {
		w.Fatal(err)
	}
	for _, s := range all.To {
		amiss = append(amiss, s.Amiss...)
	}
	return amiss
}

// Whatever number of events a server bars while the box is away, the box hears of each before the letter counts as done: what does not fit beside what it has not heard waits, and holds up no other queue.
func TestNothingAmissUnheard(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.askIs = 403
		const letters, rooms = 6, 40
		for n := range letters {
			var events []string
			for i := range rooms {
				events = append(events, fmt.Sprintf("r%d/%d", i, n))
			}
			w.leave("box1.test", farAway, events...)
		}
		w.after(2 * time.Hour)
		w.done("box1.test", farAway, 2, letters-2)
		if s := w.standing("box1.test", farAway); s.Trouble != unheard || s.Status != 0 {
			t.Errorf("the box reads %q, %d", s.Trouble, s.Status)
		}
		if n := w.centre.tries(); n != 3 {
			t.Errorf("%d transactions while it waits", n)
		}
		w.leave("box2.test", farAway, "r1/x") // a room of the one that waits
		w.after(time.Second)
		w.done("box2.test", farAway, 1, 0)

		var amiss []api.Amiss
		for range letters {
			amiss = append(amiss, w.heed("box1.test")...)
			w.after(5 * time.Second)
		}
		w.done("box1.test", farAway, letters, 0)
		slices.SortFunc(amiss, func(a, b api.Amiss) int { return strings.Compare(a.Event, b.Event) })
		if n := len(slices.Compact(amiss)); n != letters*rooms || len(amiss) != n {
			t.Errorf("the box heard of %d events in %d words, want %d", n, len(amiss), letters*rooms)
		}
		if s := w.standing("box1.test", farAway); s.Trouble != "" || len(s.Amiss) > 0 {
			t.Errorf("afterwards it hears %+v", s)
		}
		w.centre.has(strings.Join(w.centre.events, " "), letters+1)
	})
}

// A word for another memory, or of what it was not told, makes the hub forget nothing.
func TestHeededOfAnother(t *testing.T) {
	inWorld(t, func(w *world) {
		w.centre.askIs = 403
		w.leave("box1.test", farAway, "a/1")
		w.after(time.Second)
		all, err := w.mail.Standing(w.Context(), "box1.test")
		if err != nil {
			t.Fatal(err)
		}
		other := all
		other.Epoch = "another"
		if err := w.mail.Heeded(w.Context(), "box1.test", other); err != nil {
			t.Error(err)
		}
		if err := w.mail.Heeded(w.Context(), "box2.test", all); err != nil {
			t.Error(err)
		}
		unlike := api.Letters{Epoch: all.Epoch, To: []api.Standing{{To: farAway, Amiss: []api.Amiss{{Series: "s", N: 1, Event: "$a/1", What: api.Unkept}}}, {To: "other.test", Amiss: all.To[0].Amiss}}}
		if err := w.mail.Heeded(w.Context(), "box1.test", unlike); err != nil {
			t.Error(err)
		}
		if s := w.standing("box1.test", farAway); len(s.Amiss) != 1 {
			t.Errorf("the box hears %+v", s)
		}
	})
}

// What cannot be noted is not brought again, also when the spool cannot be read either: EDUs would come twice at servers that do not know the id any more.
func TestNoteAlone(t *testing.T) {
	inWorld(t, func(w *world) {
		w.spool.fails = "amend"
		w.leave("box1.test", farAway, "edu")
		w.after(10 * time.Millisecond)
		w.spool.mu.Lock()
		w.spool.fails = "next"
		w.spool.mu.Unlock()
		w.after(time.Minute)
		w.done("box1.test", farAway, 1, 0)
		w.centre.has("", 1)
		if w.spool.fails != "" {
			t.Errorf("%s did not fail", w.spool.fails)
		}
	})
}

// between is a spool on which another node notes something as soon as this one has read.
type between struct {
	spool.Spool
	do func()
}

func (b *between) Deposited(ctx context.Context, box, kind, key string) ([]byte, error) {
	raw, err := b.Spool.Deposited(ctx, box, kind, key)
	if do := b.do; do != nil {
		b.do = nil
		do()
	}
	return raw, err
}

// A note of a node that has lost the box in the middle takes nothing from what the next one has noted.
func TestTwoNodesNote(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		note := func(m *Mail, n int64) {
			a := []api.Amiss{{Series: "s", N: n, Event: fmt.Sprintf("$%d", n), What: api.Barred}}
			if err := m.note(w.Context(), "box1.test", farAway, func(e *entry) error { return e.done("s", n, a) }); err != nil {
				t.Error(err)
			}
		}
		c := w.mail.c
		old := c
		old.Spool = &between{Spool: c.Spool, do: func() { note(New(c), 2) }}
		m := New(old)
		note(m, 1)
		if b := old.Spool.(*between); b.do != nil { // nothing was read outside of the act
			b.do()
		}
		s := w.standing("box1.test", farAway)
		if len(s.Amiss) != 2 || !slices.Equal(s.Done, []api.Done{{Series: "s", N: 2}}) {
			t.Errorf("noted: %+v", s)
		}
	})
}

// What is noted of a box stays within its bytes: entries that tell of nothing amiss make room, oldest first, and no other does.
func TestBookBounded(t *testing.T) {
	long := strings.Repeat("<", 250)
	all := map[string]*entry{}
	full := func(e *entry) {
		for i := range int64(mostAmiss) {
			e.Amiss = append(e.Amiss, api.Amiss{Series: long, N: i, Event: long, What: api.Barred})
		}
	}
	for i := range 20 {
		e := &entry{At: int64(i)}
		for range mostSeries {
			e.Done = append(e.Done, api.Done{Series: long, N: 1})
		}
		if i%2 == 1 && i < 4 {
			full(e)
		}
		all[fmt.Sprint(i)] = e
	}
	raw, err := writeBook(all, "0")
	if err != nil || len(raw) > mostBook || len(raw) < mostBook/2 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	kept, err := readBook(raw)
	if err != nil || kept["0"] == nil || kept["1"] == nil || kept["3"] == nil || kept["2"] != nil || kept["19"] == nil {
		t.Errorf("kept %d entries, %v", len(kept), err)
	}
	for i := range 20 {
		all[fmt.Sprint(i)] = &entry{}
		full(all[fmt.Sprint(i)])
	}
	if _, err := writeBook(all, "0"); !errors.Is(err, ErrUnheard) {
		t.Errorf("what is not heard was dropped: %v", err)
	}
	if raw, err := json.Marshal(all["1"]); err != nil || 3*len(raw) > mostBook {
		t.Errorf("an entry has %d bytes, %v", len(raw), err)
	}
}

// What a box hears fits into an api.Answer, whatever its letters wait for and however full its book is.
func TestStandingFits(t *testing.T) {
	inWorld(t, func(w *world) {
		w.stop()
		book := map[string]*entry{}
		for i := range 12 {
			e := &entry{}
			for n := range int64(mostAmiss) {
				e.Amiss = append(e.Amiss, api.Amiss{Series: "s", N: n, Event: strings.Repeat("$", 255), What: api.Unkept})
			}
			book[fmt.Sprintf("far%d.test", i)] = e
		}
		raw, err := writeBook(book, "")
		if err == nil {
			err = w.spool.Deposit(w.Context(), "box1.test", kindBook, "", raw)
		}
		if err != nil {
			t.Fatal(err)
		}
		why := strings.Repeat("\x01", 400) // six bytes each
		w.spool.Spool = &crowded{Spool: w.spool.Spool, box: "box1.test", servers: 10_000}
		w.mail.Look(w.Context(), "box1.test")
		for _, l := range w.mail.lines {
			l.trouble, l.status = why, 400
		}
		all, err := w.mail.Standing(w.Context(), "box1.test")
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(all)
		if err != nil || len(text) > api.MaxLetters || len(text) > api.MaxAnswer*15/16 {
			t.Errorf("%d bytes, %v", len(text), err)
		}
		for _, s := range all.To {
			if s.Waiting > 0 && s.Status != 400 {
				t.Fatalf("of %s the box hears %+v", s.To, s)
			}
		}
	})
}

// crowded is a spool in which letters for many servers wait.
type crowded struct {
	spool.Spool
	box     string
	servers int
}

func (c *crowded) Waiting(context.Context, string) (out []spool.Waiting, err error) {
	for i := range c.servers {
		out = append(out, spool.Waiting{Queue: spool.Queue{Box: c.box, Other: fmt.Sprintf("%032d.test", i)}, Count: 2, Bytes: 1000})
	}
	return out, nil
}
