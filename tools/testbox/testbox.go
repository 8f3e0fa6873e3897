// SPDX-License-Identifier: EUPL-1.2

// Package testbox runs `hallig serve` as a process of its own, behind links that can be cut, and `hallig-hub serve` where boxes are to have a hub: for the demonstration,
// chaos and homecomings, which need them as people have them. What it starts it ends, by pid.
package testbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
)

// Box is a running or stopped box.
type Box struct {
	Name       string // for people: "Box Hooge"
	Server     string // Matrix server name: the address of its own door
	Dir        string
	Client     string         // http://127.0.0.1:PORT
	Federation string         // HOST:PORT behind In
	Config     map[string]any // config.json; changes hold from the next Start on
	Out        *testpeer.Link // from the box to the central server
	In         *testpeer.Link // from the central server to the box
	Wire       *testpeer.Link // from the other boxes to this one

	listen, fed, program string // fed is "" for a box behind a hub
	process
}

// Central is a central server as a box finds it.
type Central struct {
	Name string // its server name
	At   string // HOST:PORT of its Server-Server API
}

// New makes a stopped box with ways to and from a central server, and one for other boxes.
func New(name, program, dir string, ca *testpeer.CA, central Central) (b *Box, err error) {
	b = &Box{Name: name, Dir: dir, program: program, process: process{what: name, logPath: dir + ".log"}}
	if b.Out, err = testpeer.NewLink(central.At); err != nil {
		return nil, err
	}
	if b.In, err = testpeer.NewLink(""); err != nil {
		return nil, err
	}
	if b.Wire, err = testpeer.NewLink(""); err != nil {
		return nil, err
	}
	var wire string
	for _, addr := range []*string{&b.listen, &b.fed, &wire} {
		if *addr, err = testport.Take(); err != nil {
			return nil, err
		}
	}
	b.Server, b.Client = b.In.Addr(), "http://"+b.listen
	b.In.Lead(b.fed)
	b.Federation = b.fed
	b.Wire.Lead(wire)
	b.Config = map[string]any{
		"federation_tls":    map[string]any{"ca_certificate": ca.File, "ca_key": ca.KeyFile},
		"ca_file":           ca.File,
		"server_addresses":  map[string]string{central.Name: b.Out.Addr()},
		"private_addresses": true,
		"p2p":               map[string]any{"no_mdns": true, "listen": []string{multiaddr(wire)}, "announce": []string{multiaddr(b.Wire.Addr())}},
	}
	return b, nil
}

func multiaddr(addr string) string {
	host, port, _ := net.SplitHostPort(addr) // our own listeners' addresses
	return "/ip4/" + host + "/tcp/" + port
}

// CutCentre breaks, or joins again, the box's ways to and from the central server.
func (b *Box) CutCentre(cut bool) {
	set(b.Out, cut)
	set(b.In, cut)
}

// CutWire breaks, or joins again, the other boxes' way to this one.
func (b *Box) CutWire(cut bool) { set(b.Wire, cut) }

func set(l *testpeer.Link, cut bool) {
	if cut {
		l.Cut()
	} else {
		l.Join()
	}
}

// Close stops the box and ends its links.
func (b *Box) Close() error {
	err := b.close()
	for _, l := range []*testpeer.Link{b.Out, b.In, b.Wire} {
		l.Close()
	}
	return err
}

// Kill ends the box as a power cut would end the process.
func (b *Box) Kill() error { return b.kill() }

// Stop ends the box as an operator would.
func (b *Box) Stop() error { return b.stop() }

// Start runs the box and waits until it answers.
func (b *Box) Start(ctx context.Context) error {
	raw, err := json.MarshalIndent(b.Config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.Dir, "config.json"), raw, 0o600); err != nil {
		return err
	}
	args := []string{"serve", "--data", b.Dir, "--name", b.Server, "--open-registration", "--listen", b.listen}
	if b.fed != "" {
		args = append(args, "--federation", b.fed)
	}
	if err := b.start(ctx, b.program, args...); err != nil {
		return err
	}
	return waitFor(ctx, b.Client+"/_matrix/client/versions", b.Name)
}

func waitFor(ctx context.Context, url, what string) error {
	return await(ctx, what+" to answer", func() bool {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return false
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// Pair makes the two boxes know each other, as two operators with a code would.
func Pair(ctx context.Context, shows, takes *Box) (id string, err error) {
	var code admin.PairCode
	if err := appliance.Ask(ctx, shows.Dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		return "", fmt.Errorf("show a pairing code: %w", err)
	}
	var s admin.Status
	if err := appliance.Ask(ctx, shows.Dir, "GET", "/status", nil, &s); err != nil {
		return "", err
	}
	if len(s.Addresses) == 0 {
		return "", errors.New("the box tells no address for pairing")
	}
	var peer admin.Peer
	in := map[string]string{"Code": code.Code, "Address": s.Addresses[0]}
	if err := appliance.Ask(ctx, takes.Dir, "POST", "/pair/take", in, &peer); err != nil {
		return "", fmt.Errorf("take the pairing code: %w", err)
	}
	return peer.ID, nil
}
