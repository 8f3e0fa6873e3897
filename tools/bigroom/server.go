// SPDX-License-Identifier: EUPL-1.2

package bigroom

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/tools/testpeer"
)

// Server answers for all servers of a room, over TLS on loopback.
type Server struct {
	// Before, when set, is called with the name of each operation that is asked for, before it is answered: to wait, to kill, to note. Set it before
	// a box comes.
	Before func(operation string)

	addr   string
	ca     *testpeer.CA
	tls    *tls.Config
	mux    *http.ServeMux
	server *http.Server  // nil: stopped
	done   chan struct{} // Serve has returned

	mu     sync.Mutex // guards what follows, and the room
	room   *Room
	counts map[string]int
	docs   map[string]json.RawMessage
	heard  chan struct{} // closed when an event comes
	txn    int
}

// Serve begins to answer. Its files go to dir.
func Serve(room *Room, dir string) (*Server, error) {
	ca, err := testpeer.NewCA(dir)
	if err != nil {
		return nil, err
	}
	crt, key := filepath.Join(dir, "big.crt"), filepath.Join(dir, "big.key")
	if err := ca.Issue("*"+domain, crt, key); err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, err
	}
	s := &Server{ca: ca, addr: "127.0.0.1:0", tls: &tls.Config{Certificates: []tls.Certificate{pair}}, mux: http.NewServeMux(), room: room,
		counts: make(map[string]int), docs: make(map[string]json.RawMessage), heard: make(chan struct{})}
	s.routes()
	return s, s.Start()
}

// Start answers again after Stop, at the same address.
func (s *Server) Start() error {
	l, err := tls.Listen("tcp", s.addr, s.tls)
	if err != nil {
		return fmt.Errorf("start the big room's server: %w", err)
	}
	s.addr = l.Addr().String()
	// A box that is killed leaves half answers and broken handshakes behind: nobody wants to read of them.
	s.server, s.done = &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0)}, make(chan struct{})
	go func(srv *http.Server, done chan struct{}) { // Stop waits for it
		defer close(done)
		_ = srv.Serve(l)
	}(s.server, s.done)
	return nil
}

// Stop breaks all connections and takes no more.
func (s *Server) Stop() {
	s.server.Close()
	<-s.done
}

// Configure adds to a box's configuration how it finds and trusts the servers.
func (s *Server) Configure(config map[string]any) {
	addresses := make(map[string]string)
	for n := range s.room.Spec.Servers {
		addresses[s.room.Spec.server(n)] = s.addr
	}
	config["ca_file"], config["private_addresses"], config["server_addresses"] = s.ca.File, true, addresses
}

// Asked says how often an operation was asked for, such as "send_join" or "state_ids".
func (s *Server) Asked(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[operation]
}

// Counts gives how often each operation was asked for.
func (s *Server) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int)
	for k, n := range s.counts {
		out[k] = n
	}
	return out
}

// Await waits until the event was sent here.
func (s *Server) Await(ctx context.Context, id event.ID) error {
	for {
		s.mu.Lock()
		_, here := s.room.byID[id]
		heard := s.heard
		s.mu.Unlock()
		if here {
			return nil
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return fmt.Errorf("wait for event %s: %w", id, ctx.Err())
		}
	}
}

// Members gives how many are joined by the present state, those of the box too.
func (s *Server) Members() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, at := range s.room.state {
		if k.typ != "m.room.member" {
			continue
		}
		var e struct {
			Content struct {
				Membership string `json:"membership"`
			} `json:"content"`
		}
		if json.Unmarshal(s.room.entries[at].json, &e) == nil && e.Content.Membership == "join" {
			n++
		}
	}
	return n
}

// Say lets the room's creator say something and sends it to a box: name is its server name, base where it answers.
func (s *Server) Say(ctx context.Context, name, base, text string) (event.ID, error) {
	content, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": text})
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	n, err := s.room.add(creatorID, "m.room.message", nil, content, s.room.law(s.room.power, s.room.creator))
	if err != nil {
		s.mu.Unlock()
		return "", err
	}
	e := s.room.entries[n]
	s.txn++
	uri := fmt.Sprintf("/_matrix/federation/v1/send/big%d", s.txn)
	s.mu.Unlock()
	body, err := json.Marshal(map[string]any{"origin": Resident, "origin_server_ts": time.Now().UnixMilli(), "pdus": []json.RawMessage{e.json}})
	if err != nil {
		return "", err
	}
	resp, err := s.Ask(ctx, name, base, "PUT", uri, body)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct {
		PDUs map[event.ID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.PDUs[e.id].Error != "" {
		return "", fmt.Errorf("say something: %v %w", answer.PDUs, err)
	}
	return e.id, nil
}

// Ask makes a request of the resident server to a box and gives an answer of 200; its body is the caller's to close.
func (s *Server) Ask(ctx context.Context, name, base, method, uri string, body []byte) (*http.Response, error) {
	a, err := federation.SignRequest(s.local(Resident), name, method, uri, body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, base+uri, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", a.String())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // for people
		resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s %s", method, uri, resp.Status, text)
	}
	return resp, nil
}

func (s *Server) local(server string) federation.Local {
	return federation.Local{Server: server, Key: s.room.Spec.key(server)}
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, pattern := s.mux.Handler(r)
	operation := "unknown"
	if _, path, ok := strings.Cut(pattern, " /_matrix/"); ok {
		operation = operationOf(path)
	}
	if s.Before != nil {
		s.Before(operation)
	}
	s.mu.Lock()
	s.counts[operation]++
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	s.mux.ServeHTTP(w, r)
}

// operationOf is what stands behind the version in a path.
func operationOf(path string) string {
	parts := strings.Split(path, "/")
	if parts[0] == "key" {
		return "key/" + parts[2]
	}
	return parts[2]
}

// take puts an event that a box made into the room; one that is there already changes nothing.
func (s *Server) take(raw []byte) (*event.PDU, error) {
	p, err := event.Parse(s.room.version, raw)
	if err != nil {
		return nil, err
	}
	if p.RoomID != s.room.ID {
		return nil, errors.New("the event is of another room")
	}
	if _, ok := s.room.byID[p.ID]; ok {
		return p, nil
	}
	var auth []int
	for _, a := range p.Auth {
		n, ok := s.room.byID[a]
		if !ok {
			return nil, fmt.Errorf("event %s is authorised by %s, which is unknown", p.ID, a)
		}
		auth = append(auth, n)
	}
	s.room.put(p, auth)
	close(s.heard)
	s.heard = make(chan struct{})
	return p, nil
}

// document is a server's key document, made once: the keys do not change.
func (s *Server) document(server string) (json.RawMessage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if doc := s.docs[server]; doc != nil {
		return doc, nil
	}
	l := s.local(server)
	doc, err := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(l)}).Document(l)
	if err == nil {
		s.docs[server] = doc
	}
	return doc, err
}

// LastMember is the user whose membership came last into the state before any box joined: who knows it from the room's state knows all.
func (s *Server) LastMember() event.UserID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.room.last
}

// Room is the id of the room.
func (s *Server) Room() event.RoomID { return s.room.ID }

// State gives the present state by type and key.
func (s *Server) State() map[[2]string]event.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[[2]string]event.ID, len(s.room.state))
	for k, n := range s.room.state {
		out[[2]string{k.typ, k.key}] = s.room.entries[n].id
	}
	return out
}
