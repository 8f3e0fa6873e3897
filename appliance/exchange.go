// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/event"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/radio"
	"hallig/sync/federation"
	"hallig/sync/inbox"
	"hallig/sync/link"
	"hallig/sync/p2p"
	"hallig/sync/peer"
	"hallig/sync/relay"
)

// exchangeParts are the parts that speak to other boxes.
type exchangeParts struct {
	number func(*store.Tx, room.AppendInfo) error
	heard  func(server string, asked time.Time, resp *http.Response) // of answers that came over libp2p
	host   *p2p.Host                                                 // nil: switched off
	ports  []*radio.Port
	relay  *relay.Relay
	link   *link.Link
	parts  courierParts
	post   hubParts
	fleet  fleetParts

	passage passage

	pairing sync.Mutex // over a look at who is paired by code and the change that follows from it, in the store and here; before mu
	follow  sync.Mutex // over one change of the roster and all that follows; before mu
	mu      sync.RWMutex
	all     peer.Roster // with the hub
	roster  peer.Roster // without it
}

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey {
	pub, _ := key.Public().(ed25519.PublicKey)
	return pub
}

// appended numbers an event for the boxes that lack it, in the event's own transaction.
func (x *exchangeParts) appended(tx *store.Tx, e room.AppendInfo) error {
	if err := x.number(tx, e); err != nil || x.link == nil {
		return err
	}
	return x.link.Appended(tx, e)
}

// paired are the boxes.
func (x *exchangeParts) paired() peer.Roster {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.roster
}

// everybody is all that are paired: the boxes, and the hub.
func (x *exchangeParts) everybody() peer.Roster {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.all
}

// byCode is who was paired with this box alone, not by the organisation's roster; the hub too.
func (x *exchangeParts) byCode() peer.Roster {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.fleet.pairs
}

// isBox says whether a server is a paired box: boxes get parcels, never PUT /send.
func (x *exchangeParts) isBox(server string) bool {
	_, ok := x.paired().ByServer(server)
	return ok
}

// signingKey is the Matrix key that a paired box, or the hub, has stated.
func (x *exchangeParts) signingKey(server, keyID string) ed25519.PublicKey {
	p, ok := x.everybody().ByServer(server)
	if !ok {
		return nil
	}
	return p.SigningKeys[keyID]
}

// ways chooses how a request reaches a server: a paired box over libp2p when it is in reach there, otherwise as parcels
// over whatever link there is; every other server through the hub when that is in reach, and over HTTPS otherwise.
func (x *exchangeParts) ways(public http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		server := req.URL.Host
		if r, ok := x.revoked(server); ok {
			return nil, fmt.Errorf("ask %s: it was revoked by the organisation (%s)", server, r.Reason)
		}
		if p, ok := x.everybody().ByServer(server); ok {
			federation.CameBy(req.Context(), federation.SourceBox+string(p.ID), true)
		}
		switch {
		case server == x.post.server && x.host != nil:
			return x.host.RoundTripper().RoundTrip(req)
		case !x.isBox(server):
			return x.beyond(req, func(req *http.Request) (*http.Response, error) { return x.straight(req, public) })
		case x.host != nil && x.host.InReach(server):
			asked := time.Now()
			resp, err := x.host.RoundTripper().RoundTrip(req)
			if err == nil {
				x.heard(server, asked, resp)
			}
			return resp, err
		case x.byStick(server, req.URL.Path):
			return x.parts.RoundTrip(req)
		}
		return x.link.RoundTripper().RoundTrip(req)
	})
}

