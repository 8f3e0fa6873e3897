// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"

	"hallig/appliance/event"
)

// StateEntry says which event holds a state key. Both are numbers: see DB.StateKey and Event.NID.
type StateEntry struct{ Key, Event int64 }

// State is a whole state, sorted by Key. It is shared and never changed.
type State []StateEntry

// Find gives the event that holds a key; 0 when none does.
func (s State) Find(key int64) int64 {
	i := sort.Search(len(s), func(i int) bool { return s[i].Key >= key })
	if i < len(s) && s[i].Key == key {
		return s[i].Event
	}
	return 0
}

// With gives a copy in which key is held by ev.
func (s State) With(key, ev int64) State {
	i := sort.Search(len(s), func(i int) bool { return s[i].Key >= key })
	if i < len(s) && s[i].Key == key {
		out := slices.Clone(s)
		out[i].Event = ev
		return out
	}
	out := make(State, 0, len(s)+1)
	out = append(out, s[:i]...)
	out = append(out, StateEntry{key, ev})
	return append(out, s[i:]...)
}

// Equal reports whether both hold the same events.
func (s State) Equal(o State) bool { return slices.Equal(s, o) }

// Diff lists what must be laid over s to make o; event 0 removes.
func (s State) Diff(o State) []StateEntry {
	var d []StateEntry
	i, j := 0, 0
	for i < len(s) || j < len(o) {
		switch {
		case j == len(o) || i < len(s) && s[i].Key < o[j].Key:
			d = append(d, StateEntry{s[i].Key, 0})
			i++
		case i == len(s) || o[j].Key < s[i].Key:
			d = append(d, o[j])
			j++
		default:
			if s[i].Event != o[j].Event {
				d = append(d, o[j])
			}
			i++
			j++
		}
	}
	return d
}

func (s State) lay(delta []StateEntry) State {
	out := make(State, 0, len(s)+len(delta))
	i := 0
	for _, d := range delta {
		for i < len(s) && s[i].Key < d.Key {
			out = append(out, s[i])
			i++
		}
		if i < len(s) && s[i].Key == d.Key {
			i++
		}
		if d.Event != 0 {
			out = append(out, d)
		}
	}
	return append(out, s[i:]...)
}

// maxHops bounds how many rows a cold read of a state walks.
const maxHops = 32

func encodeEntries(es []StateEntry) []byte {
	b := make([]byte, 0, 6*len(es))
	last := int64(0)
	for _, e := range es {
		b = binary.AppendUvarint(b, uint64(e.Key-last))
		b = binary.AppendUvarint(b, uint64(e.Event))
		last = e.Key
	}
	return b
}

func decodeEntries(b []byte) ([]StateEntry, error) {
	var es []StateEntry
	last := int64(0)
	for len(b) > 0 {
		k, n := binary.Uvarint(b)
		if n <= 0 {
			return nil, errors.New("decode state group: truncated")
		}
		v, m := binary.Uvarint(b[n:])
		if m <= 0 {
			return nil, errors.New("decode state group: truncated")
		}
		b = b[n+m:]
		last += int64(k)
		es = append(es, StateEntry{last, int64(v)})
	}
	return es, nil
}

// InsertGroup writes state group g as a change of parent (0: from nothing), or whole when that is cheaper to read.
// The state is cached under its number at once: prepared events that follow need it before the commit.
func (tx *Tx) InsertGroup(room event.RoomID, g, parent int64, parentState, state State) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	var hops int64
	entries := []StateEntry(state)
	if parent != 0 {
		if _, err := tx.one(`SELECT hops FROM sgroup WHERE nid=?`, args(parent), &hops); err != nil {
			return err
		}
		d := parentState.Diff(state)
		if hops++; hops < maxHops && len(d)*2 <= len(state) {
			entries = d
		} else {
			parent, hops = 0, 0
		}
	}
	return tx.exec(`INSERT INTO sgroup (nid, room, parent, hops, body) VALUES (?, ?, ?, ?, ?)`, g, nid, parent, hops, encodeEntries(entries))
}

// CacheGroup lets Group know a state before its row is written.
func (db *DB) CacheGroup(g int64, s State) { db.groups.put(g, s) }

