// SPDX-License-Identifier: EUPL-1.2

// Package nic is the hands of package lan: it shows a lan.Machine the kernel's Ethernet interfaces, brings it the frames that come in, sends
// the frames that it gives, and makes addresses, the default route and the resolver's file what it wants. It decides nothing.
//
// It speaks DHCP and ARP on packet sockets, since both are needed before there is an address. It needs CAP_NET_ADMIN, CAP_NET_RAW and
// CAP_NET_BIND_SERVICE, no other right and no root. IPv6 is left to the kernel: link-local, and autoconfiguration where a router offers it.
//
// Files: see package lan; besides, lan/leases.json in the run directory keeps who has which address over a restart of this process. The run
// directory is in memory: over a restart of the machine phones keep their addresses because these are derived from their own.
package nic

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"hallig/appliance/lan"
)

// Config is what Run starts with.
type Config struct {
	Run    string // the run directory: /run/hallig
	Resolv string // the resolver's file, where /etc/resolv.conf points to; "": none is written
	Log    *slog.Logger
}

// ErrSettings says that network.json has changed: run again.
var ErrSettings = errors.New("the network settings have changed")

const (
	filesEvery  = 2 * time.Second
	leasesFile  = "lan/leases.json"
	maxFile     = 64 << 10
	leasesEvery = 30 * time.Second
)

// loop owns all; everything that happens comes to it as a function in events.
type loop struct {
	Config
	machine *lan.Machine
	events  chan func(now time.Time)
	ctx     context.Context // of Run; the readers end with it
	ports   map[int]*port
	trouble *lan.Text

	settings, names stamp
	wants           map[int]lan.Want
	dirty           bool // the kernel's addresses may not be what we have set
	wrote           map[string][]byte
	told            map[string]lan.Mode // what the log was told of each interface
	leasesAt        time.Time
}

// stamp tells whether a file has changed.
type stamp struct {
	at   time.Time
	size int64
}

func stampOf(path string) stamp {
	fi, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{fi.ModTime(), fi.Size()}
}

// Run works until ctx ends, the settings change (ErrSettings), or the kernel takes away what it lives on.
func Run(ctx context.Context, cfg Config) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := &loop{Config: cfg, events: make(chan func(time.Time), 64), ctx: ctx, ports: map[int]*port{}, wants: map[int]lan.Want{}, wrote: map[string][]byte{}, told: map[string]lan.Mode{}}
	defer l.close()
	defer l.bye()
	if err := l.begin(); err != nil {
		return err
	}
	sinks, err := openSinks()
	if err != nil {
		return err
	}
	defer sinks.close()
	links, addrs := make(chan netlink.LinkUpdate, 64), make(chan netlink.AddrUpdate, 64)
	lost := make(chan error, 2)
	tell := func(err error) {
		select {
		case lost <- err:
		default:
		}
	}
	if err := netlink.LinkSubscribeWithOptions(links, ctx.Done(), netlink.LinkSubscribeOptions{ErrorCallback: tell}); err != nil {
		return fmt.Errorf("watch the kernel's interfaces: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, ctx.Done(), netlink.AddrSubscribeOptions{ErrorCallback: tell}); err != nil {
		return fmt.Errorf("watch the kernel's addresses: %w", err)
	}
	l.look(time.Now())
	files := time.NewTicker(filesEvery)
	defer files.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		l.apply(time.Now())
		timer.Reset(l.pause(time.Now()))
		select {
		case <-ctx.Done():
			return nil
		case f := <-l.events:
			f(time.Now())
			for n := len(l.events); n > 0; n-- {
				f := <-l.events
				f(time.Now())
			}
		case _, ok := <-links:
			if !ok {
				return errors.New("watch the kernel's interfaces: the kernel has hung up")
			}
			for n := len(links); n > 0; n-- {
				<-links
			}
			l.look(time.Now())
		case _, ok := <-addrs:
			if !ok {
				return errors.New("watch the kernel's addresses: the kernel has hung up")
			}
			for n := len(addrs); n > 0; n-- {
				<-addrs
			}
			l.dirty = true
		case err := <-lost:
			if ctx.Err() == nil {
				return fmt.Errorf("watch the kernel's interfaces: %w", err)
			}
		case <-timer.C:
			l.machine.Tick(time.Now())
		case <-files.C:
			if stampOf(l.path(lan.ConfigFile)) != l.settings {
				return ErrSettings
			}
			l.readNames(time.Now())
		}
	}
}

