// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

// A box that may be gone before a server has everything, or that finds the server away, leaves what it has with its hub: letters (hub/api). They are left at once, all of them, and the hub brings them at the pace of
// the server. One way at a time: as long as letters are out nothing else goes to that server, so that nothing overtakes and nothing is sent twice; what is written meanwhile becomes a letter as well.
// The cursor moves by the hub's word alone, which is what the server itself has answered to a question that the box signed.
//
// Letters begin when the server does not take what it is sent, or when there is more than one transaction for it. They end when all have arrived; or are taken back when the hub's memory is another one,
// the key that signed them was replaced, the server refuses them, or the hub has gone and the server is in reach: then everything goes from the cursor on, which repeats what has arrived already and loses
// nothing. EDUs go alone, under one id for ever, as in push. What the hub says of them is in heard.go, what has been taken back and not yet
// told to the hub in lettersback.go.

// Post is a hub that takes letters. Safe for concurrent use.
type Post interface {
	// Open gives the epoch of the hub's memory when letters for a server can be left now; "" when not.
	Open(server string) (epoch string)
	// Leave returns when the letter is on the hub's disk.
	Leave(ctx context.Context, l api.Letter) error
	// TakeBack has those of a series go no more that have not gone.
	TakeBack(ctx context.Context, server, series string) error
}

// ErrNoRoom is Leave's: as many letters wait as the hub keeps.
var ErrNoRoom = errors.New("the hub keeps no more letters for now")

const (
	spares     = 2                // further ids under which the same transaction is signed: what a server has answered it does not look at again for a day
	leaveAgain = 5 * time.Second  // after a letter that was not taken
	leaveFull  = time.Minute      // after one for which there was no room
	hubGone    = 10 * time.Second // so long the hub may be away before a server that is in reach gets everything straight
	leaveNot   = time.Hour        // after a server has refused letters: what it does not like stands alone sooner when it is sent straight
)

// posting is what a server's goroutine knows of its letters.
type posting struct {
	left    []*leftLetter // oldest first
	again   []*outgoing   // EDUs whose letters were taken back: they go as they were
	back    []backSeries
	backAt  time.Time // not before this the hub is told again of those
	series  string
	place   int64
	backlog bool // there was more for it than one transaction
	leaving bool // a letter is being made
	next    time.Time
	gone    time.Time // since when no letters can be left though some are out
	said    bool      // that none can be left
}

// leftLetter is one that was left and is not known to have arrived.
type leftLetter struct {
	store.LeftLetter
	rooms []leftRoom
	at    time.Time // when; zero: before the start
}

// leftRoom is what it has of one room.
type leftRoom struct {
	Room  event.RoomID `json:"room"`
	IDs   []event.ID   `json:"ids"`
	First int64        `json:"first"` // position
	Last  int64        `json:"last"`
}

// Left counts the letters that are out.
func (s *Sender) Left() (n int) {
	for _, st := range s.Status() {
		n += st.Letters
	}
	return n
}

// load reads which letters are out.
func (p *posting) load(d *dest, r *store.Read) error {
	rows, err := r.LeftLetters(d.name)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.Place == 0 {
			p.loadBack(d, row)
			continue
		}
		l := &leftLetter{LeftLetter: row}
		if err := json.Unmarshal(row.Events, &l.rooms); err != nil {
			return fmt.Errorf("read a letter: %w", err)
		}
		for _, room := range l.rooms {
			f := d.rooms[room.Room]
			if f == nil {
				f = &ledger{cursor: room.First - 1, dirty: true}
				d.rooms[room.Room] = f
			}
			f.sent = max(f.sent, room.Last)
			f.left += len(room.IDs)
		}
		l.LeftLetter.Events = nil // the rooms say the same
		d.eduAfter = max(d.eduAfter, row.EDUTo)
		p.left = append(p.left, l)
	}
	if d.pending != nil && len(p.again) > 0 {
		d.pending, p.again = nil, append(p.again, d.pending) // behind those that are older
	}
	return nil
}

// open says whether letters can be left, and notes since when they cannot.
func (d *dest) open(now time.Time) (epoch string) {
	if d.s.c.Post != nil {
		epoch = d.s.c.Post.Open(d.name)
	}
	if p := &d.post; epoch != "" {
		p.gone = time.Time{}
	} else if p.gone.IsZero() {
		p.gone = now
	}
	if now.Before(d.post.next) || d.refusing {
		return ""
	}
	return epoch
}

