// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/priority"
	"hallig/appliance/store"
	"hallig/sync/outbox"
	"hallig/sync/parcel"
)

// On a narrow link a flash text goes ahead of its signature, and of all that has to come before it in its room, as a notice. At the far end it is shown as not yet verified and
// kept in a table of its own; it enters the room, by room.Accept like everything else, only as an event with its signature. A box takes notices of the users of the box that
// gives them alone, in rooms where they are and may send a flash, and only so many.

const (
	mostNotices   = 32             // of one box, waiting for their signature
	noticeOverdue = time.Hour      // then people are told that the signature does not come
	noticeGone    = 24 * time.Hour // then they are told no more
)

// defers says whether flash texts go ahead over a way.
func (f *far) defers(w *way) bool {
	return w != nil && w.mail == nil && w.slow() && f.features&parcel.FeatureDeferred != 0 && f.session != nil
}

// herald lets a notice of an event go ahead, if there can be one and none has gone; it says whether the event itself may follow behind.
func (f *far) herald(e *parcel.Event) bool {
	if e == nil || e.Raw || parcel.UrgencyOf(e) != parcel.Flash || e.PDU.Sender.Server() != f.l.c.Server || !f.defers(f.active) {
		return false
	}
	if f.session.Noticed(e) {
		return true
	}
	n, ok := parcel.NoticeOf(e)
	if !ok {
		return false
	}
	transport := f.active.t.Name()
	f.l.heralded(f.p.Server, e.PDU.ID, transport, false)
	f.enqueue(parcel.Flash, n, func(arrived bool) { // what is lost comes again as the whole event
		if arrived {
			f.l.heralded(f.p.Server, e.PDU.ID, transport, true)
		}
	})
	return true
}

// heraldItems lets notices of the flash texts among items go ahead; what they belong to, and what that builds on, follows at once, behind the flash. So it does while it is
// not known yet whether a notice can go: it would be in that one's way.
func (f *far) heraldItems() {
	for i, it := range f.items {
		if it.Priority == parcel.Flash && it.Event != nil && parcel.UrgencyOf(it.Event) == parcel.Flash {
			if f.ahead[it.ID] = f.herald(it.Event); f.ahead[it.ID] {
				f.items[i].Priority = parcel.Immediate
			}
		}
	}
	for i, it := range f.items {
		if it.Priority != parcel.Flash || it.For == it.ID {
			continue
		}
		if went, known := f.ahead[it.For]; went || !known && it.ForOwn && f.defers(f.active) {
			f.items[i].Priority = parcel.Immediate
		}
	}
}

// What of an outage's flash texts goes ahead at once: the newest. The others come in their turn.
const (
	mostAhead  = 4
	knownAhead = 256 // bounds what is remembered of them
)

// heraldNews lets notices go ahead of flash texts that are not among the items: too much of their room has to go before.
func (f *far) heraldNews() {
	_, flashes := f.feed.Pressing()
	if len(flashes) == 0 || !f.defers(f.active) {
		return
	}
	if len(f.ahead) > knownAhead {
		clear(f.ahead) // what has gone ahead is known to the memory of the conversation, too
	}
	if news := f.newest(flashes); len(news) > 0 {
		f.l.work(func(ctx context.Context) func() { return f.heraldAll(f.aheads(ctx, news)) })
	}
}

// heraldFirst lets notices go while both ends still tell each other where they stand: on a slow line that takes seconds.
func (f *far) heraldFirst() {
	if f.greeting == f.said || !f.defers(f.active) {
		return
	}
	f.greeting = f.said
	f.l.work(func(ctx context.Context) func() {
		flashes, err := f.feed.Flashes(ctx)
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("flash texts could not be looked for; they come in their turn", "peer", f.p.Server, "err", err)
		}
		if len(flashes) == 0 {
			return nil
		}
		if n := len(flashes); n > mostAhead {
			flashes = flashes[n-mostAhead:]
		}
		return f.heraldAll(f.aheads(ctx, flashes))
	})
}

// newest picks what to tell ahead, and notes what is passed over.
func (f *far) newest(flashes []outbox.Raised) (news []outbox.Raised) {
	for _, x := range slices.Backward(flashes) {
		if _, known := f.ahead[x.Event]; known || !x.Own { // of others' flash only the event can be passed on
			continue
		}
		f.ahead[x.Event] = false
		if len(news) < mostAhead {
			news = append(news, x)
		}
	}
	return news
}

// aheads reads events as they would be sent.
func (f *far) aheads(ctx context.Context, news []outbox.Raised) (es []*parcel.Event) {
	for _, n := range news {
		e, err := f.feed.Ahead(ctx, n.Room, n.Event)
		if err != nil && ctx.Err() == nil {
			f.l.log.Error("a flash could not be told ahead; it comes in its turn", "peer", f.p.Server, "event", n.Event, "err", err)
		}
		if e != nil {
			es = append(es, e)
		}
	}
	return es
}

