// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
)

// box is a `hallig serve` of the demonstration.
type box struct {
	name   string // for people: "Box Hooge"
	server string // Matrix server name: the address of its own door
	dir    string
	client string // http://127.0.0.1:PORT
	listen string // client API
	fed    string // where its federation port really is, behind the door
	config map[string]any
	hallig string
	cmd    *exec.Cmd
	log    *os.File
}

// start runs the box and waits until it answers.
func (b *box) start(ctx context.Context) error {
	raw, err := json.MarshalIndent(b.config, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), raw, 0o600); err != nil {
		return err
	}
	if b.log == nil {
		if b.log, err = os.Create(b.dir + ".log"); err != nil {
			return err
		}
	}
	b.cmd = exec.CommandContext(ctx, b.hallig, "serve", "--data", b.dir, "--name", b.server, "--open-registration",
		"--listen", b.listen, "--federation", b.fed)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	b.cmd.Cancel = func() error { return b.cmd.Process.Signal(syscall.SIGTERM) }
	b.cmd.WaitDelay = 10 * time.Second
	if err := b.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", b.name, err)
	}
	return waitFor(ctx, b.client+"/_matrix/client/versions", b.name)
}

// stop ends the box as an operator would.
func (b *box) stop() error {
	if b.cmd == nil || b.cmd.Process == nil {
		return nil
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := b.cmd.Wait()
	b.cmd = nil
	if err != nil {
		return fmt.Errorf("%s ended badly (its log is %s.log): %w", b.name, b.dir, err)
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

// pair makes the two boxes know each other, as two operators with a code would.
func pair(ctx context.Context, shows, takes *box) error {
	var code admin.PairCode
	if err := appliance.Ask(ctx, shows.dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		return fmt.Errorf("show a pairing code: %w", err)
	}
	var s admin.Status
	if err := appliance.Ask(ctx, shows.dir, "GET", "/status", nil, &s); err != nil {
		return err
	}
	if len(s.Addresses) == 0 {
		return errors.New("the box tells no address for pairing")
	}
	var peer admin.Peer
	in := map[string]string{"Code": code.Code, "Address": s.Addresses[0]}
	if err := appliance.Ask(ctx, takes.dir, "POST", "/pair/take", in, &peer); err != nil {
		return fmt.Errorf("take the pairing code: %w", err)
	}
	say("%s and %s are paired (box %.16s…)", shows.name, takes.name, peer.ID)
	return nil
}
