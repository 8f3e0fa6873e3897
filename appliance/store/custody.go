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
	Mark         int64 // of the whole text: sync/relay's
}

// CarriedFor says how much is carried for one box and from whom it came.
type CarriedFor struct {
	Dest, Source, Giver []byte
	Count               int
	Bytes               int64
	Oldest              int64 // At of the oldest
}

// Met is what is remembered of a parcel that was met: the best head that it came with. Until and At as in Carried.
type Met struct {
	Giver int64 // its mark
	Until int64
	Hops  int
	At    int64
}

// Carry stores a parcel; false when it is here already.
func (tx *Tx) Carry(c Carried) (n int64, fresh bool, err error) {
	fresh, err = tx.one(`INSERT INTO custody (dest, source, epoch, seq, giver, priority, hops, until, at, body, mark) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO NOTHING RETURNING n`, args(c.Dest, c.Source, c.Epoch, c.Seq, c.Giver, c.Priority, c.Hops, c.Until, c.At, c.Body, c.Mark), &n)
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

// Carries gives the number of the parcel with a mark; 0 when it is not here.
func (r *Read) Carries(mark int64) (n int64, err error) {
	_, err = r.one(`SELECT n FROM custody WHERE mark = ?`, args(mark), &n)
	return n, err
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

// DropCarriedBefore forgets the parcels of a box's other lives to one box. It looks at none of this life's.
func (tx *Tx) DropCarriedBefore(dest, source []byte, epoch uint64) error {
	return tx.dropCarried(`n IN (SELECT n FROM custody WHERE dest = ?1 AND source = ?2 AND epoch < ?3
		UNION ALL SELECT n FROM custody WHERE dest = ?1 AND source = ?2 AND epoch > ?3)`, dest, source, epoch)
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

// MetMark gives what is remembered of the parcel with a mark.
func (r *Read) MetMark(mark int64) (m Met, ok bool, err error) {
	ok, err = r.one(`SELECT giver, until, hops, at FROM custody_mark WHERE mark = ?`, args(mark), &m.Giver, &m.Until, &m.Hops, &m.At)
	return m, ok, err
}

// Marks counts the parcels that are remembered.
func (r *Read) Marks() (n int, err error) {
	_, err = r.one(`SELECT count(*) FROM custody_mark`, nil, &n)
	return n, err
}

// SetMark notes that a parcel was met.
func (tx *Tx) SetMark(mark int64, m Met) error {
	return tx.exec(`INSERT OR REPLACE INTO custody_mark (mark, giver, until, hops, at) VALUES (?, ?, ?, ?, ?)`, mark, m.Giver, m.Until, m.Hops, m.At)
}

// BoundMarks forgets all but the newest parcels that one giver has brought.
func (tx *Tx) BoundMarks(giver int64, keep int) error {
	return tx.exec(`DELETE FROM custody_mark WHERE mark IN (SELECT mark FROM custody_mark WHERE giver = ? ORDER BY at DESC, mark DESC LIMIT -1 OFFSET ?)`, giver, keep)
}

// DropMarks forgets parcels that were met before a time, but for those that are still here.
func (tx *Tx) DropMarks(before int64) error {
	return tx.exec(`DELETE FROM custody_mark WHERE at < ? AND NOT EXISTS (SELECT 1 FROM custody c WHERE c.mark = custody_mark.mark)`, before)
}

// ReadOf gives which numbers of one life of a box were read, as SetRead got them; nil when none were.
func (r *Read) ReadOf(source []byte, epoch uint64) (spans []byte, err error) {
	_, err = r.one(`SELECT spans FROM custody_read WHERE source = ? AND epoch = ?`, args(source, epoch), &spans)
	return spans, err
}

// SetRead notes which numbers were read. Of one box, the keep newest lives stay.
func (tx *Tx) SetRead(source []byte, epoch uint64, at int64, spans []byte, keep int) error {
	if err := tx.exec(`INSERT OR REPLACE INTO custody_read (source, epoch, at, spans) VALUES (?, ?, ?, ?)`, source, epoch, at, spans); err != nil {
		return fmt.Errorf("note what was read: %w", err)
	}
	return tx.exec(`DELETE FROM custody_read WHERE source = ?1 AND epoch IN (SELECT epoch FROM custody_read WHERE source = ?1 ORDER BY at DESC LIMIT -1 OFFSET ?2)`, source, keep)
}

// DropRead forgets lives of which nothing was read since a time.
func (tx *Tx) DropRead(before int64) error {
	return tx.exec(`DELETE FROM custody_read WHERE at < ?`, before)
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
