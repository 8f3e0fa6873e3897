// SPDX-License-Identifier: EUPL-1.2

// Package testbox runs `hallig serve` as a process of its own, behind links that can be cut: for the demonstration and for chaos, which need boxes as
// people have them. What it starts it ends, by pid.
package testbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/tools/testpeer"
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

	listen, fed, program string
	cmd                  *exec.Cmd
	log                  *os.File
}

// Central is a central server as a box finds it.
type Central struct {
	Name string // its server name
	At   string // HOST:PORT of its Server-Server API
}

// New makes a stopped box with ways to and from a central server, and one for other boxes.
func New(name, program, dir string, ca *testpeer.CA, central Central) (b *Box, err error) {
	b = &Box{Name: name, Dir: dir, program: program}
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
		if *addr, err = freeAddr(); err != nil {
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

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().String(), nil
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
	err := b.Stop()
	for _, l := range []*testpeer.Link{b.Out, b.In, b.Wire} {
		l.Close()
	}
	if b.log != nil {
		b.log.Close()
	}
	return err
}

// Kill ends the box as a power cut would end the process.
func (b *Box) Kill() error {
	if b.cmd == nil {
		return nil
	}
	if err := b.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = b.cmd.Wait() // it was killed
	b.cmd = nil
	return nil
}

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
	if b.log == nil {
		if b.log, err = os.Create(b.Dir + ".log"); err != nil {
			return err
		}
	}
	b.cmd = exec.CommandContext(ctx, b.program, "serve", "--data", b.Dir, "--name", b.Server, "--open-registration",
		"--listen", b.listen, "--federation", b.fed)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	b.cmd.Cancel = func() error { return b.cmd.Process.Signal(syscall.SIGTERM) }
	b.cmd.WaitDelay = 10 * time.Second
	if err := b.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", b.Name, err)
	}
	return waitFor(ctx, b.Client+"/_matrix/client/versions", b.Name)
}

// Stop ends the box as an operator would.
func (b *Box) Stop() error {
	if b.cmd == nil || b.cmd.Process == nil {
		return nil
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := b.cmd.Wait()
	b.cmd = nil
	if err != nil {
		return fmt.Errorf("%s ended badly (its log is %s.log): %w", b.Name, b.Dir, err)
	}
	return nil
}

func waitFor(ctx context.Context, url, what string) error {
	ctx, stop := context.WithTimeout(ctx, 60*time.Second)
	defer stop()
	for {
		req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%s did not answer: %w", what, ctx.Err())
		}
	}
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
