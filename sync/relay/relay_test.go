// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hallig/appliance/store"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// fleet is relays that are joined by links without faults of their own.
type fleet struct {
	t     *testing.T
	nodes map[peer.ID]*node
}

// node is one box: a real store, a real relay; its links only hand parcels over.
type node struct {
	f      *fleet
	name   string
	dir    string
	key    ed25519.PrivateKey
	peer   peer.Peer
	limits Limits

	db    *store.DB
	relay *Relay
	stop  context.CancelFunc
	ended chan struct{}
	wakes chan peer.ID
	eats  bool // it answers for everything and passes nothing on

	mu      sync.Mutex
	roster  peer.Roster
	far     map[peer.ID]bool
	read    []string
	handed  int // parcels given to neighbours
	crossed int // bytes of them
}

func inFleet(t *testing.T, story func(t *testing.T, f *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{t: t, nodes: map[peer.ID]*node{}}
		defer func() {
			for _, n := range f.nodes {
				n.halt()
			}
		}()
		story(t, f)
	})
}

func (f *fleet) node(name string) *node {
	n := &node{f: f, name: name, dir: f.t.TempDir(), key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte(name[:1]), ed25519.SeedSize)), far: map[peer.ID]bool{}}
	public := n.key.Public().(ed25519.PublicKey)
	n.peer = peer.Peer{ID: peer.IDOf(public), Server: name + ".test", BoxKey: public}
	f.nodes[n.peer.ID] = n
	return n
}

func paired(nodes ...*node) {
	for _, a := range nodes {
		for _, b := range nodes {
			if a != b {
				a.roster = a.roster.With(b.peer)
			}
		}
	}
}

func (n *node) start() *node {
	t := n.f.t
	t.Helper()
	var err error
	if n.db, err = store.Open(t.Context(), filepath.Join(n.dir, "hallig.db"), store.Options{Reserve: -1}); err != nil {
		t.Fatal(err)
	}
	n.relay, err = New(t.Context(), Config{Key: n.key, DB: n.db, Limits: n.limits, Roster: func() peer.Roster {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.roster
	}})
	if err != nil {
		t.Fatal(err)
	}
	n.wakes = make(chan peer.ID, 1<<14)
	n.relay.Begin(func(id peer.ID) { n.wakes <- id })
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	n.stop, n.ended = stop, ended
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = n.relay.Serve(ctx, func(string, int, int) {}, func(string) {}, func(addr string, m []byte) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.read = append(n.read, string(m))
		}, func(string) {})
	})
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case id := <-n.wakes:
				n.give(id)
			}
		}
	})
	go func() { wg.Wait(); close(ended) }() // halt waits for it
	return n
}

func (n *node) halt() {
	if n.db == nil {
		return
	}
	n.stop()
	<-n.ended
	if err := n.db.Close(); err != nil {
		n.f.t.Error(err)
	}
	n.db = nil
}

// give hands over all that is ready for a neighbour.
func (n *node) give(id peer.ID) {
	for priority := range parcel.Bulk + 1 {
		for {
			n.mu.Lock()
			there := n.far[id]
			n.mu.Unlock()
			to := n.f.nodes[id]
			if !there || to.db == nil {
				return
			}
			p, done := n.relay.Next(id, priority, 1000)
			if p == nil {
				break
			}
			if s, ok := p.(*parcel.Sealed); ok {
				n.mu.Lock()
				n.handed++
				n.crossed += len(s.Body)
				n.mu.Unlock()
				if to.eats {
					to.tells(n, &parcel.Forward{Taken: []parcel.Custody{{To: s.To, From: s.From, Seqs: []uint64{s.Seq}}}})
					done(true)
					continue
				}
			}
			if !to.eats {
				to.relay.Take(n.peer.ID, p)
			}
			done(true)
		}
	}
}

// tells says something to a neighbour that its relay does not know of.
func (n *node) tells(to *node, f *parcel.Forward) { to.relay.Take(n.peer.ID, f) }

func join(a, b *node, up bool) {
	for _, p := range [][2]*node{{a, b}, {b, a}} {
		x, y := p[0], p[1]
		x.mu.Lock()
		x.far[y.peer.ID] = up
		x.mu.Unlock()
		if x.db == nil {
			continue
		}
		if up {
			x.relay.Neighbour(y.peer.ID, 1e6)
		} else {
			x.relay.Neighbour(y.peer.ID, 0)
		}
	}
}

