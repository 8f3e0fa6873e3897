// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/admin"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/link"
	"hallig/sync/p2p"
	"hallig/sync/peer"
	"hallig/sync/relay"
)

// codeLife is how long a pairing code works.
const codeLife = 10 * time.Minute

// adminOptions hands the local door what it shows and does.
func (b *Box) adminOptions() admin.Options {
	return admin.Options{
		Status: b.status, Health: b.health, Metrics: b.metrics, Watch: b.watchers.watch, Log: b.log.With("room", "admin"),
		ShowCode: func(context.Context) (admin.PairCode, error) {
			if b.exchange.host == nil {
				return admin.PairCode{}, errNoNetwork
			}
			code, _, err := b.exchange.host.ShowCode(codeLife)
			return admin.PairCode{Code: code.String(), Expires: time.Now().Add(codeLife)}, err
		},
		Take: b.takeCode,
		Forget: func(ctx context.Context, id string) error {
			err := b.forgetPeer(ctx, peer.ID(id))
			if errors.Is(err, errNoSuchBox) {
				return &admin.Refusal{Text: "no box with the id " + id + " is paired; hallig status lists them",
					DE: "Diese Box ist nicht gekoppelt."}
			}
			return err
		},
		BackUp: func(ctx context.Context, place string, recipients []string) (admin.Backup, error) {
			if !filepath.IsAbs(place) {
				return admin.Backup{}, &admin.Refusal{Text: "name the whole path of a folder on the box"}
			}
			f, err := b.backUp(ctx, place, recipients)
			if refusal := (*admin.Refusal)(nil); err != nil && !errors.As(err, &refusal) {
				err = &admin.Refusal{Text: err.Error()}
			}
			return admin.Backup{Path: f.Path, Number: f.Number, Made: f.Made, Bytes: f.Bytes()}, err
		},
		ExportBackups: b.exportBackups,
		SetClock:      b.setClock, RotateKey: b.rotate, SigningRequest: b.signingRequest, InstallCertificate: b.installCertificate, ConfirmTrial: b.confirmTrial,
		Courier:    b.courier,
		TakeRoster: b.takeRoster, FleetLine: b.fleetLine,
		UpdateOffers: b.updateOffers, UpdateFrom: b.updateFrom,
		NewToken: func(ctx context.Context, uses int, asAdmin bool) (string, error) {
			t, err := b.accounts.CreateRegistrationToken(ctx, account.RegistrationToken{Uses: uses, Admin: asAdmin})
			return t.Token, err
		},
	}
}

var errNoNetwork = &admin.Refusal{Text: "pairing needs a network between the boxes, and libp2p is switched off (p2p.off in config.json)",
	DE: "Zum Koppeln braucht es ein Netz zwischen den Boxen, und libp2p ist abgeschaltet (p2p.off in config.json)."}

func (b *Box) takeCode(ctx context.Context, code, address string) (admin.Peer, error) {
	if b.exchange.host == nil {
		return admin.Peer{}, errNoNetwork
	}
	if _, _, err := peer.ParseCode(code); err != nil { // said before anybody is looked for
		return admin.Peer{}, &admin.Refusal{Text: err.Error() + "; the other box shows it again with: hallig pair",
			DE: "Das ist kein Kopplungscode, oder er ist falsch abgeschrieben. Die andere Box zeigt ihn auf ihrer Verwaltungsseite unter „Boxen“."}
	}
	ctx, stop := context.WithTimeout(ctx, 60*time.Second)
	defer stop()
	p, err := b.exchange.host.Take(ctx, code, address)
	var declined *p2p.Declined
	switch {
	case errors.As(err, &declined):
		return admin.Peer{}, &admin.Refusal{Text: fmt.Sprintf("the other box or hub declines: %s. Settle that there, then show a new code there", declined.Reason),
			DE: fmt.Sprintf("Die andere Box oder der Hub lehnt ab: „%s“. Das dort in Ordnung bringen und dort einen neuen Code zeigen lassen.", declined.Reason)}
	case errors.Is(err, p2p.ErrNotKept):
		return admin.Peer{}, &admin.Refusal{Text: err.Error(), DE: fmt.Sprintf("Diese Box nimmt die andere nicht an: „%s“.", strings.TrimPrefix(err.Error(), p2p.ErrNotKept.Error()+": "))}
	case errors.Is(err, peer.ErrWrongCode), errors.Is(err, peer.ErrCodeSpent), errors.Is(err, peer.ErrNoCode):
		return admin.Peer{}, &admin.Refusal{Text: strings.TrimPrefix(err.Error(), "p2p: ") + "; show a code on the other box with: hallig pair",
			DE: "Der Code stimmt nicht, gilt nicht mehr oder wurde schon benutzt. Auf der anderen Box einen neuen zeigen lassen und abschreiben."}
	case err != nil:
		return admin.Peer{}, &admin.Refusal{Text: err.Error() + "; are both boxes on one network? Otherwise name the other box with --at ADDRESS",
			DE: "Die andere Box antwortet nicht. Sind beide Boxen im selben Netz, und zeigt sie gerade ihren Code? Sonst ihre Adresse dazuschreiben."}
	}
	out := admin.Peer{ID: string(p.ID), ServerName: p.Server, Name: p.Name}
	if _, ok := b.exchange.hub(); !ok {
		out.NotHub = b.cfg.Hub.Server
	}
	return out, nil
}

