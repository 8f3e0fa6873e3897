// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"hallig/appliance/admin"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/muster"
	"hallig/sync/peer"
)

// This file has the box follow the roster of its fleet. A box that the organisation's root has listed counts as paired: it gets links, is answered, and vouches for keys as one that was paired by code. Two things
// win over it: a box that somebody here has forgotten stays forgotten until it is paired by code, and a box that the root has revoked is out whether it was paired or not. Of a revoked box
//
//   - the connections end, and nothing of it is answered, by whatever way it comes;
//   - what it has attested about other servers' keys does not count any more;
//   - what it has sent and nobody has taken yet is not taken any more;
//   - the events of its users that are in rooms stay there, and what others bring of them is checked like anybody's, with the keys that were known: else rooms would fall apart. Whoever administers
//     a room removes its users.

const (
	rosterFile  = "fleet.roster"
	refusedFile = "fleet.refused" // ids of boxes of the fleet that somebody here has forgotten, one a line

	rosterLook  = 2 * time.Second
	rosterAgain = 10 * time.Minute // after a box or the hub was asked
	rosterWait  = 20 * time.Second
)

// fleetParts is what the box knows of its fleet.
type fleetParts struct {
	*muster.Keeper

	// Guarded by exchangeParts.mu.
	pairs   peer.Roster                // by code
	newer   map[peer.ID]peer.Peer      // statements that boxes of the fleet have made since the roster was signed
	refused map[peer.ID]bool           //
	lost    map[string]peer.Revocation // by server name, unless another box has the name now
	vouched map[string]peer.Revocation // the same by the source of keys, whoever has the name
	asked   map[string]time.Time       // servers that were asked for the roster while they are in reach
}

