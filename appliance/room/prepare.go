// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// prepared is an event with all that its transaction has to write. Everything that needs thought was done before.
type prepared struct {
	r       *Rooms
	version *event.Version
	row     *store.Event
	pdu     *event.PDU
	thin    *rules.Event
	info    AppendInfo
	replace bool // the row exists: an outlier finds its place, a rejected event is looked at again
	// believed: it was accepted as an outlier. fell: and its place shows that the law refuses it.
	believed, fell bool
	groups         []newGroup

	setCur   bool
	cur, old group
	members  []memberChange
	setTips  bool
	tips     []int64
	gaps     []event.ID
	closeGap bool
	waits    []event.ID    // rejected only because these authorising events are missing, or are rejected for that reason themselves
	unsure   *store.Unsure // its verdict or the state before it may change with them
	given    bool          // the state before it was told
	again    *again        // looked at again: what of it stays as it was
	fork     *Fork         // it shows that branches differ in their state
	txn      *Txn
	ahead    func(*store.Tx) error // comes before all the rest
	extra    func(*store.Tx) error
	result   Result
}

type memberChange struct {
	user       event.UserID
	membership string
	event      int64
}

// txnSeen answers an act whose transaction id was used before.
type txnSeen struct{ id event.ID }

func (t *txnSeen) Error() string { return "room: transaction id seen before: " + string(t.id) }

// place puts an authorised event at its place in the graph in memory: the state after it, the room's ends and current state.
// before is the state before it; shown events become ends unless others already follow them.
func (l *live) place(k *look, p *prepared, before group, outcome Outcome) error {
	p.info.Servers = l.serverList()
	row := p.row
	row.Before, row.After = before.nid, before.nid
	after := before
	if p.pdu.StateKey != nil && outcome != Rejected {
		key, err := l.r.db.StateKey(p.pdu.Type, *p.pdu.StateKey)
		if err != nil {
			return err
		}
		after = l.newGroup(p, before, before.state.With(key, row.NID))
		row.After = after.nid
	}
	if err := l.noteUnsure(k, p); err != nil {
		return err
	}
	if outcome != Accepted || p.info.Backfill {
		return nil
	}
	return l.advance(k, p, after)
}

func (l *live) newGroup(p *prepared, parent group, s store.State) group {
	g := group{nid: l.r.db.NextGroup(), state: s}
	l.r.db.CacheGroup(g.nid, s)
	p.groups = append(p.groups, newGroup{group: g, parent: parent})
	return g
}

// advance makes an accepted event an end of the graph and finds the current state that follows.
func (l *live) advance(k *look, p *prepared, after group) error {
	covered := make(map[event.ID]bool, len(p.pdu.Prev))
	if err := l.cover(k, covered, p.pdu.Prev, 0); err != nil {
		return err
	}
	was := len(l.tips)
	tips := make([]tip, 0, len(l.tips)+1)
	for _, t := range l.tips {
		if !covered[t.id] {
			tips = append(tips, t)
		}
	}
	fills := l.gaps[p.pdu.ID] // an accepted event builds on it already: it fills a hole and is no end
	if fills && len(tips) == 0 {
		tips = l.tips
	}
	if !fills {
		tips = append(tips, tip{nid: p.row.NID, id: p.pdu.ID, depth: p.pdu.Depth, after: after})
	}
	cur := l.cur
	if !fills || len(tips) < was {
		cur = tips[0].after
		if len(tips) > 1 {
			var err error
			if cur, err = l.resolveTips(k, p, tips); err != nil {
				return err
			}
		}
	}
	if len(tips) > 1 {
		if err := l.noteFork(p, tips, after, was); err != nil {
			return err
		}
	}
	listed := len(tips) > 1 || fills // otherwise the newest event is the end, and no row has to say so
	if listed {
		p.setTips, p.tips = true, nids(tips)
	} else {
		p.setTips = l.explicit || was == 0
	}
	if err := l.setCurrent(k, p, cur); err != nil {
		return err // nothing of the room's memory has changed
	}
	l.explicit, l.tips = listed, tips
	return nil
}

