// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// PutBox is part of Spool.
func (p *server) PutBox(ctx context.Context, b Box) error {
	if err := short(b.Server, b.ID); err != nil {
		return err
	}
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		replace := func() (bool, error) {
			tag, err := tx.Exec(ctx, `UPDATE box SET statement=$3, mode=$4 WHERE server=$1 AND id=$2`, b.Server, b.ID, orEmpty(b.Statement), string(b.Mode))
			return tag.RowsAffected() > 0, err
		}
		if done, err := replace(); done || err != nil {
			return err
		}
		var n int64
		ok, err := found(tx.QueryRow(ctx, `INSERT INTO box (server, id, statement, mode, revoked, added) VALUES ($1,$2,$3,$4,$5,$6) ON CONFLICT DO NOTHING RETURNING n`,
			b.Server, b.ID, orEmpty(b.Statement), string(b.Mode), plain(b.Revoked), micros(b.Added)).Scan(&n))
		if err != nil {
			return err
		}
		if !ok { // it belongs to another one, or another node was faster
			if done, err := replace(); done || err != nil {
				return err
			}
			return ErrTaken
		}
		_, err = tx.Exec(ctx, `INSERT INTO tally (box, count, bytes, place, taken, token, held, changes) SELECT $1, 0, 0, floor, floor, floor, false, floor FROM spool`, n)
		return err
	})
}

const postgresBox = `SELECT server, id, statement, mode, revoked, added, coalesce(seen, 0), coalesce(way, ''), coalesce(version, ''), health
	FROM box LEFT JOIN contact ON contact.box=box.n`

// Box is part of Spool.
func (p *server) Box(ctx context.Context, server string) (Box, error) {
	boxes, err := rowsOf(ctx, p, func(row pgx.CollectableRow) (Box, error) { return scanBox(row.Scan) }, postgresBox+` WHERE server=$1`, plain(server))
	if err != nil {
		return Box{}, err
	}
	if len(boxes) == 0 || boxes[0].Server != server {
		return Box{}, ErrUnknown
	}
	p.seen.over(&boxes[0])
	return boxes[0], nil
}

// Boxes is part of Spool.
func (p *server) Boxes(ctx context.Context) ([]Box, error) {
	boxes, err := rowsOf(ctx, p, func(row pgx.CollectableRow) (Box, error) { return scanBox(row.Scan) }, postgresBox+` ORDER BY server`)
	for i := range boxes {
		p.seen.over(&boxes[i])
	}
	return boxes, err
}

// Revoke is part of Spool.
func (p *server) Revoke(ctx context.Context, server, reason string) error {
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE box SET revoked=$2 WHERE server=$1`, plain(server), plain(reason))
		if err == nil && tag.RowsAffected() == 0 {
			err = ErrUnknown
		}
		return err
	})
}

// Remove is part of Spool.
func (p *server) Remove(ctx context.Context, server string) error {
	err := p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, err := lock(ctx, tx, server)
		if err != nil {
			return err
		}
		write := &pgx.Batch{}
		for _, q := range []string{
			`UPDATE spool SET floor=GREATEST(floor, place, taken, token, changes) FROM tally WHERE box=$1`,
			`DELETE FROM request WHERE queue IN (SELECT n FROM queue WHERE box=$1)`,
			`DELETE FROM queue WHERE box=$1`, `DELETE FROM deposit WHERE box=$1`, `DELETE FROM onetime WHERE box=$1`,
			`DELETE FROM contact WHERE box=$1`, `DELETE FROM tally WHERE box=$1`, `DELETE FROM box WHERE n=$1`,
		} {
			write.Queue(q, n)
		}
		return tx.SendBatch(ctx, write).Close()
	})
	if err == nil {
		p.news.tell(server, 0)
	}
	return err
}

// Saw is part of Spool.
func (p *server) Saw(server string, at time.Time, way, version string, health json.RawMessage) {
	p.seen.note(contact{server, at, way, version, health})
}

func (p *server) writeSeen(ctx context.Context) error {
	cs := p.seen.unwritten()
	if len(cs) == 0 {
		return nil
	}
	var servers, ways, versions []string
	var at []int64
	var health [][]byte
	for _, c := range cs {
		servers, ways, versions = append(servers, plain(c.server)), append(ways, c.way), append(versions, c.version)
		at, health = append(at, micros(c.at)), append(health, c.health)
	}
	err := p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO contact (box, seen, way, version, health)
			SELECT n, seen, way, version, health FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::bytea[]) AS c (name, seen, way, version, health)
			JOIN box ON box.server=c.name ORDER BY n
			ON CONFLICT (box) DO UPDATE SET seen=excluded.seen, way=excluded.way, version=excluded.version, health=excluded.health WHERE excluded.seen >= contact.seen`,
			servers, at, ways, versions, health)
		return err
	})
	if err == nil {
		p.seen.written(cs)
	}
	return err
}

