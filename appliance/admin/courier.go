// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"encoding/json"
	"errors"
	"net/http"

	"hallig/appliance/health"
)

// CourierOrder is what the courier is to do.
type CourierOrder struct {
	Do    string `json:"do"`              // "export", "import", "status", "sheet", "read", "rooms"
	Place string `json:"place,omitempty"` // whole path of a folder on the box: the stick
	Media int64  `json:"media,omitempty"` // export: files up to so many bytes go along
	Box   string `json:"box,omitempty"`   // sheet: for whom; server name or id
	Room  string `json:"room,omitempty"`  // sheet: of which room
	Codes int    `json:"codes,omitempty"` // sheet: at most so many QR codes; 0: one
	Plain bool   `json:"plain,omitempty"` // sheet: for a box with another version of the text model
	Text  string `json:"text,omitempty"`  // read: what was scanned, one code a line
}

// CourierStep tells how far the courier is.
type CourierStep struct {
	Step   string `json:"step"`
	Box    string `json:"box,omitempty"`
	Events int    `json:"events"`
	Bytes  int64  `json:"bytes"`
}

// CourierReport is what the courier did.
type CourierReport struct {
	Boxes    []CourierBox   `json:"boxes"`
	Full     bool           `json:"full,omitempty"`
	ReadOnly bool           `json:"read_only,omitempty"`
	Bad      map[string]int `json:"bad,omitempty"`       // what was not taken, by why
	BadFiles []string       `json:"bad_files,omitempty"` // some of their names
	Foreign  int            `json:"foreign,omitempty"`   // boxes that left something there and are not paired with this one
	Bytes    int64          `json:"bytes"`

	Rooms []CourierRoom `json:"rooms,omitempty"`
	Codes []string      `json:"codes,omitempty"` // sheet: the texts of the QR codes
	Left  bool          `json:"left,omitempty"`  // sheet: there is more than fitted
	// Sentence says the most important in one sentence.
	Sentence health.Sentence `json:"sentence"`
}

// CourierRoom is a room of which a sheet can be made.
type CourierRoom struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// CourierBox is the part of one box.
type CourierBox struct {
	Server   string `json:"server"`
	Segments int    `json:"segments"`
	Events   int    `json:"events"`
	Again    int    `json:"again,omitempty"`
	Refused  int    `json:"refused,omitempty"`
	Waiting  int    `json:"waiting,omitempty"`
	Asked    int    `json:"asked,omitempty"`
	Answers  int    `json:"answers,omitempty"`
	Files    int    `json:"files,omitempty"`
	Large    int    `json:"large,omitempty"`
	Carried  int    `json:"carried,omitempty"`
	EDUs     int    `json:"edus,omitempty"`
	Known    int    `json:"known,omitempty"`
	Receipt  bool   `json:"receipt,omitempty"`
}

// CourierLine is one line of the courier's answer: a step, or at the end the report or an error.
type CourierLine struct {
	Step   *CourierStep   `json:"step,omitempty"`
	Report *CourierReport `json:"report,omitempty"`
	Error  string         `json:"error,omitempty"`
}

// courier answers with one JSON value a line, so that whoever waits sees how far it is.
func (h *handler) courier(w http.ResponseWriter, r *http.Request) {
	var order CourierOrder
	enc := json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := http.NewResponseController(w)
	say := func(l CourierLine) {
		err := enc.Encode(l)
		if err == nil {
			err = out.Flush()
		}
		if err != nil {
			h.Log.Debug("answer local request", "err", err)
		}
	}
	err := decode(r, &order)
	var report CourierReport
	if err == nil {
		report, err = h.Courier(r.Context(), order, func(s CourierStep) { say(CourierLine{Step: &s}) })
	}
	if err != nil {
		text := "the box could not do that; its log says why"
		if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
			text = refusal.Text
		} else {
			h.Log.Error("local request failed", "path", r.URL.Path, "err", err)
		}
		say(CourierLine{Error: text})
		return
	}
	say(CourierLine{Report: &report})
}
