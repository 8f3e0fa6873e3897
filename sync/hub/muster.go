// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hallig/appliance/signet"
	"hallig/sync/hub/fleet"
	"hallig/sync/muster"
	"hallig/sync/peer"
)

// This file has the hub keep the roster of the fleet that the organisation's root has signed, hand it out, and turn away whom it revokes. Who is let in here is for pairing to say:
// the roster takes away, it does not give.

const (
	fleetFile    = "fleet.roster"
	rosterWait   = 20 * time.Second
	rosterAtOnce = 16
)

// openFleet reads the roster. Each node of a hub has a copy of its own, which boxes bring to those that lack it.
func (h *Hub) openFleet() (err error) {
	var root ed25519.PublicKey
	if h.cfg.OrganisationKey != "" {
		k, err := signet.Organisation.Parse(h.cfg.OrganisationKey)
		if err != nil {
			return err // check has looked already
		}
		root = k.Key
	}
	h.mustered = make(chan struct{}, 1)
	h.fleet, err = muster.Open(muster.Config{File: filepath.Join(h.cfg.Data, fleetFile), Root: root, Changed: func(_, now peer.Fleet) {
		ctx, stop := context.WithTimeout(context.Background(), time.Minute)
		defer stop()
		if err := h.turnAwayRevoked(ctx, now); err != nil {
			h.log.Error("turn away whom the organisation has revoked; it is tried again at the next start: hallig-hub revoke BOX does it now", "err", err)
		}
		select {
		case h.mustered <- struct{}{}:
		default:
		}
	}, Log: h.log.With("room", "fleet")})
	return err
}

// turnAwayRevoked revokes the boxes that a roster revokes.
func (h *Hub) turnAwayRevoked(ctx context.Context, f peer.Fleet) error {
	var errs []error
	for _, r := range f.Revoked {
		if e, ok := h.boxByID(r.ID); ok && e.revoked == "" {
			errs = append(errs, h.revoke(ctx, e.Server, cmp.Or(r.Reason, "revoked by the organisation"), false))
		}
	}
	return errors.Join(errs...)
}

// handOut brings each new roster to the boxes that are connected here. The others ask when they come.
func (h *Hub) handOut(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.mustered:
		}
		var all sync.WaitGroup
		places := make(chan struct{}, rosterAtOnce)
		for _, p := range h.peers().All() {
			if !h.p2p.InReach(p.Server) {
				continue
			}
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				ctx, stop := context.WithTimeout(ctx, rosterWait)
				defer stop()
				if err := h.fleet.Give(ctx, h.p2p.RoundTripper(), p.Server); err != nil && ctx.Err() == nil {
					h.log.Debug("hand out the roster of the fleet", "box", p.Server, "err", err)
				}
			})
		}
		all.Wait()
	}
}

// importRoster takes a roster from the operator.
func (h *Hub) importRoster(raw []byte) (*fleet.Roster, error) {
	_, err := h.fleet.Take(raw, "the operator")
	if errors.Is(err, muster.ErrNoRoot) {
		return nil, said("Der Hub kennt keinen Schlüssel einer Organisation; seine Zeile, die hallig policy key gezeigt hat, gehört als „organisation_key“ in hub.json; danach den Hub neu starten.",
			`the hub knows no key of an organisation; name it in hub.json: "organisation_key": "...", the line that hallig policy key has shown, and start the hub again`)
	}
	if err != nil {
		return nil, said(muster.Explain(err))
	}
	return h.rosterState(), nil
}

// rosterState is what the operator sees of the roster; nil: there is no fleet.
func (h *Hub) rosterState() *fleet.Roster {
	if h.cfg.OrganisationKey == "" {
		return nil
	}
	f := h.fleet.Fleet()
	out := &fleet.Roster{Serial: f.Serial, Boxes: int64(len(f.Boxes)), Revoked: int64(len(f.Revoked)), NotTaken: h.fleet.Refused()}
	if f.Serial > 0 {
		out.Issued = time.Unix(f.Issued, 0)
	}
	listed := map[peer.ID]bool{}
	for _, m := range f.Boxes {
		listed[m.ID] = true
	}
	for _, e := range h.roster.Load().by {
		if e.revoked == "" && !listed[e.ID] {
			out.Missing++
		}
	}
	return out
}

// draft is the list of the boxes from which a roster is signed.
func (h *Hub) draft() string {
	var lines []string
	for _, p := range h.peers().All() {
		m, ok := h.fleet.Fleet().Member(p.ID)
		if !ok {
			m.Label = p.Name
		}
		m.Peer = p
		lines = append(lines, peer.FormatMember(m)+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