func (n *node) got() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.read)
}

// post writes to a box; what became of it is in the channel.
func (n *node) post(to *node, priority int, life time.Duration, text string) chan error {
	end := make(chan error, 1)
	n.relay.Post(string(to.peer.ID), priority, life, []byte(text), func(err error) { end <- err })
	return end
}

func (n *node) status() Status {
	n.f.t.Helper()
	s, err := n.relay.Status(n.f.t.Context())
	if err != nil {
		n.f.t.Fatal(err)
	}
	return s
}

func pass(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

func wantEnd(t *testing.T, what string, end chan error, want error) {
	t.Helper()
	select {
	case err := <-end:
		if !errors.Is(err, want) {
			t.Errorf("%s ended with %v, want %v", what, err, want)
		}
	default:
		t.Errorf("%s: no word yet, want %v", what, want)
	}
}

// Long messages of all sizes go in parts and come out whole, in both directions, over two strangers.
func TestParts(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, s, d := f.node("anna"), f.node("rosa"), f.node("sina"), f.node("dora")
		paired(a, r)
		paired(r, s)
		paired(s, d)
		paired(a, d)
		for _, n := range []*node{a, r, s, d} {
			n.start()
		}
		join(a, r, true)
		join(r, s, true)
		join(s, d, true)
		pass(10 * time.Second)
		var ends []chan error
		var texts []string
		for _, size := range []int{1, partSize - 1, partSize, partSize + 1, 5000, maxMessage} {
			text := strings.Repeat(fmt.Sprint(size, " "), size)[:size]
			texts = append(texts, text)
			ends = append(ends, a.post(d, parcel.Routine, 0, text), d.post(a, parcel.Bulk, 0, text))
		}
		pass(2 * time.Minute)
		for _, n := range []*node{a, d} {
			if got := n.got(); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(texts))) {
				t.Errorf("%s has read %d messages, want %d", n.name, len(got), len(texts))
			}
		}
		for i, end := range ends {
			wantEnd(t, fmt.Sprint("message ", i), end, nil)
		}
		for _, n := range []*node{r, s} {
			if st := n.status(); len(st.Carrying) > 0 || st.Counts.Taken == 0 {
				t.Errorf("%s: %+v", n.name, st)
			}
		}
		if end := a.post(d, 3, 0, strings.Repeat("x", maxMessage+1)); true {
			pass(time.Second)
			wantEnd(t, "too long a message", end, errLong)
		}
	})
}

// sealedBy makes a parcel as a box would.
func sealedBy(t *testing.T, from, to *node, epoch, seq uint64, text string) *parcel.Sealed {
	t.Helper()
	seal, err := peer.NewSeal(from.key, to.peer.BoxKey)
	if err != nil {
		t.Fatal(err)
	}
	p := &parcel.Sealed{To: to.peer.ID, From: parcel.Origin{Box: from.peer.ID, Epoch: epoch}, Seq: seq, Priority: parcel.Routine}
	if p.Body, err = seal.Close(epoch, seq, p.With(), append([]byte{flagMessage, 0}, text...)); err != nil {
		t.Fatal(err)
	}
	return p
}

