// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
)

// This file is the last resort of a lane: when ancestors cannot be had, or lie before our time, the state before an event
// is asked for instead.

// byState accepts the ancestor that an event lacks with the state that a server says was before it; where nobody gives that ancestor, the event itself.
func (in *Intake) byState(ctx context.Context, l *lane, v *event.Version, k lack) (bool, error) {
	order := []string{k.child.origin}
	if !k.alone {
		var err error
		if order, err = in.whom(ctx, l, k.child.origin); err != nil {
			return false, err
		}
	}
	var last error
	shut := false
	for _, server := range order {
		var ok bool
		var err error
		if !k.old {
			ok, err = in.ancestorByState(ctx, l, v, server, k)
		}
		if k.old || final(err) {
			ok, err = in.childByState(ctx, l, v, server, k)
		}
		if ok || ctx.Err() != nil {
			return ok, ctx.Err()
		}
		if err != nil {
			last = err
			shut = shut || server == k.child.origin && barred(err)
		}
	}
	if shut {
		if ok, err := in.putOut(ctx, l, k); ok || err != nil {
			return ok, err
		}
	}
	return false, last
}

// ancestorByState gets a missing ancestor and the state before it. A final refusal: the server does not give the ancestor.
func (in *Intake) ancestorByState(ctx context.Context, l *lane, v *event.Version, server string, k lack) (bool, error) {
	release, err := in.ask(ctx, server, l.rank)
	if err != nil {
		return false, err
	}
	defer release()
	p, err := in.c.Client.One(ctx, server, l.room, v, k.id)
	if err != nil {
		return false, err
	}
	ready, err := in.c.Client.checked(ctx, server, p)
	if err != nil {
		return false, err
	}
	ancestor := room.Incoming{PDU: ready, From: room.Source{Kind: "federation", Server: server},
		ExtraTx: func(tx *store.Tx) error { return tx.UnstagePDU(l.room, k.id) }}
	res, err := in.c.Rooms.Accept(ctx, ancestor)
	if err == nil && res.Outcome == room.Missing {
		if ancestor.State, err = in.stateBefore(ctx, l, v, server, k.id); err != nil {
			return false, fmt.Errorf("state before %s: %s", k.id, err) // another matter than the ancestor itself: not final
		}
		res, err = in.c.Rooms.Accept(ctx, ancestor)
	}
	if err != nil {
		return false, err
	}
	if res.Outcome == room.Missing {
		return false, fmt.Errorf("%d events are still unknown", len(res.Missing))
	}
	in.helped(server)
	return true, nil
}

// childByState accepts an event whose ancestors cannot be had, with the state before it.
func (in *Intake) childByState(ctx context.Context, l *lane, v *event.Version, server string, k lack) (bool, error) {
	release, err := in.ask(ctx, server, l.rank)
	if err != nil {
		return false, err
	}
	defer release()
	state, err := in.stateBefore(ctx, l, v, server, k.child.pdu.ID)
	if err != nil {
		return false, err
	}
	ok, err := in.acceptOne(ctx, k.child, state)
	if err == nil && !ok {
		err = errors.New("parts of the state are still unknown")
	}
	return ok, err
}

// stateBefore makes the state before an event known here and gives its ids.
func (in *Intake) stateBefore(ctx context.Context, l *lane, v *event.Version, server string, id event.ID) ([]event.ID, error) {
	state, auth, err := in.c.Client.StateIDs(ctx, server, l.room, id)
	if err == nil {
		err = in.founded(ctx, l.room, state)
	}
	if err != nil {
		return nil, err
	}
	var lack []event.ID
	for _, s := range append(slices.Clone(auth), state...) {
		if _, _, err := in.c.Rooms.Event(ctx, s); err != nil && !slices.Contains(lack, s) {
			lack = append(lack, s)
		}
	}
	var pdus []*event.PDU
	if len(lack) > 30 {
		st, au, err := in.c.Client.StateEvents(ctx, server, l.room, v, id)
		if err != nil {
			return nil, err
		}
		pdus = append(au, st...)
	} else {
		for _, s := range lack {
			p, err := in.c.Client.One(ctx, server, l.room, v, s)
			if final(err) {
				in.log.Info("a part of the state is not given", "server", server, "room", l.room, "event", s)
				continue // whether the state holds without it, the room says
			}
			if err != nil {
				return nil, err
			}
			pdus = append(pdus, p)
		}
	}
	return state, in.outliers(ctx, server, pdus)
}

// founded refuses a told state without the room's creation: no event but that one stands on it.
func (in *Intake) founded(ctx context.Context, id event.RoomID, state []event.ID) error {
	create, err := in.c.Rooms.StateEvent(ctx, id, "m.room.create", "")
	if err == nil && create != nil && !slices.Contains(state, create.ID) {
		err = errors.New("a state without the room's creation")
	}
	return err
}

