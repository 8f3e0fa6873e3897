// SPDX-License-Identifier: EUPL-1.2

// Package appliance is the box as a value: Open makes it from a Config, Run lives until its context ends, Close lets go of
// the disk. It knows every room of the house and joins them: what one room needs of another across the borders that tools/layers
// keeps is handed over here as a function or an interface. It decides nothing by itself.
//
// Every loop of a box is listed in Run, under one errgroup: when one fails, all end, and the error names it. State lives
// under Config.Data; the README has the table of files.
package appliance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/account"
	"hallig/appliance/admin"
	"hallig/appliance/backup"
	"hallig/appliance/cert"
	"hallig/appliance/clock"
	"hallig/appliance/csapi"
	"hallig/appliance/delivery"
	"hallig/appliance/event"
	"hallig/appliance/feed"
	"hallig/appliance/media"
	"hallig/appliance/room"
	"hallig/appliance/steward"
	"hallig/appliance/store"
	"hallig/sync/identity"
)

// Box is one appliance. Open makes it; Run may be called once.
type Box struct {
	cfg     Config
	log     *slog.Logger
	lock    *os.File
	id      identity.Identity
	started time.Time

	delegated identity.Delegated // as the start has found it

	db       *store.DB
	clock    *clock.Clock
	rooms    *room.Rooms
	accounts *account.Accounts
	feed     *feed.Feed
	delivery *delivery.Delivery
	media    *media.Media
	clients  *csapi.Handler
	inviting atomic.Pointer[csapi.Handler] // clients, for those who hear of servers before it is made
	fed      *federationParts
	exchange *exchangeParts
	telling  tellingParts

	called         []string     // names, the server name first
	certs          *cert.Keeper // nil: no TLS for clients
	clientListener net.Listener
	tlsListener    net.Listener // nil: no TLS for clients
	fedListener    net.Listener // nil: no federation port
	localListener  net.Listener
	enrolCode      string
	nameFixed      bool
	watchers       watchers
	keeper         keeper
	sources        sources
	care           care
	steward        *steward.Client // nil: this box does not run from the image
	doors          *doors
	sharing        sharing
	policies       policies
	errands        chan func(context.Context)
	rotates        chan struct{}
	staleUsers     chan event.UserID // whose device lists must be fetched again
	staleServers   chan string       // of whose users all lists must
}

