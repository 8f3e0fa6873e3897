// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file fetches what is newest first. A room is shown when its gap has closed (sync/README.md, "Coming home"), which takes its time on a narrow line with much behind it. What was said last can be
// had at once, and somebody else can tell people of it.

// Head is the end of a room in which we lack much, as a server has it: its newest events, the newest first. They bear the signatures that they must; the law has not judged them, as what lies
// before them is not here.
type Head struct {
	Room   event.RoomID
	Newest []*event.PDU
	Before int // about so many events lie between them and what we have
}

const (
	headEvents  = 10
	headFrom    = 100 // events before it: a shorter gap is closed before anybody has read of it
	headRooms   = 20  // those that people here used last
	headsAtOnce = 4
)

// tips are the newest events of a room that a server has and we lack.
type tips struct {
	room event.RoomID
	v    *event.Version
	ids  []event.ID
}

// head asks for the end of a room, and keeps it for the lane. nil: there is nothing to tell.
func (d *dest) head(ctx context.Context, t tips) (*Head, error) {
	in := d.s.c.Intake
	d.s.sem <- struct{}{}
	pdus, err := d.s.c.Client.History(ctx, d.name, t.room, t.v, t.ids, headEvents)
	<-d.s.sem
	if err != nil {
		return nil, err
	}
	h := &Head{Room: t.room}
	for _, p := range pdus {
		if in.known(ctx, p.ID) {
			continue
		}
		if ready, err := d.s.c.Client.checked(ctx, d.name, p); err == nil { // the lane says what is wrong with others
			h.Newest = append(h.Newest, ready)
		}
	}
	if len(h.Newest) == 0 {
		return nil, nil
	}
	slices.SortStableFunc(h.Newest, func(a, b *event.PDU) int { return cmp.Or(cmp.Compare(b.Depth, a.Depth), cmp.Compare(b.TS, a.TS)) })
	err = d.s.c.DB.View(ctx, func(r *store.Read) error {
		have, err := r.NewestDepth(t.room, d.name)
		h.Before = int(min(progressMost, max(0, h.Newest[len(h.Newest)-1].Depth-1-have)))
		return err
	})
	return h, err
}

// lookAhead looks for what a server has in the rooms that people use, some at a time: on a line that is full of other things each question waits for its turn. It fetches the heads, and then has the
// rest fetched.
func (d *dest) lookAhead(ctx context.Context, rooms []event.RoomID) (found bool, err error) {
	type looked struct {
		tips tips
		head *Head
		busy bool
		err  error
	}
	got := make([]looked, len(rooms))
	places := make(chan struct{}, headsAtOnce)
	var wg sync.WaitGroup
	for i, id := range rooms {
		places <- struct{}{}
		wg.Go(func() { // waited for below
			defer func() { <-places }()
			g := &got[i]
			g.tips, g.busy, g.err = d.lookUnlessBusy(ctx, id)
			if g.err == nil && len(g.tips.ids) > 0 {
				if g.head, g.err = d.head(ctx, g.tips); final(g.err) {
					g.err = nil
				}
			}
		})
	}
	wg.Wait()
	var lack []tips
	var heads []*Head
	for _, g := range got {
		found = found || g.busy || len(g.tips.ids) > 0
		if len(g.tips.ids) > 0 {
			lack = append(lack, g.tips)
		}
		if g.head != nil {
			heads = append(heads, g.head)
		}
		err = cmp.Or(err, g.err)
	}
	return found, errors.Join(err, d.fetch(ctx, lack, heads))
}

// fetch has the intake get what lacks in some rooms, those first that stand first; heads are what is here of them already.
func (d *dest) fetch(ctx context.Context, lack []tips, heads []*Head) error {
	var tell []Head
	for _, h := range heads {
		if err := d.s.c.Intake.stage(ctx, d.name, true, h.Newest...); err != nil {
			return err
		}
		if h.Before >= headFrom {
			tell = append(tell, *h)
		}
	}
	for _, t := range lack {
		d.log.Info("server has events we lack", "room", t.room, "tips", len(t.ids))
		d.s.c.Intake.Want(t.room, d.name, t.ids)
	}
	if len(tell) > 0 && d.s.c.Ahead != nil {
		d.s.c.Ahead(ctx, d.name, tell)
	}
	return nil
}
