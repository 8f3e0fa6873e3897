// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"hallig/radio/frame"
)

// Kind of modem.
type Kind string

// The kinds.
const (
	Transparent Kind = "transparent" // what is written comes out at the far end, one at a time
	Null        Kind = "null"        // a crossed cable, or a pair of modems that may both talk at once
	RS485       Kind = "rs485"       // a bus on two wires, with a direction to switch
	AT          Kind = "at"          // dials, or answers
	KISS        Kind = "kiss"        // a TNC of packet radio
	RNode       Kind = "rnode"       // LoRa, RNode firmware
	MeshCore    Kind = "meshcore"    // LoRa, MeshCore's KISS modem firmware
)

// Kinds lists the kinds in the order in which people are told of them.
func Kinds() []Kind { return []Kind{Transparent, Null, RS485, AT, KISS, RNode, MeshCore} }

// Modem is a modem and how it is set. Zero values are replaced by what suits the kind.
type Modem struct {
	Kind   Kind
	Device string // /dev/ttyUSB0; for kiss and rnode also tcp:HOST:PORT

	Baud      int           // between the box and the modem; 0: 9600, or what the firmware speaks
	RTSCTS    bool          // hardware flow control between the box and the modem
	Rate      int           // bit/s on the air or the wire behind it; 0: the same as Baud, for LoRa computed
	TurnDelay time.Duration // from the end of one end's transmission to the first bits of the other's

	CallSign string // kiss: the sender in each packet's address; "": NOCALL
	Port     int    // kiss: which radio of the TNC
	Persist  int    // kiss, meshcore: chance to send when the channel is free, of 256; 0: 250, nearly always
	Slot     time.Duration
	Tail     time.Duration
	Init     string // at, kiss: commands at the start, with blanks between them
	Number   string // at: whom to call; "": wait to be called
	Adapter  bool   // rs485: the adapter turns its direction by itself

	Frequency, Bandwidth        int           // LoRa, Hz
	SpreadingFactor, CodingRate int           // LoRa: 5 to 12, 5 to 8
	Power                       int           // LoRa, dBm
	redial                      time.Duration // at: wait so long to be called before calling

	AirtimeShort, AirtimeLong float64 // rnode: percent of 15 seconds and of an hour; 0: no limit in the device
}

// Opener opens the same modem again and again. Its method is not safe for concurrent use.
//
// After a call that failed it first waits for the far end to call, twice as long each time, and by chance: so two ends that both have a number
// settle who calls, and nobody's number is called without a pause.
type Opener struct {
	modem Modem
	fails int
	open  func(context.Context, Modem) (Stream, error)
}

// NewOpener makes one.
func NewOpener(m Modem) *Opener { return &Opener{modem: m, open: OpenModem} }

const firstRedial, mostRedial = 4 * time.Second, 5 * time.Minute

// Open is OpenModem.
func (o *Opener) Open(ctx context.Context) (Stream, error) {
	m := o.modem
	if o.fails > 0 {
		m.redial = min(firstRedial<<min(o.fails-1, 10), mostRedial)
		m.redial = m.redial/2 + rand.N(m.redial)
	}
	s, err := o.open(ctx, m)
	var f *Fault
	switch {
	case err == nil:
		o.fails = 0
		return s, nil
	case errors.As(err, &f) && f.call:
		o.fails++
	}
	return nil, err
}

// LoRa says whether the kind is a LoRa modem.
func (k Kind) LoRa() bool { return k == RNode || k == MeshCore }

// Packets says whether the modem takes whole frames and keeps their limits.
func (k Kind) Packets() bool { return k == KISS || k.LoRa() }

func (m Modem) filled() Modem {
	if m.Kind.LoRa() {
		m.Baud = cmp.Or(m.Baud, 115200)
		m.Bandwidth = cmp.Or(m.Bandwidth, 125_000)
		m.SpreadingFactor = cmp.Or(m.SpreadingFactor, 9)
		m.CodingRate = cmp.Or(m.CodingRate, 5)
		m.Power = cmp.Or(m.Power, 14)
	}
	m.Baud = cmp.Or(m.Baud, 9600)
	m.Persist = cmp.Or(m.Persist, 250)
	m.Slot = cmp.Or(m.Slot, 100*time.Millisecond)
	m.CallSign = cmp.Or(m.CallSign, "NOCALL")
	if m.Kind == KISS {
		m.Rate = cmp.Or(m.Rate, 1200)
		m.TurnDelay = cmp.Or(m.TurnDelay, 300*time.Millisecond)
		m.Tail = cmp.Or(m.Tail, 50*time.Millisecond)
	}
	return m
}

