// SPDX-License-Identifier: EUPL-1.2

package arq_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"hallig/radio/arq"
	"hallig/radio/ether"
	"hallig/tools/bench/goodput"
)

// busy is a link on which both ends always have something to say: random messages of three priorities, handed over as
// Free allows, and small ones in between. Each is checked as it arrives.
type busy struct {
	*goodput.Sim
	t      *testing.T
	rng    *rand.Rand
	name   string
	next   [2][3]uint32      // by sender: number of the next message of a priority
	want   [2][3]uint32      // by sender: the one that has to arrive next
	sentAt [2][3][]time.Time // by sender: when message n was queued
	done   [2][3]uint32      // by sender: reported as arrived
	useful [2]int            // by sender: bytes that arrived
	small  [2]time.Time      // when an end says something small again
	oldest time.Duration     // the longest that a message was under way
}

func newBusy(t *testing.T, name string, s goodput.Setup) *busy {
	b := &busy{Sim: goodput.New(s), t: t, rng: rand.New(rand.NewPCG(s.Seed, 7)), name: name}
	b.On = b.hear
	return b
}

func (b *busy) hear(end int, e arq.Event) {
	b.t.Helper()
	switch e.Kind {
	case arq.Received:
		from, p, n := 1-end, int(e.Message[0]), binary.LittleEndian.Uint32(e.Message[1:])
		if n != b.want[from][p-1] {
			b.t.Fatalf("%s: end %d got message %d of priority %d, want %d", b.name, end, n, p, b.want[from][p-1])
		}
		if !bytes.Equal(e.Message[5:], make([]byte, len(e.Message)-5)) {
			b.t.Fatalf("%s: end %d got message %d of priority %d with other contents", b.name, end, n, p)
		}
		b.want[from][p-1]++
		b.useful[from] += len(e.Message)
		b.oldest = max(b.oldest, b.Now.Sub(b.sentAt[from][p-1][n]))
	case arq.Done:
		if e.Err != nil {
			b.t.Fatalf("%s: end %d: message %v given up after %v: %v", b.name, end, e.Token, b.Now.Sub(time.Unix(1, 0)), e.Err)
		}
		p := e.Token.(int)
		b.done[end][p-1]++
		if b.done[end][p-1] > b.want[end][p-1] {
			b.t.Fatalf("%s: end %d: a message of priority %d was reported before it arrived", b.name, end, p)
		}
	}
}

func (b *busy) send(end, p, size int) {
	n := b.next[end][p-1]
	b.next[end][p-1]++
	b.sentAt[end][p-1] = append(b.sentAt[end][p-1], b.Now)
	m := make([]byte, max(size, 5))
	m[0] = byte(p)
	binary.LittleEndian.PutUint32(m[1:], n)
	b.Ends[end].Send(p, m, p)
}

// saturate keeps both ends busy for a while; share is how much of the time an end has large messages to say.
func (b *busy) saturate(d time.Duration, share float64) {
	b.t.Helper()
	until := b.Now.Add(d)
	var quiet [2]time.Time
	for b.Now.Before(until) {
		for end := range b.Ends {
			kick := false
			for b.Ends[end].Up() && !quiet[end].After(b.Now) && b.Ends[end].Free(3) > 0 {
				b.send(end, 3, 20+b.rng.IntN(480))
				kick = true
				if b.rng.Float64() < (1-share)/10 {
					quiet[end] = b.Now.Add(time.Duration(b.rng.IntN(60000)) * time.Millisecond)
				}
			}
			if b.Ends[end].Up() && !b.small[end].After(b.Now) {
				b.send(end, 1+b.rng.IntN(3), 5+b.rng.IntN(35))
				b.small[end] = b.Now.Add(time.Duration(b.rng.IntN(8000)) * time.Millisecond)
				kick = true
			}
			if kick {
				b.Kick(end)
			}
		}
		b.Step(b.Now.Add(time.Second))
	}
	b.Run(20*time.Minute, func() bool { return b.want == b.next && b.done == b.next })
	if b.want != b.next || b.done != b.next {
		b.t.Fatalf("%s: sent %v, arrived %v, reported %v", b.name, b.next, b.want, b.done)
	}
}

