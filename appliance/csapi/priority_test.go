// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// Who may not raise a message gets it sent as what they may; the event itself says so, and the answer.
func TestPriorityIsGranted(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	id := b.room(alice, matrixclient.CreateRoom{Name: "Deich", Invite: []string{bob.UserID}})
	_, err := bob.Join(b.ctx, id)
	b.ok(err)
	n := 0
	send := func(c *matrixclient.Client, typ, asked string) (told, written string) {
		t.Helper()
		n++
		var answer struct {
			ID       string `json:"event_id"`
			Priority string `json:"org.hallig.priority"`
		}
		content := map[string]any{"msgtype": "m.text", "body": "x"}
		if asked != "" {
			content["org.hallig.priority"] = asked
		}
		b.ok(c.Do(b.ctx, "PUT", matrixclient.Path("rooms", id, "send", typ, "p"+string(rune('a'+n))), content, &answer))
		var e struct {
			Content struct {
				Priority string `json:"org.hallig.priority"`
			} `json:"content"`
		}
		b.ok(c.Do(b.ctx, "GET", matrixclient.Path("rooms", id, "event", answer.ID), nil, &e))
		return answer.Priority, e.Content.Priority
	}
	for _, tt := range []struct {
		who                       *matrixclient.Client
		typ, asked, told, written string
	}{
		{alice, "m.room.message", "flash", "", "flash"},
		{alice, "m.room.encrypted", "immediate", "", "immediate"},
		{bob, "m.room.message", "flash", "priority", "priority"},
		{bob, "m.room.encrypted", "immediate", "priority", "priority"},
		{bob, "m.room.message", "priority", "", "priority"},
		{bob, "m.room.message", "bulk", "", "bulk"},
		{bob, "m.room.message", "", "", ""},
	} {
		told, written := send(tt.who, tt.typ, tt.asked)
		if told != tt.told || written != tt.written {
			t.Errorf("%s asks for %q in %s: told %q, written %q; want %q, %q", tt.who.UserID, tt.asked, tt.typ, told, written, tt.told, tt.written)
		}
	}
	policy := map[string]any{"power": map[string]int{"flash": 0}, "per_10_min": map[string]int{"flash": 2, "immediate": 1}}
	b.refused("bob sets the policy", bob.Do(b.ctx, "PUT", matrixclient.Path("rooms", id, "state", "org.hallig.priority", ""), policy, nil), http.StatusForbidden, "M_FORBIDDEN")
	b.refused("a policy with a typing error", alice.Do(b.ctx, "PUT", matrixclient.Path("rooms", id, "state", "org.hallig.priority", ""),
		map[string]any{"default": "urgent"}, nil), http.StatusBadRequest, "M_INVALID_PARAM")
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("rooms", id, "state", "org.hallig.priority", ""), policy, nil))
	for i, want := range []string{"flash", "flash", "priority", "priority"} { // bob's power does not reach for immediate
		if _, written := send(bob, "m.room.message", "flash"); written != want {
			t.Errorf("flash %d of bob is sent as %q, want %q", i+1, written, want)
		}
	}
	err = bob.Do(b.ctx, "PUT", matrixclient.Path("rooms", id, "send", "m.room.message", "bad"), map[string]any{"msgtype": "m.text", "body": "x", "org.hallig.priority": "SOS"}, nil)
	b.refused("a word that is no priority", err, http.StatusBadRequest, "M_INVALID_PARAM")
}

// A text that came ahead of its signature is shown to clients that know of such, outside the timeline, until the event is there.
func TestNoticeInSync(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	id := b.room(alice, matrixclient.CreateRoom{Name: "Deich"})
	type answer struct {
		Next  string `json:"next_batch"`
		Rooms struct {
			Join map[string]struct {
				Timeline  struct{ Events []matrixclient.Event }
				Ephemeral struct {
					Events []struct {
						Type    string
						Content struct {
							Notices []struct {
								Sender, State, Via string
								Content            struct{ Body string }
							}
						}
					}
				}
			}
		}
	}
	sync := func(since string) (a answer, told bool, texts []string) {
		t.Helper()
		query := url.Values{"timeout": {"0"}}
		if since != "" {
			query.Set("since", since)
		}
		b.ok(alice.Do(b.ctx, "GET", "/_matrix/client/v3/sync?"+query.Encode(), nil, &a))
		for _, e := range a.Rooms.Join[id].Ephemeral.Events {
			if e.Type != "org.hallig.notice" {
				continue
			}
			told = true
			for _, n := range e.Content.Notices {
				texts = append(texts, n.Sender+" "+n.Content.Body+" "+n.State+" "+n.Via)
			}
		}
		return a, told, texts
	}
	a, told, _ := sync("")
	if told {
		t.Error("told of notices where there are none")
	}
	change := func(f func(tx *store.Tx) error) {
		t.Helper()
		b.ok(b.h.DB.Do(b.ctx, f))
	}
	change(func(tx *store.Tx) error {
		_, err := tx.PutNotice(store.Notice{Room: event.RoomID(id), Box: "boxB", Epoch: 1, Seq: 9, Sender: "@anna:b", TS: 5, Content: []byte(`{"body":"Land unter"}`), Since: 1000}, 32)
		return err
	})
	first, _, texts := sync("")
	if want := []string{"@anna:b Land unter unverified boxB"}; !slices.Equal(texts, want) {
		t.Errorf("a client that begins anew is told %q, want %q", texts, want)
	}
	a, _, texts = sync(a.Next)
	if len(texts) != 1 || len(a.Rooms.Join[id].Timeline.Events) != 0 {
		t.Errorf("told %q, and %d events in the timeline", texts, len(a.Rooms.Join[id].Timeline.Events))
	}
	if a, told, _ = sync(a.Next); told {
		t.Error("told again of what has not changed")
	}
	change(func(tx *store.Tx) error { return tx.ExpireNotices(2000, 500) })
	if a, _, texts = sync(a.Next); len(texts) != 1 || !strings.Contains(texts[0], "expired") {
		t.Errorf("overdue: told %q", texts)
	}
	change(func(tx *store.Tx) error {
		_, err := tx.MarkEntry(event.RoomID(id), "boxB", 1, 9, 8, 0)
		return err
	})
	if _, told, texts = sync(a.Next); !told || len(texts) != 0 {
		t.Errorf("when the place has its event: told %v %q, want an empty list", told, texts)
	}
	if _, told, texts = sync(first.Next); !told || len(texts) != 0 {
		t.Errorf("a client that was away: told %v %q, want an empty list", told, texts)
	}
}
