// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"hallig/sync/courier"
	"hallig/sync/hub/api"
	"hallig/sync/hub/fleet"
	"hallig/sync/hub/spool"
)

// This file writes what waits for a box into a bag for a stick (courier.go). The hub forgets nothing by that: it does when a bag of the box says what the box has dealt with (bagin.go), or when the box comes by itself.

const (
	kindStick = "stick"   // bags of and for the box: stickState
	bagPart   = 1 << 20   // bytes of requests in one part of a bag
	bagSealed = 4 << 10   // that sealing adds to a part, at most
	bagEnd    = 256 << 10 // what is left for the end
	bagKeys   = 1000      // servers whose keys go along
)

// stickState is what the hub remembers of sticks to and from a box.
type stickState struct {
	Sent  int64          `json:"sent,omitempty"`  // serial of the last bag for it
	Heard int64          `json:"heard,omitempty"` // of the newest one of it
	Out   []api.StickOut `json:"out,omitempty"`   // what that one counted as out
}

func readStick(raw []byte) (s stickState) {
	if raw != nil && json.Unmarshal(raw, &s) != nil {
		return stickState{}
	}
	return s
}

// amendStick changes what is remembered, whatever other nodes do, and gives it.
func (h *Hub) amendStick(ctx context.Context, box string, change func(*stickState)) (s stickState, err error) {
	err = h.spool.Amend(ctx, box, kindStick, "", func(old []byte) ([]byte, error) {
		s = readStick(old)
		change(&s)
		return json.Marshal(s)
	})
	return s, err
}

// BagSent is what went into a bag for a box.
type BagSent struct {
	Box       string
	Queues    []api.StickQueue
	Bytes     int64  // of the bag
	Connected bool   // the box is connected to this hub: it needs no stick
	Error     string // the bag is not whole and does not count
}

// Count sums what is in the bag, and what had no room.
func (s BagSent) Count() (count, left int64) {
	for _, q := range s.Queues {
		count, left = count+q.Count, left+q.Left
	}
	return count, left
}

// bagOut answers POST /courier/export?box=BOX&room=BYTES&after=SERIAL with the bag, in chunks, and a BagSent.
func (h *Hub) bagOut(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	room, _ := strconv.ParseInt(q.Get("room"), 10, 64)
	after, _ := strconv.ParseInt(q.Get("after"), 10, 64)
	e, ok := h.box(q.Get("box"))
	var err error
	switch {
	case !ok:
		err = said("Hier ist keine Box, die so heißt; hallig-hub boxes zählt sie auf.", "no box is called "+q.Get("box")+" here; hallig-hub boxes lists them")
	case e.revoked != "":
		err = said("Diese Box ist abgewiesen.", e.Server+" was turned away ("+e.revoked+"): nothing is given to it")
	}
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"Error": err.Error()})
		return
	}
	out := chunks{w}
	sent, err := h.fillBag(r.Context(), e, out, room, after)
	if err != nil {
		h.log.Warn("a bag for a stick was not written", "box", e.Server, "err", err)
		sent.Error = err.Error()
	}
	raw, err := json.Marshal(sent)
	if err == nil {
		err = out.end(raw)
	}
	if err != nil {
		h.log.Debug("who asked for a bag has gone", "err", err)
	}
}

// chunks writes pieces behind their lengths; a length of 0, and then the rest, is the end.
type chunks struct{ w io.Writer }

func (c chunks) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if _, err := c.w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

func (c chunks) end(b []byte) error {
	_, err := c.w.Write(append([]byte{0, 0, 0, 0}, b...))
	return err
}

// readChunks undoes it.
func readChunks(r io.Reader, w io.Writer) (rest []byte, err error) {
	for {
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); err != nil {
			return nil, fmt.Errorf("the hub broke off: %w", err)
		}
		n := int64(binary.BigEndian.Uint32(length[:]))
		if n == 0 {
			return io.ReadAll(io.LimitReader(r, 64<<20))
		}
		if _, err := io.CopyN(w, r, n); err != nil {
			return nil, err
		}
	}
}

// bagQueue is one server's requests on their way into a bag.
type bagQueue struct {
	spool.Queue
	api.StickQueue
	after int64
	over  bool
}