func (l *loop) path(name string) string { return filepath.Join(l.Config.Run, name) }

func (l *loop) pause(now time.Time) time.Duration {
	at := l.machine.Wake()
	if at.IsZero() {
		return time.Hour
	}
	return max(at.Sub(now), 0)
}

// begin reads the files. Bad settings are no reason to have no network: then it is as without.
func (l *loop) begin() error {
	l.settings = stampOf(l.path(lan.ConfigFile))
	var cfg lan.Config
	data, err := os.ReadFile(l.path(lan.ConfigFile))
	if err == nil {
		cfg, err = lan.ParseConfig(data)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.Log.Warn("the network settings cannot be used, going on without", "err", err)
		l.trouble = &lan.Text{
			De: fmt.Sprintf("Die Netzeinstellungen sind nicht brauchbar, die Box stellt sich selbst ein: %v", err),
			En: fmt.Sprintf("The network settings cannot be used, the box chooses by itself: %v", err)}
		cfg = lan.Config{}
	}
	var seed [32]byte
	rand.Read(seed[:])
	if l.machine, err = lan.New(cfg, mathrand.New(mathrand.NewChaCha8(seed))); err != nil {
		return err
	}
	if data, err := os.ReadFile(l.path(leasesFile)); err == nil && len(data) <= maxFile {
		var kept map[string]lan.Kept
		if err := json.Unmarshal(data, &kept); err != nil {
			l.Log.Warn("the list of addresses in use cannot be read, beginning a new one", "file", l.path(leasesFile), "err", err)
		} else {
			l.machine.Restore(kept)
		}
	}
	l.readNames(time.Now())
	return nil
}

func (l *loop) readNames(now time.Time) {
	s := stampOf(l.path(lan.NamesFile))
	if s == l.names {
		return
	}
	l.names = s
	data, err := os.ReadFile(l.path(lan.NamesFile))
	if err != nil {
		return // it comes when the homeserver is up
	}
	n, err := lan.ParseNames(data)
	if err != nil {
		l.Log.Warn("the names cannot be used, keeping the old ones", "file", l.path(lan.NamesFile), "err", err)
		return
	}
	l.machine.SetNames(now, n)
	l.dirty = true
}

// look shows the machine the interfaces as they are now.
func (l *loop) look(now time.Time) {
	all, err := netlink.LinkList()
	if err != nil {
		l.Log.Warn("list interfaces", "err", err)
		return
	}
	var links []lan.Link
	there := map[int]bool{}
	for _, k := range all {
		a := k.Attrs()
		if a.Flags&unix.IFF_LOOPBACK != 0 || a.EncapType != "ether" || k.Type() != "device" && k.Type() != "veth" || len(a.HardwareAddr) != 6 {
			continue
		}
		link := lan.Link{Index: a.Index, Name: a.Name, Wireless: wireless(a.Name), Carrier: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_LOWER_UP != 0}
		copy(link.MAC[:], a.HardwareAddr)
		links = append(links, link)
		if link.Wireless {
			continue
		}
		there[a.Index] = true
		if p := l.ports[a.Index]; p == nil || p.name != a.Name {
			l.drop(a.Index)
			p, err := l.open(link)
			if err != nil {
				l.Log.Warn("listen on interface", "interface", a.Name, "err", err)
				continue
			}
			l.ports[a.Index] = p
		}
	}
	for index := range l.ports {
		if !there[index] {
			l.drop(index)
		}
	}
	l.dirty = true
	l.machine.SetLinks(now, links)
	for _, w := range l.machine.Wants() {
		if k, err := netlink.LinkByIndex(w.Link.Index); err == nil && !w.Leave && k.Attrs().RawFlags&unix.IFF_UP == 0 {
			if err := netlink.LinkSetUp(k); err != nil {
				l.Log.Warn("switch interface on", "interface", w.Link.Name, "err", err)
			}
		}
	}
}

