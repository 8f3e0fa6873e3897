// SPDX-License-Identifier: EUPL-1.2

package letter

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/api"
)

// This file sends events of a box in transactions of the hub: a server that has answered the box's own ones looks at none of them again.

// graph holds events that the hub has sent in its own name, by id: a server asks the sender of a transaction for what lacks before them.
type graph map[string]node

type node struct {
	room string
	prev []string
	raw  json.RawMessage
}

// repair sends those events of a letter that the server may get from the hub.
func (m *Mail) repair(ctx context.Context, l *line, letter api.Letter) (due time.Time, on bool) {
	pdus, events := m.mayPass(ctx, l, letter)
	if len(pdus) == 0 {
		l.trip.skip()
		return time.Time{}, true
	}
	body, err := json.Marshal(map[string]any{"origin": m.c.Local.Server, "origin_server_ts": m.c.Now().UnixMilli(), "pdus": pdus})
	if err != nil { // it was JSON
		l.trip.skip()
		return time.Time{}, true
	}
	m.mu.Lock()
	l.graph = events
	m.mu.Unlock()
	sum := sha256.Sum256([]byte(l.q.Box + " " + letter.Sends[0].URI)) // the same when it is repeated
	uri := "/_matrix/federation/v1/send/" + base64.RawURLEncoding.EncodeToString(sum[:15])
	a, err := federation.SignRequest(m.c.Local, l.q.Other, http.MethodPut, uri, body)
	if err != nil {
		return m.later(ctx, l, "the hub cannot sign", 0, err, waitMost), false
	}
	m.c.Log.Info("a server does not know what it took from a box; the hub sends the events in its own name", "box", l.q.Box, "to", l.q.Other, "events", len(pdus))
	status, text, err := m.send(ctx, l.q.Other, http.MethodPut, uri, a.String(), body)
	if err == nil && status/100 == 4 && status != http.StatusTooManyRequests {
		m.c.Log.Info("a server takes nothing from the hub itself", "to", l.q.Other, "status", status)
		l.trip.skip()
		return time.Time{}, true
	}
	if due, ok := m.judge(ctx, l, status, text, err); !ok {
		return due, false
	}
	m.Count.Repaired.Add(1)
	l.trip.took(m.c.Now(), len(pdus))
	return time.Time{}, true
}

// mayPass picks the events that may go in the hub's name. Servers apply a room's ACL to who sends a transaction, not to whose events are in it: so only what this server took from the box itself
// without a word against it goes, and only if the hub does not know the room's ACL to be against the box.
func (m *Mail) mayPass(ctx context.Context, l *line, letter api.Letter) (pdus []json.RawMessage, events graph) {
	var t struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	if json.Unmarshal(letter.Body, &t) != nil || len(t.PDUs) != len(letter.Events) || l.errs == nil {
		return nil, nil // it was read when it was taken
	}
	events = graph{}
	may := map[string]bool{}
	for i, raw := range t.PDUs {
		var head struct {
			Room string   `json:"room_id"`
			Prev []string `json:"prev_events"`
		}
		id := letter.Events[i]
		if json.Unmarshal(raw, &head) != nil || head.Room == "" || l.errs[id] != "" {
			continue
		}
		if _, asked := may[head.Room]; !asked {
			may[head.Room] = m.c.May == nil || m.c.May(ctx, l.q.Box, head.Room)
		}
		if may[head.Room] {
			pdus = append(pdus, raw)
			events[id] = node{room: head.Room, prev: head.Prev, raw: raw}
		}
	}
	return pdus, events
}

// Missing gives what the hub has sent to a server in its own name of a room, from before the events latest and after earliest, oldest first. It gives all of it, whatever limit was asked for: a server
// that gets a part shows the rest only to those who page back.
func (m *Mail) Missing(server, room string, latest, earliest []string) []json.RawMessage {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := graph{}
	for q, l := range m.lines {
		if q.Other != server {
			continue
		}
		for id, n := range l.graph {
			if n.room == room {
				all[id] = n
			}
		}
	}
	seen := map[string]bool{}
	for _, id := range earliest {
		seen[id] = true
	}
	var out []json.RawMessage
	var walk func(id string, give bool)
	walk = func(id string, give bool) { // at most one letter deep
		n, here := all[id]
		if !here || seen[id] {
			return
		}
		seen[id] = true
		for _, p := range n.prev {
			walk(p, true)
		}
		if give {
			out = append(out, n.raw)
		}
	}
	for _, id := range latest {
		walk(id, false)
	}
	return out
}