// fillBag writes the bag.
func (h *Hub) fillBag(ctx context.Context, e entry, w io.Writer, room, after int64) (BagSent, error) {
	sent := BagSent{Box: e.Server, Queues: []api.StickQueue{}, Connected: h.p2p.InReach(e.Server)}
	st, err := h.amendStick(ctx, e.Server, func(s *stickState) {
		s.Sent = courier.NextSerial(h.now().UnixMilli(), s.Sent, after)
	})
	if err != nil {
		return sent, err
	}
	waiting, err := h.spool.Waiting(ctx, e.Server)
	if err != nil {
		return sent, err
	}
	var queues []*bagQueue
	for _, q := range waiting {
		if q.In {
			queues = append(queues, &bagQueue{Queue: q.Queue, StickQueue: api.StickQueue{From: q.Other, Left: q.Count, Oldest: q.Oldest}})
		}
	}
	slices.SortStableFunc(queues, func(a, b *bagQueue) int { return a.Oldest.Compare(b.Oldest) })
	note, err := h.noteFor(ctx, e, st, queues)
	if err != nil {
		return sent, err
	}
	head, err := json.Marshal(note)
	if err != nil {
		return sent, err
	}
	bag, err := courier.NewBagWriter(w, h.id.Box, e.ID, st.Sent)
	if err != nil {
		return sent, err
	}
	if err := bag.Part(head); err != nil {
		return sent, err
	}
	if bag.Size()+bagEnd > room {
		return sent, fmt.Errorf("there is no room on the stick: it takes %d kB at least; delete what is not needed on it, or take another one", (bag.Size()+bagEnd)>>10)
	}
	for more := true; more; { // the servers by turns, each its oldest first
		more = false
		for _, q := range queues {
			if q.over {
				continue
			}
			if err := h.someInto(ctx, bag, q, room-bagEnd); err != nil {
				return sent, err
			}
			more = more || !q.over
		}
	}
	for _, q := range queues {
		sent.Queues = append(sent.Queues, q.StickQueue)
	}
	end, err := json.Marshal(api.HubEnd{Queues: sent.Queues})
	if err == nil {
		err = bag.End(end)
	}
	sent.Bytes = bag.Size()
	return sent, err
}

// someInto writes one part with the next requests of a queue. over: there are no more, or no room for them.
func (h *Hub) someInto(ctx context.Context, bag *courier.BagWriter, q *bagQueue, room int64) error {
	rs, err := h.spool.Next(ctx, q.Queue, q.after, bagPart)
	if err != nil {
		return err
	}
	var part []byte
	n := int64(0)
	for _, r := range rs {
		next, err := api.StickItem{From: q.Other, Place: r.Seq, Request: &api.Waited{Method: r.Method, URI: r.URI, Authorization: r.Authorization, Received: r.Received.UnixMilli()}, Body: r.Body}.Append(part)
		if err != nil {
			return err
		}
		if size := int64(len(next)); len(next) > courier.MaxPart || bag.Size()+size+size>>7+bagSealed > room {
			q.over = true // what comes after it must not overtake it
			break
		}
		part, q.after = next, r.Seq
		n++
	}
	q.over = q.over || len(rs) == 0
	if n == 0 {
		return nil
	}
	q.Count, q.Left = q.Count+n, max(0, q.Left-n)
	return bag.Part(part)
}

// noteFor is what the hub says to a box.
func (h *Hub) noteFor(ctx context.Context, e entry, st stickState, queues []*bagQueue) (api.HubNote, error) {
	note := api.HubNote{Heard: st.Heard}
	row, err := h.spool.Box(ctx, e.Server)
	if err != nil {
		return note, err
	}
	lacks := fleet.ReadSaid(row.Health).Policy
	if lacks == nil { // it has never said whether it takes any
		lacks = new(int64)
	}
	if note.Answer, err = h.answerTo(ctx, e, api.Answer{Policy: h.policyFor(api.Contact{Policy: lacks})}); err != nil {
		return note, err
	}
	var crossed crossed
	raw, err := h.spool.Deposited(ctx, e.Server, kindCrossed, "")
	if err != nil {
		return note, err
	}
	if raw != nil && json.Unmarshal(raw, &crossed) != nil || crossed.Epoch != note.Answer.Epoch {
		crossed.Place = 0
	}
	given, err := h.tellGiven(ctx, e.Server, crossed.Place)
	if err != nil {
		return note, err
	}
	if len(given.Keys)+len(given.Fallback) > 0 {
		note.Given = &given
	}
	for i, q := range queues {
		if i == bagKeys {
			break
		}
		docs, err := h.ring.Documents(ctx, q.Other)
		if err != nil {
			return note, err
		}
		for _, d := range docs {
			note.Keys = append(note.Keys, d)
		}
	}
	note.Keys = note.Keys[:min(len(note.Keys), bagKeys)]
	return note, nil
}

// BagBox is a box for which a stick may be filled.
type BagBox struct {
	Server, ID string
	Revoked    string
	Connected  bool
	Waiting    int64 // requests
	Bytes      int64
	Oldest     time.Time
}

// bagBoxes answers GET /courier/boxes.
func (h *Hub) bagBoxes(ctx context.Context) (out struct {
	Hub   string // its id
	Boxes []BagBox
}, err error) {
	waiting, err := h.spool.Waiting(ctx, "")
	if err != nil {
		return out, err
	}
	out.Hub = string(h.p2p.ID())
	for _, e := range h.roster.Load().by {
		b := BagBox{Server: e.Server, ID: string(e.ID), Revoked: e.revoked, Connected: h.p2p.InReach(e.Server)}
		for _, q := range waiting {
			if q.In && q.Box == e.Server {
				b.Waiting, b.Bytes = b.Waiting+q.Count, b.Bytes+q.Bytes
				if b.Oldest.IsZero() || q.Oldest.Before(b.Oldest) {
					b.Oldest = q.Oldest
				}
			}
		}
		out.Boxes = append(out.Boxes, b)
	}
	slices.SortFunc(out.Boxes, func(a, b BagBox) int { return cmp.Compare(a.Server, b.Server) })
	return out, nil
}
