// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/tools/testpeer"
)

// central plays another server towards the box: it publishes its key over TLS, joins rooms and sends what its users say.
type central struct {
	local  federation.Local
	server *http.Server
	done   chan struct{} // Serve has returned
	box    string        // the box's server name
	base   string        // where it answers
	rooms  []*room
	txn    int
}

const centralName = "central.example"

// newCentral starts the server and gives the configuration with which a box trusts it.
func newCentral(dir string) (*central, map[string]any, error) {
	ca, err := testpeer.NewCA(dir)
	if err != nil {
		return nil, nil, err
	}
	crt, key := filepath.Join(dir, "central.crt"), filepath.Join(dir, "central.key")
	if err := ca.Issue(centralName, crt, key); err != nil {
		return nil, nil, err
	}
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		return nil, nil, err
	}
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, nil, err
	}
	c := &central{local: federation.Local{Server: centralName, Key: event.Key{ID: "ed25519:a_Cent", Private: private}}, done: make(chan struct{})}
	doc, err := federation.NewKeyRing(federation.KeyRingConfig{Locals: federation.Only(c.local)}).Document(c.local)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_matrix/key/v2/server", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(doc)
	})
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		return nil, nil, err
	}
	c.server = &http.Server{Handler: mux}
	go func() { // close waits for it
		defer close(c.done)
		c.server.Serve(l)
	}()
	config := alone()
	config["ca_file"], config["private_addresses"] = ca.File, true
	config["server_addresses"] = map[string]string{centralName: net.JoinHostPort("127.0.0.1", strconv.Itoa(l.Addr().(*net.TCPAddr).Port))}
	return c, config, nil
}

func (c *central) close() {
	c.server.Close()
	<-c.done
}

// ask sends a signed request to the box.
func (c *central) ask(ctx context.Context, method, uri string, body []byte, out any) error {
	a, err := federation.SignRequest(c.local, c.box, method, uri, body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+uri, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", a.String())
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s: %d %.200s", method, uri, resp.StatusCode, raw)
	}
	return json.Unmarshal(raw, out)
}

// room is a room of the box in which users of the central server talk.
type room struct {
	version *event.Version
	id      event.RoomID
	power   event.ID
	rules   event.ID
	members map[event.UserID]event.ID
	users   []event.UserID
	last    *event.PDU
}

// join brings users of the central server into a room.
func (c *central) join(ctx context.Context, id string, users int) error {
	r := &room{id: event.RoomID(id), members: map[event.UserID]event.ID{}}
	for i := range users {
		user := event.UserID(fmt.Sprintf("@zentrale%d:%s", i, centralName))
		var made struct {
			Event   json.RawMessage `json:"event"`
			Version string          `json:"room_version"`
		}
		path := url.PathEscape(id) + "/" + url.PathEscape(string(user))
		if err := c.ask(ctx, "GET", "/_matrix/federation/v1/make_join/"+path+"?ver=12", nil, &made); err != nil {
			return err
		}
		v, ok := event.Lookup(made.Version)
		if !ok {
			return fmt.Errorf("room of version %s", made.Version)
		}
		p, err := event.FromTemplate(v, made.Event, centralName, c.local.Key)
		if err != nil {
			return err
		}
		var answer struct {
			State []json.RawMessage `json:"state"`
		}
		path = url.PathEscape(id) + "/" + url.PathEscape(string(p.ID))
		if err := c.ask(ctx, "PUT", "/_matrix/federation/v2/send_join/"+path, p.JSON(), &answer); err != nil {
			return err
		}
		for _, raw := range answer.State {
			e, err := event.Parse(v, raw)
			if err != nil {
				return err
			}
			switch e.Type {
			case "m.room.power_levels":
				r.power = e.ID
			case "m.room.join_rules":
				r.rules = e.ID
			}
		}
		r.version, r.last, r.members[user] = v, p, p.ID
		r.users = append(r.users, user)
	}
	if r.power == "" || r.rules == "" {
		return errors.New("the room's state lacks power levels or join rules")
	}
	c.rooms = append(c.rooms, r)
	return nil
}

// next makes the room's next event: a message, or now and then a new name of a user.
func (c *central) next(r *room, s *speaker, state bool) (*event.PDU, error) {
	user := r.users[s.r.IntN(len(r.users))]
	proto := event.Proto{RoomID: r.id, Sender: user, Type: "m.room.message", Prev: []event.ID{r.last.ID}, Auth: []event.ID{r.power, r.members[user]},
		Depth: r.last.Depth + 1, TS: time.Now().UnixMilli()}
	content := s.clear()
	if state {
		key := string(user)
		proto.Type, proto.StateKey, proto.Auth = "m.room.member", &key, append(proto.Auth, r.rules)
		content = map[string]any{"membership": "join", "displayname": fmt.Sprint("Zentrale ", s.r.IntN(1_000_000))}
	}
	var err error
	if proto.Content, err = json.Marshal(content); err != nil {
		return nil, err
	}
	p, err := event.Build(r.version, proto, centralName, c.local.Key)
	if err != nil {
		return nil, err
	}
	if state {
		r.members[user] = p.ID
	}
	r.last = p
	return p, nil
}

// transaction is the body of a PUT /send with the events.
func transaction(pdus []*event.PDU) ([]byte, error) {
	raws := make([]json.RawMessage, len(pdus))
	for i, p := range pdus {
		text := p.JSON()
		raws[i] = append(bytes.Clone(text[:len(text)-1]), `,"unsigned":{"age":1234}}`...) // as central servers do
	}
	return json.Marshal(map[string]any{"origin": centralName, "origin_server_ts": time.Now().UnixMilli(), "pdus": raws})
}

// send sends a transaction and wants every event accepted.
func (c *central) send(ctx context.Context, body []byte, n int) error {
	c.txn++
	var answer struct {
		PDUs map[event.ID]struct {
			Error string `json:"error"`
		} `json:"pdus"`
	}
	if err := c.ask(ctx, "PUT", fmt.Sprintf("/_matrix/federation/v1/send/bench%d", c.txn), body, &answer); err != nil {
		return err
	}
	if len(answer.PDUs) != n {
		return fmt.Errorf("%d events sent, %d answered", n, len(answer.PDUs))
	}
	for id, a := range answer.PDUs {
		if a.Error != "" {
			return fmt.Errorf("event %s was refused: %s", id, a.Error)
		}
	}
	return nil
}
