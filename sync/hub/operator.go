// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"hallig/appliance/health"
	"hallig/sync/hub/fleet"
	"hallig/sync/hub/shelf"
	"hallig/sync/hub/spool"
)

// This file collects what the operator sees (hub/fleet), and opens the port of the pages.

// What the local door answers; package fleet has the values.
type (
	Status    = fleet.State // how the hub and its boxes do
	BoxStatus = fleet.Box
	Code      = fleet.Code
	Roll      = fleet.Roll

	UpdateFile = shelf.File
	Policy     = fleet.Policy
)

const (
	pageAddress = "127.0.0.1:8449"
	pageOff     = "off"
	tokenFile   = "page.token" // the hash of the token
)

// openPages makes the pages and opens their port. That nobody can look must not keep the hub from its work: unless the address was named, one that is taken is only told of.
func (h *Hub) openPages(certs *certificates) error {
	key, err := fleet.OpenKey(filepath.Join(h.cfg.Data, tokenFile))
	if err != nil {
		return err
	}
	h.pages = fleet.New(fleet.Options{Server: h.id.Server, Key: key, State: h.state, Shelf: h.shelf, SetPolicy: h.setPolicy, Show: h.showCode, Take: h.takeCode, Revoke: h.turnAway, Now: h.now, Log: h.log.With("room", "pages")})
	h.pageKey = key
	address := h.cfg.Page
	switch address {
	case pageOff:
		return nil
	case "":
		address = pageAddress
	}
	l, err := net.Listen("tcp", address)
	if err != nil && h.cfg.Page == "" {
		h.log.Warn("there are no pages: their port is taken; name another one with \"page\" in hub.json, or \"off\"", "err", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the port of the pages: %w; name another one with \"page\" in hub.json, or \"off\"", err)
	}
	h.page = l
	if h.tlsPage() { // the token must not be read on the way
		h.page = tls.NewListener(l, &tls.Config{GetCertificate: certs.certificate, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	return nil
}

// tlsPage says whether the pages are reached from elsewhere, and so over TLS.
func (h *Hub) tlsPage() bool {
	at, ok := h.page.Addr().(*net.TCPAddr)
	return !ok || !at.IP.IsLoopback()
}

// newToken makes another token; who was signed in is out.
func (h *Hub) newToken() (string, error) {
	token, err := h.pageKey.New()
	if err == nil {
		h.pages.Out()
		h.log.Info("the pages have a new token")
	}
	return token, err
}

// state is collect for now.
func (h *Hub) state(ctx context.Context) (fleet.State, error) { return h.collect(ctx, h.now()) }

// collect says how the hub and its boxes do.
func (h *Hub) collect(ctx context.Context, now time.Time) (fleet.State, error) {
	carried := h.p2p.Relayed()
	s := fleet.State{Boxes: []fleet.Box{}, Hub: fleet.Hub{
		Server: h.id.Server, Version: h.cfg.Version, ID: string(h.p2p.ID()), Addresses: h.p2p.Addrs(), World: h.world.Addr().String(), Started: h.started,
		Counts: fleet.Counts{Taken: h.count.taken.Load(), Delivered: h.count.delivered.Load(), Refused: h.count.refused.Load(), Full: h.count.full.Load(), SentOut: h.count.out.Load(),
			TurnedAway: h.count.turnedAway.Load(), TooMuch: h.count.tooMuch.Load(), Crowded: h.count.crowded.Load(), Carried: carried.Bytes, Circuits: carried.Circuits},
	}}
	c := h.replica.Stats()
	s.Hub.Copies = fleet.Copies{Rooms: c.Rooms, Behind: c.Behind, Events: c.Events, Bytes: c.Bytes, Full: c.Full, Answered: c.Answered, Unknown: c.Unknown}
	files := h.depot.Stats()
	s.Hub.Files.Full = files.Full
	for _, k := range files.Boxes {
		s.Hub.Files.Count, s.Hub.Files.Bytes = s.Hub.Files.Count+k.Files, s.Hub.Files.Bytes+k.Bytes
	}
	s.Hub.Roster = h.rosterState()
	var disk syscall.Statfs_t
	if syscall.Statfs(h.cfg.Data, &disk) == nil {
		s.Hub.DiskFree, s.Hub.DiskSize = int64(disk.Bavail)*disk.Bsize, int64(disk.Blocks)*disk.Bsize
	}
	rows, err := h.spool.Boxes(ctx)
	if err != nil {
		return s, err
	}
	waiting, err := h.spool.Waiting(ctx, "")
	if err != nil {
		return s, err
	}
	stocks, err := h.stocks.get(ctx, h.spool, now)
	if err != nil {
		return s, err
	}
	documents, err := h.spool.DepositedOf(ctx, kindKey)
	if err != nil {
		return s, err
	}
	at := make(map[string]int, len(rows))
	for _, row := range rows {
		b := fleet.Box{Server: row.Server, ID: row.ID, Mode: string(row.Mode), Revoked: row.Revoked, Added: row.Added, Connected: h.p2p.InReach(row.Server), Seen: row.Seen, Way: row.Way,
			Version: row.Version, Said: fleet.ReadSaid(row.Health), Waiting: []fleet.Queue{}, Letters: []fleet.Queue{}, Keys: fleet.Stock(stocks[row.Server])}
		if ways := h.passages(row.Server); len(ways) > 0 && row.Revoked == "" {
			b.Through = ways[0].name()
		}
		b.Files.Count, b.Files.Bytes = files.Boxes[row.Server].Files, files.Boxes[row.Server].Bytes
		if doc := documents[row.Server]; doc != nil {
			b.KeyUntil = endOf(doc)
		}
		if l, ok := h.delegated(ctx, row.Server); ok {
			b.Key = l.Key.ID
		}
		var certified bool
		b.CertificateUntil, certified = h.certs.until(hostOf(row.Server))
		b.NoCertificate = !certified
		at[row.Server] = len(s.Boxes)
		s.Boxes = append(s.Boxes, b)
	}
	used(s.Boxes, at, waiting, h.spool.Bounds())
	for _, b := range s.Boxes {
		for i, q := range b.Letters {
			b.Letters[i].Why = h.mail.Why(b.Server, q.Server)
		}
	}
	s.Updates, s.Policy = h.shelf.Files(), h.policyState()
	behind(s.Boxes, s.Updates)
	fleet.Judge(&s, now)
	return s, nil
}

// stocks remembers for a while how the one-time keys stand: to count those of thousands of boxes is work, and monitoring asks often.
type stocks struct {
	mu   sync.Mutex
	at   time.Time
	last map[string]spool.Stock
}

const countAgain = 2 * time.Minute

func (s *stocks) get(ctx context.Context, from spool.Spool, now time.Time) (map[string]spool.Stock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && now.Sub(s.at).Abs() < countAgain {
		return s.last, nil
	}
	got, err := from.KeyStock(ctx, "")
	if err == nil {
		s.last, s.at = got, now
	}
	return got, err
}

// used sorts what waits to the boxes, and says how much of their room it takes.
func used(boxes []fleet.Box, at map[string]int, waiting []spool.Waiting, most spool.Limits) {
	type sum struct{ count, bytes int64 }
	sums := make([]sum, len(boxes))
	for _, q := range waiting {
		i, ok := at[q.Box]
		if !ok { // paired since we looked
			continue
		}
		b, one := &boxes[i], fleet.Queue{Server: q.Other, Count: q.Count, Bytes: q.Bytes, Oldest: q.Oldest}
		if q.In {
			b.Waiting = append(b.Waiting, one)
		} else {
			b.Letters = append(b.Letters, one)
		}
		sums[i].count += q.Count
		sums[i].bytes += q.Bytes
		b.Full = max(b.Full, 2*share(q.Count, most.Requests), 2*share(q.Bytes, most.Bytes)) // one queue has half at most
	}
	for i := range boxes {
		boxes[i].Full = min(1, max(boxes[i].Full, share(sums[i].count, most.Requests), share(sums[i].bytes, most.Bytes)))
	}
}

func share(n, of int64) float64 { return float64(n) / float64(max(of, 1)) }

// behind counts, for each box that runs from the image, the newer releases that others of its board run, or that are on the shelf and not stopped.
func behind(boxes []fleet.Box, files []shelf.File) {
	releases := map[string]map[int64]bool{}
	know := func(board string, release int64) {
		if releases[board] == nil {
			releases[board] = map[int64]bool{}
		}
		releases[board][release] = true
	}
	for _, b := range boxes {
		if b.Said.Board != "" && b.Said.Release > 0 && b.Revoked == "" {
			know(b.Said.Board, b.Said.Release)
		}
	}
	for _, f := range files {
		if f.Stopped == "" {
			know(f.Board, f.Release)
		}
	}
	for i := range boxes {
		if boxes[i].Said.Release == 0 {
			continue
		}
		for r := range releases[boxes[i].Said.Board] {
			if r > boxes[i].Said.Release {
				boxes[i].Behind++
			}
		}
	}
}

func (h *Hub) showCode() (fleet.Code, error) {
	code, _, err := h.p2p.ShowCode(codeLife)
	return fleet.Code{Code: code.String(), Expires: h.now().Add(codeLife)}, err
}

// takeCode pairs with the box that shows a code.
func (h *Hub) takeCode(ctx context.Context, code, address string) (fleet.Box, error) {
	p, err := h.p2p.Take(ctx, code, address)
	if err != nil {
		return fleet.Box{}, said("Nicht gekoppelt: "+err.Error(), err.Error())
	}
	return fleet.Box{Server: p.Server, ID: string(p.ID), Waiting: []fleet.Queue{}, Letters: []fleet.Queue{}, Troubles: []fleet.Trouble{}}, nil
}

func (h *Hub) turnAway(ctx context.Context, box, reason string, forget bool) error {
	err := h.revoke(ctx, box, reason, forget)
	if errors.Is(err, spool.ErrUnknown) {
		return said("Hier ist keine Box, die "+box+" heißt; hallig-hub boxes zählt sie auf.", "no box is called "+box+" here; hallig-hub boxes lists them")
	}
	return err
}

func said(de, en string) error {
	return &fleet.Refusal{Sentence: health.Sentence{DE: de, EN: en}}
}

// until says when the certificate ends with which a name is answered; zero when it is minted anew in time. false: there is none.
func (c *certificates) until(host string) (end time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refresh()
	for _, g := range c.given {
		if g.pair.Leaf != nil && g.pair.Leaf.VerifyHostname(host) == nil {
			return g.pair.Leaf.NotAfter, true
		}
	}
	if c.from != nil {
		if p := c.from.find(host); p != nil {
			return p.Leaf.NotAfter, true
		}
	}
	return time.Time{}, c.mint != nil
}
