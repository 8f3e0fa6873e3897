// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// This file asks for what the staged events of a room lack: what lies between them and what we have, a hundred at a time, and, where that is not to be
// had or lies before our time in the room, the state instead.

// wanted gives the tips that servers named and that we still lack.
func (in *Intake) wanted(ctx context.Context, l *lane) map[event.ID]string {
	in.mu.Lock()
	out := make(map[event.ID]string, len(l.wants))
	for id, server := range l.wants {
		out[id] = server
	}
	in.mu.Unlock()
	for id := range out {
		staged := false
		err := in.c.DB.View(ctx, func(r *store.Read) (err error) { staged, err = r.IsStaged(l.room, id); return err })
		if err == nil && (staged || in.known(ctx, id)) {
			delete(out, id)
			in.drop(l, id)
		}
	}
	return out
}

func (in *Intake) drop(l *lane, ids ...event.ID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, id := range ids {
		delete(l.wants, id)
	}
}

// lack is what a staged event lacks.
type lack struct {
	id    event.ID
	child *waiting
	old   bool // the ancestor is from before our time in the room: history, which is nobody's news
	alone bool // nobody but the server that sent the child is asked for state in its place
}

func (in *Intake) lacks(ctx context.Context, l *lane, v *event.Version, kind int) ([]lack, error) {
	var rows []store.StagedLack
	err := in.c.DB.View(ctx, func(r *store.Read) (err error) {
		rows, err = r.StagedLacks(l.room, kind, askAtOnce)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read what staged events lack: %w", err)
	}
	out := make([]lack, 0, len(rows))
	for _, row := range rows {
		w, err := stagedEvent(v, row.Child)
		if err != nil {
			return nil, err
		}
		out = append(out, lack{id: row.ID, child: w})
	}
	slices.SortStableFunc(out, func(a, b lack) int { return int(min(1, max(-1, a.child.pdu.Depth-b.child.pdu.Depth))) })
	return out, nil
}

// fill asks other servers for what lacks. True means that something new came.
func (in *Intake) fill(ctx context.Context, l *lane, v *event.Version, want map[event.ID]string) (bool, error) {
	floor, edge, err := in.edge(ctx, l.room)
	if err != nil {
		return false, err
	}
	prev, err := in.lacks(ctx, l, v, store.LackPrev)
	if err != nil {
		return false, err
	}
	walk := map[string]*question{} // by server to ask first
	var byState []lack
	for _, k := range prev {
		if k.child.pdu.Depth <= floor || edge[k.id] { // from before our time
			k.old = true
			byState = append(byState, k)
			continue
		}
		walk[k.child.origin] = walk[k.child.origin].add(k.id, k.child.pdu.ID)
	}
	in.measure(ctx, l, prev)
	for id, server := range want {
		walk[server] = walk[server].add(id, "")
	}
	progress := false
	for server, q := range walk {
		got, err := in.walk(ctx, l, v, server, q, floor)
		if err != nil {
			return progress, err
		}
		progress = progress || got
	}
	got, err := in.fillAuthority(ctx, l, v)
	if progress = progress || got; progress || err != nil {
		return progress, err
	}
	// Nobody gives the ancestors: the state before the oldest of the waiting must do.
	for _, k := range prev {
		if slices.ContainsFunc(byState, func(o lack) bool { return o.id == k.id }) {
			continue
		}
		if k.alone = in.awaits(l, k.child.origin); !k.alone || l.away[k.child.origin].rounds > 1 {
			byState = append(byState, k)
		}
	}
	mute := map[string]bool{} // in this round
	for _, k := range byState {
		if k.alone && mute[k.child.origin] {
			continue
		}
		ok, err := in.byState(ctx, l, v, k)
		if err != nil {
			mute[k.child.origin] = true
			in.log.Info("state before an event could not be had", "room", l.room, "event", k.id, "err", err)
			continue
		}
		if ok {
			return true, nil // its descendants may go on by themselves
		}
	}
	for id := range want { // that no server gives out: the one who named them will name others
		in.drop(l, id)
	}
	return false, nil
}

// originPatience is how long the ancestors of an event are waited for when the server that sent it is out of reach. That server has them all; the state
// that another one gives in their place may lack what they changed, and would stay. One that is in reach but fails at the question about ancestors every time is
// itself asked for the state.
const originPatience = time.Hour

// awaits says whether a server that does not answer is still waited for.
func (in *Intake) awaits(l *lane, server string) bool {
	o, away := l.away[server]
	return away && in.c.Client.now().Sub(o.since) < originPatience
}

// answers notes whether a server answered when it was asked for ancestors.
func (in *Intake) answers(ctx context.Context, l *lane, server string, err error) {
	if errors.Is(context.Cause(ctx), errSooner) {
		l.hungUp = true
		return
	}
	if err == nil || final(err) {
		delete(l.away, server)
		return
	}
	if l.away == nil {
		l.away = map[string]outage{}
	}
	o, away := l.away[server]
	if !away {
		o.since = in.c.Client.now()
	}
	o.rounds++
	o.last = time.Now()
	l.away[server] = o
}

// outage is that of a server which did not answer when it was last asked for ancestors.
type outage struct {
	since  time.Time
	rounds int       // in which it was asked
	last   time.Time // when it last did not answer, by this machine's clock
}

// fillAuthority asks for the authorising events that staged ones lack. What those in reach do not have is lacking from then on: the events are
// rejected until it comes.
func (in *Intake) fillAuthority(ctx context.Context, l *lane, v *event.Version) (bool, error) {
	auth, err := in.lacks(ctx, l, v, store.LackAuth)
	if err != nil || len(auth) == 0 {
		return false, err
	}
	progress := false
	for _, k := range auth {
		found, refused, err := in.authorityFrom(ctx, l, v, k)
		if err != nil {
			return progress, err
		}
		if !found && !refused {
			continue // nobody in reach
		}
		if !found {
			if l.unhad == nil || len(l.unhad) > 10*askAtOnce {
				l.unhad = map[event.ID]bool{}
			}
			l.unhad[k.id] = true
		}
		progress = true
		if err := in.c.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.RetryStaged(l.room, k.id) }); err != nil {
			return progress, err
		}
	}
	return progress, nil
}

