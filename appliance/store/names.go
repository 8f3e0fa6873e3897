// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"hallig/appliance/event"
)

// Names are interned: a room, user, server, event type or (type, state key) is a small number in every row.
// A number may be given out in memory before its row is written, so that events can be prepared without waiting for the writer;
// every write that uses a number makes sure of the row first. Names without a row are never forgotten while the process lives; those with a row are a cache.
type names struct {
	c *conn // reads committed names only

	mu    sync.Mutex
	kinds [kindCount]nameTable
}

type nameKind int

const (
	kindServer nameKind = iota
	kindUser
	kindType
	kindStateKey
	kindRoom
	kindCount
)

var nameTables = [kindCount]struct{ table, column string }{
	{"server", "name"}, {"usr", "id"}, {"etype", "name"}, {"skey", "key"}, {"room", "id"},
}

// maxNames bounds each table's cache.
const maxNames = 20000

type nameTable struct {
	byText map[string]*name
	byNID  map[int64]*name
	next   int64
	most   int // names at which those with a row are forgotten; 0: maxNames
}

// name is one interned name. of is the server of a user or the type of a state key.
type name struct {
	kind   nameKind
	nid    int64
	text   string
	of     *name
	extra  string // a room's version
	stored atomic.Bool
}

// key is unique within a kind: state keys are looked up together with their type.
func (n *name) key() string {
	if n.kind == kindStateKey {
		return stateKeyKey(n.of.nid, n.text)
	}
	return n.text
}

func stateKeyKey(typ int64, key string) string { return strconv.FormatInt(typ, 36) + " " + key }

func (ns *names) open(db *DB, r *Read) (err error) {
	if ns.c, err = openConn(db.dsn(true)); err != nil {
		return err
	}
	for k := range ns.kinds {
		t := &ns.kinds[k]
		t.byText, t.byNID = make(map[string]*name), make(map[int64]*name)
		if _, err := r.one(`SELECT max(nid) FROM `+nameTables[k].table, nil, &t.next); err != nil {
			return err
		}
	}
	return nil
}

// close is waited for by whoever looks a name up; who comes later finds what is in memory alone.
func (ns *names) close() {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.c != nil {
		ns.c.close()
		ns.c = nil
	}
}

// find gives the name, from memory or disk; nil when it was never interned.
func (ns *names) find(kind nameKind, text string, of *name) (*name, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.findLocked(kind, text, of)
}

func (ns *names) findLocked(kind nameKind, text string, of *name) (*name, error) {
	key := text
	if kind == kindStateKey {
		if of == nil {
			return nil, nil
		}
		key = stateKeyKey(of.nid, text)
	}
	if n := ns.kinds[kind].byText[key]; n != nil {
		return n, nil
	}
	if kind == kindStateKey {
		return ns.loadLocked(kind, `SELECT nid, key, type, '' FROM skey WHERE type=? AND key=?`, of.nid, text)
	}
	return ns.loadLocked(kind, nameSelect[kind]+` WHERE `+nameTables[kind].column+`=?`, text)
}

var nameSelect = [kindCount]string{
	`SELECT nid, name, 0, '' FROM server`, `SELECT nid, id, server, '' FROM usr`, `SELECT nid, name, 0, '' FROM etype`,
	`SELECT nid, key, type, '' FROM skey`, `SELECT nid, id, 0, version FROM room`,
}

func (ns *names) loadLocked(kind nameKind, sql string, args ...any) (*name, error) {
	if ns.c == nil {
		return nil, ErrClosed
	}
	n := &name{kind: kind}
	var of int64
	found, err := (&Read{c: ns.c}).one(sql, args, &n.nid, &n.text, &of, &n.extra)
	if err != nil || !found {
		return nil, err
	}
	if of != 0 {
		ofKind := kindServer
		if kind == kindStateKey {
			ofKind = kindType
		}
		if n.of, err = ns.byNIDLocked(ofKind, of); err != nil {
			return nil, err
		}
	}
	n.stored.Store(true)
	ns.addLocked(n)
	return n, nil
}

func (ns *names) addLocked(n *name) {
	t := &ns.kinds[n.kind]
	if len(t.byText) >= max(t.most, maxNames) {
		for k, old := range t.byText {
			if old.stored.Load() {
				delete(t.byText, k)
				delete(t.byNID, old.nid)
			}
		}
		// Those of a write that has not landed stay, however many: the next look is not due before there are twice as many.
		t.most = 2 * len(t.byText)
	}
	t.byText[n.key()] = n
	t.byNID[n.nid] = n
}

func (ns *names) byNID(kind nameKind, nid int64) (*name, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	return ns.byNIDLocked(kind, nid)
}

func (ns *names) byNIDLocked(kind nameKind, nid int64) (*name, error) {
	if n := ns.kinds[kind].byNID[nid]; n != nil {
		return n, nil
	}
	n, err := ns.loadLocked(kind, nameSelect[kind]+` WHERE nid=?`, nid)
	if n == nil && err == nil {
		return &name{kind: kind, nid: nid}, nil // a number without a name: only in a damaged file
	}
	return n, err
}

