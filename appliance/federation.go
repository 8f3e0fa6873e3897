// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/account"
	"hallig/appliance/csapi"
	"hallig/appliance/event"
	"hallig/appliance/feed"
	"hallig/appliance/media"
	"hallig/appliance/room"
	"hallig/appliance/store"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/p2p"
)

// federationParts are the parts that speak to other servers.
type federationParts struct {
	local     federation.Local
	discovery *federation.Discovery
	ring      *federation.KeyRing
	client    *federation.Client
	intake    *federation.Intake
	sender    *federation.Sender
	trouble   federation.Trouble
	handler   http.Handler
}

func (f *federationParts) run(ctx context.Context, g *errgroup.Group) {
	g.Go(func() error { return ended("intake of events", f.intake.Run(ctx)) })
	g.Go(func() error { return ended("feed to other servers", f.sender.Run(ctx)) })
	g.Go(func() error { f.watchNetwork(ctx); return nil })
}

const interfacesEvery = 2 * time.Second

// watchNetwork tells the feed when this machine's network changes: what was out of reach may be in reach.
func (f *federationParts) watchNetwork(ctx context.Context) {
	last := p2p.Interfaces()
	every(ctx, interfacesEvery, func() {
		if now := p2p.Interfaces(); now != last {
			last = now
			f.sender.LinkUp("")
		}
	})
}

// ended names the loop that failed; the end of its context is no failure.
func ended(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// listenFederation opens the federation port with its certificate.
func (b *Box) listenFederation() (net.Listener, error) {
	shown := b.certificate
	if b.cfg.FederationTLS != (TLSConfig{}) {
		own, err := b.cfg.FederationTLS.For(b.id.Server, b.likely())
		if err != nil {
			return nil, fmt.Errorf("federation_tls: %w", err)
		}
		shown = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil }
	}
	l, err := net.Listen("tcp", b.cfg.Federation)
	if err != nil {
		return nil, fmt.Errorf("open the federation port: %w; choose another one with --federation ADDR:PORT", err)
	}
	return tls.NewListener(l, &tls.Config{
		GetCertificate: shown, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
	}), nil
}

// users answers what other servers ask about our users.
type users struct {
	db       *store.DB
	accounts *account.Accounts
	rooms    *room.Rooms
	feed     *feed.Feed
	clients  func() *csapi.Handler // made after the federation handler
	stale    func(user event.UserID)
	missed   func(ctx context.Context, origin string, content json.RawMessage) error
}

func badJSON(what string, err error) error {
	return &room.Error{Code: "M_BAD_JSON", Status: http.StatusBadRequest, Text: fmt.Sprintf("%s: %v", what, err)}
}

func (u *users) Profile(ctx context.Context, user event.UserID, field string) (json.RawMessage, error) {
	if field == "" {
		all, err := u.accounts.Profile(ctx, user)
		if err != nil {
			return nil, err
		}
		return json.Marshal(all)
	}
	value, err := u.accounts.ProfileField(ctx, user, field)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]json.RawMessage{field: value})
}

func (u *users) Devices(ctx context.Context, user event.UserID) (json.RawMessage, error) {
	return u.accounts.UserDevices(ctx, user)
}

func (u *users) QueryKeys(ctx context.Context, req json.RawMessage) (json.RawMessage, error) {
	var in struct {
		DeviceKeys map[event.UserID][]string `json:"device_keys"`
	}
	if err := json.Unmarshal(req, &in); err != nil {
		return nil, badJSON("device_keys", err)
	}
	for user := range in.DeviceKeys {
		if !u.accounts.Local(user) {
			delete(in.DeviceKeys, user) // other servers' users are not ours to answer for
		}
	}
	answer, _, err := u.accounts.QueryKeys(ctx, "", in.DeviceKeys)
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

func (u *users) ClaimKeys(ctx context.Context, req json.RawMessage) (json.RawMessage, error) {
	var in struct {
		OneTimeKeys map[event.UserID]map[string]string `json:"one_time_keys"`
	}
	if err := json.Unmarshal(req, &in); err != nil {
		return nil, badJSON("one_time_keys", err)
	}
	for user := range in.OneTimeKeys {
		if !u.accounts.Local(user) {
			delete(in.OneTimeKeys, user)
		}
	}
	keys, err := u.accounts.ClaimKeys(ctx, in.OneTimeKeys)
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"one_time_keys": keys})
}

