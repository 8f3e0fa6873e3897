// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// lockBox takes the row of a box that every change begins with.
const lockBox = `SELECT tally.box FROM tally JOIN box ON box.n=tally.box WHERE server=$1 FOR UPDATE OF tally`

// lock locks a box and gives its number.
func lock(ctx context.Context, tx pgx.Tx, server string) (n int64, err error) {
	ok, err := found(tx.QueryRow(ctx, lockBox, server).Scan(&n))
	if err == nil && !ok {
		err = ErrUnknown
	}
	return n, err
}

// Append is part of Spool.
func (p *server) Append(ctx context.Context, q Queue, now time.Time, rs ...Request) (fresh int, err error) {
	if err := short(q.Other); err != nil {
		return 0, err
	}
	list := distinct(rs)
	var changes int64
	err = p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		fresh, changes, err = p.append(ctx, tx, q, now, list)
		return err
	})
	if err != nil {
		return 0, err
	}
	if fresh > 0 {
		p.news.tell(q.Box, changes)
	}
	p.sweep(ctx, now)
	return fresh, nil
}

// append asks everything in one round trip, and writes everything in another.
func (p *server) append(ctx context.Context, tx pgx.Tx, q Queue, now time.Time, list []*Request) (fresh int, changes int64, err error) {
	hashes := make([][]byte, len(list))
	for i, r := range list {
		hashes[i] = r.hash()
	}
	var box, count, bytes, place, boxCount, boxBytes int64
	there := make(map[string]bool)
	ask := &pgx.Batch{}
	ask.Queue(`SELECT tally.box, count, bytes, place FROM tally JOIN box ON box.n=tally.box WHERE server=$1 FOR UPDATE OF tally`, q.Box).QueryRow(func(row pgx.Row) error {
		ok, err := found(row.Scan(&box, &boxCount, &boxBytes, &place))
		if err == nil && !ok {
			err = ErrUnknown
		}
		return err
	})
	ask.Queue(`SELECT count, bytes FROM queue JOIN box ON box.n=queue.box WHERE server=$1 AND inward=$2 AND other=$3`, q.Box, q.In, q.Other).QueryRow(func(row pgx.Row) error {
		_, err := found(row.Scan(&count, &bytes))
		return err
	})
	old := micros(now.Add(-known))
	ask.Queue(`SELECT hash FROM request JOIN queue ON queue.n=request.queue JOIN box ON box.n=queue.box
		WHERE server=$1 AND inward=$2 AND other=$3 AND hash=ANY($4) AND (request.settled=0 OR request.settled>=$5)`, q.Box, q.In, q.Other, hashes, old).Query(func(rows pgx.Rows) error {
		var h []byte
		_, err := pgx.ForEachRow(rows, []any{&h}, func() error {
			there[string(h)] = true
			return nil
		})
		return err
	})
	if err := tx.SendBatch(ctx, ask).Close(); err != nil {
		return 0, 0, err
	}
	var c columns
	for i, r := range list {
		if !there[string(hashes[i])] {
			place++
			c.add(r, place, hashes[i], now)
		}
	}
	n := int64(len(c.seqs))
	if n == 0 {
		return 0, 0, nil
	}
	if err := p.limits.allow(boxCount+n, boxBytes+c.size, count+n, bytes+c.size); err != nil {
		return 0, 0, err
	}
	write := &pgx.Batch{}
	write.Queue(`INSERT INTO queue (box, inward, other, settled, count, bytes, last) VALUES ($1,$2,$3,0,$4,$5,$6)
		ON CONFLICT (box, inward, other) DO UPDATE SET count=queue.count+excluded.count, bytes=queue.bytes+excluded.bytes, last=GREATEST(queue.last, excluded.last)`,
		box, q.In, q.Other, n, c.size, micros(now))
	// A key that is remembered longer than it need be (the queue stood still) is replaced.
	write.Queue(`DELETE FROM request WHERE queue=(SELECT n FROM queue WHERE box=$1 AND inward=$2 AND other=$3) AND hash=ANY($4) AND settled<>0 AND settled<$5`, box, q.In, q.Other, hashes, old)
	write.Queue(`INSERT INTO request (queue, seq, settled, received, size, hash, key, method, uri, auth, body)
		SELECT (SELECT n FROM queue WHERE box=$1 AND inward=$2 AND other=$3), seq, 0, received, size, hash, key, method, uri, auth, body
		FROM unnest($4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[], $8::bytea[], $9::bytea[], $10::bytea[], $11::bytea[], $12::bytea[]) AS r (seq, received, size, hash, key, method, uri, auth, body)`,
		box, q.In, q.Other, c.seqs, c.received, c.sizes, c.hashes, c.keys, c.methods, c.uris, c.auths, c.bodies)
	write.Queue(`UPDATE tally SET count=count+$2, bytes=bytes+$3, place=$4, changes=changes+1 WHERE box=$1 RETURNING changes`, box, n, c.size, place).QueryRow(func(row pgx.Row) error {
		return row.Scan(&changes)
	})
	return int(n), changes, tx.SendBatch(ctx, write).Close()
}

