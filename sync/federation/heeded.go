// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"slices"

	"hallig/appliance/store"
	"hallig/sync/hub/api"
)

// This file says what a box has heard of letters that did not arrive as a whole: the hub keeps it until then, and the letters behind it when there is too much.

// heed notes what the hub has said is amiss, once all was done about it that is to be done. A letter that was left and is not noted here yet is the next of its series; of that nothing is heard.
func (d *dest) heed(h *heard) {
	p := &d.post
	out := slices.DeleteFunc(slices.Clone(h.Amiss), func(a api.Amiss) bool { return a.Series == p.series && a.N > p.place })
	d.heeded.Store(&heard{epoch: h.epoch, Standing: api.Standing{To: d.name, Amiss: out}})
}

// Heeded gives, in Amiss, what the hub need not say again: letters that still count as out on the disk, as they do until the cursor's move is written, are not in it.
func (s *Sender) Heeded(ctx context.Context) (api.Letters, error) {
	var all []*heard
	s.mu.Lock()
	for name, h := range s.standing {
		if d := s.dests[name]; d != nil {
			h = d.heeded.Load()
		}
		if h != nil && len(h.Amiss) > 0 {
			all = append(all, h)
		}
	}
	s.mu.Unlock()
	out := api.Letters{}
	for _, h := range all {
		var rows []store.LeftLetter
		if err := s.c.DB.View(ctx, func(r *store.Read) (err error) { rows, err = r.LeftLetters(h.To); return err }); err != nil {
			return out, err
		}
		amiss := slices.DeleteFunc(slices.Clone(h.Amiss), func(a api.Amiss) bool {
			return slices.ContainsFunc(rows, func(l store.LeftLetter) bool { return l.Series == a.Series && l.Place == a.N })
		})
		if len(amiss) > 0 && (out.Epoch == "" || out.Epoch == h.epoch) {
			out.Epoch = h.epoch
			out.To = append(out.To, api.Standing{To: h.To, Amiss: amiss})
		}
	}
	return out, nil
}
