// SPDX-License-Identifier: EUPL-1.2

package letter

import "time"

// trip is the way of one letter, as a state machine: the caller does what next says, and tells how it went. It is pure; after a restart it begins anew, which repeats requests and does no harm.
//
// First the letter's own transaction is sent, and the server asked for the last event of each room until it knows them all. Servers answer 200 and drop events; a transaction that
// was answered is never looked at again. So when patience ends the same body goes under the next id, then the events alone in a transaction of the hub.
type trip struct {
	sends  int    // own signatures: the letter's own and its spares
	more   int    // further ones that somebody else can make
	repair bool   // the events may go in a transaction of the hub's own
	asks   []fate // by question

	way    int // the next to be sent, or the last one that was
	sent   bool
	sentAt time.Time
	askAt  time.Time
	gap    time.Duration
	round  int // the next question of this round
}

// fate is what is known of the last event of a room.
type fate int

const (
	open fate = iota
	known
	barred // the server does not tell
	unkept // given up
)

type kind int

const (
	rest   kind = iota // until act.at
	put                // send the body under signature act.n, or under one that another signer makes
	repair             // send the events in a transaction of the hub
	ask                // question act.n
	done               // nothing is left to do
)

type act struct {
	kind kind
	n    int
	at   time.Time
}

const (
	patience     = 15 * time.Second // until a server that has answered must know the events; doubled with each further way
	patienceMost = time.Minute
	askSoon      = 50 * time.Millisecond // for one event, and a little more for each further one: many servers answer when most of the work is done
	askEach      = 2 * time.Millisecond
	askMost      = 2 * time.Second
)

func newTrip(sends, more, asks int, repair bool) *trip {
	return &trip{sends: sends, more: more, asks: make([]fate, asks), repair: repair}
}

// next says what to do now.
func (t *trip) next(now time.Time) act {
	if !t.sent {
		switch {
		case t.way < t.sends+t.more:
			return act{kind: put, n: t.way}
		case t.way == t.sends+t.more && t.repair:
			return act{kind: repair}
		}
		for i, f := range t.asks {
			if f == open {
				t.asks[i] = unkept
			}
		}
		return act{kind: done}
	}
	if !t.left() {
		return act{kind: done}
	}
	if left := t.askAt.Sub(now); left > 0 {
		return act{kind: rest, at: t.askAt}
	}
	for ; t.round < len(t.asks); t.round++ {
		if t.asks[t.round] == open {
			return act{kind: ask, n: t.round}
		}
	}
	t.round = 0
	if now.Sub(t.sentAt) >= min(patience<<min(t.way, 8), patienceMost) {
		t.way, t.sent = t.way+1, false
		return t.next(now)
	}
	t.gap = min(t.gap*3/2, askMost)
	t.askAt = now.Add(t.gap)
	return act{kind: rest, at: t.askAt}
}

func (t *trip) left() bool {
	for _, f := range t.asks {
		if f == open {
			return true
		}
	}
	return false
}

// took notes that the server answered 200 to what was sent, which had so many events.
func (t *trip) took(now time.Time, events int) {
	t.sent, t.sentAt, t.round = true, now, 0
	t.gap = min(askSoon+time.Duration(events)*askEach, askMost)
	t.askAt = now.Add(t.gap)
}

// skip passes over a way that cannot be gone.
func (t *trip) skip() { t.way++ }

// answered notes what a question brought; open: the server does not know the event yet.
func (t *trip) answered(f fate) {
	t.asks[t.round] = f
	t.round++
}
