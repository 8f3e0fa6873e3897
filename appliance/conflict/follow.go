// SPDX-License-Identifier: EUPL-1.2

package conflict

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/herald"
	"hallig/appliance/rules"
	"hallig/appliance/store"
)

// closed is a room that was replaced while the sides were apart.
type closed struct {
	by       event.UserID
	next     event.RoomID   // "": nowhere
	aside    []event.RoomID // what other sides have put in its place, and does not hold
	stranded []event.UserID // our users in those
}

func closedBy(h *event.PDU, losers []*event.PDU) *closed {
	c := &closed{by: h.Sender, next: replacement(h.Content)}
	for _, p := range losers {
		if id := replacement(p.Content); id != "" && id != c.next && !slices.Contains(c.aside, id) {
			c.aside = append(c.aside, id)
		}
	}
	return c
}

// words are for those who are in a new room that does not hold.
func (c *closed) words() words {
	to := link(c.next, []string{c.by.Server()})
	return say(fmt.Sprintf("Der Raum wurde auf zwei Seiten durch je einen neuen ersetzt, ohne dass die einen von den anderen wussten. Es gilt der neue Raum von %s: %s\n"+
		"In dem anderen neuen Raum, in dem Sie sind, fehlen die anderen. Was dort steht, bleibt lesbar; schreiben Sie im geltenden weiter.", who(c.by), to),
		fmt.Sprintf("The room was replaced by a new one on two sides, neither knowing of the other. The new room of %s holds: %s\n"+
			"The others are missing in the other new room, in which you are. What stands there can still be read; go on writing in the one that holds.", who(c.by), to))
}

// whom finds out who is to be told, and who is to be brought on.
func (g *graph) whom(r *store.Read, f *finding) error {
	here, err := r.JoinedFrom(g.x.Room, g.c.c.Server)
	if err != nil {
		return err
	}
	var failed error
	state := g.state(r, g.now, &failed)
	needs := map[string]int64{"": rules.Levels(state).Ban}
	for _, x := range f.fights {
		needs[x.typ] = rules.NeededLevel(state, x.typ, true)
	}
	for _, u := range here {
		power := rules.UserLevel(state, u)
		for typ, need := range needs {
			if power >= need {
				f.admins[typ] = append(f.admins[typ], u)
			}
		}
	}
	if failed != nil || f.closed == nil || f.closed.next == "" {
		return failed
	}
	move := []event.UserID{}
	if f.closed.by.Server() != g.c.c.Server { // else they have seen it
		move = append(move, here...)
	}
	for _, id := range f.closed.aside {
		there, err := r.JoinedFrom(id, g.c.c.Server)
		if err != nil {
			return err
		}
		f.closed.stranded = append(f.closed.stranded, there...)
		move = append(move, there...)
	}
	servers, err := r.Servers(g.x.Room)
	if err != nil {
		return err
	}
	via := []string{f.closed.by.Server()}
	for _, s := range servers {
		if s != via[0] && s != g.c.c.Server && len(via) < 5 {
			via = append(via, s)
		}
	}
	slices.Sort(move)
	for _, u := range slices.Compact(move) {
		m, err := r.MembershipOf(f.closed.next, u)
		if err != nil {
			return err
		}
		if m.Membership != "join" {
			f.follows = append(f.follows, store.Follow{Room: g.x.Room, User: u, Next: f.closed.next, By: f.closed.by, Via: via})
		}
	}
	return nil
}

// How often somebody is brought on who could not be yet: the next try comes after a time that doubles.
const (
	followFirst = 30 * time.Second
	followMost  = 30 * time.Minute
	followSay   = 6 // tries, half an hour, after which people are told that the box goes on trying
)

func followAfter(tries int) time.Duration {
	if tries == 0 {
		return 0
	}
	return min(followFirst<<min(tries-1, 10), followMost)
}

