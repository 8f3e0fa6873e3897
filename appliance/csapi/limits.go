// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits bounds what one user or one address may ask. The zero value is the defaults; Off lifts everything.
type Limits struct {
	Off      bool
	Login    Rate // per address: logins and checks of passwords
	Register Rate // per address: registrations
	Write    Rate // per user: events, invites, uploads
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64
	Burst     int
}

type limitKind int

const (
	limitNone limitKind = iota
	limitLogin
	limitRegister
	limitWrite
	limitKinds
)

// limiter holds the buckets. Those that have filled up again are forgotten.
type limiter struct {
	off   bool
	rates [limitKinds]Rate
	now   func() time.Time

	mu      sync.Mutex
	buckets map[bucketKey]*rate.Limiter
}

type bucketKey struct {
	kind limitKind
	who  string
}

// maxBuckets is when full buckets are swept out.
const maxBuckets = 4096

func newLimiter(l Limits, now func() time.Time) *limiter {
	orDefault := func(r Rate, perSecond float64, burst int) Rate {
		if r == (Rate{}) {
			return Rate{perSecond, burst}
		}
		return r
	}
	lim := &limiter{off: l.Off, now: now, buckets: make(map[bucketKey]*rate.Limiter)}
	lim.rates[limitLogin] = orDefault(l.Login, 0.2, 10)
	lim.rates[limitRegister] = orDefault(l.Register, 0.2, 20)
	lim.rates[limitWrite] = orDefault(l.Write, 10, 100)
	return lim
}

// allow takes one token for the caller or answers M_LIMIT_EXCEEDED.
func (l *limiter) allow(kind limitKind, c *call) error {
	if l.off || kind == limitNone || c.service != nil {
		return nil
	}
	who := string(c.session.User)
	if kind != limitWrite {
		who = hostOf(c.r.RemoteAddr)
	}
	if wait := l.take(kind, who); wait > 0 {
		return &limited{after: wait}
	}
	return nil
}

func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

// AllowLogin takes from the limit on logins of an address, ADDR:PORT, for a login outside the API. When it is used up it says how long to wait.
func (h *Handler) AllowLogin(remote string) time.Duration {
	if h.limits.off {
		return 0
	}
	return h.limits.take(limitLogin, hostOf(remote))
}

// take takes one token, or says how long until there is one.
func (l *limiter) take(kind limitKind, who string) time.Duration {
	now := l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	key := bucketKey{kind, who}
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			l.sweep(now)
		}
		r := l.rates[kind]
		b = rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)
		l.buckets[key] = b
	}
	if b.AllowN(now, 1) {
		return 0
	}
	missing := 1 - b.TokensAt(now)
	return max(1, time.Duration(missing/float64(b.Limit())*float64(time.Second)))
}

// sweep forgets buckets that are full again; when an attacker keeps all of them in use, it forgets all.
func (l *limiter) sweep(now time.Time) {
	for k, b := range l.buckets {
		if b.TokensAt(now) >= float64(b.Burst()) {
			delete(l.buckets, k)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}