// openFleet reads the newest roster, and whom of it the box wants nothing to do with.
func (b *Box) openFleet() error {
	f := &b.exchange.fleet
	f.newer, f.refused, f.asked = map[peer.ID]peer.Peer{}, map[peer.ID]bool{}, map[string]time.Time{}
	raw, err := os.ReadFile(filepath.Join(b.cfg.Data, refusedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read which boxes of the fleet were forgotten: %w", err)
	}
	for _, line := range strings.Fields(string(raw)) {
		f.refused[peer.ID(line)] = true
	}
	f.Keeper, err = muster.Open(muster.Config{File: filepath.Join(b.cfg.Data, rosterFile), Root: b.policies.key, Changed: b.fleetChanged, Log: b.log.With("room", "fleet")})
	return err
}

// refuse notes whether the box wants nothing to do with a box of its fleet.
func (b *Box) refuse(id peer.ID, want bool) error {
	x := b.exchange
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.fleet.refused[id] == want {
		return nil
	}
	var lines []string
	for other := range x.fleet.refused {
		if other != id {
			lines = append(lines, string(other)+"\n")
		}
	}
	if want {
		lines = append(lines, string(id)+"\n")
	}
	slices.Sort(lines)
	if err := renameio.WriteFile(filepath.Join(b.cfg.Data, refusedFile), []byte(strings.Join(lines, "")), 0o600); err != nil {
		return fmt.Errorf("note which boxes of the fleet are forgotten: %w", err)
	}
	if want {
		x.fleet.refused[id] = true
	} else {
		delete(x.fleet.refused, id)
	}
	return nil
}

// follow has all that speaks to others follow who belongs here now.
func (b *Box) follow() {
	x := b.exchange
	x.follow.Lock() // else an older roster could come last
	defer x.follow.Unlock()
	gone := b.gather()
	if x.host != nil {
		x.host.SetRoster(x.everybody())
	}
	if x.link != nil {
		x.link.RosterChanged()
	}
	for _, p := range gone {
		if _, revoked := x.revoked(p.Server); !revoked {
			b.fed.sender.LinkUp(p.Server) // as any other server now
		}
	}
	b.takeKeyBack()
}

// gather makes the roster anew from who was paired by code and who is of the fleet, and says who left it.
func (b *Box) gather() (gone []peer.Peer) {
	x := b.exchange
	x.mu.Lock()
	defer x.mu.Unlock()
	fleet := x.fleet.Fleet()
	f := &x.fleet
	f.lost, f.vouched = map[string]peer.Revocation{}, map[string]peer.Revocation{}
	for _, r := range fleet.Revoked {
		f.lost[r.Server], f.vouched[federation.SourceBox+string(r.ID)] = r, r
	}
	in, names := map[peer.ID]peer.Peer{}, map[string]peer.ID{}
	take := func(p peer.Peer) {
		for _, known := range []peer.Peer{in[p.ID], f.newer[p.ID]} {
			if known.Serial > p.Serial && known.Server == p.Server {
				p = known
			}
		}
		in[p.ID], names[p.Server] = p, p.ID
		delete(f.lost, p.Server)
	}
	for _, p := range f.pairs.All() {
		if _, revoked := f.vouched[federation.SourceBox+string(p.ID)]; !revoked {
			take(p)
		}
	}
	for _, m := range fleet.Boxes {
		owner, taken := names[m.Server]
		switch {
		case m.ID == b.boxID():
		case m.Server == b.id.Server || taken && owner != m.ID:
			b.log.Warn("the roster of the fleet gives a name to another box than the one that has it here; if that one is gone for good, forget it: hallig forget BOX", "server", m.Server, "box", m.ID.Short())
		case !f.refused[m.ID]:
			take(m.Peer)
		}
	}
	for _, p := range x.all.All() {
		if _, still := in[p.ID]; !still {
			gone = append(gone, p)
		}
	}
	x.all = peer.NewRoster(slices.Collect(maps.Values(in))...)
	x.roster = x.all
	if p, ok := x.all.ByServer(x.post.server); ok {
		x.roster = x.all.Without(p.ID)
	}
	return gone
}

// fleetChanged follows a new roster.
func (b *Box) fleetChanged(old, now peer.Fleet) {
	for _, r := range now.Revoked {
		if _, before := old.Revocation(r.ID); !before {
			b.log.Warn("a box was revoked by the organisation", "server", r.Server, "box", r.ID.Short(), "reason", r.Reason)
		}
	}
	if r, ok := now.Revocation(b.boxID()); ok {
		b.log.Error("this box was revoked by the organisation: other boxes and the hub speak with it no more", "reason", r.Reason)
	}
	x := b.exchange
	x.mu.Lock()
	clear(x.fleet.asked) // whoever is in reach shall have it now
	x.mu.Unlock()
	b.follow()
}

// revoked says whether the box that has a name was revoked.
func (x *exchangeParts) revoked(server string) (peer.Revocation, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok := x.fleet.lost[server]
	return r, ok
}

// distrusted says whether somebody's word on a server's keys does not count any more: a revoked box's, on others.
func (x *exchangeParts) distrusted(server, source string) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	r, ok := x.fleet.vouched[source]
	return ok && r.Server != server
}

