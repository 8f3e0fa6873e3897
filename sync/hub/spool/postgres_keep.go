// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Deposit is part of Spool.
func (p *server) Deposit(ctx context.Context, box, kind, key string, value []byte) error {
	if err := short(kind, key); err != nil {
		return err
	}
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, err := lock(ctx, tx, box)
		if err != nil {
			return err
		}
		return deposit(ctx, tx, n, kind, key, value, p.limits)
	})
}

func deposit(ctx context.Context, tx pgx.Tx, box int64, kind, key string, value []byte, limits Limits) error {
	if value == nil {
		_, err := tx.Exec(ctx, `DELETE FROM deposit WHERE box=$1 AND kind=$2 AND key=$3`, box, kind, key)
		return err
	}
	changed, err := tx.Exec(ctx, `INSERT INTO deposit (box, kind, key, value) VALUES ($1,$2,$3,$4) ON CONFLICT (box, kind, key) DO UPDATE SET value=excluded.value
		WHERE deposit.value<>excluded.value`, box, kind, key, value)
	if err != nil || changed.RowsAffected() == 0 || key == "" {
		return err
	}
	var count, bytes int64
	if err := tx.QueryRow(ctx, `SELECT count(*), sum(length(key)+octet_length(value)) FROM deposit WHERE box=$1 AND key<>''`, box).Scan(&count, &bytes); err != nil {
		return err
	}
	return limits.allowDeposits(count, bytes)
}

// Amend is part of Spool. The box's lock keeps other nodes out between reading and writing.
func (p *server) Amend(ctx context.Context, box, kind, key string, change func([]byte) ([]byte, error)) error {
	if err := short(kind, key); err != nil {
		return err
	}
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, err := lock(ctx, tx, box)
		if err != nil {
			return err
		}
		var value []byte
		if _, err := found(tx.QueryRow(ctx, `SELECT value FROM deposit WHERE box=$1 AND kind=$2 AND key=$3`, n, kind, key).Scan(&value)); err != nil {
			return err
		}
		if value, err = change(value); err != nil {
			return callers{err}
		}
		return deposit(ctx, tx, n, kind, key, value, p.limits)
	})
}

// Deposited is part of Spool.
func (p *server) Deposited(ctx context.Context, box, kind, key string) (value []byte, err error) {
	if short(box, kind, key) != nil {
		return nil, nil
	}
	_, err = p.one(ctx, `SELECT value FROM deposit JOIN box ON box.n=deposit.box WHERE server=$1 AND kind=$2 AND key=$3`, []any{box, kind, key}, &value)
	return value, err
}

// DepositedOf is part of Spool.
func (p *server) DepositedOf(ctx context.Context, kind string) (map[string][]byte, error) {
	values := make(map[string][]byte)
	_, err := rowsOf(ctx, p, func(row pgx.CollectableRow) (struct{}, error) {
		var server string
		var value []byte
		err := row.Scan(&server, &value)
		values[server] = value
		return struct{}{}, err
	}, `SELECT server, value FROM deposit JOIN box ON box.n=deposit.box WHERE kind=$1 AND key=''`, plain(kind))
	return values, err
}

