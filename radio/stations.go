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
	Announce(wire []byte)
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
