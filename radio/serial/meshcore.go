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

// MeshCore's KISS modem firmware: the commands of a TNC, and behind hardware (6) what is LoRa's. Numbers are little endian, answers bear the
// number of the question with the upper bit set. https://github.com/meshcore-dev/MeshCore/blob/main/docs/kiss_modem_protocol.md
const (
	meshHardware                                                         = 6
	meshSetRadio, meshSetPower, meshGetRadio, meshGetPower, meshVersion  = 0x09, 0x0A, 0x0B, 0x0C, 0x11
	meshPing, meshSetReport, meshAnswer, meshOK, meshErr, meshDone, meta = 0x17, 0x19, 0x80, 0xF0, 0xF1, 0xF8, 0xF9
	meshBusy                                                             = 0x07 // error: one packet is pending already

	meshMTU   = 255
	meshCheck = 30 * time.Second // a modem that restarts forgets its settings and does not say so
)

// meshcore is a LoRa modem with MeshCore's KISS firmware. It has no flow control: one packet may be pending, the next one has to wait
// until it says done.
type meshcore struct {
	answers  map[byte][]byte // by their number
	okay     int
	mistakes int
	mistake  byte
	done     int // packets of which it said that they are on the air, or have failed
	failed   bool
	busy     bool
	running  bool

	checked time.Time // under writing
}

func openMeshCore(ctx context.Context, m Modem, port Stream) (Stream, error) {
	c := &meshcore{answers: map[byte][]byte{}}
	p := newPipe(m, port, c)
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	if err := c.start(p); err != nil {
		p.Close()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, err
	}
	return p, nil
}

// question asks once a second and gives the answer.
func (c *meshcore) question(p *pipe, patience time.Duration, number byte) (answer []byte, err error) {
	p.mu.Lock()
	delete(c.answers, number|meshAnswer)
	p.mu.Unlock()
	err = p.ask(patience, time.Second, func() error { return p.command(meshHardware, number) },
		func() bool {
			var ok bool
			answer, ok = c.answers[number|meshAnswer]
			return ok
		})
	return answer, err
}

// set gives a setting and waits for its OK.
func (c *meshcore) set(p *pipe, name string, number byte, body ...byte) error {
	p.mu.Lock()
	okay, mistakes := c.okay, c.mistakes
	p.mu.Unlock()
	err := p.ask(3*time.Second, time.Second, func() error { return p.command(meshHardware, append([]byte{number}, body...)...) },
		func() bool { return c.okay > okay || c.mistakes > mistakes })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return silent(p.modem, fmt.Errorf("no answer to %s", name))
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.okay > okay {
		return nil
	}
	return fault(nil, "Das MeshCore-Modem an %[1]s lehnt %[2]s ab (Fehler %[3]d). Bitte Werte eintragen, die das Gerät kann.",
		"The MeshCore modem at %[1]s refuses %[2]s (error %[3]d). Please enter values that the device can do.", p.modem.Device, name, c.mistake)
}

func (c *meshcore) radio(m Modem) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(m.Frequency))
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Bandwidth))
	return append(b, byte(m.SpreadingFactor), byte(m.CodingRate))
}

func (c *meshcore) start(p *pipe) error {
	m := p.modem
	if _, err := c.question(p, bootTime, meshPing); errors.Is(err, os.ErrDeadlineExceeded) {
		return silent(m, nil)
	} else if err != nil {
		return err
	}
	if err := c.set(p, "frequency_hz, bandwidth_hz, spreading_factor, coding_rate", meshSetRadio, c.radio(m)...); err != nil {
		return err
	}
	if err := c.set(p, "tx_power_dbm", meshSetPower, byte(m.Power)); err != nil {
		return err
	}
	if err := c.check(p); err != nil {
		return err
	}
	if err := c.power(p); err != nil {
		return err
	}
	for kind, value := range map[byte]int{kissDelay: int(m.TurnDelay / tick), kissPersist: m.Persist, kissSlot: int(m.Slot / tick), kissTail: int(m.Tail / tick), kissDuplex: 0} {
		if err := p.command(kind, byte(min(max(value, 0), 255))); err != nil {
			return err
		}
	}
	if err := p.command(meshHardware, meshSetReport, 1); err != nil {
		return err
	}
	version, err := c.question(p, 2*time.Second, meshVersion)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c.running = true
	if len(version) > 0 {
		p.quality.Note = fmt.Sprintf("MeshCore KISS %d", version[0])
	}
	return nil
}

