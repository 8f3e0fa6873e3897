// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// This file leaves letters with the hub: what other servers are to get though this box may be gone by then. When and which is federation's to say.

const (
	lettersAsked  = time.Minute      // how often the hub is asked how far they have come; it says so itself as well
	lettersHeeded = 5 * time.Second  // how often it is told what of that was heard
	wayStraight   = 10 * time.Minute // so long a server counts as out of the hub's reach that only the box reached
	letterRate    = 500              // bytes a second at least, or the letter is given up
)

// hubPost is the hub as the feed to other servers sees it. By libp2p only: no radio leads to a hub.
type hubPost struct{ b *Box }

// Open is part of federation.Post.
func (p hubPost) Open(server string) string {
	x := p.b.exchange
	h := &x.post
	if !x.hubInReach() {
		return ""
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if h.answer == nil || h.answer.Letters == nil || h.trouble != "" || now.Before(h.silent) || now.Before(h.straight[server]) {
		return ""
	}
	return h.answer.Epoch
}

// Leave is part of federation.Post.
func (p hubPost) Leave(ctx context.Context, l api.Letter) error {
	raw, err := l.Append(nil)
	if err != nil {
		return err
	}
	wait := depositWait + time.Duration(len(raw)/letterRate)*time.Second
	_, err = p.b.hubAnswerFor(ctx, wait, http.MethodPut, api.LetterPath, raw)
	var no *hubRefusal
	if !errors.As(err, &no) {
		return err
	}
	switch no.status {
	case http.StatusConflict: // it names its new memory at the next contact
		p.b.exchange.post.meetAgain()
	case http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", federation.ErrNoRoom, err)
	}
	return err
}

// TakeBack is part of federation.Post.
func (p hubPost) TakeBack(ctx context.Context, server, series string) error {
	return p.b.askHub(ctx, http.MethodDelete, api.LetterPath+"?"+url.Values{"to": {server}, "series": {series}}.Encode(), nil, nil)
}

// meetAgain has the next contact come at once.
func (h *hubParts) meetAgain() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next = time.Now()
}

// went notes by which way a server was reached, the hub being in reach as well.
func (h *hubParts) went(server string, straight bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !straight {
		delete(h.straight, server)
		return
	}
	if h.straight == nil || len(h.straight) > 10_000 {
		h.straight = map[string]time.Time{}
	}
	h.straight[server] = time.Now().Add(wayStraight)
}

// askForLetters asks the hub how far letters have come, now and then while some are out; and tells it soon what it need not say again, since there is room for so much only.
func (b *Box) askForLetters(ctx context.Context, now time.Time) {
	h := &b.exchange.post
	method, body := http.MethodGet, []byte(nil)
	if !now.Before(h.heededNext) {
		heeded, err := b.fed.sender.Heeded(ctx)
		if err == nil && len(heeded.To) > 0 {
			method, h.heededNext = http.MethodPut, now.Add(lettersHeeded)
			body, err = json.Marshal(heeded)
		}
		if err != nil {
			b.log.Error("tell the hub what was heard of letters; it is tried again", "err", err)
			return
		}
	}
	if body == nil && (now.Before(h.lettersNext) || b.fed.sender.Left() == 0) {
		return
	}
	h.lettersNext = now.Add(lettersAsked)
	raw, err := b.hubAnswer(ctx, method, api.LettersPath, body)
	var out api.Letters
	if err == nil {
		out, err = api.ReadLetters(raw)
	}
	if err != nil {
		b.log.Debug("not heard how far letters have come", "err", err)
		return
	}
	b.fed.sender.Standing(out, now)
}

// heardOfLetters takes the hub's own word on how far they have come.
func (b *Box) heardOfLetters(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, api.MaxLetters))
	var out api.Letters
	if err == nil {
		out, err = api.ReadLetters(raw)
	}
	if err != nil || r.Method != http.MethodPut {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	b.fed.sender.Standing(out, time.Time{})
}
