// SPDX-License-Identifier: EUPL-1.2

package store

// LeftLetter is a transaction that was left with a hub for a server.
type LeftLetter struct {
	Series string // with Place what it is called
	Place  int64  // 0: it is not out any more (TakeLettersBack)
	Epoch  string // the hub's memory that it was left with
	Key    string // id of the key that signed it
	Txn    string
	EDUTo  int64  // it brings the EDUs up to this one; 0: events
	Events []byte // JSON, its keeper's own
	Body   []byte // of EDUs; nil: events

	Raw    []byte // all of it, as long as it travels on sticks; LeftLetters leaves it out
	Bagged bool   // there is a Raw
}

// AddLetter keeps what was left, in place of one with the same transaction.
func (tx *Tx) AddLetter(dest string, l LeftLetter) error {
	if err := tx.DropLetterTxn(dest, l.Txn); err != nil {
		return err
	}
	if l.Raw != nil {
		if err := tx.exec(`INSERT INTO fed_bag (dest, txn, raw) VALUES (?,?,?)`, dest, l.Txn, l.Raw); err != nil {
			return err
		}
	}
	return tx.exec(`INSERT INTO fed_letter (dest, series, place, epoch, key, txn, edu_to, events, body) VALUES (?,?,?,?,?,?,?,?,?)`,
		dest, l.Series, l.Place, l.Epoch, l.Key, l.Txn, l.EDUTo, l.Events, l.Body)
}

// DropLetterTxn forgets a letter by its transaction: that has arrived, or is given up in this form.
func (tx *Tx) DropLetterTxn(dest, txn string) error {
	if err := tx.UnbagLetter(dest, txn); err != nil {
		return err
	}
	return tx.exec(`DELETE FROM fed_letter WHERE dest=? AND txn=?`, dest, txn)
}

// TakeLettersBack forgets the letters with events for a server, which are made anew, and sets the place of those with EDUs to 0: they go as they are, but are not out any more.
func (tx *Tx) TakeLettersBack(dest string) error {
	if err := tx.exec(`DELETE FROM fed_bag WHERE dest=?`, dest); err != nil {
		return err
	}
	if err := tx.exec(`DELETE FROM fed_letter WHERE dest=? AND body IS NULL`, dest); err != nil {
		return err
	}
	return tx.exec(`UPDATE fed_letter SET place=0 WHERE dest=?`, dest)
}

// LeftLetters lists what was left for a server, oldest first.
func (r *Read) LeftLetters(dest string) ([]LeftLetter, error) {
	var out []LeftLetter
	err := r.each(`SELECT series, place, epoch, key, txn, edu_to, events, body,
		EXISTS (SELECT 1 FROM fed_bag WHERE fed_bag.dest=fed_letter.dest AND fed_bag.txn=fed_letter.txn) FROM fed_letter WHERE dest=? ORDER BY n`, args(dest), func(row *Row) error {
		var l LeftLetter
		err := row.Scan(&l.Series, &l.Place, &l.Epoch, &l.Key, &l.Txn, &l.EDUTo, &l.Events, &l.Body, &l.Bagged)
		out = append(out, l)
		return err
	})
	return out, err
}

// BaggedLetter gives the Raw of a letter by its transaction; nil: it has none.
func (r *Read) BaggedLetter(dest, txn string) (raw []byte, err error) {
	_, err = r.one(`SELECT raw FROM fed_bag WHERE dest=? AND txn=?`, args(dest, txn), &raw)
	return raw, err
}

// UnbagLetter forgets the Raw of a letter: the hub has it.
func (tx *Tx) UnbagLetter(dest, txn string) error {
	return tx.exec(`DELETE FROM fed_bag WHERE dest=? AND txn=?`, dest, txn)
}

// BaggedAfter gives the oldest letter with a Raw after a number, with the number; 0: there is none. Numbers rise in the order in which letters were made.
func (r *Read) BaggedAfter(after int64) (n int64, raw []byte, err error) {
	_, err = r.one(`SELECT n, raw FROM fed_letter JOIN fed_bag USING (dest, txn) WHERE n>? ORDER BY n LIMIT 1`, args(after), &n, &raw)
	return n, raw, err
}

// OutLetters is a run of letters of one series that are not known to have arrived, or, with Upto 0, a series of which nothing is to be brought any more.
type OutLetters struct {
	Dest, Series, Epoch string
	From, Upto          int64 // places
}

// OutLetters lists them for all servers, and the series that were taken back.
func (r *Read) OutLetters() (out []OutLetters, err error) {
	err = r.each(`SELECT dest, series, epoch, min(place), max(place) FROM fed_letter WHERE place>0 OR edu_to=0 GROUP BY dest, series, epoch, place=0 ORDER BY min(n)`, nil, func(row *Row) error {
		var o OutLetters
		err := row.Scan(&o.Dest, &o.Series, &o.Epoch, &o.From, &o.Upto)
		out = append(out, o)
		return err
	})
	return out, err
}

// HubStick gives what is remembered of sticks to and from the hub: JSON, its keeper's own; nil: nothing.
func (r *Read) HubStick() (state []byte, err error) {
	_, err = r.one(`SELECT state FROM hub_stick WHERE one=1`, nil, &state)
	return state, err
}

// SetHubStick keeps it.
func (tx *Tx) SetHubStick(state []byte) error {
	return tx.exec(`INSERT OR REPLACE INTO hub_stick (one, state) VALUES (1, ?)`, state)
}
