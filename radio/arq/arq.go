// SPDX-License-Identifier: EUPL-1.2

// Package arq is a radio link as a state machine. Messages of up to 64 KiB with a priority go in, frames come out, and
// the other way round; each message arrives once per contact, in order within its priority, or is given up with an error.
//
// It is pure: it reads no clock, starts nothing, writes nothing. Every call brings the time, Next says which bytes to
// write now and when to ask again, Events says what happened.
//
// How it works:
//
//   - Contact. Each end draws a random epoch. Hello frames carry both; when an end hears its own epoch come back, the
//     contact is up. Every further frame is tagged with both epochs, so nothing of an older contact is taken for new.
//     After sixteen questions without an answer the contact is lost: what has not arrived is given up, and hellos go out
//     until the far end is heard again. A far end that restarts says hello with another epoch, and both begin afresh.
//   - Selective repeat. Frames carry 8 bits of a 32-bit number, at most 64 are under way. An answer says "all before n,
//     and of the following these": what was sent before the question and is not in the answer is sent again.
//   - Full duplex. Both ends talk at once, so an acknowledgement may have been written before the question had been heard, and
//     says nothing of what was sent with it. Questions bear the numbers 0 and 1 in turn, acknowledgements the number of the
//     last question heard; only one that fits makes lost what it does not name. A question that is asked again keeps its number.
//   - Turns (half duplex). A transmission ends in a frame with the poll bit. The far end answers: an acknowledgement
//     alone gives the turn back, data end in a poll of their own. A lone message costs one frame and one acknowledgement, then
//     the line is silent. A transmission lasts at most the key-down time. If the last frame is lost, silence passes the turn.
//   - Tiny messages (receipts, mostly). On a slow line that has been calm, a message of up to 8 bytes of priority 3 or 4 that is
//     all there is to say asks for nothing: what acknowledges it rides on whatever comes next, or is asked for after a minute.
//   - Priorities. Before each frame the most urgent work is chosen; a repetition goes before new data of its own priority.
//     A frame names the previous one of its priority, so an urgent message is delivered although an older frame of a
//     file is still missing.
//   - Length of frames. It follows from what became of earlier ones: weather.go tells bit errors from fades.
//   - Coding. On raw lines data go with Reed-Solomon where that delivers more: coding.go.
//   - Flash. Where frames are being lost, a flash frame goes two or three times in one transmission, other frames in between.
//   - Air time. With a Budget nothing is sent that it does not allow; see budget.go.
//   - No fixed timers: every deadline is computed from the airtime of what was sent and of what may come back, the turn-around
//     and what answers took lately.
//
// An acknowledgement means "arrived in the far end's memory", not more. Hostile input costs at most the window (64
// frames) and one message under assembly for each priority.
//
// A Link has one far end. Several stations on one channel hold a Link for each other (radio/channel, shared.go).
//
// Known limits: anyone who can transmit can end a contact that is not keyed by saying hello.
package arq

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"

	"hallig/radio/airtime"
	"hallig/radio/frame"
)

const (
	// MaxMessage is the longest message.
	MaxMessage = 64 << 10

	window   = 64 // frames under way; the 8-bit number allows 127
	maxFails = 16 // unanswered questions before the contact counts as lost

	mostKeyDown = 8200 * time.Millisecond // unless told otherwise; the far end's flash has to wait so long

	tiny      = 8           // bytes: an acknowledgement of its own would cost as much as the message
	calmAfter = 16          // frames in a row without trouble: then tiny messages wait for their acknowledgement
	tinyWait  = time.Minute // at most so long
)

// ErrDown is the error of messages given up because there is no contact any more.
var ErrDown = errors.New("no contact with the far end")

