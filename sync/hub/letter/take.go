// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file takes letters.

// Errors of Take that callers tell apart; spool.ErrFull is another.
var (
	ErrBad   = errors.New("no letter that can be brought")
	ErrEpoch = errors.New("the hub's memory was replaced")
)

// Take keeps a letter of a box; when it has answered without an error the letter is on the disk. The same letter may come again.
func (m *Mail) Take(ctx context.Context, box string, raw []byte) error {
	letter, err := api.ReadLetter(raw)
	if err == nil {
		err = m.check(box, letter)
	}
	if err != nil {
		m.Count.Refused.Add(1)
		return fmt.Errorf("%w: %w", ErrBad, err)
	}
	epoch, err := m.c.Spool.Epoch(ctx)
	if err != nil {
		return err
	}
	if letter.Epoch != epoch {
		return ErrEpoch
	}
	q := spool.Queue{Box: box, Other: letter.To}
	r := spool.Request{
		Key: fmt.Sprintf("%s/%d %s", letter.Series, letter.N, letter.Sends[0].URI), Method: http.MethodPut, URI: letter.Sends[0].URI, Authorization: letter.Sends[0].Auth, Body: raw,
	}
	if err = m.fits(ctx, q, int64(len(raw))); err != nil {
		m.Count.Full.Add(1)
		return err
	}
	fresh, err := m.c.Spool.Append(ctx, q, m.c.Now(), r)
	if err != nil {
		if errors.Is(err, spool.ErrFull) {
			m.Count.Full.Add(1)
		}
		return err
	}
	m.Count.Taken.Add(int64(fresh))
	m.line(q)
	m.poke()
	return nil
}

// check refuses what is not signed by the box for that server.
func (m *Mail) check(box string, letter api.Letter) error {
	if ours, _ := m.c.Boxes(letter.To); ours || letter.To == m.c.Local.Server || !event.ValidServerName(letter.To) {
		return fmt.Errorf("%.100q is not a server to which letters go", letter.To)
	}
	for _, s := range letter.Sends {
		if err := m.verify(box, letter.To, http.MethodPut, s, letter.Body); err != nil {
			return err
		}
	}
	for _, a := range letter.Asks {
		if err := m.verify(box, letter.To, http.MethodGet, a.Signed, nil); err != nil {
			return err
		}
	}
	return nil
}

func (m *Mail) verify(box, to, method string, s api.Signed, body []byte) error {
	a, err := federation.ParseAuthorization(s.Auth)
	switch {
	case err != nil:
		return err
	case a.Origin != box || a.Destination != to:
		return errors.New("it is signed by another server, or for another")
	}
	key := m.c.Key(box, a.Key)
	if key == nil {
		return fmt.Errorf("the key %.80q is none that the box has stated", a.Key)
	}
	return federation.VerifyRequest(a, method, s.URI, body, key)
}

// fits says whether so much more may wait. Letters of a box fill at most a part of what is kept for it, so that there is always room for what others send to it: that is nowhere else. Many servers that are away must not fill
// it either: when it is half full each server has a share, and the last eighth is for servers that are known to be in reach. A first letter for one needs no share.
func (m *Mail) fits(ctx context.Context, q spool.Queue, size int64) error {
	waiting, err := m.c.Spool.Waiting(ctx, q.Box)
	if err != nil {
		return err
	}
	most, count, bytes := m.c.Limits, int64(1), size
	here, hereBytes, queues := count, bytes, int64(1)
	for _, w := range waiting {
		if w.In {
			continue
		}
		count, bytes = count+w.Count, bytes+w.Bytes
		if w.Other == q.Other {
			here, hereBytes = here+w.Count, hereBytes+w.Bytes
		} else {
			queues++
		}
	}
	full := count > most.Letters || bytes > most.Bytes || here > most.Letters/2 || hereBytes > most.Bytes/2
	if count > most.Letters/2 || bytes > most.Bytes/2 {
		full = full || here > 1 && (here > most.Letters/(queues+1) || hereBytes > most.Bytes/(queues+1))
	}
	if count > most.Letters-most.Letters/8 || bytes > most.Bytes-most.Bytes/8 {
		full = full || !m.inReach(q.Other)
	}
	if full {
		return fmt.Errorf("%w: letters", spool.ErrFull)
	}
	return nil
}

// TakeBack has the letters of a series for a server go no more, as far as they have not gone. ErrUnheard: that cannot be noted before the box has heard what went wrong with others.
func (m *Mail) TakeBack(ctx context.Context, box, to, series string) error {
	if to == "" || series == "" || len(to)+len(series) > 512 {
		return fmt.Errorf("%w: to or series is missing or too long", ErrBad)
	}
	q := spool.Queue{Box: box, Other: to}
	waiting, err := m.c.Spool.Waiting(ctx, box)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(waiting, func(w spool.Waiting) bool { return w.Queue == q }) {
		return nil
	}
	err = m.note(ctx, box, to, func(e *entry) error {
		if !slices.Contains(e.Void, series) {
			e.Void = append(e.Void, series)
			e.Void = e.Void[max(0, len(e.Void)-mostSeries):]
		}
		return nil
	})
	if err != nil {
		return err
	}
	m.line(q)
	m.anew(q)
	return nil
}

// anew has a queue looked at again from its oldest letter on.
func (m *Mail) anew(q spool.Queue) {
	m.mu.Lock()
	if l := m.lines[q]; l != nil {
		l.due, l.stale, l.hurry = time.Time{}, true, l.busy
	}
	m.mu.Unlock()
	m.poke()
}
