// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"errors"
	"fmt"
	"sync"
)

// direction is how a bus is switched; *Port has it.
type direction interface {
	SetRS485() error
	SetRTS(on bool) error
	Drain() error
}

// bus is a port whose RTS we raise for each transmission, because its driver does not.
type bus struct {
	Stream
	lines   direction
	writing sync.Mutex
}

func openRS485(m Modem, port Stream) (Stream, error) {
	if m.Adapter {
		return port, nil
	}
	lines, ok := port.(direction)
	if !ok {
		return nil, errors.New("open RS-485 bus: this port has no direction")
	}
	return newBus(m, port, lines)
}

func newBus(m Modem, port Stream, lines direction) (Stream, error) {
	err := lines.SetRS485()
	if err == nil {
		return port, nil
	}
	if rerr := lines.SetRTS(false); rerr != nil {
		return nil, fault(errors.Join(err, rerr), "Der Anschluss %[1]s kann die Richtung eines RS-485-Busses nicht umschalten. Schaltet der Adapter selbst um (die meisten USB-Adapter), bitte \"rs485_adapter\": true eintragen.",
			"The port %[1]s cannot switch the direction of an RS-485 bus. If the adapter switches by itself (most USB adapters do), please enter \"rs485_adapter\": true.", m.Device)
	}
	return &bus{Stream: port, lines: lines}, nil
}

// Write holds the bus until the last bit has left.
func (b *bus) Write(p []byte) (n int, err error) {
	b.writing.Lock()
	defer b.writing.Unlock()
	if err := b.lines.SetRTS(true); err != nil {
		return 0, fmt.Errorf("take the bus: %w", err)
	}
	defer func() {
		if derr := b.lines.SetRTS(false); err == nil && derr != nil {
			err = fmt.Errorf("leave the bus: %w", derr)
		}
	}()
	if n, err = b.Stream.Write(p); err != nil {
		return n, err
	}
	return n, b.lines.Drain()
}