// What comes is hostile: forged, replayed, bent, of strangers. It changes nothing and is counted.
func TestHostileParcels(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, d, x := f.node("anna"), f.node("rosa"), f.node("dora"), f.node("xeni")
		paired(a, d)
		paired(r, d)
		d.start()
		take := func(p *parcel.Sealed) {
			d.relay.Take(r.peer.ID, p)
			pass(time.Second)
		}
		good := sealedBy(t, a, d, 7, 1, "once")
		bent := *good
		bent.Body = bytes.Clone(good.Body)
		bent.Body[5] ^= 1
		take(&bent)
		urgent := *good
		urgent.Priority = parcel.Flash
		take(&urgent)
		if got := d.got(); len(got) > 0 {
			t.Fatalf("read %q", got)
		}
		take(good) // what was bent before has not used up its number
		take(good)
		take(sealedBy(t, x, d, 1, 1, "of nobody known"))
		stolen := sealedBy(t, x, d, 7, 2, "under anna's name")
		stolen.From.Box = a.peer.ID
		take(stolen)
		mirrored := sealedBy(t, d, a, 7, 3, "our own")
		mirrored.To, mirrored.From.Box = d.peer.ID, a.peer.ID
		take(mirrored)
		take(&parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: a.peer.ID, Epoch: 7}, Seq: 4, Body: []byte("short")})
		take(&parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: a.peer.ID, Epoch: 7}, Seq: 1 << 63, Body: make([]byte, 100)})
		take(&parcel.Sealed{To: "nobody", From: parcel.Origin{Box: a.peer.ID, Epoch: 7}, Seq: 5, Body: make([]byte, 100)})
		take(&parcel.Sealed{To: x.peer.ID, From: parcel.Origin{Box: a.peer.ID, Epoch: 7}, Seq: 6, Body: make([]byte, maxBody+1)})
		c := d.status().Counts
		if got := d.got(); !slices.Equal(got, []string{"once"}) || c.Forged != 4 || c.Twice != 1 || c.Strange != 1 || c.Refused != 4 || c.Taken != 0 {
			t.Errorf("read %q, counts %+v", got, c)
		}
		d.halt()
		d.start()
		take(good)
		take(sealedBy(t, a, d, 7, 8, "twice"))
		if got := d.got(); !slices.Equal(got, []string{"once", "twice"}) || d.status().Counts.Twice != 1 {
			t.Errorf("after a restart: read %q, counts %+v", got, d.status().Counts)
		}
	})
}

// Full is said, and what was not taken stays with its giver until there is room. One who floods, whatever names it uses, takes no room from others.
func TestFull(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, b, r, d := f.node("anna"), f.node("bert"), f.node("rosa"), f.node("dora")
		paired(a, r, d)
		paired(b, r)
		r.limits = Limits{Total: 400_000, Writer: 100_000, Giver: 200_000}
		for _, n := range []*node{a, r, d} {
			n.start()
		}
		for i := range 2000 { // bert invents writers
			r.relay.Take(b.peer.ID, &parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: peer.IDOf(bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 16)), Epoch: 1}, Seq: uint64(i + 1), Body: make([]byte, 500)})
		}
		pass(time.Minute)
		s := r.status()
		if s.Total > 200_000 || s.Total < 190_000 || s.Counts.Full == 0 {
			t.Fatalf("%d bytes are carried, %+v", s.Total, s.Counts)
		}
		join(a, r, true)
		pass(time.Second)
		var ends []chan error
		for i := range 40 {
			ends = append(ends, a.post(d, parcel.Routine, 0, strings.Repeat(fmt.Sprint(i), 4000)[:4000]))
		}
		pass(5 * time.Minute)
		s = r.status()
		if s.Total > 300_000 || s.Total < 290_000 {
			t.Errorf("%d bytes are carried, want those of two givers up to their bounds", s.Total)
		}
		join(r, d, true)
		pass(2 * time.Hour)
		for i, end := range ends {
			wantEnd(t, fmt.Sprint("message ", i), end, nil)
		}
		if got := d.got(); len(got) != 40 {
			t.Errorf("%d messages were read, want 40", len(got))
		}
		if s = r.status(); s.Total != 0 {
			t.Errorf("%d bytes are still carried", s.Total)
		}
	})
}

// A parcel's lifetime is counted down by whoever holds it, restarts included; what does not expire stays.
func TestLifetime(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, d := f.node("anna"), f.node("rosa"), f.node("dora")
		paired(a, r, d)
		a.start()
		r.start()
		d.start()
		join(a, r, true)
		pass(time.Second)
		hour := a.post(d, parcel.Priority, time.Hour, "for an hour")
		ever := a.post(d, parcel.Routine, 0, "for ever")
		pass(30 * time.Minute)
		join(a, r, false)
		r.halt()
		pass(5 * time.Hour) // switched off: nobody counts
		r.start()
		if s := r.status(); len(s.Carrying) != 1 || s.Carrying[0].Count != 2 {
			t.Errorf("carries %+v, want two parcels", s.Carrying)
		}
		pass(45 * time.Minute)
		if s := r.status(); len(s.Carrying) != 1 || s.Carrying[0].Count != 1 {
			t.Errorf("carries %+v, want one parcel", s.Carrying)
		}
		join(r, d, true)
		pass(time.Minute)
		if got := d.got(); !slices.Equal(got, []string{"for ever"}) {
			t.Errorf("read %q", got)
		}
		wantEnd(t, "the short-lived", hour, errOver)
		join(a, r, true)
		pass(10 * time.Minute)
		wantEnd(t, "the lasting one", ever, nil)
	})
}

