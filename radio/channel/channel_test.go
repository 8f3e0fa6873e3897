// SPDX-License-Identifier: EUPL-1.2

package channel_test

import (
	"fmt"
	"testing"
	"time"

	"hallig/radio/ether"
)

// Everybody finds everybody, and what each has for each arrives once, at every loss.
func TestEverythingArrives(t *testing.T) {
	for _, s := range []struct {
		n     int
		loss  float64
		polls bool
	}{{2, 0.2, false}, {3, 0, false}, {3, 0.2, false}, {5, 0.05, false}, {5, 0.2, false}, {8, 0, false}, {8, 0.2, false}, {3, 0.2, true}, {8, 0.05, true}} {
		m := newSim(t, setup{stations: s.n, polls: s.polls, air: ether.Config{FrameLoss: s.loss, Seed: uint64(s.n)}})
		took := m.run(time.Hour, func() bool { return m.met() })
		if !m.met() {
			t.Fatalf("%+v: not all have met\n%s", s, m.story())
		}
		const each, size = 3, 300
		for i := range s.n {
			for k := range s.n {
				if i != k {
					for range each {
						m.send(i, k, 3, size)
					}
				}
			}
		}
		bytes := s.n * (s.n - 1) * each * size
		work := m.run(4*time.Hour, func() bool { return m.total() >= bytes })
		m.run(time.Minute, nil)
		for i, e := range m.ends {
			for k := range s.n {
				if want := each; i != k && e.got[k] != want {
					t.Errorf("%+v: %d got %d messages of %d, want %d\n%s", s, i, e.got[k], k, want, m.story())
				}
			}
			if e.downs > 0 || e.failed > 0 {
				t.Errorf("%+v: %d lost %d contacts and %d messages", s, i, e.downs, e.failed)
			}
		}
		t.Logf("%+v: met in %v, %d bytes in %v: %.2f of the rate", s, took.Round(time.Second), bytes, work.Round(time.Second), float64(bytes)*10/1200/work.Seconds())
	}
}

// fairness is Jain's index over what the stations could send: 1 is all the same, 1/n is one alone.
func fairness(m *sim) float64 {
	sent := make([]float64, len(m.ends))
	for _, e := range m.ends {
		for from, b := range e.bytes {
			sent[from] += float64(b)
		}
	}
	var sum, squares float64
	for _, x := range sent {
		sum += x
		squares += x * x
	}
	return sum * sum / float64(len(sent)) / squares
}

// saturate keeps all queues filled for a while and says which share of the line rate arrived as payload, and how evenly.
func saturate(m *sim, d time.Duration, hidden ...[2]int) (use, fair float64) {
	m.run(3*time.Hour, func() bool { return m.met(hidden...) })
	for i, e := range m.ends {
		for k := range m.ends {
			if m.station(i, k) >= 0 {
				e.load = append(e.load, k)
			}
		}
		e.size = 500
	}
	before := m.total()
	for i := range m.ends {
		m.kick(i)
	}
	m.run(d, nil)
	return m.use(before, d), fairness(m)
}

// Under full load the channel is used well and by all alike. The figures are printed for the bench.
func TestUse(t *testing.T) {
	for _, s := range []struct {
		n     int
		loss  float64
		polls bool
		least float64
	}{{4, 0, false, 0.7}, {4, 0.05, false, 0.6}, {4, 0.2, false, 0.4}, {8, 0.05, false, 0.6}, {4, 0, true, 0.8}, {4, 0.2, true, 0.4}} {
		air := ether.Config{FrameLoss: s.loss, Seed: uint64(s.n)}
		what, d := "channel", time.Hour
		if s.polls {
			air.BitsPerSecond, what, d = 9600, "bus", 5*time.Minute
		}
		m := newSim(t, setup{stations: s.n, polls: s.polls, air: air})
		m.run(time.Hour, func() bool { return m.met() })
		collided := m.air.Counters(1).Collided
		use, fair := saturate(m, d)
		if use < s.least || fair < 0.9 {
			t.Errorf("%+v: use %.3f, fairness %.3f; want at least %.2f and 0.9\n%s", s, use, fair, s.least, m.story())
		}
		if testing.Verbose() {
			fmt.Printf("measured %s_use_%d_loss%.0f %.3f payload through the line rate, all stations send to all without end, %v, fairness %.3f\n", what, s.n, 100*s.loss, use, d, fair)
		}
		if collided = m.air.Counters(1).Collided - collided; s.polls && s.loss == 0 && collided > 0 {
			t.Errorf("%+v: %d pieces were lost because two spoke at once, on a bus with a master", s, collided)
		}
	}
}

