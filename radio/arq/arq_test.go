// SPDX-License-Identifier: EUPL-1.2

package arq_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"hallig/radio/arq"
	"hallig/radio/ether"
	"hallig/radio/frame"
	"hallig/tools/bench/goodput"
)

// story runs a link and writes down the frames as they are sent: who, what, poll as "?".
type story struct {
	*goodput.Sim
	lines    []string
	got      [2][]string
	done     []string
	decoders [2]frame.Decoder
	lose     func(end int, f *frame.Frame) bool // true: this frame is lost
}

func tell(t *testing.T, s goodput.Setup) *story {
	t.Helper()
	st := &story{Sim: goodput.New(s)}
	st.On = func(end int, e arq.Event) {
		switch e.Kind {
		case arq.Received:
			st.got[end] = append(st.got[end], string(e.Message))
		case arq.Done:
			st.done = append(st.done, fmt.Sprint(e.Token, " ", e.Err))
		}
	}
	st.Run(time.Minute, func() bool { return st.Ends[0].Up() && st.Ends[1].Up() })
	st.Run(2*time.Second, nil)
	st.Lose = func(end int, wire []byte) (lost bool) {
		st.decoders[end].Feed(wire, func(raw []byte) {
			f, err := frame.Parse(raw)
			if err != nil {
				t.Fatalf("end %d sent a bad frame: %v", end, err)
			}
			st.lines = append(st.lines, st.line(end, &f))
			lost = st.lose != nil && st.lose(end, &f)
		})
		return lost
	}
	return st
}

func (s *story) line(end int, f *frame.Frame) string {
	var b strings.Builder
	b.WriteByte("AB"[end])
	switch f.Type {
	case frame.Hello:
		b.WriteString(" hello")
	case frame.Control:
	default:
		fmt.Fprintf(&b, " %d.%d", f.Priority, f.Seq)
	}
	if f.Ack {
		fmt.Fprintf(&b, " ack %d", f.Next)
		for m, i := f.Bitmap, f.Next+1; m != 0; m, i = m>>1, i+1 {
			if m&1 != 0 {
				fmt.Fprintf(&b, "+%d", i)
			}
		}
	}
	if f.Poll {
		b.WriteByte('?')
	}
	if f.End {
		b.WriteByte('.')
	}
	return b.String()
}

func (s *story) send(end, priority, size int, name string) {
	s.Ends[end].Send(priority, bytes.Repeat([]byte{'.'}, size), name)
	s.Kick(end)
}

func (s *story) want(t *testing.T, want string) {
	t.Helper()
	got := strings.Join(s.lines, "\n")
	if want = strings.TrimSpace(strings.ReplaceAll(want, "\t", "")); got != want {
		t.Errorf("on the air:\n%s\nwant:\n%s", got, want)
	}
}

var radio1200 = goodput.Setup{BitsPerSecond: 1200, MTU: 239, TurnDelay: 300 * time.Millisecond, Seed: 1}

func TestStoryLoneMessage(t *testing.T) {
	s := tell(t, radio1200)
	s.send(0, 3, 100, "m")
	s.Run(30*time.Second, nil)
	s.want(t, `
		A 3.0?
		B ack 1`)
	if got := strings.Join(s.done, ","); got != "m <nil>" {
		t.Errorf("done: %s", got)
	}
}

func TestStorySmallMessagesShareAFrame(t *testing.T) {
	s := tell(t, radio1200)
	for i := range 4 {
		s.Ends[0].Send(3, bytes.Repeat([]byte{'.'}, 50), i)
	}
	s.send(0, 3, 100, "last")
	s.Run(30*time.Second, nil)
	s.want(t, `
		A 3.0
		A 3.1?
		B ack 2`)
	if len(s.got[1]) != 5 {
		t.Errorf("%d messages arrived, want 5", len(s.got[1]))
	}
}