// posts says whether the server gets letters only.
func (d *dest) posts() bool { return len(d.post.left) > 0 || d.post.backlog }

// leave hears how far letters have come, and leaves all that the server is owed when this is the time for it.
func (d *dest) leave(ctx context.Context) {
	p := &d.post
	spoke := d.hear(ctx)
	d.forgetBack(ctx)
	now := time.Now()
	epoch := d.open(now)
	bag := d.s.packing.Load()
	defer bag.over(d.name)
	if epoch == "" && bag.isFor(d) {
		epoch = bag.epoch
	} else {
		bag = nil
	}
	if len(p.left) > 0 && epoch != "" {
		if first := p.left[0]; first.Epoch != epoch || first.Key != d.s.c.Local.Key.ID {
			d.takeBack(ctx, first.Epoch == epoch, "the hub's memory or the key is another one")
		}
	}
	if !d.tellBack(ctx, spoke) && epoch != "" && bag == nil { // a bag says itself what is taken back
		p.next, epoch = now.Add(leaveAgain), ""
	}
	if epoch == "" {
		if len(p.left) == 0 {
			p.backlog = false
		}
		return
	}
	if bag == nil && len(p.left) == 0 && !d.failing.Load() && (!p.backlog || d.unconfirmed()) {
		return
	}
	for ctx.Err() == nil {
		more, err := d.leaveNext(ctx, epoch, bag)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			p.next = now.Add(leaveAgain)
			if errors.Is(err, ErrNoRoom) {
				p.next = now.Add(leaveFull)
			}
			if !p.said {
				p.said = true
				d.log.Warn("letters cannot be left with the hub; it is tried again", "err", err)
			}
			return
		case !more:
			p.said = false
			return
		}
	}
}

// leaveIn says in how long it is worth a try again to leave a letter that was not taken.
func (d *dest) leaveIn() time.Duration {
	if left := time.Until(d.post.next); left > 0 && d.s.c.Post != nil {
		return left
	}
	return retryMost
}

// unconfirmed says whether something is under way that was sent straight: letters behind it would be more than the server bears.
func (d *dest) unconfirmed() bool {
	for _, f := range d.rooms {
		if len(f.window) > 0 {
			return true
		}
	}
	return false
}

// leaveNext leaves one letter, with a bag or, nil, with the hub itself; false: nothing is left to leave, or the bag is full.
func (d *dest) leaveNext(ctx context.Context, epoch string, bag *packing) (bool, error) {
	p := &d.post
	if bag == nil {
		if err := d.handOver(ctx); err != nil {
			return false, err
		}
	} else if bag.room.Load() <= 0 {
		return false, nil
	}
	if len(p.left) == 0 {
		d.beginLetters()
	}
	if d.pending == nil && len(p.again) > 0 {
		d.pending, p.again = p.again[0], p.again[1:]
	}
	out := d.pending
	if out == nil {
		p.leaving = true
		defer func() { p.leaving = false }()
		var err error
		if out, err = d.collectLetter(ctx); err != nil {
			return false, err
		}
		if out.empty {
			d.lookedThrough(out)
			p.backlog = false
			return false, nil
		}
		d.pending = out
	}
	if err := d.keepLasting(ctx, out); err != nil {
		return false, err
	}
	l, row, err := d.letter(out, epoch)
	if err != nil {
		return false, err
	}
	if bag != nil {
		if row.Raw, err = l.Append(nil); err == nil {
			bag.room.Add(-int64(len(row.Raw)))
		}
	} else {
		err = d.give(ctx, l)
	}
	if err != nil {
		return false, err
	}
	err = d.s.c.DB.DoSmall(ctx, func(tx *store.Tx) error {
		if err := tx.AddLetter(d.name, row.LeftLetter); err != nil {
			return err
		}
		return tx.DropOutgoingTxn(d.name, out.id)
	})
	if err != nil {
		return false, fmt.Errorf("note a letter: %w", err)
	}
	d.wasLeft(out, row)
	return true, nil
}

// beginLetters has letters begin with what is not confirmed. A transaction of events that was not answered is made anew; one of EDUs goes as it is.
func (d *dest) beginLetters() {
	d.narrow, d.refused = false, 0
	if d.pending != nil && !d.pending.lasting {
		d.pending = nil
	}
	for _, f := range d.rooms {
		if len(f.window) > 0 {
			f.sent, f.window, f.errs, f.tries, f.dirty = f.cursor, nil, nil, 0, true
		}
	}
}

