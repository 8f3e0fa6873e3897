// SPDX-License-Identifier: EUPL-1.2

package bigroom

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"hallig/appliance/event"
)

func (s *Server) routes() {
	const v1, v2, key = "/_matrix/federation/v1/", "/_matrix/federation/v2/", "/_matrix/key/v2/"
	for pattern, h := range map[string]http.HandlerFunc{
		"GET " + key + "server":                    s.keys,
		"GET " + key + "server/{key}":              s.keys,
		"POST " + key + "query":                    s.notary,
		"GET " + v1 + "version":                    s.version,
		"GET " + v1 + "make_join/{room}/{user}":    s.makeJoin,
		"PUT " + v2 + "send_join/{room}/{event}":   s.sendJoin,
		"PUT " + v1 + "send/{txn}":                 s.send,
		"GET " + v1 + "state/{room}":               s.stateAt,
		"GET " + v1 + "state_ids/{room}":           s.stateIDs,
		"GET " + v1 + "event/{event}":              s.event,
		"GET " + v1 + "event_auth/{room}/{event}":  s.eventAuth,
		"GET " + v1 + "backfill/{room}":            s.backfill,
		"POST " + v1 + "get_missing_events/{room}": s.missing,
		"GET " + v1 + "user/devices/{user}":        s.devices,
		"POST " + v1 + "user/keys/query":           s.noKeys,
	} {
		s.mux.HandleFunc(pattern, h)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "M_UNRECOGNIZED", "not played here") })
}

func refuse(w http.ResponseWriter, status int, code, text string) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"errcode": code, "error": text})
}

