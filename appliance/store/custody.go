// SPDX-License-Identifier: EUPL-1.2

package store

import "fmt"

// Carried is a sealed parcel that this box carries for others. Boxes are named by their 32-byte keys. Until and At count seconds that
// the program has run; Until 0: it does not expire.
type Carried struct {
	N            int64
	Dest, Source []byte
	Epoch, Seq   uint64
	Giver        []byte
	Priority     int
	Hops         int
	Until, At    int64
	Body         []byte
}

// CarriedFor says how much is carried for one box and from whom it came.
type CarriedFor struct {
	Dest, Source, Giver []byte
	Count               int
	Bytes               int64
	Oldest              int64 // At of the oldest
}

// Met is which numbers of one origin towards one box were met; Spans as sync/relay writes them.
type Met struct {
	Dest, Source []byte
	Epoch        uint64
	Giver        []byte
	At           int64
	Spans        []byte
}

// Carry stores a parcel; false when it is here already.
func (tx *Tx) Carry(c Carried) (n int64, fresh bool, err error) {
	fresh, err = tx.one(`INSERT INTO custody (dest, source, epoch, seq, giver, priority, hops, until, at, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING RETURNING n`, args(c.Dest, c.Source, c.Epoch, c.Seq, c.Giver, c.Priority, c.Hops, c.Until, c.At, c.Body), &n)
	if err != nil {
		return 0, false, fmt.Errorf("carry parcel: %w", err)
	}
	return n, fresh, nil
}

const selectCarried = `SELECT n, dest, source, epoch, seq, giver, priority, hops, until, at, body FROM custody `

func (r *Read) carried(where string, a ...any) (out []Carried, err error) {
	err = r.each(selectCarried+where, a, func(row *Row) error {
		var c Carried
		var epoch, seq int64
		if err := row.Scan(&c.N, &c.Dest, &c.Source, &epoch, &seq, &c.Giver, &c.Priority, &c.Hops, &c.Until, &c.At, &c.Body); err != nil {
			return err
		}
		c.Epoch, c.Seq = uint64(epoch), uint64(seq)
		out = append(out, c)
		return nil
	})
	return out, err
}

// CarriedTo lists what is carried for a box and a neighbour has not had, the most urgent first.
func (r *Read) CarriedTo(dest, neighbour []byte, limit int) ([]Carried, error) {
	return r.carried(`c WHERE dest = ?1 AND giver <> ?2 AND NOT EXISTS (SELECT 1 FROM custody_given g WHERE g.n = c.n AND g.box = ?2)
		ORDER BY priority, n LIMIT ?3`, dest, neighbour, limit)
}

// FlashFor lists flash parcels for any box that a neighbour has not had.
func (r *Read) FlashFor(neighbour []byte, limit int) ([]Carried, error) {
	return r.carried(`c WHERE priority = 0 AND giver <> ?1 AND NOT EXISTS (SELECT 1 FROM custody_given g WHERE g.n = c.n AND g.box = ?1)
		ORDER BY n LIMIT ?2`, neighbour, limit)
}

// CarriedAfter lists what is carried for a box (nil: for any) with numbers above n, in order: for a stick.
func (r *Read) CarriedAfter(dest []byte, n int64, limit int) ([]Carried, error) {
	if dest == nil {
		return r.carried(`WHERE n > ? ORDER BY n LIMIT ?`, n, limit)
	}
	return r.carried(`WHERE dest = ? AND n > ? ORDER BY n LIMIT ?`, dest, n, limit)
}

// CarriedSums says for whom how much is carried.
func (r *Read) CarriedSums() (out []CarriedFor, err error) {
	err = r.each(`SELECT dest, source, giver, count(*), sum(length(body)), min(at) FROM custody GROUP BY dest, source, giver`, nil, func(row *Row) error {
		var c CarriedFor
		if err := row.Scan(&c.Dest, &c.Source, &c.Giver, &c.Count, &c.Bytes, &c.Oldest); err != nil {
			return err
		}
		out = append(out, c)
		return nil
	})
	return out, err
}

// Carries says whether one parcel is here.
func (r *Read) Carries(dest, source []byte, epoch, seq uint64) (bool, error) {
	var one int
	return r.one(`SELECT 1 FROM custody WHERE dest = ? AND source = ? AND epoch = ? AND seq = ?`, args(dest, source, epoch, seq), &one)
}

