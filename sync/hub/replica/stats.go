// SPDX-License-Identifier: EUPL-1.2

package replica

// Stats is how a replica does.
type Stats struct {
	Rooms  int // that are here
	Behind int // that boxes list and that are not here, or not as far as the boxes have said
	Events int64
	Bytes  int64 // of the database
	Full   bool  // no more is copied, for want of disk

	// Since the start.
	Answered int64 // questions answered
	Unknown  int64 // questions to which the answer was not here, or not for the one who asked
	Copied   int64 // rooms
	Failed   int64 // copies of rooms that did not succeed; they are tried again
	Passed   int64 // transactions that passed through and were looked at
	Dropped  int64 // of these, not looked at: there were too many
	Purged   int64 // rooms that were deleted, or begun anew
	Refused  int64 // rooms that boxes list beyond what is kept of one box, or of versions that are not spoken
}

// Stats says how it does.
func (r *Replica) Stats() Stats {
	s := Stats{Answered: r.count.answered.Load(), Unknown: r.count.unknown.Load(), Copied: r.count.copied.Load(), Failed: r.count.failed.Load(), Refused: r.count.refused.Load(),
		Passed: r.count.passed.Load(), Dropped: r.count.dropped.Load(), Purged: r.count.purged.Load(), Bytes: r.size.Load(), Full: r.full.Load()}
	all, _ := r.scales.all()
	s.Events = all.Events
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, d := range r.copies {
		if d.here {
			s.Rooms++
		}
		if !d.here && len(d.boxes) > 0 || r.pending[id] != nil || d.here && r.intake.Busy(id) {
			s.Behind++
		}
	}
	return s
}
