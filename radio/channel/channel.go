// SPDX-License-Identifier: EUPL-1.2

// Package channel lets several stations share one radio channel or RS-485 bus. It holds one radio/arq Link for each far
// station, finds stations, and decides whose link may transmit and when.
//
// It is pure, as radio/arq is: every call brings the time, Next says which bytes to write and when to ask again, Events says
// what happened, to which station. Stations have a number from 0 to MostStations-1 that names a place in the table, not a
// box: who is there is the layer above's to prove at every Up.
//
// How it works:
//
//   - Finding. A station sends a beacon with its name when it starts and from then on every few minutes, so that all beacons
//     together stay below 2 % of the time. Who hears a new name calls it: the hellos of radio/arq with both names in them. Data
//     frames carry no address: a frame is tried against the contacts, and its tag, which covers both epochs, fits one of them.
//   - Exchanges. A station that begins sends at most one transmission (the key-down time) and asks. The answer needs no
//     contention: everybody else has heard the question and leaves time for it. The answer may bring data and a question of
//     its own; then the exchange ends with a bare acknowledgement, and the channel is anybody's. Before a long transmission a
//     bare question goes first, so that two that begin at once lose little and stations that are hidden from the asker hear
//     that the answerer is about to listen.
//   - Beginning (contention.go). Bytes are heard: the channel is busy. Otherwise p-persistence in slots; who got no answer begins less often, and waits longer for
//     that station.
//   - Several at once (cast.go). A message for several stations goes out once, with parity for what each of them lacks.
//   - Turns given out (polled.go). Where one station is the master (an RS-485 bus), the others begin only when it lets them.
//
// Hostile input costs at most the table: sixteen stations, each with one Link. A station that has proved itself by keys is
// not put out by strangers; calls and answers to strangers are limited in number.
package channel

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"hallig/radio/arq"
	"hallig/radio/cast"
	"hallig/radio/frame"
)

// MostStations is how many far stations are kept.
const MostStations = 16

// Config of a channel.
type Config struct {
	Link    arq.Config // of every link; FullDuplex is not for several
	Station uint32     // our name, never 0; the same at every start, so that others know us again
	Polls   bool       // this station gives out the turns
}

// Event is what happened on the link to a station.
type Event struct {
	Station int
	ToAll   bool // Received: a broadcast. No key protects it, so anybody may have forged it.
	arq.Event
}

// Stats are counters since New, of all links together and of the channel's own frames.
type Stats struct {
	arq.Stats
	Stations  int    // with contact
	Overheard uint64 // frames between other stations
	Exchanges uint64 // begun here
	Failed    uint64 // of these, without an answer to their first question
	Strangers uint64 // calls and beacons that were not taken up
	Namesake  uint64 // beacons of another station under our name
}

// station is one far station.
type station struct {
	number   int
	name     uint32
	link     *arq.Link
	heardAt  time.Time // its last sign of life
	upAt     time.Time
	calls    int       // hellos without success
	callAt   time.Time // not called before
	answerBy time.Time // until then an answer needs no contention
	retryAt  time.Time // nothing begins before
	failedAt time.Time // an answer failed to come
	served   uint64    // when it was served last
	turn     turn      // polled.go
	cast     cast.Receiver
}

// Channel is one station's view. It must not be used concurrently.
type Channel struct {
	cfg      Config
	rng      *rand.Rand
	open     bool
	stations [MostStations]*station
	order    []*station // the last heard first
	full     bool
	events   []Event
	stats    Stats
	gone     arq.Stats // of links that are no more
	idle     *arq.Link // never started: knows what the book of air time says

	// The exchange under way.
	ex     *station
	mine   bool // begun here
	bursts int  // transmissions with data that were ours
	serial uint64

	medium medium
	rival  time.Time // last frame between two others
	polled polled

	beaconAt time.Time
	beacons  int
	speak    []byte    // a frame of the channel's own that goes next, without contention
	speakAt  time.Time // when
	cast     *outCast
	castTo   time.Time // its transmission ends
	castID   uint16
	announce []byte // goes before the next transmission
}

// New makes a channel without a port; Start begins.
func New(cfg Config) *Channel {
	cfg.Link.FullDuplex, cfg.Link.Shared, cfg.Link.Station = false, true, cfg.Station
	if cfg.Link.KeepAlive <= 0 {
		cfg.Link.KeepAlive = 5 * time.Minute // beacons tell that a station is there
	}
	cfg.Link.Fill()
	c := &Channel{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Link.Seed, 0x6368616e6e656c))}
	c.medium.p, c.idle = mostEager, arq.New(cfg.Link)
	return c
}

