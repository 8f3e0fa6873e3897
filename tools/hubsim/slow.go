// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"hallig/tools/slowclock"
)

// slowedEnv says to this program that its clock goes slowly already.
const slowedEnv = "HUBSIM_SLOWED"

// runSlowed builds this program and the hub with clocks that are so many times slower, and runs the story there.
func runSlowed(ctx context.Context, times int, args []string, out io.Writer) error {
	dir, err := os.MkdirTemp("", "hubsim-slow")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ms := func(n int) string { return fmt.Sprintf(`"%d"`, n) }
	clock := slowclock.Clock{Times: times, Since: time.Now(), Patience: map[string]map[string]string{
		"sync/hub/spool/postgres.go": {ms(4000): ms(4000 * times), ms(10_000): ms(10_000 * times)}, // a transaction that idles, a lock
	}}
	self, hub := filepath.Join(dir, "hubsim"), filepath.Join(dir, "hallig-hub")
	if err := errors.Join(clock.Build(ctx, self, "hallig/tools/hubsim"), clock.Build(ctx, hub, "hallig/cmd/hallig-hub")); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, append(args, "-hub", hub)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	cmd.Env = append(os.Environ(), slowedEnv+"=1")
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd.Run()
}

// pen is a control group of the kernel that bounds how much of the processors a process has.
type pen string

const penPeriod = 100_000 // µs

// newPen makes one that gives so many processors.
func newPen(name string, cores float64) (pen, error) {
	quota := int(cores * penPeriod)
	if quota < 1000 {
		return "", fmt.Errorf("%.3g processors of this machine are too little for a node; take a smaller -slow or more -cores", cores)
	}
	for _, v := range []struct{ root, mark, file, text string }{
		{"/sys/fs/cgroup", "cgroup.controllers", "cpu.max", fmt.Sprint(quota, " ", penPeriod)},
		{"/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "cpu.cfs_quota_us", strconv.Itoa(quota)},
	} {
		if _, err := os.Stat(filepath.Join(v.root, v.mark)); err != nil {
			continue
		}
		p := pen(filepath.Join(v.root, name))
		err := os.Mkdir(string(p), 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(string(p), v.file), []byte(v.text), 0)
		}
		if err != nil {
			return "", errors.Join(fmt.Errorf("bound a node's processors: %w; run it as root, or without -cores", err), p.remove())
		}
		return p, nil
	}
	return "", errors.New("the kernel has no control groups for processors here; run it without -cores")
}

func (p pen) take(pid int) error {
	return os.WriteFile(filepath.Join(string(p), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// remove takes away an empty one.
func (p pen) remove() error {
	err := os.Remove(string(p))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
