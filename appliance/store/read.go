// SPDX-License-Identifier: EUPL-1.2

package store

// Read is a consistent snapshot of the database: every question is a method on it. Inside a write the same questions see the write's own changes,
// because Tx embeds Read. A Read is used by one goroutine and is dead when the function that got it returns.
//
// What feed may build on (files named beside each):
//
//	positions     DB.Published before View; the snapshot holds at least everything up to it. Ask for (after, published].
//	timeline      RoomEventsBetween(room, after, to, limit, backwards), LastPos  events.go
//	              Only shown events have a position: rejected, soft-failed and outlier events never come up here.
//	              History fetched later has negative positions that rise with depth, so paging back goes from positive into negative ones.
//	state deltas  StateDeltas(room, after, to): changes of the current state with the event they replaced      state.go
//	state         CurrentState(room), CurrentStateEvent(room, type, key), StateEventAt(group, type, key), Event.Before / Event.After name groups
//	membership    RoomsOf(user), MembershipOf(room, user), Members(room, membership), Membership.Pos moves with every change   members.go
//	transactions  Event.TxnDevice, Event.TxnID: what the sender's device called it                             events.go
type Read struct {
	db *DB
	c  *conn
}

// each runs a query with a kept statement and calls f per row. Returning errStop ends it.
func (r *Read) each(sql string, args []any, f func(*Row) error) error { return r.c.run(sql, args, f) }

// one runs a query for a single row and scans it; false when there is none.
func (r *Read) one(sql string, args []any, dest ...any) (bool, error) {
	found := false
	err := r.c.run(sql, args, func(row *Row) error {
		found = true
		if err := row.Scan(dest...); err != nil {
			return err
		}
		return errStop
	})
	return found, err
}

// args makes a query's argument list readable at the call.
func args(a ...any) []any { return a }
