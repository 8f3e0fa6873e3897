// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// Whole is the state before a join that was told without all its members.
type Whole struct {
	Room  event.RoomID
	Join  event.ID
	State []event.ID // all known here: Learn stored them
	At    event.ID   // "": the state is that before the join; else that before this event, the only one that the join builds on
}

// Complete puts the whole state before our join in the place of what was told of it, and judges anew what was placed since: the room is played through once
// more, in the order in which events came, as it would have gone had the state been known. That happens aside, in bounded steps, while the room goes on; the last step
// puts all of it in place at once. Nothing of it is kept when it is cut short: it costs no more than the events cost when they came, and what took
// time, to get the state, is on the disk. It may be called again at any time.
func (r *Rooms) Complete(ctx context.Context, w Whole) error {
	for try := 0; ; try++ {
		done, err := r.completeOnce(ctx, w)
		if done || err != nil || try == maxTries {
			if err != nil {
				err = fmt.Errorf("complete the state of %s: %w", w.Room, err)
			}
			return tellable(err)
		}
	}
}

// completeOnce is one try; false: what it rested on has changed meanwhile.
func (r *Rooms) completeOnce(ctx context.Context, w Whole) (done bool, err error) {
	c := &completion{r: r, w: w, rethought: r.rethought.Load(), unsure: make(map[event.ID]bool)}
	if ok, err := c.begin(ctx); !ok || err != nil {
		return true, err
	}
	for {
		n, err := c.step(ctx, stepEvents)
		if err != nil {
			return false, err
		}
		if n > stepEvents/2 {
			continue
		}
		if done, err := c.finish(ctx); !errors.Is(err, errMore) {
			return done, err
		}
	}
}

// errMore: too much came while the room was played through.
var errMore = errors.New("more has come")

const (
	stepEvents = 200     // events judged in one step
	stepStates = 1 << 17 // entries of the states that a step makes, before they are written
)

// completion plays a room through once more.
type completion struct {
	r         *Rooms
	w         Whole
	rethought int64
	join      int64
	base      group            // the whole state before the join
	members   map[int64]string // membership that a member event of base says
	sh        *live            // the room as it would have been
	verdicts  []verdict
	unsure    map[event.ID]bool // of the verdicts
	groups    []newGroup        // not written yet
	counted   int               // of groups
}

// verdict is what became of an event.
type verdict struct {
	nid           int64
	before, after int64
	outcome, was  Outcome
	reason        string
	waits         []event.ID
	unsure        bool // it waits for an authorising event, or descends from one that does
}

// begin makes the whole state; false: nothing is lacking.
func (c *completion) begin(ctx context.Context) (bool, error) {
	var v *event.Version
	var told store.State
	err := c.r.view(ctx, func(rd *store.Read) error {
		p, err := rd.Partial(c.w.Room)
		if p == nil || err != nil || p.Whole != 0 {
			return err
		}
		row, err := rd.EventByNID(p.Join)
		if row == nil || err != nil || row.ID != c.w.Join {
			return err // joined anew meanwhile
		}
		c.join = p.Join
		if v, err = versionOf(rd, c.w.Room); err != nil {
			return err
		}
		told, err = rd.CurrentState(c.w.Room)
		return err
	})
	if err != nil || c.join == 0 {
		return false, err
	}
	c.sh = &live{r: c.r, id: c.w.Room, version: v, loaded: true, shadow: true, fresh: make(map[int64]*freshEvent), freshID: make(map[event.ID]*freshEvent),
		resolved: make(map[string]group), gaps: make(map[event.ID]bool), awaited: make(map[event.ID]bool), unsure: make(map[int64]bool), servers: make(map[string]int)}
	if err := c.gather(ctx); err != nil {
		return false, err
	}
	c.sh.cur = c.base
	if err := c.write(ctx); err != nil {
		return false, err
	}
	return true, c.learnMembers(ctx, told)
}

