// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"hallig/appliance/health"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
	"hallig/appliance/store"
	"hallig/appliance/wayback"
	"hallig/sync/link"
	"hallig/sync/relay"
)

// This file collects what package health judges.

const (
	careEvery  = 15 * time.Second // how often the box looks at itself by itself
	careSoon   = 3 * time.Second  // and in the first minutes
	careStart  = 3 * time.Minute  // those
	careFresh  = 3 * time.Second  // what the pages may show again
	writeEvery = 15 * time.Minute // how often looking at the database writes
	probeLimit = 5 * time.Second
	twinLife   = 24 * time.Hour // for how long two boxes of one name are told of after they were last heard
)

// care is what a box remembers to judge how it does. The zero value works.
type care struct {
	running   atomic.Bool            // the link to other boxes
	addressed func(port string) bool // tests; nil: kernelAddress

	mu    sync.Mutex
	tree  health.Tree
	at    time.Time
	wrote time.Time                  // last write to the database
	lamp  health.State               // as the steward was last told
	away  map[string]time.Time       // by server: since when a paired box is out of reach
	ways  map[string]map[string]bool // by server: the transports on which it has been heard
	lines map[string]lineSeen        // by the port's name
}

// health judges the box now.
func (b *Box) health(ctx context.Context) health.Tree {
	tree := health.Judge(b.facts(ctx))
	b.care.mu.Lock()
	b.care.tree, b.care.at = tree, time.Now()
	b.care.mu.Unlock()
	return tree
}

// recentHealth is what anybody may ask as often as they like.
func (b *Box) recentHealth(ctx context.Context) health.Tree {
	b.care.mu.Lock()
	tree, at := b.care.tree, b.care.at
	b.care.mu.Unlock()
	if time.Since(at) < careFresh {
		return tree
	}
	return b.health(ctx)
}

// runCare notes who is in reach until ctx ends; on an appliance it shows how the box does, too.
func (b *Box) runCare(ctx context.Context, g *errgroup.Group) {
	look := func() {
		b.notePeers(time.Now())
		if b.cfg.Run != "" {
			s := b.Screen() // before the health: an address that comes meanwhile is not shown above a sentence that there is none
			b.show(ctx, s, b.health(ctx))
		}
	}
	g.Go(func() error {
		start, stop := context.WithTimeout(ctx, careStart)
		defer stop()
		if b.cfg.Run != "" { // somebody stands before the screen
			look()
			every(start, careSoon, look)
		}
		every(ctx, careEvery, look)
		return nil
	})
}

// facts asks every part of the box.
func (b *Box) facts(ctx context.Context) health.Facts {
	now := time.Now()
	m := readMachine(os.DirFS("/"))
	f := health.Facts{
		Up: now.Sub(b.started), Power: m.power, Temperature: m.temperature, Memory: m.memory,
		Disk: diskFacts(b.cfg.Data), Network: b.networkFacts(m), Database: b.probeDatabase(ctx, now), Homeserver: b.probeHomeserver(ctx), Links: b.probeLinks(ctx),
	}
	f.Certificate = b.certificateFacts()
	f.Backup = b.backupFacts()
	c := b.clock.State()
	f.Clock = &health.ClockFacts{Trusted: b.clock.Trusted(), Source: c.Source}
	for _, note := range b.clockNotes() {
		f.Clock.Detail = strings.TrimPrefix(f.Clock.Detail+" "+note.EN, " ")
	}
	s, err := b.stewardState(ctx)
	if err == nil {
		b.stewardFacts(s, &f)
		f.Courier = b.courierFacts(s.Sticks)
	}
	b.notePeers(now)
	for i, port := range b.exchange.ports {
		f.Lines = append(f.Lines, lineFacts(b.cfg.Serial[i], port, s.Serial, b.seenLine(port), now))
	}
	f.Peers = b.peerFacts(ctx, now)
	f.Hub = b.hubFacts(now)
	left, err := b.progress(ctx)
	if err != nil {
		b.log.Debug("what other servers lack is not counted", "err", err) // the database's own node tells of it
	}
	for _, srv := range b.fed.sender.Status() {
		facts := health.ServerFacts{Name: srv.Server, Queued: left[srv.Server].Out, Err: srv.LastError}
		if srv.Failing {
			facts.Away = now.Sub(srv.Since)
		}
		f.Servers = append(f.Servers, facts)
	}
	if n, err := b.countAccounts(ctx); err == nil && !b.cfg.OpenRegistration {
		f.Setup = &health.SetupFacts{Admin: n > 0}
	}
	return f
}

