// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"hallig/appliance/admin"
)

// socketPath is where the box answers `hallig VERB`: in its data directory, or, where that path is too long for a
// Unix socket, under a name derived from it in the directory for temporary files.
func socketPath(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if name := filepath.Join(abs, "hallig.sock"); len(name) < 100 {
		return name, nil
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(os.TempDir(), fmt.Sprintf("hallig-%x.sock", sum[:12])), nil
}

// listenLocal opens the local socket, mode 0600. A socket that a killed process left behind is replaced; one that
// answers belongs to a running box.
func listenLocal(dir string) (net.Listener, error) {
	name, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", name, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("a box is already running on %s; stop it first, or ask it with: hallig status --data %s", dir, dir)
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fmt.Errorf("open local socket: %w", err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("protect local socket: %w", err)
	}
	return l, nil
}

func localClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

// Watch hands the commentary of the box that runs on dir to f until ctx ends, f fails or the box stops.
func Watch(ctx context.Context, dir string, f func(admin.Travel) error) error {
	name, err := socketPath(dir)
	if err != nil {
		return err
	}
	client := localClient(name)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "GET", "http://box/watch", nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return noBox(dir)
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var t admin.Travel
		if err := dec.Decode(&t); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read commentary: %w", err)
		}
		if err := f(t); err != nil {
			return err
		}
	}
}

// Courier has the box that runs on dir do what the order says; note is told how far it is.
func Courier(ctx context.Context, dir string, order admin.CourierOrder, note func(admin.CourierStep)) (admin.CourierReport, error) {
	var none admin.CourierReport
	name, err := socketPath(dir)
	if err != nil {
		return none, err
	}
	client := localClient(name)
	defer client.CloseIdleConnections()
	body, err := json.Marshal(order)
	if err != nil {
		return none, fmt.Errorf("write request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, "POST", "http://box/courier", bytes.NewReader(body))
	if err != nil {
		return none, fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return none, noBox(dir)
	}
	defer resp.Body.Close()
	for dec := json.NewDecoder(resp.Body); ; {
		var l admin.CourierLine
		switch err := dec.Decode(&l); {
		case err != nil:
			return none, fmt.Errorf("the box went away meanwhile; ask again: %w", err)
		case l.Error != "":
			return none, errors.New(l.Error)
		case l.Report != nil:
			return *l.Report, nil
		case l.Step != nil:
			note(*l.Step)
		}
	}
}

// ErrNoBox is in what Ask and Watch answer when no box runs on the directory.
var ErrNoBox = errors.New("no box is running")

func noBox(dir string) error {
	return fmt.Errorf("%w on %s; start it with: hallig serve --data %s", ErrNoBox, dir, dir)
}

// Ask sends one request to the box that runs on dir: in and out are JSON values, nil for none. An error that the box
// answered carries its text.
func Ask(ctx context.Context, dir, method, path string, in, out any) error {
	name, err := socketPath(dir)
	if err != nil {
		return err
	}
	client := localClient(name)
	defer client.CloseIdleConnections()
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("write request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://box"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return noBox(dir)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct{ Error string }
		if json.Unmarshal(raw, &refusal) == nil && refusal.Error != "" {
			return errors.New(refusal.Error)
		}
		return fmt.Errorf("the box answered %s", resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}