// Who claims to be near and eats what it takes is found out: the next try goes another way as well.
func TestLiar(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, m, r, d := f.node("anna"), f.node("mara"), f.node("rosa"), f.node("dora")
		paired(a, m, r, d)
		m.eats = true
		for _, n := range []*node{a, m, r, d} {
			n.start()
		}
		join(a, m, true)
		join(a, r, true)
		pass(time.Second)
		m.tells(a, &parcel.Forward{Reach: []parcel.Reach{{Box: d.peer.ID, Cost: 1}}})
		pass(time.Second)
		join(r, d, true)
		join(r, d, false) // rosa meets dora now and then, no more
		pass(time.Second)
		end := a.post(d, parcel.Routine, 0, "first")
		pass(10 * time.Minute)
		wantEnd(t, "what the liar ate", end, errSilent)
		if st := r.status(); st.Counts.Taken > 0 {
			t.Error("rosa had a copy at once: the test shows nothing")
		}
		end = a.post(d, parcel.Routine, 0, "second")
		pass(time.Minute)
		join(r, d, true)
		pass(10 * time.Minute)
		if got := d.got(); !slices.Equal(got, []string{"second"}) {
			t.Errorf("read %q", got)
		}
		wantEnd(t, "what went another way as well", end, nil)
	})
}

// Flash that floods is with everybody; where nobody calls it back it ends by itself, and what has ended keeps no box busy.
func TestFlashEnds(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, s, d := f.node("anna"), f.node("rosa"), f.node("sina"), f.node("dora")
		paired(a, r, s, d)
		for _, n := range []*node{a, r, s, d} {
			n.start()
		}
		join(a, r, true)
		join(r, s, true)
		pass(time.Second)
		end := a.post(d, parcel.Flash, 0, "flood")
		pass(time.Minute)
		join(a, r, false)
		if len(r.status().Carrying) != 1 || len(s.status().Carrying) != 1 {
			t.Fatalf("carried: %+v, %+v; want a copy each", r.status().Carrying, s.status().Carrying)
		}
		pass(flashLife)
		join(r, s, false)
		join(r, s, true)
		join(a, r, true)
		before := r.handed + s.handed
		pass(time.Hour)
		wantEnd(t, "flash without an answer", end, errOver)
		if len(r.status().Carrying)+len(s.status().Carrying) > 0 {
			t.Errorf("still carried: %+v, %+v", r.status().Carrying, s.status().Carrying)
		}
		if n := r.handed + s.handed - before; n > 0 {
			t.Errorf("what is over was handed over %d times", n)
		}
	})
}

// Only its writer and its reader may end what is carried; and words on what nobody offered do nothing.
func TestForeignWords(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, m, d := f.node("anna"), f.node("rosa"), f.node("mara"), f.node("dora")
		paired(a, r, m, d)
		for _, n := range []*node{a, r, m, d} {
			n.start()
		}
		join(a, r, true)
		pass(time.Second)
		a.post(d, parcel.Routine, 0, "mine")
		pass(time.Minute)
		join(a, r, false)
		join(r, m, true)
		pass(time.Second)
		name := parcel.Custody{To: d.peer.ID, From: parcel.Origin{Box: a.peer.ID, Epoch: a.relay.epoch}, Seqs: []uint64{1}}
		m.tells(r, &parcel.Forward{Done: []parcel.Custody{name}})
		m.tells(r, &parcel.Forward{Taken: []parcel.Custody{name}})
		m.tells(r, &parcel.Forward{Done: []parcel.Custody{{To: m.peer.ID, From: name.From, Seqs: []uint64{9}}}})
		pass(time.Minute)
		if s := r.status(); len(s.Carrying) != 1 || s.Counts.Refused != 1 || s.Counts.Unasked != 1 {
			t.Errorf("carries %+v, counts %+v", s.Carrying, s.Counts)
		}
		join(r, m, false)
		join(a, r, true)
		pass(time.Second)
		a.tells(r, &parcel.Forward{Done: []parcel.Custody{name}})
		pass(time.Minute)
		if s := r.status(); len(s.Carrying) != 0 {
			t.Errorf("still carries %+v", s.Carrying)
		}
	})
}

