// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"hallig/appliance/event"
	"hallig/sync/courier"
	"hallig/sync/hub/api"
	"hallig/sync/hub/letter"
	"hallig/sync/hub/spool"
)

// This file takes in what a box has put into a bag for its hub. All of it may come again, late, or out of order: what is dealt with and letters are known by their places, and of two bags the newer one says how the box is.

// BagTaken is what a bag of a box has brought.
type BagTaken struct {
	Box      string
	Written  time.Time // when the box wrote it, by its clock
	Known    bool      // it was taken in before, or a newer one was
	Dealt    int64     // requests that the box has dealt with and the hub has forgotten now
	Letters  int64     // that were taken, those that were here already among them
	Refused  int64     // letters that cannot be brought
	Users    int64     // deposits
	Left     int64     // letters that had no room on the stick
	Troubles []string  // what was not taken, with the next step
}

func (t *BagTaken) trouble(text string) {
	for _, known := range t.Troubles {
		if known == text {
			return
		}
	}
	if len(t.Troubles) < 20 {
		t.Troubles = append(t.Troubles, text)
	}
}

// errBag is why a bag is not taken, with the next step.
type errBag string

func (e errBag) Error() string { return string(e) }

// bagWhy puts into words what is wrong with a bag.
func bagWhy(err error) error {
	switch {
	case errors.Is(err, courier.ErrBagForeign):
		return errBag("it is for another hub, perhaps of another organisation: nothing of it is taken")
	case errors.Is(err, courier.ErrBagForged):
		return errBag("it was not written by the box whose name it bears: nothing of it is taken. If nobody here has made it, see who had the stick in his hands")
	case errors.Is(err, courier.ErrBagDamaged):
		return errBag("it is damaged, or breaks off; what came before that is taken, and nothing is lost: plug the stick into the box again, or take another stick")
	}
	return err
}

// bagFrom reads the head of a bag and finds out whose it is.
func (h *Hub) bagFrom(r *http.Request) (*courier.BagReader, entry, error) {
	b, err := courier.ReadBag(r.Body)
	if err != nil {
		return nil, entry{}, err
	}
	if b.Reader != h.p2p.ID() {
		return nil, entry{}, courier.ErrBagForeign
	}
	e, ok := h.boxByID(b.Writer)
	switch {
	case !ok:
		return nil, entry{}, errBag("it is of a box that is not paired with this hub (" + b.Writer.Short() + "): pair them with hallig-hub pair, then plug the stick into the box once more")
	case e.revoked != "":
		return nil, entry{}, errBag("it is of " + e.Server + ", which was turned away (" + e.revoked + "): nothing of it is taken")
	}
	return b, e, b.Open(h.id.Box, e.ID)
}

// bagIn answers POST /courier/import, whose body is a bag, with BagTaken.
func (h *Hub) bagIn(w http.ResponseWriter, r *http.Request) {
	b, e, err := h.bagFrom(r)
	var t BagTaken
	if err == nil {
		t, err = h.takeBag(r.Context(), b, e)
	}
	if t.Box == "" && err != nil {
		h.log.Warn("a bag of a box was not taken", "box", e.Server, "err", err)
		answer(w, http.StatusBadRequest, map[string]string{"Error": bagWhy(err).Error()})
		return
	}
	if err != nil {
		h.log.Warn("a bag of a box was taken in part", "box", e.Server, "err", err)
		t.trouble(bagWhy(err).Error())
	}
	answer(w, http.StatusOK, t)
}

