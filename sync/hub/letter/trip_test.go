// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// story lets a trip run under a clock that the test moves. knows says from when on, counted from the start, the server knows the event of a question; negative: never. It gives what was done.
func story(t *testing.T, trip *trip, knows func(n int, sent []string) fate) (sent []string, took time.Duration) {
	t.Helper()
	began := time.Unix(1000, 0)
	asked := 0
	for now := began; ; {
		if now.Sub(began) > time.Hour || asked > 10_000 {
			t.Fatalf("no end: %v", sent)
		}
		switch a := trip.next(now); a.kind {
		case rest:
			if !a.at.After(now) {
				t.Fatal("a rest of no time")
			}
			now = a.at
		case put:
			sent = append(sent, fmt.Sprint("put", a.n))
			trip.took(now, 50)
		case repair:
			sent = append(sent, "repair")
			trip.took(now, 50)
		case ask:
			asked++
			trip.answered(knows(a.n, sent))
		case done:
			return sent, now.Sub(began)
		}
	}
}

func TestTrip(t *testing.T) {
	never := func(int, []string) fate { return open }
	after := func(what string) func(int, []string) fate {
		return func(_ int, sent []string) fate {
			if slices.Contains(sent, what) {
				return known
			}
			return open
		}
	}
	for name, tt := range map[string]struct {
		trip  *trip
		knows func(int, []string) fate
		want  string
		fates []fate
		most  time.Duration
	}{
		"at once":           {newTrip(3, 0, 2, true), after("put0"), "put0", []fate{known, known}, time.Second},
		"nothing to ask":    {newTrip(1, 0, 0, false), never, "put0", []fate{}, 0},
		"a spare":           {newTrip(3, 0, 1, true), after("put1"), "put0 put1", []fate{known}, 20 * time.Second},
		"another signer":    {newTrip(2, 1, 1, true), after("put2"), "put0 put1 put2", []fate{known}, 50 * time.Second},
		"the hub's own":     {newTrip(2, 0, 1, true), after("repair"), "put0 put1 repair", []fate{known}, 50 * time.Second},
		"in vain":           {newTrip(2, 0, 2, true), never, "put0 put1 repair", []fate{unkept, unkept}, 3 * time.Minute},
		"no repair allowed": {newTrip(2, 0, 1, false), never, "put0 put1", []fate{unkept}, time.Minute},
		"one room is barred, one slow": {newTrip(2, 0, 2, true), func(n int, sent []string) fate {
			if n == 0 {
				return barred
			}
			return after("put1")(n, sent)
		}, "put0 put1", []fate{barred, known}, 20 * time.Second},
	} {
		sent, took := story(t, tt.trip, tt.knows)
		if got := strings.Join(sent, " "); got != tt.want || !slices.Equal(tt.trip.asks, tt.fates) || took > tt.most {
			t.Errorf("%s: %s, %v, %v; want %s, %v, at most %v", name, got, tt.trip.asks, took, tt.want, tt.fates, tt.most)
		}
	}
}

// A server that takes its time within its patience is not given anything twice, and is not asked all the time.
func TestTripIsPatient(t *testing.T) {
	asked := 0
	began := false
	trip := newTrip(3, 0, 1, true)
	sent, took := story(t, trip, func(int, []string) fate {
		asked++
		if began = began || trip.askAt.Sub(trip.sentAt) > 12*time.Second; began {
			return known
		}
		return open
	})
	if len(sent) != 1 || took < 12*time.Second || asked > 15 {
		t.Errorf("%v after %v and %d questions", sent, took, asked)
	}
}
