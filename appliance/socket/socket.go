// SPDX-License-Identifier: EUPL-1.2

// Package socket is the local door of a running program of ours: a Unix socket, mode 0600, through which its own command line asks it over HTTP. Whoever can open
// the data directory may ask everything.
//
// It promises: one process per directory (a second one is told that there is a first), and that the socket of a killed process is in nobody's way.
package socket

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
	"syscall"
	"time"
)

// Door is where a program answers its own command line.
type Door struct {
	Dir  string // data directory
	Name string // of the program: "hallig"
	What string // runs there: "box"
}

// path is in the data directory, or, where that is too long for a Unix socket, under a name derived from it in the directory for temporary files.
func (d Door) path() (string, error) {
	abs, err := filepath.Abs(d.Dir)
	if err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if name := filepath.Join(abs, d.Name+".sock"); len(name) < 100 {
		return name, nil
	}
	sum := sha256.Sum256([]byte(abs))
	return filepath.Join(os.TempDir(), fmt.Sprintf("%s-%x.sock", d.Name, sum[:12])), nil
}

// Listen opens the socket. One that a killed process left behind is replaced; one that answers belongs to a running program.
func (d Door) Listen() (net.Listener, error) {
	name, err := d.path()
	if err != nil {
		return nil, err
	}
	if conn, err := net.DialTimeout("unix", name, time.Second); err == nil {
		conn.Close()
		return nil, d.Taken()
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

// Taken says that another process has the directory.
func (d Door) Taken() error {
	return fmt.Errorf("a %s is already running on %s; stop it first, or ask it with: %s status --data %s", d.What, d.Dir, d.Name, d.Dir)
}

// ErrNobody is in what Ask and Open answer when no program runs on the directory.
var ErrNobody = errors.New("nothing is running")

// nobody is ErrNobody with the words for this program.
type nobody struct{ d Door }

func (e nobody) Error() string {
	return fmt.Sprintf("no %s is running on %s; start it with: %s serve --data %s", e.d.What, e.d.Dir, e.d.Name, e.d.Dir)
}

func (nobody) Is(target error) bool { return target == ErrNobody }

// Open sends a request and hands the answer over, whatever its status; the caller closes it. in is a JSON value, nil for none, or an io.Reader whose bytes go as they are.
func (d Door) Open(ctx context.Context, method, path string, in any) (io.ReadCloser, int, error) {
	name, err := d.path()
	if err != nil {
		return nil, 0, err
	}
	var body io.Reader
	if r, ok := in.(io.Reader); ok {
		body = r
	} else if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return nil, 0, fmt.Errorf("write request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://local"+path, body)
	if err != nil {
		return nil, 0, fmt.Errorf("make request: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", name)
		},
	}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, 0, nobody{d}
	}
	return resp.Body, resp.StatusCode, nil
}

// Ask sends one request: in is as for Open, out a JSON value, nil for none. An error that the program answered carries its text.
func (d Door) Ask(ctx context.Context, method, path string, in, out any) error {
	answer, status, err := d.Open(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer answer.Close()
	raw, err := io.ReadAll(io.LimitReader(answer, 64<<20))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if status != http.StatusOK {
		var refusal struct{ Error string }
		if json.Unmarshal(raw, &refusal) == nil && refusal.Error != "" {
			return errors.New(refusal.Error)
		}
		return fmt.Errorf("the %s answered %d %s", d.What, status, http.StatusText(status))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// Lock makes the data directory and keeps a second process out of it for as long as the file that it gives is open.
func (d Door) Lock() (*os.File, error) {
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(d.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, d.Taken()
	}
	return f, nil
}