// Config is that of the links, with all that was computed.
func (c *Channel) Config() arq.Config { return c.cfg.Link }

// Start says that the port is open.
func (c *Channel) Start(now time.Time) {
	c.open = true
	c.medium = medium{p: mostEager, heardAt: now}
	c.beacons, c.beaconAt = 0, now.Add(c.random(c.cfg.Link.Beacon/4))
	c.polled = polled{listenTo: now.Add(2 * c.cfg.Link.Beacon)}
}

// Stop says that the port is gone: all contacts end.
func (c *Channel) Stop() {
	for _, s := range c.stations {
		if s != nil {
			c.drop(s)
		}
	}
	c.castDone(true)
	c.open, c.ex, c.speak = false, nil, nil
}

// drop takes a station out of the table.
func (c *Channel) drop(s *station) {
	s.link.Stop()
	c.drain(s)
	c.gone = add(c.gone, s.link.Stats())
	c.stations[s.number] = nil
	for i, o := range c.order {
		if o == s {
			c.order = append(c.order[:i], c.order[i+1:]...)
			break
		}
	}
	if c.ex == s {
		c.ex = nil
	}
}

// Events hands over what happened since the last call.
func (c *Channel) Events() []Event {
	for _, s := range c.stations {
		if s != nil {
			c.drain(s)
		}
	}
	e := c.events
	c.events = nil
	return e
}

// drain takes over what happened on a link.
func (c *Channel) drain(s *station) {
	for _, e := range s.link.Events() {
		c.events = append(c.events, Event{Station: s.number, Event: e})
	}
}

// SetFull says that the reader has no room.
func (c *Channel) SetFull(full bool) {
	c.full = full
	for _, s := range c.stations {
		if s != nil {
			s.link.SetFull(full)
		}
	}
}

func (c *Channel) at(number int) *station {
	if number < 0 || number >= MostStations {
		return nil
	}
	return c.stations[number]
}

// Send queues a message for a station; see arq.Link.Send. The Done event comes even where there is no such station.
func (c *Channel) Send(number, priority int, data []byte, token any) {
	if s := c.at(number); s != nil {
		s.link.Send(priority, data, token)
		return
	}
	c.events = append(c.events, Event{Station: number, Event: arq.Event{Kind: arq.Done, Token: token, Err: arq.ErrDown}})
}

// Free is how many bytes may be queued for a station at a priority.
func (c *Channel) Free(number, priority int) int {
	if s := c.at(number); s != nil {
		return s.link.Free(priority)
	}
	return 0
}

// SetKeys sets the keys of the contact with a station.
func (c *Channel) SetKeys(number int, send, receive []byte) error {
	if s := c.at(number); s != nil {
		return s.link.SetKeys(send, receive)
	}
	if send == nil && receive == nil {
		return nil
	}
	return arq.ErrDown
}

// Up says whether there is contact with a station.
func (c *Channel) Up(number int) bool {
	s := c.at(number)
	return s != nil && s.link.Up()
}

// Announce puts bytes, framed, before the next transmission; Announced says whether that has happened.
func (c *Channel) Announce(wire []byte) { c.announce = wire }
func (c *Channel) Announced() bool      { return c.announce == nil }

// Keyed says whether all stations with contact protect their frames with keys, and there is one.
func (c *Channel) Keyed() bool {
	keyed := false
	for _, s := range c.order {
		if s.link.Up() {
			if !s.link.Keyed() {
				return false
			}
			keyed = true
		}
	}
	return keyed
}

// Air says what is left of the hour's air time.
func (c *Channel) Air(now time.Time) arq.Air {
	for _, s := range c.order {
		if _, _, work := s.link.Urgent(); work {
			return s.link.Air(now)
		}
	}
	return c.idle.Air(now)
}

// Forecast is when a message queued now for a station would have arrived; see arq.Link.Forecast. What waits for other stations and is as
// urgent shares the turns with it.
func (c *Channel) Forecast(now time.Time, number, priority, n int) (time.Time, bool) {
	s := c.at(number)
	if s == nil {
		return time.Time{}, false
	}
	others := 0
	for _, o := range c.order {
		if p, bytes, work := o.link.Urgent(); o != s && work && p <= priority {
			others += bytes
		}
	}
	if len(c.order) > 1 {
		_, own, _ := s.link.Urgent()
		others = min(others, (own+n)*(len(c.order)-1)) // turns are fair
	}
	return s.link.Forecast(now, priority, n, others)
}