// Air is what a link must know of what is behind the port.
type Air struct {
	BitsPerSecond, BitsPerByte int
	FullDuplex                 bool
	TurnDelay                  time.Duration
	Lead                       time.Duration             // how early it must have a frame to send it without a pause; 0: as usual
	MTU                        int                       // longest body of a frame; 0: by rate
	Packet                     func(n int) time.Duration // how long a frame of n bytes is on the air; nil: by rate
}

// Air computes it.
func (m Modem) Air() Air {
	m = m.filled()
	a := Air{BitsPerSecond: cmp.Or(m.Rate, m.Baud), TurnDelay: m.TurnDelay, FullDuplex: m.Kind == Null || m.Kind == AT}
	switch {
	case m.Kind == KISS:
		// A TNC keys off when it has no further frame at the end of one, and those that make sound work ahead: so it has one in hand.
		// It waits a slot or more for a free channel, keys up, and hands a frame on when its end has been heard and understood.
		a.Packet, a.MTU, a.Lead = m.Airtime, kissMTU, m.Airtime(kissMTU)
		if m.Rate < 600 {
			a.MTU = 120
		}
		a.TurnDelay += m.Tail + kissTurn + m.Slot*256/time.Duration(m.Persist+1)
	case m.Kind.LoRa():
		full := m.longest()
		if m.Airtime(full) > 4*time.Second {
			full = 137
		}
		a.Packet, a.MTU = m.Airtime, full-frame.HeaderSize-frame.MaxAckSize-frame.TagSize
		a.TurnDelay += loraTurn
	}
	if a.Packet != nil {
		full := a.MTU + frame.HeaderSize + frame.TagSize
		a.BitsPerSecond, a.BitsPerByte = max(int(time.Duration(8*full)*time.Second/a.Packet(full)), 1), 8
	}
	return a
}

const (
	kissMTU  = 239                    // a packet of 256, which every TNC takes
	kissTurn = 100 * time.Millisecond // buffers of sound both ways
	loraTurn = 60 * time.Millisecond  // listening before talking, USB, the host
)

// OpenModem opens the port, sets the modem and gives a stream of COBS frames (radio/frame), whatever the modem makes of them. The
// stream has deadlines, its Close frees a blocked Read, and what has gone wrong is a *Fault where more can be said than the error itself. Opening
// an AT modem lasts until a call is made or taken.
func OpenModem(ctx context.Context, m Modem) (Stream, error) {
	m = m.filled()
	if m.Kind != KISS && m.Kind != RNode && strings.HasPrefix(m.Device, "tcp:") {
		return nil, fmt.Errorf("open %s modem at %s: only kiss and rnode modems are reached over a network", m.Kind, m.Device)
	}
	port, err := OpenPort(ctx, m)
	if err != nil {
		return nil, portFault(m, err)
	}
	s, err := m.talk(ctx, port)
	if err != nil {
		port.Close()
		return nil, err
	}
	return s, nil
}

func (m Modem) talk(ctx context.Context, port Stream) (Stream, error) {
	switch m.Kind {
	case KISS:
		return openKISS(m, port)
	case RNode:
		return openRNode(ctx, m, port)
	case MeshCore:
		return openMeshCore(ctx, m, port)
	case AT:
		return openAT(ctx, m, port)
	case RS485:
		return openRS485(m, port)
	case Transparent, Null, "":
		return port, nil
	}
	return nil, fmt.Errorf("open modem at %s: unknown kind %q, want one of %v", m.Device, m.Kind, Kinds())
}

// Stream is what a modem gives.
type Stream interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// OpenPort opens the port of a modem and leaves the modem alone.
func OpenPort(ctx context.Context, m Modem) (Stream, error) {
	m = m.filled()
	if addr, ok := strings.CutPrefix(m.Device, "tcp:"); ok {
		d := net.Dialer{Timeout: 10 * time.Second}
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	p, err := Open(ctx, Config{Device: m.Device, BitsPerSecond: m.Baud, RTSCTS: m.RTSCTS})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Quality is what a modem says of the channel.
type Quality struct {
	Signal  bool    // RSSI and SNR are known
	RSSI    int     // dBm, of the last frame heard
	SNR     float64 // dB, of the last frame heard
	Refused uint64  // frames that the modem did not send: busy, full, failed
	Dropped uint64  // what the modem said that made no sense
	Note    string  // the modem in its own words: firmware, rate of the call
}

// Measured is a stream whose modem says something of the channel.
type Measured interface{ Quality() Quality }
