// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// Sealed text of a part:
//
//	flags(1)  [epoch(4) n { distance length }*]  seq-floor  [index count]  rest
//
// flagAnswer: which numbers of the reader's epoch the writer has read, as stretches. Floor: numbers below it are over, whether they
// were read or not. flagPart: the message has more parts, whose numbers follow each other. flagMessage: a message (or a part) is there.
const (
	flagAnswer  = 1
	flagPart    = 2
	flagMessage = 4
)

const (
	partSize   = 560       // of a message in one part: two seconds of a 2400 bit/s line
	maxBody    = 1024      // of a part that is taken for others
	maxOwn     = 256 << 10 // written for one box and not answered
	firstOwn   = 16 << 10  // the same, over a known way of which nobody knows yet how much it carries
	maxBlind   = 16 << 10  // the same, while no way to it is known
	maxMessage = 64 << 10
	copies     = 3 // to neighbours that know no way
	distrustBy = 3 // beyond so many failures a neighbour is not trusted less
)

// flashLife is how long flash without an answer is carried: everybody has a copy of it, and only writer and reader could call them all back.
// What was in it is written again then, as all that is not kept.
const flashLife = 24 * time.Hour

var (
	errClosed  = errors.New("relay: closed")
	errDirect  = errors.New("relay: the box is in direct reach now")
	errSilent  = errors.New("relay: no answer from the far box")
	errOver    = errors.New("relay: the time of the message is over")
	errUnknown = errors.New("relay: that box is not paired")
	errLong    = errors.New("relay: the message is too long")
)

// mailbox is what passes between this box and one other.
type mailbox struct {
	id      peer.ID
	seal    *peer.Seal
	seq     uint64 // the last given
	letters []*letter
	bytes   int
	took    time.Duration // until an answer over a known way, lately; 0: not known
	trip    time.Duration // the same where somebody had to travel
	window  int           // what may be unanswered over a known way: grows with the answers
	spoke   time.Time     // when the last answer came
	tries   int           // failures in a row
	distrst map[peer.ID]int

	heard    map[uint64]*hearing // by the other's epoch
	newest   uint64              // the other's epoch that spoke last
	answerAt time.Time           // an answer is due; zero: none is
	last     *letter             // that carries nothing but an answer
}

// hearing is what was read of one life of another box.
type hearing struct {
	met   spans
	parts map[uint64]*assembly // by the first number
	size  int
}

// assembly is a message of which not all parts are here.
type assembly struct {
	parts [][]byte
	lacks int
}

// letter is a message on its way.
type letter struct {
	to       peer.ID
	priority int
	parts    []*part
	done     func(error)
	posted   time.Time
	given    time.Time // first to a neighbour
	routed   bool      // on a known way
	until    time.Time // an answer should be here
	over     time.Time // it is worth nothing any more; zero: never
	bytes    int
}

// part is one sealed parcel of ours.
type part struct {
	l       *letter
	seq     uint64
	body    []byte
	given   map[peer.ID]bool // they have, or had it
	offered map[peer.ID]bool // they are about to get it
	routed  bool             // a neighbour on a known way has it
	read    bool
}

func (r *Relay) mailbox(id peer.ID) (*mailbox, error) {
	if b := r.boxes[id]; b != nil {
		return b, nil
	}
	p, ok := r.c.Roster().ByID(id)
	if !ok {
		return nil, errUnknown
	}
	seal, err := peer.NewSeal(r.c.Key, p.BoxKey)
	if err != nil {
		return nil, err
	}
	b := &mailbox{id: id, seal: seal, heard: map[uint64]*hearing{}, window: firstOwn, distrst: map[peer.ID]int{}}
	r.boxes[id] = b
	return b, nil
}

// Free says how much the box would take for a far one now: nothing while nobody is there to carry it.
func (r *Relay) Free(addr string, priority int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	to := peer.ID(addr)
	if r.routes.near[to] > 0 {
		return 0 // directly, then
	}
	most, now, b := 0, time.Now(), r.boxes[to]
	for id, n := range r.near {
		switch r.routes.suits(id, to, now) {
		case fitRoute:
			most = firstOwn
			if b != nil {
				most = b.window
			}
		case fitPast:
			most = maxOwn
		case fitBlind:
			if n.slow() {
				most = max(most, maxBlind)
			} else {
				most = maxOwn
			}
		}
	}
	if most == 0 && priority == parcel.Flash && len(r.near) > 0 {
		most = maxBlind
	}
	if b != nil {
		most -= b.bytes
	}
	return most
}