// Stats are the counters.
func (c *Channel) Stats() Stats {
	out := c.stats
	out.Stats = add(out.Stats, c.gone)
	for _, s := range c.stations {
		if s == nil {
			continue
		}
		out.Stats = add(out.Stats, s.link.Stats())
		if s.link.Up() {
			out.Stations++
		}
	}
	return out
}

func add(a, b arq.Stats) arq.Stats {
	a.FramesSent += b.FramesSent
	a.FramesReceived += b.FramesReceived
	a.FramesRefused += b.FramesRefused
	a.Retransmissions += b.Retransmissions
	a.MessagesSent += b.MessagesSent
	a.MessagesReceived += b.MessagesReceived
	a.Contacts += b.Contacts
	a.Unanswered += b.Unanswered
	a.Unlike += b.Unlike
	a.BytesSent += b.BytesSent
	a.Airtime += b.Airtime
	return a
}

// meet finds the place of a station, giving it one if there is room or somebody who has less right to it; nil: no.
func (c *Channel) meet(now time.Time, name uint32) *station {
	for _, s := range c.order {
		if s.name == name {
			return s
		}
	}
	number := -1
	for i, s := range c.stations {
		if s == nil {
			number = i
			break
		}
	}
	if number < 0 {
		old := c.least(now)
		if old == nil {
			return nil
		}
		number = old.number
		c.drop(old)
	}
	cfg := c.cfg.Link
	cfg.Far = name
	cfg.Seed = c.rng.Uint64()
	s := &station{number: number, name: name, link: arq.New(cfg), heardAt: now}
	s.link.SetFull(c.full)
	c.stations[number] = s
	c.order = append(c.order, s)
	return s
}

// strangerTime is how long a contact without keys keeps its place although another station asks for it.
const strangerTime = 2 * time.Minute

// least is the station that has to make room for a new one: without contact before without keys, the longest silent first.
func (c *Channel) least(now time.Time) *station {
	var least *station
	for _, s := range c.stations {
		switch {
		case s.link.Keyed() || s == c.ex:
			continue
		case s.link.Up() && now.Sub(s.upAt) < strangerTime:
			continue
		case least == nil, least.link.Up() && !s.link.Up(), least.link.Up() == s.link.Up() && s.heardAt.Before(least.heardAt):
			least = s
		}
	}
	return least
}

// alive notes a sign of life.
func (c *Channel) alive(now time.Time, s *station) {
	s.heardAt = now
	for i, o := range c.order {
		if o == s {
			copy(c.order[1:i+1], c.order[:i])
			c.order[0] = s
			return
		}
	}
}

// random is evenly spread over [0, d).
func (c *Channel) random(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(c.rng.Int64N(int64(d)))
}

// The channel's own frames are hellos of another version: they go under CRC and are for all.
//
//	version 2, kind, flags, sender's name 4, then by kind
const (
	ownVersion = 2
	ownSize    = 7

	kindBeacon = 1 // I am here
	kindWho    = 2 // master: who is there? slots 1: answer with a beacon in one of so many slots, drawn at random
	kindTurn   = 3 // master: to 4, ms 2: the turn is yours for so long
	kindDone   = 4 // I have spoken; backlog 2: units of 16 bytes that I could not send

	flagMaster = 1
)

// own is one of the channel's own frames.
type own struct {
	kind, flags byte
	from        uint32
	rest        []byte
}

func (o own) wire(g frame.Framing) []byte { return append(g.Resync(), o.bare(g)...) }

// bare is the frame without what keeps it apart from noise before it.
func (o own) bare(g frame.Framing) []byte {
	b := []byte{ownVersion, o.kind, o.flags}
	b = binary.LittleEndian.AppendUint32(b, o.from)
	f := frame.Frame{Type: frame.Hello, Body: append(b, o.rest...)}
	return g.Append(nil, frame.Seal(nil, &f, frame.Context{}, nil))
}

func parseOwn(b []byte) (own, bool) {
	if len(b) < ownSize || b[0] != ownVersion {
		return own{}, false
	}
	return own{b[1], b[2], binary.LittleEndian.Uint32(b[3:]), b[ownSize:]}, true
}
