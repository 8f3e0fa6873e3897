// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// This file invites users of other servers. Such an invite is an event only when the other server has signed it too; while that server is out of reach the wish
// is kept, and the event made when it is in reach: by then the room's law may have changed its mind, and then nothing comes of it.

const (
	inviteFirst = 15 * time.Second // after a failure
	inviteMost  = 5 * time.Minute
	inviteGap   = 5 * time.Second // between two tries, whatever is heard of the server
	invitesPage = 200
)

// inviteWait is when servers are asked again that somebody could not be invited on.
type inviteWait struct {
	wake chan struct{}

	mu      sync.Mutex
	servers map[string]*serverWait // only those for which something waits
}

type serverWait struct {
	due, tried time.Time
	delay      time.Duration
	running    bool
}

func newInviteWait() *inviteWait {
	return &inviteWait{wake: make(chan struct{}, 1), servers: map[string]*serverWait{}}
}

func (w *inviteWait) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// failed notes that a server was just found out of reach.
func (w *inviteWait) failed(server string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.servers[server] == nil {
		now := time.Now()
		w.servers[server] = &serverWait{due: now.Add(inviteFirst), tried: now, delay: 2 * inviteFirst}
		w.poke()
	}
}

// Reached says that a server is in reach: what waits for it is handed on. It may be called often and does not block.
func (h *Handler) Reached(server string) {
	w := h.await
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.servers[server]; s != nil && !s.running {
		if soon := s.tried.Add(inviteGap); soon.Before(s.due) {
			s.due = soon
			w.poke()
		}
	}
}

// HandOnInvites hands invites on that wait for their servers, until ctx ends.
func (h *Handler) HandOnInvites(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		wait, err := h.handOn(ctx, &wg)
		if err != nil && ctx.Err() == nil {
			h.log.Error("look up invites that wait", "err", err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-h.await.wake:
		}
		timer.Stop()
	}
}

// handOn starts to ask each server whose time has come, and says when to look again.
func (h *Handler) handOn(ctx context.Context, wg *sync.WaitGroup) (time.Duration, error) {
	waiting := map[string][]store.WaitingInvite{}
	err := h.DB.View(ctx, func(r *store.Read) error {
		for last := (store.WaitingInvite{}); ; {
			page, err := r.WaitingInvites(last.Room, last.User, invitesPage)
			if err != nil || len(page) == 0 {
				return err
			}
			for _, i := range page {
				waiting[i.User.Server()] = append(waiting[i.User.Server()], i)
			}
			last = page[len(page)-1]
		}
	})
	if err != nil {
		return inviteFirst, err
	}
	w, now, wait := h.await, time.Now(), time.Hour
	w.mu.Lock()
	defer w.mu.Unlock()
	for server, s := range w.servers {
		if waiting[server] == nil && !s.running {
			delete(w.servers, server)
		}
	}
	for server, invites := range waiting {
		s := w.servers[server]
		if s == nil {
			s = &serverWait{due: now, delay: inviteFirst}
			w.servers[server] = s
		}
		switch {
		case s.running:
		case s.due.After(now):
			wait = min(wait, s.due.Sub(now))
		default:
			s.running, s.tried = true, now
			wg.Go(func() { h.askServer(ctx, s, invites) }) // HandOnInvites waits for it
		}
	}
	return wait, nil
}

// askServer hands the invites of one server on, until one shows that it is out of reach.
func (h *Handler) askServer(ctx context.Context, s *serverWait, invites []store.WaitingInvite) {
	away := false
	for _, i := range invites {
		if now, err := h.waitingInvite(ctx, i.Room, i.User); now == nil && err == nil {
			continue // withdrawn meanwhile
		}
		key := string(i.User)
		d := room.Draft{Room: i.Room, Sender: i.Sender, Type: "m.room.member", StateKey: &key, Content: i.Content}
		err := h.inviteElsewhere(ctx, d, true)
		if away = unreached(err); away || ctx.Err() != nil {
			break
		}
		if err != nil {
			h.log.Info("an invite that waited was refused", "room", i.Room, "user", i.User, "err", err)
		}
	}
	w := h.await
	w.mu.Lock()
	defer w.mu.Unlock()
	s.running = false
	s.due = time.Now().Add(s.delay)
	if s.delay = min(2*s.delay, inviteMost); !away {
		s.delay = inviteFirst
	}
	w.poke()
}

