// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/cert"
	"hallig/appliance/socket"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/depot"
	"hallig/sync/hub/fleet"
	"hallig/sync/hub/letter"
	"hallig/sync/hub/nodes"
	"hallig/sync/hub/replica"
	"hallig/sync/hub/shelf"
	"hallig/sync/hub/spool"
	"hallig/sync/identity"
	"hallig/sync/muster"
	"hallig/sync/p2p"
	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// Hub is one node of a hub. Open makes it; Run may be called once.
type Hub struct {
	cfg     Config
	log     *slog.Logger
	node    string // this running program, to the leases
	started time.Time
	now     func() time.Time

	lock      *os.File
	id        identity.Identity
	fresh     bool // made at this start
	local     federation.Local
	db        *store.DB
	spool     spool.Spool
	ring      *federation.KeyRing
	fromAfar  *federation.Verifier // of what the world asks
	fromOurs  *federation.Verifier // of what boxes ask: with places of their own, so that no flood from the world keeps them out
	fromNodes *federation.Verifier // of what other nodes pass on
	discovery *federation.Discovery
	notary    http.Handler // answers under the hub's own name
	replica   *replica.Replica
	depot     *depot.Depot
	p2p       *p2p.Host
	reading   sync.Mutex     // of the roster: who reads later stores later
	fleet     *muster.Keeper // the roster that the organisation has signed
	mustered  chan struct{}  // there is a new one
	roster    atomic.Pointer[roster]
	mail      *letter.Mail
	seldom    seldom
	once      onces
	singles   singles
	count     counters

	shelf    *shelf.Shelf
	policy   atomic.Pointer[handed] // nil: there is none
	policing sync.Mutex             // of one that is set
	fetching chan struct{}          // places for boxes that fetch an update

	certs   *certificates
	pages   *fleet.Pages
	pageKey *fleet.Key
	stocks  stocks
	page    net.Listener // nil: there is none
	proofs  net.Listener // where an authority looks; nil: nowhere

	world     net.Listener
	crowd     *crowd // below world
	localDoor net.Listener
	nodes     *nodes.Line // nil: other nodes are asked nothing

	mu       sync.Mutex
	carriers map[string]*carrier // by box, while it is connected here
	carrying sync.WaitGroup      // all carriers, those of boxes that have gone too
	asking   map[string]int      // requests that are at a box now

	reached chan struct{}              // boxes have said anew whom they reach, or have come or gone
	reach   map[string]map[string]line // by box, then by the one that reaches it; under mu
	ferries map[string]*ferryman       // by box that others reach; under mu
	codec   *parcel.Codec              // of what goes through them

	invites allowance
	fars    fars // under mu
}

// counters are what happened since the start, for status.
type counters struct {
	taken, delivered, refused, turnedAway, full, out, crowded, tooMuch, elsewhere, invited, woken atomic.Int64
}

const (
	leaseLife    = 30 * time.Second
	rosterEvery  = 10 * time.Second
	keysEvery    = time.Hour
	askPatience  = 8 * time.Second  // for what a box answers at once
	joinPatience = 45 * time.Second // for what it has to work for
	bodyPatience = 10 * time.Minute // for the rest of an answer
	askAtOnce    = 16               // requests at one box at a time: its line may be narrow
)

// door is where `hallig-hub VERB` asks.
func door(dir string) socket.Door { return socket.Door{Dir: dir, Name: "hallig-hub", What: "hub"} }

// Ask sends one request to the hub that runs on dir: in and out are JSON values, nil for none.
func Ask(ctx context.Context, dir, method, path string, in, out any) error {
	return door(dir).Ask(ctx, method, path, in, out)
}