// Config of a link. Zero values are replaced by what follows from the rate.
type Config struct {
	BitsPerSecond int // 0: 9600
	BitsPerByte   int // 0: 10, as in 8N1
	FullDuplex    bool
	Framing       frame.Framing
	MTU           int           // longest frame body; 0: 239 up to 9600 bit/s or with a TurnDelay, else 503
	TurnDelay     time.Duration // from the last byte of one end to the first of the other, on the air
	AnswerDelay   time.Duration // how long an answer waits for data to ride along; 0: by rate, 15..80 ms
	KeyDown       time.Duration // longest transmission, without the TurnDelay before it; 0: by rate, 8.2 s at 1200 bit/s
	Beacon        time.Duration // between hellos without contact; 0: by rate, 1..10 s
	KeepAlive     time.Duration // a question after so much silence; 0: 15 s on fast wires, 60 s otherwise
	Lead          time.Duration // how long before the line falls silent the next frame is handed over; 0: 20 ms
	Packets       bool          // a modem hands over whole frames, so that nothing is heard before the end of one; set with Air
	Correct       bool          // frames may go coded, see coding.go; with Framing COBS only
	CorrectAlways bool          // and do so as soon as the far end can read it
	Seed          uint64        // of epochs and back-off; must differ between the ends

	calmMTU int // at most so long while little is lost

	// Budget is the book of the transmitter's air time; nil: no limit. Several links of one transmitter share it.
	Budget *airtime.Budget
	// Air, if set, is how long a modem is on the air with one packet of n bytes, where that does not follow from BitsPerSecond (LoRa).
	Air func(n int) time.Duration

	// Open: frames are authenticated and never encrypted (amateur radio). Both ends must agree.
	Open bool

	// Shared: more than these two ends hear each other. Who may begin is decided above (radio/channel); hellos name both.
	Shared       bool
	Station, Far uint32 // Shared: our name and that of the far end
}

func (c *Config) fill() {
	if c.Air != nil {
		c.Packets = true
		c.fillAir()
	}
	c.Correct = c.Correct && c.Framing == frame.COBS && c.Air == nil && !c.Shared
	if c.BitsPerSecond <= 0 {
		c.BitsPerSecond = 9600
	}
	if c.BitsPerByte <= 0 {
		c.BitsPerByte = 10
	}
	fitted := c.MTU <= 0
	if fitted {
		c.MTU = 503
		switch {
		case c.BitsPerSecond < 600:
			c.MTU = 120
		case c.slow() && !(c.FullDuplex && c.TurnDelay == 0 && c.BitsPerSecond == 9600):
			c.MTU = 239
		}
	}
	c.MTU = min(max(c.MTU, 32), frame.MaxBody)
	if c.Lead <= 0 {
		c.Lead = usualLead
	}
	if c.AnswerDelay <= 0 {
		c.AnswerDelay = min(max(c.airtime(24), 15*time.Millisecond), 80*time.Millisecond)
	}
	if c.KeyDown <= 0 {
		// An exchange of turns costs two turn-arounds and an acknowledgement; it may be some 4 % of the time.
		c.KeyDown = min(40*(c.TurnDelay+c.airtime(16)+20*time.Millisecond), mostKeyDown)
		c.KeyDown = max(c.KeyDown, 3*c.frameAir())
		if fitted && !c.FullDuplex && c.BitsPerSecond >= 600 {
			c.fitMTU()
		}
	}
	if c.calmMTU <= 0 {
		c.calmMTU = c.MTU
	}
	if c.Beacon <= 0 {
		c.Beacon = min(max(30*c.airtime(16), time.Second), 10*time.Second)
	}
	if c.KeepAlive <= 0 {
		c.KeepAlive = time.Minute
		if !c.slow() {
			c.KeepAlive = 15 * time.Second
		}
	}
	c.fillBudget()
}

// fitMTU makes a whole number of frames fill a transmission on lines so slow that a frame's length is felt. While little is lost, five:
// flash, which waits for the end of a frame and at worst for an exchange of turns behind it, then comes in three seconds at 1200 bit/s.
// Where much is lost, the repetitions outweigh that, and it is three for less overhead.
func (c *Config) fitMTU() {
	if c.frameAir() <= c.KeyDown/5 {
		return
	}
	overhead := c.Framing.Size(frame.HeaderSize + frame.TagSize)
	c.calmMTU = c.bytes(c.KeyDown/5) - overhead
	c.MTU = c.bytes(c.KeyDown/3) - overhead - 1
}

