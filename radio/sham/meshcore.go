// SPDX-License-Identifier: EUPL-1.2

package sham

import (
	"io"
	"sync"
	"time"

	"hallig/radio/frame"
)

// MeshCore is a LoRa modem with MeshCore's KISS firmware.
type MeshCore struct {
	Air      *Air
	Boot     time.Duration // says and hears nothing before
	MaxPower byte          // dBm that it can do; 0: 22
	Picky    bool          // refuses any radio settings
	Deaf     bool          // takes packets and never says that they are sent
	Pending  time.Duration // for so long after the start somebody's old packet is pending

	mu      sync.Mutex
	out     io.Writer
	radio   [10]byte
	power   byte
	pending bool
	sender  sync.WaitGroup
	reports bool

	Busy, Dropped int // packets refused aloud and silently; read them after Serve
}

// Serve runs it until the stream ends.
func (m *MeshCore) Serve(s io.ReadWriter) error {
	if m.Boot > 0 {
		if err := discard(s, time.After(m.Boot)); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.out, m.radio, m.power, m.reports = s, [10]byte{}, 0, true
	m.mu.Unlock()
	if m.Pending > 0 {
		m.pending = true
		m.sender.Go(func() {
			time.Sleep(m.Pending)
			m.sent(1)
		})
	}
	m.Air.listen(m, m.hear)
	defer func() {
		m.Air.leave(m)
		m.sender.Wait()
	}()
	var d frame.CommandDecoder
	buf := make([]byte, 512)
	for {
		n, err := s.Read(buf)
		d.Feed(buf[:n], m.command)
		if err != nil {
			return err
		}
	}
}

// Reset makes it start again, silently, with other settings.
func (m *MeshCore) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.radio, m.power = [10]byte{1}, 0
}

func (m *MeshCore) say(kind byte, body ...byte) {
	_, _ = m.out.Write(frame.AppendCommand(nil, kind, body)) // errors end Serve by themselves
}

func (m *MeshCore) hear(p []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.radio == [10]byte{} || m.radio[0] == 1 && m.radio[4] == 0 {
		return
	}
	m.say(0, p...)
	if m.reports {
		m.say(6, 0xF9, byte(0xE8), byte(0x9F)) // -6 dB, -97 dBm
	}
}

func (m *MeshCore) sent(result byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pending = false
	m.say(6, 0xF8, result)
}

func (m *MeshCore) command(kind byte, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case kind == 0 && m.pending:
		m.Busy++
		m.say(6, 0xF1, 0x07)
	case kind == 0 && (len(body) == 0 || len(body) > 255):
		m.Dropped++
	case kind == 0:
		m.pending = true
		p := append([]byte(nil), body...)
		m.sender.Go(func() {
			m.Air.transmit(m, p)
			if !m.Deaf {
				m.sent(1)
			}
		})
	case kind == 6 && len(body) > 0:
		m.hardware(body[0], body[1:])
	}
}

func (m *MeshCore) hardware(number byte, body []byte) {
	switch number {
	case 0x17:
		m.say(6, 0x97)
	case 0x09:
		switch {
		case len(body) < 10:
			m.say(6, 0xF1, 0x01)
		case m.Picky:
			m.say(6, 0xF1, 0x02)
		default:
			m.radio = [10]byte(body)
			m.say(6, 0xF0)
		}
	case 0x0A:
		most := m.MaxPower
		if most == 0 {
			most = 22
		}
		if len(body) < 1 {
			m.say(6, 0xF1, 0x01)
			return
		}
		m.power = min(body[0], most)
		m.say(6, 0xF0)
	case 0x0B:
		m.say(6, append([]byte{0x8B}, m.radio[:]...)...)
	case 0x0C:
		m.say(6, 0x8C, m.power)
	case 0x11:
		m.say(6, 0x91, 1, 0)
	case 0x19:
		m.reports = len(body) > 0 && body[0] != 0
		m.say(6, 0x9A, 1)
	default:
		m.say(6, 0xF1, 0x05)
	}
}
