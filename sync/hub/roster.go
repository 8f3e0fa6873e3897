// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"time"

	"hallig/sync/hub/spool"
	"hallig/sync/peer"
)

// entry is a box of this hub.
type entry struct {
	peer.Peer
	mode    spool.Mode
	revoked string
}

// roster is what the hub knows of its boxes, as last read from the spool. It is a value that is replaced.
type roster struct {
	by    map[string]entry // by server name
	ids   map[peer.ID]string
	hosts map[string]bool // host parts of the names
}

// box finds a box by its server name.
func (h *Hub) box(server string) (entry, bool) {
	e, ok := h.roster.Load().by[server]
	return e, ok
}

// serves says whether a host belongs to a name of ours.
func (h *Hub) serves(host string) bool {
	return host == hostOf(h.id.Server) || h.roster.Load().hosts[host]
}

// hostOf is a server name without its port.
func hostOf(server string) string {
	if host, _, err := net.SplitHostPort(server); err == nil {
		return host
	}
	return server
}

// readRoster takes the boxes from the spool: another node of this hub may have paired or revoked one. Boxes that are gone are cut off.
func (h *Hub) readRoster(ctx context.Context) error {
	h.reading.Lock()
	defer h.reading.Unlock()
	rows, err := h.spool.Boxes(ctx)
	if err != nil {
		return fmt.Errorf("read the boxes: %w", err)
	}
	next := &roster{by: make(map[string]entry, len(rows)), ids: make(map[peer.ID]string, len(rows)), hosts: make(map[string]bool, len(rows))}
	var peers []peer.Peer
	for _, row := range rows {
		p, err := known(h.roster.Load().by[row.Server], row.Statement)
		if err != nil {
			h.log.Error("a box in the spool cannot be read; pair it again", "box", row.Server, "err", err)
			continue
		}
		next.by[row.Server] = entry{Peer: p, mode: row.Mode, revoked: row.Revoked}
		next.ids[p.ID] = row.Server
		next.hosts[hostOf(row.Server)] = true
		if row.Revoked == "" {
			peers = append(peers, p)
		}
	}
	for server := range h.roster.Swap(next).by {
		if e, still := next.by[server]; h.depot != nil && (!still || e.revoked != "") {
			h.replica.Forget(server)
			h.depot.Forget(server)
		}
	}
	if h.p2p != nil {
		h.p2p.SetRoster(peer.NewRoster(peers...))
	}
	h.endCarriers(func(c *carrier) bool {
		e, ok := next.by[c.box]
		return !ok || e.revoked != "" || e.ID != c.id
	})
	h.mu.Lock()
	for _, f := range h.ferries {
		if e, ok := next.by[f.box]; !ok || e.revoked != "" || e.ID != f.id {
			f.cancel()
		}
	}
	h.mu.Unlock()
	return nil
}

// known gives who a statement speaks of, without looking at its signature again when it is the one that was looked at before: thousands of boxes are read every few seconds.
func known(before entry, statement []byte) (peer.Peer, error) {
	if before.ID != "" && bytes.Equal(before.Statement, statement) {
		return before.Peer, nil
	}
	return peer.ReadStatement(statement)
}

// peers is the roster as p2p wants it.
func (h *Hub) peers() peer.Roster {
	var peers []peer.Peer
	for _, e := range h.roster.Load().by {
		if e.revoked == "" {
			peers = append(peers, e.Peer)
		}
	}
	return peer.NewRoster(peers...)
}

// addBox stores a box that has been paired, or a newer statement of one.
func (h *Hub) addBox(p peer.Peer, mode spool.Mode) error {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	switch {
	case p.Server == h.id.Server:
		return fmt.Errorf("the box is called %s as this hub is; give it another --name", p.Server)
	case h.fleet != nil && revokedIn(h.fleet.Fleet(), p.ID):
		return fmt.Errorf("%s was revoked by the organisation; if it was found again: hallig fleet roster sign --readmit, and hallig-hub roster import", p.Server)
	case !h.cfg.allows(p.Server):
		return fmt.Errorf("boxes called %s are not allowed here; add the name to \"names\" in hub.json", p.Server)
	}
	err := h.spool.PutBox(ctx, spool.Box{Server: p.Server, ID: string(p.ID), Statement: p.Statement, Mode: mode, Added: h.now()})
	if errors.Is(err, spool.ErrTaken) {
		return fmt.Errorf("%w: %s; forget the other one first: hallig-hub revoke --forget NAME", err, p.Server)
	}
	if err != nil {
		return fmt.Errorf("store the box: %w", err)
	}
	row, err := h.spool.Box(ctx, p.Server)
	if err != nil {
		return fmt.Errorf("store the box: %w", err)
	}
	if row.Revoked != "" {
		return fmt.Errorf("%s was turned away (%s); to let it in again forget it first: hallig-hub revoke --forget %s", p.Server, row.Revoked, p.Server)
	}
	return h.readRoster(ctx)
}

// paired is addBox for the pairing itself.
func (h *Hub) paired(p peer.Peer) error {
	if err := h.addBox(p, spool.Sealed); err != nil { // it says otherwise at its contact
		h.log.Warn("a box was not let in", "box", p.Server, "id", p.ID.Short(), "err", err)
		return err
	}
	h.log.Info("box paired", "box", p.Server, "id", p.ID.Short())
	return nil
}

// revoke turns a box away; with forget it and all that waits for it is deleted.
func (h *Hub) revoke(ctx context.Context, server, reason string, forget bool) error {
	var err error
	if forget {
		err = h.spool.Remove(ctx, server)
	} else {
		err = h.spool.Revoke(ctx, server, reason)
		if err == nil { // whoever has the box has its name; nobody signs for it any more
			err = h.spool.Deposit(ctx, server, kindDelegated, "", nil)
		}
	}
	if err != nil {
		return err
	}
	h.log.Info("box turned away", "box", server, "reason", reason, "forgotten", forget)
	return h.readRoster(ctx)
}

// signingKey is the Matrix key that a box has stated under its box key.
func (h *Hub) signingKey(server, keyID string) ed25519.PublicKey {
	e, ok := h.box(server)
	if !ok || e.revoked != "" {
		return nil
	}
	return e.SigningKeys[keyID]
}

func revokedIn(f peer.Fleet, id peer.ID) bool {
	_, ok := f.Revocation(id)
	return ok
}