// probeDatabase reads, and writes now and then.
func (b *Box) probeDatabase(ctx context.Context, now time.Time) *health.Probe {
	ctx, stop := context.WithTimeout(ctx, probeLimit)
	defer stop()
	err := b.db.View(ctx, func(r *store.Read) error {
		_, err := r.ClockMark()
		return err
	})
	b.care.mu.Lock()
	due := now.Sub(b.care.wrote) > writeEvery
	b.care.mu.Unlock()
	if err == nil && due {
		if err = b.keepTime(ctx); err == nil {
			b.care.mu.Lock()
			b.care.wrote = now
			b.care.mu.Unlock()
		}
	}
	return probed(err, now)
}

func probed(err error, since time.Time) *health.Probe {
	p := &health.Probe{Took: time.Since(since)}
	if err != nil {
		p.Err = err.Error()
	}
	return p
}

// probeHomeserver asks as a phone does, through the port.
func (b *Box) probeHomeserver(ctx context.Context) *health.Probe {
	began := time.Now()
	return probed(b.askClientPort(ctx), began)
}

func (b *Box) askClientPort(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, probeLimit)
	defer stop()
	addr, ok := b.clientListener.Addr().(*net.TCPAddr)
	if !ok {
		return fmt.Errorf("the client port is no TCP port: %s", b.clientListener.Addr())
	}
	host := addr.IP.String()
	if addr.IP.IsUnspecified() {
		host = "127.0.0.1"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, fmt.Sprint(addr.Port))+"/_matrix/client/versions", nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if b.doors.closed() {
		req.Header.Set(passHeader, b.doors.pass) // while an update is tried out nobody else is let in
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch {
	case err != nil:
		return fmt.Errorf("read answer: %w", err)
	case resp.StatusCode != http.StatusOK || !strings.Contains(string(body), `"versions"`):
		return fmt.Errorf("the client port answered %s, %d bytes", resp.Status, len(body))
	}
	return nil
}

// probeLinks says whether the link to other boxes runs. Whom it reaches is another matter.
func (b *Box) probeLinks(ctx context.Context) *health.Probe {
	if b.doors.closed() {
		return probed(b.tryLinks(ctx), time.Now())
	}
	if !b.care.running.Load() {
		return &health.Probe{Err: "the link to other boxes does not run"}
	}
	return &health.Probe{}
}

func diskFacts(dir string) *health.DiskFacts {
	const readOnly = 1 // ST_RDONLY
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return &health.DiskFacts{ReadOnly: true}
	}
	return &health.DiskFacts{Free: int64(s.Bavail) * s.Bsize, Size: int64(s.Blocks) * s.Bsize, Reserve: wayback.Reserve, ReadOnly: s.Flags&readOnly != 0}
}

func (b *Box) networkFacts(m machine) *health.NetworkFacts {
	if s, ok := b.lanState(); ok {
		return b.addressed(lanFacts(s))
	}
	out := &health.NetworkFacts{Uplink: m.uplink}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback != 0 {
			continue
		}
		facts := health.Interface{Name: i.Name, Up: i.Flags&net.FlagUp != 0 && i.Flags&net.FlagRunning != 0}
		addrs, _ := i.Addrs() // an interface that has just gone has none
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
				facts.Address = true
			}
		}
		out.Interfaces = append(out.Interfaces, facts)
	}
	return out
}

// addressed asks the kernel as well: the addresses that it has are those on the screen, and hallig-lan tells of them some seconds later.
func (b *Box) addressed(f *health.NetworkFacts) *health.NetworkFacts {
	has := b.care.addressed
	if has == nil {
		has = kernelAddress
	}
	for i := range f.Interfaces {
		if p := &f.Interfaces[i]; p.Up && !p.Address {
			p.Address = has(p.Name)
		}
	}
	return f
}

// kernelAddress says whether a port has an address that phones can open.
func kernelAddress(name string) bool {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	addrs, _ := i.Addrs() // one that has just gone has none
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil
	})
}

// notePeers keeps since when each paired box is out of reach, and by which ways it was ever in reach; and since when each line is as it is.
func (b *Box) notePeers(now time.Time) {
	status := b.exchange.link.Status()
	c := &b.care
	c.mu.Lock()
	defer c.mu.Unlock()
	c.noteLines(now, b.exchange.ports, status)
	away := make(map[string]time.Time, len(status))
	for _, p := range status {
		server := p.Peer.Server
		switch since, ok := c.away[server]; {
		case p.Carries != "":
		case ok:
			away[server] = since
		default:
			away[server] = now
		}
		c.noteWay(server, p.Carries)
		for _, way := range p.StandsBy {
			c.noteWay(server, way)
		}
	}
	c.away = away
}

