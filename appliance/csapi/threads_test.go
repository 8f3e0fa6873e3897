// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"slices"
	"testing"

	"hallig/tools/matrixclient"
)

func TestThreads(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat"})
	_, err := bob.Join(b.ctx, room)
	b.ok(err)
	reply := func(c *matrixclient.Client, root string) string {
		id, err := c.Send(b.ctx, room, "m.room.message", "", object{"msgtype": "m.text", "body": "Antwort", "m.relates_to": object{"rel_type": "m.thread", "event_id": root}})
		b.ok(err)
		return id
	}
	var roots []string
	for range 3 {
		id, err := alice.SendText(b.ctx, room, "Anfang")
		b.ok(err)
		roots = append(roots, id)
	}
	reply(alice, roots[0])
	reply(alice, roots[1])
	last := reply(bob, roots[0])
	type list struct {
		Chunk []struct {
			ID       string `json:"event_id"`
			Unsigned struct {
				Relations struct {
					Thread struct {
						Latest matrixclient.Event `json:"latest_event"`
						Count  int                `json:"count"`
						Mine   bool               `json:"current_user_participated"`
					} `json:"m.thread"`
				} `json:"m.relations"`
			} `json:"unsigned"`
		} `json:"chunk"`
		Next string `json:"next_batch"`
	}
	ask := func(c *matrixclient.Client, query string) (l list, ids []string) {
		b.ok(c.Do(b.ctx, "GET", "/_matrix/client/v1/rooms/"+room+"/threads"+query, nil, &l))
		for _, e := range l.Chunk {
			ids = append(ids, e.ID)
		}
		return l, ids
	}
	l, ids := ask(alice, "")
	if !slices.Equal(ids, []string{roots[0], roots[1]}) {
		t.Fatalf("threads: %v, want the one with the newest reply first of %v", ids, roots)
	}
	if th := l.Chunk[0].Unsigned.Relations.Thread; th.Count != 2 || !th.Mine || th.Latest.ID != last {
		t.Errorf("summary: %+v", th)
	}
	if _, ids := ask(bob, "?include=participated"); !slices.Equal(ids, roots[:1]) {
		t.Errorf("bob took part in %v", ids)
	}
	first, one := ask(alice, "?limit=1")
	_, two := ask(alice, "?limit=1&from="+first.Next)
	if got := append(one, two...); !slices.Equal(got, []string{roots[0], roots[1]}) || first.Next == "" {
		t.Errorf("in pages: %v, token %q", got, first.Next)
	}
}
