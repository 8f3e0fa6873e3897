// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file keeps what is told to boxes of their letters, in one deposited value of each box.

// kindBook is that value.
const kindBook = "letters"

// entry is what is noted of the letters of a box for one server.
type entry struct {
	Done  []api.Done  `json:"done,omitempty"` // newest last
	Amiss []api.Amiss `json:"amiss,omitempty"`
	Void  []string    `json:"void,omitempty"` // series that the box has taken back; as long as something waits
	At    int64       `json:"at"`             // of the last change, ms
}

const (
	mostSeries  = 16
	mostAmiss   = 100
	mostServers = 500
	mostWhy     = 1000    // servers of which a box hears why their letters wait; of more, it hears how many
	mostBook    = 1 << 20 // bytes of the value; what boxes hear of it is a part of an api.Answer
)

// ErrUnheard is note's, and TakeBack's: what is to be noted does not fit beside what the box has not heard yet.
var ErrUnheard = errors.New("the box has not heard yet what went wrong with its letters before")

// done notes that a letter was seen through, and what is amiss with it: both or, with ErrUnheard, neither. A box takes what is done and not amiss for arrived.
func (e *entry) done(series string, n int64, amiss []api.Amiss) error {
	all := slices.Clone(e.Amiss)
	for _, a := range amiss {
		if !slices.Contains(all, a) { // it may be done twice
			all = append(all, a)
		}
	}
	if len(all) > mostAmiss && len(all) > len(e.Amiss) {
		return ErrUnheard
	}
	e.Amiss = all
	if i := slices.IndexFunc(e.Done, func(d api.Done) bool { return d.Series == series }); i >= 0 {
		n = max(n, e.Done[i].N)
		e.Done = slices.Delete(e.Done, i, i+1)
	}
	e.Done = append(e.Done, api.Done{Series: series, N: n})
	e.Done = e.Done[max(0, len(e.Done)-mostSeries):]
	return nil
}

// read gives what is noted of a box, by server.
func (m *Mail) read(ctx context.Context, box string) (map[string]*entry, error) {
	raw, err := m.c.Spool.Deposited(ctx, box, kindBook, "")
	if err != nil {
		return nil, err
	}
	return readBook(raw)
}

func readBook(raw []byte) (map[string]*entry, error) {
	out := map[string]*entry{}
	if raw != nil {
		if err := json.Unmarshal(raw, &out); err != nil {
			return nil, fmt.Errorf("read what is noted of a box's letters: %w", err)
		}
	}
	return out, nil
}

// note changes what is noted of a box's letters for a server, whatever other nodes note meanwhile. An error of change is note's, and nothing is changed then; ErrUnheard, too, when there is no room.
func (m *Mail) note(ctx context.Context, box, to string, change func(*entry) error) error {
	return m.c.Spool.Amend(ctx, box, kindBook, "", func(old []byte) ([]byte, error) {
		all, err := readBook(old)
		if err != nil {
			return nil, err
		}
		e := all[to]
		if e == nil {
			e = &entry{}
			all[to] = e
		}
		if err := change(e); err != nil {
			return nil, err
		}
		e.At = m.c.Now().UnixMilli()
		return writeBook(all, to)
	})
}

// writeBook gives the bytes of what is noted, within its bounds: the oldest entries make room that say of nothing that it went wrong. A box that has not heard of such a one leaves anew what it does not know to be done.
func writeBook(all map[string]*entry, keep string) ([]byte, error) {
	for {
		raw, err := json.Marshal(all)
		if err != nil || len(all) <= mostServers && len(raw) <= mostBook {
			return raw, err
		}
		oldest := ""
		for to, e := range all {
			if to != keep && len(e.Amiss) == 0 && (oldest == "" || e.At < all[oldest].At) {
				oldest = to
			}
		}
		if oldest == "" {
			return nil, ErrUnheard
		}
		delete(all, oldest)
	}
}

// Heeded says what a box has heard of its letters, on its disk: what went wrong is not told again, and makes room for more.
func (m *Mail) Heeded(ctx context.Context, box string, heard api.Letters) error {
	epoch, err := m.c.Spool.Epoch(ctx)
	if err != nil || heard.Epoch != epoch {
		return err
	}
	fewer := false
	err = m.c.Spool.Amend(ctx, box, kindBook, "", func(old []byte) ([]byte, error) {
		fewer = false
		all, err := readBook(old)
		if err != nil {
			return nil, err
		}
		for _, s := range heard.To {
			if e := all[s.To]; e != nil {
				before := len(e.Amiss)
				e.Amiss = slices.DeleteFunc(e.Amiss, func(a api.Amiss) bool { return slices.Contains(s.Amiss, a) })
				fewer = fewer || len(e.Amiss) < before
			}
		}
		if !fewer {
			return old, nil
		}
		return json.Marshal(all)
	})
	if err == nil && fewer {
		m.Hurry(box) // a letter may have waited for it
	}
	return err
}

// settled says whether a letter is not to go any more: it has been seen through, the box has taken its series back, or it brings what a server may append and was left with a memory of the hub that was replaced; the box
// leaves that anew, and what was brought after the copy was made would come twice. Events of such a time go: servers know them again, and the box may not come back soon.
func (m *Mail) settled(ctx context.Context, q spool.Queue, letter api.Letter) (bool, error) {
	if letter.Once {
		epoch, err := m.c.Spool.Epoch(ctx)
		if err != nil || letter.Epoch != epoch {
			return err == nil, err
		}
	}
	all, err := m.read(ctx, q.Box)
	if err != nil {
		return false, err
	}
	e := all[q.Other]
	return e != nil && (slices.Contains(e.Void, letter.Series) ||
		slices.ContainsFunc(e.Done, func(d api.Done) bool { return d.Series == letter.Series && d.N >= letter.N })), nil
}

// swept forgets, when nothing waits, which series were taken back.
func (m *Mail) swept(ctx context.Context, q spool.Queue) {
	all, err := m.read(ctx, q.Box)
	if e := all[q.Other]; err != nil || e == nil || len(e.Void) == 0 {
		return
	}
	if err := m.note(ctx, q.Box, q.Other, func(e *entry) error { e.Void = nil; return nil }); err != nil {
		m.c.Log.Debug("forget what was taken back", "err", err) // it is the next time
	}
}

// Standing says how far a box's letters have come.
func (m *Mail) Standing(ctx context.Context, box string) (api.Letters, error) {
	out := api.Letters{To: []api.Standing{}}
	var err error
	if out.Epoch, err = m.c.Spool.Epoch(ctx); err != nil {
		return out, err
	}
	waiting, err := m.c.Spool.Waiting(ctx, box) // before the notes: what is done in between is named as both
	if err != nil {
		return out, err
	}
	all, err := m.read(ctx, box)
	if err != nil {
		return out, err
	}
	to := map[string]*api.Standing{}
	why := 0
	for server, e := range all {
		to[server] = &api.Standing{To: server, Done: e.Done, Amiss: e.Amiss}
	}
	for _, w := range waiting {
		if w.In {
			continue
		}
		if to[w.Other] == nil {
			to[w.Other] = &api.Standing{To: w.Other}
		}
		s := to[w.Other]
		s.Waiting, s.Bytes, s.Oldest = w.Count, w.Bytes, w.Oldest
		m.mu.Lock()
		if l := m.lines[w.Queue]; l != nil {
			s.Status = l.status
			if why++; why <= mostWhy {
				s.Trouble = l.trouble
			}
		}
		m.mu.Unlock()
	}
	for _, server := range slices.Sorted(maps.Keys(to)) {
		out.To = append(out.To, *to[server])
	}
	return out, nil
}