// Copies that went out without a known way are called back when one has arrived.
func TestSpray(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, d := f.node("anna"), f.node("dora")
		var near []*node
		for _, name := range []string{"b", "c", "e", "f", "g"} {
			n := f.node(name)
			paired(a, n)
			paired(n, d)
			near = append(near, n)
		}
		paired(a, d)
		a.start()
		d.start()
		for _, n := range near {
			n.start()
			join(a, n, true)
		}
		pass(time.Second)
		end := a.post(d, parcel.Routine, 0, "to whom it may concern")
		pass(time.Minute)
		var with []*node
		for _, n := range near {
			if len(n.status().Carrying) > 0 {
				with = append(with, n)
			}
		}
		if len(with) != copies {
			t.Fatalf("%d neighbours have a copy, want %d", len(with), copies)
		}
		join(with[1], d, true)
		pass(10 * time.Minute)
		wantEnd(t, "the message", end, nil)
		for _, n := range near {
			if s := n.status(); len(s.Carrying) > 0 {
				t.Errorf("%s still carries %+v", n.name, s.Carrying)
			}
		}
		if got := d.got(); len(got) != 1 {
			t.Errorf("read %d times", len(got))
		}
	})
}

// A parcel that goes round ends: a box that has had it does not take it again, and nobody hands on what has been handed on too often.
func TestCircle(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, r, s, x := f.node("anna"), f.node("rosa"), f.node("sina"), f.node("xeni")
		paired(a, r, s)
		r.start()
		s.start()
		join(r, s, true)
		// Both are told that the way leads over the other.
		s.tells(r, &parcel.Forward{Reach: []parcel.Reach{{Box: x.peer.ID, Cost: 3}}})
		r.tells(s, &parcel.Forward{Reach: []parcel.Reach{{Box: x.peer.ID, Cost: 3}}})
		pass(time.Second)
		for i := range 20 {
			p := sealedBy(t, a, x, 1, uint64(i+1), "round and round")
			p.Priority = parcel.Flash
			r.relay.Take(a.peer.ID, p)
		}
		old := sealedBy(t, a, x, 1, 99, "tired")
		old.Hops = parcel.MaxHops
		r.relay.Take(a.peer.ID, old)
		pass(time.Hour)
		if n := r.handed + s.handed; n > 40 {
			t.Errorf("20 parcels were handed over %d times", n)
		}
		if c := r.status().Counts; c.Circled != 1 {
			t.Errorf("counts %+v", c)
		}
	})
}

// TestFloodOfWords: a neighbour that hands over without end, and hears nothing, makes the relay hold no more than its bounds.
func TestFloodOfWords(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		r, d := f.node("rosa"), f.node("dora")
		paired(r, d)
		d.relay = &Relay{c: Config{Roster: func() peer.Roster { return d.roster }}, near: map[peer.ID]*neighbour{}, kick: make(chan struct{}, 1)}
		n := newNeighbour(r.peer.ID, 0)
		d.relay.near[r.peer.ID] = n
		big := make([]byte, 60<<10)
		d.relay.Take(r.peer.ID, &parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: r.peer.ID}, Seq: 1, Body: big})
		part := &parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: r.peer.ID}, Seq: 1, Body: big[:100]}
		d.relay.Take(r.peer.ID, part)
		if c := d.relay.came; len(c) != 1 || cap(c[0].sealed.Body) > maxBody || d.relay.count.Refused != 1 {
			t.Errorf("%d waiting, %d refused", len(c), d.relay.count.Refused)
		}
		word := &parcel.Forward{Taken: []parcel.Custody{{To: d.peer.ID, From: part.From, Seqs: make([]uint64, 20_000)}}}
		for range maxCame {
			d.tells(d, word)
		}
		held := 0
		for _, h := range d.relay.came {
			held += h.size()
		}
		if held > maxCameBytes*2/3 || held < maxCameBytes/3 {
			t.Errorf("holds %d bytes of words of one giver", held)
		}
		before := len(d.relay.came)
		r.tells(d, word)
		if len(d.relay.came) != before+1 {
			t.Error("another giver is not heard")
		}
		d.relay.came, d.relay.cameBytes, d.relay.cameBy = nil, 0, nil
		for range 2 * maxCame { // small, and many
			d.tells(d, &parcel.Forward{})
		}
		before = len(d.relay.came)
		r.tells(d, &parcel.Forward{})
		if before > maxCame*2/3 || len(d.relay.came) != before+1 {
			t.Errorf("%d words of one giver wait, then %d", before, len(d.relay.came))
		}
		over := &parcel.Forward{}
		for i := range 10 * maxNamed {
			name := parcel.Origin{Box: r.peer.ID, Epoch: uint64(i)}
			over.Done = append(over.Done, parcel.Custody{To: d.peer.ID, From: name, Seqs: []uint64{1}})
			d.relay.judge(r.peer.ID, &parcel.Sealed{To: "x", From: name, Seq: 1}, taken, time.Now())
			d.relay.judge(r.peer.ID, &parcel.Sealed{To: "x", From: part.From, Seq: uint64(i + 1)}, seenBefore, time.Now())
		}
		d.relay.heard(r.peer.ID, over, time.Now())
		if len(n.over) != maxOver || len(n.say.Taken) != maxNamed || len(n.say.Seen) != 1 || len(n.say.Seen[0].Seqs) != maxNamed {
			t.Errorf("%d over, %d taken, %d seen", len(n.over), len(n.say.Taken), len(n.say.Seen))
		}
	})
}

