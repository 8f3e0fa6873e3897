// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
)

// Commands of RNode firmware: numbers are big endian, answers bear the number of the question.
const (
	rnodeData, rnodeFrequency, rnodeBandwidth, rnodePower, rnodeSF, rnodeCR, rnodeRadio = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
	rnodeDetect, rnodeLeave, rnodeShort, rnodeLong, rnodeReady                          = 0x08, 0x0A, 0x0B, 0x0C, 0x0F
	rnodeRSSI, rnodeSNR, rnodeVersion, rnodeReset, rnodeError                           = 0x23, 0x24, 0x50, 0x55, 0x90

	rnodeHello, rnodeHere = 0x73, 0x46 // of rnodeDetect
	rnodeMTU              = 508        // longer ones it cannot split
	rnodeRSSIZero         = 157

	bootTime = 6 * time.Second // boards restart when their port is opened
)

// rnode is a LoRa modem with RNode firmware.
type rnode struct {
	here    bool
	version [2]byte
	told    map[byte]uint32 // what it has reported of its settings
	ready   int             // 1 yes, 0 no, -1 not said since asked
	mute    bool            // it does not say
	running bool
}

func openRNode(ctx context.Context, m Modem, port Stream) (Stream, error) {
	r := &rnode{told: map[byte]uint32{}}
	p := newPipe(m, port, r)
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	if err := r.start(p); err != nil {
		p.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return p, nil
}

func (r *rnode) start(p *pipe) error {
	m := p.modem
	err := p.ask(bootTime, 400*time.Millisecond, func() error {
		if err := p.command(rnodeDetect, rnodeHello); err != nil {
			return err
		}
		return p.command(rnodeVersion, 0)
	}, func() bool { return r.here && r.version != [2]byte{} })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return silent(m, nil)
	}
	if err != nil {
		return err
	}
	settings := []struct {
		kind  byte
		name  string
		value uint32
		bytes int
	}{
		{rnodeFrequency, "frequency_hz", uint32(m.Frequency), 4},
		{rnodeBandwidth, "bandwidth_hz", uint32(m.Bandwidth), 4},
		{rnodePower, "tx_power_dbm", uint32(m.Power), 1},
		{rnodeSF, "spreading_factor", uint32(m.SpreadingFactor), 1},
		{rnodeCR, "coding_rate", uint32(m.CodingRate), 1},
		{rnodeShort, "airtime_limit_short", uint32(m.AirtimeShort * 100), 2},
		{rnodeLong, "airtime_limit_long", uint32(m.AirtimeLong * 100), 2},
		{rnodeRadio, "", 1, 1},
	}
	for _, s := range settings {
		body := binary.BigEndian.AppendUint32(nil, s.value)[4-s.bytes:]
		err := p.ask(3*time.Second, time.Second, func() error { return p.command(s.kind, body...) }, func() bool { return r.has(s.kind) })
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if (s.kind == rnodeShort || s.kind == rnodeLong) && s.value == 0 {
				continue // older firmware knows none
			}
			return silent(m, fmt.Errorf("no answer to %s", s.name))
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		got := r.told[s.kind]
		p.mu.Unlock()
		switch {
		case s.kind == rnodeRadio && got != 1:
			return fault(nil, "Das RNode-Modem an %s schaltet seinen Funkteil nicht ein. Passen Frequenz und Gerät zusammen (868 oder 433 MHz)?",
				"The RNode modem at %s does not switch its radio on. Do frequency and device fit each other (868 or 433 MHz)?", m.Device)
		case s.kind == rnodeFrequency && max(got, s.value)-min(got, s.value) < 1000: // its oscillator has steps
		case s.bytes == 2 && max(got, s.value)-min(got, s.value) <= 1: // it rounds
		case got != s.value:
			return unlike(m, s.name, int(s.value), int(got))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r.running = true
	p.quality.Note = fmt.Sprintf("RNode %d.%d", r.version[0], r.version[1])
	return nil
}

func (r *rnode) has(kind byte) bool {
	_, ok := r.told[kind]
	return ok
}

func (r *rnode) heard(p *pipe, kind byte, body []byte) error {
	number := uint32(0)
	for _, c := range body[:min(len(body), 4)] {
		number = number<<8 | uint32(c)
	}
	switch {
	case kind == rnodeData:
		if r.running {
			p.deliver(body)
		}
	case len(body) == 0: // all others say something
	case kind == rnodeDetect:
		r.here = r.here || body[0] == rnodeHere
	case kind == rnodeVersion && len(body) >= 2:
		r.version = [2]byte(body)
	case kind == rnodeReady:
		r.ready = int(body[0] & 1)
	case kind == rnodeRSSI:
		p.quality.RSSI, p.quality.Signal = int(body[0])-rnodeRSSIZero, true
	case kind == rnodeSNR:
		p.quality.SNR, p.quality.Signal = float64(int8(body[0]))/4, true
	case kind == rnodeError:
		return r.failed(p, body[0])
	case kind == rnodeReset && r.running, kind == rnodeRadio && r.running && number == 0:
		return restarted(p.modem)
	case kind >= rnodeFrequency && kind <= rnodeRadio, kind == rnodeShort, kind == rnodeLong:
		r.told[kind] = number
	}
	return nil
}

func (r *rnode) failed(p *pipe, code byte) error {
	switch code {
	case 0x01:
		return fault(nil, "Das RNode-Modem an %s meldet, dass sein Funkteil nicht antwortet: Firmware für dieses Gerät neu aufspielen, oder das Gerät ist defekt.",
			"The RNode modem at %s reports that its radio does not answer: install the firmware for this very device again, or the device is broken.", p.modem.Device)
	case 0x02, 0x04, 0x05: // not sent, no room
		p.quality.Refused++
		if r.running {
			r.ready = 0
		}
	}
	return nil
}

// send asks for room before each frame, since the modem drops what it has none for without a word.
func (r *rnode) send(p *pipe, raw []byte, deadline time.Time) error {
	if len(raw) > rnodeMTU {
		p.refuse()
		return nil
	}
	for wait := 50 * time.Millisecond; !r.mute; wait = min(2*wait, time.Second) {
		p.mu.Lock()
		r.ready = -1
		p.mu.Unlock()
		if err := p.command(rnodeReady, 0); err != nil {
			return err
		}
		err := p.await(earliest(deadline, time.Now().Add(2*time.Second)), func() bool { return r.ready >= 0 })
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.mute = true // older firmware; one that hangs shows itself by silence
			break
		}
		if err != nil {
			return err
		}
		p.mu.Lock()
		ready := r.ready > 0
		p.mu.Unlock()
		if ready {
			break
		}
		if expired(deadline) {
			p.refuse()
			return nil
		}
		if err := p.pause(deadline, wait); err != nil {
			return err
		}
	}
	return p.command(rnodeData, raw...)
}
