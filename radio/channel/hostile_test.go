// SPDX-License-Identifier: EUPL-1.2

package channel_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"hallig/radio/arq"
	"hallig/radio/channel"
	"hallig/radio/ether"
	"hallig/radio/frame"
)

func ownFrame(kind, flags byte, from uint32, rest ...byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{2, kind, flags}, from)
	return frame.Seal(nil, &frame.Frame{Type: frame.Hello, Body: append(b, rest...)}, frame.Context{}, nil)
}

func call(from, to, mine, yours uint32) []byte {
	b := []byte{1}
	for _, v := range []uint32{mine, yours, from, to} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return frame.Seal(nil, &frame.Frame{Type: frame.Hello, Poll: true, Body: b}, frame.Context{}, nil)
}

// Thousands of invented stations cost the table and no more: who has proved itself stays, and traffic goes on.
func TestInventedStations(t *testing.T) {
	m := newSim(t, setup{stations: 3, air: ether.Config{Seed: 2}})
	m.run(time.Hour, func() bool { return m.met() })
	key := make([]byte, 32)
	for i, e := range m.ends {
		for k := range m.ends {
			if i != k {
				if err := e.SetKeys(m.station(i, k), key, key); err != nil {
					t.Fatal(err)
				}
				m.send(i, k, 3, 50)
			}
		}
	}
	m.run(5*time.Minute, nil)
	for i, e := range m.ends {
		if !e.Keyed() {
			t.Fatalf("%d has a contact without keys", i)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	victim := m.ends[0]
	for i := range 5000 {
		name := rng.Uint32() | 1<<31
		switch i % 4 {
		case 0:
			victim.Receive(m.now, ownFrame(1, byte(i), name))
		case 1:
			victim.Receive(m.now, call(name, victim.name, rng.Uint32()|1, 0))
		case 2:
			victim.Receive(m.now, call(m.ends[1].name, victim.name, rng.Uint32()|1, 0)) // under a known name
		case 3:
			victim.Receive(m.now, ownFrame(3, 1, name, 0, 0, 0, 0, 0xFF, 0xFF))
		}
		m.kick(0)
	}
	sent := victim.Stats().BytesSent
	m.run(10*time.Minute, nil)
	if spent := victim.Stats().BytesSent - sent; spent > 6000 {
		t.Errorf("invented stations made the victim send %d bytes in ten minutes", spent)
	}
	for k := 1; k < 3; k++ {
		if m.station(0, k) < 0 {
			t.Errorf("invented stations have put out station %d", k)
		}
	}
	got := m.ends[1].got[0]
	m.send(0, 1, 3, 200)
	m.run(5*time.Minute, nil)
	if m.ends[1].got[0] != got+1 {
		t.Errorf("after the flood a message did not arrive\n%s", m.story())
	}
}

// What was recorded and is played again changes nothing.
func TestReplay(t *testing.T) {
	m := newSim(t, setup{stations: 3, air: ether.Config{Seed: 4}})
	var tape [][]byte
	m.ends[2].spy = func(raw []byte) { tape = append(tape, append([]byte(nil), raw...)) }
	m.run(time.Hour, func() bool { return m.met() })
	for i := range 5 {
		m.send(0, 1, 3, 100+i)
	}
	m.run(2*time.Minute, nil)
	if m.ends[1].got[0] != 5 {
		t.Fatalf("%d of 5 messages arrived", m.ends[1].got[0])
	}
	for _, raw := range tape {
		for _, e := range m.ends[:2] {
			e.Receive(m.now, append([]byte(nil), raw...))
		}
		for i := range 2 {
			m.kick(i)
		}
		m.run(3*time.Second, nil)
	}
	m.run(3*time.Minute, nil)
	if m.ends[1].got[0] != 5 {
		t.Errorf("after the replay %d messages have arrived, want 5", m.ends[1].got[0])
	}
	m.run(10*time.Minute, func() bool { return m.met() })
	m.send(0, 1, 3, 300)
	m.run(2*time.Minute, nil)
	if m.ends[1].got[0] != 6 {
		t.Errorf("after the replay a message did not arrive\n%s", m.story())
	}
}

// FuzzReceive gives a channel any frames at any time: it never panics, never asks to be woken in the past for ever, and keeps
// its table within bounds.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{1, 20, 3}, ownFrame(1, 1, 77), uint8(0))
	f.Add([]byte{9}, ownFrame(3, 1, 77, 1, 0, 0, 0, 0xFF, 0xFF), uint8(1))
	f.Add([]byte{0, 0, 255}, call(77, 1, 5, 0), uint8(2))
	f.Fuzz(func(t *testing.T, steps, raw []byte, mode uint8) {
		if len(steps) > 300 {
			return
		}
		c := channel.New(channel.Config{Station: 1, Polls: mode&1 != 0, Link: arq.Config{BitsPerSecond: 1200, Seed: 1}})
		now := time.Unix(1, 0)
		c.Start(now)
		for i, step := range steps {
			now = now.Add(time.Duration(step) * 37 * time.Millisecond)
			frame := append([]byte(nil), raw...)
			if i > 0 && len(frame) > 0 && mode&2 != 0 {
				frame[int(step)%len(frame)] ^= byte(i)
			}
			c.Heard(now)
			c.Receive(now, frame)
			for k := 0; ; k++ {
				wire, _ := c.Next(now)
				if wire == nil {
					break
				}
				if k > 200 {
					t.Fatal("it writes without end at one moment")
				}
			}
			c.Events()
		}
		if n := c.Stats().Stations; n > channel.MostStations {
			t.Fatalf("%d stations", n)
		}
		c.Stop()
	})
}