func answer(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

// keys gives the key document of the server that the request is for.
func (s *Server) keys(w http.ResponseWriter, r *http.Request) {
	server := r.Host
	if i := strings.LastIndexByte(server, ':'); i >= 0 {
		server = server[:i]
	}
	if !strings.HasSuffix(server, domain) && r.TLS != nil {
		server = r.TLS.ServerName
	}
	doc, err := s.document(server)
	if err != nil {
		refuse(w, 500, "M_UNKNOWN", err.Error())
		return
	}
	_, _ = w.Write(doc)
}

// notary gives key documents of any of the servers, signed by the resident too.
func (s *Server) notary(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Servers map[string]json.RawMessage `json:"server_keys"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse(w, 400, "M_NOT_JSON", err.Error())
		return
	}
	docs := []json.RawMessage{}
	for server := range q.Servers {
		if !strings.HasSuffix(server, domain) {
			continue
		}
		doc, err := s.document(server)
		if err == nil && server != Resident {
			doc, err = event.SignJSON(doc, Resident, s.room.Spec.key(Resident))
		}
		if err != nil {
			refuse(w, 500, "M_UNKNOWN", err.Error())
			return
		}
		docs = append(docs, doc)
	}
	answer(w, map[string]any{"server_keys": docs})
}

func (s *Server) version(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"server": map[string]string{"name": "bigroom", "version": "1"}})
}

func (s *Server) makeJoin(w http.ResponseWriter, r *http.Request) {
	if !slices.Contains(r.URL.Query()["ver"], s.room.version.ID) {
		w.WriteHeader(400)
		answer(w, map[string]string{"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "the room is of another version", "room_version": s.room.version.ID})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	user := r.PathValue("user")
	auth := s.room.law(s.room.power, s.room.rules)
	if n, ok := s.room.state[stateKey{"m.room.member", user}]; ok {
		auth = append(auth, n)
	}
	last := s.room.entries[len(s.room.entries)-1]
	answer(w, map[string]any{"room_version": s.room.version.ID, "event": map[string]any{
		"type": "m.room.member", "room_id": s.room.ID, "sender": user, "state_key": user, "content": map[string]string{"membership": "join"},
		"prev_events": []event.ID{last.id}, "auth_events": s.room.named(auth), "depth": last.deep + 1, "origin_server_ts": birth}})
}

func (r *Room) named(list []int) []event.ID {
	ids := make([]event.ID, len(list))
	for i, n := range list {
		ids[i] = r.entries[n].id
	}
	return ids
}

// sendJoin takes a join and gives the room, without its members to whoever asks for that.
func (s *Server) sendJoin(w http.ResponseWriter, r *http.Request) {
	var raw json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
		refuse(w, 400, "M_NOT_JSON", err.Error())
		return
	}
	omit := r.URL.Query().Get("omit_members") == "true"
	s.mu.Lock()
	state := sorted(s.room.state)
	servers := s.room.servers()
	p, err := s.take(raw)
	if err != nil {
		s.mu.Unlock()
		refuse(w, 400, "M_BAD_JSON", err.Error())
		return
	}
	if omit {
		state = slices.DeleteFunc(state, func(n int) bool { return s.room.entries[n].key.typ == "m.room.member" })
	}
	auth := s.room.chain(append(slices.Clone(state), s.room.byID[p.ID]))
	entries := s.room.entries // only ever appended to
	s.mu.Unlock()
	if omit {
		told := make(map[int]bool, len(state))
		for _, n := range state {
			told[n] = true
		}
		auth = slices.DeleteFunc(auth, func(n int) bool { return told[n] })
	}
	head, _ := json.Marshal(map[string]any{"origin": Resident, "members_omitted": omit, "servers_in_room": servers, "event": json.RawMessage(p.JSON())})
	write(w, string(head[:len(head)-1])+",", entries, []list{{"state", state}, {"auth_chain", auth}})
}

// servers lists the servers with a joined member.
func (r *Room) servers() []string {
	in := make(map[string]bool)
	for k, n := range r.state {
		if k.typ == "m.room.member" && strings.Contains(string(r.entries[n].json), `"membership":"join"`) { // our own events, and canonical
			in[event.UserID(k.key).Server()] = true
		}
	}
	servers := make([]string, 0, len(in))
	for name := range in {
		servers = append(servers, name)
	}
	slices.Sort(servers)
	return servers
}

// list is a member of an answer that holds events.
type list struct {
	name string
	of   []int
}

// write writes an object of lists of events. head is how it begins.
func write(w http.ResponseWriter, head string, entries []entry, lists []list) {
	b := bufio.NewWriterSize(w, 64<<10)
	defer b.Flush()
	_, _ = b.WriteString(head)
	for i, l := range lists {
		if i > 0 {
			_ = b.WriteByte(',')
		}
		fmt.Fprintf(b, "%q:[", l.name)
		for j, n := range l.of {
			if j > 0 {
				_ = b.WriteByte(',')
			}
			_, _ = b.Write(entries[n].json)
		}
		_ = b.WriteByte(']')
	}
	_ = b.WriteByte('}')
}

// find gives an entry by id and the list of entries as it is now; false when it was answered that there is none.
func (s *Server) find(w http.ResponseWriter, id string) (int, []entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.room.byID[event.ID(id)]
	if !ok {
		refuse(w, 404, "M_NOT_FOUND", "no such event")
	}
	return n, s.room.entries, ok
}

// stateOf gives the state before an event and what authorises it.
func (s *Server) stateOf(w http.ResponseWriter, r *http.Request) (state, auth []int, entries []entry, ok bool) {
	n, entries, ok := s.find(w, r.URL.Query().Get("event_id"))
	if !ok {
		return nil, nil, nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	state = s.room.before(n)
	return state, s.room.chain(state), entries, true
}

func (s *Server) stateAt(w http.ResponseWriter, r *http.Request) {
	if state, auth, entries, ok := s.stateOf(w, r); ok {
		write(w, "{", entries, []list{{"pdus", state}, {"auth_chain", auth}})
	}
}

func (s *Server) stateIDs(w http.ResponseWriter, r *http.Request) {
	if state, auth, _, ok := s.stateOf(w, r); ok {
		s.mu.Lock()
		out := map[string]any{"pdu_ids": s.room.named(state), "auth_chain_ids": s.room.named(auth)}
		s.mu.Unlock()
		answer(w, out)
	}
}

func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	if n, entries, ok := s.find(w, r.PathValue("event")); ok {
		write(w, `{"origin":"`+Resident+`","origin_server_ts":1,`, entries, []list{{"pdus", []int{n}}})
	}
}

func (s *Server) eventAuth(w http.ResponseWriter, r *http.Request) {
	n, entries, ok := s.find(w, r.PathValue("event"))
	if !ok {
		return
	}
	s.mu.Lock()
	auth := s.room.chain([]int{n})
	s.mu.Unlock()
	write(w, "{", entries, []list{{"auth_chain", auth}})
}

// backfill gives events and what came before them: the graph is a line, but for what boxes add.
func (s *Server) backfill(w http.ResponseWriter, r *http.Request) {
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	s.mu.Lock()
	found := s.room.back(ids(r.URL.Query()["v"]), nil, min(max(limit, 1), 100), true)
	entries := s.room.entries
	s.mu.Unlock()
	write(w, `{"origin":"`+Resident+`","origin_server_ts":1,`, entries, []list{{"pdus", found}})
}

func ids(texts []string) []event.ID {
	out := make([]event.ID, len(texts))
	for i, t := range texts {
		out[i] = event.ID(t)
	}
	return out
}

// back walks back from events, latest first, not beyond stop; with says that the events themselves are wanted too.
func (r *Room) back(from, stop []event.ID, limit int, with bool) (found []int) {
	var todo []int
	seen := make(map[event.ID]bool)
	for _, id := range stop {
		seen[id] = true
	}
	add := func(ids []event.ID) {
		for _, id := range ids {
			if n, ok := r.byID[id]; ok && !seen[id] {
				seen[id] = true
				todo = append(todo, n)
			}
		}
	}
	add(from)
	if !with {
		first := todo
		todo = nil
		for _, n := range first {
			add(r.entries[n].prev)
		}
	}
	for len(todo) > 0 && len(found) < limit {
		slices.Sort(todo)
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		found = append(found, n)
		add(r.entries[n].prev)
	}
	return found
}

func (s *Server) missing(w http.ResponseWriter, r *http.Request) {
	var q struct {
		Earliest []event.ID `json:"earliest_events"`
		Latest   []event.ID `json:"latest_events"`
		Limit    int        `json:"limit"`
	}
	if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
		refuse(w, 400, "M_NOT_JSON", err.Error())
		return
	}
	s.mu.Lock()
	found := s.room.back(q.Latest, q.Earliest, min(max(q.Limit, 1), 100), false)
	entries := s.room.entries
	s.mu.Unlock()
	slices.Reverse(found)
	write(w, "{", entries, []list{{"events", found}})
}

// send takes events in.
func (s *Server) send(w http.ResponseWriter, r *http.Request) {
	var body struct {
		PDUs []json.RawMessage `json:"pdus"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		refuse(w, 400, "M_NOT_JSON", err.Error())
		return
	}
	out := make(map[event.ID]any)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, raw := range body.PDUs {
		p, err := s.take(raw)
		switch {
		case err == nil:
			out[p.ID] = struct{}{}
		case p != nil:
			out[p.ID] = map[string]string{"error": err.Error()}
		}
	}
	answer(w, map[string]any{"pdus": out})
}

// devices: nobody in the room has any.
func (s *Server) devices(w http.ResponseWriter, r *http.Request) {
	answer(w, map[string]any{"user_id": r.PathValue("user"), "stream_id": 1, "devices": []any{}})
}

func (s *Server) noKeys(w http.ResponseWriter, _ *http.Request) {
	answer(w, map[string]any{"device_keys": map[string]any{}})
}