// Send posts a message that is good for ever.
func (r *Relay) Send(addr string, priority int, message []byte, done func(error)) {
	r.Post(addr, priority, 0, message, done)
}

// Post seals a message for a box. done is called once: nil means that the far box has read it.
func (r *Relay) Post(addr string, priority int, life time.Duration, message []byte, done func(error)) {
	err := r.post(peer.ID(addr), priority, life, message, done)
	if err != nil {
		r.mu.Lock()
		r.then = append(r.then, func() { done(err) })
		r.mu.Unlock()
	}
	r.poke()
}

func (r *Relay) post(to peer.ID, priority int, life time.Duration, message []byte, done func(error)) error {
	if len(message) > maxMessage {
		return errLong
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := r.mailbox(to)
	if err != nil {
		return err
	}
	l := &letter{to: to, priority: max(min(priority, parcel.Bulk), parcel.Flash), done: done, posted: time.Now()}
	if life == 0 && l.priority == parcel.Flash {
		life = flashLife
	}
	if life > 0 {
		l.over = l.posted.Add(life)
	}
	count := max((len(message)+partSize-1)/partSize, 1)
	for i := range count {
		piece := message[i*partSize : min((i+1)*partSize, len(message))]
		flags := byte(flagMessage)
		var head []byte
		if count > 1 {
			flags |= flagPart
			head = binary.AppendUvarint(binary.AppendUvarint(nil, uint64(i)), uint64(count))
		}
		if err := r.seal(b, l, flags, head, piece); err != nil {
			return err
		}
	}
	b.letters = append(b.letters, l)
	b.bytes += l.bytes
	r.hunger(to)
	return nil
}

// seal makes one part, with the answer that is due.
func (r *Relay) seal(b *mailbox, l *letter, flags byte, head, piece []byte) error {
	b.seq++
	floor := b.seq
	if len(b.letters) > 0 {
		floor = b.letters[0].parts[0].seq
	} else if len(l.parts) > 0 {
		floor = l.parts[0].seq
	}
	var text []byte
	if h := b.heard[b.newest]; h != nil && !b.answerAt.IsZero() {
		flags |= flagAnswer
		text = appendAnswer([]byte{flags}, b.newest, h.met)
		b.answerAt = time.Time{}
	} else {
		text = []byte{flags}
	}
	text = binary.AppendUvarint(text, b.seq-floor)
	text = append(append(text, head...), piece...)
	body, err := b.seal.Close(r.epoch, b.seq, (&parcel.Sealed{Priority: l.priority}).With(), text)
	if err != nil {
		return fmt.Errorf("seal for %s: %w", b.id.Short(), err)
	}
	l.parts = append(l.parts, &part{l: l, seq: b.seq, body: body, given: map[peer.ID]bool{}, offered: map[peer.ID]bool{}})
	l.bytes += len(body)
	return nil
}

// maxAnswer bounds the stretches of an answer; the rest is told by the floor that the writer raises.
const maxAnswer = 8

func appendAnswer(text []byte, epoch uint64, met spans) []byte {
	met = met[:min(len(met), maxAnswer)]
	text = binary.BigEndian.AppendUint32(text, uint32(epoch>>32))
	text = binary.AppendUvarint(text, uint64(len(met)))
	return append(text, met.bytes()...)
}

// hunger makes the neighbours that a box's mail may go to look for it.
func (r *Relay) hunger(to peer.ID) {
	for _, n := range r.near {
		n.hungry = true
	}
}

// answered takes the far box's word on what it has read.
func (r *Relay) answered(b *mailbox, epoch uint32, met spans, now time.Time) {
	if epoch != uint32(r.epoch>>32) {
		return // of an earlier life
	}
	left := b.letters[:0]
	var done []*letter
	for _, l := range b.letters {
		all := true
		for _, p := range l.parts {
			if !p.read && met.has(p.seq) {
				p.read = true
				for by := range p.given {
					delete(b.distrst, by)
				}
			}
			all = all && p.read
		}
		if !all {
			left = append(left, l)
			continue
		}
		done = append(done, l)
		b.bytes -= l.bytes
		b.tries = 0
		b.window = min(b.window+l.bytes, maxOwn)
		if !l.given.IsZero() {
			known := &b.trip
			if l.routed {
				known = &b.took
			}
			took := now.Sub(l.given)
			if *known == 0 {
				*known = took
			}
			*known += (took - *known) / 4
		}
	}
	if len(done) > 0 {
		b.spoke = now
	}
	clear(b.letters[len(left):])
	b.letters = left
	r.revoke(b, done)
	for _, l := range done {
		r.finish(l, nil)
	}
	if len(done) > 0 && r.ready != nil {
		ready, addr := r.ready, string(b.id)
		r.then = append(r.then, func() { ready(addr) })
	}
}

func (r *Relay) finish(l *letter, err error) {
	if l.done != nil {
		r.then = append(r.then, func() { l.done(err) })
	}
}

// revoke tells the neighbours that may still carry copies that these are over.
func (r *Relay) revoke(b *mailbox, letters []*letter) {
	upTo := b.seq
	if len(b.letters) > 0 {
		upTo = b.letters[0].parts[0].seq - 1
	}
	if upTo == 0 {
		return
	}
	for _, n := range r.near {
		had := false
		for _, l := range letters {
			for _, p := range l.parts {
				had = had || p.given[n.id] && (len(p.given) > 1 || !p.routed)
			}
		}
		if had && n.id != b.id {
			n.say.Done = setDone(n.say.Done, parcel.Custody{To: b.id, From: r.origin(), Seqs: []uint64{upTo}})
			n.saySoon(time.Now(), false)
		}
	}
}

func setDone(list []parcel.Custody, c parcel.Custody) []parcel.Custody {
	for i, old := range list {
		if old.To == c.To && old.From == c.From {
			list[i] = c
			return list
		}
	}
	return append(list, c)
}

func (r *Relay) origin() parcel.Origin { return parcel.Origin{Box: r.self, Epoch: r.epoch} }

// fail gives up all that is written for a box: link writes it anew, from what the box is known to keep.
func (r *Relay) fail(id peer.ID, why error) {
	b := r.boxes[id]
	if b == nil {
		return
	}
	letters := b.letters
	b.letters, b.bytes, b.last = nil, 0, nil
	r.revoke(b, letters)
	for _, l := range letters {
		r.finish(l, why)
	}
	for _, n := range r.near {
		n.drop(func(o *offer) bool { return o.part != nil && o.part.l.to == id })
	}
}

// overdue gives up what has had no answer for long, and trusts those who had it less.
func (r *Relay) overdue(now time.Time) {
	for id, b := range r.boxes {
		if b.last != nil && !now.Before(b.last.over) {
			b.last = nil
		}
		silent := false
		for i := 0; i < len(b.letters); i++ {
			l := b.letters[i]
			if !l.over.IsZero() && !now.Before(l.over) {
				b.letters = append(b.letters[:i:i], b.letters[i+1:]...)
				b.bytes -= l.bytes
				r.finish(l, errOver)
				i--
				continue
			}
			// While answers come, what was given earlier only waits for its turn somewhere.
			silent = silent || !l.until.IsZero() && !now.Before(l.until) && now.Sub(b.spoke) >= b.patience(l.routed)
		}
		if !silent {
			continue
		}
		for _, l := range b.letters {
			for _, p := range l.parts {
				for by := range p.given {
					b.distrst[by] = min(b.distrst[by]+1, distrustBy)
				}
			}
		}
		b.tries++
		b.window = max(b.window/2, firstOwn/2)
		r.count.Silent++
		r.log.Info("no answer from a far box; writing to it again", "box", id.Short(), "messages", len(b.letters))
		r.fail(id, errSilent)
	}
}

// patience is how long an answer may take: minutes where a way is known, a day where somebody has to travel.
func (b *mailbox) patience(routed bool) time.Duration {
	wait := max(24*time.Hour, 3*b.trip)
	if routed {
		wait = max(5*time.Minute, 6*b.took)
	}
	return min(wait<<min(b.tries, 4), 7*24*time.Hour)
}

// Outlook says how many messages to a far box wait for its answer, how long answers took lately (0: not known), and whether a way to it
// is known now, which makes it minutes, not days.
func (r *Relay) Outlook(addr string) (waiting int, answer time.Duration, near bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := peer.ID(addr)
	_, near = r.routes.best[id]
	if b := r.boxes[id]; b != nil {
		for _, l := range b.letters {
			if l.done != nil {
				waiting++
			}
		}
		answer = b.took // by known ways
		if !near {
			answer = max(b.took, b.trip)
		}
	}
	return waiting, answer, near
}

// Nearer says that a neighbour is nearer to a box than this one is, by its own word: what both could send should come from there.
func (r *Relay) Nearer(neighbour, box peer.ID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	theirs := r.routes.cost(neighbour, box)
	if theirs == 0 {
		return false
	}
	ours, ok := r.routes.best[box]
	if !ok || theirs != ours.cost {
		return !ok || theirs < ours.cost
	}
	return neighbour < r.self
}
