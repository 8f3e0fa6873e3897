// SPDX-License-Identifier: EUPL-1.2

package ferry

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"

	"hallig/sync/hub/api"
	"hallig/sync/parcel"
)

// Whole is the status of a request whose body could not be put together, or that brought an event by a name that fits several.
const Whole = 0

// Answer is what the box says to a Play.
type Answer struct {
	Word    Word            // for the next Play
	Of      uint64          // number of the Play that Played answers: this one, or the one that it asked about; 0: neither was taken
	Played  []api.PlayedOne // in the order of its requests, up to the first that was not dealt with
	Clock   int64           // the box's time, milliseconds since 1970
	Contact []byte          // an api.Contact as JSON; nil: it was not asked for
}

// textMost bounds what of a refusal crosses the line.
const textMost = 300

// Short gives an answer as it crosses: of a refusal the code and the beginning of its sentence.
func Short(a api.PlayedOne) api.PlayedOne {
	if len(a.Text) <= textMost {
		return a
	}
	var refusal struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	if json.Unmarshal([]byte(a.Text), &refusal) != nil || refusal.Code == "" || len(refusal.Code) > 100 {
		a.Text = strings.ToValidUTF8(a.Text[:textMost], "")
		return a
	}
	refusal.Text = strings.ToValidUTF8(refusal.Text[:min(len(refusal.Text), textMost-100)], "")
	if raw, err := json.Marshal(refusal); err == nil { // two texts always marshal
		a.Text = string(raw)
	}
	return a
}

// Pack gives an Answer as it is sealed.
func (a *Answer) Pack(c *parcel.Codec) []byte {
	w := &writer{}
	w.byte(version)
	w.raw(a.Word[:])
	w.raw(binary.BigEndian.AppendUint64(nil, a.Of))
	w.number(uint64(max(a.Clock, 0)))
	w.number(uint64(len(a.Played)))
	for _, p := range a.Played {
		w.number(uint64(max(p.Status, 0)))
		if p.Status != 200 {
			w.string(p.Text)
		}
	}
	w.string(string(a.Contact))
	return w.close(c)
}

// ReadAnswer undoes Pack.
func ReadAnswer(c *parcel.Codec, b []byte) (*Answer, error) {
	r := open(c, b, mostAnswer)
	if v := r.byte(); r.err == nil && v != version {
		return nil, fmt.Errorf("read a box's answer: it has version %d, this hub knows %d; update the hub", v, version)
	}
	a := &Answer{}
	copy(a.Word[:], r.take(len(a.Word)))
	a.Of = binary.BigEndian.Uint64(r.take(8))
	a.Clock = int64(r.number() & (1<<63 - 1))
	for range r.count(Most) {
		p := api.PlayedOne{Status: int(r.number() & 0xffff)}
		if p.Status != 200 {
			p.Text = r.string()
		}
		a.Played = append(a.Played, p)
	}
	if contact := r.string(); contact != "" {
		a.Contact = []byte(contact)
	}
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("read a box's answer: %w", err)
	}
	return a, nil
}
