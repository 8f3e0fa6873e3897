// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"slices"
	"sync"
	"time"
)

// Vouchers take the word of users' devices, for a box that has nobody better: an administrator's alone, or those of two users that agree within a
// minute. The earliest that agrees is taken. Safe for concurrent use; the zero value works.
type Vouchers struct {
	mu    sync.Mutex
	votes []vote
}

type vote struct {
	user string
	base time.Time // the claim, counted back to uptime 0
	at   time.Duration
}

const (
	voteLife  = 10 * time.Minute
	voteAgree = time.Minute
)

// Say takes a claim that came at an uptime. ok is false while there is nobody yet who agrees.
func (v *Vouchers) Say(user string, admin bool, claim time.Time, up time.Duration) (r Reading, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.votes = slices.DeleteFunc(v.votes, func(o vote) bool { return o.user == user || up-o.at > voteLife })
	mine := vote{user, claim.Add(-up), up}
	earliest := mine.base
	source := "the administrator's device"
	ok = admin
	if !admin {
		for _, o := range v.votes {
			if o.base.Sub(mine.base).Abs() <= voteAgree {
				ok, source = true, "devices of two users"
				if o.base.Before(earliest) {
					earliest = o.base
				}
			}
		}
	}
	if v.votes = append(v.votes, mine); len(v.votes) > 100 {
		v.votes = v.votes[1:]
	}
	if !ok {
		return r, false
	}
	return Reading{Time: earliest.Add(up), Quality: Vouched, Source: source}, true
}