// columns are requests as arrays.
type columns struct {
	size                                       int64
	seqs, received, sizes                      []int64
	hashes, keys, methods, uris, auths, bodies [][]byte
}

func (c *columns) add(r *Request, place int64, hash []byte, now time.Time) {
	if at := r.Received; !at.IsZero() {
		now = at
	}
	c.size += r.size()
	c.seqs, c.received, c.sizes = append(c.seqs, place), append(c.received, micros(now)), append(c.sizes, r.size())
	c.hashes, c.keys, c.methods = append(c.hashes, hash), append(c.keys, []byte(r.Key)), append(c.methods, []byte(r.Method))
	c.uris, c.auths, c.bodies = append(c.uris, []byte(r.URI)), append(c.auths, []byte(r.Authorization)), append(c.bodies, r.Body)
}

// Next is part of Spool.
func (p *server) Next(ctx context.Context, q Queue, after int64, most int) ([]Request, error) {
	if short(q.Box, q.Other) != nil {
		return nil, nil
	}
	return rowsOf(ctx, p, func(row pgx.CollectableRow) (r Request, err error) {
		var received int64
		var key, method, uri, auth []byte
		err = row.Scan(&r.Seq, &key, &method, &uri, &auth, &r.Body, &received)
		r.Key, r.Method, r.URI, r.Authorization, r.Received = string(key), string(method), string(uri), string(auth), fromMicros(received)
		return r, err
	}, `SELECT seq, key, method, uri, auth, body, received FROM
		(SELECT request.*, sum(size) OVER (ORDER BY seq) AS total FROM request
			WHERE queue=(SELECT queue.n FROM queue JOIN box ON box.n=queue.box WHERE server=$1 AND inward=$2 AND other=$3)
			AND seq > GREATEST($4, (SELECT settled FROM queue JOIN box ON box.n=queue.box WHERE server=$1 AND inward=$2 AND other=$3)) ORDER BY seq LIMIT $6) AS head
		WHERE total<=$5 OR total=size ORDER BY seq`, q.Box, q.In, q.Other, after, most, mostRows)
}

// Settle is part of Spool.
func (p *server) Settle(ctx context.Context, q Queue, through int64, now time.Time, l Lease) error {
	err := p.act(ctx, func(ctx context.Context, tx pgx.Tx) error { return settle(ctx, tx, q, through, now, l) })
	if err == nil {
		p.sweep(ctx, now)
	}
	return err
}

