// SPDX-License-Identifier: EUPL-1.2

package arq_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"hallig/radio/arq"
	"hallig/radio/frame"
	"hallig/tools/bench/goodput"
)

// Frames of a keyed contact, kept by somebody who hears everything and sends them again: as they were (also out of order), cut short, with a
// wrong bit, too long, and under other keys. Nothing is delivered twice, nothing is forged, the contact stays, and what was refused is counted.
func TestHostileAir(t *testing.T) {
	for _, full := range []bool{false, true} {
		s := goodput.New(goodput.Setup{BitsPerSecond: 9600, FullDuplex: full, Correct: true, Seed: 1})
		var got [2]int
		s.On = func(end int, e arq.Event) {
			if e.Kind == arq.Received {
				got[end]++
			}
			if e.Kind == arq.Done && e.Err != nil {
				t.Errorf("a message was given up: %v", e.Err)
			}
		}
		s.Run(time.Minute, func() bool { return s.Ends[0].Up() && s.Ends[1].Up() })
		k1, k2 := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
		if s.Ends[0].SetKeys(k1, k2) != nil || s.Ends[1].SetKeys(k2, k1) != nil {
			t.Fatal("keys refused")
		}
		var kept [2][][]byte // by sender
		var dec [2]frame.Decoder
		s.Lose = func(end int, wire []byte) bool {
			dec[end].Feed(wire, func(raw []byte) { kept[end] = append(kept[end], bytes.Clone(raw)) })
			return false
		}
		talk := func(n int) {
			for i := range n {
				s.Ends[i%2].Send(3, make([]byte, 50+i*20), nil)
				s.Kick(i % 2)
				s.Run(3*time.Second, nil)
			}
			s.Run(30*time.Second, nil)
		}
		talk(20)
		if got != [2]int{10, 10} || len(kept[0]) < 10 {
			t.Fatalf("before anything hostile: got %v, %d frames kept", got, len(kept[0]))
		}
		rng := rand.New(rand.NewPCG(1, 1))
		sent, before := uint64(0), s.Ends[1].Stats()
		old := kept[0]
		for _, i := range rng.Perm(len(old)) {
			other := bytes.Clone(old[i])
			other[rng.IntN(len(other))] ^= 1 << rng.IntN(8)
			strange, err := frame.NewKey(bytes.Repeat([]byte{9}, 32))
			if err != nil {
				t.Fatal(err)
			}
			f := frame.Frame{Type: frame.Whole, Priority: 1, Seq: uint32(len(old)), Body: []byte("forged")}
			for _, raw := range [][]byte{
				bytes.Clone(old[i]), old[i][:rng.IntN(len(old[i]))], other, append(bytes.Clone(old[i]), make([]byte, frame.MaxRaw)...),
				frame.Seal(nil, &f, frame.Context{Sender: 1, Receiver: 2}, strange), frame.Seal(nil, &f, frame.Context{Sender: 1, Receiver: 2}, nil),
			} {
				s.Ends[1].Receive(s.Now, bytes.Clone(raw))
				s.Kick(1)
				sent++
			}
			if i%5 == 0 {
				s.Run(time.Second, nil)
			}
		}
		s.Run(time.Minute, nil)
		after := s.Ends[1].Stats()
		if got != [2]int{10, 10} {
			t.Errorf("full duplex %v: hostile frames were delivered: %v", full, got)
		}
		// Every frame but true copies is refused; a true copy is of this contact, and only repeats what is known.
		refused, copies := after.FramesRefused-before.FramesRefused, uint64(len(old))
		if refused < sent-copies {
			t.Errorf("full duplex %v: %d of %d hostile frames counted as refused, want at least %d", full, refused, sent, sent-copies)
		}
		talk(20)
		if got != [2]int{20, 20} || s.Ends[0].Stats().Contacts != 1 || s.Ends[1].Stats().Contacts != 1 {
			t.Errorf("full duplex %v: afterwards got %v, contacts %d and %d", full, got, s.Ends[0].Stats().Contacts, s.Ends[1].Stats().Contacts)
		}
	}
}
