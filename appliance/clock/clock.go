// SPDX-License-Identifier: EUPL-1.2

// Package clock says what time it is on a box that may wake up in 1970, and how far that may be believed.
//
// It promises one thing above all: the time that it gives may lag, it never leads. Other servers refuse for ever what is dated after the key
// that signed it, and put up with everything that is dated too early. So the system's clock is not asked unless somebody vouches for it. Until
// then time is the highest time that was ever vouched for (the floor, at least the release of the program) and the time that has run since.
// What other servers date their events has no part in it.
//
// The floor outlives a restart: Mark says what to store and Config.Mark brings it back. It is stored now and then, and lags behind; a
// power cut makes the box lag a little more. When the machine was not off meanwhile, its uptime makes up for that, and the trust stays.
//
// Who vouches is a source with a Quality, and calls Set: a satellite receiver (GPS), the kernel that is synchronised (System), time servers (NTP), an
// operator, a paired box, the hardware's clock (RTC) once this box has set it, devices of users (Vouchers). Each is strict for itself: what could
// lead is refused, what cannot be decided is not said. It opens no port and asks nobody unless it is handed the way, and leaves to others what may
// not happen while nobody vouches: nothing expires then.
package clock

import (
	"sync"
	"time"
)

// Quality says how good the time is, as boxes tell it each other.
type Quality uint8

// Qualities, each better than the one before. Only those above Told are passed on to other boxes: what they tell each other would go in circles.
const (
	Untrusted Quality = iota // the floor and the time since
	Vouched                  // by devices of users
	Kept                     // by the hardware's clock, which was set by this box
	Told                     // by another box, which did not hear it from a box
	Named                    // by a time server that the network names
	Entered                  // by an operator
	Exact                    // by time servers that were configured, or by the synchronised kernel
	Satellite                // by GPS
)

func (q Quality) String() string {
	return [...]string{"untrusted", "by users' devices", "kept by the hardware", "told by another box", "by the network's time server", "set by the operator", "exact", "exact, by satellite"}[min(q, Satellite)]
}

// Reading is what a source says.
type Reading struct {
	Time    time.Time
	Quality Quality
	Source  string // for people
}

// Mark is what outlives a restart. The zero Mark is that of a new box.
type Mark struct {
	Time    int64   // ms; never above what was vouched for
	Quality Quality // of it
	Boot    int64   // which start of the machine
	Uptime  int64   // of the machine, ms
}

// Config is what a Clock starts with.
type Config struct {
	Released time.Time // of the program: no clock is behind this
	Mark     Mark      // as stored last
	// Boot and Uptime tell of the machine: which start, and for how long it has been running, sleep included. nil: as Linux says.
	Boot   func() int64
	Uptime func() time.Duration
}

const (
	stale   = 24 * time.Hour   // after that a worse source may speak again
	hold    = 10 * time.Second // a smaller step back is waited out
	leap    = time.Hour        // the most that the network's time servers, and other boxes, put forward what somebody as good or better said
	week    = 7 * 24 * time.Hour
	shelf   = 400 * 24 * time.Hour // how long a box lies in a cupboard; one that others say lay longer wants to hear it from two of them
	latest  = 10                   // years after the release: nobody but an operator, or better, says so
	storeIn = time.Minute
)

// Clock is the box's time. Safe for concurrent use.
type Clock struct {
	c    Config
	boot int64

	mu      sync.Mutex
	base    int64 // ms, at
	at      time.Duration
	last    int64 // highest that was given
	quality Quality
	source  string
	set     time.Duration // uptime of the last Reading
	stored  time.Duration
	tellers Vouchers // boxes, and the hub, that told of a time far ahead
}

// New starts a clock from what is known without asking anybody.
func New(c Config) *Clock {
	if c.Boot == nil {
		c.Boot = bootID
	}
	if c.Uptime == nil {
		c.Uptime = uptime
	}
	k := &Clock{c: c, boot: c.Boot(), source: "the last time that was known"}
	k.at = c.Uptime()
	k.base = max(c.Mark.Time, c.Released.UnixMilli())
	if run := k.at.Milliseconds() - c.Mark.Uptime; c.Mark.Time == k.base && c.Mark.Boot == k.boot && k.boot != 0 && run >= 0 {
		k.base += run
		if k.quality = c.Mark.Quality; k.quality > Untrusted {
			k.source = "as before the restart"
		}
	}
	k.set, k.stored = k.at, k.at
	return k
}

