// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// This file is the last resort of a lane: when ancestors cannot be had, or lie before our time, the state before an event
// is asked for instead.

// byState accepts an event whose ancestors cannot be had, with the state that its server says was before it.
func (in *Intake) byState(ctx context.Context, l *lane, v *event.Version, w *waiting) (bool, error) {
	servers, err := in.c.Rooms.Servers(ctx, l.room)
	if err != nil {
		return false, err
	}
	order := []string{w.origin}
	for _, s := range servers {
		if s != w.origin && s != in.c.Local.Server {
			order = append(order, s)
		}
	}
	var last error
	for _, server := range order {
		state, err := in.stateBefore(ctx, l, v, server, w.pdu.ID)
		if err != nil {
			last = err
			continue
		}
		if lacksNoPrev(w) { // only authorising events were unknown; the state is ours to compute
			state = nil
		}
		ok, err := in.acceptOne(ctx, w, state)
		if ok || err != nil {
			return ok, err
		}
		last = fmt.Errorf("%d events are still unknown", len(w.lacks))
	}
	return false, last
}

func lacksNoPrev(w *waiting) bool {
	return !slices.ContainsFunc(w.lacks, func(id event.ID) bool { return slices.Contains(w.pdu.Prev, id) })
}

// stateBefore makes the state before an event known here and gives its ids.
func (in *Intake) stateBefore(ctx context.Context, l *lane, v *event.Version, server string, id event.ID) ([]event.ID, error) {
	state, auth, err := in.c.Client.StateIDs(ctx, server, l.room, id)
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
			if err != nil {
				return nil, err
			}
			pdus = append(pdus, p)
		}
	}
	return state, in.outliers(ctx, server, pdus)
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
		if byID[p.ID] == nil || depth > 1000 {
			return nil
		}
		delete(byID, p.ID)
		for _, a := range p.Auth {
			if dep := byID[a]; dep != nil {
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
			in.log.Info("event left out", "server", server, "room", p.RoomID, "event", p.ID, "err", err)
			return nil
		}
		_, err = in.c.Rooms.Accept(ctx, room.Incoming{PDU: ready, From: room.Source{Kind: "federation", Server: server}, Outlier: true})
		return err
	}
	for _, p := range pdus {
		if err := visit(p, 0); err != nil {
			return err
		}
	}
	return nil
}