// edge gives the depth at which our knowledge of a room begins, and the ancestors that we lack there on purpose.
func (in *Intake) edge(ctx context.Context, id event.RoomID) (floor int64, edge map[event.ID]bool, err error) {
	gaps, err := in.c.Rooms.Gaps(ctx, id)
	if err != nil {
		return 0, nil, err
	}
	edge = make(map[event.ID]bool, len(gaps))
	for _, g := range gaps {
		edge[g] = true
	}
	err = in.c.DB.View(ctx, func(r *store.Read) (err error) {
		floor, err = r.GapDepth(id)
		return err
	})
	return floor, edge, err
}

const askAtOnce = 100 // events per question; what central servers allow at most

// question is what one server is asked for: events that lack, and those we have that build on them.
type question struct {
	lacks, heads []event.ID
}

func (q *question) add(id, head event.ID) *question {
	if q == nil {
		q = &question{}
	}
	q.lacks = append(q.lacks, id)
	if head != "" && !slices.Contains(q.heads, head) {
		q.heads = append(q.heads, head)
	}
	return q
}

// walk asks for events and their ancestors: first the server that named them, then the rest of the room.
func (in *Intake) walk(ctx context.Context, l *lane, v *event.Version, first string, q *question, floor int64) (bool, error) {
	order, err := in.whom(ctx, l, first)
	if err != nil {
		return false, err
	}
	for _, server := range order {
		var good []*event.PDU
		for _, p := range in.askFor(ctx, l, v, server, q) {
			// What lies before our time in the room is history, for those who page back; only what something new builds on is needed.
			needed := p.Depth > floor || slices.Contains(q.lacks, p.ID)
			if !needed || in.known(ctx, p.ID) {
				continue
			}
			staged := false
			if err := in.c.DB.View(ctx, func(r *store.Read) (err error) { staged, err = r.IsStaged(l.room, p.ID); return err }); err != nil {
				return false, err
			}
			if !staged {
				good = append(good, p)
			}
		}
		if len(good) > 0 {
			slices.SortStableFunc(good, func(a, b *event.PDU) int { return cmp.Compare(a.Depth, b.Depth) })
			return true, in.take(ctx, server, good)
		}
		if l.hungUp { // nobody has said that he does not have them: the next round asks who is in reach now
			l.hungUp = false
			return true, ctx.Err()
		}
	}
	return false, ctx.Err()
}

// whom gives the servers of a room in the order in which they are asked: the first, then those that answered last.
func (in *Intake) whom(ctx context.Context, l *lane, first string) ([]string, error) {
	servers, err := in.c.Rooms.Servers(ctx, l.room)
	if err != nil {
		return nil, err
	}
	order := make([]string, 0, len(servers)+1)
	for _, s := range servers {
		if s != first && s != in.c.Local.Server {
			order = append(order, s)
		}
	}
	in.mu.Lock()
	slices.SortStableFunc(order, func(a, b string) int { return in.gave[b].Compare(in.gave[a]) })
	in.mu.Unlock()
	if first == "" || first == in.c.Local.Server {
		return order, nil
	}
	if !in.slow(first) {
		return append([]string{first}, order...), nil
	}
	// Over a narrow line an answer takes minutes. Who is in reach by a wide one, as far as we know, has it in a second.
	isWide := func(s string) bool { return !in.slow(s) && in.mayAnswer(l, s) }
	var wide, rest []string
	for _, s := range order {
		if isWide(s) {
			wide = append(wide, s)
		} else {
			rest = append(rest, s)
		}
	}
	return slices.Concat(wide, []string{first}, rest), nil
}