// status collects the health tree.
func (b *Box) status(ctx context.Context) (admin.Status, error) {
	s := admin.Status{
		ServerName: b.id.Server, BoxID: string(b.boxID()), Version: b.cfg.Version, URL: b.URL(), Started: b.started,
		Position: b.db.Published(), Flushes: b.db.Flushes(), Clock: b.clockStatus(), NotTaken: b.fed.trouble.Counts(),
		SigningKey: b.id.Key.ID, OldKeys: len(b.id.Old), Certificate: b.certificateStatus(), Health: b.recentHealth(ctx),
	}
	if until := b.quiet(); !until.IsZero() {
		s.QuietUntil = &until
	}
	err := b.db.View(ctx, func(r *store.Read) error {
		rooms, err := r.Rooms()
		if err != nil {
			return err
		}
		s.Rooms = len(rooms)
		if s.Accounts, err = r.CountAccounts(); err != nil {
			return err
		}
		s.Conflicts, err = r.ConflictCounts()
		return err
	})
	if err != nil {
		return s, err
	}
	if s.FreeBytes, err = freeBytes(b.cfg.Data); err != nil {
		return s, err
	}
	if b.exchange.host != nil {
		s.Addresses = b.exchange.host.Addrs()
	}
	s.Hub, s.Policy, s.Fleet = b.hubStatus(), b.policyStatus(), b.fleetStatus()
	s.Lines = b.lines()
	for _, p := range b.exchange.link.Status() {
		out := b.peerStatus(p)
		err := b.db.View(ctx, func(r *store.Read) (err error) {
			out.Queued, err = r.Queued(p.Peer.Server, string(p.Peer.ID), 100_000)
			return err
		})
		if err != nil {
			return s, err
		}
		s.Peers = append(s.Peers, out)
	}
	if s.Carried, err = b.carriedStatus(ctx); err != nil {
		return s, err
	}
	if s.Servers, err = b.serverStatus(ctx); err != nil {
		return s, err
	}
	return s, nil
}

func (b *Box) peerStatus(p link.PeerStatus) admin.Peer {
	out := admin.Peer{ID: string(p.Peer.ID), ServerName: p.Peer.Server, Name: p.Peer.Name, Carrier: p.Carries}
	if p.Carries != "" {
		out.Links = append(out.Links, admin.Link{Transport: p.Carries, Up: true})
	}
	for _, name := range p.StandsBy {
		out.Links = append(out.Links, admin.Link{Transport: name, Up: true})
	}
	for _, port := range b.exchange.ports {
		stats := port.Stats()
		for i := range out.Links {
			if out.Links[i].Transport == port.Name() {
				out.Links[i].BitsPerSecond = stats.BitsPerSecond
				out.Links[i].SentBytes, out.Links[i].ReceivedBytes = int64(stats.BytesSent), int64(stats.BytesReceived)
			}
		}
	}
	return out
}

// observe turns what a link tells into the commentary.
func (b *Box) observe(e link.Event) {
	b.noteTravel(e)
	if c := b.exchange.parts.Courier; c != nil && e.What == "carries" && e.Transport != relay.Name {
		c.InReach(e.Peer.Server)
	}
	b.watchers.tell(admin.Travel{
		At: time.Now(), What: e.What, Event: string(e.Event), Room: string(e.Room), Peer: e.Peer.Server, Via: e.Transport,
		Bytes: e.Bytes, Note: e.Note,
	})
}

// observeServer does the same for what goes to servers that are not boxes, a transaction a line.
func (b *Box) observeServer(t federation.Travel) {
	out := admin.Travel{At: time.Now(), What: t.What, Peer: t.Server, Via: "https", Bytes: t.Bytes, Count: len(t.Events)}
	if len(t.Events) > 0 {
		out.Event = string(t.Events[len(t.Events)-1])
	}
	b.watchers.tell(out)
}
