// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	known      = 48 * time.Hour // how long the key of a settled request is remembered
	nodeKnown  = 7 * 24 * time.Hour
	sweepEvery = time.Hour
	restored   = 1 << 32 // how far Restored moves every counter: more than was ever given out between two copies
	mostRows   = 256     // of one answer of Next
	longestKey = 8 << 10 // bytes of a one-time key: many times of what any algorithm needs
	longest    = 1000    // bytes of names, kinds and key ids together: PostgreSQL refuses to index much more
)

func (l Limits) orDefault() Limits {
	if l.Bytes == 0 {
		l.Bytes = 1 << 30
	}
	if l.Requests == 0 {
		l.Requests = 200_000
	}
	if l.DepositBytes == 0 {
		l.DepositBytes = 256 << 20
	}
	if l.Deposits == 0 {
		l.Deposits = 20_000
	}
	if l.Keys == 0 {
		l.Keys = 50_000
	}
	return l
}

// allow says whether so much may wait for one box and in one of its queues.
func (l Limits) allow(boxCount, boxBytes, queueCount, queueBytes int64) error {
	switch {
	case boxCount > l.Requests || boxBytes > l.Bytes:
		return ErrFull
	case queueCount > l.Requests/2 || queueBytes > l.Bytes/2:
		return fmt.Errorf("%w from or to this one server", ErrFull)
	}
	return nil
}

// allowDeposits says whether a box may have so many deposited values, of so many bytes.
func (l Limits) allowDeposits(count, bytes int64) error {
	if count > l.Deposits || bytes > l.DepositBytes {
		return fmt.Errorf("%w: %d values of %d kB at most", ErrTooMuch, l.Deposits, l.DepositBytes>>10)
	}
	return nil
}

// allowKeys says whether a box may have so many one-time keys left.
func (l Limits) allowKeys(count int64) error {
	if count > l.Keys {
		return fmt.Errorf("%w: %d one-time keys at most", ErrTooMuch, l.Keys)
	}
	return nil
}

// size is what a request counts for in Limits.
func (r *Request) size() int64 {
	return int64(len(r.Key) + len(r.Method) + len(r.URI) + len(r.Authorization) + len(r.Body))
}

// hash stands for the key in indices. 16 bytes: a far server that finds two keys with one hash has lost one of its own requests.
func (r *Request) hash() []byte {
	h := sha256.Sum256([]byte(r.Key))
	return h[:16]
}

// distinct drops requests whose key came before in the same call.
func distinct(rs []Request) []*Request {
	seen := make(map[string]bool, len(rs))
	out := make([]*Request, 0, len(rs))
	for i := range rs {
		if !seen[rs[i].Key] {
			seen[rs[i].Key] = true
			out = append(out, &rs[i])
		}
	}
	return out
}

func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromMicros(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.UnixMicro(n)
}

// short refuses names that cannot be looked up: too long, or no text.
func short(names ...string) error {
	n := 0
	for _, s := range names {
		n += len(s)
		if plain(s) != s {
			return fmt.Errorf("the name %q is no text", s)
		}
	}
	if n > longest {
		return fmt.Errorf("names of %d bytes together: at most %d can be kept", n, longest)
	}
	return nil
}

// plain gives a text that both databases keep.
func plain(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// sortedKeys checks key ids and gives them in order; algorithm is what stands before the colon.
func sortedKeys(user, device string, keys map[string]json.RawMessage) (ids, algorithms []string, values [][]byte, err error) {
	for _, id := range slices.Sorted(maps.Keys(keys)) {
		algorithm, rest, ok := strings.Cut(id, ":")
		if !ok || algorithm == "" || rest == "" {
			return nil, nil, nil, fmt.Errorf("%q is no id of a one-time key: it is ALGORITHM:NAME", id)
		}
		if err := short(user, device, id); err != nil {
			return nil, nil, nil, err
		}
		if len(keys[id]) > longestKey {
			return nil, nil, nil, fmt.Errorf("%w: %q has %d bytes, a one-time key has %d at most", ErrTooMuch, id, len(keys[id]), longestKey)
		}
		ids, algorithms, values = append(ids, id), append(algorithms, algorithm), append(values, keys[id])
	}
	return ids, algorithms, values, nil
}

func newEpoch() string { return rand.Text() }

// renewal says whether a node's end is so near that an act which renews by the way should write it.
func renewal(until, now time.Time, ttl time.Duration) bool { return until.Before(now.Add(ttl / 2)) }

// hourly says when the sweep is due: at first sight, then every hour.
type hourly struct {
	mu   sync.Mutex
	next time.Time
}

func (h *hourly) due(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Before(h.next) {
		return false
	}
	h.next = now.Add(sweepEvery)
	return true
}
