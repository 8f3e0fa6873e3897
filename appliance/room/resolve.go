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
	if len(l.resolved) > 64 {
		clear(l.resolved)
	}
	s, err := l.resolveStates(k, p, groups)
	if err != nil {
		return group{}, fmt.Errorf("resolve state of %s: %w", l.id, err)
	}
	for _, g := range groups {
		if g.state.Equal(s) {
			l.resolved[key.String()] = g
			return g, nil
		}
	}
	g := group{nid: l.r.db.NextGroup(), state: s}
	l.r.db.CacheGroup(g.nid, s)
	// The parent's own row may be one that the event at hand brings; then this one must come after it.
	n := newGroup{group: g, parent: groups[len(groups)-1]}
	if p != nil && slices.ContainsFunc(p.groups, func(o newGroup) bool { return o.nid == n.parent.nid }) {
		p.groups = append(p.groups, n)
		return g, nil
	}
	l.unsaved = append(l.unsaved, n)
	l.resolved[key.String()] = g
	return g, nil
}

// resolveStates asks the law. States are told in its terms: ids, not numbers.
func (l *live) resolveStates(k *look, p *prepared, groups []group) (store.State, error) {
	ids := make(map[int64]event.ID)
	nids := make(map[event.ID]int64)
	name := func(nid int64) (event.ID, error) {
		if id, ok := ids[nid]; ok {
			return id, nil
		}
		id, err := l.idOf(k, p, nid)
		ids[nid], nids[id] = id, nid
		return id, err
	}
	keys := make(map[int64]rules.Key)
	sets := make([]map[rules.Key]event.ID, len(groups))
	for i, g := range groups {
		sets[i] = make(map[rules.Key]event.ID, len(g.state))
		for _, e := range g.state {
			key, ok := keys[e.Key]
			if !ok {
				typ, sk, err := l.r.db.StateKeyText(e.Key)
				if err != nil {
					return nil, err
				}
				key = rules.Key{Type: typ, StateKey: sk}
				keys[e.Key] = key
			}
			id, err := name(e.Event)
			if err != nil {
				return nil, err
			}
			sets[i][key] = id
		}
	}
	var failed error
	result, err := rules.Resolve(l.version, sets, func(id event.ID) *rules.Event {
		if p != nil && id == p.pdu.ID {
			return p.thin
		}
		t, nid, err := k.thinID(id)
		if err != nil {
			failed = err
		}
		if t != nil {
			ids[nid], nids[id] = id, nid
		}
		return t
	})
	if failed != nil {
		return nil, failed
	}
	if err != nil {
		return nil, err
	}
	s := make(store.State, 0, len(result))
	for key, id := range result {
		nid, ok := nids[id]
		if !ok {
			return nil, fmt.Errorf("the law answered an unknown event %s", id)
		}
		n, err := l.r.db.StateKey(key.Type, key.StateKey)
		if err != nil {
			return nil, err
		}
		s = append(s, store.StateEntry{Key: n, Event: nid})
	}
	slices.SortFunc(s, func(a, b store.StateEntry) int { return int(a.Key - b.Key) })
	return s, nil
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
