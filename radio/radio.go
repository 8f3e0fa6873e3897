// SPDX-License-Identifier: EUPL-1.2

// Package radio makes a transport of one serial radio or wire: it joins a port (bytes), radio/frame (framing, tags) and
// radio/arq (fragments, acknowledgements, turns) and offers what the exchange between boxes needs: messages in,
// messages out, "a far end is there", "it is gone". It knows nothing of Matrix.
//
// One loop per port owns the link's state machine and is the only place that reads the clock. A port that vanishes
// (a plug pulled, a modem without power) is a normal event: the loop closes it, says so once, and opens it again as
// soon as it is back. Every contact starts with a fresh epoch and under plain checksums; keys, where the layer above
// agrees on some, hold until the contact ends.
package radio

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"
)

// ErrDown is what done gets for a message that was given up because no far end is in reach or the contact broke.
// The far end may have got it all the same; the layer above sends again and takes once.
var ErrDown = errors.New("radio link is down")

// Config describes one port. The zero value of every field but Open and BitsPerSecond is right.
type Config struct {
	// Name of the transport and, with "#far" behind it, the address of the far end: "ttyUSB0".
	Name string
	// Open opens the port. It is called again after each failure; ctx ends with Serve. The stream's Close must free a
	// blocked Read. Deadlines (SetWriteDeadline) are used where it has them.
	Open func(ctx context.Context) (io.ReadWriteCloser, error)

	BitsPerSecond int  // line rate; deadlines and key-down time follow from it. 0: 9600
	BitsPerByte   int  // 10 for 8N1 (default), 8 for a synchronous radio
	FullDuplex    bool // both ends may talk at once (a null-modem cable). Default: half duplex, with turns

	TurnDelay time.Duration // from the end of a transmission to the far end's first bytes (TXDELAY); 0 for wires
	KeyDown   time.Duration // longest transmission; 0: computed from the rate, about 8.3 s at 1200 bit/s
	MTU       int           // longest payload of a frame; 0: by rate
	Lead      time.Duration // how early a frame is handed over while the one before is on the air; 0: 20 ms. A modem that keys up for what it has needs more

	// Band is what the medium allows, by its name in radio/airtime; "": a wire, without limit. AirtimeFile is where the book of air time is
	// kept over restarts of the process, for a band with a duty cycle; "": it is not kept, and a restart may exceed the duty cycle.
	Band        string
	AirtimeFile string
	// Packets: a modem hands over whole frames, so that nothing is heard before the end of one.
	Packets bool
	// Correct: frames may go with Reed-Solomon where that delivers more, if the far end can read it; only where bytes go over the line as they
	// are. CorrectAlways: from the start.
	Correct, CorrectAlways bool
	// Air is how long a modem is on the air with one packet of n bytes, where that does not follow from BitsPerSecond (LoRa).
	Air func(n int) time.Duration

	// Shared: more than one far end hears this channel (radio/channel). Every station on it must be set so, and be half duplex. Station is
	// this one's name there, the same at every start and unlike the others'; 0: drawn. Polls: it gives out the turns, as the master of a bus.
	Shared  bool
	Station uint32
	Polls   bool

	// CallSign is the station's own, DL1ABC-7; told in clear on bands of open language.
	CallSign string

	Seed uint64       // mixed into back-off and epochs, for tests; 0: random
	Log  *slog.Logger // with the port's name in it; nil: silent
}

// Stats are counters since New, for health pages and benchmarks.
type Stats struct {
	BytesSent, BytesReceived   uint64 // on the wire, framing included
	FramesSent, FramesReceived uint64
	Retransmissions            uint64 // data frames sent again
	FramesRefused              uint64 // bad tag, wrong epoch, nonsense
	MessagesSent               uint64 // arrived at the far end
	MessagesReceived           uint64
	Contacts                   uint64        // times the far end was found
	Airtime                    time.Duration // time this end has transmitted
	BitsPerSecond              int           // current line rate
	Up, PortOpen, Keyed        bool          // Keyed: of a shared channel, all stations with contact
	Stations                   int           // far ends with contact
	Overheard, Exchanges       uint64        // of a shared channel: frames between others; exchanges begun here
	Unanswered                 uint64        // questions without an answer
	Corrects                   bool          // our data go with Reed-Solomon
	BodyLength                 int           // longest body of frames now
	Unlike                     uint64        // hellos of a far end whose band allows encryption where ours does not, or the other way round

	// The band's duty cycle, if it has one: what each hour allows, what may be sent at once, and how long the next frame has to wait.
	AirLimited                bool
	AirLimit, AirLeft, SendIn time.Duration
	AirLeftFlash              time.Duration // with the reserve
}