// intern finds or makes the name. The names it hangs on must be interned before.
func (ns *names) intern(kind nameKind, text string, of *name, extra string) (*name, error) {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	n, err := ns.findLocked(kind, text, of)
	if n != nil || err != nil {
		return n, err
	}
	text = strings.Clone(text) // it may point into a whole event
	t := &ns.kinds[kind]
	t.next++
	n = &name{kind: kind, nid: t.next, text: text, of: of, extra: extra}
	ns.addLocked(n)
	return n, nil
}

// ensure writes the row of a name that has none yet.
func (tx *Tx) ensure(n *name) (err error) {
	if n == nil || n.stored.Load() {
		return nil
	}
	if err := tx.ensure(n.of); err != nil {
		return err
	}
	switch n.kind {
	case kindServer:
		err = tx.exec(`INSERT OR IGNORE INTO server (nid, name) VALUES (?, ?)`, n.nid, n.text)
	case kindUser:
		err = tx.exec(`INSERT OR IGNORE INTO usr (nid, id, server) VALUES (?, ?, ?)`, n.nid, n.text, n.of.nid)
	case kindType:
		err = tx.exec(`INSERT OR IGNORE INTO etype (nid, name) VALUES (?, ?)`, n.nid, n.text)
	case kindStateKey:
		err = tx.exec(`INSERT OR IGNORE INTO skey (nid, type, key) VALUES (?, ?, ?)`, n.nid, n.of.nid, n.text)
	case kindRoom:
		err = tx.exec(`INSERT OR IGNORE INTO room (nid, id, version) VALUES (?, ?, ?)`, n.nid, n.text, n.extra)
	}
	if err == nil {
		tx.fresh = append(tx.fresh, n)
	}
	return err
}

func (db *DB) user(u event.UserID) (*name, error) {
	server, err := db.names.intern(kindServer, u.Server(), nil, "")
	if err != nil {
		return nil, err
	}
	return db.names.intern(kindUser, string(u), server, "")
}

// userNID is the number of a user for a row of this write; the user's row is written when it is new.
func (tx *Tx) userNID(u event.UserID) (int64, error) {
	n, err := tx.db.user(u)
	if err != nil {
		return 0, err
	}
	return n.nid, tx.ensure(n)
}

// findUser is the number of a user that some row may name; 0 when there is none.
func (r *Read) findUser(u event.UserID) (int64, error) {
	n, err := r.db.names.find(kindUser, string(u), nil)
	if n == nil || err != nil {
		return 0, err
	}
	return n.nid, nil
}

func (r *Read) userText(nid int64) (event.UserID, error) {
	n, err := r.db.names.byNID(kindUser, nid)
	if err != nil {
		return "", err
	}
	return event.UserID(n.text), nil
}

// roomNID is the number of a room for a row of this write; an unknown room gets a row with the version given ("" when nobody told us).
func (tx *Tx) roomNID(id event.RoomID, version string) (int64, error) {
	n, err := tx.db.names.intern(kindRoom, string(id), nil, version)
	if err != nil {
		return 0, err
	}
	return n.nid, tx.ensure(n)
}

// findRoom is the number of a room; 0 when it was never heard of.
func (r *Read) findRoom(id event.RoomID) (int64, error) {
	n, err := r.db.names.find(kindRoom, string(id), nil)
	if n == nil || err != nil {
		return 0, err
	}
	return n.nid, nil
}

func (r *Read) roomText(nid int64) (event.RoomID, error) {
	n, err := r.db.names.byNID(kindRoom, nid)
	if err != nil {
		return "", err
	}
	return event.RoomID(n.text), nil
}

// StateKey is the number of a (type, state key), given out on first use.
func (db *DB) StateKey(typ, key string) (int64, error) {
	t, err := db.names.intern(kindType, typ, nil, "")
	if err != nil {
		return 0, err
	}
	n, err := db.names.intern(kindStateKey, key, t, "")
	if err != nil {
		return 0, err
	}
	return n.nid, nil
}

// FindStateKey is the number of a (type, state key) that some state may hold; 0 when no event ever had it.
func (db *DB) FindStateKey(typ, key string) (int64, error) {
	t, err := db.names.find(kindType, typ, nil)
	if t == nil || err != nil {
		return 0, err
	}
	n, err := db.names.find(kindStateKey, key, t)
	if n == nil || err != nil {
		return 0, err
	}
	return n.nid, nil
}

// StateKeyText is the (type, state key) behind a number.
func (db *DB) StateKeyText(nid int64) (typ, key string, err error) {
	n, err := db.names.byNID(kindStateKey, nid)
	if err != nil || n.of == nil {
		return "", "", err
	}
	return n.of.text, n.text, nil
}