// unreached says whether an answer is for want of a way to the other server, so that asking again makes sense.
func unreached(err error) bool {
	var told *room.Error
	if errors.As(err, &told) {
		return told.Status >= 500
	}
	var a *answer
	if errors.As(err, &a) {
		return a.status >= 500
	}
	return err != nil
}

// inviteElsewhere invites a user of another server; at most one request about it is under way.
func (h *Handler) inviteElsewhere(ctx context.Context, d room.Draft, again bool) error {
	_, err := h.slow.do(ctx, "invite "+string(d.Room)+" "+*d.StateKey, func(ctx context.Context) (any, error) {
		return nil, h.inviteRemote(ctx, d, again)
	})
	return err
}

// inviteRemote has the other server sign the invite before anybody is told. again: it waited, and may have been withdrawn meanwhile.
// https://spec.matrix.org/v1.13/server-server-api/#inviting-to-a-room
func (h *Handler) inviteRemote(ctx context.Context, d room.Draft, again bool) error {
	target := event.UserID(*d.StateKey)
	pdu, v, err := h.Rooms.BuildEvent(ctx, d)
	if err == nil && !again {
		// Before the other server hears of it: it may sign, and we may die before we know.
		if err := h.keepInvite(ctx, d, target); err != nil {
			return err
		}
	}
	if err == nil {
		var signed *event.PDU
		if signed, err = h.Remote.Invite(ctx, v, pdu); err == nil {
			return h.invited(ctx, signed, func(tx *store.Tx) error { return tx.DropInvite(d.Room, target) })
		}
		err = remoteError(err)
	}
	switch {
	case !unreached(err): // a refusal: nothing waits for a better answer
		if err := h.dropIfWaiting(ctx, d.Room, target); err != nil {
			return err
		}
	case !again && ctx.Err() == nil:
		h.log.Info("an invite waits for its server", "room", d.Room, "user", target, "err", err)
		h.await.failed(target.Server())
		return refuse(http.StatusGatewayTimeout, "M_UNKNOWN", "the server "+target.Server()+" cannot be reached now; the invite is kept and handed on when it can")
	}
	return err
}

// invited takes the invite in that the other server has signed.
func (h *Handler) invited(ctx context.Context, signed *event.PDU, drop func(*store.Tx) error) error {
	res, err := h.Rooms.Accept(ctx, room.Incoming{PDU: signed, From: room.Source{Kind: "local", Server: h.ServerName}, ExtraTx: drop})
	if err != nil {
		return err
	}
	if res.Outcome != room.Accepted && res.Outcome != room.Duplicate {
		return forbidden("the invite was not accepted: " + res.Reason)
	}
	return nil
}

// keepInvite keeps an invite until it is known what became of it.
func (h *Handler) keepInvite(ctx context.Context, d room.Draft, target event.UserID) error {
	w := store.WaitingInvite{Room: d.Room, User: target, Sender: d.Sender, Content: d.Content, Since: h.Now().UnixMilli()}
	before, err := h.waitingInvite(ctx, d.Room, target)
	if err == nil && (before == nil || before.Sender != w.Sender || string(before.Content) != string(w.Content)) {
		err = h.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.KeepInvite(w) })
	}
	return err
}

func (h *Handler) waitingInvite(ctx context.Context, id event.RoomID, user event.UserID) (w *store.WaitingInvite, err error) {
	err = h.DB.View(ctx, func(r *store.Read) (err error) {
		w, err = r.WaitingInvite(id, user)
		return err
	})
	return w, err
}

func (h *Handler) dropIfWaiting(ctx context.Context, id event.RoomID, user event.UserID) error {
	w, err := h.waitingInvite(ctx, id, user)
	if w == nil || err != nil {
		return err
	}
	return h.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.DropInvite(id, user) })
}

// withdraw takes an invite back that waits: who made it may, and who may put people out of the room.
func (h *Handler) withdraw(ctx context.Context, id event.RoomID, by, user event.UserID) (bool, error) {
	w, err := h.waitingInvite(ctx, id, user)
	if w == nil || err != nil {
		return false, err
	}
	if w.Sender != by {
		m, err := h.membership(ctx, id, by)
		if err != nil || m.Membership != "join" {
			return false, err
		}
		state, err := h.Rooms.LawState(ctx, id)
		if err != nil || rules.UserLevel(state, by) < rules.Levels(state).Kick {
			return false, err
		}
	}
	return true, h.DB.DoSmall(ctx, func(tx *store.Tx) error { return tx.DropInvite(id, user) })
}
