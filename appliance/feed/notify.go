// SPDX-License-Identifier: EUPL-1.2

package feed

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/account"
	"hallig/appliance/event"
	"hallig/appliance/store"
)

// maxUnread bounds how many events one counter looks at; more than that is "many" to anybody.
const maxUnread = 200

type countKey struct {
	user event.UserID
	room event.RoomID
}

// unread are counters that are carried on: of the events up to a position, by thread.
type unread struct {
	upTo    int64
	read    map[string]int64   // how far each thread is read; "" for all, mainThread for what is in none
	threads map[string]unreads // never changed once stored
}

const mainThread = "main"

// ruleset is the reader's push rules with what their conditions ask for, fetched when first asked.
type ruleset struct {
	set   *account.PushRules
	words map[string]*regexp.Regexp
}

func newRuleset() *ruleset { return &ruleset{words: map[string]*regexp.Regexp{}} }

func (s *syncer) defaultRules() (json.RawMessage, error) {
	return json.Marshal(map[string]any{"global": account.DefaultPushRules(s.user)})
}

// unread counts the events that notify the reader and were not read: behind the reader's receipts and the reader's own last
// event. pg is what the sync shows of the room. Threads are counted apart for clients that ask for it.
func (s *syncer) unread(m store.Membership, pg page, out *joinedRoom) error {
	key := countKey{s.user, m.Room}
	old, ok := s.f.counts.find(key)
	read, moved, err := s.readUpTo(m, old)
	if err != nil {
		return err
	}
	u := unread{upTo: read[""], read: read, threads: map[string]unreads{}}
	if ok && !moved && old.upTo <= s.pos {
		u.upTo, u.threads = old.upTo, maps.Clone(old.threads)
	}
	es, err := s.unseen(m.Room, u.upTo, pg)
	if err != nil {
		return err
	}
	for _, e := range es {
		if err := s.count(&u, m.Room, e); err != nil {
			return err
		}
	}
	u.upTo = s.pos
	s.f.counts.put(key, u)
	for thread, n := range u.threads {
		if thread == mainThread || !s.filter.Room.Timeline.UnreadThread {
			out.Unread.Notifications += n.Notifications
			out.Unread.Highlights += n.Highlights
		} else if n.Notifications > 0 {
			if out.Threads == nil {
				out.Threads = map[string]unreads{}
			}
			out.Threads[thread] = n
		}
	}
	return nil
}

// count takes one event into the counters.
func (s *syncer) count(u *unread, id event.RoomID, e *store.Event) error {
	b, err := s.body(e)
	if err != nil {
		return err
	}
	thread := mainThread
	if b.rel.Type == "m.thread" {
		thread = string(b.rel.Parent)
	}
	switch {
	case e.Sender == s.user:
		delete(u.threads, thread)
		return nil
	case s.ignored[e.Sender], e.Pos <= u.read[thread]:
		return nil
	}
	notify, high, err := s.notifies(id, e)
	if err != nil {
		return err
	}
	n := u.threads[thread]
	if notify {
		n.Notifications++
	}
	if high {
		n.Highlights++
	}
	u.threads[thread] = n
	return nil
}

// unseen gives the events after a position, oldest first, and makes the rules ready if there are any.
func (s *syncer) unseen(id event.RoomID, after int64, pg page) ([]*store.Event, error) {
	var es []*store.Event
	if x := &s.filter.Room.Timeline; after >= s.since.pos && !s.first && !pg.limited && x.plain() {
		for _, e := range pg.events {
			if e.Pos > after {
				es = append(es, e)
			}
		}
	} else {
		var err error
		if es, err = s.RoomEventsBetween(id, after, s.pos, maxUnread, true); err != nil {
			return nil, err
		}
		slices.Reverse(es)
	}
	if s.rules == nil && len(es) > 0 {
		s.rules = newRuleset()
		var err error
		if s.rules.set, err = s.pushRules(); err != nil {
			return nil, err
		}
	}
	return es, nil
}

// asOfPushRules are a user's rules with the position at which they were read.
type asOfPushRules struct {
	pos int64
	set *account.PushRules // never changed
}

// pushRules reads the user's rules, from memory when nothing has changed for the user.
func (s *syncer) pushRules() (*account.PushRules, error) {
	if r, ok := s.f.pushes.find(s.user); ok && s.recent.quiet(r.pos) {
		return r.set, nil
	}
	set, err := account.ReadPushRules(s.Read, s.user)
	if err != nil {
		return nil, err
	}
	s.f.pushes.put(s.user, asOfPushRules{s.pos, &set})
	return &set, nil
}