func (c *care) noteWay(server, way string) {
	if way == "" || way == relay.Name { // boxes in between are no plug that could be out
		return
	}
	if c.ways == nil {
		c.ways = map[string]map[string]bool{}
	}
	if c.ways[server] == nil {
		c.ways[server] = map[string]bool{}
	}
	c.ways[server][way] = true
}

func (b *Box) peerFacts(ctx context.Context, now time.Time) []health.PeerFacts {
	var out []health.PeerFacts
	for _, p := range b.exchange.link.Status() {
		server := p.Peer.Server
		facts := health.PeerFacts{Server: server, InReach: p.Carries != "", Twin: !p.Twin.IsZero() && now.Sub(p.Twin) < twinLife}
		err := b.db.View(ctx, func(r *store.Read) (err error) {
			for _, id := range p.Withheld {
				name, err := nameOf(r, id)
				if err != nil {
					return err
				}
				facts.Withheld = append(facts.Withheld, name)
			}
			facts.WithheldKeys = p.WithheldKeys
			facts.Queued, err = r.Queued(server, string(p.Peer.ID), 10_000)
			return err
		})
		if err != nil {
			facts.Queued = 0 // the database's own node tells of it
		}
		b.care.mu.Lock()
		if since, ok := b.care.away[server]; ok {
			facts.Away = now.Sub(since)
		}
		b.waysTo(&facts)
		b.care.mu.Unlock()
		out = append(out, facts)
	}
	return out
}

// waysTo fills in by which ways a box was heard; when it never was, any way may lead to it. Under care.mu.
func (b *Box) waysTo(p *health.PeerFacts) {
	known := b.care.ways[p.Server]
	p.Network = b.exchange.host != nil && (len(known) == 0 || known[b.exchange.host.Name()])
	for _, port := range b.exchange.ports {
		if len(known) == 0 || known[port.Name()] {
			p.Lines = append(p.Lines, port.Name())
		}
	}
}

// noteTravel follows the link's own words, so that Away is right between two looks.
func (b *Box) noteTravel(e link.Event) {
	if e.What != "up" && e.What != "carries" {
		return
	}
	if e.What == "carries" {
		b.inReach(e.Peer.Server)
	}
	b.care.mu.Lock()
	defer b.care.mu.Unlock()
	delete(b.care.away, e.Peer.Server)
	b.care.noteWay(e.Peer.Server, e.Transport)
}

// stewardState asks init; an error when this box does not run from the image.
func (b *Box) stewardState(ctx context.Context) (steward.State, error) {
	if b.steward == nil {
		return steward.State{}, steward.ErrAbsent
	}
	ctx, stop := context.WithTimeout(ctx, probeLimit)
	defer stop()
	return b.steward.State(ctx)
}

// stewardFacts adds what init knows.
func (b *Box) stewardFacts(s steward.State, f *health.Facts) {
	f.Provisioning = &health.ProvisioningFacts{InForce: s.Provision.Accepted || b.cfg.Provision != "", From: textOf(s.Provision.From), File: s.Provision.File, Err: textOf(s.Provision.Error)}
	if t := b.cfg.Trouble; t != (provision.Error{}) && f.Provisioning.Err.Empty() { // with the one that was taken
		f.Provisioning.InForce = false
		file := health.Sentence{DE: strings.TrimSpace("hallig.json " + f.Provisioning.From.DE), EN: strings.TrimSpace("hallig.json " + f.Provisioning.From.EN)}
		f.Provisioning.Err, f.Provisioning.File = health.Sentence{DE: file.DE + ": " + t.De, EN: file.EN + ": " + t.En}, b.cfg.Provision
	}
	for _, p := range s.Processes {
		recent := 0
		if p.Uptime < 600 {
			recent = p.Restarts
		}
		f.Processes = append(f.Processes, health.Process{Name: p.Name, Restarts: recent})
	}
	f.Update = &health.UpdateFacts{Version: s.Update.Version, Err: textOf(s.Update.Error)}
	switch s.Update.State {
	case steward.UpdateWriting:
		f.Update.State = health.UpdateTaking
	case steward.UpdateWritten:
		f.Update.State = health.UpdateReady
	case steward.UpdateTrial:
		f.Update.State = health.UpdateTrial
	case steward.UpdateFailed:
		f.Update.State = health.UpdateFailed
	}
	for _, t := range s.Trouble {
		f.Trouble = append(f.Trouble, textOf(t))
	}
}

func textOf(t steward.Text) health.Sentence { return health.Sentence{DE: t.De, EN: t.En} }