// Acquire is part of Spool.
func (p *server) Acquire(ctx context.Context, box, node string, now time.Time, ttl time.Duration, steal bool) (l Lease, ok bool, err error) {
	if err := short(node); err != nil {
		return Lease{}, false, err
	}
	var changes int64
	err = p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		l, ok, changes = Lease{}, false, 0
		n, until := int64(0), int64(0)
		ask := &pgx.Batch{}
		ask.Queue(lockBox, box).QueryRow(func(row pgx.Row) error {
			ok, err := found(row.Scan(&n))
			if err == nil && !ok {
				err = ErrUnknown
			}
			return err
		})
		ask.Queue(postgresLease, box).QueryRow(func(row pgx.Row) error {
			l, err = readLease(box, func(to ...any) (bool, error) { return found(row.Scan(to...)) })
			return err
		})
		ask.Queue(`SELECT until FROM node WHERE name=$1`, node).QueryRow(func(row pgx.Row) error {
			_, err := found(row.Scan(&until))
			return err
		})
		if err := tx.SendBatch(ctx, ask).Close(); err != nil {
			return err
		}
		mine := l.Node == node && !l.Until.IsZero()
		if !mine && !steal && l.Until.After(now) {
			return nil
		}
		ok = true
		write := &pgx.Batch{}
		if renewal(fromMicros(until), now, ttl) {
			write.Queue(`INSERT INTO node (name, until) VALUES ($1,$2) ON CONFLICT (name) DO UPDATE SET until=GREATEST(node.until, excluded.until) RETURNING until`,
				node, micros(now.Add(ttl))).QueryRow(func(row pgx.Row) error { return row.Scan(&until) })
		}
		if !mine {
			write.Queue(`UPDATE tally SET token=token+1, node=$2, held=true, changes=changes+1 WHERE box=$1 RETURNING token, changes`, n, node).QueryRow(func(row pgx.Row) error {
				return row.Scan(&l.Token, &changes)
			})
		}
		if write.Len() > 0 {
			if err := tx.SendBatch(ctx, write).Close(); err != nil {
				return err
			}
		}
		l = Lease{Box: box, Node: node, Token: l.Token, Until: fromMicros(until)}
		return nil
	})
	if err != nil {
		return Lease{}, false, err
	}
	if changes > 0 {
		p.news.tell(box, changes)
	}
	return l, ok, nil
}

const postgresLease = `SELECT tally.node, token, CASE WHEN held THEN coalesce(until, 0) ELSE 0 END FROM box JOIN tally ON tally.box=box.n LEFT JOIN node ON node.name=tally.node
	WHERE server=$1 AND tally.node IS NOT NULL`

// Renew is part of Spool.
func (p *server) Renew(ctx context.Context, node string, now time.Time, ttl time.Duration) error {
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE node SET until=GREATEST(until, $2) WHERE name=$1`, plain(node), micros(now.Add(ttl)))
		return err
	})
}

// Release is part of Spool.
func (p *server) Release(ctx context.Context, l Lease) error {
	var changes int64
	err := p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		n, err := lock(ctx, tx, l.Box)
		if err != nil {
			return err
		}
		_, err = found(tx.QueryRow(ctx, `UPDATE tally SET token=token+1, held=false, changes=changes+1 WHERE box=$1 AND token=$2 AND held RETURNING changes`, n, l.Token).Scan(&changes))
		return err
	})
	if err == nil && changes > 0 {
		p.news.tell(l.Box, changes)
	}
	return err
}

// Holder is part of Spool.
func (p *server) Holder(ctx context.Context, box string) (Lease, error) {
	return readLease(box, func(to ...any) (bool, error) { return p.one(ctx, postgresLease, []any{plain(box)}, to...) })
}
