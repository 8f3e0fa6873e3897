// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"database/sql"
	"time"
)

// Append is part of Spool.
func (f *file) Append(ctx context.Context, q Queue, now time.Time, rs ...Request) (fresh int, err error) {
	if err := short(q.Other); err != nil {
		return 0, err
	}
	list := distinct(rs)
	err = f.w.do(ctx, false, func(tx *act) error {
		fresh, err = tx.append(q, now, list, f.limits)
		return err
	})
	if err != nil {
		return 0, err
	}
	f.sweep(now)
	return fresh, nil
}

func (tx *act) append(q Queue, now time.Time, rs []*Request, limits Limits) (fresh int, err error) {
	box, err := tx.number(q.Box)
	if err != nil {
		return 0, err
	}
	var queue, count, bytes, place, boxCount, boxBytes int64
	if _, err := tx.one(`SELECT count, bytes, place FROM tally WHERE box=?`, []any{box}, &boxCount, &boxBytes, &place); err != nil {
		return 0, err
	}
	key := []any{box, q.In, q.Other}
	there, err := tx.one(`SELECT n, count, bytes FROM queue WHERE box=? AND inward=? AND other=?`, key, &queue, &count, &bytes)
	if err != nil {
		return 0, err
	}
	if !there {
		if _, err := tx.one(`INSERT INTO queue (box, inward, other, settled, count, bytes, last) VALUES (?,?,?,0,0,0,0) RETURNING n`, key, &queue); err != nil {
			return 0, err
		}
	}
	var size int64
	for _, r := range rs {
		received := r.Received
		if received.IsZero() {
			received = now
		}
		// A key that is remembered longer than it need be (the queue stood still) is replaced.
		if err := tx.exec(`DELETE FROM request WHERE queue=? AND hash=? AND settled<>0 AND settled<?`, queue, r.hash(), micros(now.Add(-known))); err != nil {
			return 0, err
		}
		n, err := tx.execN(`INSERT INTO request (queue, seq, hash, settled, received, size, key, method, uri, auth, body) VALUES (?,?,?,0,?,?,?,?,?,?,?) ON CONFLICT (queue, hash) DO NOTHING`,
			queue, place+1, r.hash(), micros(received), r.size(), r.Key, r.Method, r.URI, r.Authorization, r.Body)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			place, fresh, size = place+1, fresh+1, size+r.size()
		}
	}
	if fresh == 0 {
		return 0, nil
	}
	n := int64(fresh)
	if err := limits.allow(boxCount+n, boxBytes+size, count+n, bytes+size); err != nil {
		return 0, err
	}
	if err := tx.exec(`UPDATE queue SET count=count+?, bytes=bytes+?, last=max(last, ?) WHERE n=?`, n, size, micros(now), queue); err != nil {
		return 0, err
	}
	tx.tell(q.Box)
	return fresh, tx.exec(`UPDATE tally SET count=count+?, bytes=bytes+?, place=? WHERE box=?`, n, size, place, box)
}

// Next is part of Spool.
func (f *file) Next(ctx context.Context, q Queue, after int64, most int) (rs []Request, err error) {
	size := int64(0)
	err = f.each(ctx, `SELECT seq, key, method, uri, auth, body, received, size FROM request
		JOIN (SELECT queue.n, queue.settled AS done FROM queue JOIN box ON box.n=queue.box WHERE server=? AND inward=? AND other=?) AS q ON request.queue=q.n
		WHERE seq > max(?, done) ORDER BY seq LIMIT ?`, []any{q.Box, q.In, q.Other, after, mostRows}, func(rows *sql.Rows) (bool, error) {
		var r Request
		var received, n int64
		if err := rows.Scan(&r.Seq, &r.Key, &r.Method, &r.URI, &r.Authorization, &r.Body, &received, &n); err != nil {
			return false, err
		}
		if size += n; size > int64(most) && len(rs) > 0 {
			return true, nil
		}
		r.Received = fromMicros(received)
		rs = append(rs, r)
		return false, nil
	})
	return rs, err
}