// Two stations that cannot hear each other talk to the one between them, and four stand in a row.
func TestHidden(t *testing.T) {
	m := newSim(t, setup{stations: 3, air: ether.Config{FrameLoss: 0.05, Seed: 7}})
	m.air.SetReach(0, 2, false)
	use, fair := saturate(m, time.Hour, [2]int{0, 2})
	if use < 0.5 || fair < 0.8 {
		t.Errorf("hidden stations: use %.3f, fairness %.3f\n%s", use, fair, m.story())
	}
	t.Logf("hidden stations: use %.3f, fairness %.3f", use, fair)
	row := [][2]int{{0, 2}, {0, 3}, {1, 3}}
	m = newSim(t, setup{stations: 4, air: ether.Config{Seed: 7}})
	for _, h := range row {
		m.air.SetReach(h[0], h[1], false)
	}
	use, fair = saturate(m, time.Hour, row...)
	if use < 0.5 || fair < 0.8 {
		t.Errorf("a row of four: use %.3f, fairness %.3f\n%s", use, fair, m.story())
	}
	t.Logf("a row of four: use %.3f, fairness %.3f", use, fair)
}

// A flash message passes the load of everybody within the exchanges that are under way.
func TestFlash(t *testing.T) {
	for _, polls := range []bool{false, true} {
		air := ether.Config{Seed: 3}
		if polls {
			air.BitsPerSecond = 9600
		}
		m := newSim(t, setup{stations: 4, polls: polls, air: air})
		saturate(m, 5*time.Minute)
		var worst, sum time.Duration
		const times = 20
		for i := range times {
			from, to := i%4, (i+1)%4
			before := m.ends[to].flashes
			m.send(from, to, 0, 60)
			took := m.run(5*time.Minute, func() bool { return m.ends[to].flashes > before })
			worst, sum = max(worst, took), sum+took
			m.run(30*time.Second, nil)
		}
		t.Logf("master %v: flash under load of 4 stations: mean %v, worst %v", polls, (sum / times).Round(time.Second), worst.Round(time.Second))
		if worst > 90*time.Second {
			t.Errorf("master %v: a flash message took %v", polls, worst)
		}
	}
}

// A station that goes is given up; when it comes back it is found again, and the others have not suffered.
func TestLeaveAndReturn(t *testing.T) {
	for _, polls := range []bool{false, true} {
		m := newSim(t, setup{stations: 3, polls: polls, air: ether.Config{Seed: 9}})
		m.run(time.Hour, func() bool { return m.met() })
		m.ends[2].Stop()
		m.kick(2)
		m.send(0, 2, 3, 100)
		m.send(0, 1, 3, 100)
		m.run(10*time.Minute, nil)
		if m.ends[0].failed != 1 || m.ends[0].downs != 1 {
			t.Errorf("master %v: %d messages failed, %d contacts were lost, want 1 and 1\n%s", polls, m.ends[0].failed, m.ends[0].downs, m.story())
		}
		if m.ends[1].got[0] != 1 {
			t.Errorf("master %v: the message to the station that stayed did not arrive", polls)
		}
		m.ends[2].Start(m.now)
		m.kick(2)
		if took := m.run(15*time.Minute, func() bool { return m.station(0, 2) >= 0 && m.station(2, 0) >= 0 }); took > 2*time.Minute {
			t.Errorf("master %v: found again after %v", polls, took)
		}
		m.send(0, 2, 3, 100)
		m.run(5*time.Minute, func() bool { return m.ends[2].got[0] > 0 })
		if m.ends[2].got[0] != 1 {
			t.Errorf("master %v: after its return the station got %d messages, want 1", polls, m.ends[2].got[0])
		}
	}
}

// A bus whose master falls silent goes on by contention, and takes it as master again when it is back.
func TestMasterGone(t *testing.T) {
	m := newSim(t, setup{stations: 4, polls: true, air: ether.Config{BitsPerSecond: 9600, Seed: 5}})
	m.run(time.Hour, func() bool { return m.met() })
	m.ends[0].Stop()
	m.kick(0)
	m.run(3*time.Minute, nil)
	m.send(1, 2, 3, 500)
	m.send(3, 1, 3, 500)
	m.run(time.Minute, nil)
	if m.ends[2].got[1] != 1 || m.ends[1].got[3] != 1 {
		t.Errorf("without a master messages did not arrive\n%s", m.story())
	}
	m.ends[0].Start(m.now)
	m.kick(0)
	m.run(5*time.Minute, func() bool { return m.met() })
	m.send(2, 0, 3, 500)
	m.run(time.Minute, nil)
	if m.ends[0].got[2] != 1 {
		t.Errorf("the master is back and got nothing\n%s", m.story())
	}
}
