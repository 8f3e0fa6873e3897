// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hallig/sync/courier"
	"hallig/sync/hub/api"
	"hallig/sync/peer"
)

// This file is the other end of the local door, in the program of whoever stands before the machine: it reads and writes the stick, which the hub itself, shut in by its service, may not see. The hub makes the bags and opens them.

// bagRoster asks the running hub for its boxes.
func bagRoster(ctx context.Context, dir string) (hub peer.ID, boxes []BagBox, err error) {
	var out struct {
		Hub   string
		Boxes []BagBox
	}
	err = Ask(ctx, dir, http.MethodGet, "/courier/boxes", nil, &out)
	return peer.ID(out.Hub), out.Boxes, err
}

// CourierExport has the hub that runs on dir fill a stick for some of its boxes, or with none named for all for which something waits. note is told of each box when it is done; sent.Error says why it was not.
func CourierExport(ctx context.Context, dir, place string, names []string, note func(BagSent)) error {
	hub, boxes, err := bagRoster(ctx, dir)
	if err != nil {
		return err
	}
	var chosen []BagBox
	for _, b := range boxes {
		if len(names) == 0 && b.Revoked == "" {
			chosen = append(chosen, b)
		}
	}
	for _, name := range names {
		found := false
		for _, b := range boxes {
			if b.Server == name {
				chosen, found = append(chosen, b), true
			}
		}
		if !found {
			return fmt.Errorf("no box is called %s here; hallig-hub boxes lists them", name)
		}
	}
	if len(chosen) == 0 {
		return errors.New("no box is paired with this hub; pair one with: hallig-hub pair")
	}
	d, err := courier.Open(place, true)
	if err != nil {
		return stickWhy(err, place)
	}
	for _, b := range chosen {
		sent, err := exportOne(ctx, dir, d, hub, b)
		if err != nil {
			return errors.Join(stickWhy(err, place), d.Close())
		}
		note(sent)
	}
	return d.Close()
}

// exportOne fills the bag of one box.
func exportOne(ctx context.Context, dir string, d courier.Disk, hub peer.ID, b BagBox) (sent BagSent, err error) {
	err = courier.Stow(d, hub, peer.ID(b.ID), func(w io.Writer, room, after int64) (whole bool, err error) {
		q := url.Values{"box": {b.Server}, "room": {fmt.Sprint(room)}, "after": {fmt.Sprint(after)}}
		in, status, err := door(dir).Open(ctx, http.MethodPost, "/courier/export?"+q.Encode(), nil)
		if err != nil {
			return false, err
		}
		defer in.Close()
		if status != http.StatusOK {
			return false, doorError(in)
		}
		rest, err := readChunks(in, w)
		if err != nil {
			return false, err
		}
		if err := json.Unmarshal(rest, &sent); err != nil {
			return false, fmt.Errorf("read the hub's answer: %w", err)
		}
		if sent.Error != "" {
			return false, errors.New(sent.Error)
		}
		_, left := sent.Count()
		return left == 0, nil
	})
	return sent, err
}

// doorError reads what the hub has refused.
func doorError(r io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(r, 64<<10))
	var refusal struct{ Error string }
	if err != nil || json.Unmarshal(raw, &refusal) != nil || refusal.Error == "" {
		return errors.Join(errors.New("the hub does not answer as it should"), err)
	}
	return errors.New(refusal.Error)
}

// stickWhy puts into words what is wrong with a stick.
func stickWhy(err error, place string) error {
	switch {
	case err == nil:
		return nil
	case courier.IsFull(err):
		return fmt.Errorf("the stick is full: delete what is not needed on it, or take another one; nothing is lost (%w)", err)
	case courier.IsReadOnly(err):
		return fmt.Errorf("%s cannot be written to: see to the stick's switch, and to how it is mounted; nothing is lost (%w)", place, err)
	case errors.Is(err, courier.ErrNoCourier):
		return fmt.Errorf("%s holds no folder %s: nothing of a box is there. Is the stick mounted there, and was it plugged into a box?", place, courier.Folder)
	}
	return err
}

