// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"time"

	"hallig/tools/matrixclient"
)

const patience = 8 * time.Second // for one request; what a server does later is its own affair

// kind is one thing that may happen, and how often of a thousand.
type kind struct {
	name   string
	weight int
	do     func(w *world, ctx context.Context, n int) error
}

// kinds is the schedule's mixture.
var kinds = []kind{
	{"message", 560, (*world).message},
	{"edit", 40, (*world).edit},
	{"reaction", 40, (*world).reaction},
	{"redaction", 35, (*world).redaction},
	{"topic", 60, (*world).topic},
	{"name", 25, (*world).roomName},
	{"power", 25, (*world).power},
	{"profile", 15, (*world).profile},
	{"join", 90, (*world).join},
	{"leave", 25, (*world).leave},
	{"invite", 15, (*world).invite},
	{"kick", 12, (*world).kick},
	{"ban", 8, (*world).ban},
	{"unban", 40, (*world).unban},
	{"joinRule", 8, (*world).joinRule},
	{"visibility", 8, (*world).visibility},
	{"burst", 6, (*world).burst},
	{"cutCentre", 16, (*world).cutCentreNow},
	{"cutWire", 10, (*world).cutWireNow},
	{"island", 4, (*world).island},
	{"crash", 6, (*world).crash},
	{"stopCentre", 2, (*world).stopCentre},
}

// act does one action of the schedule, after ending the faults whose time has come.
func (w *world) act(ctx context.Context, n int) error {
	if err := w.expire(ctx, n); err != nil {
		return err
	}
	all := 0
	for _, k := range kinds {
		all += k.weight
	}
	at := w.r.IntN(all)
	for _, k := range kinds {
		if at -= k.weight; at < 0 {
			fmt.Fprintf(w.log, "%d %s: ", n, k.name)
			defer fmt.Fprintln(w.log)
			return k.do(w, ctx, n)
		}
	}
	return nil
}

