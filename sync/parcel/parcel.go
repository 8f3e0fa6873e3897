// SPDX-License-Identifier: EUPL-1.2

// Package parcel is what boxes say to each other: the kinds of parcels, their priorities, and their bytes. A message is
// what a transport carries whole, at most MaxMessage bytes; it holds one or more parcels. It knows neither links nor
// stores: values in, bytes out, and back.
//
// A Session is the memory that two boxes share while they talk: rooms, users and log positions are named in full once
// and by small numbers after, and an event is written as that which the far end cannot derive (codec.go). A number is
// used bare only after the message that explained it is known to have arrived, so neither loss nor overtaking can make
// two ends mean different things. What arrived means is the transport's word (its done callback); that it is kept is said by
// a Kept parcel.
//
// The forms have versions; two boxes use the newest that both have said to read (Hello.Features), and what was written once
// stays readable (version_test.go). Version 2 writes JSON by its shape (shape.go, value.go), in events, EDUs and small
// requests alike, and bodies full of events column by column (list.go).
//
// Every event comes out byte for byte as it went in: the encoder decodes its own work and falls back to compressed
// JSON where the two differ. Nothing here verifies signatures; an event from a parcel is as untrusted as one from HTTP.
package parcel

import (
	"hallig/appliance/event"
	"hallig/sync/peer"
)

// Kind tells parcels apart on the wire.
type Kind byte

// The kinds. Their numbers are wire format: never reuse one; those from 16 on cost a byte more.
const (
	KindHello    Kind = 1
	KindEvent    Kind = 2
	KindEDU      Kind = 3
	KindRequest  Kind = 4
	KindResponse Kind = 5
	KindChunk    Kind = 6
	KindKept     Kind = 7
	KindWant     Kind = 8
	KindKeys     Kind = 9
	KindBye      Kind = 10
)

// Priorities; a smaller number overtakes a larger one at frame boundaries.
const (
	Flash     = 0
	Immediate = 1
	Priority  = 2
	Routine   = 3
	Bulk      = 4
)

// MaxMessage is the most a transport carries in one message.
const MaxMessage = 64 << 10

// Parcel is one of the types of this package: *Hello, *Event, *EDU, *Request, *Response, *Chunk, *Kept, *Want, *Keys,
// *Bye; Decode also gives *Broken.
type Parcel interface {
	Kind() Kind
}

// Hello opens a conversation or takes it up again. It needs no session and no roster to be read.
//
// Session is the nonce of the sender's memory of this conversation (random, never 0, kept while its Session value
// lives); Yours the one it remembers from the far end, 0 if none. Where each side remembers the other's, the sessions
// go on; otherwise both start anew with NewSession(mine, theirs).
//
// Step 0 says who is there; steps 1 and 2 carry the Noise KK messages of peer.Handshake in Noise, on links that bring
// no protection of their own. Step 3 says only that all is agreed.
type Hello struct {
	From     peer.Brief
	Step     byte
	Session  uint32
	Yours    uint32
	Clock    byte    // quality of the sender's clock, 0 = untrusted .. 3 = GPS or NTP
	Features uint32  // bit set, see Feature...; what is not known is not used
	Model    [4]byte // version of the sender's text model; texts are coded by it only when both have the same
	Noise    []byte
}

// Features a box may have.
const (
	FeatureZstd  uint32 = 1 << iota // reads zstd with the dictionary of this version
	FeatureModel                    // reads texts coded by the model named in Hello.Model

	FeatureVersion2 uint32 = 1 << 6 // reads version 2 of the codec; see Session.UseVersion2
	FeatureSeen     uint32 = 1 << 7 // takes Seen
)

// LogRef is a position in the log of one box about one room: (box, epoch) says whose numbering, Seq counts from 1.
// The zero value means: not from a log.
type LogRef struct {
	Box   peer.ID
	Epoch uint32
	Seq   uint64
}

// Event carries one PDU, as event.PDU.JSON() has it: with signatures and hashes, without unsigned. Log says which log
// entry it is; the zero LogRef for an answer to a Want by id. Decode has parsed PDU and computed its ID, nothing more.
type Event struct {
	Log  LogRef
	PDU  *event.PDU
	Lift int  // steps above routine, for the scheduler: 3 = flash, -1 = bulk; does not travel
	Raw  bool // Encode: in a form that needs no session memory (the far end asked for it so)
}