// bytes on the line in a time.
func (c *Config) bytes(d time.Duration) int {
	return int(d * time.Duration(c.BitsPerSecond) / time.Duration(c.BitsPerByte) / time.Second)
}

func (c *Config) slow() bool { return c.BitsPerSecond <= 9600 || c.TurnDelay > 0 }

// airtime is how long n bytes take on the line.
func (c *Config) airtime(n int) time.Duration {
	if c.Air != nil {
		return c.Air(n)
	}
	return time.Duration(int64(n) * int64(c.BitsPerByte) * int64(time.Second) / int64(c.BitsPerSecond))
}

// frameAir is the airtime of the longest frame.
func (c *Config) frameAir() time.Duration {
	return c.airtime(c.Framing.Size(frame.HeaderSize + c.MTU + frame.TagSize))
}

// Kind of an Event.
type Kind uint8

const (
	Up       Kind = iota // contact; the far end answered
	Down                 // contact lost
	Received             // Message came in
	Done                 // the message of Token has arrived (Err nil) or was given up
)

// Event is something that happened. Message belongs to the receiver.
type Event struct {
	Kind    Kind
	Message []byte
	Token   any
	Err     error
}

// Stats are counters since New.
type Stats struct {
	FramesSent, FramesReceived, FramesRefused, Retransmissions uint64
	MessagesSent, MessagesReceived, Contacts, Unanswered       uint64
	Unlike                                                     uint64 // hellos of a far end that encrypts where we may not, or the other way round
	BytesSent                                                  uint64
	Airtime                                                    time.Duration
}

type state uint8

const (
	closed  state = iota // no port
	seeking              // hellos go out
	up
)

type turn uint8

const (
	idle turn = iota // nobody's, or the far end is sending
	mine             // in the middle of our transmission
	wait             // we asked and wait for the answer
)

// Link is one end. It must not be used concurrently.
type Link struct {
	cfg    Config
	given  Config // before fill
	rng    *rand.Rand
	events []Event
	stats  Stats

	// contact
	state     state
	my, peer  uint32    // epochs; peer 0: unknown
	calm      int       // frames received since something was lost
	suspect   uint32    // another epoch said hello while the contact was keyed
	helloAt   time.Time // next hello
	beacons   int       // hellos into the void
	helloTry  int       // hellos in quick succession, while a far end that was heard has not confirmed
	helloOwed bool      // the far end is not sure of us
	lastValid time.Time
	fails     int

	// keys of this contact
	generation           int // of the keys in force; 0: none
	sendKey, recvKey     *frame.Key
	proven               bool       // the far end has shown that it has them
	priorSend, priorRecv *frame.Key // until then: those before, nil: the plain checksum

	// sending
	queue    [frame.Priorities][]*message
	queued   [frame.Priorities]int // bytes not yet in a frame
	owed     int                   // bytes that the least urgent may have before others, see floor.go
	out      [window]outFrame
	una, nxt uint32
	lastSeq  [frame.Priorities]uint32 // last number used, by priority
	unacked  [frame.Priorities]int    // frames under way, by priority
	order    uint64                   // counts transmissions
	coding   coding
	weather  weather // what becomes of frames; outlives the contact

	// receiving
	rnext    uint32
	in       [window]inFrame
	asm      [frame.Priorities]assembly
	full     bool
	newest   uint32  // the highest number that has come
	missed   float64 // share of the far end's frames that did not come at first
	ackDue   bool    // something came since our last acknowledgement
	rideDue  bool    // full duplex: a tiny message came that did not ask
	peerMore bool

	// the line
	turn       turn
	txFree     time.Time // when all our bytes have left
	keyDownTo  time.Time
	waited     bool      // the transmission had to wait for air time
	room       int       // longest body of the next new frame, at the end of a transmission; 0: as usual
	ackOnly    bool      // there is air time for no more than the answer
	fresh      bool      // nothing of this transmission has been sent
	askOnly    bool      // this transmission is a bare question
	contended  bool      // it began on an idle line, so the far end may have begun too
	tinyAt     time.Time // ask about the tiny messages under way; zero: none
	asked      bool      // full duplex: an answer is awaited
	unanswered bool      // full duplex: the last question has not been answered, whether or not anybody still waits
	odd        bool      // full duplex: its number
	heard      bool      // number of the far end's last question
	askedAt    uint64    // order of the last frame before the question
	sinceAsk   int       // full duplex: bytes since the last question
	deadline   time.Time // wait, asked
	lastAsk    time.Time // deadline at its very latest
	owe        bool
	answerAt   time.Time // when the answer goes even if nothing rides along
	notBefore  time.Time
	askedMore  bool   // our question said that more is coming
	inBurst    bool   // the far end is in the middle of a transmission
	twice      bool   // its last frame comes a second time
	held       bool   // our data wait (Hold)
	announce   []byte // goes before the next transmission
	frameAt    time.Time
	heardAt    time.Time
	holdUntil  time.Time // the far end goes first
	srtt, dev  time.Duration
}

