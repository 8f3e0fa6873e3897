// SPDX-License-Identifier: EUPL-1.2

package link

import "time"

// Forecaster is implemented by transports that can say when a message of so many bytes, handed over now, would have arrived: from what waits,
// the rate, the loss and the air time that may be used. false: nothing can be said.
type Forecaster interface {
	Forecast(addr string, priority, bytes int) (time.Duration, bool)
}

// carrier is the way that carries to a peer, for those who ask from outside of the loop.
type carrier struct {
	t    Transport
	addr string
	bps  int
}

// Expect says in what time an event would have arrived at a peer if nothing changes, with so many events before it that the peer lacks too.
// bytes is the mean size of an event as it travels.
func (l *Link) Expect(server string, ahead, bytes int) (time.Duration, bool) {
	l.statusMu.Lock()
	c, ok := l.carriers[server]
	l.statusMu.Unlock()
	if !ok {
		return 0, false
	}
	f, ok := c.t.(Forecaster)
	if !ok {
		return time.Duration(float64((ahead+1)*bytes*8) / float64(max(c.bps, 1)) * float64(time.Second)), true
	}
	return f.Forecast(c.addr, 3, (ahead+1)*bytes)
}