// follow brings on who is due. It answers when the next one is; 0: nobody waits.
func (c *Conflicts) follow(ctx context.Context, now time.Time) (again time.Duration, err error) {
	var all []store.Follow
	err = c.c.DB.View(ctx, func(r *store.Read) (err error) {
		all, err = r.Follows()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look who is to follow: %w", err)
	}
	down := make(map[event.RoomID]error) // rooms that could not be reached just now
	for _, f := range all {
		wait := followAfter(f.Tries)
		if past := now.Sub(time.UnixMilli(f.At)); past < wait && past > -wait { // a clock that was set back holds nobody up
			again = earlier(again, wait-past)
			continue
		}
		refused, err := false, down[f.Next]
		if err == nil {
			refused, err = c.bring(ctx, f)
		}
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if err != nil && !refused {
			if down[f.Next] == nil {
				c.c.Log.Info("a room that replaces another cannot be joined yet", "room", f.Next, "err", err)
			}
			down[f.Next] = err
			f.Tries, f.At = f.Tries+1, now.UnixMilli()
			if err := c.later(ctx, f); err != nil {
				return 0, err
			}
			again = earlier(again, followAfter(f.Tries))
			continue
		}
		if err := c.followed(ctx, f, err); err != nil {
			return 0, err
		}
	}
	return again, nil
}

// later notes a try in vain; after some of them the user is told where people have gone.
func (c *Conflicts) later(ctx context.Context, f store.Follow) error {
	say := f.Tries == followSay
	err := c.c.DB.Do(ctx, func(tx *store.Tx) error {
		if err := tx.PutFollow(f); err != nil || !say {
			return err
		}
		name, err := nameOf(tx.Read, f.Room)
		if err != nil {
			return err
		}
		return herald.Owe(tx, f.User, followWords(f, name, errLater))
	})
	if err == nil && say {
		c.c.Told()
	}
	return err
}

// nameOf is what people call a room; "" when it has no name.
func nameOf(r *store.Read, id event.RoomID) (string, error) {
	e, err := r.CurrentStateEvent(id, "m.room.name", "")
	if e == nil || err != nil {
		return "", err
	}
	var x struct{ Content json.RawMessage }
	if json.Unmarshal(e.JSON, &x) != nil {
		return "", nil
	}
	return herald.OneLine(text(x.Content, "name"), 60), nil
}

func earlier(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return b
	}
	return a
}

// errStranger: the new room does not say that it replaces the old one. Whoever closes a room could send its people anywhere.
var errStranger = errors.New("the room does not say that it replaces this one")

// errLater: the new room is out of reach.
var errLater = errors.New("the room is out of reach")

// errOver: there is nobody left to be brought on.
var errOver = errors.New("nothing is to be done any more")

// bring lets one user follow. The first of a box comes to know the room; nobody stays in one that does not claim the old one.
func (c *Conflicts) bring(ctx context.Context, f store.Follow) (refused bool, err error) {
	inNext, claims, over, err := c.standing(ctx, f)
	if err != nil {
		return false, err
	}
	if over {
		return true, errOver
	}
	if claims == no {
		if inNext && f.Tries > 0 { // the box has let them in to see, and could not take them out again
			if err := c.c.Leave(ctx, f.User, f.Next); err != nil {
				return false, err
			}
		}
		return true, errStranger
	}
	if !inNext {
		if refused, err = c.c.Join(ctx, f.User, f.Next, f.Via); err != nil {
			return refused, err
		}
	}
	if claims == yes {
		return false, nil
	}
	if _, claims, _, err = c.standing(ctx, f); err != nil || claims == yes {
		return false, err
	}
	if err := c.c.Leave(ctx, f.User, f.Next); err != nil {
		return false, err
	}
	return true, errStranger
}

const (
	unknown = iota // we do not know the new room
	yes
	no
)