// PutKeys is part of Spool.
func (p *server) PutKeys(ctx context.Context, box, user, device string, keys map[string]json.RawMessage) error {
	ids, algorithms, values, err := sortedKeys(user, device, keys)
	if err != nil {
		return err
	}
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, err := lock(ctx, tx, box)
		if err != nil || len(ids) == 0 {
			return err
		}
		fresh, err := tx.Exec(ctx, `INSERT INTO onetime (box, usr, device, algorithm, id, value)
			SELECT $1, $2, $3, algorithm, id, value FROM unnest($4::text[], $5::text[], $6::bytea[]) WITH ORDINALITY AS k (algorithm, id, value, i) ORDER BY i ON CONFLICT DO NOTHING`,
			n, user, device, algorithms, ids, values)
		if err != nil || fresh.RowsAffected() == 0 {
			return err
		}
		var count int64
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM onetime WHERE box=$1 AND taken IS NULL`, n).Scan(&count); err != nil {
			return err
		}
		return p.limits.allowKeys(count)
	})
}

// TakeKey is part of Spool. The box's lock makes the places grow in the order of the commits.
func (p *server) TakeKey(ctx context.Context, box, user, device, algorithm string) (id string, key json.RawMessage, err error) {
	known := short(user, device, algorithm) == nil
	err = p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		id, key = "", nil
		b, err := lock(ctx, tx, box)
		if err != nil || !known {
			return err
		}
		var n int64
		var value []byte
		ok, err := found(tx.QueryRow(ctx, `SELECT n, id, value FROM onetime WHERE box=$1 AND usr=$2 AND device=$3 AND algorithm=$4 AND taken IS NULL ORDER BY n LIMIT 1`,
			b, user, device, algorithm).Scan(&n, &id, &value))
		if err != nil || !ok {
			return err
		}
		key = value
		write := &pgx.Batch{}
		write.Queue(`UPDATE tally SET taken=taken+1 WHERE box=$1`, b)
		write.Queue(`UPDATE onetime SET taken=(SELECT taken FROM tally WHERE box=$1), value=NULL WHERE n=$2`, b, n)
		return tx.SendBatch(ctx, write).Close()
	})
	if err != nil {
		return "", nil, err
	}
	return id, key, nil
}

// CountKeys is part of Spool.
func (p *server) CountKeys(ctx context.Context, box, user, device string) (map[string]int, error) {
	counts := make(map[string]int)
	if short(box, user, device) != nil {
		return counts, nil
	}
	_, err := rowsOf(ctx, p, func(row pgx.CollectableRow) (struct{}, error) {
		var a string
		var n int
		err := row.Scan(&a, &n)
		counts[a] = n
		return struct{}{}, err
	}, `SELECT algorithm, count(*) FROM onetime JOIN box ON box.n=onetime.box WHERE server=$1 AND usr=$2 AND device=$3 AND taken IS NULL GROUP BY algorithm`, box, user, device)
	return counts, err
}

// KeyStock is part of Spool.
func (p *server) KeyStock(ctx context.Context, box string) (map[string]Stock, error) {
	stocks := make(map[string]Stock)
	_, err := rowsOf(ctx, p, func(row pgx.CollectableRow) (struct{}, error) {
		var server string
		var s Stock
		err := row.Scan(&server, &s.Devices, &s.Left, &s.Given)
		stocks[server] = s
		return struct{}{}, err
	}, `SELECT server, count(DISTINCT (usr, device)) FILTER (WHERE taken IS NULL), count(*) FILTER (WHERE taken IS NULL), count(taken)
		FROM onetime JOIN box ON box.n=onetime.box WHERE $1='' OR server=$1 GROUP BY server`, plain(box))
	return stocks, err
}

// Bounds is part of Spool.
func (p *server) Bounds() Limits { return p.limits }

// TakenKeys is part of Spool.
func (p *server) TakenKeys(ctx context.Context, box string, after int64, most int) ([]Taken, error) {
	return rowsOf(ctx, p, func(row pgx.CollectableRow) (t Taken, err error) {
		err = row.Scan(&t.Place, &t.User, &t.Device, &t.ID)
		return t, err
	}, `SELECT taken, usr, device, onetime.id FROM onetime JOIN box ON box.n=onetime.box WHERE server=$1 AND taken>$2 ORDER BY taken LIMIT $3`, plain(box), after, most)
}

// ForgetTaken is part of Spool.
func (p *server) ForgetTaken(ctx context.Context, box string, through int64) error {
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, err := lock(ctx, tx, box)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `DELETE FROM onetime WHERE box=$1 AND taken<=$2`, n, through)
		return err
	})
}

// Epoch is part of Spool.
func (p *server) Epoch(ctx context.Context) (epoch string, err error) {
	_, err = p.one(ctx, `SELECT epoch FROM spool`, nil, &epoch)
	return epoch, err
}

// Restored is part of Spool.
func (p *server) Restored(ctx context.Context) error {
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		var others int
		if err := tx.QueryRow(ctx, `SELECT count(DISTINCT application_name) FROM pg_stat_activity
			WHERE datname=current_database() AND application_name LIKE 'hallig-hub %' AND application_name<>current_setting('application_name')`).Scan(&others); err != nil {
			return err
		}
		if others > 0 {
			return fmt.Errorf("%w (others than this one: %d)", ErrInUse, others)
		}
		write := &pgx.Batch{}
		write.Queue(`UPDATE spool SET epoch=$1, floor=floor+$2`, newEpoch(), int64(restored))
		write.Queue(`UPDATE tally SET place=place+$1, taken=taken+$1, token=token+$1, changes=changes+$1, held=false`, int64(restored))
		write.Queue(`UPDATE onetime SET value=NULL, taken=here.place FROM (SELECT onetime.n, tally.taken+row_number() OVER (PARTITION BY onetime.box ORDER BY onetime.n) AS place
			FROM onetime JOIN tally ON tally.box=onetime.box WHERE onetime.taken IS NULL) AS here WHERE onetime.n=here.n`)
		write.Queue(`UPDATE tally SET taken=GREATEST(taken, (SELECT max(taken) FROM onetime WHERE onetime.box=tally.box))`)
		return tx.SendBatch(ctx, write).Close()
	})
}
