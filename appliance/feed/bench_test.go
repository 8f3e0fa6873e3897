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
