// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file is what a box leaves with its hub for other servers, and what it hears of it.

// Paths for letters, on the hub's own name and on the box's.
const (
	LetterPath   = "/_hallig/hub/v1/letter"   // PUT Letter; DELETE ?to=SERVER&series=SERIES takes back what has not gone yet
	LettersPath  = "/_hallig/hub/v1/letters"  // GET, answered with Letters; PUT Letters: what of Amiss the box has on its disk, and is not to be told again; answered the same
	StandingPath = "/_hallig/box/v1/standing" // PUT Letters, from the hub to the box whenever something has changed
)

// Errcodes of the hub's answers to a letter.
const (
	OtherMemory = "ORG_HALLIG_OTHER_MEMORY" // 409: the letter is for another epoch
	NoRoom      = "ORG_HALLIG_NO_ROOM"      // 429: as much waits as is kept for one box or one server
)

// Letter is one transaction of a box for a server, signed so that the hub can see it through without a key of the box.
type Letter struct {
	To     string   `json:"to"`
	Series string   `json:"series"`           // drawn by the box at each start
	N      int64    `json:"n"`                // its place in the series for this server, from 1
	Epoch  string   `json:"epoch"`            // the hub's memory for which it was made
	Once   bool     `json:"once,omitempty"`   // it brings EDUs alone, which the server may append: it is never sent under another id
	Sends  []Signed `json:"sends"`            // PUT /send of the body: its own, then the same under other transaction ids
	Asks   []Ask    `json:"asks,omitempty"`   // GET /event for the last PDU of each room
	Events []string `json:"events,omitempty"` // ids of the PDUs, in their order
	Body   []byte   `json:"-"`                // the transaction, JSON
}

// Signed is a request without its body.
type Signed struct {
	URI  string `json:"uri"`  // path and query as signed
	Auth string `json:"auth"` // X-Matrix header
}

// Ask is a signed question whether a server knows an event.
type Ask struct {
	Signed
	Room  string `json:"room"`
	Event string `json:"event"`
}

// Bounds of a letter.
const (
	MaxLetter     = 6 << 20 // bytes
	maxLetterHead = 512 << 10
	maxSends      = 8
	maxPDUs       = 50
	maxEDUs       = 100
	maxName       = 255
	maxAuth       = 4096
)

const (
	sendURI  = "/_matrix/federation/v1/send/"
	eventURI = "/_matrix/federation/v1/event/"
)

// Append gives the letter's bytes: one line of JSON, then the body as it is.
func (l Letter) Append(b []byte) ([]byte, error) {
	head, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("write letter: %w", err)
	}
	return append(append(append(b, head...), '\n'), l.Body...), nil
}

// ReadLetter reads a Letter. Whether its signatures are good is not looked at.
func ReadLetter(raw []byte) (Letter, error) {
	var l Letter
	if len(raw) > MaxLetter {
		return l, errors.New("read letter: too long")
	}
	head, body, ok := bytes.Cut(raw, []byte{'\n'})
	if !ok || len(head) > maxLetterHead {
		return l, errors.New("read letter: its first line is missing or too long")
	}
	if err := json.Unmarshal(head, &l); err != nil {
		return l, fmt.Errorf("read letter: %w", err)
	}
	l.Body = body
	if err := l.check(); err != nil {
		return Letter{}, fmt.Errorf("read letter: %w", err)
	}
	return l, nil
}

func (l *Letter) check() error {
	var t struct {
		PDUs []json.RawMessage `json:"pdus"`
		EDUs []json.RawMessage `json:"edus"`
	}
	if err := json.Unmarshal(l.Body, &t); err != nil {
		return fmt.Errorf("the transaction: %w", err)
	}
	switch {
	case !named(l.To) || !named(l.Series) || !named(l.Epoch) || l.N < 1:
		return errors.New("to, series, epoch or n is missing or too long")
	case len(t.PDUs) > maxPDUs || len(t.EDUs) > maxEDUs || len(t.PDUs) != len(l.Events):
		return fmt.Errorf("%d PDUs with %d ids and %d EDUs", len(t.PDUs), len(l.Events), len(t.EDUs))
	case len(l.Sends) == 0 || len(l.Sends) > maxSends || len(l.Asks) > len(l.Events):
		return fmt.Errorf("%d ways to send and %d questions", len(l.Sends), len(l.Asks))
	case l.Once && (len(l.Sends) > 1 || len(t.PDUs) > 0), !l.Once && (len(l.Asks) == 0 || len(t.EDUs) > 0):
		return errors.New("PDUs go with questions, EDUs alone and once")
	}
	for _, s := range l.Sends {
		if err := s.check(sendURI); err != nil {
			return err
		}
	}
	for _, a := range l.Asks {
		if err := a.check(eventURI); err != nil {
			return err
		}
		if !named(a.Room) || !slices.Contains(l.Events, a.Event) {
			return errors.New("a question is for no event of the letter")
		}
	}
	for _, id := range l.Events {
		if !named(id) {
			return errors.New("an event has no id")
		}
	}
	return nil
}

func named(s string) bool { return s != "" && len(s) <= maxName }

// check refuses what is no request below a path.
func (s Signed) check(below string) error {
	id, ok := strings.CutPrefix(s.URI, below)
	if !ok || id == "" || len(id) > 3*maxName || strings.ContainsAny(id, "/?# \r\n\x00") {
		return fmt.Errorf("%.80q is not below %s", s.URI, below)
	}
	if s.Auth == "" || len(s.Auth) > maxAuth || strings.ContainsAny(s.Auth, "\r\n\x00") {
		return errors.New("a signature is missing, or is none")
	}
	return nil
}

// Letters says how far a box's letters have come.
type Letters struct {
	Epoch string     `json:"epoch"`
	To    []Standing `json:"to"` // servers of which nothing is known are not named
}

// Standing is how far the letters for one server have come.
type Standing struct {
	To      string    `json:"to"`
	Waiting int64     `json:"waiting"` // letters
	Bytes   int64     `json:"bytes"`
	Oldest  time.Time `json:"oldest,omitzero"`
	Done    []Done    `json:"done,omitempty"`  // what the server has, by series
	Amiss   []Amiss   `json:"amiss,omitempty"` // events of these letters that went wrong, until the box has said that it has heard
	Trouble string    `json:"trouble,omitempty"`
	Status  int       `json:"status,omitempty"` // of the server's refusal of the oldest letter; 0: it was not refused
}

// Done is how far a series has come: all letters up to N were seen through.
type Done struct {
	Series string `json:"series"`
	N      int64  `json:"n"`
}

// Amiss is an event of a letter that was seen through, and for which the hub can do no more.
type Amiss struct {
	Series string `json:"series"`
	N      int64  `json:"n"`
	Event  string `json:"event"` // the last one of its room in the letter
	What   string `json:"what"`  // Barred or Unkept
}

// MaxLetters bounds Letters, in bytes.
const MaxLetters = 4 << 20

// ReadLetters reads Letters.
func ReadLetters(raw []byte) (Letters, error) {
	var l Letters
	if len(raw) > MaxLetters {
		return l, errors.New("read how far letters have come: too long")
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return Letters{}, fmt.Errorf("read how far letters have come: %w", err)
	}
	for _, s := range l.To {
		if !named(s.To) || s.Waiting < 0 {
			return Letters{}, errors.New("read how far letters have come: a server has no name, or fewer than none wait")
		}
	}
	return l, nil
}

// What may be amiss with an event.
const (
	Barred = "barred" // the server refuses to say whether it has it: the box has nobody in the room any more, in its view
	Unkept = "unkept" // the server has taken it, in each way there is, and does not know it
)