func nids(tips []tip) (list []int64) {
	for _, t := range tips {
		list = append(list, t.nid)
	}
	return list
}

// setCurrent makes cur the current state and notes who came and went by it.
func (l *live) setCurrent(k *look, p *prepared, cur group) error {
	if cur.nid == l.cur.nid {
		return nil
	}
	p.setCur, p.old, p.cur = true, l.cur, cur
	came := make(map[string]int)
	for _, d := range l.cur.state.Diff(cur.state) {
		typ, key, err := l.r.db.StateKeyText(d.Key)
		if err != nil {
			return err
		}
		if typ != "m.room.member" {
			continue
		}
		m := memberChange{user: event.UserID(key), event: d.Event}
		if m.membership, err = l.membership(k, p, d.Event); err != nil {
			return err
		}
		was, err := l.membership(k, p, l.cur.state.Find(d.Key))
		if err != nil {
			return err
		}
		if was == "join" {
			came[m.user.Server()]--
		}
		if m.membership == "join" {
			came[m.user.Server()]++
		}
		p.members = append(p.members, m)
	}
	for s, n := range came {
		if n != 0 {
			l.countServer(p, s, n)
		}
	}
	l.cur = cur
	return nil
}

// membership is what a member event says; "" without one.
func (l *live) membership(k *look, p *prepared, nid int64) (string, error) {
	if nid == 0 {
		return "", nil
	}
	t, err := l.thinOr(k, p, nid)
	if t == nil || t.Member == nil || err != nil {
		return "", err
	}
	return t.Member.Membership, nil
}

// countServer notes that so many more members of a server are joined. Whoever comes by the event is told of it as well.
func (l *live) countServer(p *prepared, server string, n int) {
	was := l.servers[server]
	if l.servers[server] = max(0, was+n); l.servers[server] == 0 {
		delete(l.servers, server)
	}
	if (was > 0) == (l.servers[server] > 0) {
		return
	}
	l.list = nil
	if was == 0 {
		p.info.Servers = append(slices.Clone(p.info.Servers), server)
	}
}

// thinOr is look.thin that also knows the event being prepared.
func (l *live) thinOr(k *look, p *prepared, nid int64) (*rules.Event, error) {
	if nid == p.row.NID {
		return p.thin, nil
	}
	return k.thin(nid)
}