// readUpTo gives the positions of the reader's receipts by thread; what came before the joining is read. moved says that they
// are not what they were when old was counted.
func (s *syncer) readUpTo(m store.Membership, old unread) (read map[string]int64, moved bool, err error) {
	rows, err := s.ReceiptsOf(m.Room, s.user)
	if err != nil {
		return nil, false, err
	}
	newer := func(r store.ReceiptRow) bool { return r.Pos > old.upTo }
	if old.read[""] >= m.Pos && !slices.ContainsFunc(rows, newer) {
		return old.read, false, nil
	}
	read = map[string]int64{"": m.Pos}
	for _, row := range rows {
		e, err := s.Event(row.Event)
		if err != nil {
			return nil, false, err
		}
		if e != nil {
			read[row.Thread] = max(read[row.Thread], e.Pos)
		}
	}
	return read, true, nil
}

// subject is an event as conditions look at it.
type subject struct {
	s    *syncer
	room event.RoomID
	e    *store.Event
	root map[string]any
}

// notifies applies the rules: https://spec.matrix.org/latest/client-server-api/#push-rules
func (s *syncer) notifies(id event.RoomID, e *store.Event) (notify, highlight bool, err error) {
	b, err := s.body(e)
	if err != nil {
		return false, false, err
	}
	var content any
	if err := json.Unmarshal(b.content, &content); err != nil {
		return false, false, err
	}
	x := subject{s: s, room: id, e: e, root: map[string]any{
		"type": e.Type, "sender": string(e.Sender), "room_id": string(e.Room), "content": content}}
	if e.StateKey != nil {
		x.root["state_key"] = *e.StateKey
	}
	set := s.rules.set
	for _, list := range [][]account.PushRule{set.Override, set.Content, set.Room, set.Sender, set.Underride} {
		for i := range list {
			p := &list[i]
			if !p.Enabled {
				continue
			}
			ok, err := x.matches(p, set)
			if err != nil {
				return false, false, err
			}
			if ok {
				notify, highlight = actions(p.Actions)
				return notify, highlight, nil
			}
		}
	}
	return false, false, nil
}

// actions reads what a rule wants done.
func actions(list []json.RawMessage) (notify, highlight bool) {
	for _, raw := range list {
		var a any
		if json.Unmarshal(raw, &a) != nil {
			continue
		}
		switch a := a.(type) {
		case string:
			notify = notify || a == "notify"
		case map[string]any:
			if a["set_tweak"] == "highlight" {
				v, given := a["value"]
				highlight = !given || v == true
			}
		}
	}
	return notify, notify && highlight
}