// standing tells whether the user is in the new room, whether that names the old one, and whether there is nothing to be done.
func (c *Conflicts) standing(ctx context.Context, f store.Follow) (in bool, claims int, over bool, err error) {
	err = c.c.DB.View(ctx, func(r *store.Read) error {
		m, err := r.MembershipOf(f.Next, f.User)
		if err != nil {
			return err
		}
		in = m.Membership == "join"
		if m.Membership == "ban" {
			over = true
		}
		if old, err := r.MembershipOf(f.Room, f.User); err != nil {
			return err
		} else if old.Membership == "leave" && !in { // has left meanwhile; who was only in the other new room has none
			over = true
		}
		e, err := r.CurrentStateEvent(f.Next, "m.room.create", "")
		if e == nil || err != nil {
			return err
		}
		var create struct {
			Content struct {
				Predecessor struct {
					Room event.RoomID `json:"room_id"`
				} `json:"predecessor"`
			} `json:"content"`
		}
		if claims = no; json.Unmarshal(e.JSON, &create) == nil && create.Content.Predecessor.Room == f.Room {
			claims = yes
		}
		return nil
	})
	return in, claims, over, err
}

// followed tells the user what became of it and forgets the rest. why is nil when they are in.
func (c *Conflicts) followed(ctx context.Context, f store.Follow, why error) error {
	err := c.c.DB.Do(ctx, func(tx *store.Tx) error {
		if err := tx.DropFollow(f.Room, f.User); err != nil || errors.Is(why, errOver) {
			return err
		}
		what := CountFollowed
		if why != nil {
			what = CountStayed
		}
		if err := tx.CountConflicts(what, 1); err != nil {
			return err
		}
		name, err := nameOf(tx.Read, f.Room)
		if err != nil {
			return err
		}
		return herald.Owe(tx, f.User, followWords(f, name, why))
	})
	if err == nil {
		c.c.Told()
	}
	return err
}

func followWords(f store.Follow, name string, why error) words {
	head := called(f.Room, name)
	to, by := link(f.Next, f.Via), who(f.By)
	var w words
	switch {
	case why == nil:
		w = say(fmt.Sprintf("%s hat den Raum anderswo durch einen neuen ersetzt. Die Box hat Sie dort eintreten lassen; schreiben Sie dort weiter: %s\nDer alte bleibt lesbar.", by, to),
			fmt.Sprintf("%s has replaced the room by a new one elsewhere. The box has let you join it; go on writing there: %s\nThe old one can still be read.", by, to))
	case errors.Is(why, errLater):
		w = say(fmt.Sprintf("%s hat den Raum anderswo durch einen neuen ersetzt, den diese Box noch nicht erreicht: %s\nSie versucht es weiter und sagt Bescheid, sobald Sie darin sind.", by, to),
			fmt.Sprintf("%s has replaced the room by a new one elsewhere, which this box cannot reach yet: %s\nIt goes on trying and tells you as soon as you are in it.", by, to))
	case errors.Is(why, errStranger):
		w = say(fmt.Sprintf("%s hat den Raum anderswo geschlossen und auf einen anderen verwiesen, der sich nicht als sein Nachfolger ausweist: %s\nDie Box hat Sie nicht dorthin gebracht. Fragen Sie %s, ob das so gewollt ist.", by, to, by),
			fmt.Sprintf("%s has closed the room elsewhere and points to another one that does not say it replaces it: %s\nThe box has not taken you there. Ask %s whether that is meant.", by, to, by))
	default:
		w = say(fmt.Sprintf("%s hat den Raum anderswo durch einen neuen ersetzt, der Sie nicht ohne Einladung einlässt: %s\nBitten Sie %s um eine Einladung. Was Sie im alten schreiben, liest dort niemand mehr.", by, to, by),
			fmt.Sprintf("%s has replaced the room by a new one elsewhere, which does not let you in without an invite: %s\nAsk %s for an invite. What you write in the old one is no longer read there.", by, to, by))
	}
	return say(head.De+"\n\n"+w.De, head.En+"\n\n"+w.En)
}