// barring answers nothing that a revoked box has signed.
func (b *Box) barring(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, header := range r.Header.Values("Authorization") {
			a, err := federation.ParseAuthorization(header)
			if err != nil {
				continue // for next to say
			}
			if _, revoked := b.exchange.revoked(a.Origin); !revoked {
				continue
			}
			status := http.StatusForbidden
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/send/") {
				status = http.StatusBadRequest // the hub, which may have kept it, need not come again
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"this box was revoked by its organisation"}`) // who has gone needs no answer
			return
		}
		next.ServeHTTP(w, r)
	})
}

// mustering answers boxes and the hub about the roster.
func (b *Box) mustering(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == muster.Path {
			b.exchange.fleet.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// runFleet compares rosters with whoever comes in reach, and now and then.
func (b *Box) runFleet(ctx context.Context, g *errgroup.Group) {
	if b.policies.key == nil || b.exchange.host == nil {
		return
	}
	g.Go(func() error {
		every(ctx, rosterLook, func() { b.compareRosters(ctx) })
		return nil
	})
}

func (b *Box) compareRosters(ctx context.Context) {
	x := b.exchange
	var all sync.WaitGroup
	defer all.Wait()
	for _, p := range x.everybody().All() {
		x.mu.Lock()
		if !x.host.InReach(p.Server) {
			delete(x.fleet.asked, p.Server)
		}
		at, done := x.fleet.asked[p.Server]
		due := x.host.InReach(p.Server) && (!done || time.Since(at) > rosterAgain)
		if due {
			x.fleet.asked[p.Server] = time.Now()
		}
		x.mu.Unlock()
		if !due {
			continue
		}
		all.Go(func() {
			ctx, stop := context.WithTimeout(ctx, rosterWait)
			defer stop()
			if err := x.fleet.Compare(ctx, x.host.RoundTripper(), p.Server); err != nil && ctx.Err() == nil {
				b.log.Debug("compare the roster of the fleet", "with", p.Server, "err", err)
			}
		})
	}
}

// rosterFromStick takes the roster that lies on a stick.
func (b *Box) rosterFromStick(place string) {
	if b.policies.key == nil {
		return
	}
	f, err := os.Open(filepath.Join(place, rosterFile))
	if err != nil {
		return // most sticks have none
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, peer.MaxFleet+1))
	if err == nil {
		_, err = b.exchange.fleet.Take(raw, "stick "+filepath.Base(place))
	}
	if err != nil && !errors.Is(err, muster.ErrOlder) {
		b.log.Warn("the roster of the fleet on a stick is not taken", "stick", filepath.Base(place), "err", err)
	}
}

// rosterOntoStick lays the roster onto a stick that goes from box to box, unless it has this one. That it could not be is no reason to hold the stick.
func (b *Box) rosterOntoStick(ctx context.Context, place string) {
	raw := b.exchange.fleet.Raw()
	name := filepath.Join(place, rosterFile)
	if old, err := os.ReadFile(name); len(raw) == 0 || err == nil && bytes.Equal(old, raw) {
		return
	}
	done, err := b.writable(ctx, place)
	if err == nil {
		defer done()
		err = layDown(name, raw)
	}
	if err != nil {
		b.log.Warn("the roster of the fleet was not put on the stick", "stick", filepath.Base(place), "err", err)
	}
}

// layDown writes a file that appears whole or not at all, also on file systems without rights.
func layDown(name string, raw []byte) error {
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name+".new"))
	}
	return os.Rename(name+".new", name)
}

// takeRoster takes a roster that the operator hands over.
func (b *Box) takeRoster(raw []byte) (*admin.Fleet, error) {
	_, err := b.exchange.fleet.Take(raw, "the operator")
	switch {
	case errors.Is(err, muster.ErrNoRoot):
		return nil, &admin.Refusal{Text: `this box knows no key of an organisation; name it in config.json: "organisation_key": "...", the line that hallig policy key has shown`, DE: "Diese Box kennt keinen Schlüssel einer Organisation; seine Zeile gehört als „organisation_key“ in config.json."}
	case err != nil:
		de, en := muster.Explain(err)
		return nil, &admin.Refusal{Text: en, DE: de}
	}
	return b.fleetStatus(), nil
}

// fleetStatus is what people are shown; nil: the box belongs to no fleet.
func (b *Box) fleetStatus() *admin.Fleet {
	x := b.exchange
	if b.policies.key == nil {
		return nil
	}
	f := x.fleet.Fleet()
	out := &admin.Fleet{Serial: f.Serial, Boxes: len(f.Boxes), Revoked: len(f.Revoked), NotTaken: x.fleet.Refused()}
	if f.Serial > 0 {
		out.Issued = time.Unix(f.Issued, 0)
	}
	_, out.Member = f.Member(b.boxID())
	if r, ok := f.Revocation(b.boxID()); ok {
		out.Lost = r.Reason
		if out.Lost == "" {
			out.Lost = "-"
		}
	}
	return out
}

// fleetLine is what the box adds to the list from which a roster is signed.
func (b *Box) fleetLine() (string, error) {
	statement, err := b.id.Statement()
	if err != nil {
		return "", err
	}
	p, err := peer.ReadStatement(statement)
	if err != nil {
		return "", err
	}
	return peer.FormatMember(peer.Member{Peer: p, Label: b.cfg.Provisioned.Label}), nil
}

// putPeer stores a box that is paired by code, or a newer statement of one. The caller holds pairing.
func (b *Box) putPeer(p peer.Peer) error {
	err := b.db.Do(context.Background(), func(tx *store.Tx) error { return tx.PutPeer(string(p.ID), p.Server, p.Statement) })
	if err != nil {
		return fmt.Errorf("store paired box: %w", err)
	}
	x := b.exchange
	x.mu.Lock()
	x.fleet.pairs = x.fleet.pairs.With(p)
	x.mu.Unlock()
	return nil
}