func settle(ctx context.Context, tx pgx.Tx, q Queue, through int64, now time.Time, l Lease) error {
	var box, token, queue, settled, n, bytes, last int64
	ask := &pgx.Batch{}
	ask.Queue(`SELECT tally.box, token FROM tally JOIN box ON box.n=tally.box WHERE server=$1 FOR UPDATE OF tally`, q.Box).QueryRow(func(row pgx.Row) error {
		ok, err := found(row.Scan(&box, &token))
		if err == nil && !ok {
			err = ErrUnknown
		}
		return err
	})
	ask.Queue(`SELECT queue.n, settled, head.* FROM queue JOIN box ON box.n=queue.box,
		LATERAL (SELECT count(*), coalesce(sum(size), 0)::bigint, coalesce(max(seq), 0) FROM request WHERE queue=queue.n AND seq>queue.settled AND seq<=$4) AS head
		WHERE server=$1 AND inward=$2 AND other=$3`, q.Box, q.In, q.Other, through).QueryRow(func(row pgx.Row) error {
		_, err := found(row.Scan(&queue, &settled, &n, &bytes, &last))
		return err
	})
	if err := tx.SendBatch(ctx, ask).Close(); err != nil {
		return err
	}
	if l.Token > 0 && (token != l.Token || l.Box != q.Box) {
		return ErrFenced
	}
	if n == 0 {
		return nil
	}
	write := &pgx.Batch{}
	write.Queue(`UPDATE request SET settled=$4, uri='', auth='', body=NULL WHERE queue=$1 AND seq>$2 AND seq<=$3`, queue, settled, last, max(micros(now), 1))
	write.Queue(`UPDATE queue SET settled=$2, count=count-$3, bytes=bytes-$4, last=GREATEST(last, $5) WHERE n=$1`, queue, last, n, bytes, micros(now))
	write.Queue(`UPDATE tally SET count=count-$2, bytes=bytes-$3 WHERE box=$1`, box, n, bytes)
	// What is forgotten goes from the queue's head, more in each turn than was added.
	write.Queue(`DELETE FROM request WHERE queue=$1 AND seq IN (SELECT seq FROM request WHERE queue=$1 AND seq<=$2 ORDER BY seq LIMIT $3) AND settled<$4`,
		queue, last, 2*n+8, micros(now.Add(-known)))
	return tx.SendBatch(ctx, write).Close()
}

// Waiting is part of Spool.
func (p *server) Waiting(ctx context.Context, box string) ([]Waiting, error) {
	return rowsOf(ctx, p, func(row pgx.CollectableRow) (w Waiting, err error) {
		var oldest int64
		err = row.Scan(&w.Box, &w.Other, &w.In, &w.Count, &w.Bytes, &oldest)
		w.Oldest = fromMicros(oldest)
		return w, err
	}, `SELECT server, other, inward, count, bytes, (SELECT received FROM request WHERE request.queue=queue.n AND seq>queue.settled ORDER BY seq LIMIT 1)
		FROM queue JOIN box ON box.n=queue.box WHERE count>0 AND ($1='' OR server=$1) ORDER BY server, inward, other`, plain(box))
}

// sweep forgets, once an hour, queues in which nothing has happened for so long that all their keys may be forgotten, and nodes that are gone.
func (p *server) sweep(ctx context.Context, now time.Time) {
	if !p.hourly.due(now) {
		return
	}
	if err := p.forget(ctx, now); err != nil {
		p.log.Warn("forget what was settled long ago", "err", err)
	}
}

func (p *server) forget(ctx context.Context, now time.Time) error {
	old := micros(now.Add(-known))
	boxes, err := rowsOf(ctx, p, pgx.RowTo[string], `SELECT DISTINCT server FROM queue JOIN box ON box.n=queue.box WHERE count=0 AND last<$1`, old)
	if err != nil {
		return err
	}
	for _, box := range boxes { // one at a time, under its lock: something may come just now
		err := p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
			n, err := lock(ctx, tx, box)
			if err != nil {
				return err
			}
			write := &pgx.Batch{}
			write.Queue(`DELETE FROM request WHERE queue IN (SELECT n FROM queue WHERE box=$1 AND count=0 AND last<$2)`, n, old)
			write.Queue(`DELETE FROM queue WHERE box=$1 AND count=0 AND last<$2`, n, old)
			return tx.SendBatch(ctx, write).Close()
		})
		if err != nil {
			return err
		}
	}
	return p.act(ctx, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM node WHERE until<$1 AND NOT EXISTS (SELECT 1 FROM tally WHERE tally.node=node.name)`, micros(now.Add(-nodeKnown)))
		return err
	})
}
