// SPDX-License-Identifier: EUPL-1.2

package airtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Moment is a time that outlives the process: which boot, and how long since.
type Moment struct {
	Boot  string
	Since time.Duration
}

// state is the book as it is kept.
type state struct {
	Version int     `json:"version"`
	Band    string  `json:"band"`
	Boot    string  `json:"boot"`
	SinceMS int64   `json:"since_boot_ms"`
	LeaseMS int64   `json:"lease_ms"`
	Used    []entry `json:"used,omitempty"`
}

// entry is a transmission: how long before the state was written it ended, and how long it was.
type entry struct {
	AgoMS int64 `json:"ago_ms"`
	AirUS int64 `json:"air_us"`
}

const savedSpans = 64

// Lease makes leases at least so long that half of one is enough for the longest transmission. They are a sixteenth of the hour's air time
// otherwise: some twenty leases an hour under full load.
func (b *Budget) Lease(least time.Duration) {
	if b.Limited() {
		b.size = min(max(b.size, least), b.band.Limit())
	}
}

// NeedsLease says whether a new lease is due: State is to be kept, and then Leased called.
func (b *Budget) NeedsLease() bool { return b.Limited() && b.leases && b.lease < b.size/2 }

// State is the book with a new lease in it (over: without, at the end of the process). It counts once it is kept and Leased was called.
func (b *Budget) State(now time.Time, m Moment, over bool) []byte {
	s := state{Version: 1, Band: b.band.Name, Boot: m.Boot, SinceMS: m.Since.Milliseconds(), LeaseMS: b.size.Milliseconds()}
	if over {
		s.LeaseMS = 0
	}
	for _, x := range joined(b.spans, savedSpans) {
		if ago := now.Sub(x.end()); ago < Window+Slip {
			// Rounded so that it ends later, and is longer.
			s.Used = append(s.Used, entry{AgoMS: floorMS(ago), AirUS: int64((x.air + time.Microsecond - 1) / time.Microsecond)})
		}
	}
	raw, err := json.Marshal(s)
	if err != nil {
		panic("numbers and strings have no JSON: " + err.Error())
	}
	return raw
}

func floorMS(d time.Duration) int64 {
	ms := d.Milliseconds()
	if time.Duration(ms)*time.Millisecond > d {
		ms--
	}
	return ms
}

// Leased says that the state was kept. Without a place to keep it, it is called once with kept false: then there are no leases, and a
// restart knows nothing.
func (b *Budget) Leased(kept bool) {
	if b.leases = kept; kept {
		b.lease = b.size.Truncate(time.Millisecond)
	}
}

// Restore begins with what was kept; nil: nothing was ever kept, so nothing was ever sent (a book that is gone is no nil). On an error the hour counts as used up just
// now, which is the caller's to say to people. From here on air time is leased.
func (b *Budget) Restore(now time.Time, m Moment, raw []byte) error {
	if !b.Limited() {
		return nil
	}
	b.leases, b.lease, b.spans = true, 0, nil
	if raw == nil {
		return nil
	}
	err := b.restore(now, m, raw)
	if err != nil {
		b.spans = []span{{now.Add(-b.band.Limit()), b.band.Limit()}}
	}
	return err
}

func (b *Budget) restore(now time.Time, m Moment, raw []byte) error {
	var s state
	if err := json.Unmarshal(raw, &s); err != nil {
		return fmt.Errorf("read book of air time: %w", err)
	}
	if s.Version != 1 || len(s.Used) > mostSpans || s.LeaseMS < 0 || s.LeaseMS > Window.Milliseconds() {
		return errors.New("read book of air time: written by another version, or damaged")
	}
	passed := m.Since // at least so long ago is the last word of an earlier boot
	if s.Boot == m.Boot && m.Boot != "" {
		passed = max(0, m.Since-time.Duration(s.SinceMS)*time.Millisecond)
	}
	spans := make([]span, 0, len(s.Used)+1)
	for _, e := range s.Used {
		air := time.Duration(e.AirUS) * time.Microsecond
		if e.AirUS <= 0 || air > Window || e.AgoMS > 2*Window.Milliseconds() || e.AgoMS < -Window.Milliseconds() {
			return errors.New("read book of air time: entries make no sense")
		}
		x := span{now.Add(-passed - time.Duration(e.AgoMS)*time.Millisecond - air), air}
		if n := len(spans); n > 0 && x.from.Before(spans[n-1].end()) {
			x.from = spans[n-1].end()
		}
		spans = append(spans, x)
	}
	if lease := time.Duration(s.LeaseMS) * time.Millisecond; lease > 0 {
		// It may have been used up to now.
		from := now.Add(-lease)
		if n := len(spans); n > 0 && spans[n-1].end().After(from) {
			from = spans[n-1].end()
		}
		spans = append(spans, span{from, lease})
	}
	b.spans = spans
	return nil
}