func TestStorySelectiveRepeat(t *testing.T) {
	s := tell(t, radio1200)
	lost := map[uint32]bool{1: true}
	s.lose = func(end int, f *frame.Frame) bool { defer delete(lost, f.Seq); return end == 0 && lost[f.Seq] }
	s.send(0, 3, 900, "m")
	s.Run(time.Minute, nil)
	s.want(t, `
		A 3.0
		A 3.1
		A 3.2
		A 3.3?
		B ack 1+2+3
		B ack 1+2+3
		A 3.1?
		B ack 4`)
}

func TestStoryLastFrameLost(t *testing.T) {
	s := tell(t, radio1200)
	lost := map[uint32]bool{2: true}
	s.lose = func(end int, f *frame.Frame) bool { defer delete(lost, f.Seq); return end == 0 && lost[f.Seq] }
	s.send(0, 3, 700, "m")
	s.Run(time.Minute, nil)
	// B takes the turn when it has been silent long enough.
	s.want(t, `
		A 3.0
		A 3.1
		A 3.2?
		B ack 2
		A 3.2?
		B ack 3`)
}

func TestStoryAnswerLost(t *testing.T) {
	s := tell(t, radio1200)
	n := 0
	s.lose = func(end int, f *frame.Frame) bool { n += end; return end == 1 && n == 1 }
	s.send(0, 3, 100, "m")
	s.Run(30*time.Second, nil)
	s.want(t, `
		A 3.0?
		B ack 1
		A ack 0?
		B ack 1`)
	if len(s.got[1]) != 1 {
		t.Errorf("the message arrived %d times", len(s.got[1]))
	}
}

func TestStoryUrgentPassesBulk(t *testing.T) {
	s := tell(t, radio1200)
	s.lose = func(end int, f *frame.Frame) bool {
		return end == 0 && f.Seq == 1 && f.Priority == 4 && len(s.done) == 0
	}
	s.send(0, 4, 900, "bulk")
	s.Run(3*time.Second, nil) // into the second frame
	s.send(0, 0, 20, "flash")
	s.Run(4*time.Second, nil)
	// Frame 1 is lost, and the message in frame 2 is in the reader's hands all the same.
	if len(s.got[1]) != 1 || len(s.got[1][0]) != 20 {
		t.Errorf("after 4 s the far end has %q, want the urgent message", s.got[1])
	}
	s.Run(time.Minute, nil)
	s.want(t, `
		A 4.0
		A 4.1
		A 0.2
		A 4.3
		A 4.4?
		B ack 1+2+3+4
		B ack 1+2+3+4
		A 4.1?
		B ack 5`)
}

func TestStoryBothWays(t *testing.T) {
	s := tell(t, radio1200)
	s.send(0, 3, 400, "a")
	s.send(1, 3, 0, "") // B is listening by the time it has something
	s.lines = nil
	s.Run(2*time.Second, nil)
	s.send(1, 3, 50, "b")
	s.Run(time.Minute, nil)
	if len(s.got[0]) != 2 || len(s.got[1]) != 1 {
		t.Errorf("A got %d messages, B %d; want 2 and 1", len(s.got[0]), len(s.got[1]))
	}
}

// On a line that has long been calm a receipt does not ask for an acknowledgement of its own: it rides on the next message.
// If it is lost, it is asked after.
func TestStoryTinyMessages(t *testing.T) {
	for _, full := range []bool{false, true} {
		s := tell(t, goodput.Setup{BitsPerSecond: 1200, FullDuplex: full, Seed: 1})
		for range 17 {
			s.send(0, 3, 50, "m")
			s.Run(3*time.Second, nil)
		}
		s.lines, s.done = nil, nil
		receipt := func() {
			s.send(0, 3, 100, "m")
			s.Run(4*time.Second, nil)
			s.send(1, 3, 5, "receipt")
			s.Run(10*time.Second, nil)
		}
		receipt()
		receipt()
		s.want(t, `
			A 3.17?
			B ack 18
			B 3.0.
			A 3.18 ack 1?
			B ack 19
			B 3.1.`)
		if got := strings.Join(s.done, ","); got != "m <nil>,receipt <nil>,m <nil>" {
			t.Errorf("full duplex %v: done: %s", full, got)
		}
		s.lines = nil
		s.lose = func(_ int, f *frame.Frame) bool { return f.End }
		receipt()
		s.Run(80*time.Second, nil)
		s.want(t, `
			A 3.19 ack 2?
			B ack 20
			B 3.2.
			B ack 20?
			A ack 2
			B 3.2?
			A ack 3`)
	}
}