// presenceOf is one entry of an m.presence EDU.
// https://spec.matrix.org/v1.19/server-server-api/#presence
func presenceOf(user event.UserID, now feed.PresenceStatus) json.RawMessage {
	raw, err := json.Marshal(struct {
		User event.UserID `json:"user_id"`
		feed.PresenceStatus
	}{user, now})
	if err != nil { // plain values always marshal
		panic(err)
	}
	return raw
}

// EDU hands an EDU to the room that keeps its matter. Kinds that nobody here keeps are passed over.
func (u *users) EDU(ctx context.Context, origin, kind string, content json.RawMessage) error {
	switch kind {
	case "m.direct_to_device":
		return u.accounts.ReceiveToDevice(ctx, origin, content)
	case "m.device_list_update":
		user, err := u.accounts.ReceiveDeviceList(ctx, origin, content)
		if user == "" || err != nil {
			return err
		}
		return u.db.View(ctx, func(r *store.Read) error {
			// Who shares no room with us does not tell of every change: the next question for the keys asks anew in any case.
			tracked, err := r.Tracked(user, u.accounts.Server())
			if tracked {
				u.stale(user)
			}
			return err
		})
	case "m.signing_key_update":
		return u.accounts.ReceiveSigningKeys(ctx, origin, content)
	case "m.receipt":
		return u.accounts.ReceiveReceipts(ctx, origin, content)
	case "m.typing":
		return u.feed.ReceiveTyping(ctx, origin, content)
	case "m.presence":
		return u.feed.ReceivePresence(ctx, origin, content)
	case api.MissedInviteEDU:
		return u.missed(ctx, origin, content)
	}
	return nil
}

func (u *users) Alias(ctx context.Context, alias string) (event.RoomID, []string, error) {
	var id event.RoomID
	err := u.db.View(ctx, func(r *store.Read) (err error) {
		id, _, err = r.Alias(alias)
		return err
	})
	if err != nil {
		return "", nil, fmt.Errorf("look up alias: %w", err)
	}
	if id == "" {
		return "", nil, &room.Error{Code: "M_NOT_FOUND", Status: http.StatusNotFound, Text: "there is no such alias here"}
	}
	servers, err := u.rooms.Servers(ctx, id)
	return id, servers, err
}

func (u *users) PublicRooms(ctx context.Context, _ string, req json.RawMessage) (json.RawMessage, error) {
	var in csapi.PublicRoomsRequest
	if len(req) > 0 {
		if err := json.Unmarshal(req, &in); err != nil {
			return nil, badJSON("publicRooms", err)
		}
	}
	return u.clients().PublicRooms(ctx, in)
}

func (u *users) Hierarchy(ctx context.Context, id event.RoomID, server string, suggested bool) (json.RawMessage, error) {
	return u.clients().Hierarchy(ctx, id, server, suggested)
}

func (u *users) OpenID(_ context.Context, _, token string) (event.UserID, error) {
	return u.accounts.OpenIDUser(token)
}

// files opens local media for other servers.
type files struct{ media *media.Media }

func (f files) Open(ctx context.Context, local, id string) (io.ReadCloser, string, string, int64, error) {
	file, err := f.media.Get(ctx, local, id)
	if err != nil {
		return nil, "", "", 0, absent(err)
	}
	return file, file.Type, file.Info.Name, file.Size, nil
}

func (f files) Thumbnail(ctx context.Context, local, id string, width, height int, method string) (io.ReadCloser, string, int64, error) {
	file, err := f.media.Thumbnail(ctx, local, id, width, height, method == "crop")
	if err != nil {
		return nil, "", 0, absent(err)
	}
	return file, file.Type, file.Size, nil
}

func absent(err error) error {
	if errors.Is(err, media.ErrPending) {
		return &room.Error{Code: "M_NOT_YET_UPLOADED", Status: http.StatusGatewayTimeout, Text: err.Error()}
	}
	if errors.Is(err, media.ErrAbsent) {
		return &room.Error{Code: "M_NOT_FOUND", Status: http.StatusNotFound, Text: err.Error()}
	}
	return err
}
