// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file is about invites to people whose box is away. With the box's second key (delegated.go) the hub signs them as the box would, and keeps them for it. Without, it has to refuse them, and the refused
// event never was in its room; so all that can be done is to tell the person. The word of that goes the way of everything that waits for a box: a transaction, signed by the hub under its own name.

const (
	missedMost    = 200     // words of refused invites that wait for one box
	missedOfOne   = 50      // of these, of invites from one server
	missedReading = 1 << 20 // bytes of these: more than as many can have
)

// How many invites are signed for a box at once, and again after a minute each.
const (
	invitesOfBox = 1000
	invitesOfOne = 200 // by one server
)

// allowance bounds how often something may happen, by what it is about.
type allowance struct {
	mu   sync.Mutex
	full map[string]time.Time // when as much as ever may happen at once again
}

// may takes one of what may happen most times at once, and once more each minute.
func (a *allowance) may(what string, most int, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.full == nil {
		a.full = map[string]time.Time{}
	}
	if len(a.full) >= 1000 {
		maps.DeleteFunc(a.full, func(_ string, full time.Time) bool { return full.Before(now) })
	}
	next := a.full[what]
	if next.Before(now) {
		next = now
	}
	next = next.Add(time.Minute)
	if next.Sub(now) > time.Duration(most)*time.Minute {
		return false
	}
	a.full[what] = next
	return true
}

// inviteAway answers an invite for somebody whose box is away.
func (h *Hub) inviteAway(w http.ResponseWriter, r *http.Request, to entry, body []byte) {
	en, de := "Please invite again when it is back.", "Bitte später noch einmal einladen."
	if i, a, header, ok := h.readInvite(r, to, body); ok {
		if l, may := h.delegated(r.Context(), to.Server); may && h.signInvite(w, r, l, a.Origin, header, body, i) {
			return
		}
		if h.noteMissed(r.Context(), to.Server, a.Origin, i) {
			en, de = "Who was invited will be told of it; please invite again then.", "Wer eingeladen wurde, erfährt davon; bitte dann noch einmal einladen."
		}
	}
	refuse(w, http.StatusForbidden, "M_FORBIDDEN", to.Server+" is not in reach at the moment. "+en+" / "+to.Server+" ist gerade nicht erreichbar. "+de)
}

// readInvite gives an invite that another server has signed, for somebody who has an account on the box as far as the box has told, and the header that signs it.
func (h *Hub) readInvite(r *http.Request, to entry, body []byte) (i federation.Invite, a federation.Authorization, header string, ok bool) {
	a, header, err := h.verifier(r).Verify(r, body, h.now(), func(a federation.Authorization) error { return meant(a, to.Server) })
	if err != nil {
		return i, a, "", false
	}
	if i, err = federation.ReadInvite(r.URL.EscapedPath(), a.Origin, body); err != nil {
		return i, a, "", false
	}
	u, err := h.user(r.Context(), to.Server, string(i.User()))
	if err != nil && h.seldom.may("spool", h.now()) {
		h.log.Error("read a deposit", "box", to.Server, "err", err)
	}
	return i, a, header, u != nil && err == nil
}

// signInvite signs an invite as the box l, and keeps the request for it before anybody hears of that: the box takes it like one that came straight, and its user sees it. False: nothing was answered.
func (h *Hub) signInvite(w http.ResponseWriter, r *http.Request, l federation.Local, origin, header string, body []byte, i federation.Invite) bool {
	now := h.now()
	switch {
	case !h.replica.MayWrite(r.Context(), i.Event.RoomID, origin) || !h.replica.MayWrite(r.Context(), i.Event.RoomID, l.Server):
		h.count.refused.Add(1)
		refuse(w, http.StatusForbidden, "M_FORBIDDEN", "the room's access list shuts one of the servers out")
		return true
	case !h.invites.may(l.Server, invitesOfBox, now) || !h.invites.may(l.Server+" "+origin, invitesOfOne, now):
		if h.seldom.may("invites "+l.Server, now) {
			h.log.Warn("no more invites are signed for a box for now: there were too many", "box", l.Server, "from", origin)
		}
		return false
	}
	signed, err := i.Cosign(r.Context(), h.ring, l)
	if err != nil {
		h.log.Info("an invite was not signed for a box", "box", l.Server, "from", origin, "err", err)
		return !errors.Is(err, federation.ErrKeyUnavailable) && federation.AnswerError(w, err)
	}
	uri := federation.SignedURI(r)
	ctx, stop := context.WithTimeout(context.WithoutCancel(r.Context()), 30*time.Second)
	defer stop()
	_, err = h.spool.Append(ctx, spool.Queue{Box: l.Server, Other: origin, In: true}, now, spool.Request{Key: uri, Method: http.MethodPut, URI: uri, Authorization: header, Body: body, Received: now})
	if err != nil {
		if h.seldom.may("spool invite "+l.Server, now) {
			h.log.Error("an invite for a box could not be kept, and so was refused", "box", l.Server, "from", origin, "err", err)
		}
		return false
	}
	h.count.invited.Add(1)
	h.spoke(ctx, l.Server, origin, now)
	answer(w, http.StatusOK, signed.Answer())
	return true
}