// authorityFrom asks the servers of a room, first the one that gave the event, for an authorising event that a staged one lacks. found: it is here now.
// refused: at least one server is in reach and does not have it.
func (in *Intake) authorityFrom(ctx context.Context, l *lane, v *event.Version, k lack) (found, refused bool, err error) {
	order, err := in.whom(ctx, l, k.child.origin)
	if err != nil {
		return false, false, err
	}
	for _, server := range order {
		err := in.askAuthority(ctx, l, v, server, k.id, k.child.pdu.ID)
		if ctx.Err() != nil {
			return false, false, ctx.Err()
		}
		if _, _, known := in.c.Rooms.Event(ctx, k.id); known == nil {
			in.helped(server)
			return true, false, nil
		}
		refused = refused || err == nil || final(err)
	}
	return false, refused, nil
}

// askAuthority asks one server for an authorising event, alone or with all that authorises the event which names it.
// https://spec.matrix.org/v1.16/server-server-api/#retrieving-event-authorization-information
func (in *Intake) askAuthority(ctx context.Context, l *lane, v *event.Version, server string, id, child event.ID) error {
	release, err := in.ask(ctx, server, l.rank)
	if err != nil {
		return err
	}
	defer release()
	err = in.authority(ctx, server, l.room, v, []event.ID{id})
	if !final(err) || child == "" {
		return err
	}
	chain, err := in.c.Client.EventAuth(ctx, server, l.room, v, child)
	if err != nil {
		return err
	}
	return in.outliers(ctx, server, chain)
}

// askAwaited asks for what rejected events wait for, seldom and for ever.
func (in *Intake) askAwaited(ctx context.Context, l *lane, v *event.Version, ids []event.ID) (bool, error) {
	order, err := in.whom(ctx, l, "")
	if err != nil {
		return false, err
	}
	had := false
	for _, id := range ids {
		for _, server := range order {
			if err := in.askAuthority(ctx, l, v, server, id, ""); err != nil && !final(err) && ctx.Err() != nil {
				return had, ctx.Err()
			}
			if _, _, known := in.c.Rooms.Event(ctx, id); known == nil {
				had = true
				in.helped(server)
				break
			}
		}
	}
	if had {
		l.authDelay = authFirst
	}
	l.authAt = time.Now().Add(l.authDelay)
	l.authDelay = min(2*l.authDelay, authMost)
	return had, nil
}

// authority makes authorising events known, with those that authorise them.
func (in *Intake) authority(ctx context.Context, server string, id event.RoomID, v *event.Version, ids []event.ID) error {
	var pdus []*event.PDU
	seen := map[event.ID]bool{}
	for todo := slices.Clone(ids); len(todo) > 0 && len(pdus) < 1000; todo = todo[1:] {
		if seen[todo[0]] {
			continue
		}
		seen[todo[0]] = true
		if _, _, err := in.c.Rooms.Event(ctx, todo[0]); err == nil {
			continue
		}
		p, err := in.c.Client.One(ctx, server, id, v, todo[0])
		if final(err) && !slices.Contains(ids, todo[0]) {
			continue // what rests on it waits for it in the room
		}
		if err != nil {
			return err
		}
		pdus = append(pdus, p)
		todo = append(todo, p.Auth...)
	}
	return in.outliers(ctx, server, pdus)
}

// outliers stores authorising events and parts of a state, ancestors in the chain of authority first.
func (in *Intake) outliers(ctx context.Context, server string, pdus []*event.PDU) error {
	byID := make(map[event.ID]*event.PDU, len(pdus))
	for _, p := range pdus {
		byID[p.ID] = p
	}
	var visit func(p *event.PDU, depth int) error
	visit = func(p *event.PDU, depth int) error {
		if byID[p.ID] == nil {
			return nil
		}
		delete(byID, p.ID)
		for _, a := range p.Auth {
			if dep := byID[a]; dep != nil && depth < 1000 { // the room copes with any order, at a price
				if err := visit(dep, depth+1); err != nil {
					return err
				}
			}
		}
		if _, _, err := in.c.Rooms.Event(ctx, p.ID); err == nil {
			return nil
		}
		ready, err := in.c.Client.checked(ctx, server, p)
		if err != nil {
			if errors.Is(err, ErrKeyUnavailable) {
				return err
			}
			in.c.Trouble.Note(server, BadSignature, p.RoomID, p.ID, err)
			return nil
		}
		_, err = in.c.Rooms.Accept(ctx, room.Incoming{PDU: ready, From: room.Source{Kind: "federation", Server: server}, Outlier: true, NoAuth: true})
		return err
	}
	for _, p := range pdus {
		if err := visit(p, 0); err != nil {
			return err
		}
	}
	return nil
}