// New makes a link without a port; Start begins.
func New(cfg Config) *Link {
	given := cfg
	cfg.fill()
	return &Link{cfg: cfg, given: given, newest: ^uint32(0), rng: rand.New(rand.NewPCG(cfg.Seed, 0x68616c6c6967))}
}

// Config is the configuration in force, with all that was computed.
func (l *Link) Config() Config { return l.cfg }

// SetRate says which rate a line has that is about to be opened, as a modem tells when it has connected; 0: the configured one. With an open line
// it does nothing.
func (l *Link) SetRate(bitsPerSecond int) {
	if l.state != closed {
		return
	}
	c := l.given
	if bitsPerSecond > 0 {
		c.BitsPerSecond = bitsPerSecond
	}
	c.fill()
	l.cfg = c
}

// Stats are the counters.
func (l *Link) Stats() Stats { return l.stats }

// Up says whether there is contact; Keyed, whether the far end protects its frames with keys.
func (l *Link) Up() bool    { return l.state == up }
func (l *Link) Keyed() bool { return l.proven }

// Events hands over what happened since the last call.
func (l *Link) Events() []Event {
	e := l.events
	l.events = nil
	return e
}

// Start says that the port is open.
func (l *Link) Start(now time.Time) {
	if l.state != closed {
		return
	}
	l.lastValid, l.txFree, l.heardAt = now, now, time.Time{}
	l.seek(now)
	l.helloAt = now.Add(l.random(l.cfg.Beacon / 8))
}

// Stop says that the port is gone: the contact ends.
func (l *Link) Stop() {
	l.lose()
	l.state = closed
}

// SetFull says that the reader has no room: data frames are refused, and so sent again, until it is cleared.
func (l *Link) SetFull(full bool) { l.full = full }

// Free is how many bytes may be queued at a priority so that the queue stays at about one turn.
func (l *Link) Free(priority int) int {
	if l.state != up || priority < 0 || priority >= frame.Priorities {
		return 0
	}
	n := l.turnBytes()
	for p := range priority + 1 {
		n -= l.queued[p]
	}
	return n
}

func (l *Link) turnBytes() int {
	perTurn := int(l.cfg.KeyDown * time.Duration(l.cfg.BitsPerSecond) / time.Duration(l.cfg.BitsPerByte) / time.Second)
	return min(perTurn, window*l.cfg.MTU) + l.cfg.MTU
}

// Queued is the number of bytes not yet in a frame.
func (l *Link) Queued() int {
	n := 0
	for _, q := range l.queued {
		n += q
	}
	return n
}

