// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// Notaries tell the keys of servers that are away. Every server is one for others, and each box for the boxes that it meets: so keys travel with the
// events that they verify. https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server

const (
	notaryServers = 100              // in one question
	notaryAtOnce  = 8                // servers that are asked for their keys because strangers want to know
	notaryWait    = 10 * time.Second // for them
	attestAgain   = 3 * 24 * time.Hour
)

// keyCriteria is what a question says of one key.
type keyCriteria struct {
	MinValid *int64 `json:"minimum_valid_until_ts,omitempty"`
}

// keyQueryOne answers as a notary for what the ring knows, and what can be learnt.
func (h *Handler) keyQueryOne(ctx context.Context, r *request) (any, error) {
	want := millis(h.c.Now())
	if s := r.query("minimum_valid_until_ts"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, refuse(400, "M_INVALID_PARAM", "minimum_valid_until_ts is no number")
		}
		want = n
	}
	return h.notarise(ctx, r.local, map[string]int64{r.PathValue("server"): want})
}

func (h *Handler) keyQuery(ctx context.Context, r *request) (any, error) {
	servers, err := readKeyQuery(r.body, millis(h.c.Now()))
	if err != nil {
		return nil, err
	}
	return h.notarise(ctx, r.local, servers)
}

// readKeyQuery reads the question of a notary's client: until when each server's keys should be good.
func readKeyQuery(body []byte, now int64) (map[string]int64, error) {
	var req struct {
		ServerKeys map[string]map[string]keyCriteria `json:"server_keys"`
	}
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, badJSON("server_keys does not have the form it should have")
	}
	if len(req.ServerKeys) > notaryServers {
		return nil, refuse(400, "M_TOO_LARGE", "more than 100 servers at once")
	}
	want := make(map[string]int64, len(req.ServerKeys))
	for server, keys := range req.ServerKeys {
		want[server] = now
		for _, c := range keys {
			if c.MinValid != nil {
				want[server] = max(want[server], *c.MinValid)
			}
		}
	}
	return want, nil
}

// notarise gives the documents of servers, signed by us as well. Those of which nothing is known, or nothing that is good for long enough, are asked for
// their keys as far as time allows.
func (h *Handler) notarise(ctx context.Context, local Local, want map[string]int64) (any, error) {
	var wg sync.WaitGroup
	ask, stop := context.WithTimeout(ctx, notaryWait)
	defer stop()
	for server, until := range want {
		if !event.ValidServerName(server) || h.c.Ring.good(ctx, server, until) {
			continue
		}
		select {
		case h.notary <- struct{}{}:
			wg.Go(func() { // waited for below
				defer func() { <-h.notary }()
				if err := h.c.Ring.fetch(ask, server); err != nil {
					h.log.Debug("keys not fetched for others", "server", server, "err", err)
				}
			})
		default: // too many strangers want to know: they get what is here
		}
	}
	wg.Wait()
	out := []json.RawMessage{}
	for server := range want {
		docs, err := h.c.Ring.Documents(ctx, server)
		if err != nil {
			return nil, err
		}
		for _, doc := range docs {
			if server != local.Server {
				if doc, err = event.SignJSON(doc, local.Server, local.Key); err != nil {
					continue // a document that cannot be signed again is not passed on
				}
			}
			out = append(out, doc)
		}
	}
	return map[string]any{"server_keys": out}, nil
}

// good says whether a document of the server is known that is good until then.
func (r *KeyRing) good(ctx context.Context, server string, until int64) bool {
	if r.c.Locals.has(server) {
		return true
	}
	keys, err := r.known(ctx, server)
	return err == nil && slices.ContainsFunc(keys, func(k store.ServerKey) bool { return len(k.Document) > 0 && k.ValidUntil >= until })
}

// Attest sees to it that we can tell others the keys of a server that is in reach now: its document is fetched when we have none, or none that is recent.
func (r *KeyRing) Attest(ctx context.Context, server string) error {
	keys, err := r.known(ctx, server)
	if err != nil {
		return err
	}
	now := millis(r.c.Now())
	if slices.ContainsFunc(keys, func(k store.ServerKey) bool {
		return len(k.Document) > 0 && k.ExpiredAt == 0 && now-k.LearntAt < attestAgain.Milliseconds()
	}) {
		return nil
	}
	return r.fetch(ctx, server)
}

