// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"
)

// number gives a box's number.
func (tx *act) number(server string) (n int64, err error) {
	ok, err := tx.one(`SELECT n FROM box WHERE server=?`, []any{server}, &n)
	if err == nil && !ok {
		err = ErrUnknown
	}
	return n, err
}

// PutBox is part of Spool.
func (f *file) PutBox(ctx context.Context, b Box) error {
	if err := short(b.Server, b.ID); err != nil {
		return err
	}
	return f.w.do(ctx, false, func(tx *act) error {
		n, err := tx.execN(`UPDATE box SET statement=?, mode=? WHERE server=? AND id=?`, orEmpty(b.Statement), string(b.Mode), b.Server, b.ID)
		if err != nil || n > 0 {
			return err
		}
		ok, err := tx.one(`INSERT INTO box (server, id, statement, mode, revoked, added) VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING RETURNING n`,
			[]any{b.Server, b.ID, orEmpty(b.Statement), string(b.Mode), b.Revoked, micros(b.Added)}, &n)
		if err != nil {
			return err
		}
		if !ok {
			return ErrTaken
		}
		return tx.exec(`INSERT INTO tally (box, count, bytes, place, taken, token, held) SELECT ?, 0, 0, floor, floor, floor, 0 FROM spool`, n)
	})
}

