// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"time"

	"hallig/sync/parcel"
)

// flashHourly is how much of what one giver has brought goes to a neighbour as flash in an hour: some thirty texts. Priority is proved to nobody
// but the reader; what is beyond goes as routine, so that no box holds up the flashes of others by calling all that it has flash.
const flashHourly = 16 << 10

// flashShare is what went to a neighbour as flash in this hour.
type flashShare struct {
	since time.Time
	bytes map[string]int // by giver
	rows  map[int64]bool // what is offered again counts once
}

// class is the priority at which something carried goes to the neighbour now.
func (f *flashShare) class(o *offer, now time.Time) int {
	if o.p.Priority != parcel.Flash {
		return o.p.Priority
	}
	if f.bytes == nil || now.Sub(f.since) >= time.Hour {
		*f = flashShare{now, map[string]int{}, map[int64]bool{}}
	}
	giver := string(o.of.Giver)
	switch {
	case f.rows[o.row]:
		return parcel.Flash
	case f.bytes[giver] >= flashHourly:
		return parcel.Routine
	}
	f.rows[o.row] = true
	f.bytes[giver] += len(o.p.Body)
	return parcel.Flash
}
