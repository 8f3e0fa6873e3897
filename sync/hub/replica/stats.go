// SPDX-License-Identifier: EUPL-1.2

package replica

// Stats is how a replica does.
type Stats struct {
	Rooms  int // that are here
	Behind int // that boxes list and that are not here, or not as far as the boxes have said

	// Since the start.
	Answered int64 // questions answered
	Unknown  int64 // questions to which the answer was not here, or not for the one who asked
	Copied   int64 // rooms
	Failed   int64 // copies of rooms that did not succeed; they are tried again
	Refused  int64 // rooms that boxes list beyond what is kept of one box, or of versions that are not spoken
}

// Stats says how it does.
func (r *Replica) Stats() Stats {
	s := Stats{Answered: r.count.answered.Load(), Unknown: r.count.unknown.Load(), Copied: r.count.copied.Load(), Failed: r.count.failed.Load(), Refused: r.count.refused.Load()}
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