// Settle is part of Spool.
func (f *file) Settle(ctx context.Context, q Queue, through int64, now time.Time, l Lease) error {
	err := f.w.do(ctx, true, func(tx *act) error { return tx.settle(q, through, now, l) })
	if err == nil {
		f.sweep(now)
	}
	return err
}

func (tx *act) settle(q Queue, through int64, now time.Time, l Lease) error {
	box, err := tx.number(q.Box)
	if err != nil {
		return err
	}
	if l.Token > 0 {
		var token int64
		if _, err := tx.one(`SELECT token FROM tally WHERE box=?`, []any{box}, &token); err != nil {
			return err
		}
		if token != l.Token || l.Box != q.Box {
			return ErrFenced
		}
	}
	var queue, settled int64
	ok, err := tx.one(`SELECT n, settled FROM queue WHERE box=? AND inward=? AND other=?`, []any{box, q.In, q.Other}, &queue, &settled)
	if err != nil || !ok {
		return err
	}
	var n, bytes, last int64
	if _, err := tx.one(`SELECT count(*), coalesce(sum(size), 0), coalesce(max(seq), 0) FROM request WHERE queue=? AND seq>? AND seq<=?`,
		[]any{queue, settled, through}, &n, &bytes, &last); err != nil || n == 0 {
		return err
	}
	if err := tx.exec(`UPDATE request SET settled=?, uri='', auth='', body=NULL WHERE queue=? AND seq>? AND seq<=?`, max(micros(now), 1), queue, settled, last); err != nil {
		return err
	}
	if err := tx.exec(`UPDATE queue SET settled=?, count=count-?, bytes=bytes-?, last=max(last, ?) WHERE n=?`, last, n, bytes, micros(now), queue); err != nil {
		return err
	}
	if err := tx.exec(`UPDATE tally SET count=count-?, bytes=bytes-? WHERE box=?`, n, bytes, box); err != nil {
		return err
	}
	// What is forgotten goes from the queue's head, more in each turn than was added.
	return tx.exec(`DELETE FROM request WHERE queue=? AND seq IN (SELECT seq FROM request WHERE queue=? AND seq<=? ORDER BY seq LIMIT ?) AND settled<?`,
		queue, queue, last, 2*n+8, micros(now.Add(-known)))
}

// Waiting is part of Spool.
func (f *file) Waiting(ctx context.Context, box string) (ws []Waiting, err error) {
	err = f.each(ctx, `SELECT server, other, inward, count, bytes, (SELECT received FROM request WHERE request.queue=queue.n AND seq>queue.settled ORDER BY seq LIMIT 1)
		FROM queue JOIN box ON box.n=queue.box WHERE count>0 AND (?='' OR server=?) ORDER BY server, inward, other`, []any{box, box}, func(rows *sql.Rows) (bool, error) {
		var w Waiting
		var oldest int64
		err := rows.Scan(&w.Box, &w.Other, &w.In, &w.Count, &w.Bytes, &oldest)
		w.Oldest = fromMicros(oldest)
		ws = append(ws, w)
		return false, err
	})
	return ws, err
}

// sweep forgets, once an hour, queues in which nothing has happened for so long that all their keys may be forgotten, and nodes that are gone.
func (f *file) sweep(now time.Time) {
	if !f.hourly.due(now) {
		return
	}
	err := f.w.do(context.Background(), true, func(tx *act) error {
		old := micros(now.Add(-known))
		if err := tx.exec(`DELETE FROM request WHERE queue IN (SELECT n FROM queue WHERE count=0 AND last<?)`, old); err != nil {
			return err
		}
		if err := tx.exec(`DELETE FROM queue WHERE count=0 AND last<?`, old); err != nil {
			return err
		}
		return tx.exec(`DELETE FROM node WHERE until<? AND name NOT IN (SELECT node FROM tally WHERE node IS NOT NULL)`, micros(now.Add(-nodeKnown)))
	})
	if err != nil {
		f.log.Warn("forget what was settled long ago", "err", err)
	}
}