// Group gives the state of a group. 0 is the empty state.
func (r *Read) Group(g int64) (State, error) {
	if g == 0 {
		return nil, nil
	}
	if s, ok := r.db.groups.get(g); ok {
		return s, nil
	}
	var deltas [][]StateEntry
	var base State
	for at := g; ; {
		if at != g {
			if s, ok := r.db.groups.get(at); ok {
				base = s
				break
			}
		}
		var parent int64
		var body []byte
		found, err := r.one(`SELECT parent, body FROM sgroup WHERE nid=?`, args(at), &parent, &body)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fmt.Errorf("state group %d is missing", at)
		}
		d, err := decodeEntries(body)
		if err != nil {
			return nil, err
		}
		if parent == 0 {
			base = d
			break
		}
		deltas = append(deltas, d)
		at = parent
	}
	for _, d := range slices.Backward(deltas) {
		base = base.lay(d)
	}
	r.db.groups.put(g, base)
	return base, nil
}

// groupCache keeps decoded states, least recently used last, bounded by bytes.
type groupCache struct {
	mu    sync.Mutex
	limit int
	size  int
	m     map[int64]*list.Element
	order *list.List
}

type groupItem struct {
	g int64
	s State
}

func newGroupCache(limit int) *groupCache {
	return &groupCache{limit: limit, m: make(map[int64]*list.Element), order: list.New()}
}

func (i *groupItem) bytes() int { return 16*len(i.s) + 128 }

func (c *groupCache) get(g int64) (State, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.m[g]
	if e == nil {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*groupItem).s, true
}

func (c *groupCache) put(g int64, s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[g] != nil {
		return
	}
	it := &groupItem{g, s}
	c.m[g] = c.order.PushFront(it)
	c.size += it.bytes()
	for c.size > c.limit && c.order.Len() > 1 {
		last := c.order.Back()
		old := c.order.Remove(last).(*groupItem)
		delete(c.m, old.g)
		c.size -= old.bytes()
	}
}

// StateDelta is one change of a room's current state: Event (0: removed) took the place of Old (0: none).
type StateDelta struct {
	Pos      int64
	Type     string
	StateKey string
	Event    int64
	Old      int64
}

// LogState notes changes of the current state at a position.
func (tx *Tx) LogState(room event.RoomID, pos int64, from State, delta []StateEntry) error {
	nid, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	for _, d := range delta {
		if err := tx.exec(`INSERT OR REPLACE INTO state_log (room, pos, skey, event, old) VALUES (?, ?, ?, ?, ?)`,
			nid, pos, d.Key, d.Event, from.Find(d.Key)); err != nil {
			return err
		}
	}
	return nil
}

// StateDeltas lists the changes of a room's current state with after < Pos <= to, oldest first. A key may come up several times.
func (r *Read) StateDeltas(room event.RoomID, after, to int64) (ds []StateDelta, err error) {
	nid, err := r.findRoom(room)
	if nid == 0 || err != nil {
		return nil, err
	}
	err = r.each(`SELECT pos, skey, event, old FROM state_log WHERE room=? AND pos>? AND pos<=? ORDER BY pos`, args(nid, after, to), func(row *Row) error {
		var d StateDelta
		var skey int64
		if err := row.Scan(&d.Pos, &skey, &d.Event, &d.Old); err != nil {
			return err
		}
		var err error
		d.Type, d.StateKey, err = r.db.StateKeyText(skey)
		ds = append(ds, d)
		return err
	})
	return ds, err
}

// CurrentState gives the room's current state; nil when we hold none.
func (r *Read) CurrentState(room event.RoomID) (State, error) {
	row, err := r.Room(room)
	if row == nil || err != nil {
		return nil, err
	}
	return r.Group(row.Cur)
}

// CurrentStateEvent gives the event that holds (typ, key) in the current state; nil when none does.
func (r *Read) CurrentStateEvent(room event.RoomID, typ, key string) (*Event, error) {
	row, err := r.Room(room)
	if row == nil || err != nil {
		return nil, err
	}
	return r.StateEventAt(row.Cur, typ, key)
}

// StateEventAt gives the event that holds (typ, key) in a state group; nil when none does.
func (r *Read) StateEventAt(group int64, typ, key string) (*Event, error) {
	s, err := r.Group(group)
	if err != nil {
		return nil, err
	}
	return r.StateEventIn(s, typ, key)
}

