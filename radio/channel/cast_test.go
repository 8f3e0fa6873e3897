// SPDX-License-Identifier: EUPL-1.2

package channel_test

import (
	"fmt"
	"testing"
	"time"

	"hallig/radio/ether"
)

// The same messages for three stations: once as a broadcast each, once to each station. All arrive, and the broadcast takes the air of little more
// than one.
func TestBroadcast(t *testing.T) {
	for _, tc := range []struct {
		loss  float64
		polls bool
		least float64
	}{{0, false, 2}, {0.05, false, 1.7}, {0.2, false, 1.3}, {0, true, 2}, {0.2, true, 1.3}} {
		const times, size = 10, 1200
		measure := func(broadcast bool) time.Duration {
			m := newSim(t, setup{stations: 4, polls: tc.polls, air: ether.Config{FrameLoss: tc.loss, Seed: 11}})
			m.run(time.Hour, func() bool { return m.met() })
			e := m.ends[0]
			var took time.Duration
			for range times {
				before := m.total()
				if !broadcast {
					for k := 1; k < 4; k++ {
						m.send(0, k, 3, size)
					}
				} else {
					to := []int{m.station(0, 1), m.station(0, 2), m.station(0, 3)}
					if room := e.CastRoom(to); room < size {
						t.Fatalf("room for a broadcast of %d bytes only", room)
					}
					e.Cast(to, 3, m.message(0, size), "cast")
					m.kick(0)
				}
				took += m.run(10*time.Minute, func() bool {
					return m.total() >= before+3*size && (!broadcast || e.CastRoom([]int{m.station(0, 1)}) > 0)
				})
				m.run(5*time.Second, nil)
			}
			for k := 1; k < 4; k++ {
				if m.ends[k].got[0] < times-e.cast[false] || m.ends[k].got[0] > times {
					t.Errorf("%+v broadcast %v: %d got %d messages, want %d\n%s", tc, broadcast, k, m.ends[k].got[0], times, m.story())
				}
			}
			if broadcast && e.cast[true] < 3*times-3 {
				t.Errorf("%+v: %v of %d were told to have arrived", tc, e.cast, 3*times)
			}
			return took / times
		}
		one, each := measure(true), measure(false)
		gain := each.Seconds() / one.Seconds()
		if gain < tc.least {
			t.Errorf("%+v: to all at once %v, to each %v: gain %.2f, want %.1f", tc, one, each, gain, tc.least)
		}
		if testing.Verbose() {
			fmt.Printf("measured cast_gain_4_loss%.0f_polls_%v %.2f time of %d B to each of 3 stations through time to all at once, 1200 bit/s: %v, %v\n", 100*tc.loss, tc.polls, gain, size, each.Round(time.Second), one.Round(time.Second))
		}
	}
}

// One of the stations is gone: the others have the message, and for that one it is given up.
func TestBroadcastToOneGone(t *testing.T) {
	m := newSim(t, setup{stations: 4, air: ether.Config{Seed: 12}})
	m.run(time.Hour, func() bool { return m.met() })
	to := []int{m.station(0, 1), m.station(0, 2), m.station(0, 3)}
	for k := range 3 {
		m.air.SetReach(3, k, false)
	}
	m.ends[0].Cast(to, 3, m.message(0, 900), "cast")
	m.kick(0)
	m.run(10*time.Minute, func() bool { return m.ends[0].cast[true]+m.ends[0].cast[false] == 3 })
	if m.ends[0].cast[true] != 2 || m.ends[0].cast[false] != 1 || m.ends[1].got[0] != 1 || m.ends[2].got[0] != 1 {
		t.Errorf("told %v; got %d and %d", m.ends[0].cast, m.ends[1].got[0], m.ends[2].got[0])
	}
}
