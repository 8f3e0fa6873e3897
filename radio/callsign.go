// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"time"

	"hallig/radio/frame"
)

// On bands of open language a station tells its call sign in clear: when it begins, at the beginning and the end of each contact, and at least
// every ten minutes in which it transmits. It goes before a transmission, in a frame of its own. Behind a TNC each packet bears it besides.

// callEvery leaves a transmission's length before ten minutes are over.
const callEvery = 9*time.Minute + 30*time.Second

// calls is what a port has told and heard of call signs.
type calls struct {
	due     time.Time // the own is told with the next transmission from then on
	telling bool
	heard   map[string]bool
}

// Open says that the link to a far end may carry nothing but open language (sync/link keeps what is encrypted away from it).
func (p *Port) Open(string) bool { return p.onlyOpen }

func (p *Port) callWire() []byte {
	return frame.COBS.Append(frame.COBS.Resync(), frame.CallFrame(p.cfg.CallSign))
}

// announce has the call sign told with the next transmission when it is due. Called with mu held.
func (p *Port) announce(now time.Time) {
	if !p.onlyOpen || p.cfg.CallSign == "" {
		return
	}
	if p.calls.telling && p.link.Announced() {
		p.calls.telling, p.calls.due = false, now.Add(callEvery)
	}
	if !p.calls.telling && !p.calls.due.After(now) {
		p.link.Announce(p.callWire())
		p.calls.telling = true
	}
}

// signOff tells the call sign for the last time.
func (p *Port) signOff(out chan<- []byte) {
	if !p.onlyOpen || p.cfg.CallSign == "" || p.Stats().BytesSent == 0 {
		return
	}
	wire := p.callWire()
	c := p.link.Config()
	limit := time.NewTimer(3 * time.Second)
	defer limit.Stop()
	select {
	case out <- wire:
	case <-limit.C:
		return
	}
	time.Sleep(min(c.TurnDelay+c.Airtime(len(wire))+50*time.Millisecond, 3*time.Second)) // it has to leave before the port closes
}

// mostHeard bounds the call signs that are remembered.
const mostHeard = 64

// callHeard notes a call sign. Called with mu held.
func (p *Port) callHeard(raw []byte) {
	f, err := frame.Parse(raw)
	if err != nil || f.Type != frame.Hello || frame.Open(raw, &f, frame.Context{}, nil) != nil {
		return
	}
	call, ok := frame.CallOf(&f)
	if !ok || p.calls.heard[call] || len(p.calls.heard) >= mostHeard {
		return
	}
	if p.calls.heard == nil {
		p.calls.heard = map[string]bool{}
	}
	p.calls.heard[call] = true
	p.log.Info("call sign heard", "call", call)
}