func (w *world) expire(ctx context.Context, n int) error {
	for i := range w.cutCentre {
		if w.cutCentre[i] && n >= w.until[i] {
			w.setCentre(i, false)
		}
	}
	if w.cutWire && n >= w.until[2] {
		w.setWire(false)
	}
	for s := range w.down {
		if w.down[s] && n >= w.until[3+s] {
			if err := w.setDown(ctx, s, false, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// someone picks a room and a user whose server runs; nil when none does. The draws are the same whatever has failed before.
func (w *world) someone() (*room, *matrixclient.Client, int) {
	r, s, u := w.rooms[w.r.IntN(len(w.rooms))], w.r.IntN(3), w.r.IntN(perServer)
	if w.down[s] {
		return r, nil, s
	}
	return r, w.people[s][u], s
}

// warden is someone with power.
func (w *world) warden() (*room, *matrixclient.Client, int) {
	r, _, s := w.someone()
	return w.wardenOf(r, s)
}

// lawgiver is who may change the law of a room: the warden of its host or, where fights are wanted, any warden. The central server's library leaves out of
// the power events what is not itself in conflict, and orders a room whose law was changed on two sides of a cut in its own way; tools/oracle has the sentence
// of the specification. So those fights are between the boxes and, for the central server, counted apart.
func (w *world) lawgiver() (*room, *matrixclient.Client, int) {
	r, _, s := w.someone()
	if !w.fights {
		s = r.host
	}
	return w.wardenOf(r, s)
}

func (w *world) wardenOf(r *room, s int) (*room, *matrixclient.Client, int) {
	if w.down[s] {
		return r, nil, s
	}
	return r, w.people[s][0], s
}

// victim is anybody without power.
func (w *world) victim() string {
	return w.people[w.r.IntN(3)][1+w.r.IntN(perServer-1)].UserID
}

// ask does one request within patience. A refusal or a server out of reach is part of the game; an id is a promise.
func (w *world) ask(ctx context.Context, r *room, c *matrixclient.Client, s int, what string, f func(context.Context) (string, error)) (string, error) {
	if c == nil {
		fmt.Fprintf(w.log, "%s: server %d is down", what, s)
		return "", nil
	}
	once, stop := context.WithTimeout(ctx, patience)
	defer stop()
	id, err := f(once)
	fmt.Fprintf(w.log, "%s in %s by %s -> %s %v; ", what, r.version, c.UserID, id, err)
	if err != nil {
		w.refused++
		return "", ctx.Err()
	}
	if id != "" && !w.stood[id] {
		w.acked = append(w.acked, acked{id: id, room: r.id, sender: c.UserID, what: what, server: s})
	}
	return id, nil
}

func (w *world) text() map[string]any {
	w.wrote++
	return map[string]any{"msgtype": "m.text", "body": fmt.Sprintf("Meldung %d, Pegel %d cm", w.wrote, w.r.IntN(700))}
}

func (w *world) message(ctx context.Context, _ int) error {
	r, c, s := w.someone()
	content := w.text()
	id, err := w.ask(ctx, r, c, s, "message", func(ctx context.Context) (string, error) { return c.Send(ctx, r.id, "m.room.message", "", content) })
	if id != "" {
		r.messages, r.authors[id] = append(r.messages, id), c.UserID
	}
	return err
}

// earlier picks a message of the last hundred.
func (w *world) earlier(r *room) string {
	n := w.r.IntN(100)
	if len(r.messages) == 0 {
		return ""
	}
	return r.messages[len(r.messages)-1-n%min(len(r.messages), 100)]
}

func (w *world) relate(ctx context.Context, what, typ string, content func(target string) map[string]any) error {
	r, c, s := w.someone()
	target := w.earlier(r)
	if target == "" {
		return nil
	}
	_, err := w.ask(ctx, r, c, s, what, func(ctx context.Context) (string, error) { return c.Send(ctx, r.id, typ, "", content(target)) })
	return err
}

func (w *world) edit(ctx context.Context, _ int) error {
	text := w.text()
	return w.relate(ctx, "edit", "m.room.message", func(target string) map[string]any {
		return map[string]any{"msgtype": "m.text", "body": "* " + fmt.Sprint(text["body"]), "m.new_content": text,
			"m.relates_to": map[string]string{"rel_type": "m.replace", "event_id": target}}
	})
}

func (w *world) reaction(ctx context.Context, _ int) error {
	return w.relate(ctx, "reaction", "m.reaction", func(target string) map[string]any {
		return map[string]any{"m.relates_to": map[string]string{"rel_type": "m.annotation", "event_id": target, "key": "👍"}}
	})
}

func (w *world) redaction(ctx context.Context, _ int) error {
	r, c, s := w.warden()
	target := w.earlier(r)
	if target == "" || c == nil {
		return nil
	}
	id, err := w.ask(ctx, r, c, s, "redaction", func(ctx context.Context) (string, error) { return c.Redact(ctx, r.id, target, "") })
	if id != "" {
		r.redacted = append(r.redacted, target)
	}
	return err
}

func (w *world) state(ctx context.Context, what, typ, key string, content any) error {
	r, c, s := w.warden()
	if typ == "m.room.join_rules" {
		r, c, s = w.lawgiver()
	}
	_, err := w.ask(ctx, r, c, s, what, func(ctx context.Context) (string, error) { return c.SetState(ctx, r.id, typ, key, content) })
	return err
}

func (w *world) topic(ctx context.Context, n int) error {
	return w.state(ctx, "topic", "m.room.topic", "", map[string]string{"topic": fmt.Sprintf("Lage %d", n)})
}

func (w *world) roomName(ctx context.Context, n int) error {
	return w.state(ctx, "name", "m.room.name", "", map[string]string{"name": fmt.Sprintf("Raum %d", n)})
}

func (w *world) joinRule(ctx context.Context, _ int) error {
	return w.state(ctx, "join rule", "m.room.join_rules", "", map[string]string{"join_rule": []string{"public", "public", "invite", "knock"}[w.r.IntN(4)]})
}

func (w *world) visibility(ctx context.Context, _ int) error {
	return w.state(ctx, "visibility", "m.room.history_visibility", "", map[string]string{"history_visibility": []string{"shared", "shared", "joined", "world_readable"}[w.r.IntN(4)]})
}

// power gives somebody without power some, or takes it away; wardens keep theirs.
func (w *world) power(ctx context.Context, _ int) error {
	r, c, s := w.lawgiver()
	user, level := w.victim(), []int{0, 0, 25, 50, 75}[w.r.IntN(5)]
	_, err := w.ask(ctx, r, c, s, "power", func(ctx context.Context) (string, error) {
		var now map[string]any
		if err := c.StateEvent(ctx, r.id, "m.room.power_levels", "", &now); err != nil {
			return "", err
		}
		users, _ := now["users"].(map[string]any)
		if users == nil {
			users = map[string]any{}
		}
		users[user] = level
		now["users"] = users
		return c.SetState(ctx, r.id, "m.room.power_levels", "", now)
	})
	return err
}

func (w *world) profile(ctx context.Context, n int) error {
	r, c, s := w.someone()
	_, err := w.ask(ctx, r, c, s, "profile", func(ctx context.Context) (string, error) {
		return "", c.Do(ctx, "PUT", matrixclient.Path("profile", c.UserID, "displayname"), map[string]string{"displayname": fmt.Sprintf("Person %d", n)}, nil)
	})
	return err
}

// unpowered is someone who may come and go.
func (w *world) unpowered() (*room, *matrixclient.Client, int) {
	r, _, s := w.someone()
	u := 1 + w.r.IntN(perServer-1)
	if w.down[s] {
		return r, nil, s
	}
	return r, w.people[s][u], s
}

func (w *world) join(ctx context.Context, _ int) error {
	r, c, s := w.unpowered()
	via := w.serverName(w.r.IntN(3))
	_, err := w.ask(ctx, r, c, s, "join", func(ctx context.Context) (string, error) {
		_, err := c.Join(ctx, r.id, via)
		return "", err
	})
	return err
}

func (w *world) leave(ctx context.Context, _ int) error {
	r, c, s := w.unpowered()
	_, err := w.ask(ctx, r, c, s, "leave", func(ctx context.Context) (string, error) { return "", c.Leave(ctx, r.id) })
	return err
}

func (w *world) moderate(ctx context.Context, what string, f func(ctx context.Context, c *matrixclient.Client, r *room, user string) error) error {
	r, c, s := w.lawgiver()
	user := w.victim()
	_, err := w.ask(ctx, r, c, s, what+" "+user, func(ctx context.Context) (string, error) { return "", f(ctx, c, r, user) })
	return err
}

func (w *world) invite(ctx context.Context, _ int) error {
	return w.moderate(ctx, "invite", func(ctx context.Context, c *matrixclient.Client, r *room, user string) error {
		return c.Invite(ctx, r.id, user)
	})
}

func (w *world) kick(ctx context.Context, _ int) error {
	return w.moderate(ctx, "kick", func(ctx context.Context, c *matrixclient.Client, r *room, user string) error {
		return c.Kick(ctx, r.id, user, "")
	})
}

func (w *world) ban(ctx context.Context, _ int) error {
	return w.moderate(ctx, "ban", func(ctx context.Context, c *matrixclient.Client, r *room, user string) error {
		return c.Ban(ctx, r.id, user, "")
	})
}

func (w *world) unban(ctx context.Context, _ int) error {
	return w.moderate(ctx, "unban", func(ctx context.Context, c *matrixclient.Client, r *room, user string) error {
		return c.Unban(ctx, r.id, user)
	})
}

// burst is one person who writes much at once.
func (w *world) burst(ctx context.Context, _ int) error {
	r, c, s := w.someone()
	for range 30 {
		content := w.text()
		id, err := w.ask(ctx, r, c, s, "burst", func(ctx context.Context) (string, error) { return c.Send(ctx, r.id, "m.room.message", "", content) })
		if err != nil {
			return err
		}
		if id == "" {
			break
		}
		r.messages, r.authors[id] = append(r.messages, id), c.UserID
	}
	return nil
}

// long is for how many actions a fault lasts.
func (w *world) long(n int) int { return n + 10 + w.r.IntN(120) }

func (w *world) cutCentreNow(_ context.Context, n int) error {
	i := w.r.IntN(2)
	w.until[i] = w.long(n)
	w.setCentre(i, true)
	fmt.Fprintf(w.log, "box %d until %d", i, w.until[i])
	return nil
}

func (w *world) cutWireNow(_ context.Context, n int) error {
	w.until[2] = w.long(n)
	w.setWire(true)
	fmt.Fprintf(w.log, "until %d", w.until[2])
	return nil
}

// island cuts everybody from everybody.
func (w *world) island(_ context.Context, n int) error {
	for i := range 2 {
		w.until[i] = w.long(n)
		w.setCentre(i, true)
	}
	w.until[2] = w.long(n)
	w.setWire(true)
	return nil
}

func (w *world) crash(ctx context.Context, n int) error {
	s := w.r.IntN(2)
	if w.down[s] {
		return nil
	}
	w.until[3+s] = n + 1 + w.r.IntN(30)
	fmt.Fprintf(w.log, "box %d until %d", s, w.until[3+s])
	return w.setDown(ctx, s, true, w.r.IntN(4) > 0)
}

func (w *world) stopCentre(ctx context.Context, n int) error {
	if w.down[centre] {
		return nil
	}
	w.until[3+centre] = n + 1 + w.r.IntN(20)
	return w.setDown(ctx, centre, true, false)
}
