// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"fmt"
	"testing"
)

// BenchmarkSyncOneNewEvent is what every waiting phone costs per message: a member of 50 rooms, one of which has news.
func BenchmarkSyncOneNewEvent(b *testing.B) {
	h := newHouse(b)
	anna, bert := h.person("anna"), h.person("bert")
	id := anna.create("public_chat")
	bert.join(id)
	for range 49 {
		anna.create("private_chat")
	}
	anna.sync("")
	since := anna.since
	bert.say(id, "hello")
	for b.Loop() {
		if _, err := h.feed.Sync(b.Context(), anna.id, anna.dev, SyncRequest{Since: since}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSyncInitial is what a new phone costs in 50 rooms.
func BenchmarkSyncInitial(b *testing.B) {
	h := newHouse(b)
	anna := h.person("anna")
	for i := range 50 {
		anna.say(anna.create("private_chat"), fmt.Sprint(i))
	}
	for b.Loop() {
		if _, err := h.feed.Sync(b.Context(), anna.id, anna.dev, SyncRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWakeHundred is one message to a room in which a hundred phones wait.
func BenchmarkWakeHundred(b *testing.B) {
	h := newHouse(b)
	anna := h.person("anna")
	id := anna.create("public_chat")
	type told struct {
		p    *person
		next string
	}
	answers := make(chan told, 100)
	var people []*person
	for i := range 100 {
		p := h.person(fmt.Sprintf("p%d", i))
		p.join(id)
		people = append(people, p)
	}
	for _, p := range people {
		p.sync(`{"room":{"state":{"lazy_load_members":true}}}`)
	}
	for b.Loop() {
		for _, p := range people {
			go func() {
				s, err := p.ask(SyncRequest{Since: p.since, Timeout: patience})
				if err != nil {
					b.Error(err)
					answers <- told{p, p.since}
					return
				}
				answers <- told{p, s.Next}
			}()
		}
		for range people {
			h.waitForPoll()
		}
		anna.say(id, "x")
		for range people {
			a := <-answers
			a.p.since = a.next
		}
	}
}
