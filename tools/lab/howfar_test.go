// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"hallig/appliance/delivery"
	"hallig/tools/matrixclient"
)

// ladder asks how far an event has got.
func ladder(ctx context.Context, c *matrixclient.Client, room, id string) (l delivery.Ladder, err error) {
	err = c.Do(ctx, http.MethodGet, "/_hallig/v1/rooms/"+url.PathEscape(room)+"/delivery/"+url.PathEscape(id), nil, &l)
	return l, err
}

// TestHowFar: a message climbs its ladder step by step, and stands where it stood after its box was killed.
func TestHowFar(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	n.awaitCarrier(t, inTime, "p2p")
	room := n.meet(t, ctx)
	talk(t, ctx, room, n.anna, n.bert, "Moin")
	_, since, err := n.bert.WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.Body() == "Moin" })
	ok(t, "follow", err)

	n.cut(true)
	id := must[string](t, "send")(n.anna.SendText(ctx, room, "Wie weit?"))
	l := must[delivery.Ladder](t, "ask")(ladder(ctx, n.anna, room, id))
	if len(l.Servers) != 1 || l.Servers[0].Name != "langeness.example" || !l.Servers[0].Box || l.Servers[0].State == delivery.Kept || len(l.People) != 0 {
		t.Errorf("while the link is cut: %+v", l)
	}
	n.cut(false)
	stands := func(kept int, person string) {
		t.Helper()
		took := eventually(t, inTime, "kept, "+person, func() error {
			l, err := ladder(ctx, n.anna, room, id)
			switch {
			case err != nil:
				return err
			case l.Summary.Kept != kept || l.Servers[0].Via != "p2p":
				return fmt.Errorf("servers %+v", l.Servers)
			case person == "" && len(l.People) == 0:
				return nil
			case len(l.People) != 1 || string(l.People[0].User) != n.bert.UserID || l.People[0].State != person:
				return fmt.Errorf("people %+v", l.People)
			}
			return nil
		})
		t.Logf("%q after %v", person, took)
	}
	stands(1, "")
	_, since, err = n.bert.WaitEvent(ctx, since, room, func(e matrixclient.Event) bool { return e.ID == id })
	ok(t, "see it", err)
	must[*matrixclient.SyncResponse](t, "show the token")(n.bert.Sync(ctx, matrixclient.SyncOptions{Since: since}))
	stands(1, delivery.Seen)
	ok(t, "read it", n.bert.Do(ctx, http.MethodPost, matrixclient.Path("rooms", room, "receipt", "m.read", id), nil, nil))
	stands(1, delivery.Read)
	n.a.kill()
	n.a.start()
	l = must[delivery.Ladder](t, "ask again")(ladder(ctx, n.anna, room, id))
	if l.Summary.Kept != 1 || l.Summary.Read != 1 {
		t.Errorf("after a crash: %+v", l)
	}

	other := n.a.register("otto")
	var refused *matrixclient.Error
	if _, err := ladder(ctx, other, room, id); !errors.As(err, &refused) || refused.Status != http.StatusNotFound {
		t.Errorf("somebody who is not in the room hears %v", err)
	}
}

// TestHowFarOverABox: a message goes over a box in between to a box that its own has never met; its ladder shows that it is there, since when, and that the box in between
// says so, also after a crash. The box in between speaks for itself.
func TestHowFarOverABox(t *testing.T) {
	ctx := within(t, 5*time.Minute)
	n := twoBoxes(t)
	far := newBox(t, "norderoog.example")
	far.listenP2P()
	far.start()
	pair(t, n.b, far, n.links[1].Addr())
	n.awaitCarrier(t, inTime, "p2p")
	cora := far.register("cora")
	room := n.meet(t, ctx)
	_, err := n.anna.SetState(ctx, room, "m.room.join_rules", "", map[string]string{"join_rule": "public"})
	ok(t, "let others in", err)
	talk(t, ctx, room, n.anna, n.bert, "Moin")
	must[string](t, "join over the box in between")(cora.Join(ctx, room, "langeness.example"))
	id := talk(t, ctx, room, n.anna, cora, "Wie weit?")
	_, since, err := cora.WaitEvent(ctx, "", room, func(e matrixclient.Event) bool { return e.ID == id })
	ok(t, "follow", err)
	must[*matrixclient.SyncResponse](t, "show the token")(cora.Sync(ctx, matrixclient.SyncOptions{Since: since}))
	climbed := func() error {
		l, err := ladder(ctx, n.anna, room, id)
		if err != nil {
			return err
		}
		for _, s := range l.Servers {
			direct := s.Name == "langeness.example"
			if s.State != delivery.Kept || s.KeptAt == 0 || s.Box != direct || direct != (len(s.ReportedBy) == 0) || !direct && s.ReportedBy[0] != "langeness.example" {
				return fmt.Errorf("servers %+v", l.Servers)
			}
		}
		for _, p := range l.People {
			if string(p.User) == cora.UserID && p.State == delivery.Seen && len(p.ReportedBy) == 1 && len(l.Servers) == 2 {
				return nil
			}
		}
		return fmt.Errorf("people %+v", l.People)
	}
	t.Logf("known after %v", eventually(t, inTime, "known over the box in between", climbed))
	n.a.kill()
	n.a.start()
	if err := climbed(); err != nil {
		t.Errorf("after a crash: %v", err)
	}
}