// CourierImport gives the hub that runs on dir what boxes have put onto a stick for it. note is told of each bag; err says why it was not taken. A bag that the next one of the same box makes void is tried when that one is damaged.
func CourierImport(ctx context.Context, dir, place string, note func(name string, t BagTaken, err error)) error {
	hub, _, err := bagRoster(ctx, dir)
	if err != nil {
		return err
	}
	return eachBag(place, func(d courier.Disk, files []courier.BagFile) error {
		foreign, found := 0, 0
		whole := map[peer.ID]bool{}
		for _, f := range files {
			if f.Reader != hub {
				if f.Writer != hub {
					foreign++
				}
				continue
			}
			if whole[f.Writer] {
				continue
			}
			found++
			r, _, err := d.Open(f.Name, courier.MaxBag)
			if err != nil {
				note(f.Name, BagTaken{}, fmt.Errorf("it cannot be read: %w; plug the stick into the box once more, or take another stick", err))
				continue
			}
			var t BagTaken
			err = door(dir).Ask(ctx, http.MethodPost, "/courier/import", struct{ io.Reader }{r}, &t) // who sends it must not close it
			err = errors.Join(err, r.Close())
			whole[f.Writer] = err == nil
			note(f.Name, t, err)
		}
		switch {
		case found == 0 && foreign > 0:
			return errors.New("the stick is of another hub, perhaps of another organisation: nothing on it is for this one")
		case found == 0:
			return errors.New("no box has put anything on the stick for this hub yet: plug it into the box, wait until the box says that it can be pulled out, and bring it back")
		}
		return nil
	})
}

// eachBag lists the bags of a stick.
func eachBag(place string, do func(courier.Disk, []courier.BagFile) error) error {
	d, err := courier.Open(place, false)
	if err != nil {
		return stickWhy(err, place)
	}
	files, err := courier.Bags(d)
	if err == nil {
		err = do(d, files)
	}
	return errors.Join(stickWhy(err, place), d.Close())
}

// BagSeen is a bag on a stick, without anything being taken in.
type BagSeen struct {
	From, For string // server names; "": nobody that this hub knows
	Written   time.Time
	Bytes     int64
	Queues    []api.StickQueue // for a box
	Letters   int64            // of a box
	Left      int64            // what had no room
	Trouble   string           // why more is not known
}

// CourierStatus says what lies on a stick, for whom.
func CourierStatus(ctx context.Context, dir, place string) (out []BagSeen, err error) {
	hub, boxes, err := bagRoster(ctx, dir)
	if err != nil {
		return nil, err
	}
	name := func(id peer.ID) string {
		if id == hub {
			return "this hub"
		}
		for _, b := range boxes {
			if peer.ID(b.ID) == id {
				return b.Server
			}
		}
		return ""
	}
	err = eachBag(place, func(d courier.Disk, files []courier.BagFile) error {
		for _, f := range files {
			seen := BagSeen{From: name(f.Writer), For: name(f.Reader), Written: time.UnixMilli(f.Serial), Bytes: f.Size}
			if f.Writer == hub || f.Reader == hub {
				r, _, err := d.Open(f.Name, courier.MaxBag)
				if err == nil {
					err = door(dir).Ask(ctx, http.MethodPost, "/courier/look", struct{ io.Reader }{r}, &seen)
					err = errors.Join(err, r.Close())
				}
				seen.Bytes = f.Size
				if err != nil {
					seen.Trouble = strings.TrimSpace(err.Error())
				}
			}
			out = append(out, seen)
		}
		return nil
	})
	return out, err
}

// bagLook answers POST /courier/look, whose body is a bag of or for this hub.
func (h *Hub) bagLook(r *http.Request) (out BagSeen, err error) {
	b, err := courier.ReadBag(r.Body)
	if err != nil {
		return out, bagWhy(err)
	}
	other := b.Reader
	if other == h.p2p.ID() {
		other = b.Writer
	}
	e, _ := h.boxByID(other)
	if err := b.Open(h.id.Box, b.Writer); err != nil {
		return out, bagWhy(err)
	}
	_, last, err := b.Ends()
	if err != nil {
		return out, bagWhy(err)
	}
	out.Written = time.UnixMilli(b.Serial)
	if b.Writer == h.p2p.ID() {
		var end api.HubEnd
		if err := json.Unmarshal(last, &end); err != nil {
			return out, bagWhy(courier.ErrBagDamaged)
		}
		out.From, out.For, out.Queues = "this hub", e.Server, end.Queues
		for _, q := range end.Queues {
			out.Left += q.Left
		}
		return out, nil
	}
	var end api.BoxEnd
	if err := json.Unmarshal(last, &end); err != nil {
		return out, bagWhy(courier.ErrBagDamaged)
	}
	out.From, out.For, out.Letters, out.Left = e.Server, "this hub", end.Letters, end.Left
	return out, nil
}