// orEmpty makes bytes that are stored where NULL is not allowed.
func orEmpty(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

const sqliteBox = `SELECT server, id, statement, mode, revoked, added, coalesce(seen, 0), coalesce(way, ''), coalesce(version, ''), health
	FROM box LEFT JOIN contact ON contact.box=box.n`

func scanBox(scan func(...any) error) (b Box, err error) {
	var added, at int64
	var health []byte
	err = scan(&b.Server, &b.ID, &b.Statement, &b.Mode, &b.Revoked, &added, &at, &b.Way, &b.Version, &health)
	b.Added, b.Seen, b.Health = fromMicros(added), fromMicros(at), health
	return b, err
}

// Box is part of Spool.
func (f *file) Box(ctx context.Context, server string) (Box, error) {
	b, err := scanBox(f.read.QueryRowContext(ctx, sqliteBox+` WHERE server=?`, server).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Box{}, ErrUnknown
	}
	f.seen.over(&b)
	return b, f.failed(err)
}

// Boxes is part of Spool.
func (f *file) Boxes(ctx context.Context) (boxes []Box, err error) {
	err = f.each(ctx, sqliteBox+` ORDER BY server`, nil, func(rows *sql.Rows) (bool, error) {
		b, err := scanBox(rows.Scan)
		f.seen.over(&b)
		boxes = append(boxes, b)
		return false, err
	})
	return boxes, err
}

// Revoke is part of Spool.
func (f *file) Revoke(ctx context.Context, server, reason string) error {
	return f.w.do(ctx, true, func(tx *act) error {
		n, err := tx.execN(`UPDATE box SET revoked=? WHERE server=?`, plain(reason), server)
		if err == nil && n == 0 {
			err = ErrUnknown
		}
		return err
	})
}

// Remove is part of Spool.
func (f *file) Remove(ctx context.Context, server string) error {
	return f.w.do(ctx, true, func(tx *act) error {
		n, err := tx.number(server)
		if err != nil {
			return err
		}
		tx.tell(server)
		for _, q := range []string{
			`UPDATE spool SET floor=(SELECT max(floor, place, taken, token) FROM tally WHERE box=?)`,
			`DELETE FROM request WHERE queue IN (SELECT n FROM queue WHERE box=?)`,
			`DELETE FROM queue WHERE box=?`, `DELETE FROM deposit WHERE box=?`, `DELETE FROM onetime WHERE box=?`,
			`DELETE FROM contact WHERE box=?`, `DELETE FROM tally WHERE box=?`, `DELETE FROM box WHERE n=?`,
		} {
			if err := tx.exec(q, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// Saw is part of Spool.
func (f *file) Saw(server string, at time.Time, way, version string, health json.RawMessage) {
	f.seen.note(contact{server, at, way, version, health})
}

func (f *file) writeSeen() error {
	cs := f.seen.unwritten()
	if len(cs) == 0 {
		return nil
	}
	err := f.w.do(context.Background(), true, func(tx *act) error {
		for _, c := range cs {
			err := tx.exec(`INSERT INTO contact (box, seen, way, version, health) SELECT n, ?, ?, ?, ? FROM box WHERE server=?
				ON CONFLICT (box) DO UPDATE SET seen=excluded.seen, way=excluded.way, version=excluded.version, health=excluded.health WHERE excluded.seen >= contact.seen`,
				micros(c.at), c.way, c.version, []byte(c.health), c.server)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		f.seen.written(cs)
	}
	return err
}

// Acquire is part of Spool.
func (f *file) Acquire(ctx context.Context, box, node string, now time.Time, ttl time.Duration, steal bool) (l Lease, ok bool, err error) {
	if err := short(node); err != nil {
		return Lease{}, false, err
	}
	err = f.w.do(ctx, true, func(tx *act) error {
		l, ok = Lease{}, false
		n, err := tx.number(box)
		if err != nil {
			return err
		}
		if l, err = readLease(box, func(to ...any) (bool, error) { return tx.one(sqliteLease, []any{box}, to...) }); err != nil {
			return err
		}
		mine := l.Node == node && !l.Until.IsZero()
		if !mine && !steal && l.Until.After(now) {
			return nil
		}
		ok = true
		var until int64
		if _, err := tx.one(`SELECT until FROM node WHERE name=?`, []any{node}, &until); err != nil {
			return err
		}
		if renewal(fromMicros(until), now, ttl) {
			until = micros(now.Add(ttl))
			if err := tx.exec(`INSERT INTO node (name, until) VALUES (?,?) ON CONFLICT (name) DO UPDATE SET until=excluded.until`, node, until); err != nil {
				return err
			}
		}
		if !mine {
			tx.tell(box)
			if _, err := tx.one(`UPDATE tally SET token=token+1, node=?, held=1 WHERE box=? RETURNING token`, []any{node, n}, &l.Token); err != nil {
				return err
			}
		}
		l = Lease{Box: box, Node: node, Token: l.Token, Until: fromMicros(until)}
		return nil
	})
	return l, ok, err
}

const sqliteLease = `SELECT tally.node, token, CASE held WHEN 0 THEN 0 ELSE coalesce(until, 0) END FROM box JOIN tally ON tally.box=box.n LEFT JOIN node ON node.name=tally.node
	WHERE server=? AND tally.node IS NOT NULL`

// readLease reads what sqliteLease or its twin for PostgreSQL selects.
func readLease(box string, one func(...any) (bool, error)) (l Lease, err error) {
	var until int64
	ok, err := one(&l.Node, &l.Token, &until)
	if err != nil || !ok {
		return Lease{}, err
	}
	l.Box, l.Until = box, fromMicros(until)
	return l, nil
}

// Renew is part of Spool.
func (f *file) Renew(ctx context.Context, node string, now time.Time, ttl time.Duration) error {
	return f.w.do(ctx, true, func(tx *act) error {
		return tx.exec(`UPDATE node SET until=max(until, ?) WHERE name=?`, micros(now.Add(ttl)), node)
	})
}

// Release is part of Spool.
func (f *file) Release(ctx context.Context, l Lease) error {
	return f.w.do(ctx, true, func(tx *act) error {
		n, err := tx.number(l.Box)
		if err != nil {
			return err
		}
		changed, err := tx.execN(`UPDATE tally SET token=token+1, held=0 WHERE box=? AND token=? AND held=1`, n, l.Token)
		if changed > 0 {
			tx.tell(l.Box)
		}
		return err
	})
}

// Holder is part of Spool.
func (f *file) Holder(ctx context.Context, box string) (Lease, error) {
	return readLease(box, func(to ...any) (bool, error) { return f.one(ctx, sqliteLease, []any{box}, to...) })
}