// collectLetter is collect; events of other boxes on which ours build are brought along when the server cannot be asked for them.
func (d *dest) collectLetter(ctx context.Context) (*outgoing, error) {
	out, err := d.collect(ctx)
	if err != nil || !d.failing.Load() {
		return out, err
	}
	found := false
	for _, f := range d.rooms {
		if len(f.hold) == 0 {
			continue
		}
		if f.carry, err = d.toCarry(ctx, f.hold, f); err != nil {
			return nil, err
		}
		d.learn(f.hold...)
		f.hold, f.holdTries, f.relay, found = nil, 0, true, true
	}
	if !found || !out.empty {
		return out, nil
	}
	return d.collect(ctx)
}

// letter signs a transaction and all that goes with it.
func (d *dest) letter(out *outgoing, epoch string) (api.Letter, *leftLetter, error) {
	p, local := &d.post, d.s.c.Local
	if p.series == "" {
		p.series, p.place = d.s.boot+"."+strconv.FormatUint(d.s.txns.Add(1), 36), 0
	}
	row := &leftLetter{LeftLetter: store.LeftLetter{Series: p.series, Place: p.place + 1, Epoch: epoch, Key: local.Key.ID, Txn: out.id, EDUTo: out.eduTo}}
	l := api.Letter{To: d.name, Series: p.series, N: row.Place, Epoch: epoch, Once: out.lasting, Body: out.body}
	at := map[event.RoomID]int{}
	for _, o := range out.pdus {
		i, there := at[o.room]
		if !there {
			i = len(row.rooms)
			at[o.room] = i
			row.rooms = append(row.rooms, leftRoom{Room: o.room, First: o.Pos})
		}
		r := &row.rooms[i]
		r.IDs, r.Last, r.First = append(r.IDs, o.ID), max(r.Last, o.Pos), min(r.First, o.Pos)
		l.Events = append(l.Events, string(o.ID))
	}
	if row.rooms == nil {
		row.rooms, row.Body = []leftRoom{}, out.body
	}
	var err error
	if row.Events, err = json.Marshal(row.rooms); err != nil {
		return l, nil, err
	}
	sign := func(method string, path []string, body []byte) (api.Signed, error) {
		uri := call{path: path}.uri()
		a, err := SignRequest(local, d.name, method, uri, body)
		return api.Signed{URI: uri, Auth: a.String()}, err
	}
	ids := []string{out.id}
	for range spares {
		if !out.lasting {
			ids = append(ids, d.s.txnID())
		}
	}
	for _, id := range ids {
		s, err := sign(http.MethodPut, v1("send", id), out.body)
		if err != nil {
			return l, nil, err
		}
		l.Sends = append(l.Sends, s)
	}
	for _, r := range row.rooms {
		last := r.IDs[len(r.IDs)-1]
		s, err := sign(http.MethodGet, v1("event", string(last)), nil)
		if err != nil {
			return l, nil, err
		}
		l.Asks = append(l.Asks, api.Ask{Signed: s, Room: string(r.Room), Event: string(last)})
	}
	return l, row, nil
}

// wasLeft notes that a transaction is with the hub.
func (d *dest) wasLeft(out *outgoing, row *leftLetter) {
	p := &d.post
	d.pending = nil
	p.place = row.Place
	row.at, row.LeftLetter.Events = time.Now(), nil // the rooms say the same
	row.Bagged, row.Raw = row.Raw != nil, nil
	if len(p.left) == 0 {
		d.mu.Lock()
		d.st.Through = 0
		d.mu.Unlock()
	}
	p.left = append(p.left, row)
	for _, o := range out.pdus {
		f := d.rooms[o.room]
		f.sent = max(f.sent, o.Pos)
		f.left++
		d.carried(f, o.ID)
		if f.relay {
			d.learn(o.ID)
		}
	}
	d.lookedThrough(out)
	d.eduAfter = max(d.eduAfter, out.eduTo)
	if len(out.pdus) > 0 {
		with := Travel{What: "left", Server: d.name, Bytes: len(out.body)}
		for _, o := range out.pdus {
			with.Events = append(with.Events, o.ID)
		}
		d.s.c.Observe(with)
	}
}

// size counts what is in a letter, for people: its events, or one for EDUs.
func (l *leftLetter) size() int {
	n := 0
	for _, r := range l.rooms {
		n += len(r.IDs)
	}
	return max(n, 1)
}

// letters counts what is out, for people.
func (p *posting) letters() (letters, events int) {
	for _, l := range p.left {
		events += l.size()
	}
	return len(p.left), events
}
