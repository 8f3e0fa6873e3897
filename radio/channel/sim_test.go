// SPDX-License-Identifier: EUPL-1.2

package channel_test

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"hallig/radio/arq"
	"hallig/radio/channel"
	"hallig/radio/ether"
	"hallig/radio/frame"
)

// sim is several stations on one medium under a clock moved by hand.
type sim struct {
	t        *testing.T
	now      time.Time
	air      *ether.Air
	ends     []*end
	arrivals arrivals
	count    uint64
	busy     time.Duration // somebody transmits
	busyTo   time.Time
}

type end struct {
	*channel.Channel
	name    uint32
	decoder frame.Decoder
	wake    time.Time
	names   [channel.MostStations]int // which end is behind a station, -1: not known
	got     map[int]int               // messages by the end that sent them
	bytes   map[int]int
	downs   int
	failed  int
	cast    map[bool]int
	flashes int // messages of 60 bytes
	spy     func(raw []byte)
	// traffic: keeps the queues filled
	load []int // ends to send to
	size int
	next int
}

type setup struct {
	stations int
	air      ether.Config
	polls    bool // end 0 is the master
	keyDown  time.Duration
}

func newSim(t *testing.T, s setup) *sim {
	s.air.Ends = s.stations
	if s.air.BitsPerSecond == 0 {
		s.air.BitsPerSecond, s.air.TurnDelay = 1200, 300*time.Millisecond
	}
	m := &sim{t: t, now: time.Unix(1, 0), air: ether.NewAir(s.air)}
	for i := range s.stations {
		e := &end{name: uint32(1000 + i), got: map[int]int{}, cast: map[bool]int{}, bytes: map[int]int{}}
		e.Channel = channel.New(channel.Config{Station: e.name, Polls: s.polls && i == 0, Link: arq.Config{
			BitsPerSecond: s.air.BitsPerSecond, TurnDelay: s.air.TurnDelay, KeyDown: s.keyDown, Seed: s.air.Seed<<8 | uint64(i)}})
		for k := range e.names {
			e.names[k] = -1
		}
		m.ends = append(m.ends, e)
	}
	for i, e := range m.ends {
		e.Start(m.now)
		m.kick(i)
	}
	return m
}

// kick lets an end act.
func (m *sim) kick(i int) {
	e := m.ends[i]
	for {
		m.fill(i)
		m.events(i)
		wire, wake := e.Next(m.now)
		m.events(i)
		if wire == nil {
			e.wake = wake
			return
		}
		for _, a := range m.air.Send(m.now, i, wire) {
			m.count++
			heap.Push(&m.arrivals, numbered{a, m.count})
		}
		if from := m.now; m.busyTo.Before(m.air.Free(i)) {
			if m.busyTo.After(from) {
				from = m.busyTo
			}
			m.busy += m.air.Free(i).Sub(from)
			m.busyTo = m.air.Free(i)
		}
	}
}

func (m *sim) events(i int) {
	e := m.ends[i]
	for _, ev := range e.Events() {
		switch ev.Kind {
		case arq.Up:
			// As a box does: say who is here.
			e.Channel.Send(ev.Station, 1, binary.LittleEndian.AppendUint32([]byte("I am"), uint32(i)), "greeting")
		case arq.Down:
			e.downs++
			e.names[ev.Station] = -1
		case arq.Received:
			if len(ev.Message) == 8 && string(ev.Message[:4]) == "I am" {
				e.names[ev.Station] = int(binary.LittleEndian.Uint32(ev.Message[4:]))
				continue
			}
			from := int(ev.Message[0])
			e.got[from]++
			e.bytes[from] += len(ev.Message)
			if len(ev.Message) == 60 {
				e.flashes++
			}
			if from != e.names[ev.Station] {
				m.t.Errorf("a message of %d came to %d as one of station %d, which is %d", from, i, ev.Station, e.names[ev.Station])
			}
		case arq.Done:
			if ev.Token == "cast" {
				e.cast[ev.Err == nil]++
			} else if ev.Err != nil && ev.Token != "greeting" {
				e.failed++
			}
		}
	}
}

