// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"encoding/json"
	"slices"
	"sync"

	"hallig/appliance/event"
)

// memberships as they are kept in rows.
var memberships = []string{"", "invite", "join", "knock", "leave", "ban"}

func membershipNumber(m string) int64 {
	for i, s := range memberships {
		if s == m {
			return int64(i)
		}
	}
	return 0
}

// Membership is a user's place in a room by the current state, or by what we were told about a room we are not in.
// Event is the number of the m.room.member event; Pos the stream position of the last change.
type Membership struct {
	Room       event.RoomID
	User       event.UserID
	Membership string
	Event      int64
	Pos        int64
	Forgotten  bool
}

// SetMember notes a change of membership. Any change makes the room remembered again.
func (tx *Tx) SetMember(m Membership) error {
	room, err := tx.roomNID(m.Room, "")
	if err != nil {
		return err
	}
	user, err := tx.userNID(m.User)
	if err != nil {
		return err
	}
	if m.Membership == "" {
		return tx.exec(`DELETE FROM member WHERE room=? AND usr=?`, room, user)
	}
	if err := tx.exec(`INSERT OR REPLACE INTO member (room, usr, membership, event, pos, forgotten) VALUES (?, ?, ?, ?, ?, 0)`,
		room, user, membershipNumber(m.Membership), m.Event, m.Pos); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM stripped WHERE room=? AND usr=?`, room, user)
}

// Forget hides a room that the user has left; false when there was nothing to forget.
func (tx *Tx) Forget(room event.RoomID, user event.UserID) (bool, error) {
	r, err := tx.findRoom(room)
	if r == 0 || err != nil {
		return false, err
	}
	u, err := tx.findUser(user)
	if u == 0 || err != nil {
		return false, err
	}
	n, err := tx.execN(`UPDATE member SET forgotten=1 WHERE room=? AND usr=? AND membership IN (4, 5)`, r, u)
	return n > 0, err
}

// SetStripped keeps the stripped state that came with an invite or a knock, a JSON array.
func (tx *Tx) SetStripped(room event.RoomID, user event.UserID, state []json.RawMessage) error {
	r, err := tx.roomNID(room, "")
	if err != nil {
		return err
	}
	u, err := tx.userNID(user)
	if err != nil {
		return err
	}
	if state == nil {
		state = []json.RawMessage{}
	}
	body, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return tx.exec(`INSERT OR REPLACE INTO stripped (room, usr, body) VALUES (?, ?, ?)`, r, u, body)
}

// Stripped gives the stripped state that came with an invite or a knock; nil when none did (the room's own state is at hand then).
func (r *Read) Stripped(room event.RoomID, user event.UserID) (state []json.RawMessage, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return nil, err
	}
	un, err := r.findUser(user)
	if un == 0 || err != nil {
		return nil, err
	}
	var body []byte
	found, err := r.one(`SELECT body FROM stripped WHERE room=? AND usr=?`, args(rn, un), &body)
	if !found || err != nil {
		return nil, err
	}
	return state, json.Unmarshal(body, &state)
}

func (r *Read) memberRows(sql string, a ...any) (ms []Membership, err error) {
	err = r.each(sql, a, func(row *Row) error {
		var m Membership
		var room, user, n int64
		if err := row.Scan(&room, &user, &n, &m.Event, &m.Pos, &m.Forgotten); err != nil {
			return err
		}
		if n > 0 && n < int64(len(memberships)) {
			m.Membership = memberships[n]
		}
		var err error
		if m.Room, err = r.roomText(room); err != nil {
			return err
		}
		m.User, err = r.userText(user)
		ms = append(ms, m)
		return err
	})
	return ms, err
}

const memberColumns = `room, usr, membership, event, pos, forgotten`

// RoomsOf lists all rooms in which the user has any membership, forgotten ones too.
func (r *Read) RoomsOf(user event.UserID) ([]Membership, error) {
	u, err := r.findUser(user)
	if u == 0 || err != nil {
		return nil, err
	}
	return r.memberRows(`SELECT `+memberColumns+` FROM member WHERE usr=?`, u)
}

// JoinedRooms lists the rooms that the user is joined to.
func (r *Read) JoinedRooms(user event.UserID) (rooms []event.RoomID, err error) {
	u, err := r.findUser(user)
	if u == 0 || err != nil {
		return nil, err
	}
	return r.roomList(`SELECT room FROM member WHERE usr=? AND membership=2`, u)
}

func (r *Read) roomList(sql string, a ...any) (rooms []event.RoomID, err error) {
	err = r.each(sql, a, func(row *Row) error {
		var n int64
		if err := row.Scan(&n); err != nil {
			return err
		}
		id, err := r.roomText(n)
		rooms = append(rooms, id)
		return err
	})
	return rooms, err
}

// MembershipOf gives a user's membership in a room; Membership "" when there never was one.
func (r *Read) MembershipOf(room event.RoomID, user event.UserID) (Membership, error) {
	m := Membership{Room: room, User: user}
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return m, err
	}
	un, err := r.findUser(user)
	if un == 0 || err != nil {
		return m, err
	}
	var n int
	if _, err := r.one(`SELECT membership, event, pos, forgotten FROM member WHERE room=? AND usr=?`, args(rn, un), &n, &m.Event, &m.Pos, &m.Forgotten); err != nil {
		return m, err
	}
	if n > 0 && n < len(memberships) {
		m.Membership = memberships[n]
	}
	return m, nil
}

// Members lists a room's members; with a membership only those.
func (r *Read) Members(room event.RoomID, membership string) ([]Membership, error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return nil, err
	}
	if membership == "" {
		return r.memberRows(`SELECT `+memberColumns+` FROM member WHERE room=?`, rn)
	}
	return r.memberRows(`SELECT `+memberColumns+` FROM member WHERE room=? AND membership=?`, rn, membershipNumber(membership))
}

// FirstMembers lists the members that came first among those who are here (joined or invited), or of those who were (left or banned).
func (r *Read) FirstMembers(room event.RoomID, here bool, limit int) ([]Membership, error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return nil, err
	}
	a, b := membershipNumber("join"), membershipNumber("invite")
	if !here {
		a, b = membershipNumber("leave"), membershipNumber("ban")
	}
	return r.memberRows(`SELECT `+memberColumns+` FROM member WHERE room=? AND membership IN (?, ?) ORDER BY event LIMIT ?`, rn, a, b, limit)
}

// CountMembers counts a room's joined and invited members.
func (r *Read) CountMembers(room event.RoomID) (joined, invited int64, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return 0, 0, err
	}
	_, err = r.one(`SELECT count(*) FILTER (WHERE membership=2), count(*) FILTER (WHERE membership=1) FROM member WHERE room=?`, args(rn), &joined, &invited)
	return joined, invited, err
}

// Servers lists the servers with a joined member in a room, and while its members are not all known those that are said to have one.
func (r *Read) Servers(room event.RoomID) (servers []string, err error) {
	row, err := r.Room(room)
	if row == nil || err != nil {
		return nil, err
	}
	if r.c == r.db.w { // in the middle of a write the members may be ahead of the state
		return r.readServers(room)
	}
	partial, err := r.Partial(room)
	if err != nil {
		return nil, err
	}
	as := serversAt{cur: row.Cur, partial: partial != nil && partial.Whole == 0}
	if servers, ok := r.db.servers.find(room, as); ok {
		return servers, nil
	}
	if servers, err = r.readServers(room); err == nil {
		r.db.servers.put(room, as, servers)
	}
	return servers, err
}

// serversAt is what the servers of a room follow from: joined members change with the current state, and what is said of servers goes when all
// members are known.
type serversAt struct {
	cur     int64
	partial bool
}

// serverLists remembers the servers of rooms. Each of a thousand servers that a message goes to has us ask who else is in the room, and to find out means to read all members.
type serverLists struct {
	mu sync.Mutex
	of map[event.RoomID]serverList
}

type serverList struct {
	at   serversAt
	list []string
}

// maxServerLists bounds the rooms that are remembered.
const maxServerLists = 64

func (c *serverLists) find(room event.RoomID, at serversAt) ([]string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.of[room]
	if !ok || l.at != at {
		return nil, false
	}
	return slices.Clone(l.list), true
}

func (c *serverLists) put(room event.RoomID, at serversAt, list []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil || len(c.of) >= maxServerLists {
		c.of = make(map[event.RoomID]serverList)
	}
	c.of[room] = serverList{at, slices.Clone(list)}
}

func (r *Read) readServers(room event.RoomID) (servers []string, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return nil, err
	}
	sql := `SELECT DISTINCT s.name FROM member m JOIN usr u ON u.nid=m.usr JOIN server s ON s.nid=u.server WHERE m.room=? AND m.membership=2 ORDER BY s.name`
	if r.db.partials.Load() {
		sql = `SELECT s.name FROM member m JOIN usr u ON u.nid=m.usr JOIN server s ON s.nid=u.server WHERE m.room=?1 AND m.membership=2
			UNION SELECT s.name FROM partial_server p JOIN server s ON s.nid=p.server WHERE p.room=?1 ORDER BY 1`
	}
	err = r.each(sql,
		args(rn), func(row *Row) error {
			var s string
			err := row.Scan(&s)
			servers = append(servers, s)
			return err
		})
	return servers, err
}

// membersOf joins a room's members (m) with the users of a server (u), beginning with the fewer of them: a room may have 100,000 members and a server as many users, and
// the database does not know which. The query names both u.server and m.room.
func (r *Read) membersOf(room, server int64) (string, error) {
	const enough = 2000 // more are not counted
	var users, members int64
	_, err := r.one(`SELECT (SELECT count(*) FROM (SELECT 1 FROM usr WHERE server=?1 LIMIT ?3)), (SELECT count(*) FROM (SELECT 1 FROM member WHERE room=?2 LIMIT ?3))`,
		args(server, room, enough), &users, &members)
	if users <= members {
		return `usr u CROSS JOIN member m ON m.usr=u.nid`, err
	}
	return `member m CROSS JOIN usr u ON u.nid=m.usr`, err
}

// Resident reports whether a server has a joined member in a room, or is said to have one while not all members are known.
func (r *Read) Resident(room event.RoomID, server string) (bool, error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return false, err
	}
	s, err := r.db.names.find(kindServer, server, nil)
	if s == nil || err != nil {
		return false, err
	}
	of, err := r.membersOf(rn, s.nid)
	if err != nil {
		return false, err
	}
	var one int64
	here, err := r.one(`SELECT 1 FROM `+of+` WHERE u.server=? AND m.room=? AND m.membership=2 LIMIT 1`, args(s.nid, rn), &one)
	if here || err != nil || !r.db.partials.Load() {
		return here, err
	}
	return r.one(`SELECT 1 FROM partial_server WHERE room=? AND server=?`, args(rn, s.nid), &one)
}

// JoinedFrom lists the joined members of one server in a room.
func (r *Read) JoinedFrom(room event.RoomID, server string) (users []event.UserID, err error) {
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return nil, err
	}
	s, err := r.db.names.find(kindServer, server, nil)
	if s == nil || err != nil {
		return nil, err
	}
	of, err := r.membersOf(rn, s.nid)
	if err != nil {
		return nil, err
	}
	err = r.each(`SELECT u.id FROM `+of+` WHERE u.server=? AND m.room=? AND m.membership=2`, args(s.nid, rn), func(row *Row) error {
		var u string
		err := row.Scan(&u)
		users = append(users, event.UserID(u))
		return err
	})
	return users, err
}

// ServerCounts gives the number of joined members of each server in a room; one more where it is only said, while not all members are known.
func (r *Read) ServerCounts(room event.RoomID) (counts map[string]int, err error) {
	counts = make(map[string]int)
	rn, err := r.findRoom(room)
	if rn == 0 || err != nil {
		return counts, err
	}
	err = r.each(`SELECT s.name, count(*) FROM member m JOIN usr u ON u.nid=m.usr JOIN server s ON s.nid=u.server WHERE m.room=? AND m.membership=2 GROUP BY s.nid`,
		args(rn), func(row *Row) error {
			var s string
			var n int
			err := row.Scan(&s, &n)
			counts[s] = n
			return err
		})
	if err != nil || !r.db.partials.Load() {
		return counts, err
	}
	told, err := r.partialServers(rn)
	for _, s := range told {
		counts[s]++
	}
	return counts, err
}

// RoomsWith lists the rooms in which a server has a joined member, or is said to have one while not all members are known.
func (r *Read) RoomsWith(server string) ([]event.RoomID, error) {
	n, err := r.db.names.find(kindServer, server, nil)
	if n == nil || err != nil {
		return nil, err
	}
	return r.roomList(`SELECT m.room FROM usr u JOIN member m ON m.usr=u.nid WHERE u.server=?1 AND m.membership=2
		UNION SELECT room FROM partial_server WHERE server=?1`, n.nid)
}