// gather makes the state before the join.
func (c *completion) gather(ctx context.Context) error {
	s := make(store.State, 0, len(c.w.State)+1)
	for ids := c.w.State; len(ids) > 0; {
		n := min(len(ids), lookAtOnce)
		err := c.r.view(ctx, func(rd *store.Read) error {
			g, _, missing, err := c.sh.givenState(&look{l: c.sh, rd: rd}, ids[:n], false)
			if len(missing) > 0 {
				err = lack(missing)
			}
			s = append(s, g.state...)
			return err
		})
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	slices.SortStableFunc(s, func(a, b store.StateEntry) int { return int(a.Key - b.Key) })
	s = slices.CompactFunc(s, func(a, b store.StateEntry) bool { return a.Key == b.Key })
	if c.w.At != "" {
		err := c.r.view(ctx, func(rd *store.Read) (err error) {
			s, err = c.apply(&look{l: c.sh, rd: rd}, s)
			return err
		})
		if err != nil {
			return err
		}
	}
	c.base = c.newGroup(s)
	return nil
}

func (c *completion) newGroup(s store.State) group {
	g := group{nid: c.r.db.NextGroup(), state: s}
	c.r.db.CacheGroup(g.nid, s)
	c.groups = append(c.groups, newGroup{group: g})
	return g
}

// apply lays the event before the join over the state before it.
func (c *completion) apply(k *look, s store.State) (store.State, error) {
	t, nid, err := k.thinID(c.w.At)
	if err != nil {
		return nil, err
	}
	if t == nil || t.Room != c.w.Room {
		return nil, lack([]event.ID{c.w.At})
	}
	if t.StateKey == nil || t.Rejected {
		return s, nil
	}
	denied, err := k.allowed(t, s)
	if denied != nil || err != nil {
		return s, err
	}
	key, err := c.r.db.StateKey(t.Type, *t.StateKey)
	return s.With(key, nid), err
}

// learnMembers reads what the member events say that the room has lacked so far, so that the last step need not.
func (c *completion) learnMembers(ctx context.Context, told store.State) error {
	c.members = make(map[int64]string)
	for d := told.Diff(c.base.state); len(d) > 0; {
		n := min(len(d), lookAtOnce/5)
		err := c.r.view(ctx, func(rd *store.Read) error {
			k := &look{l: c.sh, rd: rd}
			for _, e := range d[:n] {
				typ, _, err := c.r.db.StateKeyText(e.Key)
				if err != nil {
					return err
				}
				if typ != "m.room.member" || e.Event == 0 {
					continue
				}
				t, err := k.thin(e.Event)
				if err != nil {
					return err
				}
				if t != nil && t.Member != nil {
					c.members[e.Event] = t.Member.Membership
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		d = d[n:]
	}
	return nil
}

// write puts the states made so far on the disk.
func (c *completion) write(ctx context.Context) error {
	groups := c.groups
	c.groups, c.counted = nil, 0
	if len(groups) == 0 {
		return nil
	}
	return c.r.db.Do(ctx, func(tx *store.Tx) error {
		for _, g := range groups {
			if err := tx.InsertGroup(c.w.Room, g.nid, g.parent.nid, g.parent.state, g.state); err != nil {
				return err
			}
		}
		return nil
	})
}

// step plays up to limit more events and writes the states they make. It says how many there were.
func (c *completion) step(ctx context.Context, limit int) (n int, err error) {
	err = c.r.view(ctx, func(rd *store.Read) (err error) { n, err = c.play(&look{l: c.sh, rd: rd}, limit); return err })
	if err != nil {
		return n, err
	}
	return n, c.write(ctx)
}

// play judges events in the order in which they came, but for those that came before their ancestors.
func (c *completion) play(k *look, limit int) (n int, err error) {
	us, err := k.rd.UnsureEvents(c.w.Room)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(us, func(u store.Unsure) bool { return u.NID == c.join })
	if i < 0 {
		return 0, errors.New("the join is not unsure")
	}
	open := make(map[int64]store.Unsure)
	for _, u := range us[i:] {
		if c.sh.fresh[u.NID] == nil {
			open[u.NID] = u
		}
	}
	made := 0
	for _, u := range us[i:] {
		for todo := []int64{u.NID}; len(todo) > 0; {
			if n >= limit || made > stepStates {
				return limit, nil
			}
			nid := todo[len(todo)-1]
			u, wanted := open[nid]
			if !wanted {
				todo = todo[:len(todo)-1]
				continue
			}
			up, err := c.next(k, u, open)
			if err != nil {
				return n, err
			}
			if up != 0 {
				todo = append(todo, up)
				continue
			}
			delete(open, nid)
			for _, g := range c.groups[c.counted:] {
				made += len(g.state)
			}
			c.counted = len(c.groups)
			n++
		}
	}
	return n, nil
}

// next judges an event, or names an ancestor that is to be judged before.
func (c *completion) next(k *look, u store.Unsure, open map[int64]store.Unsure) (up int64, err error) {
	row, err := k.rd.EventByNID(u.NID)
	if err != nil {
		return 0, err
	}
	if row == nil {
		return 0, fmt.Errorf("unsure event %d is not there", u.NID)
	}
	pdu, err := event.ParseTrusted(c.sh.version, row.ID, row.JSON)
	if err != nil {
		return 0, err
	}
	if u.NID != c.join {
		for _, id := range pdu.Prev {
			nid, err := k.rd.EventNID(id)
			if err != nil {
				return 0, err
			}
			if _, wanted := open[nid]; wanted {
				return nid, nil
			}
		}
		if u.Given { // or was it, and its ancestors have come?
			ours, err := c.sh.placed(k, pdu.Prev)
			if err != nil {
				return 0, err
			}
			u.Given = !ours
		}
	}
	return 0, c.judge(k, u, row, pdu)
}

// judge decides about one event as if it came now into the room that is played through.
func (c *completion) judge(k *look, u store.Unsure, row *store.Event, pdu *event.PDU) error {
	slim := *row
	slim.JSON, slim.StateKey = nil, pdu.StateKey
	slim.Flags &^= store.Rejected | store.SoftFailed
	p := &prepared{r: c.r, version: c.sh.version, pdu: pdu, row: &slim, replace: true, again: &again{}}
	before, err := c.before(k, u, row, pdu)
	if err != nil {
		return err
	}
	v := verdict{nid: row.NID, was: outcomeOf(row), outcome: Rejected, reason: row.Reason}
	thin, invalid := rules.Thin(pdu)
	if p.thin = thin; invalid != nil {
		p.thin = &rules.Event{ID: pdu.ID, Version: c.sh.version, Room: c.w.Room, Sender: pdu.Sender, Type: pdu.Type, StateKey: pdu.StateKey, Prev: pdu.Prev, Auth: pdu.Auth}
	} else {
		auth, unknown, waits, err := c.sh.authority(k, pdu.Auth)
		if err != nil {
			return err
		}
		p.waits = append(waits, unknown...)
		if v.reason, v.outcome, err = c.sh.law(k, p, auth, before, true, nil, Incoming{PDU: pdu}); err != nil {
			return err
		}
	}
	if v.outcome == Accepted && row.Is(store.SoftFailed) && !strings.HasPrefix(row.Reason, offState) { // a policy server's word stands
		v.outcome, v.reason = SoftFailed, row.Reason
	}
	if v.outcome == Rejected {
		slim.Flags |= store.Rejected
		p.thin.Rejected = true
	} else if v.outcome == SoftFailed {
		slim.Flags |= store.SoftFailed
	}
	after := before
	if pdu.StateKey != nil && v.outcome != Rejected {
		key, err := c.r.db.StateKey(pdu.Type, *pdu.StateKey)
		if err != nil {
			return err
		}
		after = c.sh.newGroup(p, before, before.state.With(key, row.NID))
	}
	slim.Before, slim.After = before.nid, after.nid
	v.before, v.after, v.waits = before.nid, after.nid, p.waits
	v.unsure = len(v.waits) > 0 || !u.Given && slices.ContainsFunc(pdu.Prev, func(id event.ID) bool { return c.unsure[id] })
	if v.unsure {
		c.unsure[row.ID] = true
	}
	p.result.Outcome = v.outcome
	if err := c.advance(k, p, u, after); err != nil {
		return err
	}
	c.groups = append(append(c.groups, c.sh.unsaved...), p.groups...)
	c.sh.unsaved = nil
	c.sh.keep(p)
	c.sh.freshID[row.ID].pdu = nil // its text need not be held
	c.verdicts = append(c.verdicts, v)
	return nil
}

func (c *completion) before(k *look, u store.Unsure, row *store.Event, pdu *event.PDU) (group, error) {
	if u.NID == c.join {
		return c.base, nil
	}
	if !u.Given {
		g, known, missing, err := c.sh.stateBefore(k, Incoming{PDU: pdu})
		if err != nil || known && len(missing) == 0 {
			return g, err
		}
	}
	s, err := k.rd.Group(row.Before)
	if err != nil {
		return group{}, err
	}
	told := slices.DeleteFunc(slices.Clone(s), func(e store.StateEntry) bool { // what the law refuses by now
		f := c.sh.fresh[e.Event]
		return f != nil && f.thin.Rejected
	})
	if len(told) == len(s) {
		return group{nid: row.Before, state: s}, nil
	}
	return c.newGroup(told), nil
}

// advance is live.advance without anybody to tell.
func (c *completion) advance(k *look, p *prepared, u store.Unsure, after group) error {
	l := c.sh
	if p.result.Outcome != Accepted || u.Covered {
		return nil
	}
	covered := make(map[event.ID]bool, len(p.pdu.Prev))
	if err := l.cover(k, covered, p.pdu.Prev, 0); err != nil {
		return err
	}
	l.tips = slices.DeleteFunc(slices.Clone(l.tips), func(t tip) bool { return covered[t.id] })
	l.tips = append(l.tips, tip{nid: p.row.NID, id: p.pdu.ID, depth: p.pdu.Depth, after: after})
	if len(l.tips) == 1 {
		l.cur = after
		return nil
	}
	cur, err := l.resolveTips(k, p, l.tips)
	if err == nil {
		l.cur = cur
	}
	return err
}