// check says what a busy link has cost: bytes on the line for each useful byte, and how long a message was under way.
func (b *busy) check(dear float64, old time.Duration) {
	b.t.Helper()
	for end, l := range b.Ends {
		s := l.Stats()
		if cost := float64(s.BytesSent) / float64(b.useful[end]); cost > dear {
			b.t.Errorf("%s: end %d: %.3f bytes on the line for each useful byte, want at most %v", b.name, end, cost, dear)
		}
		if s.Contacts != 1 {
			b.t.Errorf("%s: end %d: %d contacts, want one", b.name, end, s.Contacts)
		}
	}
	if b.oldest > old {
		b.t.Errorf("%s: a message was under way for %v, want at most %v", b.name, b.oldest, old)
	}
}

// On a line that loses nothing, nothing is sent twice, however busy the ends are and however late they act.
func TestBusyWithoutLoss(t *testing.T) {
	for seed := range uint64(24) {
		setup := goodput.Setup{BitsPerSecond: []int{1200, 9600}[seed%2], FullDuplex: true, Seed: seed,
			Lag: []time.Duration{0, 5, 60}[seed%3] * time.Millisecond, Delay: []time.Duration{0, 10, 300}[seed/3%3] * time.Millisecond}
		for _, share := range []float64{1, 0.9, 0.3} {
			b := newBusy(t, fmt.Sprintf("share %v, %+v", share, setup), setup)
			b.saturate(40*time.Minute, share)
			b.check(1.12, 30*time.Second)
			if a, z := b.Ends[0].Stats(), b.Ends[1].Stats(); a.Retransmissions+z.Retransmissions > 0 {
				t.Errorf("%s: %d and %d frames of %d were sent again", b.name, a.Retransmissions, z.Retransmissions, a.FramesSent)
			}
		}
	}
}

// Where frames are lost every message comes through all the same, in order, once and soon; with both ends talking at once and in
// turns, behind a modem and on a bare line.
func TestBusyWithLoss(t *testing.T) {
	for seed := range uint64(32) {
		setup := goodput.Setup{BitsPerSecond: 1200, FullDuplex: seed%2 == 0, Seed: seed, FrameLoss: []float64{0.01, 0.05, 0.2}[seed%3],
			LossAs: ether.Loss(seed / 2 % 2), Lag: []time.Duration{0, 20}[seed/4%2] * time.Millisecond, Delay: 10 * time.Millisecond}
		share := []float64{1, 0.5, 0}[seed/3%3]
		dear, old := 1.7, 2*time.Minute
		if !setup.FullDuplex {
			setup.TurnDelay = 200 * time.Millisecond
			dear, old = 1.9, 4*time.Minute
		}
		b := newBusy(t, fmt.Sprintf("share %v, %+v", share, setup), setup)
		b.saturate(time.Hour, share)
		b.check(dear, old)
	}
}

// Both ends send without a pause, the one begins in the middle of the other's frames: each acknowledgement rides on a frame that
// began before the latest question had been heard. It must not be taken for the answer.
func TestStoryCrossing(t *testing.T) {
	s := tell(t, goodput.Setup{BitsPerSecond: 1200, FullDuplex: true, Seed: 1})
	s.send(0, 3, 2000, "a")
	s.Run(time.Second, nil)
	s.send(1, 3, 600, "b")
	s.Run(3*time.Second, nil)
	s.send(1, 1, 30, "urgent")
	s.Run(time.Minute, nil)
	if n := s.Ends[0].Stats().Retransmissions + s.Ends[1].Stats().Retransmissions; n > 0 || len(s.got[0]) != 2 || len(s.got[1]) != 1 {
		t.Errorf("%d frames were sent again; got %d and %d messages:\n%s", n, len(s.got[0]), len(s.got[1]), strings.Join(s.lines, "\n"))
	}
}

// Behind a modem that hands over whole frames nothing is heard of an answer before its first frame is complete. Who asked must wait for that.
func TestBusyBehindPackets(t *testing.T) {
	for seed := range uint64(3) {
		b := newBusy(t, fmt.Sprintf("packets, seed %d", seed), goodput.Setup{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, Packets: true, Seed: seed})
		b.saturate(time.Hour, 0.3)
		b.check(1.3, 2*time.Minute)
		for end, l := range b.Ends {
			if s := l.Stats(); s.Unanswered > 30 || s.Retransmissions > s.FramesSent/25 {
				t.Errorf("%s: end %d: %d questions without an answer, %d of %d frames sent again, on a line that loses nothing", b.name, end, s.Unanswered, s.Retransmissions, s.FramesSent)
			}
		}
	}
}
