// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// This file is what a hub and a box say to each other by stick. It travels in a bag (sync/courier), which proves who wrote it and keeps it from all others: a note first, then items, then an end that counts them. Nothing that is
// said here moves anything by being on its way: the hub forgets when the box has said that it has dealt with it, the box when the hub has said that a letter is through.

// HubNote begins a hub's bag for a box.
type HubNote struct {
	Answer Answer            `json:"answer"`          // what the hub would say at a contact
	Heard  int64             `json:"heard"`           // the serial of the newest bag of the box that the hub has taken in; 0: none
	Keys   []json.RawMessage `json:"keys,omitempty"`  // key documents of the servers whose requests are here, as the hub has verified them
	Given  *Given            `json:"given,omitempty"` // one-time keys that the hub has given away
}

// HubEnd ends it.
type HubEnd struct {
	Queues []StickQueue `json:"queues"`
}

// StickQueue counts what of one server's requests is in a bag.
type StickQueue struct {
	From   string    `json:"from"`
	Count  int64     `json:"count"`
	Left   int64     `json:"left,omitempty"` // that wait at the hub behind these, as there was no room
	Oldest time.Time `json:"oldest,omitzero"`
}

// BoxNote begins a box's bag for its hub.
type BoxNote struct {
	Contact json.RawMessage `json:"contact"`          // a Contact
	Epoch   string          `json:"epoch,omitempty"`  // of the hub's memory, as far as the box has heard of it
	Heard   int64           `json:"heard,omitempty"`  // the serial of the newest bag of the hub that the box has taken in; 0: none
	Dealt   Dealt           `json:"dealt"`            // with what was in the hub's bags
	Given   int64           `json:"given,omitempty"`  // up to this place the box has crossed out what the hub has given away
	Heeded  *Letters        `json:"heeded,omitempty"` // what of Amiss is on the box's disk
	Back    []StickBack     `json:"back,omitempty"`   // letters that are to go no more
	Out     []StickOut      `json:"out,omitempty"`    // all letters that the box does not know to have arrived, whether they are in this bag or not
}

// StickBack is a series of letters for a server that the box has taken back.
type StickBack struct {
	To     string `json:"to"`
	Series string `json:"series"`
}

// StickOut is a run of letters.
type StickOut struct {
	To     string `json:"to"`
	Series string `json:"series"`
	From   int64  `json:"from"`
	Upto   int64  `json:"upto"`
}

// BoxEnd ends it.
type BoxEnd struct {
	Letters int64 `json:"letters"`
	Left    int64 `json:"left,omitempty"` // letters that had no room
	Users   int64 `json:"users,omitempty"`
}

// Bounds of the notes.
const (
	MaxNote      = 7 << 20 // bytes
	maxNoteKeys  = 1000
	maxStickRuns = 20_000
)

// ReadHubNote reads a HubNote.
func ReadHubNote(raw []byte) (HubNote, error) {
	var n HubNote
	err := readNote(raw, &n)
	if err == nil && (!named(n.Answer.Epoch) || !named(n.Answer.Server)) {
		err = errors.New("read note: it names no hub, or no memory of it")
	}
	if err == nil && (len(n.Keys) > maxNoteKeys || n.Heard < 0) {
		err = errors.New("read note: more keys than there are, or less than nothing was heard")
	}
	if err == nil && n.Answer.Letters != nil {
		for _, s := range n.Answer.Letters.To {
			if !named(s.To) || s.Waiting < 0 {
				err = errors.New("read note: a server has no name, or fewer than none wait")
			}
		}
	}
	if err != nil {
		return HubNote{}, err
	}
	return n, nil
}

// ReadBoxNote reads a BoxNote. The Contact in it is read by ReadContact.
func ReadBoxNote(raw []byte) (BoxNote, error) {
	var n BoxNote
	err := readNote(raw, &n)
	if err == nil {
		err = n.Dealt.check()
	}
	if err == nil && (len(n.Back)+len(n.Out) > maxStickRuns || n.Heard < 0 || n.Given < 0) {
		err = errors.New("read note: more letters than are kept, or less than nothing was heard")
	}
	for _, o := range n.Out {
		if err == nil && (!named(o.To) || !named(o.Series) || o.From < 1 || o.Upto < o.From) {
			err = errors.New("read note: letters without a name or a place")
		}
	}
	for _, b := range n.Back {
		if err == nil && (!named(b.To) || !named(b.Series)) {
			err = errors.New("read note: letters without a name")
		}
	}
	if err != nil {
		return BoxNote{}, err
	}
	return n, nil
}

func readNote(raw []byte, out any) error {
	if len(raw) > MaxNote {
		return errors.New("read note: too long")
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read note: %w", err)
	}
	return nil
}

// Has says whether a letter is one of those that the box still counted as out when it wrote.
func (n BoxNote) Has(to, series string, place int64) bool {
	for _, o := range n.Out {
		if o.To == to && o.Series == series && o.From <= place && place <= o.Upto {
			return true
		}
	}
	return false
}

// StickItem is one thing in a bag: a request that waited (Request), a letter (Letter), or a deposit about a user (User).
type StickItem struct {
	From    string  `json:"from,omitempty"`    // of a request: the server whose it is
	Place   int64   `json:"place,omitempty"`   // and where it stands in the hub's memory
	Request *Waited `json:"request,omitempty"` // without its Body
	Letter  bool    `json:"letter,omitempty"`
	User    string  `json:"user,omitempty"`

	Body []byte `json:"-"` // of the request; the letter as Letter.Append gives it; a User
}

const maxItemHead = 64 << 10

// Append gives the item's bytes: its length, then one line of JSON and the body as it is.
func (i StickItem) Append(b []byte) ([]byte, error) {
	head, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("write item: %w", err)
	}
	b = binary.AppendUvarint(b, uint64(len(head)+1+len(i.Body)))
	return append(append(append(b, head...), '\n'), i.Body...), nil
}

// ReadStickItems reads the items of one part, and gives each to do, until one fails.
func ReadStickItems(part []byte, do func(StickItem) error) error {
	for len(part) > 0 {
		n, size := binary.Uvarint(part)
		if size <= 0 || n > uint64(len(part)-size) {
			return errors.New("read item: its length is wrong")
		}
		raw := part[size : size+int(n)]
		part = part[size+int(n):]
		head, body, ok := bytes.Cut(raw, []byte{'\n'})
		if !ok || len(head) > maxItemHead {
			return errors.New("read item: its first line is missing or too long")
		}
		var i StickItem
		if err := json.Unmarshal(head, &i); err != nil {
			return fmt.Errorf("read item: %w", err)
		}
		i.Body = body
		if err := i.check(); err != nil {
			return fmt.Errorf("read item: %w", err)
		}
		if err := do(i); err != nil {
			return err
		}
	}
	return nil
}

func (i *StickItem) check() error {
	kinds := 0
	for _, is := range []bool{i.Request != nil, i.Letter, i.User != ""} {
		if is {
			kinds++
		}
	}
	switch {
	case kinds != 1:
		return fmt.Errorf("it is %d things", kinds)
	case i.Request != nil && (!named(i.From) || i.Place < 1 || len(i.Request.URI) == 0 || i.Request.Body != ""):
		return errors.New("a request without a server, a place or a path")
	case len(i.User) > maxName:
		return errors.New("the name of a user is too long")
	}
	return nil
}