// slow says whether a server gives history only after minutes.
func (in *Intake) slow(server string) bool {
	return in.c.Client != nil && in.c.Client.longer(server, call{path: v1("backfill", "")}) > 0
}

// mayAnswer says whether a server has not been silent since it was last heard of.
func (in *Intake) mayAnswer(l *lane, server string) bool {
	o, away := l.away[server]
	in.mu.Lock()
	defer in.mu.Unlock()
	return !away || in.reached[server].After(o.last)
}

// errSooner ends a question to a slow server: a faster one is in reach again.
var errSooner = errors.New("a server that answers sooner is in reach again")

// patient gives the context of questions to one server. Those to a slow one end when a faster one comes in reach.
func (in *Intake) patient(ctx context.Context, l *lane, server string) (context.Context, func()) {
	if !in.slow(server) {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	in.mu.Lock()
	l.sooner = func() { cancel(errSooner) }
	in.mu.Unlock()
	return ctx, func() {
		in.mu.Lock()
		l.sooner = nil
		in.mu.Unlock()
		cancel(nil)
	}
}

// helped notes that a server gave what it was asked for.
func (in *Intake) helped(server string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	bound(in.gave)
	in.gave[server] = time.Now()
}

// gapFull is how many events every server gives for a gap if it has them: an answer with fewer is all that it will say.
const gapFull = 10

// askFor asks one server. The gap comes first: that is cheap when it is small. History is next, a hundred at a time.
func (in *Intake) askFor(ctx context.Context, l *lane, v *event.Version, server string, q *question) []*event.PDU {
	if l.asked == nil {
		l.asked, l.noHistory, l.short = map[string]bool{}, map[string]bool{}, map[string]bool{}
	}
	release, err := in.ask(ctx, server, l.rank)
	if err != nil {
		return nil
	}
	defer release()
	ctx, done := in.patient(ctx, l, server)
	defer done()
	gap := func() ([]*event.PDU, error) {
		if len(q.heads) == 0 || l.short[server] {
			return nil, nil
		}
		ends, err := in.c.Rooms.Extremities(ctx, l.room)
		if err != nil {
			return nil, err
		}
		pdus, err := in.c.Client.Missing(ctx, server, l.room, v, ends, q.heads[:min(len(q.heads), 20)], askAtOnce)
		in.answers(ctx, l, server, err)
		l.short[server] = err == nil && len(pdus) < gapFull
		return pdus, err
	}
	history := func() ([]*event.PDU, error) {
		if l.noHistory[server] {
			return nil, nil
		}
		pdus, err := in.c.Client.History(ctx, server, l.room, v, q.lacks, askAtOnce)
		in.answers(ctx, l, server, err)
		if final(err) {
			l.noHistory[server] = true
		}
		return pdus, err
	}
	ways := []func() ([]*event.PDU, error){gap, history}
	if l.asked[server] {
		ways = []func() ([]*event.PDU, error){history, gap}
	}
	l.asked[server] = true
	for _, ask := range ways {
		pdus, err := ask()
		if err != nil {
			in.log.Info("ancestors not given", "server", server, "room", l.room, "err", err)
			if !final(err) {
				return nil // not in reach: other questions would fare no better
			}
		}
		if len(pdus) > 0 {
			in.helped(server)
			return pdus
		}
	}
	if len(q.heads) > 0 {
		return nil
	}
	var out []*event.PDU // newest events that a server has named: perhaps it gives each by itself
	for _, id := range q.lacks[:min(len(q.lacks), 20)] {
		p, err := in.c.Client.One(ctx, server, l.room, v, id)
		if err == nil {
			out = append(out, p)
		} else if !final(err) {
			break
		}
	}
	return out
}

// take verifies and stages events that we asked for. Those with a bad signature are left out.
func (in *Intake) take(ctx context.Context, server string, pdus []*event.PDU) error {
	var good, unsure []*event.PDU
	for _, p := range pdus {
		ready, err := in.c.Client.checked(ctx, server, p)
		switch {
		case err == nil:
			good = append(good, ready)
		case errors.Is(err, ErrKeyUnavailable):
			unsure = append(unsure, p)
		default:
			in.c.Trouble.Note(server, BadSignature, p.RoomID, p.ID, err)
		}
	}
	if err := in.stage(ctx, server, true, good...); err != nil {
		return err
	}
	return in.stage(ctx, server, false, unsure...)
}
