// SPDX-License-Identifier: EUPL-1.2

package store

// ClockMark is what a box remembers of the time, in milliseconds; zeros: nothing yet.
type ClockMark struct{ Time, Quality, Boot, Uptime int64 }

// ClockMark gives what was stored last.
func (r *Read) ClockMark() (m ClockMark, err error) {
	err = r.each(`SELECT name, value FROM meta WHERE name IN ('clock_time', 'clock_quality', 'clock_boot', 'clock_uptime')`, nil, func(row *Row) error {
		var name string
		var value int64
		if err := row.Scan(&name, &value); err != nil {
			return err
		}
		switch name {
		case "clock_time":
			m.Time = value
		case "clock_quality":
			m.Quality = value
		case "clock_boot":
			m.Boot = value
		case "clock_uptime":
			m.Uptime = value
		}
		return nil
	})
	return m, err
}

// SetClockMark stores what is to be remembered of the time.
func (tx *Tx) SetClockMark(m ClockMark) error {
	return tx.exec(`INSERT OR REPLACE INTO meta (name, value) VALUES ('clock_time', ?), ('clock_quality', ?), ('clock_boot', ?), ('clock_uptime', ?)`,
		m.Time, m.Quality, m.Boot, m.Uptime)
}

// LastDated gives the greatest time that events of a server's users are dated, 0 when there is none. It reads all events.
func (r *Read) LastDated(server string) (ms int64, err error) {
	n, err := r.db.names.find(kindServer, server, nil)
	if n == nil || err != nil {
		return 0, err
	}
	_, err = r.one(`SELECT coalesce(max(ts), 0) FROM event WHERE sender IN (SELECT nid FROM usr WHERE server=?)`, args(n.nid), &ms)
	return ms, err
}