// takeBag takes in a bag. With Box set, part of it is taken in, whatever the error.
func (h *Hub) takeBag(ctx context.Context, b *courier.BagReader, e entry) (t BagTaken, err error) {
	head, _, err := b.Next()
	if err != nil {
		return t, err
	}
	note, err := api.ReadBoxNote(head)
	if err != nil {
		return t, err
	}
	c, err := api.ReadContact(note.Contact)
	if err != nil {
		return t, err
	}
	raw, err := h.spool.Deposited(ctx, e.Server, kindStick, "")
	if err != nil {
		return t, err
	}
	st := readStick(raw)
	epoch, err := h.spool.Epoch(ctx)
	if err != nil {
		return t, err
	}
	row, err := h.spool.Box(ctx, e.Server)
	if err != nil {
		return t, err
	}
	t.Known, t.Written = b.Serial <= st.Heard, writtenAt(c, note)
	fresh := !t.Known && !row.Seen.After(t.Written) // else it says how the box was
	if fresh {
		if err := h.learn(ctx, e, c); err != nil {
			return t, fmt.Errorf("what the box says of itself: %w", err)
		}
		at := t.Written
		if now := h.now(); !c.ClockGood || at.After(now) { // nobody knows when, but it was then at the latest
			at = now
		}
		h.spool.Saw(e.Server, at, "stick", c.Version, saidIn(c))
	}
	t.Box = e.Server
	if err := h.takeNote(ctx, e, note, epoch, &t); err != nil {
		return t, err
	}
	if note.Heard > st.Sent { // of a hub that was put back, or whose clock was ahead: the next bag goes above it, or the box would take it for an old one
		if _, err := h.amendStick(ctx, e.Server, func(s *stickState) { s.Sent = max(s.Sent, note.Heard) }); err != nil {
			return t, err
		}
	}
	older := api.BoxNote{Out: st.Out}
	in := bagItems{h: h, e: e, t: &t, users: fresh && note.Epoch == epoch, full: map[string]bool{}}
	if b.Serial < st.Heard { // of its letters those that the newer bag still counts as out: others have arrived, or were taken back
		in.still = older.Has
	} else if _, err := h.amendStick(ctx, e.Server, func(s *stickState) {
		if b.Serial >= s.Heard {
			s.Heard, s.Out = b.Serial, note.Out
		}
	}); err != nil {
		return t, err
	}
	for {
		part, end, err := b.Next()
		if err != nil {
			return t, err
		}
		if end {
			var last api.BoxEnd
			if json.Unmarshal(part, &last) == nil {
				t.Left = last.Left
			}
			break
		}
		if err := api.ReadStickItems(part, func(i api.StickItem) error { return in.take(ctx, i) }); err != nil {
			return t, err
		}
	}
	h.log.Info("a bag of a box was taken", "box", e.Server, "written", t.Written.UTC().Format(time.RFC3339), "known", t.Known, "dealt", t.Dealt, "letters", t.Letters, "users", t.Users)
	return t, nil
}

// writtenAt says when a box wrote a bag, by its clock; a box that does not know the time wrote it after the hub's bag that it has read.
func writtenAt(c api.Contact, note api.BoxNote) time.Time {
	if !c.ClockGood {
		return time.UnixMilli(max(c.Clock, note.Heard))
	}
	return time.UnixMilli(c.Clock)
}

// takeNote does what a note says.
func (h *Hub) takeNote(ctx context.Context, e entry, note api.BoxNote, epoch string, t *BagTaken) error {
	if note.Epoch != "" && note.Epoch != epoch {
		t.trouble("the box speaks of the hub's memory from before hallig-hub restored: nothing is crossed out. Fill the stick anew with hallig-hub courier export; the box knows what it has had")
	}
	if note.Dealt.Epoch == epoch {
		n, err := h.crossDealt(ctx, e, note.Dealt)
		t.Dealt += n
		if err != nil {
			return err
		}
	}
	if note.Epoch != epoch {
		return nil
	}
	if note.Given > 0 {
		if err := h.crossedOut(ctx, e.Server, epoch, note.Given); err != nil {
			return err
		}
	}
	if note.Heeded != nil {
		if err := h.mail.Heeded(ctx, e.Server, *note.Heeded); err != nil {
			return err
		}
	}
	for _, b := range note.Back {
		if err := h.mail.TakeBack(ctx, e.Server, b.To, b.Series); err != nil {
			return err
		}
	}
	return nil
}

