// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/cert"
	"hallig/appliance/csapi"
	"hallig/appliance/event"
	"hallig/appliance/feed"
	"hallig/appliance/herald"
	"hallig/appliance/media"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/courier"
	"hallig/sync/federation"
	"hallig/sync/inbox"
	"hallig/sync/peer"
)

func (b *Box) boxID() peer.ID { return peer.IDOf(publicKey(b.id.Box)) }

// joinRooms makes every room of the house and hands each what it needs of the others.
func (b *Box) joinRooms(ctx context.Context) error {
	b.fed = &federationParts{local: federation.Local{Server: b.id.Server, Key: b.id.Key, Old: b.id.Old, At: b.cfg.FederationHost}}
	b.exchange = &exchangeParts{number: inbox.Number(b.id.Server), heard: b.hearBox, post: hubParts{server: b.cfg.Hub.Server, log: b.log, delegated: b.delegated}}
	b.rooms = room.New(b.db, room.Identity{Server: b.id.Server, Key: b.id.Key}, room.Options{
		Version: b.cfg.roomVersion(),
		Clock:   b.clock.Now,
		Vet:     func(ctx context.Context, p *event.PDU) (*event.PDU, error) { return b.fed.client.Vet(ctx, p) },
		Log:     b.log.With("room", "room"),
		OnAppend: func(tx *store.Tx, e room.AppendInfo) error {
			if err := b.exchange.appended(tx, e); err != nil {
				return err
			}
			if err := b.telling.conflicts.Appended(tx, e); err != nil {
				return err
			}
			return b.fed.sender.Appended(tx, e)
		},
		OnFork: func(tx *store.Tx, f room.Fork) error { return b.telling.conflicts.Forked(tx, f) },
		OnWhole: func(tx *store.Tx, room event.RoomID, since int64) error {
			return b.accounts.MembersKnown(tx, room, since)
		},
	})
	b.accounts = account.New(b.db, b.id.Server, account.Options{Log: b.log.With("room", "account"), Now: b.clock.Now, Trusted: b.clock.Trusted, Reserved: herald.Reserved[:]})
	b.joinTelling()
	if err := b.openDelivery(ctx); err != nil {
		return err
	}
	b.feed = feed.New(b.db, b.rooms, feed.Options{
		OnShown:  b.delivery.Noted,
		Presence: b.cfg.Presence,
		Now:      b.clock.Now,
		Log:      b.log.With("room", "feed"),
		OnPresence: func(user event.UserID, now feed.PresenceStatus) {
			b.fed.sender.Presence(context.WithoutCancel(ctx), user, presenceOf(user, now))
		},
		OnTyping: func(id event.RoomID, user event.UserID, typing bool) {
			b.fed.sender.Typing(context.WithoutCancel(ctx), id, user, typing)
			b.typing(context.WithoutCancel(ctx), id, user, typing)
		},
	})
	upload, quota := b.mediaLimits()
	var err error
	b.media, err = media.Open(ctx, b.db, b.id.Server, filepath.Join(b.cfg.Data, "media"), media.Options{
		MaxUpload: upload, Quota: quota, Now: b.clock.Now,
	})
	if err != nil {
		return err
	}
	if err := b.joinFederation(); err != nil {
		return err
	}
	if err := b.joinExchange(ctx); err != nil {
		return err
	}
	return b.joinClients()
}