// A restart of the far end: it says hello with a new epoch; what was under way is given up, and contact is back at once.
func TestStoryRestart(t *testing.T) {
	s := tell(t, radio1200)
	s.send(0, 3, 3000, "m")
	s.Run(3*time.Second, nil)
	s.Ends[1].Stop()
	s.Ends[1].Start(s.Now)
	s.Kick(1)
	s.Run(40*time.Second, func() bool { return len(s.done) > 0 })
	if got := strings.Join(s.done, ","); got != "m no contact with the far end" {
		t.Errorf("done: %q", got)
	}
	s.Run(15*time.Second, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
	if !s.Ends[0].Up() || !s.Ends[1].Up() {
		t.Error("no contact 15 s after the restart was noticed")
	}
}

// Under keys a stranger's hello does not end the contact, but a real restart does.
func TestStoryHelloUnderKeys(t *testing.T) {
	s := tell(t, radio1200)
	k1, k2 := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	if err := errors.Join(s.Ends[0].SetKeys(k1, k2), s.Ends[1].SetKeys(k2, k1)); err != nil {
		t.Fatal(err)
	}
	s.send(0, 3, 10, "m")
	s.send(1, 3, 10, "n")
	s.Run(20*time.Second, nil)
	f := frame.Frame{Type: frame.Hello, Poll: true, Body: []byte{1, 9, 9, 9, 9, 0, 0, 0, 0}}
	s.lines = nil
	s.Ends[0].Receive(s.Now, frame.Seal(nil, &f, frame.Context{}, nil))
	s.Kick(0)
	s.Run(20*time.Second, nil)
	if c := s.Ends[0].Stats().Contacts; c != 1 || !s.Ends[0].Up() {
		t.Errorf("a stranger's hello ended the contact (contacts: %d)", c)
	}
	s.want(t, `
		A ack 1?
		B ack 1`)
	s.Ends[1].Stop()
	s.Ends[1].Start(s.Now)
	s.Kick(1)
	s.Run(20*time.Second, func() bool { return s.Ends[1].Up() && s.Ends[0].Up() && s.Ends[0].Stats().Contacts == 2 })
	if c := s.Ends[0].Stats().Contacts; c != 2 || s.Ends[0].Keyed() {
		t.Errorf("after a restart: contacts %d, keyed %v; want 2 and false", c, s.Ends[0].Keyed())
	}
}

// Whatever the air does: every message that was reported as arrived was delivered, none twice, each priority in order.
func TestNothingLostNothingTwice(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 99))
		setup := goodput.Setup{
			BitsPerSecond: []int{300, 1200, 9600, 115200}[rng.IntN(4)], TurnDelay: time.Duration(rng.IntN(3)) * 100 * time.Millisecond,
			FullDuplex: rng.IntN(3) == 0, FrameLoss: rng.Float64() * 0.35, LossAs: ether.Loss(rng.IntN(2)), BitErrors: float64(rng.IntN(3)) * 5e-5, Seed: seed,
		}
		if rng.IntN(2) == 0 {
			setup.FrameLoss /= 10
		}
		setup.Correct = seed%3 == 0
		s := goodput.New(setup)
		type key struct{ end, epoch, priority int }
		var epoch [2]int
		next := map[key]int{} // at the receiver: how far each sender's counter has come
		sent, arrived, delivered := map[string]bool{}, map[string]bool{}, map[string]int{}
		s.On = func(end int, e arq.Event) {
			switch e.Kind {
			case arq.Up:
				epoch[end]++
			case arq.Received:
				var from, priority, n int
				head, _, _ := strings.Cut(string(e.Message), "\n")
				if _, err := fmt.Sscanf(head, "%d %d %d", &from, &priority, &n); err != nil || from == end {
					t.Fatalf("seed %d: end %d received %q", seed, end, head)
				}
				delivered[head]++
				k := key{end, epoch[end], priority}
				if last, ok := next[k]; ok && n <= last {
					t.Errorf("seed %d: end %d got message %d of priority %d after %d", seed, end, n, priority, last)
				}
				next[k] = n
			case arq.Done:
				if arrived[e.Token.(string)] {
					t.Errorf("seed %d: %v reported twice", seed, e.Token)
				}
				if sent[e.Token.(string)] = e.Err == nil; e.Err == nil {
					arrived[e.Token.(string)] = true
				}
			}
		}
		count := 0
		for range 40 {
			s.Run(time.Duration(rng.IntN(5000))*time.Millisecond, nil)
			end, priority := rng.IntN(2), rng.IntN(frame.Priorities)
			for range 1 + rng.IntN(4) {
				count++
				head := fmt.Sprintf("%d %d %d", end, priority, count)
				size := rng.IntN(200)
				if rng.IntN(2) == 0 {
					size = 0 // tiny: may go without a question
				}
				if rng.IntN(6) == 0 {
					size = rng.IntN(5000)
				}
				s.Ends[end].Send(priority, append([]byte(head+"\n"), make([]byte, size)...), head)
			}
			s.Kick(end)
		}
		s.Run(2*time.Hour, func() bool { return len(sent) == count })
		s.Run(time.Minute, nil)
		if len(sent) != count {
			t.Errorf("seed %d (%+v): %d of %d messages were never reported", seed, setup, count-len(sent), count)
		}
		for head, n := range delivered {
			if n > 1 {
				t.Errorf("seed %d: %q delivered %d times", seed, head, n)
			}
		}
		for head := range arrived {
			if delivered[head] != 1 {
				t.Errorf("seed %d: %q reported as arrived, delivered %d times", seed, head, delivered[head])
			}
		}
		if c := s.Ends[0].Stats().Contacts; c > 3 {
			t.Errorf("seed %d (%+v): contact was lost %d times", seed, setup, c-1)
		}
	}
}

