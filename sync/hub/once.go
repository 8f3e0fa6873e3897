// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// This file sends a box's transaction out once. A box that dies before it has heard the answer sends the same again, and not every server knows it again: a Dendrite forgets a transaction when it has
// answered it, and shows messages between devices twice; and when the connection breaks in the middle it has done a part. So the hub sees a transaction through though its box is gone, and
// answers its repetition itself, which may be a letter. Of letters this concerns those with EDUs: events have names by which they are known, and a server that has lost some of them is to get them again.

const (
	sendPatience = 5 * time.Minute // for a transaction at a busy server
	onceKept     = 2 * time.Hour
	onceMost     = 4096     // answers in memory, of all boxes
	onceAnswer   = 64 << 10 // bytes of one; a longer one is passed on, and of a 200 it is remembered that it was one
)

// onceTaken stands for a 200 that is too long to be kept.
const onceTaken = `{"pdus":{}}`

// spliced is an answer whose beginning has been read already.
type spliced struct {
	io.Reader
	io.Closer
}

// onceKey names a transaction: of which box, for whom, what.
type onceKey struct {
	box, to, uri string
	body         [32]byte
}

// once is a transaction on its way, or its answer.
type once struct {
	done   chan struct{} // closed with the answer
	at     time.Time
	status int // 0: there was none
	head   http.Header
	body   []byte
}

// onces are those of all boxes. Only what was answered with 200 is remembered.
type onces struct {
	mu    sync.Mutex
	known map[onceKey]*once
}

// begin finds a transaction, or begins it: then the caller ends it.
func (o *onces) begin(k onceKey, now time.Time) (t *once, mine bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t := o.known[k]; t != nil {
		return t, false
	}
	if o.known == nil {
		o.known = map[onceKey]*once{}
	}
	if len(o.known) >= onceMost {
		for k, t := range o.known {
			if t.status != 0 && (now.Sub(t.at) > onceKept || len(o.known) >= onceMost) {
				delete(o.known, k)
			}
		}
	}
	t = &once{done: make(chan struct{}), at: now}
	o.known[k] = t
	return t, true
}

// end notes the answer. Of a long one it is noted that it was a 200; another long one counts as none.
func (o *onces) end(k onceKey, t *once, status int, head http.Header, body []byte) {
	if len(body) > onceAnswer {
		head, body = http.Header{"Content-Type": {"application/json"}}, []byte(onceTaken)
		if status != http.StatusOK {
			status = 0
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	t.status, t.head, t.body = status, head, body
	if status != http.StatusOK {
		delete(o.known, k)
	}
	close(t.done)
}

// sendOnce sends a box's transaction out, or answers it as it was answered before. False: the box is to be told that there was no answer.
func (h *Hub) sendOnce(w http.ResponseWriter, r *http.Request, k onceKey, send func(context.Context) (*http.Response, error)) (bool, error) {
	t, mine := h.once.begin(k, h.now())
	if mine {
		leave, err := h.singles.enter(r.Context(), k.box, k.to) // whoever goes before that has sent nothing
		if err != nil {
			h.once.end(k, t, 0, nil, nil)
			return false, err
		}
		ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), sendPatience)
		defer stop()
		resp, err := send(ctx)
		if err != nil {
			leave()
			h.once.end(k, t, 0, nil, nil)
			return false, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, onceAnswer+1))
		leave() // it has answered, whatever comes yet
		if err != nil {
			h.once.end(k, t, 0, nil, nil)
			return false, err
		}
		h.once.end(k, t, resp.StatusCode, resp.Header, text)
		if len(text) > onceAnswer {
			resp.Body = spliced{io.MultiReader(bytes.NewReader(text), resp.Body), resp.Body}
			passOn(w, resp)
			return true, nil
		}
	}
	select {
	case <-t.done:
	case <-r.Context().Done():
		return false, r.Context().Err()
	}
	if t.status == 0 {
		return false, nil
	}
	for _, name := range passedOn {
		if v := t.head.Values(name); len(v) > 0 {
			w.Header()[name] = v
		}
	}
	w.WriteHeader(t.status)
	_, _ = w.Write(t.body) // a box that has gone asks again
	return true, nil
}

// hasEDUs says whether something is in a transaction that a server may show twice.
func hasEDUs(body []byte) bool {
	var in struct {
		EDUs []struct{} `json:"edus"`
	}
	return json.Unmarshal(body, &in) == nil && len(in.EDUs) > 0
}

// onceOf is the key of a box's transaction.
func onceOf(box, to, uri string, body []byte) onceKey {
	return onceKey{box: box, to: to, uri: uri, body: sha256.Sum256(body)}
}