// Open reads or makes the identity, opens the database and the listeners. Nothing is served before Run. The spool is closed with the hub, also when Open fails.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Hub, error) {
	h := &Hub{cfg: cfg, log: log, spool: cfg.Spool, started: time.Now(), now: time.Now, carriers: map[string]*carrier{}, asking: map[string]int{},
		reached: make(chan struct{}, 1), reach: map[string]map[string]line{}, ferries: map[string]*ferryman{}}
	h.roster.Store(&roster{})
	word := make([]byte, 9)
	_, _ = rand.Read(word) // never fails
	h.node = base64.RawURLEncoding.EncodeToString(word)
	if err := h.open(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

func (h *Hub) open(ctx context.Context) error {
	if err := h.cfg.check(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := h.lockData(); err != nil {
		return err
	}
	if err := h.openIdentity(); err != nil {
		return err
	}
	if err := h.openNodes(); err != nil {
		return err
	}
	var err error
	if h.db, err = store.Open(ctx, filepath.Join(h.cfg.Data, "hallig.db"), store.Options{Log: h.log, Readers: 8}); err != nil {
		return err
	}
	if err := h.readRoster(ctx); err != nil {
		return err
	}
	if !h.fresh && len(h.roster.Load().by) == 0 {
		h.log.Warn("no box is paired with this hub yet; pair one with: hallig-hub pair. If there were some before, its memory is lost: stop it, put the newest copy back and say so with hallig-hub restored, or pair the boxes again")
	}
	if h.shelf, err = shelf.Open(filepath.Join(h.cfg.Data, updatesDir), h.cfg.Updates.Keys, h.now); err != nil {
		return err
	}
	if err := h.openPolicy(); err != nil {
		return err
	}
	if err := h.openFleet(); err != nil {
		return err
	}
	if err := h.turnAwayRevoked(ctx, h.fleet.Fleet()); err != nil {
		return err
	}
	h.fetching = make(chan struct{}, h.cfg.Updates.AtOnce)
	roots, err := cert.Roots(h.cfg.CAFile, "")
	if err != nil {
		return err
	}
	h.discovery = federation.NewDiscovery(federation.DiscoveryConfig{Addresses: h.cfg.ServerAddresses, Roots: roots, AllowPrivate: h.cfg.PrivateAddresses})
	h.ring = federation.NewKeyRing(federation.KeyRingConfig{
		Locals: federation.Only(h.local), DB: h.db, Fetch: federation.FetchKeys(roundTrip(h.way)), Paired: h.signingKey,
	})
	if h.codec, err = parcel.NewCodec(); err != nil {
		return err
	}
	h.fromAfar, h.fromOurs, h.fromNodes = federation.NewVerifier(h.ring), federation.NewVerifier(h.ring), federation.NewVerifier(h.ring)
	h.notary = federation.NewNotary(federation.HandlerConfig{Locals: federation.Only(h.local), Ring: h.ring, Version: h.cfg.Version, Log: h.log})
	h.openMail()
	if err := h.listen(); err != nil {
		return err
	}
	if err := h.openReplica(ctx); err != nil {
		return err
	}
	return h.openDepot(ctx)
}

// openIdentity reads who the hub is. The name is fixed once written: the boxes know the hub by it.
func (h *Hub) openIdentity() error {
	_, err := os.Stat(filepath.Join(h.cfg.Data, identity.SigningKeyFile))
	fresh := errors.Is(err, os.ErrNotExist)
	h.fresh = fresh
	if fresh && h.cfg.Server == "" {
		return errors.New("the hub has no name yet; give it one with --name, such as hub.example.org")
	}
	if h.id, err = identity.Load(h.cfg.Data, h.cfg.Server, !fresh); err != nil {
		return err
	}
	h.local = federation.Local{Server: h.id.Server, Key: h.id.Key, Old: h.id.Old, At: h.cfg.Host}
	return nil
}

// lockData makes the data directory and keeps a second process out of it.
func (h *Hub) lockData() (err error) {
	h.lock, err = door(h.cfg.Data).Lock()
	return err
}

func (h *Hub) listen() error {
	certs, err := openCertificates(h.cfg.TLS, h.serves, h.now)
	if err != nil {
		return err
	}
	statement, err := h.id.Statement()
	if err != nil {
		return err
	}
	h.p2p, err = p2p.New(p2p.Config{
		Box: h.id.Box, Statement: statement, Roster: h.peers(), Paired: h.paired, Listen: h.cfg.P2P.Listen, Announce: h.cfg.P2P.Announce, Meeting: true, NoMDNS: true, Relay: h.cfg.P2P.Relay.limits(),
		Log: h.log.With("room", "p2p"),
	})
	if err != nil {
		return fmt.Errorf("%w; name another address in p2p.listen of hub.json", err)
	}
	l, err := net.Listen("tcp", h.cfg.Listen)
	if err != nil {
		return fmt.Errorf("open the federation port: %w; choose another one with --listen ADDR:PORT", err)
	}
	h.crowd = newCrowd(l, places(), h.crowded)
	h.world = tls.NewListener(h.crowd, &tls.Config{GetCertificate: certs.certificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	h.certs = certs
	if certs.from, err = h.openACME(); err != nil {
		return err
	}
	if certs.from != nil && certs.from.HTTP != nil {
		if h.proofs, err = net.Listen("tcp", h.cfg.ACME.listen()); err != nil {
			return fmt.Errorf("open the port where the authority looks for proofs: %w; free it, give the hub CAP_NET_BIND_SERVICE, or let acme.listen of hub.json name another one to which port 80 is led", err)
		}
	}
	if err := h.openPages(certs); err != nil {
		return err
	}
	h.localDoor, err = door(h.cfg.Data).Listen()
	return err
}

// crowded is told of a connection that was turned away because no place was left.
func (h *Hub) crowded(from netip.Prefix) {
	h.count.crowded.Add(1)
	if h.seldom.may("crowd "+from.String(), h.now()) {
		h.log.Warn("a connection was turned away: too many are at work at once; if the address is nobody's whom you know, shut it out at the firewall", "from", from.String(), "places", h.crowd.all, "of_one_address", h.crowd.each)
	}
}

// way takes a request to a server: to a box over libp2p, to every other over HTTPS.
func (h *Hub) way(req *http.Request) (*http.Response, error) {
	if e, ok := h.box(req.URL.Host); ok {
		federation.CameBy(req.Context(), federation.SourceBox+string(e.ID), true)
		return h.p2p.RoundTripper().RoundTrip(req)
	}
	return h.discovery.RoundTrip(req)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// Name is the hub's own server name.
func (h *Hub) Name() string { return h.id.Server }

// Addrs are where boxes reach the hub.
func (h *Hub) Addrs() []string { return h.p2p.Addrs() }

// World is where other servers reach the hub.
func (h *Hub) World() net.Addr { return h.world.Addr() }

// Page is the address of the operator's pages; "": there are none.
func (h *Hub) Page() string {
	switch {
	case h.page == nil:
		return ""
	case h.tlsPage():
		return "https://" + h.page.Addr().String() + "/"
	}
	return "http://" + h.page.Addr().String() + "/"
}

// Run serves until ctx ends, then stops cleanly. It lists every loop of the hub.
func (h *Hub) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	h.serve(ctx, g, "federation", h.world, atWork(http.HandlerFunc(h.fromWorld)))
	h.serve(ctx, g, "boxes", h.p2p.Listener(), http.HandlerFunc(h.fromBox))
	h.serve(ctx, g, "local door", h.localDoor, h.verbs())
	if h.nodes != nil {
		h.serve(ctx, g, "nodes", h.nodes.Listener(), http.HandlerFunc(h.fromNode))
	}
	if h.page != nil {
		h.serve(ctx, g, "pages", h.page, h.pages)
	}
	g.Go(func() error {
		return h.p2p.Serve(ctx, func(id string, _, _ int) { h.boxUp(ctx, peer.ID(id)) }, func(id string) { h.boxDown(peer.ID(id)) }, func(string, []byte) {}, func(string) {})
	})
	if from := h.certs.from; from != nil {
		if from.HTTP != nil {
			h.serve(ctx, g, "proofs", h.proofs, from.HTTP)
		}
		h.every(ctx, g, acmeLook, func() { from.look(ctx) })
	}
	g.Go(func() error { h.wakeCarriers(ctx); return nil })
	g.Go(func() error { h.runFerries(ctx); return nil })
	g.Go(func() error { return h.mail.Run(ctx) })
	g.Go(func() error { h.replica.Run(ctx); return nil })
	g.Go(func() error { h.depot.Run(ctx); return nil })
	h.every(ctx, g, leaseLife/3, func() {
		if err := h.spool.Renew(ctx, h.node, h.now(), leaseLife); err != nil && ctx.Err() == nil {
			h.log.Error("hold on to the boxes that are connected here", "err", err)
		}
	})
	g.Go(func() error { h.handOut(ctx); return nil })
	h.every(ctx, g, rosterEvery, func() {
		if err := h.readRoster(ctx); err != nil && ctx.Err() == nil {
			h.log.Error("look for boxes that other nodes have paired", "err", err)
		}
	})
	h.every(ctx, g, keysEvery, func() { h.watchKeys(ctx) })
	h.every(ctx, g, wakeLook, func() { h.wakeServers(ctx, h.now()) })
	h.log.Info("hub serves", "name", h.id.Server, "federation", h.world.Addr().String(), "boxes", len(h.roster.Load().by))
	err := g.Wait()
	h.stopCarriers()
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	h.log.Info("stopped cleanly")
	return nil
}

// every does something now, and again and again until ctx ends.
func (h *Hub) every(ctx context.Context, g *errgroup.Group, gap time.Duration, do func()) {
	g.Go(func() error {
		tick := time.NewTicker(gap)
		defer tick.Stop()
		for {
			do()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// boxKey finds the box of a connection over libp2p in its context.
type boxKey struct{}

// serve runs one HTTP server until ctx ends.
func (h *Hub) serve(ctx context.Context, g *errgroup.Group, what string, l net.Listener, handler http.Handler) {
	srv := &http.Server{
		Handler: handler, ReadHeaderTimeout: 20 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if from, ok := c.RemoteAddr().(p2p.Addr); ok {
				return context.WithValue(ctx, boxKey{}, from.ID)
			}
			return withGuest(ctx, c)
		},
		ErrorLog: slog.NewLogLogger(h.log.With("server", what).Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		grace, stop := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer stop()
		if err := srv.Shutdown(grace); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// Close lets go of listeners, spool, database and lock. It is safe after a failed Open.
func (h *Hub) Close() error {
	var errs []error
	for _, l := range []net.Listener{h.world, h.localDoor, h.page, h.proofs} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if h.p2p != nil {
		errs = append(errs, h.p2p.Close())
	}
	if h.nodes != nil {
		errs = append(errs, h.nodes.Close())
	}
	if h.discovery != nil {
		h.discovery.CloseIdle()
	}
	if h.spool != nil {
		errs = append(errs, h.spool.Close())
	}
	if h.db != nil {
		errs = append(errs, h.db.Close())
	}
	if h.lock != nil {
		errs = append(errs, h.lock.Close())
	}
	return errors.Join(errs...)
}

// seldom says whether a sentence may be logged again, so that a flood of requests is none of lines.
type seldom struct {
	mu   sync.Mutex
	said map[string]time.Time
}

const sayAgain = 10 * time.Minute

func (s *seldom) may(what string, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.said[what]; ok && now.Sub(last).Abs() < sayAgain {
		return false
	}
	if s.said == nil || len(s.said) > 10_000 {
		s.said = map[string]time.Time{}
	}
	s.said[what] = now
	return true
}