// StateEventIn gives the event that holds (typ, key) in a state; nil when none does.
func (r *Read) StateEventIn(s State, typ, key string) (*Event, error) {
	k, err := r.db.FindStateKey(typ, key)
	if k == 0 || err != nil {
		return nil, err
	}
	nid := s.Find(k)
	if nid == 0 {
		return nil, nil
	}
	return r.EventByNID(nid)
}

// Without gives a state without the keys of a type.
func (r *Read) Without(s State, typ string) (State, error) {
	t, err := r.db.names.find(kindType, typ, nil)
	if t == nil || err != nil {
		return s, err
	}
	of := make(map[int64]bool)
	keys := make([]int64, len(s))
	for i, e := range s {
		keys[i] = e.Key
	}
	err = r.eachRow(keys, `SELECT nid FROM skey WHERE nid BETWEEN ? AND ? AND +type=?`, []any{t.nid}, func(row *Row) error {
		var nid int64
		err := row.Scan(&nid)
		of[nid] = true
		return err
	})
	if err != nil {
		return nil, err
	}
	var rest State
	for _, e := range s {
		if !of[e.Key] {
			rest = append(rest, e)
		}
	}
	return rest, nil
}

// Named tells the type, key and event of each entry of a state, in no order.
func (r *Read) Named(s State, f func(typ, key string, id event.ID)) error {
	type text struct{ typ, key string }
	texts := make([]text, len(s))
	numbers := make([]int64, len(s))
	for i, e := range s {
		numbers[i] = e.Key
	}
	at := 0
	var last *name // types come in runs
	err := r.eachRow(numbers, `SELECT nid, type, key FROM skey WHERE nid BETWEEN ? AND ?`, nil, func(row *Row) error {
		var nid, typ int64
		var key string
		if err := row.Scan(&nid, &typ, &key); err != nil {
			return err
		}
		for at < len(s) && s[at].Key < nid {
			at++
		}
		if at == len(s) || s[at].Key != nid {
			return nil
		}
		if last == nil || last.nid != typ {
			var err error
			if last, err = r.db.names.byNID(kindType, typ); err != nil {
				return err
			}
		}
		texts[at] = text{last.text, key}
		return nil
	})
	if err != nil {
		return err
	}
	order := make([]int, len(s))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(s[a].Event, s[b].Event) })
	for i, o := range order {
		numbers[i] = s[o].Event
	}
	at = 0
	return r.eachRow(numbers, `SELECT nid, id FROM event WHERE nid BETWEEN ? AND ?`, nil, func(row *Row) error {
		var nid int64
		var id []byte
		if err := row.Scan(&nid, &id); err != nil {
			return err
		}
		for at < len(numbers) && numbers[at] < nid {
			at++
		}
		for ; at < len(numbers) && numbers[at] == nid; at++ {
			t := texts[order[at]]
			f(t.typ, t.key, idText(id))
		}
		return nil
	})
}

// eachRow asks for the rows with the numbers given, which are sorted, run by run: what came together lies together, and one question costs as much as the reading of
// many rows. The first two parameters are the ends of a run. Rows in between come too.
func (r *Read) eachRow(numbers []int64, sql string, more []any, f func(*Row) error) error {
	const wide = 16 // a question is worth this many rows
	for len(numbers) > 0 {
		n := 1
		for n < len(numbers) && numbers[n]-numbers[n-1] <= wide {
			n++
		}
		if err := r.each(sql, append(args(numbers[0], numbers[n-1]), more...), f); err != nil {
			return err
		}
		numbers = numbers[n:]
	}
	return nil
}

// Replaced gives the state event that e took the place of in the state before it; nil when there was none or the state is unknown.
func (r *Read) Replaced(e *Event) (*Event, error) {
	if e.StateKey == nil || e.Before == 0 {
		return nil, nil
	}
	return r.StateEventAt(e.Before, e.Type, *e.StateKey)
}

// GroupBytes is how much the bodies of all state groups take.
func (r *Read) GroupBytes() (n int64, err error) {
	_, err = r.one(`SELECT coalesce(sum(length(body)), 0) FROM sgroup`, nil, &n)
	return n, err
}