// GaveCarried notes that a neighbour has had a parcel.
func (tx *Tx) GaveCarried(n int64, neighbour []byte) error {
	return tx.exec(`INSERT OR IGNORE INTO custody_given (n, box) SELECT n, ?2 FROM custody WHERE n = ?1`, n, neighbour)
}

// DropCarried forgets a parcel: somebody else answers for it.
func (tx *Tx) DropCarried(n int64) error {
	if err := tx.exec(`DELETE FROM custody_given WHERE n = ?`, n); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM custody WHERE n = ?`, n)
}

// DropCarriedUpTo forgets the parcels of one origin to one box up to a number.
func (tx *Tx) DropCarriedUpTo(dest, source []byte, epoch, seq uint64) error {
	return tx.dropCarried(`dest = ? AND source = ? AND epoch = ? AND seq <= ?`, dest, source, epoch, seq)
}

// DropCarriedBefore forgets the parcels of a box's other lives to one box.
func (tx *Tx) DropCarriedBefore(dest, source []byte, epoch uint64) error {
	return tx.dropCarried(`dest = ? AND source = ? AND epoch <> ?`, dest, source, epoch)
}

// DropCarriedOver forgets what has expired.
func (tx *Tx) DropCarriedOver(now int64) error {
	return tx.dropCarried(`until > 0 AND until <= ?`, now)
}

func (tx *Tx) dropCarried(where string, a ...any) error {
	if err := tx.exec(`DELETE FROM custody_given WHERE n IN (SELECT n FROM custody WHERE `+where+`)`, a...); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM custody WHERE `+where, a...)
}

// MetOf gives what was met of one origin towards one box; nil when nothing was.
func (r *Read) MetOf(dest, source []byte, epoch uint64) (spans []byte, err error) {
	_, err = r.one(`SELECT spans FROM custody_met WHERE dest = ? AND source = ? AND epoch = ?`, args(dest, source, epoch), &spans)
	return spans, err
}

// Mets lists the origins that were met on the way to one box, the newest first.
func (r *Read) Mets(dest []byte, limit int) (out []Met, err error) {
	err = r.each(`SELECT dest, source, epoch, giver, at, spans FROM custody_met WHERE dest = ? ORDER BY at DESC LIMIT ?`, args(dest, limit), func(row *Row) error {
		var m Met
		var epoch int64
		if err := row.Scan(&m.Dest, &m.Source, &epoch, &m.Giver, &m.At, &m.Spans); err != nil {
			return err
		}
		m.Epoch = uint64(epoch)
		out = append(out, m)
		return nil
	})
	return out, err
}

// SetMet notes what was met. Of what one neighbour brought, the keep newest origins stay.
func (tx *Tx) SetMet(m Met, keep int) error {
	if err := tx.exec(`INSERT INTO custody_met (dest, source, epoch, giver, at, spans) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (dest, source, epoch) DO UPDATE SET at = excluded.at, spans = excluded.spans`, m.Dest, m.Source, m.Epoch, m.Giver, m.At, m.Spans); err != nil {
		return fmt.Errorf("note met parcels: %w", err)
	}
	return tx.exec(`DELETE FROM custody_met WHERE giver = ?1 AND (dest, source, epoch) IN
		(SELECT dest, source, epoch FROM custody_met WHERE giver = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2)`, m.Giver, keep)
}

// DropMet forgets origins that nobody has brought anything of since a time, but for those whose parcels are still here.
func (tx *Tx) DropMet(before int64) error {
	return tx.exec(`DELETE FROM custody_met WHERE at < ? AND NOT EXISTS (SELECT 1 FROM custody c
		WHERE c.dest = custody_met.dest AND c.source = custody_met.source AND c.epoch = custody_met.epoch)`, before)
}

// RunTime is for how many seconds the program has run, up to the last SetRunTime.
func (r *Read) RunTime() (seconds int64, err error) {
	_, err = r.one(`SELECT seconds FROM custody_run`, nil, &seconds)
	return seconds, err
}

// SetRunTime notes for how long the program has run.
func (tx *Tx) SetRunTime(seconds int64) error {
	return tx.exec(`INSERT OR REPLACE INTO custody_run (one, seconds) VALUES (1, ?)`, seconds)
}
