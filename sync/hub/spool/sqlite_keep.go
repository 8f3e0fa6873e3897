// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"database/sql"
	"encoding/json"
)

// Deposit is part of Spool.
func (f *file) Deposit(ctx context.Context, box, kind, key string, value []byte) error {
	if err := short(kind, key); err != nil {
		return err
	}
	return f.w.do(ctx, value == nil, func(tx *act) error { return tx.deposit(box, kind, key, value, f.limits) })
}

func (tx *act) deposit(box, kind, key string, value []byte, limits Limits) error {
	n, err := tx.number(box)
	if err != nil {
		return err
	}
	if value == nil {
		return tx.exec(`DELETE FROM deposit WHERE box=? AND kind=? AND key=?`, n, kind, key)
	}
	changed, err := tx.execN(`INSERT INTO deposit (box, kind, key, value) VALUES (?,?,?,?) ON CONFLICT (box, kind, key) DO UPDATE SET value=excluded.value WHERE value<>excluded.value`, n, kind, key, value)
	if err != nil || changed == 0 || key == "" {
		return err
	}
	var count, bytes int64
	if _, err := tx.one(`SELECT count(*), sum(length(key)+length(value)) FROM deposit WHERE box=? AND key<>''`, []any{n}, &count, &bytes); err != nil {
		return err
	}
	return limits.allowDeposits(count, bytes)
}

// Amend is part of Spool.
func (f *file) Amend(ctx context.Context, box, kind, key string, change func([]byte) ([]byte, error)) error {
	if err := short(kind, key); err != nil {
		return err
	}
	return f.w.do(ctx, false, func(tx *act) error {
		var value []byte
		if _, err := tx.one(sqliteDeposit, []any{box, kind, key}, &value); err != nil {
			return err
		}
		value, err := change(value)
		if err != nil {
			return err
		}
		return tx.deposit(box, kind, key, value, f.limits)
	})
}

const sqliteDeposit = `SELECT value FROM deposit JOIN box ON box.n=deposit.box WHERE server=? AND kind=? AND key=?`

// Deposited is part of Spool.
func (f *file) Deposited(ctx context.Context, box, kind, key string) (value []byte, err error) {
	_, err = f.one(ctx, sqliteDeposit, []any{box, kind, key}, &value)
	return value, err
}

// DepositedOf is part of Spool.
func (f *file) DepositedOf(ctx context.Context, kind string) (map[string][]byte, error) {
	values := make(map[string][]byte)
	err := f.each(ctx, `SELECT server, value FROM deposit JOIN box ON box.n=deposit.box WHERE kind=? AND key=''`, []any{kind}, func(rows *sql.Rows) (bool, error) {
		var server string
		var value []byte
		err := rows.Scan(&server, &value)
		values[server] = value
		return false, err
	})
	return values, err
}

// PutKeys is part of Spool.
func (f *file) PutKeys(ctx context.Context, box, user, device string, keys map[string]json.RawMessage) error {
	ids, algorithms, values, err := sortedKeys(user, device, keys)
	if err != nil {
		return err
	}
	return f.w.do(ctx, false, func(tx *act) error {
		n, err := tx.number(box)
		if err != nil {
			return err
		}
		fresh := int64(0)
		for i, id := range ids {
			m, err := tx.execN(`INSERT INTO onetime (box, user, device, algorithm, id, value) VALUES (?,?,?,?,?,?) ON CONFLICT DO NOTHING`,
				n, user, device, algorithms[i], id, values[i])
			if err != nil {
				return err
			}
			fresh += m
		}
		if fresh == 0 {
			return nil
		}
		var count int64
		if _, err := tx.one(`SELECT count(*) FROM onetime WHERE box=? AND taken IS NULL`, []any{n}, &count); err != nil {
			return err
		}
		return f.limits.allowKeys(count)
	})
}