// lose ends the contact, if there is one, and gives up all messages.
func (l *Link) lose() {
	was := l.state == up
	for p := range l.queue {
		for _, m := range l.queue[p] {
			m.finish(l, ErrDown)
		}
		l.queue[p], l.queued[p], l.unacked[p], l.asm[p] = nil, 0, 0, assembly{}
	}
	for s := l.una; s != l.nxt; s++ {
		for _, m := range l.out[s%window].messages {
			m.finish(l, ErrDown)
		}
	}
	l.out, l.in = [window]outFrame{}, [window]inFrame{}
	l.una, l.nxt, l.rnext, l.newest = 0, 0, 0, ^uint32(0)
	l.clearKeys()
	l.suspect = 0
	l.turn, l.owe, l.inBurst, l.asked, l.ackDue, l.rideDue, l.peerMore, l.helloOwed = idle, false, false, false, false, false, false, false
	l.fails, l.srtt, l.dev, l.tinyAt = 0, 0, 0, time.Time{}
	l.unanswered, l.odd, l.heard = false, false, false
	l.my, l.peer = 0, 0
	l.coding.far, l.coding.heard = false, false
	if was {
		l.events = append(l.events, Event{Kind: Down})
	}
}

func (l *Link) seek(now time.Time) {
	l.state, l.my, l.peer = seeking, l.epoch(), 0
	l.helloAt, l.helloTry, l.beacons = now, 0, 0
}

func (l *Link) epoch() uint32 {
	for {
		if e := l.rng.Uint32(); e != 0 && e != l.my {
			return e
		}
	}
}

// random is evenly spread over [0, d).
func (l *Link) random(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(l.rng.Int64N(int64(d)))
}

// Hello body: version, sender's epoch, the epoch heard from the other end or 0; on a shared channel both names (shared.go).
const (
	helloVersion = 1
	helloSize    = 9
)

func (l *Link) helloFrame(poll bool) frame.Frame {
	b := make([]byte, helloSize)
	b[0] = helloVersion
	binary.LittleEndian.PutUint32(b[1:], l.my)
	binary.LittleEndian.PutUint32(b[5:], l.peer)
	return frame.Frame{Type: frame.Hello, Poll: poll, Body: l.declare(l.named(b))}
}

func (l *Link) hello(now time.Time, f *frame.Frame) {
	if len(f.Body) < helloSize || f.Body[0] != helloVersion || !l.forUs(f.Body) {
		if _, call := frame.CallOf(f); !call {
			l.stats.FramesRefused++
		}
		return
	}
	if isOpen(f.Body) != l.cfg.Open {
		l.stats.Unlike++
		return
	}
	theirs, ours := binary.LittleEndian.Uint32(f.Body[1:]), binary.LittleEndian.Uint32(f.Body[5:])
	if theirs == 0 || theirs == l.my {
		return // our own echo
	}
	l.inBurst = false
	if l.state == up {
		switch {
		case theirs == l.peer:
			// It lost our confirmation, or only wants to know that we are there.
			l.lastValid, l.coding.far = now, flagsOf(f.Body)&helloCodes != 0
			if ours != l.my || f.Poll {
				l.helloOwed, l.turn, l.asked = true, idle, false
			}
			return
		case l.proven && l.suspect == 0:
			// Anyone can send a hello. Only when the far end we know does not answer do we believe it.
			l.suspect = theirs
			l.question(now)
			return
		case l.proven:
			return
		}
		l.lose()
		l.seek(now)
	}
	l.lastValid, l.coding.far = now, flagsOf(f.Body)&helloCodes != 0
	if l.peer != theirs {
		l.peer, l.helloTry = theirs, 0
		l.helloAt = now
	}
	switch {
	case ours == l.my:
		l.contact(now)
		l.helloOwed = f.Poll
	case f.Poll:
		l.helloAt = now
	}
}

func (l *Link) contact(now time.Time) {
	l.state, l.fails, l.lastValid, l.calm = up, 0, now, 0
	l.turn, l.owe, l.holdUntil = idle, false, now
	l.stats.Contacts++
	l.events = append(l.events, Event{Kind: Up})
}
