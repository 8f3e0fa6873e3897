// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"strings"
	"time"

	"hallig/radio/frame"
)

// Commands of a TNC, http://www.ax25.net/kiss.aspx: the lower half of the first byte; the upper half is the radio.
const (
	kissData, kissDelay, kissPersist, kissSlot, kissTail, kissDuplex = 0, 1, 2, 3, 4, 5

	tick     = 10 * time.Millisecond // unit of its times
	setAgain = 5 * time.Minute       // a TNC that was switched off and on forgets, and cannot be asked
)

// called is whom packets are addressed to: not a station, as in APRS, but what is spoken.
const called = "HALLIG"

// tnc is a modem of packet radio. It never answers, so nothing can be known of it but what it hears.
type tnc struct {
	address frame.UI
	radio   byte
	packet  []byte
	isSet   time.Time // under writing
}

func openKISS(m Modem, port Stream) (Stream, error) {
	t := &tnc{address: frame.UI{To: called, From: m.CallSign}, radio: byte(m.Port&15) << 4}
	if _, err := t.address.Append(nil, nil); err != nil {
		return nil, fault(err, "Das Rufzeichen %q gibt es nicht: Buchstaben und Ziffern, höchstens sechs, dahinter vielleicht -1 bis -15.",
			"There is no call sign %q: letters and digits, six at most, perhaps -1 to -15 behind them.", m.CallSign)
	}
	// A TNC that still talks to people is told to speak KISS. The blank line ends what may stand in its input.
	p := newPipe(m, port, t)
	for _, line := range strings.Fields(m.Init) {
		if _, err := port.Write([]byte("\r" + strings.ReplaceAll(line, "_", " ") + "\r")); err != nil {
			p.Close()
			return nil, err
		}
	}
	if err := t.set(p); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// set gives the TNC its parameters.
func (t *tnc) set(p *pipe) error {
	m := p.modem
	for _, c := range []struct {
		kind  byte
		value int
	}{
		{kissDelay, int(m.TurnDelay / tick)}, {kissPersist, m.Persist}, {kissSlot, int(m.Slot / tick)}, {kissTail, int(m.Tail / tick)}, {kissDuplex, 0},
	} {
		if err := p.command(t.radio|c.kind, byte(min(max(c.value, 0), 255))); err != nil {
			return err
		}
	}
	t.isSet = time.Now()
	return nil
}

func (t *tnc) heard(p *pipe, kind byte, body []byte) error {
	if kind != t.radio|kissData {
		return nil // another radio's, or chatter
	}
	u, raw, ok := frame.ParseUI(body)
	if !ok || u.To != called {
		return nil // somebody else's packet
	}
	p.deliver(raw)
	return nil
}

func (t *tnc) send(p *pipe, raw []byte, _ time.Time) error {
	if time.Since(t.isSet) > setAgain {
		if err := t.set(p); err != nil {
			return err
		}
	}
	var err error
	if t.packet, err = t.address.Append(t.packet[:0], raw); err != nil {
		return err
	}
	return p.command(t.radio|kissData, t.packet...)
}