// EDU carries one entry of the queue towards this box: to-device messages, receipts, device list changes. Seq is its
// number in that queue, 0 for what is not queued (typing, presence).
type EDU struct {
	Seq     uint64
	Type    string
	Origin  string // server that speaks; empty: the sending box's own
	Content []byte // JSON
}

// Field is one HTTP header field.
type Field struct{ Name, Value string }

// Request is an HTTP request to the box that owns the server name in To. ID is chosen by the asking side and unique
// among its open requests in this session.
type Request struct {
	ID     uint32
	To     string // server name
	Method string
	Target string // path and query, as in the request line
	Header []Field
	Body   []byte
	More   bool // the rest of Body follows in Chunks
}

// Response answers the request of the same ID.
type Response struct {
	ID     uint32
	Status int
	Header []Field
	Body   []byte
	More   bool
}

// Chunk carries on a body that did not fit into one message. Offset counts bytes of the packed body (Pack) from its
// start; of the Request or Response itself the Body is then the packed body's beginning.
type Chunk struct {
	ID     uint32
	Answer bool // part of a Response, else of a Request
	Offset uint64
	Last   bool
	Data   []byte
}

// Vector says that everything of one log up to and including Upto is kept.
type Vector struct {
	Room  event.RoomID
	Box   peer.ID
	Epoch uint32
	Upto  uint64
}

// Kept is the receipt of the final reader, written after its commit. Vectors are cumulative; a vector that did not
// change need not be repeated. EDUs is the number in the far end's queue up to which all is kept, 0 for no news.
type Kept struct {
	Vectors []Vector
	EDUs    uint64
	All     bool // Vectors is everything the sender has: logs that are not listed stand at zero
}

// Range names log entries From..To of one log.
type Range struct {
	Room     event.RoomID
	Box      peer.ID
	Epoch    uint32
	From, To uint64
}

// Want asks for events again: by id, or by log position. Raw asks for forms that need no session memory: the sender
// of the want could not read or verify what it was given.
type Want struct {
	Room   event.RoomID // of IDs
	IDs    []event.ID
	Ranges []Range
	Raw    bool
}

// Keys carries a Matrix key document (JSON, signed), the sender's own or one it attests.
type Keys struct {
	Document []byte
}

// Bye ends a conversation: the sender closes down, or has lost its session memory (Lost) and wants a new hello.
type Bye struct {
	Lost   bool
	Reason string
}

// Broken stands in Decode's answer for a parcel that could not be read, mostly because it refers to something this side
// does not remember. Where the log position could be read it is set, so that a Want can name it.
type Broken struct {
	What Kind
	Room event.RoomID
	Log  LogRef
	Err  error
}

func (*Hello) Kind() Kind    { return KindHello }
func (*Event) Kind() Kind    { return KindEvent }
func (*EDU) Kind() Kind      { return KindEDU }
func (*Request) Kind() Kind  { return KindRequest }
func (*Response) Kind() Kind { return KindResponse }
func (*Chunk) Kind() Kind    { return KindChunk }
func (*Kept) Kind() Kind     { return KindKept }
func (*Want) Kind() Kind     { return KindWant }
func (*Keys) Kind() Kind     { return KindKeys }
func (*Bye) Kind() Kind      { return KindBye }
func (b *Broken) Kind() Kind { return b.What }

// UrgencyOf is the priority that a parcel travels with if nobody says otherwise. A message goes with the most urgent of
// its parcels, so bulk should not share one with flash.
func UrgencyOf(p Parcel) int {
	switch p := p.(type) {
	case *Notice:
		return Flash
	case *Hello, *Bye, *Want, *Signature:
		return Immediate
	case *Request, *Response, *Send, *Keys, *Kept:
		return Priority
	case *Seen:
		return Bulk
	case *Event:
		return min(max(Routine-p.Lift, Flash), Bulk)
	case *Chunk:
		return Bulk
	}
	return Routine
}