// check asks the modem for its settings.
func (c *meshcore) check(p *pipe) error {
	got, err := c.question(p, 3*time.Second, meshGetRadio)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return silent(p.modem, fmt.Errorf("no answer to the question for its settings"))
	}
	if err != nil {
		return err
	}
	if string(got) != string(c.radio(p.modem)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if c.running {
			return restarted(p.modem)
		}
		return fault(nil, "Das MeshCore-Modem an %s hat die Funkeinstellungen nicht angenommen. Bitte Werte eintragen, die das Gerät kann.",
			"The MeshCore modem at %s did not take the radio settings. Please enter values that the device can do.", p.modem.Device)
	}
	c.checked = time.Now()
	return nil
}

// power asks for the power that was set; a device that cannot do it may say OK all the same.
func (c *meshcore) power(p *pipe) error {
	got, err := c.question(p, 3*time.Second, meshGetPower)
	if errors.Is(err, os.ErrDeadlineExceeded) || err == nil && len(got) != 1 {
		return silent(p.modem, fmt.Errorf("no answer to the question for its power"))
	}
	if err == nil && int(int8(got[0])) != p.modem.Power {
		err = unlike(p.modem, "tx_power_dbm", p.modem.Power, int(int8(got[0])))
	}
	return err
}

func (c *meshcore) heard(p *pipe, kind byte, body []byte) error {
	if kind == kissData {
		if c.running {
			p.deliver(body)
		}
		return nil
	}
	if kind != meshHardware || len(body) == 0 {
		return nil
	}
	number, body := body[0], body[1:]
	switch {
	case number == meshOK:
		c.okay++
	case number == meshErr && len(body) == 1:
		c.mistakes, c.mistake = c.mistakes+1, body[0]
		c.busy = c.busy || body[0] == meshBusy
	case number == meshDone && len(body) == 1:
		c.done++
		c.failed = body[0] == 0
	case number == meta && len(body) == 2:
		p.quality.SNR, p.quality.RSSI, p.quality.Signal = float64(int8(body[0]))/4, int(int8(body[1])), true
	case number >= meshAnswer && number < meshOK && len(body) <= 64:
		c.answers[number] = append([]byte(nil), body...)
	}
	return nil
}

// send waits until the frame is on the air.
func (c *meshcore) send(p *pipe, raw []byte, deadline time.Time) error {
	if len(raw) > meshMTU {
		p.refuse()
		return nil
	}
	if time.Since(c.checked) > meshCheck {
		if err := c.check(p); err != nil {
			return err
		}
	}
	// The channel may be busy for a while before the modem gets its turn.
	until := earliest(deadline, time.Now().Add(5*time.Second+3*p.modem.Airtime(len(raw))))
	for {
		p.mu.Lock()
		done := c.done
		c.busy = false
		p.mu.Unlock()
		if err := p.command(kissData, raw...); err != nil {
			return err
		}
		err := p.await(until, func() bool { return c.busy || c.done > done })
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.refuse()
			c.checked = time.Time{} // is it still there?
			return nil
		case err != nil:
			return err
		}
		p.mu.Lock()
		busy, failed := c.busy, c.failed
		p.mu.Unlock()
		if failed && !busy {
			p.refuse()
		}
		if !busy {
			return nil
		}
		p.refuse()
		// A packet of somebody before us is pending.
		if err := p.pause(until, 100*time.Millisecond); err != nil {
			return err
		}
		if expired(until) {
			return nil
		}
	}
}