// An idle link costs little, and stays.
func TestIdle(t *testing.T) {
	s := tell(t, radio1200)
	before := s.Ends[0].Stats().BytesSent + s.Ends[1].Stats().BytesSent
	s.Run(time.Hour, nil)
	cost := s.Ends[0].Stats().BytesSent + s.Ends[1].Stats().BytesSent - before
	if cost > 2000 || !s.Ends[0].Up() || s.Ends[0].Stats().Contacts != 1 {
		t.Errorf("an hour of silence cost %d bytes, contacts %d", cost, s.Ends[0].Stats().Contacts)
	}
	// And a far end that has gone without a word is noticed.
	s.Air.Cut(true)
	s.Run(3*time.Minute, nil)
	if s.Ends[0].Up() || s.Ends[1].Up() {
		t.Error("after three minutes on a cut line somebody still believes in the contact")
	}
}

func TestSendRefuses(t *testing.T) {
	s := tell(t, radio1200)
	s.Ends[0].Send(5, nil, "priority")
	s.Ends[0].Send(-1, nil, "priority")
	s.Ends[0].Send(1, make([]byte, arq.MaxMessage+1), "length")
	s.Ends[0].Send(1, make([]byte, arq.MaxMessage), "longest")
	s.Kick(0)
	if len(s.done) != 3 {
		t.Errorf("refused: %q, want three", s.done)
	}
	s.Run(time.Hour, func() bool { return len(s.got[1]) == 1 })
	if len(s.got[1]) != 1 || len(s.got[1][0]) != arq.MaxMessage {
		t.Errorf("the longest message did not arrive")
	}
}