// crossDealt forgets what a box has dealt with of this memory, and says how many requests that were.
func (h *Hub) crossDealt(ctx context.Context, e entry, d api.Dealt) (n int64, err error) {
	for _, f := range d.From {
		of, err := h.dealtWith(ctx, e, f)
		n += of
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// dealtWith does so for one server.
func (h *Hub) dealtWith(ctx context.Context, e entry, f api.DealtFrom) (n int64, err error) {
	q := spool.Queue{Box: e.Server, Other: f.From, In: true}
	before, err := h.waitsIn(ctx, q)
	if err != nil || before == 0 {
		return 0, err
	}
	for _, no := range f.Refused {
		rs, err := h.spool.Next(ctx, q, no.Place-1, 1)
		if err != nil {
			return 0, err
		}
		if len(rs) > 0 && rs[0].Seq == no.Place && api.Settled(rs[0].URI, no.Status, []byte(no.Text)) {
			_ = h.judge(ctx, e.Server, rs[0], no.Status, []byte(no.Text)) // Settled has said that there is no error
		}
	}
	if err := h.spool.Settle(ctx, q, f.Through, h.now(), spool.Lease{}); err != nil {
		return 0, err
	}
	after, err := h.waitsIn(ctx, q)
	n = max(0, before-after)
	h.count.delivered.Add(max(0, n-int64(len(f.Refused))))
	return n, err
}

func (h *Hub) waitsIn(ctx context.Context, q spool.Queue) (int64, error) {
	waiting, err := h.spool.Waiting(ctx, q.Box)
	for _, w := range waiting {
		if w.Queue == q {
			return w.Count, err
		}
	}
	return 0, err
}

// bagItems takes the items of one bag.
type bagItems struct {
	h     *Hub
	e     entry
	t     *BagTaken
	users bool                                  // deposits count
	still func(to, series string, n int64) bool // nil: all letters count
	full  map[string]bool                       // servers for which no more letters are kept
}

func (in *bagItems) take(ctx context.Context, i api.StickItem) error {
	switch {
	case i.Letter:
		return in.letter(ctx, i.Body)
	case i.User != "":
		return in.user(ctx, i.User, i.Body)
	}
	return nil // a box gives the hub no requests
}

func (in *bagItems) letter(ctx context.Context, raw []byte) error {
	l, err := api.ReadLetter(raw)
	if err != nil {
		in.t.Refused++
		in.t.trouble("a letter cannot be read: " + err.Error())
		return nil
	}
	if in.full[l.To] {
		return nil
	}
	if in.still != nil && !in.still(l.To, l.Series, l.N) {
		in.t.trouble("letters for " + l.To + " were passed over: a newer stick of the box does not count them as out any more. If the box was put back from a backup since, fill a stick with hallig-hub courier export and take it there: it brings them anew")
		return nil
	}
	err = in.h.mail.Take(ctx, in.e.Server, raw)
	switch {
	case err == nil:
		in.t.Letters++
		in.h.replica.Passed(in.e.Server, in.e.Server, l.Body)
	case errors.Is(err, letter.ErrBad):
		in.t.Refused++
		in.t.trouble("letters for " + l.To + " are not taken: " + err.Error() + ". The box makes them anew when it has read the next stick of this hub")
	case errors.Is(err, letter.ErrEpoch):
		in.t.Refused++
		in.t.trouble("letters were made for the hub's memory from before hallig-hub restored. Fill the stick anew with hallig-hub courier export: the box makes them anew when it has read it")
	case errors.Is(err, spool.ErrFull):
		in.full[l.To] = true
		in.t.trouble("no more letters for " + l.To + " are kept: as many wait as are kept for one box. Is the server in reach of this hub? Those that are left are on the next stick again")
	default:
		return err
	}
	return nil
}

func (in *bagItems) user(ctx context.Context, user string, raw []byte) error {
	if !in.users {
		return nil
	}
	u, err := api.ReadUser(raw)
	if err == nil && event.UserID(user).Server() != in.e.Server {
		err = fmt.Errorf("%.100q is no user of the box", user)
	}
	if err == nil {
		if err = in.h.keepUser(ctx, in.e.Server, user, u); err != nil && !errors.Is(err, spool.ErrTooMuch) {
			return err
		}
	}
	if err != nil {
		in.t.trouble("what may be answered about a user while the box is away is not taken: " + err.Error() + "; delete accounts or devices on the box that nobody uses")
		return nil
	}
	in.t.Users++
	return nil
}