// TakeKey is part of Spool.
func (f *file) TakeKey(ctx context.Context, box, user, device, algorithm string) (id string, key json.RawMessage, err error) {
	err = f.w.do(ctx, true, func(tx *act) error {
		id, key = "", nil
		b, err := tx.number(box)
		if err != nil {
			return err
		}
		var n, place int64
		var value []byte
		ok, err := tx.one(`SELECT n, id, value FROM onetime WHERE box=? AND user=? AND device=? AND algorithm=? AND taken IS NULL ORDER BY n LIMIT 1`,
			[]any{b, user, device, algorithm}, &n, &id, &value)
		if err != nil || !ok {
			return err
		}
		key = value
		if _, err := tx.one(`UPDATE tally SET taken=taken+1 WHERE box=? RETURNING taken`, []any{b}, &place); err != nil {
			return err
		}
		return tx.exec(`UPDATE onetime SET taken=?, value=NULL WHERE n=?`, place, n)
	})
	if err != nil {
		return "", nil, err
	}
	return id, key, nil
}

// CountKeys is part of Spool.
func (f *file) CountKeys(ctx context.Context, box, user, device string) (map[string]int, error) {
	counts := make(map[string]int)
	err := f.each(ctx, `SELECT algorithm, count(*) FROM onetime JOIN box ON box.n=onetime.box WHERE server=? AND user=? AND device=? AND taken IS NULL GROUP BY algorithm`,
		[]any{box, user, device}, func(rows *sql.Rows) (bool, error) {
			var a string
			var n int
			err := rows.Scan(&a, &n)
			counts[a] = n
			return false, err
		})
	return counts, err
}

// KeyStock is part of Spool.
func (f *file) KeyStock(ctx context.Context, box string) (map[string]Stock, error) {
	stocks := make(map[string]Stock)
	err := f.each(ctx, `SELECT server, count(DISTINCT user||char(10)||device) FILTER (WHERE taken IS NULL), count(*) FILTER (WHERE taken IS NULL), count(taken)
		FROM onetime JOIN box ON box.n=onetime.box WHERE ?='' OR server=? GROUP BY server`, []any{box, box}, func(rows *sql.Rows) (bool, error) {
		var server string
		var s Stock
		err := rows.Scan(&server, &s.Devices, &s.Left, &s.Given)
		stocks[server] = s
		return false, err
	})
	return stocks, err
}

// Bounds is part of Spool.
func (f *file) Bounds() Limits { return f.limits }

// TakenKeys is part of Spool.
func (f *file) TakenKeys(ctx context.Context, box string, after int64, most int) (taken []Taken, err error) {
	err = f.each(ctx, `SELECT taken, user, device, onetime.id FROM onetime JOIN box ON box.n=onetime.box WHERE server=? AND taken>? ORDER BY taken LIMIT ?`,
		[]any{box, after, most}, func(rows *sql.Rows) (bool, error) {
			var t Taken
			err := rows.Scan(&t.Place, &t.User, &t.Device, &t.ID)
			taken = append(taken, t)
			return false, err
		})
	return taken, err
}

// ForgetTaken is part of Spool.
func (f *file) ForgetTaken(ctx context.Context, box string, through int64) error {
	return f.w.do(ctx, true, func(tx *act) error {
		n, err := tx.number(box)
		if err != nil {
			return err
		}
		return tx.exec(`DELETE FROM onetime WHERE box=? AND taken<=?`, n, through)
	})
}

// Epoch is part of Spool.
func (f *file) Epoch(ctx context.Context) (epoch string, err error) {
	_, err = f.one(ctx, `SELECT epoch FROM spool`, nil, &epoch)
	return epoch, err
}

// Restored is part of Spool.
func (f *file) Restored(ctx context.Context) error {
	return f.w.do(ctx, true, func(tx *act) error {
		for _, q := range []struct {
			sql  string
			args []any
		}{
			{`UPDATE spool SET epoch=?, floor=floor+?`, []any{newEpoch(), int64(restored)}},
			{`UPDATE tally SET place=place+?, taken=taken+?, token=token+?, held=0`, []any{int64(restored), int64(restored), int64(restored)}},
			{`UPDATE onetime SET value=NULL, taken=here.place FROM (SELECT n, tally.taken+row_number() OVER (PARTITION BY onetime.box ORDER BY n) AS place
				FROM onetime JOIN tally ON tally.box=onetime.box WHERE onetime.taken IS NULL) AS here WHERE onetime.n=here.n`, nil},
			{`UPDATE tally SET taken=max(taken, coalesce((SELECT max(taken) FROM onetime WHERE onetime.box=tally.box), 0))`, nil},
		} {
			if err := tx.exec(q.sql, q.args...); err != nil {
				return err
			}
		}
		return nil
	})
}