// station is the number under which end i knows end k.
func (m *sim) station(i, k int) int {
	for n, who := range m.ends[i].names {
		if who == k {
			return n
		}
	}
	return -1
}

func (m *sim) message(from, size int) []byte {
	b := make([]byte, size)
	b[0] = byte(from)
	return b
}

// fill keeps an end's queues filled.
func (m *sim) fill(i int) {
	e := m.ends[i]
	for range e.load {
		e.next++
		n := m.station(i, e.load[e.next%len(e.load)])
		if n >= 0 && e.Free(n, 3) > e.size {
			e.Send(n, 3, m.message(i, e.size), nil)
		}
	}
}

func (m *sim) send(from, to, priority, size int) {
	n := m.station(from, to)
	if n < 0 {
		m.t.Fatalf("%d has no contact with %d", from, to)
	}
	m.ends[from].Send(n, priority, m.message(from, size), nil)
	m.kick(from)
}

func (m *sim) step(until time.Time) bool {
	next, what := until.Add(1), -1
	for i, e := range m.ends {
		if !e.wake.IsZero() && e.wake.Before(next) {
			next, what = e.wake, i
		}
	}
	if len(m.arrivals) > 0 && !m.arrivals[0].End.After(next) {
		next, what = m.arrivals[0].End, len(m.ends)
	}
	if what < 0 || next.After(until) {
		m.now = until
		return false
	}
	if next.After(m.now) {
		m.now = next
	}
	if what < len(m.ends) {
		m.kick(what)
		return true
	}
	a := heap.Pop(&m.arrivals).(numbered)
	if !m.air.Hear(a.Arrival) {
		return true
	}
	e := m.ends[a.To]
	e.Heard(m.now)
	e.decoder.Feed(a.Bytes, func(raw []byte) {
		if e.spy != nil {
			e.spy(raw)
		}
		e.Receive(m.now, raw)
	})
	m.kick(a.To)
	return true
}

// run lets time pass, or until stop says so; it gives the time it took.
func (m *sim) run(d time.Duration, stop func() bool) time.Duration {
	began, until := m.now, m.now.Add(d)
	for (stop == nil || !stop()) && m.step(until) {
	}
	return m.now.Sub(began)
}

// met says whether all ends know all others that they hear.
func (m *sim) met(hidden ...[2]int) bool {
	for i := range m.ends {
	next:
		for k := range m.ends {
			for _, h := range hidden {
				if h == [2]int{i, k} || h == [2]int{k, i} {
					continue next
				}
			}
			if i != k && m.station(i, k) < 0 {
				return false
			}
		}
	}
	return true
}

func (m *sim) total() (n int) {
	for _, e := range m.ends {
		for _, b := range e.bytes {
			n += b
		}
	}
	return n
}

// use is the share of the line rate that arrived as payload since before.
func (m *sim) use(before int, d time.Duration) float64 {
	c := m.ends[0].Config()
	return float64(m.total()-before) * float64(c.BitsPerByte) / float64(c.BitsPerSecond) / d.Seconds()
}

func (m *sim) story() string {
	out := ""
	for i, e := range m.ends {
		s := e.Stats()
		out += fmt.Sprintf("  %d: stations %d, exchanges %d, failed %d, unanswered %d, again %d, downs %d, got %v\n", i, s.Stations, s.Exchanges, s.Failed, s.Unanswered, s.Retransmissions, e.downs, e.got)
	}
	return out
}

type numbered struct {
	ether.Arrival
	n uint64
}

type arrivals []numbered

func (a arrivals) Len() int      { return len(a) }
func (a arrivals) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a arrivals) Less(i, j int) bool {
	return a[i].End.Before(a[j].End) || a[i].End.Equal(a[j].End) && a[i].n < a[j].n
}
func (a *arrivals) Push(x any) { *a = append(*a, x.(numbered)) }
func (a *arrivals) Pop() any {
	old := *a
	x := old[len(old)-1]
	*a = old[:len(old)-1]
	return x
}