// Open reads or makes the identity, opens the database and the listeners. Nothing is served before Run.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Box, error) {
	if err := cfg.whole(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if cfg.system == nil {
		cfg.system = cfg.systemClock
	}
	b := &Box{cfg: cfg, log: log, started: time.Now(), doors: newDoors(cfg.Trial), rotates: make(chan struct{}, 1), errands: make(chan func(context.Context)), staleUsers: make(chan event.UserID, 256), staleServers: make(chan string, 64)}
	if cfg.Run != "" {
		b.steward = steward.Dial(filepath.Join(cfg.Run, "steward.sock"))
	}
	if err := b.open(ctx); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

func (b *Box) open(ctx context.Context) error {
	if err := b.lockData(); err != nil {
		return err
	}
	if err := backup.Finish(b.cfg.Data); err != nil {
		return err
	}
	b.cfg.Restored = b.cfg.Restored || backup.JustRestored(b.cfg.Data)
	if err := errors.Join(b.keeper.load(b.cfg.Data), b.noteRestored()); err != nil {
		return err
	}
	var err error
	if b.db, err = store.Open(ctx, filepath.Join(b.cfg.Data, "hallig.db"), store.Options{Log: b.log.With("room", "store"), Trial: b.cfg.Trial}); err != nil {
		return err
	}
	if err = b.openClock(ctx); err != nil {
		return err
	}
	accounts, err := b.countAccounts(ctx)
	if err != nil {
		return err
	}
	b.nameFixed = accounts > 0
	want := b.cfg.ServerName
	if b.nameFixed && b.cfg.nameProvisioned {
		want = "" // a file on a stick stops no box that has users
	}
	if b.id, err = identity.Load(b.cfg.Data, want, b.nameFixed); err != nil {
		return err
	}
	if err := b.openDelegated(ctx); err != nil {
		return err
	}
	b.noteProvisioning()
	if err := b.openPolicy(); err != nil {
		return err
	}
	b.called = b.findNames()
	if err := b.openCertificates(); err != nil {
		return err
	}
	if err := b.joinRooms(ctx); err != nil {
		return err
	}
	if err := backup.Begun(b.cfg.Data); err != nil { // joinRooms has begun the new epoch
		return fmt.Errorf("end the restore: %w", err)
	}
	if accounts == 0 && !b.cfg.OpenRegistration {
		if b.enrolCode, err = b.accounts.EnrolmentCode(ctx, b.cfg.Provisioned.AdminCode); err != nil {
			return fmt.Errorf("make enrolment code: %w", err)
		}
	}
	return b.listen()
}

// lockData makes the data directory and keeps a second process out of it.
func (b *Box) lockData() (err error) {
	b.lock, err = localDoor(b.cfg.Data).Lock()
	return err
}

func (b *Box) listen() error {
	addr, secure := b.cfg.clientAddrs()
	var err error
	open := func(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }
	if b.cfg.Run != "" { // the machine is the box's alone, and whoever is on its network comes straight to it
		open = newCrowd().listen
	}
	if b.clientListener, err = open(addr); err != nil {
		return fmt.Errorf("open the client port: %w; choose another one with --listen ADDR:PORT", err)
	}
	if secure != "" {
		if b.tlsListener, err = b.listenTLS(secure, open); err != nil {
			return err
		}
	}
	if b.cfg.Federation != "" {
		if b.fedListener, err = b.listenFederation(); err != nil {
			return err
		}
	}
	b.localListener, err = localDoor(b.cfg.Data).Listen()
	return err
}

// Screen is what a person is shown at the start.
func (b *Box) Screen() Screen {
	return Screen{
		ServerName: b.id.Server, URL: b.URL(), BoxID: string(b.boxID()), EnrolCode: b.enrolCode, NameFixed: b.nameFixed,
		Fingerprint: b.fingerprint(),
	}
}

// URL is where phones reach the box.
func (b *Box) URL() string { return phoneURL(b.cfg.PublicURL, b.clientListener.Addr()) }

// Run serves until ctx ends, then stops cleanly. It lists every loop of the box.
func (b *Box) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	b.runClients(ctx, g)
	if b.fedListener != nil {
		b.serveHTTP(ctx, g, "federation API", b.fedListener, b.doors.guard(b.fed.handler))
	}
	b.serveHTTP(ctx, g, "local door", b.localListener, admin.NewHandler(b.adminOptions()))
	b.serveBoxes(ctx, g)
	b.runClock(ctx, g)
	b.runDelivery(ctx, g)
	b.runCare(ctx, g)
	b.runErrands(ctx, g)
	b.behindDoors(ctx, g, func() {
		b.fed.run(ctx, g)
		b.exchange.run(ctx, g, &b.care)
		b.runHub(ctx, g)
		b.runFleet(ctx, g)
		b.runBackups(ctx, g)
		b.runCourier(ctx, g)
		b.runAutomaticUpdates(ctx, g)
		b.runTelling(ctx, g)
		g.Go(func() error { b.clients.HandOnInvites(ctx); return nil })
		g.Go(func() error { return b.refreshStale(ctx) })
		g.Go(func() error { b.freshenDevices(ctx); return nil })
	})
	g.Go(func() error { return b.awaitRotation(ctx) })
	debug.FreeOSMemory() // what only the start needed goes back to a small machine
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	b.log.Info("stopped cleanly")
	return nil
}

// serveHTTP runs one HTTP server until ctx ends. Long polls are let go at once, other requests get some seconds.
func (b *Box) serveHTTP(ctx context.Context, g *errgroup.Group, what string, l net.Listener, h http.Handler) {
	var silent silentConns
	srv := &http.Server{
		Handler:           h,
		ConnState:         silent.note,
		ReadHeaderTimeout: 20 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(b.log.With("server", what).Handler(), slog.LevelDebug),
	}
	g.Go(func() error {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		b.feed.Close() // lets long polls go; a second call does nothing
		grace, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer stop()
		silent.close()
		if err := srv.Shutdown(grace); err != nil {
			return srv.Close()
		}
		return nil
	})
}

// silentConns are connections on which nothing was asked yet. Browsers and phones open some in advance, and Shutdown
// would wait five seconds for their first word.
type silentConns struct {
	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

func (s *silentConns) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case state != http.StateNew:
		delete(s.conns, c)
	case s.closed:
		c.Close()
	case s.conns == nil:
		s.conns = map[net.Conn]bool{c: true}
	default:
		s.conns[c] = true
	}
}

// close ends them, and those that still come.
func (s *silentConns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
}

// Close lets go of listeners, database and lock. It is safe after a failed Open.
func (b *Box) Close() error {
	var errs []error
	for _, l := range []net.Listener{b.clientListener, b.tlsListener, b.fedListener, b.localListener} {
		if l != nil {
			if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	if b.clients != nil {
		b.clients.Close()
	}
	errs = append(errs, b.exchange.close())
	if b.clock != nil {
		errs = append(errs, b.keepTime(context.Background()))
	}
	if b.db != nil {
		errs = append(errs, b.db.Close())
	}
	if b.lock != nil {
		errs = append(errs, b.lock.Close())
	}
	return errors.Join(errs...)
}

// freeBytes is what the data directory's disk still takes.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space: %w", &fs.PathError{Op: "statfs", Path: dir, Err: err})
	}
	return int64(s.Bavail) * s.Bsize, nil
}