func (k *Clock) reading() int64 {
	t := k.base + max(0, k.c.Uptime()-k.at).Milliseconds()
	if t < k.last && k.last-t < hold.Milliseconds() {
		return k.last
	}
	k.last = t
	return t
}

// Now is the time, as good as it is known. It may lag, it does not lead.
func (k *Clock) Now() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.UnixMilli(k.reading())
}

// Uptime is the time by which the clock counts: of the machine, sleep included.
func (k *Clock) Uptime() time.Duration { return k.c.Uptime() }

// Trusted says whether somebody has vouched for the time since the machine was started. While nobody has, nothing may expire.
func (k *Clock) Trusted() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.quality > Untrusted
}

// Set takes a reading, and says whether it was taken: a worse source than the one before is not heard for a day. A better one may turn time
// back as well; what was dated too late then cannot be helped, but what follows is right. The weak ones, up to Kept, cannot: they are wrong when they
// say less than what was vouched for before.
func (k *Clock) Set(r Reading) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	up := k.c.Uptime()
	if r.Quality == Untrusted || r.Quality < k.quality && up-k.set < stale || r.Time.Before(k.c.Released) {
		return false
	}
	if r.Quality < Entered && !k.c.Released.IsZero() && r.Time.After(k.c.Released.AddDate(latest, 0, 0)) {
		return false
	}
	now := k.base + max(0, up-k.at).Milliseconds()
	// Whoever runs the network names its time servers, and another box or the hub may itself be wrong. Once the time is known, they set it right but do not lead it away, not in small steps
	// either; boxes do when two of them agree.
	if most, bounded := k.most(r.Quality, up); bounded && r.Time.UnixMilli() > now+most.Milliseconds() {
		agreed, ok := Reading{}, false
		if r.Quality == Told {
			agreed, ok = k.tellers.Say(r.Source, false, r.Time, up)
		}
		if !ok {
			return false
		}
		r.Time = agreed.Time
	}
	if r.Quality <= Kept && r.Time.UnixMilli() < k.base+max(0, up-k.at).Milliseconds()-hold.Milliseconds() {
		return false
	}
	k.base, k.at, k.set = r.Time.UnixMilli(), up, up
	k.quality, k.source = r.Quality, r.Source
	return true
}

// most is how far ahead one source of a quality may put the clock.
func (k *Clock) most(q Quality, up time.Duration) (most time.Duration, bounded bool) {
	switch {
	case q == Told && k.quality == Untrusted:
		return shelf, true
	case q == Told && k.quality < Told:
		return week, true // what is dated a week too late others refuse for good
	case q != Told && q != Named || k.quality == Untrusted:
		return 0, false
	case q == k.quality:
		return time.Minute + (up-k.set)/1000, true
	}
	return leap, true
}

// State is a clock at one moment, for people and for other boxes.
type State struct {
	Time    time.Time
	Quality Quality
	Source  string
	Age     time.Duration // since the source was heard
}

// State tells how the clock stands.
func (k *Clock) State() State {
	k.mu.Lock()
	defer k.mu.Unlock()
	return State{Time: time.UnixMilli(k.reading()), Quality: k.quality, Source: k.source, Age: k.c.Uptime() - k.set}
}

// Mark gives what is to be stored.
func (k *Clock) Mark() Mark {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mark()
}

func (k *Clock) mark() Mark {
	k.stored = k.c.Uptime()
	return Mark{Time: k.base + max(0, k.stored-k.at).Milliseconds(), Quality: k.quality, Boot: k.boot, Uptime: k.stored.Milliseconds()}
}

// Due gives a mark when the last one is older than a minute: whoever writes something anyway takes it along.
func (k *Clock) Due() (Mark, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.c.Uptime()-k.stored < storeIn {
		return Mark{}, false
	}
	return k.mark(), true
}
