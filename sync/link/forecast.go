// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/priority"
	"hallig/appliance/store"
)

// Forecaster is implemented by transports that can say when a message of so many bytes, handed over now, would have arrived: from what waits,
// the rate, the loss and the air time that may be used. false: nothing can be said.
type Forecaster interface {
	Forecast(addr string, priority, bytes int) (time.Duration, bool)
}

// carrier is the way that carries to a peer, for those who ask from outside of the loop.
type carrier struct {
	t        Transport
	addr     string
	bps      int
	hushes   bool // quiet keeps routine and bulk off it
	withheld []event.RoomID
}

// Outlook is when something would have arrived if nothing changed.
type Outlook struct {
	In    time.Duration // with the time that quiet holds it; 0: nothing can be said
	Away  bool          // no way leads there now
	Other bool          // it waits for another way than the one that does
	Quiet bool          // it waits for the end of the quiet after a flash
}

// Expect says when an event of a room, as urgent as it goes, would have arrived at a peer, with so many events before it that the peer lacks, too: those go as urgent as it
// does. bytes is the mean size of an event as it travels.
func (l *Link) Expect(server string, room event.RoomID, level priority.Level, ahead, bytes int) (o Outlook) {
	l.statusMu.Lock()
	c, ok := l.carriers[server]
	quiet := time.Until(l.quietUntil)
	l.statusMu.Unlock()
	switch {
	case !ok:
		return Outlook{Away: true}
	case slices.Contains(c.withheld, room):
		return Outlook{Other: true}
	}
	bytes *= ahead + 1
	if f, ok := c.t.(Forecaster); ok {
		if o.In, ok = f.Forecast(c.addr, int(level), bytes); !ok {
			o.In = 0
		}
	} else {
		o.In = time.Duration(float64(bytes*8) / float64(max(c.bps, 1)) * float64(time.Second))
	}
	if o.Quiet = c.hushes && level >= priority.Routine && quiet > 0; o.Quiet && o.In > 0 {
		o.In += quiet
	}
	return o
}

// Urgency is how urgent a stored event goes now, for its own sake or for that of what builds on it.
func (l *Link) Urgency(r *store.Read, row *store.Event) (priority.Level, error) {
	room, err := r.Room(row.Room)
	if room == nil || err != nil {
		return priority.Routine, err
	}
	v, ok := event.Lookup(room.Version)
	if !ok {
		return priority.Routine, nil
	}
	p, err := event.ParseTrusted(v, row.ID, row.JSON)
	if err != nil {
		return priority.Routine, fmt.Errorf("read how urgent %s is: %w", row.ID, err)
	}
	own, err := l.judge.Level(r, p)
	if err != nil {
		return priority.Routine, err
	}
	rush, err := l.judge.Rush(r, row.Room)
	return min(own, rush.Of(row.NID).Level), err
}

// Herald is what has become of a text that went ahead of its event.
type Herald struct {
	Transport string
	Left      time.Time // zero: the time is not known
	Arrived   bool      // the transport has acknowledged it
}

// mostHeralds bounds what is remembered of them, of all peers.
const mostHeralds = 256

type heraldName struct {
	server string
	event  event.ID
}

// heralded notes how far a text has gone ahead, for those who ask from outside of the loop.
func (l *Link) heralded(server string, id event.ID, transport string, arrived bool) {
	now := time.Now()
	if l.c.Clock != nil {
		now = l.c.Clock()
	}
	l.statusMu.Lock()
	defer l.statusMu.Unlock()
	n := heraldName{server, id}
	h, known := l.heralds[n]
	if !known {
		if len(l.heraldOrder) >= mostHeralds {
			delete(l.heralds, l.heraldOrder[0])
			l.heraldOrder = l.heraldOrder[1:]
		}
		l.heraldOrder = append(l.heraldOrder, n)
		h.Left = now
	}
	h.Transport, h.Arrived = transport, h.Arrived || arrived
	l.heralds[n] = h
}

// Heralded says what has become of the text of an event that went ahead to a peer; false when none has, as far as this life of the box knows.
func (l *Link) Heralded(server string, id event.ID) (Herald, bool) {
	l.statusMu.Lock()
	defer l.statusMu.Unlock()
	h, ok := l.heralds[heraldName{server, id}]
	return h, ok
}