// TestFalseFlash: who calls all that it brings flash gets a share of that, and keeps nobody else's waiting.
func TestFalseFlash(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		m, a, r, d := f.node("mala"), f.node("anna"), f.node("rosa"), f.node("dora")
		paired(m, a, r, d)
		r.start()
		give := func(from *node, seq uint64) {
			r.relay.Take(from.peer.ID, &parcel.Sealed{To: d.peer.ID, From: parcel.Origin{Box: from.peer.ID, Epoch: 1}, Seq: seq, Priority: parcel.Flash, Body: make([]byte, 500)})
		}
		for seq := range uint64(80) {
			give(m, seq+1)
		}
		pass(time.Second)
		give(a, 1)
		pass(time.Second)
		r.relay.Neighbour(d.peer.ID, 1_000_000)
		pass(time.Second)
		count := func(priority int) (got map[peer.ID]int) {
			got = map[peer.ID]int{}
			for {
				p, done := r.relay.Next(d.peer.ID, priority, 1000)
				if p == nil {
					return got
				}
				if s, ok := p.(*parcel.Sealed); ok {
					got[s.From.Box]++
				}
				done(true)
			}
		}
		r.relay.mu.Lock()
		r.relay.changed(time.Now()) // what was not given is read again
		r.relay.mu.Unlock()
		r.relay.poke()
		pass(time.Second)
		urgent, routine := count(parcel.Flash), count(parcel.Routine)
		if most := flashHourly/500 + 1; urgent[m.peer.ID] != most || routine[m.peer.ID] != 80-most || urgent[a.peer.ID] != 1 {
			t.Errorf("as flash %v, as routine %v; mala is %s", urgent, routine, m.peer.ID)
		}
	})
}

// How long answers take where somebody has to travel says nothing while a way is known.
func TestOutlook(t *testing.T) {
	inFleet(t, func(t *testing.T, f *fleet) {
		a, b := f.node("anna"), f.node("bert")
		paired(a, b)
		a.start()
		pass(time.Second) // its first round is over: it would forget the way that is put in below
		outlook := func(want time.Duration, wantNear bool) {
			t.Helper()
			if _, answer, near := a.relay.Outlook(string(b.peer.ID)); answer != want || near != wantNear {
				t.Errorf("answers take %v, a way is known: %v; want %v, %v", answer, near, want, wantNear)
			}
		}
		a.relay.mu.Lock()
		a.relay.boxes[b.peer.ID] = &mailbox{id: b.peer.ID, took: time.Minute, trip: 4 * time.Hour}
		a.relay.mu.Unlock()
		outlook(4*time.Hour, false)
		a.relay.mu.Lock()
		a.relay.routes.best[b.peer.ID] = route{}
		a.relay.mu.Unlock()
		outlook(time.Minute, true)
	})
}