// byStick says whether a request travels by stick: people wait for it, and nothing else leads there.
func (x *exchangeParts) byStick(server, path string) bool {
	return x.parts.Courier != nil && x.parts.Serves(server, path) && !x.link.Reaches(server) && (x.host == nil || !x.host.InReach(server))
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// joinExchange makes the transports and the link between boxes.
func (b *Box) joinExchange(ctx context.Context) error {
	x := b.exchange
	statement, err := b.id.Statement()
	if err != nil {
		return err
	}
	if err := b.openFleet(); err != nil {
		return err
	}
	if err := b.loadRoster(ctx); err != nil {
		return err
	}
	var transports []link.Transport
	if !b.cfg.P2P.Off {
		reached, err := b.reachedBefore(ctx)
		if err != nil {
			return err
		}
		cfg := p2p.Config{
			Through: b.cfg.Hub.Server,
			Box:     b.id.Box, Statement: statement, Roster: x.everybody(), Paired: b.addPeer,
			Listen: b.cfg.P2P.Listen, Announce: b.cfg.P2P.Announce, Static: slices.Concat(reached, b.cfg.P2P.Peers, b.cfg.Hub.Peers), Reached: b.reached, NoMDNS: b.cfg.P2P.NoMDNS, Log: b.log.With("room", "p2p"),
		}
		if x.host, err = p2p.New(cfg); err != nil && len(cfg.Listen) == 0 {
			b.log.Warn("the usual libp2p port is taken; using another one", "err", err)
			cfg.Listen = []string{"/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"}
			x.host, err = p2p.New(cfg)
		}
		if err != nil {
			return fmt.Errorf("start libp2p: %w; name another address in p2p.listen of config.json, or switch it off with p2p.off", err)
		}
		transports = append(transports, x.host)
	}
	if err := b.adoptBooks(); err != nil {
		return err
	}
	for _, line := range b.cfg.Serial {
		port := radio.New(radioConfig(line, b))
		x.ports = append(x.ports, port)
		transports = append(transports, port)
	}
	if b.cfg.Restored || b.db.Restored() {
		err := b.db.Do(ctx, func(tx *store.Tx) error {
			if err := tx.NewEpoch(newEpoch()); err != nil {
				return err
			}
			if err := tx.ForgetOneTimeKeys(); err != nil {
				return err
			}
			return tx.JumpDeviceLists()
		})
		if err != nil {
			return fmt.Errorf("begin anew after a restore: %w", err)
		}
		if err := b.db.Settle(); err != nil {
			return err
		}
		b.log.Info("new epoch after a restore: paired boxes take what is written from now on for new")
	}
	in := inbox.New(inbox.Config{
		DB: b.db, Rooms: b.rooms, Verify: b.fed.client.VerifyPDU, Later: func(err error) bool { return errors.Is(err, federation.ErrKeyUnavailable) },
		EDU: func(ctx context.Context, origin, kind string, content []byte) error {
			return b.users().EDU(ctx, origin, kind, content)
		},
		Stage: b.fed.intake.Take, Log: b.log.With("room", "inbox"),
	})
	x.relay, err = relay.New(ctx, relay.Config{Key: b.id.Box, DB: b.db, Roster: x.paired, Log: b.log.With("room", "relay")})
	if err != nil {
		return err
	}
	x.link, err = link.New(ctx, link.Config{
		Relay: x.relay,
		Key:   b.id.Box, Server: b.id.Server, DB: b.db, Inbox: in, Roster: x.paired, Transports: append(transports, x.relay),
		Handler:   b.ferried(b.passing(b.fed.handler)),
		Statement: func() []byte { return statement },
		Learn:     func(p peer.Peer) { b.learnPeer(context.WithoutCancel(ctx), p) },
		KeyDocument: func(ctx context.Context, server string) []byte {
			docs, err := b.fed.ring.Documents(ctx, server)
			if err != nil || len(docs) == 0 {
				return nil
			}
			return docs[len(docs)-1]
		},
		LearnKeys: func(ctx context.Context, from peer.Peer, document []byte) error {
			return b.fed.ring.Learn(ctx, document, federation.SourceBox+string(from.ID))
		},
		Shown: b.delivery.Shown, Clock: b.shownTime,
		Observe: b.observe, Log: b.log.With("room", "link"),
	})
	if err != nil {
		return err
	}
	return b.joinCourier(in, statement)
}

// newEpoch draws the number of a new epoch, which is never 0.
func newEpoch() uint32 {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint32(b[:]) | 1
}

func (x *exchangeParts) run(ctx context.Context, g *errgroup.Group, c *care) {
	g.Go(func() error {
		c.running.Store(true)
		defer c.running.Store(false)
		return ended("link to other boxes", x.link.Run(ctx))
	})
}

// serveBoxes answers HTTP of paired boxes over libp2p with the Server-Server API.
func (b *Box) serveBoxes(ctx context.Context, g *errgroup.Group) {
	if b.exchange.host != nil {
		b.serveHTTP(ctx, g, "federation over libp2p", b.exchange.host.Listener(), b.doors.guard(b.mustering(b.fromHub(b.keeping(b.offerUpdate(b.timed(b.fed.handler)))))))
	}
}

func (x *exchangeParts) close() error {
	if x == nil || x.host == nil {
		return nil
	}
	return x.host.Close()
}

// typing tells the boxes in a room that a local user types or stops. Only boxes that libp2p reaches now are told, and nothing
// waits for the others: it is worth nothing a minute later.
func (b *Box) typing(ctx context.Context, id event.RoomID, user event.UserID, typing bool) {
	x := b.exchange
	if x.host == nil || x.paired().Len() == 0 {
		return
	}
	servers, err := b.rooms.Servers(ctx, id)
	if err != nil {
		b.log.Debug("typing not told to other boxes", "err", err)
		return
	}
	content, err := json.Marshal(map[string]any{"room_id": id, "user_id": user, "typing": typing})
	if err != nil {
		return // strings and a bool always marshal
	}
	for _, server := range servers {
		if x.isBox(server) && x.host.InReach(server) {
			b.db.Lazy(func(tx *store.Tx) error {
				return tx.EnqueueEDU(server, "m.typing", string(id)+" "+string(user), content)
			})
		}
	}
}

// reachedBefore lists where paired boxes were reached before the start.
func (b *Box) reachedBefore(ctx context.Context) (addrs []string, err error) {
	err = b.db.View(ctx, func(r *store.Read) (err error) {
		addrs, err = r.PeerAddresses()
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read where the paired boxes were: %w", err)
	}
	return addrs, nil
}

// reached notes where a paired box was reached; "": through the hub. Lazily: what a power cut takes back is noted at the next meeting.
func (b *Box) reached(id peer.ID, addr string) {
	if addr != "" {
		b.db.Lazy(func(tx *store.Tx) error { return tx.SetPeerAddress(string(id), addr) })
	}
	if p, ok := b.exchange.paired().ByID(id); ok {
		b.inReach(p.Server)
	}
}

// loadRoster reads the paired boxes from the store.
func (b *Box) loadRoster(ctx context.Context) error {
	var peers []peer.Peer
	err := b.db.View(ctx, func(r *store.Read) error {
		rows, err := r.Peers()
		if err != nil {
			return err
		}
		for _, row := range rows {
			p, err := peer.ReadStatement(row.Record)
			if err != nil {
				return fmt.Errorf("paired box %s: %w", row.Box, err)
			}
			peers = append(peers, p)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the paired boxes: %w", err)
	}
	b.exchange.fleet.pairs = peer.NewRoster(peers...)
	b.gather()
	return nil
}

// addPeer stores a box that was paired by code, and tells everybody.
func (b *Box) addPeer(p peer.Peer) error {
	if p.Server == b.id.Server {
		return fmt.Errorf("the other box is called %s as well; give one of them another --name", p.Server)
	}
	if err := b.pair(p); err != nil {
		return err
	}
	b.follow()
	b.log.Info("box paired", "server", p.Server, "box", p.ID.Short())
	return nil
}

func (b *Box) pair(p peer.Peer) error {
	x := b.exchange
	x.pairing.Lock()
	defer x.pairing.Unlock()
	if r, ok := x.fleet.Fleet().Revocation(p.ID); ok {
		return fmt.Errorf("that box was revoked by the organisation (%s); if it is the right one again, have it signed into a new roster: hallig fleet roster sign", r.Reason)
	}
	if old, ok := x.everybody().ByServer(p.Server); ok && old.ID != p.ID {
		return fmt.Errorf("another box is already paired under the name %s; forget it first: hallig forget %s", p.Server, old.ID)
	}
	if err := b.refuse(p.ID, false); err != nil {
		return err
	}
	return b.putPeer(p)
}

// learnPeer takes a newer statement that a box made about itself.
func (b *Box) learnPeer(_ context.Context, p peer.Peer) {
	if known, ok := b.exchange.everybody().ByID(p.ID); !ok || known.Server != p.Server {
		return // revoked or forgotten meanwhile
	}
	if err := b.renew(p); err != nil {
		b.log.Error("keep a box's new statement", "box", p.ID.Short(), "err", err)
		return
	}
	b.follow()
}

// renew keeps a statement, in the store when its box is still paired by code.
func (b *Box) renew(p peer.Peer) error {
	x := b.exchange
	x.pairing.Lock() // else it could be stored after its box was forgotten, which would then be paired again
	defer x.pairing.Unlock()
	x.mu.Lock()
	_, paired := x.fleet.pairs.ByID(p.ID)
	if !paired { // of the fleet alone: it is asked for its statement again after each start
		x.fleet.newer[p.ID] = p
	}
	x.mu.Unlock()
	if !paired {
		return nil
	}
	return b.putPeer(p)
}

// forgetPeer ends a pairing; id is the box id or the server name. Its server may then only be reached as any other server is. A box of the fleet stays forgotten until it is paired by code.
func (b *Box) forgetPeer(ctx context.Context, id peer.ID) error {
	x := b.exchange
	if p, ok := x.everybody().ByServer(string(id)); ok {
		id = p.ID // people know a box by its server name
	}
	if _, ok := x.everybody().ByID(id); !ok {
		return errNoSuchBox
	}
	if err := b.unpair(ctx, id); err != nil {
		return fmt.Errorf("forget box: %w", err)
	}
	b.follow()
	return nil
}

func (b *Box) unpair(ctx context.Context, id peer.ID) error {
	x := b.exchange
	x.pairing.Lock()
	defer x.pairing.Unlock()
	if _, ok := x.fleet.Fleet().Member(id); ok {
		if err := b.refuse(id, true); err != nil {
			return err
		}
	}
	if err := b.db.Do(ctx, func(tx *store.Tx) error { return tx.DeletePeer(string(id)) }); err != nil {
		return err
	}
	x.mu.Lock()
	x.fleet.pairs = x.fleet.pairs.Without(id)
	x.mu.Unlock()
	return nil
}

var errNoSuchBox = errors.New("no box with that id is paired")

// stale notes that a remote user's device list must be fetched again. When the loop cannot keep up the note is dropped: the
// store still holds the list for stale, and the next key query asks.
func (b *Box) stale(user event.UserID) {
	select {
	case b.staleUsers <- user:
	default:
	}
}

// refreshStale fetches stale device lists until ctx ends.
func (b *Box) refreshStale(ctx context.Context) error {
	for {
		select {
		case user := <-b.staleUsers:
			b.refreshDevices(ctx, user)
		case <-ctx.Done():
			return nil
		}
	}
}

// refreshDevices asks for the device lists that an update said are stale.
func (b *Box) refreshDevices(ctx context.Context, user event.UserID) {
	answer, err := b.fed.client.UserDevices(ctx, user)
	if err != nil {
		b.log.Debug("device list not refreshed; the next key query asks again", "user", user, "err", err)
		return
	}
	if err := b.accounts.UpdateRemoteDevices(ctx, user, answer); err != nil {
		b.log.Warn("keep device list", "user", user, "err", err)
	}
}

// quiet is until when routine and bulk keep off narrow links.
func (b *Box) quiet() time.Time {
	if b.exchange.link == nil {
		return time.Time{}
	}
	return b.exchange.link.Quiet()
}
