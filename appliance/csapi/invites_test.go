// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"sync"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/tools/matrixclient"
)

// handOnNow is one look of HandOnInvites, after which all that it started is over.
func (b *box) handOnNow(h *Handler) {
	b.Helper()
	h.await.mu.Lock()
	for _, s := range h.await.servers {
		s.due = time.Time{}
	}
	h.await.mu.Unlock()
	var wg sync.WaitGroup
	if _, err := h.handOn(b.ctx, &wg); err != nil {
		b.Fatal(err)
	}
	wg.Wait()
}

// invitesTo tells the far server to sign, and counts whom it signed for.
func (f *farServer) invitesTo() map[string]int {
	signed := map[string]int{}
	f.sign = func(_ *event.Version, p *event.PDU) (*event.PDU, error) {
		signed[*p.StateKey]++
		return p, nil
	}
	return signed
}

func TestInviteWaitsForItsServer(t *testing.T) {
	b, far := newFarBox(t, time.Minute)
	alice, bob, cora := b.user("alice"), b.user("bob"), b.user("cora")
	signed := far.invitesTo()
	room := b.room(alice, matrixclient.CreateRoom{Version: "11", Preset: "public_chat"})
	for _, u := range []*matrixclient.Client{bob, cora} {
		if _, err := u.Join(b.ctx, room); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := alice.SetState(b.ctx, room, "m.room.power_levels", "", object{"users": object{alice.UserID: 100, bob.UserID: 50}, "invite": 50}); err != nil {
		t.Fatal(err)
	}
	far.gone.Store(true)
	b.refused("an invite without a way", alice.Invite(b.ctx, room, "@eins:far.example"), 504, "M_UNKNOWN")
	b.refused("said again", alice.Invite(b.ctx, room, "@eins:far.example"), 504, "M_UNKNOWN")
	b.refused("another", alice.Invite(b.ctx, room, "@zwei:far.example"), 504, "M_UNKNOWN")
	b.refused("that of somebody else", bob.Invite(b.ctx, room, "@drei:far.example"), 504, "M_UNKNOWN")
	b.refused("a third of hers", alice.Invite(b.ctx, room, "@fuenf:far.example"), 504, "M_UNKNOWN")
	b.refused("one that will be refused", alice.Invite(b.ctx, room, "@vier:far.example"), 504, "M_UNKNOWN")
	b.handOnNow(b.h)

	b.refused("who has no part in it takes it back", cora.Kick(b.ctx, room, "@zwei:far.example", ""), 403, "M_FORBIDDEN")
	b.ok(alice.Kick(b.ctx, room, "@zwei:far.example", "")) // her own
	b.refused("twice", alice.Kick(b.ctx, room, "@zwei:far.example", ""), 403, "M_FORBIDDEN")
	b.ok(bob.Kick(b.ctx, room, "@fuenf:far.example", "")) // he may put people out
	b.ok(bob.Leave(b.ctx, room))                          // so that he may not invite any more
	b.ok(alice.Ban(b.ctx, room, "@vier:far.example", ""))

	far.gone.Store(false)
	h := New(b.h.Config) // after a restart
	defer h.Close()
	b.handOnNow(h)
	var m object
	b.ok(alice.StateEvent(b.ctx, room, "m.room.member", "@eins:far.example", &m))
	if m["membership"] != "invite" {
		t.Errorf("the one who was waited for: %v", m)
	}
	b.handOnNow(h)
	if len(signed) != 1 || signed["@eins:far.example"] != 1 {
		t.Errorf("signed %v", signed)
	}
}

func TestInviteGoesWhenItsServerIsHeard(t *testing.T) {
	b, far := newFarBox(t, time.Minute)
	alice := b.user("alice")
	far.invitesTo()
	room := b.room(alice, matrixclient.CreateRoom{})
	far.gone.Store(true)
	b.refused("an invite without a way", alice.Invite(b.ctx, room, farUser), 504, "M_UNKNOWN")
	b.handOnNow(b.h)
	far.gone.Store(false)
	b.h.await.mu.Lock()
	s := b.h.await.servers["far.example"]
	if s == nil || time.Until(s.due) < inviteFirst/2 {
		t.Fatalf("the next try: %+v", s)
	}
	s.tried = s.tried.Add(-inviteGap) // not just now
	b.h.await.mu.Unlock()
	b.h.Reached("elsewhere.example")
	ctx, stop := context.WithCancel(b.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { b.h.HandOnInvites(ctx) })
	defer wg.Wait()
	defer stop()
	b.h.Reached("far.example")
	var m object
	for alice.StateEvent(b.ctx, room, "m.room.member", farUser, &m) != nil {
		if b.ctx.Err() != nil {
			t.Fatal("the invite was not handed on")
		}
		time.Sleep(5 * time.Millisecond)
	}
	if m["membership"] != "invite" {
		t.Errorf("the one who was waited for: %v", m)
	}
}

// An invite that the other server was asked for when the power failed is asked for again: the server may have told its user already.
func TestInviteUnderWayOutlivesUs(t *testing.T) {
	b, far := newFarBox(t, time.Minute)
	alice := b.user("alice")
	room := b.room(alice, matrixclient.CreateRoom{})
	var kept int
	far.sign = func(_ *event.Version, p *event.PDU) (*event.PDU, error) {
		w, err := b.h.waitingInvite(b.ctx, event.RoomID(room), farUser)
		if w == nil || err != nil {
			t.Errorf("while it is under way: %v, %v", w, err)
		}
		kept++
		return p, nil
	}
	b.ok(alice.Invite(b.ctx, room, farUser))
	if w, err := b.h.waitingInvite(b.ctx, event.RoomID(room), farUser); kept != 1 || w != nil || err != nil {
		t.Errorf("asked %d times; afterwards %v waits, %v", kept, w, err)
	}
	far.sign = func(*event.Version, *event.PDU) (*event.PDU, error) { return nil, forbidden("no strangers") }
	b.refused("an invite that is refused there", alice.Invite(b.ctx, room, "@zwei:far.example"), 403, "M_FORBIDDEN")
	if w, err := b.h.waitingInvite(b.ctx, event.RoomID(room), "@zwei:far.example"); w != nil || err != nil {
		t.Errorf("a refused invite waits: %v, %v", w, err)
	}
}
