// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/spool"
)

// Config is what Mail needs. All that is not said to be optional must be set.
type Config struct {
	Spool spool.Spool
	Node  string        // this running program, to the leases
	Lease time.Duration // how long a lease lasts; whoever runs the hub renews those of the node
	Alone bool          // no other node can be at work on the spool: leases of others are those of programs that were killed
	Local federation.Local
	// Send has one signed request brought to a server. ErrBusy: not now, since something else of who signed it is under way there.
	Send func(ctx context.Context, to, method, uri, authorization string, body []byte) (status int, answer []byte, err error)
	// Key is the signing key that a box has stated; nil: there is none of that name, or the box is revoked.
	Key func(box, keyID string) ed25519.PublicKey
	// Boxes says whether a server is a box of this hub, and whether it may send.
	Boxes func(server string) (ours, good bool)
	// Changed is told that there is something new to say to a box of its letters; it must not block.
	Changed func(box string)
	// May says whether the server ACL of a room lets the box write there, as far as the hub knows. It is asked before events go under the hub's name, to which a server
	// applies the ACL instead. Optional; with or without it only those events go that this very server has taken from the box itself, without an error, in the same letter.
	May func(ctx context.Context, box, room string) bool
	// Sign is another signer for the requests of a box: for the same body under further ids, and when what the box signed does not count any more. ErrNoSigner: none for this box. Optional.
	Sign func(ctx context.Context, box, to, method, uri string, body []byte) (authorization string, err error)

	Limits Limits
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger
}

// Limits bound the letters of one box; for one server half of that is kept.
type Limits struct {
	Bytes   int64 // 0: 256 MiB
	Letters int64 // 0: 20,000
}

// Mail carries letters. Make it with New; Run does the work.
type Mail struct {
	c    Config
	wake chan struct{}

	Count Counters

	mu    sync.Mutex
	lines map[spool.Queue]*line
	fars  map[string]*far
	good  map[string]bool // servers that have answered or spoken, and not failed to answer since
	turn  int64
}

// Counters are what happened since the start.
type Counters struct {
	Taken, Done, Spares, Repaired, Barred, Unkept, Refused, Full atomic.Int64
}

// line is one queue. The fields below due are of whoever works on it.
type line struct {
	q spool.Queue
	// under Mail.mu
	busy      bool
	again     bool // something came while it was worked on
	hurry     bool // it is to be looked at at once
	stale     bool // the letter under way may have been taken back
	elsewhere bool // another node brought its letters when it was looked at last
	due       time.Time
	turn      int64
	trouble   string
	status    int
	graph     graph // what the hub has sent in its own name

	seq    int64 // of the letter under way
	trip   *trip
	ended  bool              // it has gone its way: only the note for the box lacks
	errs   map[string]string // what the server said against events, the first time
	rooms  []string
	wait   time.Duration
	lease  spool.Lease
	resign bool
}

// far is one server.
type far struct {
	down  bool
	since time.Time // of down
	spoke bool      // it has said something since it did not answer
	wait  time.Duration
	next  time.Time
	busy  int
	lines int
	rooms map[string]*line // who has events under way there
}

const (
	allAtOnce = 64 // requests of the node
	farAtOnce = 8  // of these to one server
	badAtOnce = 16 // of these to servers that did not answer the last time: one that is dead holds its place until the time is over
	lookEvery = 30 * time.Second
	waitFirst = time.Second
	waitMost  = time.Minute
	mostGood  = 10_000
	longDown  = time.Hour        // whoever is down for longer is tried at an eighth of that time
	waitDead  = time.Hour        // or this
	waitLong  = 10 * time.Minute // after a refusal that people have to see to
	roomTaken = 200 * time.Millisecond
	sendWait  = time.Minute // for the server's answer
)

// New returns Mail.
func New(c Config) *Mail {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Limits.Bytes == 0 {
		c.Limits.Bytes = 256 << 20
	}
	if c.Limits.Letters == 0 {
		c.Limits.Letters = 20_000
	}
	return &Mail{c: c, wake: make(chan struct{}, 1), lines: map[spool.Queue]*line{}, fars: map[string]*far{}, good: map[string]bool{}}
}