// cover collects the ends that an event takes the place of. Soft-failed and rejected prev events are no ends, but what they follow may be one.
func (l *live) cover(k *look, covered map[event.ID]bool, prev []event.ID, depth int) error {
	for _, id := range prev {
		if covered[id] {
			continue
		}
		covered[id] = true
		if l.isTip(id) || depth > 20 {
			continue
		}
		row, err := k.row(id)
		if errors.Is(err, errNeedRead) {
			return err
		}
		if err != nil {
			return err
		}
		if row == nil || row.Flags&(store.SoftFailed|store.Rejected) == 0 {
			continue
		}
		t, _, err := k.thinID(id)
		if err != nil {
			return err
		}
		if err := l.cover(k, covered, t.Prev, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (l *live) isTip(id event.ID) bool {
	return slices.ContainsFunc(l.tips, func(t tip) bool { return t.id == id })
}

// serverList lists the servers with a joined member. The list is shared and never changed.
func (l *live) serverList() []string {
	if l.list == nil {
		l.list = slices.AppendSeq(make([]string, 0, len(l.servers)), maps.Keys(l.servers))
		slices.Sort(l.list)
	}
	return l.list
}

// keep makes a prepared event known to those that are prepared after it.
func (l *live) keep(p *prepared) {
	f := &freshEvent{row: p.row, pdu: p.pdu, thin: p.thin, waits: len(p.waits) > 0}
	l.fresh[p.row.NID], l.freshID[p.row.ID] = f, f
	for _, id := range p.waits {
		l.awaited[id] = true
	}
	if p.unsure != nil {
		l.unsure[p.row.NID] = true
	}
	for _, id := range p.gaps {
		l.gaps[id] = l.gaps[id] || p.info.Outcome == Accepted
	}
	if p.closeGap {
		delete(l.gaps, p.row.ID)
	}
	if l.shadow {
		return
	}
	if p.replace {
		l.r.thins.drop(p.row.NID)
	}
	if p.pdu.StateKey != nil { // wanted again soon; settle takes it back should the event not reach the disk
		l.r.thins.put(p.row.NID, p.thin)
	}
}

// write is the event's part of the transaction.
func (p *prepared) write(tx *store.Tx) error {
	row := p.row
	if p.ahead != nil {
		if err := p.ahead(tx); err != nil {
			return err
		}
	}
	if p.txn != nil {
		seen, err := tx.UseTxn(row.Sender, p.txn.Device, p.txn.Path, p.txn.ID, row.NID)
		if err != nil {
			return err
		}
		if seen != 0 {
			id, err := tx.EventID(seen)
			return errors.Join(&txnSeen{id}, err)
		}
	}
	for _, g := range p.groups {
		if err := tx.InsertGroup(row.Room, g.nid, g.parent.nid, g.parent.state, g.state); err != nil {
			return err
		}
	}
	shown := row.Flags&(store.Outlier|store.Rejected|store.SoftFailed) == 0
	switch {
	case p.again != nil && p.again.kept:
	case shown && p.info.Backfill:
		row.Pos = store.HistoryPos(row.Depth, row.NID)
	case shown:
		row.Pos = tx.NextPos()
		tx.TouchRoom(row.Room)
	}
	if err := tx.InsertEvent(row, p.replace); err != nil {
		return err
	}
	p.result.Pos, p.info.Pos, p.info.NID = row.Pos, row.Pos, row.NID
	if err := p.writeGraph(tx); err != nil {
		return err
	}
	if err := p.writeState(tx); err != nil {
		return err
	}
	if err := p.writeFork(tx); err != nil {
		return err
	}
	if p.again == nil || !p.again.quiet {
		if err := p.redact(tx); err != nil {
			return err
		}
	}
	if hook := p.r.opt.OnAppend; hook != nil && (p.again == nil || !p.again.quiet) {
		if err := hook(tx, p.info); err != nil {
			return fmt.Errorf("note event in the log: %w", err)
		}
	}
	if p.extra != nil {
		return p.extra(tx)
	}
	return nil
}

func (p *prepared) writeGraph(tx *store.Tx) error {
	if p.row.Flags&(store.Outlier|store.Guessed) == 0 && p.again == nil && (p.given || p.replace) {
		if err := tx.CameEarly(p.row.Room, p.row.NID); err != nil {
			return err
		}
	}
	for _, id := range p.gaps {
		if err := tx.AddGap(p.row.Room, id, p.row.NID); err != nil {
			return err
		}
	}
	if p.closeGap {
		if err := tx.CloseGap(p.row.Room, p.row.ID); err != nil {
			return err
		}
	}
	if p.setTips {
		if err := tx.SetTips(p.row.Room, p.tips); err != nil {
			return err
		}
	}
	return p.writeUndecided(tx)
}

func (p *prepared) writeState(tx *store.Tx) error {
	if !p.setCur {
		return nil
	}
	row := p.row
	if err := tx.SetRoom(row.Room, p.version.ID, p.cur.nid); err != nil {
		return err
	}
	pos := row.Pos
	if pos <= 0 || p.again != nil && p.again.kept {
		pos = tx.NextPos()
		tx.TouchRoom(row.Room)
	}
	if err := tx.LogState(row.Room, pos, p.old.state, p.old.state.Diff(p.cur.state)); err != nil {
		return err
	}
	for _, m := range p.members {
		if err := tx.SetMember(store.Membership{Room: row.Room, User: m.user, Membership: m.membership, Event: m.event, Pos: pos}); err != nil {
			return err
		}
		if m.user.Server() == p.r.id.Server {
			tx.TouchUser(m.user)
		}
	}
	return nil
}
