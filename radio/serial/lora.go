// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"time"

	"hallig/radio/airtime"
	"hallig/radio/frame"
)

// longest is the most that one LoRa packet of the modem carries. RNode splits up to 508 bytes into two; one packet each loses less.
func (m Modem) longest() int {
	if m.Kind == RNode {
		return 254 // one byte is RNode's own
	}
	return 255
}

// modulation is the modem's as it really sends: RNode lengthens the preamble to some 24 ms, at least 18 symbols; MeshCore's has 16, and at high
// rates 32. The longer is taken where it is not known.
func (m Modem) modulation() airtime.LoRa {
	l := airtime.LoRa{SpreadingFactor: m.SpreadingFactor, BandwidthHz: m.Bandwidth, CodingRate: m.CodingRate, Preamble: 18}
	switch {
	case m.Kind == RNode:
		l.Preamble = max(l.Preamble, int(24*time.Millisecond/l.Symbol()))
	case m.SpreadingFactor < 9:
		l.Preamble = 32
	}
	return l
}

// Airtime is how long a packet with n bytes of ours is on the air.
func (m Modem) Airtime(n int) time.Duration {
	m = m.filled()
	if m.Kind == KISS {
		// HDLC: flag, addresses, checksum of 2, flag, and one bit stuffed into 63 of chance.
		return time.Duration(n+frame.UISize+4) * 8 * 64 * time.Second / time.Duration(63*m.Rate)
	}
	l := m.modulation()
	if m.Kind != RNode {
		return l.Airtime(n)
	}
	d := time.Duration(0)
	for ; n > m.longest(); n -= m.longest() {
		d += l.Airtime(m.longest() + 1)
	}
	return d + l.Airtime(n+1)
}