func (x *subject) matches(p *account.PushRule, set *account.PushRules) (bool, error) {
	switch {
	case p.Pattern != "" && p.Conditions == nil:
		body, _ := x.field("content.body").(string)
		return x.s.rules.word(p.Pattern, body), nil
	case in(set.Room, p):
		return p.ID == string(x.room), nil
	case in(set.Sender, p):
		return p.ID == string(x.e.Sender), nil
	}
	for i := range p.Conditions {
		if ok, err := x.condition(&p.Conditions[i]); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// in says whether a rule is an element of the list itself.
func in(list []account.PushRule, p *account.PushRule) bool {
	for i := range list {
		if &list[i] == p {
			return true
		}
	}
	return false
}

// condition answers one condition; kinds that are not known do not match.
func (x *subject) condition(c *account.PushCondition) (bool, error) {
	switch c.Kind {
	case "event_match":
		v, ok := x.field(c.Key).(string)
		if !ok {
			return false, nil
		}
		if c.Key == "content.body" {
			return x.s.rules.word(c.Pattern, v), nil
		}
		return x.s.rules.whole(c.Pattern, v), nil
	case "event_property_is":
		return equal(x.field(c.Key), c.Value), nil
	case "event_property_contains":
		list, _ := x.field(c.Key).([]any)
		for _, v := range list {
			if equal(v, c.Value) {
				return true, nil
			}
		}
		return false, nil
	case "contains_display_name":
		e, err := x.s.CurrentStateEvent(x.room, "m.room.member", string(x.s.user))
		if err != nil || e == nil {
			return false, err
		}
		b, err := x.s.body(e)
		if err != nil {
			return false, err
		}
		var m struct {
			Name string `json:"displayname"`
		}
		body, ok := x.field("content.body").(string)
		if json.Unmarshal(b.content, &m) != nil || m.Name == "" || !ok {
			return false, nil
		}
		return x.s.rules.literal(m.Name, body), nil
	case "room_member_count":
		joined, _, err := x.s.CountMembers(x.room)
		return compare(joined, c.Is), err
	case "sender_notification_permission":
		return x.mayNotify(c.Key)
	}
	return false, nil
}

// mayNotify says whether the sender's power reaches for notifying the room.
func (x *subject) mayNotify(key string) (bool, error) {
	state, err := x.s.powers(x.room)
	if err != nil {
		return false, err
	}
	need := int64(50)
	if v, ok := state.Notifications[key]; ok {
		need = v
	}
	return state.level(x.e.Sender) >= need, nil
}

// powers is the part of m.room.power_levels that notifications ask for.
type powers struct {
	Users         map[event.UserID]int64 `json:"users"`
	Default       int64                  `json:"users_default"`
	Notifications map[string]int64       `json:"notifications"`
	creator       event.UserID
}

func (p powers) level(u event.UserID) int64 {
	if u == p.creator {
		return 1 << 53
	}
	if v, ok := p.Users[u]; ok {
		return v
	}
	return p.Default
}

func (s *syncer) powers(id event.RoomID) (powers, error) {
	var p powers
	e, err := s.CurrentStateEvent(id, "m.room.power_levels", "")
	if err != nil {
		return p, err
	}
	if e == nil {
		e, err = s.CurrentStateEvent(id, "m.room.create", "")
		if err == nil && e != nil {
			p.creator = e.Sender
		}
		return p, err
	}
	b, err := s.body(e)
	if err != nil {
		return p, err
	}
	if json.Unmarshal(b.content, &p) != nil {
		return powers{}, nil // levels as text, in old rooms
	}
	if !strings.HasPrefix(string(id), "!") || !strings.Contains(string(id), ":") {
		// Rooms whose ids are hashes (version 12): the creator stands above all levels.
		create, err := s.CurrentStateEvent(id, "m.room.create", "")
		if err != nil || create == nil {
			return p, err
		}
		p.creator = create.Sender
	}
	return p, nil
}

// field finds a value by its path; a backslash makes the next dot or backslash part of a name.
func (x *subject) field(path string) any {
	var v any = x.root
	name := make([]byte, 0, len(path))
	step := func() {
		m, _ := v.(map[string]any)
		v = m[string(name)]
		name = name[:0]
	}
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			name = append(name, path[i])
		case c == '.':
			step()
		default:
			name = append(name, c)
		}
	}
	step()
	return v
}

func equal(v any, want json.RawMessage) bool {
	var w any
	if json.Unmarshal(want, &w) != nil {
		return false
	}
	switch w.(type) {
	case string, bool, float64, nil:
		return v == w
	}
	return false
}

// compare reads "2", "==2", "<2", ">2", "<=2", ">=2".
func compare(n int64, is string) bool {
	op := strings.TrimRight(is, "0123456789")
	want, err := strconv.ParseInt(is[len(op):], 10, 64)
	if err != nil {
		return false
	}
	switch op {
	case "", "==":
		return n == want
	case "<":
		return n < want
	case ">":
		return n > want
	case "<=":
		return n <= want
	case ">=":
		return n >= want
	}
	return false
}

// word finds a pattern (* and ?) as whole words, whole compares with all of the text, literal finds a name as it stands.
func (r *ruleset) word(pattern, s string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return r.literal(pattern, s)
	}
	return r.find(`(^|\W)`+globExpr(pattern)+`($|\W)`, s)
}

func (r *ruleset) whole(pattern, s string) bool {
	if !strings.ContainsAny(pattern, "*?") {
		return strings.EqualFold(pattern, s)
	}
	return r.find(`^`+globExpr(pattern)+`$`, s)
}

func (r *ruleset) literal(name, s string) bool {
	if !strings.Contains(strings.ToLower(s), strings.ToLower(name)) {
		return false // most often, and cheap
	}
	return r.find(`(^|\W)`+regexp.QuoteMeta(name)+`($|\W)`, s)
}

func (r *ruleset) find(expr, s string) bool {
	re, ok := r.words[expr]
	if !ok {
		re, _ = regexp.Compile(`(?is)` + expr) // built from quoted text; nil cannot come but would match nothing
		r.words[expr] = re
	}
	return re != nil && re.MatchString(s)
}

func globExpr(pattern string) string {
	var b strings.Builder
	for _, c := range pattern {
		switch c {
		case '*':
			b.WriteString(`.*?`)
		case '?':
			b.WriteString(`.`)
		default:
			b.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	return b.String()
}
