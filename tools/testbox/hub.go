// SPDX-License-Identifier: EUPL-1.2

package testbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/sync/hub"
	"hallig/tools/testpeer"
	"hallig/tools/testport"
)

// Hub is a running or stopped hub.
type Hub struct {
	Name    string // its server name
	Dir     string
	World   string         // HOST:PORT where other servers find it, and its boxes
	Meeting string         // HOST:PORT where boxes find it
	Config  map[string]any // hub.json; changes hold from the next Start on

	program string
	ca      *testpeer.CA
	process
}

// NewHub makes a stopped hub. It reaches a central server at an address of the caller's choice.
func NewHub(program, dir string, ca *testpeer.CA, central Central) (h *Hub, err error) {
	h = &Hub{Name: "hub.test", Dir: dir, program: program, ca: ca, process: process{what: "the hub", logPath: dir + ".log"}}
	for _, addr := range []*string{&h.World, &h.Meeting} {
		if *addr, err = testport.Take(); err != nil {
			return nil, err
		}
	}
	h.Config = map[string]any{
		"ca_file":           ca.File,
		"private_addresses": true,
		"server_addresses":  map[string]string{central.Name: central.At},
		"p2p":               map[string]any{"listen": []string{multiaddr(h.Meeting)}},
	}
	return h, nil
}

// Start runs the hub and waits until it answers.
func (h *Hub) Start(ctx context.Context) error {
	raw, err := json.MarshalIndent(h.Config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(h.Dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.Dir, "hub.json"), raw, 0o600); err != nil {
		return err
	}
	if err := h.start(ctx, h.program, "serve", "--data", h.Dir, "--name", h.Name, "--listen", h.World, "--ca", h.ca.File, "--ca-key", h.ca.KeyFile); err != nil {
		return err
	}
	return await(ctx, "the hub to answer", func() bool { _, err := h.Status(ctx); return err == nil })
}

// Status asks the hub how it does.
func (h *Hub) Status(ctx context.Context) (s hub.Status, err error) {
	err = hub.Ask(ctx, h.Dir, "GET", "/status", nil, &s)
	return s, err
}

// Kill ends the hub as a power cut would end the process.
func (h *Hub) Kill() error { return h.kill() }

// Close stops the hub.
func (h *Hub) Close() error { return h.close() }

// Behind puts a stopped box behind a hub: Out leads to that, and nothing else leads out of the box or to it. name is the box's server name, which leads to the hub.
func (b *Box) Behind(h *Hub, name string) {
	b.Server, b.fed = name, ""
	b.Out.Lead(h.Meeting)
	for _, key := range []string{"federation_tls", "ca_file", "server_addresses", "private_addresses"} {
		delete(b.Config, key)
	}
	b.Config["hub"] = map[string]any{"server": h.Name}
	h.Config["p2p"] = map[string]any{"listen": []string{multiaddr(h.Meeting)}, "announce": []string{multiaddr(b.Out.Addr())}}
}

// PairHub makes a box and its hub know each other, as their operators would, and waits for the first contact.
func (b *Box) PairHub(ctx context.Context, h *Hub) error {
	var code hub.Code
	if err := hub.Ask(ctx, h.Dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		return fmt.Errorf("show a pairing code: %w", err)
	}
	if err := appliance.Ask(ctx, b.Dir, "POST", "/pair/take", map[string]string{"Code": code.Code, "Address": b.Out.Addr()}, nil); err != nil {
		return fmt.Errorf("take the pairing code: %w", err)
	}
	return b.AwaitHub(ctx, time.Time{})
}

// AwaitHub waits until the hub is in reach and has all that it may answer about the box's users, told after that time.
func (b *Box) AwaitHub(ctx context.Context, after time.Time) error {
	return await(ctx, b.Name+" to have told its hub of its users", func() bool {
		var s admin.Status
		err := appliance.Ask(ctx, b.Dir, "GET", "/status", nil, &s)
		return err == nil && s.Hub != nil && s.Hub.InReach && s.Hub.Trouble == "" && s.Hub.Told.After(after)
	})
}

func await(ctx context.Context, what string, is func() bool) error {
	ctx, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	for !is() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waited in vain for %s", what), context.Cause(ctx))
		}
	}
	return nil
}
