// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"hallig/radio/arq"
	"hallig/radio/channel"
)

// wire is what a port speaks over: one link to one far end, or a channel that several stations share. Far ends are numbered.
type wire interface {
	Start(now time.Time)
	Stop()
	Heard(now time.Time)
	Receive(now time.Time, raw []byte)
	Next(now time.Time) ([]byte, time.Time)
	Events() []channel.Event
	SetFull(full bool)
	Send(station, priority int, data []byte, token any)
	Free(station, priority int) int
	SetKeys(station int, send, receive []byte) error
	Up(station int) bool
	Keyed() bool
	Config() arq.Config
	Stats() channel.Stats
	Air(now time.Time) arq.Air
	Forecast(now time.Time, station, priority, n int) (time.Time, bool)
	Announce(wire []byte)
	CastRoom(stations []int) int
	Cast(stations []int, priority int, message []byte, token any)
	Announced() bool
}

// single is one link as a wire: its far end has the number 0.
type single struct{ *arq.Link }

func (s single) Events() (out []channel.Event) {
	for _, e := range s.Link.Events() {
		out = append(out, channel.Event{Event: e})
	}
	return out
}

func (s single) Send(_, priority int, data []byte, token any) { s.Link.Send(priority, data, token) }
func (s single) Free(_, priority int) int                     { return s.Link.Free(priority) }
func (s single) SetKeys(_ int, send, receive []byte) error    { return s.Link.SetKeys(send, receive) }
func (s single) Up(int) bool                                  { return s.Link.Up() }

func (s single) CastRoom([]int) int           { return 0 }
func (s single) Cast([]int, int, []byte, any) {} // nobody asks where there is no room

func (s single) Forecast(now time.Time, _, priority, n int) (time.Time, bool) {
	return s.Link.Forecast(now, priority, n, 0)
}

func (s single) Stats() channel.Stats {
	out := channel.Stats{Stats: s.Link.Stats()}
	if s.Link.Up() {
		out.Stations = 1
	}
	return out
}

// addr is the address of a far end.
func (p *Port) addr(station int) string {
	if !p.cfg.Shared {
		return p.Addr()
	}
	return p.cfg.Name + "#" + strconv.Itoa(station+1)
}

// station is the far end of an address.
func (p *Port) station(addr string) (int, error) {
	if !p.cfg.Shared {
		if addr != p.Addr() {
			return 0, fmt.Errorf("%s on %s: no such far end", addr, p.Name())
		}
		return 0, nil
	}
	rest, ok := strings.CutPrefix(addr, p.cfg.Name+"#")
	n, err := strconv.Atoi(rest)
	if !ok || err != nil || n < 1 || n > channel.MostStations {
		return 0, fmt.Errorf("%s on %s: no such station", addr, p.Name())
	}
	return n - 1, nil
}

// Together says how long a message may be that is sent to several far ends at once now (sync/link.Broadcaster); 0: it cannot be.
func (p *Port) Together(addrs []string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	stations, err := p.places(addrs)
	if err != nil || !p.cfg.Shared {
		return 0
	}
	return p.link.CastRoom(stations)
}

// toAll ends the address under which a broadcast comes in: no key has protected it.
const toAll = "*"

func (p *Port) heardAt(station int, all bool) string {
	if all {
		return p.addr(station) + toAll
	}
	return p.addr(station)
}

// ToAll says whose broadcasts come in under an address.
func (p *Port) ToAll(addr string) (from string, ok bool) { return strings.CutSuffix(addr, toAll) }

// places are the stations of addresses.
func (p *Port) places(addrs []string) (out []int, err error) {
	for _, a := range addrs {
		n, err := p.station(a)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// castTo is the token of a broadcast.
type castTo func(station int, err error)

// Broadcast sends one message to several far ends at once. done is called exactly once for each of them, never from within Broadcast. Whoever
// can hear the channel can read it, whatever keys there are: what must not be read is to be encrypted above.
func (p *Port) Broadcast(addrs []string, priority int, message []byte, done func(addr string, err error)) {
	p.mu.Lock()
	stations, err := p.places(addrs)
	if err != nil || !p.serving || !p.cfg.Shared {
		p.mu.Unlock()
		go func() { // ends with the callbacks
			for _, a := range addrs {
				done(a, fmt.Errorf("broadcast over %s: %w", p.Name(), ErrDown))
			}
		}()
		return
	}
	p.link.Cast(stations, priority, message, castTo(func(n int, err error) { done(p.addr(n), err) }))
	p.collect()
	p.mu.Unlock()
	poke(p.kick)
}
