// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"net/http"
	"testing"

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