// joinFederation makes the parts that speak to other servers.
func (b *Box) joinFederation() error {
	f := b.fed
	roots, err := cert.Roots(b.cfg.CAFile, b.cfg.Provisioned.Organisation.CA)
	if err != nil {
		return err
	}
	log := b.log.With("room", "federation")
	f.discovery = federation.NewDiscovery(federation.DiscoveryConfig{
		Addresses: b.cfg.ServerAddresses, Roots: roots, AllowPrivate: b.cfg.PrivateAddresses, Date: b.likely,
	})
	f.ring = federation.NewKeyRing(federation.KeyRingConfig{Locals: b.locals, DB: b.db, Fetch: federation.FetchKeys(b.exchange.ways(f.discovery)),
		Paired: b.exchange.signingKey, Notary: b.askHubForKeys, Distrusted: b.exchange.distrusted,
		Now: b.clock.Now, ClockTrusted: b.clock.Trusted})
	f.client = federation.NewClient(federation.ClientConfig{
		Local: f.local, Transport: b.exchange.ways(f.discovery), Ring: f.ring, Rooms: b.rooms, Now: b.clock.Now, Log: log, Web: f.discovery.Web,
		Longer: func(server, path string) time.Duration {
			if b.exchange.byStick(server, path) {
				return courier.AskFor
			}
			if b.exchange.narrow(server) {
				return passageLife
			}
			return b.exchange.link.Patience(server, path)
		},
		Heard: func(server string, ok bool) {
			if ok {
				b.heard(server)
			}
		},
	})
	f.trouble.Log = log
	f.intake = federation.NewIntake(federation.IntakeConfig{Local: f.local, DB: b.db, Rooms: b.rooms, Client: f.client, Log: log, Trouble: &f.trouble})
	var post federation.Post
	if b.cfg.Hub.Server != "" {
		post = hubPost{b}
	}
	f.sender = federation.NewSender(federation.SenderConfig{
		Post:  post,
		Local: f.local, DB: b.db, Rooms: b.rooms, Client: f.client, Intake: f.intake, IsBox: b.exchange.isBox, Observe: b.observeServer, Barred: b.telling.conflicts.Barred, Back: b.serverBack, Narrow: b.exchange.narrow, Ahead: b.tellAhead, Log: log,
	})
	f.handler = b.barring(federation.NewHandler(federation.HandlerConfig{
		Locals: b.locals, DB: b.db, Ring: f.ring, Rooms: b.rooms, Client: f.client, Intake: f.intake,
		Users: b.users(), Media: files{b.media}, Version: b.cfg.Version, Now: b.clock.Now, Log: log, Trouble: &f.trouble,
		Heard: b.heard,
	}))
	return nil
}

// heard tells those who wait for a server that it is in reach.
func (b *Box) heard(server string) {
	b.fed.ring.Reachable(server)
	b.fed.sender.Heard(server)
	b.inReach(server)
}

// inReach has invites handed on that wait for a server.
func (b *Box) inReach(server string) {
	if h := b.inviting.Load(); h != nil {
		h.Reached(server)
	}
}

func (b *Box) users() *users {
	return &users{
		db: b.db, accounts: b.accounts, rooms: b.rooms, feed: b.feed,
		clients: func() *csapi.Handler { return b.clients },
		stale:   b.stale,
		missed:  b.missedInvite,
	}
}

// joinClients makes the Client-Server API.
func (b *Box) joinClients() error {
	var services []csapi.Appservice
	for _, name := range b.cfg.AppserviceFiles {
		raw, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("application service: %w", err)
		}
		s, err := csapi.ParseAppservice(raw)
		if err != nil {
			return fmt.Errorf("application service %s: %w", name, err)
		}
		services = append(services, s)
	}
	b.clients = csapi.New(csapi.Config{
		ServerName: b.id.Server, DB: b.db, Rooms: b.rooms, Feed: b.feed, Accounts: b.accounts, Media: b.media,
		Remote: b.fed.client, Log: b.log.With("room", "csapi"),
		OpenRegistration: b.cfg.OpenRegistration, SharedSecret: b.cfg.RegistrationSharedSecret,
		PublicBaseURL: b.cfg.PublicURL, Federation: b.fed.handler,
		Limits:      csapi.Limits{Off: b.cfg.NoRateLimits || b.cfg.OpenRegistration},
		Appservices: services,
		Home:        b.browsers(b.pages()),
		Delivery:    b.howFar,
	})
	b.inviting.Store(b.clients)
	return nil
}

// countAccounts says how many local accounts exist; before the identity is known, any account is local.
func (b *Box) countAccounts(ctx context.Context) (n int, err error) {
	err = b.db.View(ctx, func(r *store.Read) (err error) {
		n, err = r.CountAccounts()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count accounts: %w", err)
	}
	return n, nil
}
