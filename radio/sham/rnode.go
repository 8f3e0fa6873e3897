// SPDX-License-Identifier: EUPL-1.2

package sham

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"hallig/radio/frame"
)

// RNode is a LoRa modem with RNode firmware.
type RNode struct {
	Air      *Air
	Boot     time.Duration // says and hears nothing before, but the chatter of its boot loader
	MaxPower byte          // dBm that it can do; 0: 22
	Broken   bool          // the radio chip does not answer
	Mute     bool          // does not tell whether it has room
	Room     int           // packets that it queues; 0: 8
	RSSI     int           // dBm of what it hears; 0: -97
	SNR      float64

	mu      sync.Mutex
	out     io.Writer
	on      bool
	queue   chan []byte
	set     map[byte]uint32
	Dropped int // packets that came when there was no room; read it after Serve
}

// Serve runs it until the stream ends.
func (r *RNode) Serve(s io.ReadWriter) error {
	if r.Boot > 0 {
		if _, err := io.WriteString(s, "ets Jul 29 2019 12:21:46\r\n\xc0\xdb\x00"); err != nil {
			return err
		}
		if err := discard(s, time.After(r.Boot)); err != nil {
			return err
		}
	}
	room := r.Room
	if room == 0 {
		room = 8
	}
	r.out, r.queue, r.set = s, make(chan []byte, room), map[byte]uint32{}
	r.on = false
	var sender sync.WaitGroup
	queue := r.queue
	sender.Go(func() {
		for p := range queue {
			r.air(p)
		}
	})
	r.Air.listen(r, r.hear)
	defer func() {
		r.Air.leave(r)
		close(queue)
		sender.Wait()
	}()
	var d frame.CommandDecoder
	buf := make([]byte, 512)
	for {
		n, err := s.Read(buf)
		d.Feed(buf[:n], r.command)
		if err != nil {
			return err
		}
	}
}

func discard(s io.Reader, until <-chan time.Time) error {
	buf := make([]byte, 512)
	for {
		select {
		case <-until:
			return nil
		default:
		}
		if _, err := s.Read(buf); err != nil {
			return err
		}
	}
}

// air sends a packet, in two parts when it is long; it is heard when both are.
func (r *RNode) air(p []byte) {
	const most = 254 // one byte of each part is its own
	if len(p) > most && r.Air.Airtime != nil {
		time.Sleep(r.Air.Airtime(0)) // the second part has a preamble, too
	}
	r.Air.transmit(r, p)
}

func (r *RNode) hear(p []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.on {
		return
	}
	rssi := r.RSSI
	if rssi == 0 {
		rssi = -97
	}
	r.say(0x23, byte(rssi+157))
	r.say(0x24, byte(int8(r.SNR*4)))
	r.say(0x00, p...)
}

// Reset makes it start again, as a weak power supply does.
func (r *RNode) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.on, r.set = false, map[byte]uint32{}
	r.say(0x55, 0xF8)
}

// say writes one message; errors end Serve by themselves.
func (r *RNode) say(kind byte, body ...byte) {
	_, _ = r.out.Write(frame.AppendCommand(nil, kind, body))
}

func (r *RNode) command(kind byte, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kind == 0 {
		r.data(body)
		return
	}
	if len(body) == 0 {
		return
	}
	number := uint32(0)
	for _, c := range body {
		number = number<<8 | uint32(c)
	}
	switch kind {
	case 0x08:
		if body[0] == 0x73 {
			r.say(0x08, 0x46)
		}
	case 0x50:
		r.say(0x50, 1, 80)
	case 0x01, 0x02:
		if len(body) == 4 {
			r.set[kind] = number
			r.say(kind, binary.BigEndian.AppendUint32(nil, number)...)
		}
	case 0x03:
		most := r.MaxPower
		if most == 0 {
			most = 22
		}
		r.set[kind] = uint32(min(body[0], most))
		r.say(kind, min(body[0], most))
	case 0x04:
		r.set[kind] = uint32(min(max(body[0], 5), 12))
		r.say(kind, byte(r.set[kind]))
	case 0x05:
		r.set[kind] = uint32(min(max(body[0], 5), 8))
		r.say(kind, byte(r.set[kind]))
	case 0x0B, 0x0C:
		if len(body) == 2 {
			r.say(kind, body...)
		}
	case 0x06:
		r.state(body[0])
	case 0x0F:
		if !r.Mute {
			ready := byte(0)
			if len(r.queue) < cap(r.queue) {
				ready = 1
			}
			r.say(0x0F, ready)
		}
	}
}

func (r *RNode) state(state byte) {
	if state <= 1 {
		if r.Broken && state == 1 {
			r.say(0x90, 0x01)
		}
		r.on = state == 1 && !r.Broken && r.set[1] != 0 && r.set[2] != 0 && r.set[4] != 0 && r.set[5] != 0
	}
	on := byte(0)
	if r.on {
		on = 1
	}
	r.say(0x06, on)
}

func (r *RNode) data(body []byte) {
	switch {
	case !r.on:
		r.say(0x90, 0x02)
		return
	case len(body) > 508 || len(body) == 0:
		r.Dropped++
		return
	}
	select {
	case r.queue <- append([]byte(nil), body...):
	default:
		r.Dropped++
		r.say(0x90, 0x04)
	}
}
