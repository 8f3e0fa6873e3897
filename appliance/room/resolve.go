// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// resolveTips gives the current state of several ends.
func (l *live) resolveTips(k *look, p *prepared, tips []tip) (group, error) {
	groups := make([]group, len(tips))
	for i, t := range tips {
		groups[i] = t.after
	}
	return l.resolve(k, p, groups)
}

// maxHeld bounds the entries of the answers that a room keeps: those of a big room are megabytes each.
const maxHeld = 1 << 18

// resolve gives the state that several states come to. Identical states need no law; an answer is kept until the room leaves memory.
// A state that follows from another by one change is no shortcut: the law may still prefer the older event.
func (l *live) resolve(k *look, p *prepared, groups []group) (group, error) {
	slices.SortFunc(groups, func(a, b group) int { return int(a.nid - b.nid) })
	groups = slices.CompactFunc(groups, func(a, b group) bool { return a.nid == b.nid || a.state.Equal(b.state) })
	if len(groups) == 1 {
		return groups[0], nil
	}
	var key strings.Builder
	for _, g := range groups {
		key.WriteString(strconv.FormatInt(g.nid, 36))
		key.WriteByte(' ')
	}
	if g, ok := l.resolved[key.String()]; ok {
		return g, nil
	}
	if len(l.resolved) > 64 || l.held > maxHeld {
		clear(l.resolved)
		l.held = 0
	}
	s, err := l.resolveStates(k, p, groups)
	if err != nil {
		return group{}, fmt.Errorf("resolve state of %s: %w", l.id, err)
	}
	for _, g := range groups {
		if g.state.Equal(s) {
			l.resolved[key.String()] = g
			l.held += len(s)
			return g, nil
		}
	}
	g := group{nid: l.r.db.NextGroup(), state: s}
	l.r.db.CacheGroup(g.nid, s)
	// The parent's own row may be one that the event at hand brings; then this one must come after it.
	n := newGroup{group: g, parent: groups[len(groups)-1]}
	if p != nil && (p.again != nil || slices.ContainsFunc(p.groups, func(o newGroup) bool { return o.nid == n.parent.nid })) {
		p.groups = append(p.groups, n)
		return g, nil
	}
	l.unsaved = append(l.unsaved, n)
	l.resolved[key.String()] = g
	l.held += len(s)
	return g, nil
}

// translator tells states in the law's terms, ids, and back in numbers.
type translator struct {
	l    *live
	k    *look
	p    *prepared
	ids  map[int64]event.ID
	nids map[event.ID]int64
	keys map[int64]rules.Key
}

func (t *translator) tell(s store.State) (map[rules.Key]event.ID, error) {
	m := make(map[rules.Key]event.ID, len(s))
	for _, e := range s {
		key, ok := t.keys[e.Key]
		if !ok {
			typ, sk, err := t.l.r.db.StateKeyText(e.Key)
			if err != nil {
				return nil, err
			}
			key = rules.Key{Type: typ, StateKey: sk}
			t.keys[e.Key] = key
		}
		id, ok := t.ids[e.Event]
		if !ok {
			var err error
			if id, err = t.l.idOf(t.k, t.p, e.Event); err != nil {
				return nil, err
			}
			t.ids[e.Event], t.nids[id] = id, e.Event
		}
		m[key] = id
	}
	return m, nil
}

func (t *translator) back(m map[rules.Key]event.ID) (store.State, error) {
	s := make(store.State, 0, len(m))
	for key, id := range m {
		nid, ok := t.nids[id]
		if !ok {
			return nil, fmt.Errorf("the law answered an unknown event %s", id)
		}
		n, err := t.l.r.db.StateKey(key.Type, key.StateKey)
		if err != nil {
			return nil, err
		}
		s = append(s, store.StateEntry{Key: n, Event: nid})
	}
	slices.SortFunc(s, func(a, b store.StateEntry) int { return int(a.Key - b.Key) })
	return s, nil
}

// resolveStates asks the law.
func (l *live) resolveStates(k *look, p *prepared, groups []group) (store.State, error) {
	l.r.resolutions.Add(1)
	t := &translator{l: l, k: k, p: p, ids: make(map[int64]event.ID), nids: make(map[event.ID]int64), keys: make(map[int64]rules.Key)}
	sets := make([]map[rules.Key]event.ID, len(groups))
	for i, g := range groups {
		var err error
		if sets[i], err = t.tell(g.state); err != nil {
			return nil, err
		}
	}
	var failed error
	result, err := rules.Resolve(l.version, sets, func(id event.ID) *rules.Event {
		if p != nil && id == p.pdu.ID {
			t.nids[id] = p.row.NID
			return p.thin
		}
		thin, nid, err := k.thinID(id)
		if err != nil {
			failed = err
		}
		if thin != nil {
			t.nids[id] = nid
		}
		return thin
	})
	if failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	return t.back(result)
}

func (l *live) idOf(k *look, p *prepared, nid int64) (event.ID, error) {
	if p != nil && p.row.NID == nid {
		return p.pdu.ID, nil
	}
	if f := l.fresh[nid]; f != nil {
		return f.row.ID, nil
	}
	if t := l.r.thins.nid(nid); t != nil {
		return t.ID, nil
	}
	if k.rd == nil {
		return "", errNeedRead
	}
	id, err := k.rd.EventID(nid)
	if err == nil && id == "" {
		err = fmt.Errorf("event number %d of the state is missing", nid)
	}
	return id, err
}
