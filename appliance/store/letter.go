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
}

// AddLetter keeps what was left, in place of one with the same transaction.
func (tx *Tx) AddLetter(dest string, l LeftLetter) error {
	if err := tx.DropLetterTxn(dest, l.Txn); err != nil {
		return err
	}
	return tx.exec(`INSERT INTO fed_letter (dest, series, place, epoch, key, txn, edu_to, events, body) VALUES (?,?,?,?,?,?,?,?,?)`,
		dest, l.Series, l.Place, l.Epoch, l.Key, l.Txn, l.EDUTo, l.Events, l.Body)
}

// DropLetterTxn forgets a letter by its transaction: that has arrived, or is given up in this form.
func (tx *Tx) DropLetterTxn(dest, txn string) error {
	return tx.exec(`DELETE FROM fed_letter WHERE dest=? AND txn=?`, dest, txn)
}

// TakeLettersBack forgets the letters with events for a server, which are made anew, and sets the place of those with EDUs to 0: they go as they are, but are not out any more.
func (tx *Tx) TakeLettersBack(dest string) error {
	if err := tx.exec(`DELETE FROM fed_letter WHERE dest=? AND body IS NULL`, dest); err != nil {
		return err
	}
	return tx.exec(`UPDATE fed_letter SET place=0 WHERE dest=?`, dest)
}

// LeftLetters lists what was left for a server, oldest first.
func (r *Read) LeftLetters(dest string) ([]LeftLetter, error) {
	var out []LeftLetter
	err := r.each(`SELECT series, place, epoch, key, txn, edu_to, events, body FROM fed_letter WHERE dest=? ORDER BY n`, args(dest), func(row *Row) error {
		var l LeftLetter
		err := row.Scan(&l.Series, &l.Place, &l.Epoch, &l.Key, &l.Txn, &l.EDUTo, &l.Events, &l.Body)
		out = append(out, l)
		return err
	})
	return out, err
}
