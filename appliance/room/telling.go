// SPDX-License-Identifier: EUPL-1.2

package room

import (
	"context"
	"encoding/json"
	"slices"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Telling is what another server is told of a room's state: which events hold it before an event, and which authorise those. They are numbers, so that a state of any
// length is at hand; the events are read bit by bit while they are told. It is as of one moment: states never change, and no event ever goes
// away; one that is redacted meanwhile is told as it is then.
type Telling struct {
	State []int64
	Auth  []int64
	// Servers have a joined member in the room without the join that is answered.
	Servers []string
	// Omitted: State lacks members.
	Omitted bool

	r *Rooms
}

// tellAtOnce bounds what is read for a telling before the reader is given back: others want to read too, however slow the listener.
const (
	tellAtOnce = 256
	tellBytes  = 256 << 10
)

// TellState gives the state before an event; *Error M_NOT_FOUND when we do not know it.
func (r *Rooms) TellState(ctx context.Context, id event.ID) (*Telling, error) {
	t := &Telling{r: r}
	var create int64
	err := r.view(ctx, func(rd *store.Read) error {
		row, err := standsAt(rd, id)
		if err != nil {
			return err
		}
		state, err := rd.Group(row.Before)
		if err != nil {
			return err
		}
		create, err = t.create(state)
		t.State = eventsOf(state)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Auth, err = r.authority(ctx, t.State, create)
	return t, err
}

// TellJoin gives the state before a join. With omit the members are left out, but for those by whose names the room is known when it has no name of
// its own, and what is in the state is not told again among what authorises it.
// https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv2send_joinroomideventid
func (r *Rooms) TellJoin(ctx context.Context, join event.ID, omit bool) (*Telling, error) {
	t := &Telling{r: r, Omitted: omit}
	var roots []int64
	var create int64
	err := r.view(ctx, func(rd *store.Read) error {
		row, err := standsAt(rd, join)
		if err != nil {
			return err
		}
		state, err := rd.Group(row.Before)
		if err != nil {
			return err
		}
		if create, err = t.create(state); err != nil {
			return err
		}
		if t.Servers, err = serversBefore(rd, state, row); err != nil {
			return err
		}
		if omit {
			t.State, err = withoutMembers(rd, state, row)
		} else {
			t.State = eventsOf(state)
		}
		roots = append(slices.Clone(t.State), row.NID)
		return err
	})
	if err != nil {
		return nil, err
	}
	if t.Auth, err = r.authority(ctx, roots, create); err != nil || !omit {
		return t, err
	}
	told := make(map[int64]bool, len(t.State))
	for _, nid := range t.State {
		told[nid] = true
	}
	t.Auth = slices.DeleteFunc(t.Auth, func(nid int64) bool { return told[nid] })
	return t, nil
}

// TellAuthority gives what authorises an event, in Auth.
func (r *Rooms) TellAuthority(ctx context.Context, id event.ID) (*Telling, error) {
	t := &Telling{r: r}
	var nid, create int64
	err := r.view(ctx, func(rd *store.Read) error {
		row, err := rd.Event(id)
		if err != nil {
			return err
		}
		if row == nil {
			return notFound("event %s is unknown", id)
		}
		nid = row.NID
		state, err := rd.CurrentState(row.Room)
		if err != nil {
			return err
		}
		create, err = t.create(state)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Auth, err = r.authority(ctx, []int64{nid}, create)
	return t, err
}

// create finds the room's creation in a state. Where it is implied by the room id it is in nobody's auth events; it is told with them all the same, since
// a server that learns the room this way needs it, and at least one refuses a chain without it.
func (t *Telling) create(state store.State) (int64, error) {
	k, err := t.r.db.FindStateKey("m.room.create", "")
	if k == 0 || err != nil {
		return 0, err
	}
	return state.Find(k), nil
}

func eventsOf(state store.State) []int64 {
	nids := make([]int64, len(state))
	for i, e := range state {
		nids[i] = e.Event
	}
	return nids
}

// serversBefore lists the servers with a joined member, without the join if that was what brought its server in.
func serversBefore(rd *store.Read, state store.State, join *store.Event) ([]string, error) {
	counts, err := rd.ServerCounts(join.Room)
	if err != nil {
		return nil, err
	}
	now, err := rd.MembershipOf(join.Room, join.Sender)
	if err != nil {
		return nil, err
	}
	if now.Event == join.NID {
		before, err := membershipIn(rd, state, join.Sender)
		if err != nil {
			return nil, err
		}
		if before != "join" {
			counts[join.Sender.Server()]--
		}
	}
	servers := make([]string, 0, len(counts))
	for s, n := range counts {
		if n > 0 {
			servers = append(servers, s)
		}
	}
	slices.Sort(servers)
	return servers, nil
}

// membershipIn gives a user's membership in a state; "" when there is none.
func membershipIn(rd *store.Read, state store.State, user event.UserID) (string, error) {
	e, err := rd.StateEventIn(state, "m.room.member", string(user))
	if e == nil || err != nil {
		return "", err
	}
	v, err := versionOf(rd, e.Room)
	if err != nil {
		return "", err
	}
	p, err := event.ParseTrusted(v, e.ID, e.JSON)
	if err != nil {
		return "", err
	}
	var c struct {
		Membership string `json:"membership"`
	}
	if json.Unmarshal(p.Content, &c) != nil {
		return "", nil
	}
	return c.Membership, nil
}

// withoutMembers gives the events of a state that are no members, and the heroes of a room without a name.
func withoutMembers(rd *store.Read, state store.State, join *store.Event) ([]int64, error) {
	rest, err := rd.Without(state, "m.room.member")
	if err != nil {
		return nil, err
	}
	nids := eventsOf(rest)
	for _, typ := range []string{"m.room.name", "m.room.canonical_alias"} {
		e, err := rd.StateEventIn(state, typ, "")
		if e != nil || err != nil {
			return nids, err
		}
	}
	heroes, err := heroesIn(rd, state, join)
	return append(nids, heroes...), err
}

// heroesIn gives the memberships of up to five others who came first: of those in the room or invited, or else of those who were. Who is one by the present
// state but had no such membership in the given one is passed over.
// https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync
func heroesIn(rd *store.Read, state store.State, join *store.Event) (nids []int64, err error) {
	const most = 5
	for _, here := range []bool{true, false} {
		first, err := rd.FirstMembers(join.Room, here, most+1)
		if err != nil {
			return nil, err
		}
		for _, m := range first {
			e, err := rd.StateEventIn(state, "m.room.member", string(m.User))
			if err != nil {
				return nil, err
			}
			if m.User != join.Sender && e != nil && e.NID == m.Event && len(nids) < most {
				nids = append(nids, m.Event)
			}
		}
		if len(nids) > 0 {
			break
		}
	}
	return nids, nil
}

// authority gives the numbers of all events that authorise the given ones, directly or through others; the given ones are not in it unless they authorise each other.
// create (0: none) is in it in any case.
func (r *Rooms) authority(ctx context.Context, nids []int64, create int64) ([]int64, error) {
	seen := make(map[int64]struct{}, len(nids))
	var chain []int64
	add := func(more ...int64) {
		for _, nid := range more {
			if _, ok := seen[nid]; !ok {
				seen[nid] = struct{}{}
				chain = append(chain, nid)
			}
		}
	}
	if create != 0 {
		add(create)
	}
	// What a level of the chain names is looked up in the chain itself: it grows while it is walked.
	at := func(i int) (int64, bool) {
		if i < len(nids) {
			return nids[i], true
		}
		if i -= len(nids); i < len(chain) {
			return chain[i], true
		}
		return 0, false
	}
	for i, more := 0, true; more; {
		err := r.view(ctx, func(rd *store.Read) error {
			for range tellAtOnce {
				var nid int64
				if nid, more = at(i); !more {
					break
				}
				auth, err := rd.Authority(nid)
				if err != nil {
					return err
				}
				add(auth...)
				i++
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return chain, nil
}

// Each hands out the JSON of events, in their order; it is f's to keep. Between the bits that are read at once f may take its time.
func (t *Telling) Each(ctx context.Context, nids []int64, f func(json.RawMessage) error) error {
	var batch []json.RawMessage
	for len(nids) > 0 {
		batch = batch[:0]
		err := t.r.view(ctx, func(rd *store.Read) error {
			size := 0
			for len(nids) > 0 && len(batch) < tellAtOnce && size < tellBytes {
				e, err := rd.EventByNID(nids[0])
				if err != nil {
					return err
				}
				nids = nids[1:]
				if e == nil {
					continue
				}
				batch = append(batch, e.JSON)
				size += len(e.JSON)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, raw := range batch {
			if err := f(raw); err != nil {
				return err
			}
		}
	}
	return nil
}

// EachID hands out the ids of events, in their order.
func (t *Telling) EachID(ctx context.Context, nids []int64, f func(event.ID) error) error {
	for part := range slices.Chunk(nids, tellAtOnce) {
		ids := make([]event.ID, 0, len(part))
		err := t.r.view(ctx, func(rd *store.Read) error {
			for _, nid := range part {
				id, err := rd.EventID(nid)
				if err != nil {
					return err
				}
				ids = append(ids, id)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range ids {
			if err := f(id); err != nil {
				return err
			}
		}
	}
	return nil
}