// refusedInvite has a user told of an invite that the hub has signed and their box does not take all the same.
func (h *Hub) refusedInvite(ctx context.Context, box string, r spool.Request) {
	a, err := federation.ParseAuthorization(r.Authorization)
	if err != nil {
		return
	}
	path, _, _ := strings.Cut(r.URI, "?")
	if i, err := federation.ReadInvite(path, a.Origin, r.Body); err == nil {
		h.noteMissed(ctx, box, a.Origin, i)
	}
}

// isInvite says whether a request that waits for a box is an invite.
func isInvite(uri string) bool { return strings.HasPrefix(uri, "/_matrix/federation/v2/invite/") }

// noteMissed has the box tell somebody of an invite that was refused. False: it will not hear of it.
func (h *Hub) noteMissed(ctx context.Context, box, origin string, i federation.Invite) bool {
	q := spool.Queue{Box: box, Other: h.id.Server, In: true}
	now := h.now()
	waiting, err := h.spool.Next(ctx, q, 0, missedReading)
	ofOne := 0
	for _, w := range waiting {
		if strings.HasPrefix(w.Key, missedKey(origin, "")) {
			ofOne++
		}
	}
	if err == nil && (len(waiting) >= missedMost || ofOne >= missedOfOne) {
		err = spool.ErrFull
	}
	if err == nil {
		err = h.appendMissed(ctx, q, now, origin, i)
	}
	if err != nil {
		if h.seldom.may("missed "+box, now) {
			h.log.Warn("an invite was refused, and its user will not be told of it", "box", box, "from", origin, "err", err)
		}
		return false
	}
	return true
}

func missedKey(origin, what string) string { return "missed " + origin + " " + what }

// appendMissed puts the word of a refused invite into the spool. The same invited into the same room by the same again within two days is told once.
func (h *Hub) appendMissed(ctx context.Context, q spool.Queue, now time.Time, origin string, i federation.Invite) error {
	p := i.Event
	content, err := json.Marshal(api.MissedInvite{User: i.User(), Sender: p.Sender, Room: p.RoomID, Name: roomName(i.Stripped), TS: now.UnixMilli()})
	if err != nil {
		return err
	}
	if _, err := api.ReadMissedInvite(content); err != nil {
		return err // the box would not take it either
	}
	body, err := json.Marshal(map[string]any{"origin": h.id.Server, "origin_server_ts": now.UnixMilli(), "pdus": []any{},
		"edus": []any{map[string]any{"edu_type": api.MissedInviteEDU, "content": json.RawMessage(content)}}})
	if err != nil {
		return err
	}
	word := make([]byte, 12)
	_, _ = rand.Read(word) // never fails
	uri := sendPath + "missed-" + base64.RawURLEncoding.EncodeToString(word)
	a, err := federation.SignRequest(h.local, q.Box, http.MethodPut, uri, body)
	if err != nil {
		return err
	}
	which := sha256.Sum256([]byte(string(i.User()) + "\x00" + string(p.RoomID) + "\x00" + string(p.Sender)))
	key := missedKey(origin, base64.RawURLEncoding.EncodeToString(which[:16]))
	_, err = h.spool.Append(ctx, q, now, spool.Request{Key: key, Method: http.MethodPut, URI: uri, Authorization: a.String(), Body: body, Received: now})
	return err
}

// roomName is what an invite tells of the room's name.
func roomName(stripped []json.RawMessage) string {
	for _, raw := range stripped {
		var e struct {
			Type     string `json:"type"`
			StateKey string `json:"state_key"`
			Content  struct {
				Name string `json:"name"`
			} `json:"content"`
		}
		if json.Unmarshal(raw, &e) != nil || e.Type != "m.room.name" || e.StateKey != "" {
			continue
		}
		name := e.Content.Name
		for len(name) > api.MaxRoomName {
			_, n := utf8.DecodeLastRuneInString(name)
			name = name[:len(name)-n]
		}
		return name
	}
	return ""
}

// meant refuses what is for another server than the box, or claims to be from the box itself.
func meant(a federation.Authorization, box string) error {
	switch {
	case a.Destination != "" && a.Destination != box:
		return errors.New("the request is for " + a.Destination)
	case a.Origin == box:
		return errors.New("the request claims to be from the server that it is for")
	}
	return nil
}