// heraldAll gives what lets notices of events go, for the loop.
func (f *far) heraldAll(es []*parcel.Event) func() {
	return func() {
		if f.closed || f.session == nil || !f.defers(f.active) {
			return
		}
		for _, e := range es {
			f.ahead[e.PDU.ID] = f.herald(e)
		}
		f.arrange()
		f.pump()
	}
}

// forgetNotices is to be called when a notice may have been lost: what it was of comes again as the whole event.
func (f *far) forgetNotices() {
	if f.session != nil {
		f.session.ForgetNotices()
	}
	clear(f.ahead)
}

// asSent is the parcel that an event goes as: what completes its notice where that has gone ahead.
func (f *far) asSent(e *parcel.Event) parcel.Parcel {
	if f.session != nil && f.session.Noticed(e) {
		return &parcel.Signature{Event: e}
	}
	return e
}

// takeNotice takes a text that came ahead of its event.
func (f *far) takeNotice(ctx context.Context, n *parcel.Notice) func() {
	quiet, why, err := f.keepNotice(ctx, n)
	return func() {
		switch {
		case err != nil && ctx.Err() == nil:
			f.l.log.Error("notice could not be kept; its event will come", "peer", f.p.Server, "err", err)
		case why != "":
			f.noticesRefused++
			f.l.log.Warn("notice refused", "peer", f.p.Server, "why", why)
		case err == nil:
			f.l.c.Observe(Event{What: "noticed", Peer: f.p, Room: n.Room, Note: "not yet verified"})
			f.l.hush(n.Room, quiet)
			f.l.hurry(n.Room, n.Sender, parcel.Immediate, "")
		}
	}
}

// keepNotice keeps a notice; why says why it may not be.
func (f *far) keepNotice(ctx context.Context, n *parcel.Notice) (quiet time.Duration, why string, err error) {
	var text struct {
		Body *string `json:"body"`
		Type *string `json:"msgtype"`
	}
	switch {
	case n.Log.Box != f.p.ID || n.Sender.Server() != f.p.Server:
		return 0, "a box speaks for its own users alone", nil
	case json.Unmarshal(n.Content, &text) != nil || text.Body == nil || text.Type == nil:
		return 0, "it is no text", nil
	}
	there := false
	err = f.l.c.DB.View(ctx, func(r *store.Read) (err error) {
		if there, err = r.HasEntry(n.Room, string(n.Log.Box), n.Log.Epoch, n.Log.Seq, 0); there || err != nil {
			return err
		}
		why, quiet, err = f.mayNotice(r, n)
		return err
	})
	if there || why != "" || err != nil {
		return 0, why, err // the event was faster, or it may not be
	}
	kept := false
	err = f.l.c.DB.Do(ctx, func(tx *store.Tx) (err error) {
		kept, err = tx.PutNotice(store.Notice{Room: n.Room, Box: string(n.Log.Box), Epoch: n.Log.Epoch, Seq: n.Log.Seq, Sender: n.Sender, TS: n.TS,
			Content: n.Content, Since: time.Now().UnixMilli()}, mostNotices)
		return err
	})
	if err == nil && !kept {
		return 0, "there are too many, or it is there", nil
	}
	return quiet, "", err
}

// mayNotice says why a text may not be shown ahead of its event.
func (f *far) mayNotice(r *store.Read, n *parcel.Notice) (why string, quiet time.Duration, err error) {
	row, err := r.Room(n.Room)
	if err != nil {
		return "", 0, err
	}
	if row == nil || row.Cur == 0 {
		return "we are not in its room", 0, nil
	}
	member, err := r.CurrentStateEvent(n.Room, "m.room.member", string(n.Sender))
	if err != nil {
		return "", 0, err
	}
	if member == nil || !joins(member.JSON) {
		return "its sender is not in the room", 0, nil
	}
	encrypted, err := r.CurrentStateEvent(n.Room, "m.room.encryption", "")
	if err != nil {
		return "", 0, err
	}
	if encrypted != nil {
		return "its room is encrypted", 0, nil
	}
	l, quiet, err := f.l.judge.Ahead(r, n.Room, n.Sender, "m.room.message", n.Content)
	if err == nil && l != priority.Flash {
		why = fmt.Sprintf("its sender may not send a flash now, but %s", l)
	}
	return why, quiet, err
}

// joins reads an m.room.member event.
func joins(raw []byte) bool {
	var e struct {
		Content struct {
			Membership string `json:"membership"`
		} `json:"content"`
	}
	return json.Unmarshal(raw, &e) == nil && e.Content.Membership == "join"
}

// expireNotices marks notices whose signature does not come, and forgets them in the end.
func (l *Link) expireNotices(ctx context.Context) error {
	overdue, gone := time.Now().Add(-noticeOverdue).UnixMilli(), time.Now().Add(-noticeGone).UnixMilli()
	some := false
	err := l.c.DB.View(ctx, func(r *store.Read) (err error) {
		some, err = r.OverdueNotices(overdue, gone)
		return err
	})
	if err != nil || !some {
		return err
	}
	return l.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.ExpireNotices(overdue, gone) })
}