func wireless(name string) bool {
	for _, mark := range []string{"phy80211", "wireless"} {
		if _, err := os.Stat(filepath.Join("/sys/class/net", name, mark)); err == nil {
			return true
		}
	}
	return false
}

func (l *loop) drop(index int) {
	if p := l.ports[index]; p != nil {
		p.close()
		delete(l.ports, index)
	}
	delete(l.wants, index)
}

// bye lets the machine take leave.
func (l *loop) bye() {
	if l.machine != nil {
		l.machine.Bye()
		l.flush()
		l.leasesAt = time.Time{}
		l.writeLeases(time.Now())
	}
}

func (l *loop) close() {
	for index := range l.ports {
		l.drop(index)
	}
}

// apply makes the world what the machine wants it to be.
func (l *loop) apply(now time.Time) {
	failed := false
	for _, w := range l.machine.Wants() {
		if old, ok := l.wants[w.Link.Index]; !ok || l.dirty || !same(old, w) {
			if err := l.reconcile(w); err != nil {
				l.Log.Warn("set addresses", "interface", w.Link.Name, "err", err)
				failed = true
			}
			l.wants[w.Link.Index] = w
			if err := l.serveNames(w); err != nil {
				l.Log.Warn("answer names", "interface", w.Link.Name, "err", err)
				failed = true
			}
		}
	}
	l.dirty = failed // tried again when next something happens, in a minute at most
	l.flush()
	l.writeState(now)
}

// flush sends what the machine has to say.
func (l *loop) flush() {
	for _, f := range l.machine.Frames() {
		p := l.ports[f.Index]
		if p == nil {
			continue
		}
		if err := p.send(f); err != nil {
			l.Log.Debug("send", "interface", p.name, "err", err)
		}
	}
}

func (l *loop) writeState(now time.Time) {
	s := l.machine.State(now)
	s.Trouble = l.trouble
	for _, i := range s.Interfaces {
		if l.told[i.Name] != i.Mode {
			l.told[i.Name] = i.Mode
			l.Log.Info("network", "interface", i.Name, "mode", i.Mode, "carrier", i.Carrier, "addresses", i.Addresses, "other_server", i.Server)
		}
	}
	if data, err := json.MarshalIndent(s, "", "  "); err == nil {
		l.write(l.path(lan.StateFile), append(data, '\n'), 0o644)
	}
	if l.Resolv != "" {
		l.write(l.Resolv, resolv(l.machine.Resolvers()), 0o644)
	}
	l.writeLeases(now)
}

// writeLeases notes who has which address, now and then.
func (l *loop) writeLeases(now time.Time) {
	if now.Before(l.leasesAt) {
		return
	}
	l.leasesAt = now.Add(leasesEvery)
	if data, err := json.Marshal(l.machine.Kept(now)); err == nil {
		l.write(l.path(leasesFile), data, 0o600)
	}
}

func resolv(servers []netip.Addr) []byte {
	var b strings.Builder
	for _, a := range servers[:min(len(servers), 3)] {
		fmt.Fprintf(&b, "nameserver %s\n", a)
	}
	return []byte(b.String())
}

// write writes a file that has changed.
func (l *loop) write(path string, data []byte, mode fs.FileMode) {
	if old, ok := l.wrote[path]; ok && bytes.Equal(old, data) {
		return
	}
	if err := renameio.WriteFile(path, data, mode, renameio.WithTempDir(filepath.Dir(path))); err != nil {
		if _, told := l.wrote[path]; !told {
			l.Log.Warn("write file", "err", err)
		}
	}
	l.wrote[path] = data
}
