// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"hallig/appliance/event"
	"hallig/appliance/room"
)

// A room may have a policy server, which signs the events that it recommends. What it refuses to sign is not shown (soft-failed), and not sent when it is ours.
//
// When the policy server is out of reach its silence is no refusal: events are taken and sent unsigned then. The specification lets servers choose
// (SHOULD), and a box that hid what people write because a server far away does not answer would hide all of it just when it is needed. Servers that
// are stricter ask the policy server themselves when they get the event.
// https://spec.matrix.org/v1.19/server-server-api/#policy-servers

// policyKey is the id of the key that policy servers sign with, whatever else they are.
const policyKey = "ed25519:policy_server"

const (
	policyPatience = 3 * time.Second  // somebody waits for an event to be sent
	policyAway     = 30 * time.Second // after no answer it is not asked again for so long
)

// vetter asks policy servers about the events of one batch. Not safe for concurrent use.
type vetter struct {
	c    *Client
	of   map[event.RoomID]*room.Policy
	away map[string]bool
}

func (c *Client) vetter() *vetter {
	return &vetter{c: c, of: map[event.RoomID]*room.Policy{}, away: map[string]bool{}}
}

// vet gives an event as it is to be taken in: with the policy server's signature when it has just given one. A refusal is the reason why the event is not to be shown.
func (v *vetter) vet(ctx context.Context, p *event.PDU) (_ *event.PDU, refusal string, err error) {
	p, no, err := v.judge(ctx, p)
	if no != nil {
		refusal = "policy server: " + no.Code
	}
	return p, refusal, err
}

// judge is vet with the whole of the refusal.
func (v *vetter) judge(ctx context.Context, p *event.PDU) (_ *event.PDU, no *Refusal, err error) {
	if p.Is("m.room.policy", "") || p.Is("m.room.create", "") {
		return p, nil, nil
	}
	pol, ok := v.of[p.RoomID]
	if !ok {
		if pol, err = v.c.c.Rooms.Policy(ctx, p.RoomID); err != nil {
			return p, nil, err
		}
		v.of[p.RoomID] = pol
	}
	if pol == nil || pol.Server == v.c.c.Local.Server || p.VerifySignature(pol.Server, policyKey, pol.Key) == nil || v.away[pol.Server] {
		return p, nil, nil
	}
	signed, err := v.c.policySign(ctx, pol, p)
	switch {
	case err == nil:
		return signed, nil, nil
	case final(err) && errors.As(err, &no):
		no.Code = cmp.Or(no.Code, "M_FORBIDDEN")
		return p, no, nil
	case errors.Is(err, errPolicySignature):
		return p, &Refusal{Server: pol.Server, Status: http.StatusForbidden, Code: "M_FORBIDDEN", Text: err.Error()}, nil
	}
	v.away[pol.Server] = true
	v.c.log.Info("policy server out of reach; the event is taken without its signature", "server", pol.Server, "room", p.RoomID, "err", err)
	return p, nil, ctx.Err()
}

var errPolicySignature = errors.New("the policy server's signature does not fit the room's key")

// policySign asks a policy server to sign an event and checks what it answers.
// https://spec.matrix.org/v1.19/server-server-api/#post_matrixpolicyv1sign
func (c *Client) policySign(ctx context.Context, pol *room.Policy, p *event.PDU) (*event.PDU, error) {
	if c.policyAway.active(pol.Server, c.now()) {
		return nil, errors.New("it did not answer a moment ago")
	}
	ctx, cancel := context.WithTimeout(ctx, policyPatience)
	defer cancel()
	var out map[string]map[string]string
	err := c.ask(ctx, pol.Server, call{method: http.MethodPost, path: []string{"policy", "v1", "sign"}, body: json.RawMessage(p.JSON())}, &out)
	if err != nil {
		if !final(err) {
			c.policyAway.note(pol.Server, c.now().Add(policyAway))
		}
		return nil, err
	}
	sig, err := base64.RawStdEncoding.DecodeString(out[pol.Server][policyKey])
	if err != nil || len(sig) != ed25519.SignatureSize {
		return nil, errPolicySignature
	}
	signed, err := p.AddSignature(pol.Server, policyKey, sig)
	if err != nil {
		return nil, err
	}
	if signed.VerifySignature(pol.Server, policyKey, pol.Key) != nil {
		return nil, errPolicySignature
	}
	return signed, nil
}

// Vet asks the room's policy server about an event of a user before it is sent. A refusal is a *room.Error that passes on what the policy server said.
func (c *Client) Vet(ctx context.Context, p *event.PDU) (*event.PDU, error) {
	p, no, err := c.vetter().judge(ctx, p)
	if err == nil && no != nil {
		err = &room.Error{Code: no.Code, Status: no.Status, Text: no.Text}
	}
	return p, err
}

// silence remembers who did not answer, so that not every event waits for the same server. It is bounded by the servers that rooms name.
type silence struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func (s *silence) active(server string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return now.Before(s.until[server])
}

func (s *silence) note(server string, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil || len(s.until) > 100 {
		s.until = map[string]time.Time{}
	}
	s.until[server] = until
}
