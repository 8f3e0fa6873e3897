// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"log/slog"
	"maps"
	"sync"
	"time"

	"hallig/appliance/event"
)

// Kinds of events that are not taken in.
const (
	Malformed    = "malformed"      // not an event of the room's version: form, size, limits of prev_events and auth_events
	BadSignature = "bad_signature"  // not signed by whom it must be, or with a key that was not valid then
	ForeignRoom  = "foreign_room"   // of a room that is not ours to know
	Barred       = "barred"         // its server is kept out of the room, or we are not in it
	Refused      = "refused_by_law" // stored as rejected
)

// Trouble counts events that are not taken in, and says so in the log: once per kind and origin in a while, so that a flood of them is no flood there.
// Safe for concurrent use. Its zero value counts but logs nothing; a nil Trouble does nothing.
type Trouble struct {
	Log *slog.Logger
	Now func() time.Time // nil: time.Now

	mu     sync.Mutex
	counts map[string]int64
	said   map[[2]string]*saying // by kind and origin
}

type saying struct {
	at     time.Time
	silent int64 // since then
}

const (
	sayAgain = time.Minute
	maxSaid  = 1000
)

// Note counts an event of a kind. id may be empty: what cannot be read has none.
func (t *Trouble) Note(origin, kind string, id event.RoomID, ev event.ID, why error) {
	if t == nil {
		return
	}
	t.mu.Lock()
	if t.counts == nil {
		t.counts, t.said = map[string]int64{}, map[[2]string]*saying{}
	}
	t.counts[kind]++
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	key := [2]string{kind, origin}
	s := t.said[key]
	if s != nil && now().Sub(s.at).Abs() < sayAgain {
		s.silent++
		t.mu.Unlock()
		return
	}
	silent := int64(0)
	if s != nil {
		silent = s.silent
	} else if len(t.said) >= maxSaid {
		clear(t.said)
	}
	t.said[key] = &saying{at: now()}
	t.mu.Unlock()
	if t.Log != nil {
		t.Log.Info("event not taken in", "kind", kind, "origin", origin, "room", id, "event", ev, "reason", why, "more_before", silent)
	}
}

// Counts gives how many events of each kind were not taken in since the start.
func (t *Trouble) Counts() map[string]int64 {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}
