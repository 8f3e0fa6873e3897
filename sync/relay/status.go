// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallig/appliance/store"
	"hallig/sync/peer"
)

// Counts are what has happened since the start.
type Counts struct {
	Taken  int // parcels of others that this box answers for
	Passed int // that somebody else answers for since
	Read   int // messages for this box
	Silent int // times that a far box did not answer and was written to again

	Full     int // parcels that were not taken for want of room
	Twice    int // that had been met before
	Circled  int // that came back, or had been handed on too often
	Strange  int // for this box, of a box that is not paired
	Forged   int // that their writer did not seal
	Refused  int // with an impossible head, or a word about parcels of others
	Unasked  int // words on parcels that were not offered
	Overlong int // boxes that a neighbour says to reach beyond what it may name
}

// Carrying is what this box carries for one other.
type Carrying struct {
	For    peer.ID
	Count  int
	Bytes  int64
	Oldest time.Duration // for how long this box has run since the oldest of them came
	Near   bool          // a way there is known
}

// Mail is what this box has written for another one that has not answered yet.
type Mail struct {
	For     peer.ID
	Count   int
	Bytes   int
	Oldest  time.Duration
	Carried bool // a neighbour answers for some of it
	Near    bool // a way is known
}

// Status is what pages show.
type Status struct {
	Carrying []Carrying
	Mail     []Mail
	Total    int64 // bytes carried for others, with what the disk adds
	Most     int64
	Counts   Counts
}

// Status tells what is carried for whom.
func (r *Relay) Status(ctx context.Context) (s Status, err error) {
	var sums []store.CarriedFor
	err = r.c.DB.View(ctx, func(rd *store.Read) (err error) {
		sums, err = rd.CarriedSums()
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read what is carried: %w", err)
	}
	now, run := time.Now(), r.runTime()
	at := map[peer.ID]int{}
	for _, c := range sums {
		id := peer.IDOf(c.Dest)
		i, ok := at[id]
		if !ok {
			i = len(s.Carrying)
			at[id] = i
			s.Carrying = append(s.Carrying, Carrying{For: id})
		}
		x := &s.Carrying[i]
		x.Count += c.Count
		x.Bytes += c.Bytes
		x.Oldest = max(x.Oldest, time.Duration(run-c.Oldest)*time.Second)
		s.Total += c.Bytes + int64(c.Count)*overhead
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Counts, s.Most = r.count, r.c.Limits.Total
	for i, c := range s.Carrying {
		_, s.Carrying[i].Near = r.routes.best[c.For]
	}
	for id, b := range r.boxes {
		m := Mail{For: id}
		for _, l := range b.letters {
			m.Count++
			m.Bytes += l.bytes
			m.Oldest = max(m.Oldest, now.Sub(l.posted))
			m.Carried = m.Carried || !l.given.IsZero()
		}
		_, m.Near = r.routes.best[id]
		if m.Count > 0 {
			s.Mail = append(s.Mail, m)
		}
	}
	slices.SortFunc(s.Mail, func(a, b Mail) int { return strings.Compare(string(a.For), string(b.For)) })
	return s, nil
}
