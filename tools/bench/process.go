// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hallig/tools/testport"
)

// box is a running `hallig serve`.
type box struct {
	cmd  *exec.Cmd
	dir  string
	base string // http://127.0.0.1:PORT
	log  bytes.Buffer
}

// start runs the binary on dir and waits for the first answer of /versions; it says how long that took.
func start(ctx context.Context, hallig, dir string, config map[string]any) (*box, time.Duration, error) {
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o600); err != nil {
		return nil, 0, err
	}
	addr, err := testport.Take()
	if err != nil {
		return nil, 0, err
	}
	b := &box{dir: dir, base: "http://" + addr}
	b.cmd = exec.CommandContext(ctx, hallig, "serve", "--data", dir, "--listen", addr, "--open-registration", "--quiet")
	b.cmd.Stderr = &b.log
	begin := time.Now()
	if err := b.cmd.Start(); err != nil {
		return nil, 0, fmt.Errorf("start %s: %w", hallig, err)
	}
	for time.Since(begin) < 30*time.Second {
		resp, err := http.Get(b.base + "/_matrix/client/versions")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return b, time.Since(begin), nil
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	b.stop()
	return nil, 0, fmt.Errorf("the box did not answer within 30 s: %s", b.log.String())
}

// stop ends the box as an operator would.
func (b *box) stop() error {
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := b.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("the box ended badly: %w: %s", err, b.log.String())
	}
	return err
}

// cpu is user and system time of the process so far.
func (b *box) cpu() (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, ok := strings.Cut(string(raw), ") ") // the command's name may hold blanks
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return 0, errors.New("unexpected /proc/PID/stat")
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * (time.Second / 100), nil // USER_HZ is 100 on Linux
}

// number reads one "name: value" of a /proc file of the process; "kB" is taken into account.
func (b *box) number(file, name string) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", b.cmd.Process.Pid, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			f := strings.Fields(value)
			n, err := strconv.ParseInt(f[0], 10, 64)
			if len(f) > 1 && f[1] == "kB" {
				n <<= 10
			}
			return n, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/PID/%s", name, file)
}

func (b *box) written() (int64, error) { return b.number("io", "write_bytes") }
func (b *box) rss() (int64, error)     { return b.number("status", "VmRSS") }

// inDir runs f on a fresh data directory.
func (b *bench) inDir(f func(dir string) error) error {
	dir, err := os.MkdirTemp(b.dir, "hallig-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return f(dir)
}

// median of the values; they are sorted in place.
func median(v []float64) float64 { return quantile(v, 0.5) }

func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	if len(v) == 0 {
		return 0
	}
	return v[min(len(v)-1, int(q*float64(len(v))))]
}