// notarised asks the server that gave us an event for the keys of those who signed it and are away. Without this, whoever joins a room
// while one of its servers is away would lose that server's members, and then all they write. True when something was learnt.
func (c *Client) notarised(ctx context.Context, giver string, p *event.PDU) bool {
	ask := map[string]map[string]keyCriteria{}
	away := p.SignedBy()
	for _, s := range p.Signatures() {
		if s.Server == giver || s.Server == c.c.Local.Server || !slices.Contains(away, s.Server) {
			continue
		}
		if ask[s.Server] == nil && !c.c.Ring.mayNotarise(giver, s.Server) {
			continue
		}
		if ask[s.Server] == nil {
			ask[s.Server] = map[string]keyCriteria{}
		}
		ask[s.Server][s.KeyID] = keyCriteria{MinValid: &p.TS}
	}
	if len(ask) == 0 || giver == "" {
		return false
	}
	return c.learnFrom(ctx, giver, ask)
}

// LearnFrom asks a notary for the keys of a server.
func (c *Client) LearnFrom(ctx context.Context, notary, server string) error {
	if !c.learnFrom(ctx, notary, map[string]map[string]keyCriteria{server: {}}) {
		return fmt.Errorf("keys of %s: %s knows none", server, notary)
	}
	return nil
}

// learnFrom has the ring learn what a notary tells of the servers that are asked for. True when something was learnt.
func (c *Client) learnFrom(ctx context.Context, notary string, ask map[string]map[string]keyCriteria) bool {
	by := way{source: SourceTLS, direct: true}
	docs, err := c.askNotary(context.WithValue(ctx, wayKey{}, &by), notary, ask)
	if err != nil {
		c.log.Info("keys not told by another server", "notary", notary, "err", err)
		return false
	}
	source := SourceNotary + notary
	if by.direct && strings.HasPrefix(by.source, SourceBox) { // it is paired itself, not only reached by somebody who is
		source = by.source
	}
	learnt := false
	for _, doc := range docs {
		var head keyDocument
		if json.Unmarshal(doc, &head) != nil || ask[head.ServerName] == nil {
			continue
		}
		err := c.signedByNotary(ctx, notary, head, doc)
		if err == nil {
			err = c.c.Ring.Learn(ctx, doc, source)
		}
		if err != nil {
			c.log.Info("keys not learnt from another server", "notary", notary, "server", head.ServerName, "err", err)
			continue
		}
		learnt = true
	}
	return learnt
}

func (c *Client) askNotary(ctx context.Context, notary string, ask map[string]map[string]keyCriteria) ([]json.RawMessage, error) {
	var out struct {
		Docs []json.RawMessage `json:"server_keys"`
	}
	q := call{method: "POST", path: []string{"key", "v2", "query"}, body: map[string]any{"server_keys": ask}, limit: maxKeyDoc * 8, bare: true}
	err := c.ask(ctx, notary, q, &out)
	return out.Docs, err
}

// signedByNotary checks that a document carries the notary's signature.
func (c *Client) signedByNotary(ctx context.Context, notary string, head keyDocument, doc []byte) error {
	err := errors.New("not signed by the notary")
	for id := range head.Signatures[notary] {
		pub, kerr := c.c.Ring.Key(ctx, notary, id, 0)
		if kerr != nil {
			err = kerr
			continue
		}
		if err = event.VerifyJSON(doc, notary, id, pub); err == nil {
			return nil
		}
	}
	return err
}

// mayNotarise bounds how often one server is asked for the keys of another.
func (r *KeyRing) mayNotarise(giver, server string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.c.Now()
	key := [2]string{giver, server}
	if last, ok := r.asked[key]; ok && now.Sub(last).Abs() < 15*askAgain {
		return false
	}
	bound(r.asked)
	r.asked[key] = now
	return true
}

// Documents gives the last document of a server as it was learnt, for those who ask us about it; nil when unknown.
func (r *KeyRing) Documents(ctx context.Context, server string) ([][]byte, error) {
	if l, own := r.c.Locals(server); own {
		doc, err := r.Document(l)
		return [][]byte{doc}, err
	}
	keys, err := r.known(ctx, server)
	if err != nil {
		return nil, err
	}
	var docs [][]byte
	seen := map[string]bool{}
	for _, k := range keys {
		if len(k.Document) > 0 && !seen[string(k.Document)] {
			seen[string(k.Document)] = true
			docs = append(docs, k.Document)
		}
	}
	return docs, nil
}