// Run brings letters until ctx ends.
func (m *Mail) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for look := m.c.Now(); ctx.Err() == nil; {
		if now := m.c.Now(); !now.Before(look) {
			m.Look(ctx, "")
			look = now.Add(lookEvery)
		}
		begin, again := m.pick()
		for _, l := range begin {
			wg.Go(func() { m.work(ctx, l) })
		}
		if left := look.Sub(m.c.Now()); again > left {
			again = left
		}
		t := time.NewTimer(max(again, time.Millisecond))
		select {
		case <-t.C:
		case <-m.wake:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

func (m *Mail) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Look finds queues of a box that are not empty, or those of all with "": what this node was not told of, or another one had until now.
func (m *Mail) Look(ctx context.Context, box string) {
	waiting, err := m.c.Spool.Waiting(ctx, box)
	if err != nil {
		if ctx.Err() == nil {
			m.c.Log.Error("look which letters wait; it is tried again", "err", err)
		}
		return
	}
	for _, w := range waiting {
		if !w.In {
			m.line(w.Queue)
		}
	}
	m.poke()
}

// line notes that something waits in a queue.
func (m *Mail) line(q spool.Queue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lines[q]
	if l == nil {
		l = &line{q: q}
		m.lines[q] = l
		if m.fars[q.Other] == nil {
			m.fars[q.Other] = &far{rooms: map[string]*line{}}
		}
		m.fars[q.Other].lines++
	}
	l.again = true
	if l.elsewhere && !l.busy { // the box may be here now
		l.due = time.Time{}
	}
}

// Hurry has the letters of a box looked at at once: it has brought a new key document, perhaps.
func (m *Mail) Hurry(box string) {
	m.mu.Lock()
	for q, l := range m.lines {
		if q.Box == box {
			l.due, l.hurry = time.Time{}, l.busy
		}
	}
	m.mu.Unlock()
	m.poke()
}

// Heard says that a server has spoken: it is in reach.
func (m *Mail) Heard(server string) {
	m.mu.Lock()
	f := m.fars[server]
	waits := f != nil && f.down
	m.isGood(server)
	if waits {
		f.next, f.spoke = time.Time{}, true
	}
	m.mu.Unlock()
	if waits {
		m.poke()
	}
}

// pick gives the lines whose turn it is, and when to look again.
func (m *Mail) pick() (begin []*line, again time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.c.Now()
	again = lookEvery
	var ready, bad []*line
	all, badly := places{most: allAtOnce, of: map[string]int{}}, places{most: badAtOnce, of: map[string]int{}}
	for _, l := range m.lines {
		f := m.fars[l.q.Other]
		at := l.due
		if f.down && f.next.After(at) {
			at = f.next
		}
		switch {
		case l.busy:
			all.give(l.q.Box, 1)
			if f.down {
				badly.give(l.q.Box, 1)
			}
		case at.After(now):
			again = min(again, at.Sub(now))
		case f.down:
			bad = append(bad, l)
			all.give(l.q.Box, 0)
			badly.give(l.q.Box, 0)
		default:
			ready = append(ready, l)
			all.give(l.q.Box, 0)
		}
	}
	slices.SortFunc(ready, func(a, b *line) int { return cmp.Compare(a.turn, b.turn) })
	slices.SortFunc(bad, func(a, b *line) int { // those first of which there is most hope
		x, y := m.fars[a.q.Other], m.fars[b.q.Other]
		if x.spoke != y.spoke {
			if x.spoke {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(x.wait, y.wait), cmp.Compare(a.turn, b.turn))
	})
	for _, l := range append(bad, ready...) { // the bad ones hold a part only
		f := m.fars[l.q.Other]
		most := farAtOnce
		if f.down {
			most = 1 // to find out whether it is back
		}
		if f.busy >= most || !all.free(l.q.Box) || f.down && !badly.free(l.q.Box) {
			continue
		}
		all.give(l.q.Box, 1)
		if f.down {
			badly.give(l.q.Box, 1)
		}
		l.busy, l.again, l.hurry, l.elsewhere = true, false, false, false
		if l.stale {
			l.seq, l.stale = 0, false
		}
		f.busy++
		m.turn++
		l.turn = m.turn
		begin = append(begin, l)
	}
	return begin, again
}

// places are what may go on at once. Each box that has anything to go has the same share.
type places struct {
	most, busy int
	of         map[string]int
}

func (p *places) give(box string, n int) {
	p.busy += n
	p.of[box] += n
}

func (p *places) free(box string) bool {
	return p.busy < p.most && p.of[box] < (p.most+len(p.of)-1)/len(p.of)
}

// isGood notes that a server is in reach. The caller holds Mail.mu.
func (m *Mail) isGood(server string) {
	if len(m.good) >= mostGood && !m.good[server] {
		for other := range m.good { // any: it is back with its next word
			delete(m.good, other)
			break
		}
	}
	m.good[server] = true
}

// inReach says whether a server is known to be in reach.
func (m *Mail) inReach(server string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.good[server]
}

// over gives a line back after a turn. gone: nothing waits there, or not for this node.
func (m *Mail) over(l *line, due time.Time, gone bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fars[l.q.Other]
	f.busy--
	l.busy, l.due = false, due
	if l.hurry || l.elsewhere && l.again {
		l.due = time.Time{}
	}
	if l.trip == nil || l.ended {
		f.release(l)
		l.graph = nil
	}
	if gone && !l.again {
		delete(m.lines, l.q)
		if f.lines--; f.lines == 0 {
			delete(m.fars, l.q.Other)
		}
	}
	m.poke()
}

// release gives up the rooms of a line. The caller holds Mail.mu.
func (f *far) release(l *line) {
	for _, room := range l.rooms {
		if f.rooms[room] == l {
			delete(f.rooms, room)
		}
	}
	l.rooms = nil
}

// claim takes the rooms of a letter at its server; false: another box's letter has events of one of them under way.
func (m *Mail) claim(l *line, rooms []string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fars[l.q.Other]
	f.release(l)
	for _, room := range rooms {
		if by := f.rooms[room]; by != nil && by != l {
			return false
		}
	}
	for _, room := range rooms {
		f.rooms[room] = l
	}
	l.rooms = rooms
	return true
}

// reached notes that a server has answered, or has not; then nothing goes to it for a while.
func (m *Mail) reached(server string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fars[server]
	if ok {
		if f.down {
			m.c.Log.Info("a server for which letters wait is in reach again", "server", server)
		}
		f.down, f.spoke, f.wait = false, false, 0
		m.isGood(server)
		return
	}
	delete(m.good, server)
	if !f.down {
		m.c.Log.Info("a server for which letters wait is out of reach; they are kept", "server", server)
		f.down, f.since, f.wait = true, m.c.Now(), waitFirst/2
	}
	most := waitMost
	if down := m.c.Now().Sub(f.since); down > longDown {
		most = min(down/8, waitDead)
	}
	f.spoke, f.wait = false, min(2*f.wait, most)
	f.next = m.c.Now().Add(f.wait)
}

// stands notes for people and for the box how the oldest letter of a queue does.
func (m *Mail) stands(l *line, trouble string, status int) {
	m.mu.Lock()
	changed := l.trouble != trouble || l.status != status
	l.trouble, l.status = trouble, status
	m.mu.Unlock()
	if changed {
		m.c.Changed(l.q.Box)
		switch {
		case trouble == unheard:
			m.c.Log.Warn("letters of a box wait for it: the hub keeps no more of what went wrong with those before; it goes on when the box has been here", "box", l.q.Box, "to", l.q.Other)
		case trouble != "" && !strings.HasPrefix(trouble, away):
			m.c.Log.Warn("a letter is not taken; it is tried again", "box", l.q.Box, "to", l.q.Other, "why", trouble)
		}
	}
}

// Why says why the oldest letter of a box for a server is not through yet; "": it is on its way, or not this node's.
func (m *Mail) Why(box, server string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.lines[spool.Queue{Box: box, Other: server}]; l != nil {
		return l.trouble
	}
	return ""
}

// away begins what is said of a server that does not answer.
const away = "out of the hub's reach"
