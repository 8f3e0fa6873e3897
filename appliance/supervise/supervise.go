// SPDX-License-Identifier: EUPL-1.2

// Package supervise keeps programs running, each with no more rights than it needs.
//
// A Process is started with its own user, its own session, only the capabilities of its Spec (as ambient ones), a bounding set that holds no others and
// no_new_privs; what it prints to its standard error goes to its log, its standard output nowhere. When it ends, for whatever reason, it is
// started again: after half a second, and twice as long after each quick end, up to a minute. A Crew owns the processes and reaps orphans, as the first
// process of a machine must.
//
// gokrazy's own NewService was not taken: it starts everything as root, keeps the last hundred lines in memory only, stops
// supervising a program that ends with status 0 or 125, and cannot be asked to stop one with a deadline.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
)

// Spec says what to run and with which rights.
type Spec struct {
	Name string
	Path string
	// Command gives arguments (without the program's name) and environment; it is asked before each start.
	Command  func() (args, env []string)
	Dir      string
	UID, GID uint32
	Caps     []uintptr     // capabilities it keeps, for example unix.CAP_NET_BIND_SERVICE
	OOM      int           // oom_score_adj: whom the kernel ends first when memory runs out; -1000 never to 1000
	Grace    time.Duration // from SIGTERM to SIGKILL; 0: 10 s
	Log      Log           // its standard error, and when it started and ended
	// First and Longest bound the pause before a new start; 0: 500 ms and a minute.
	First, Longest time.Duration
}

// Log takes a program's lines, and ours about it.
type Log interface {
	io.Writer
	Printf(format string, args ...any)
}

// Crew is all processes of a machine. It is safe for concurrent use.
type Crew struct {
	// mu is held while a child is forked and noted, and while orphans are reaped, so that no child of ours is taken for an orphan.
	mu   sync.Mutex
	pids map[int]bool
}

// NewCrew gives an empty crew.
func NewCrew() *Crew { return &Crew{pids: make(map[int]bool)} }

// Reap takes away the dead that nobody waits for. Call it on SIGCHLD and now and then; only the first process of a machine needs it.
func (c *Crew) Reap() (reaped int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 1000 {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		pid := int(sigchldPID(&info))
		if err != nil || pid == 0 || c.pids[pid] {
			return reaped // one of ours is in front: its own waiter takes it, and the next call goes on
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil {
			return reaped
		}
		reaped++
	}
	return reaped
}

// Start starts a command that the caller waits for, with no more than the given capabilities to come by, and no way to more. Forget it after Wait.
func (c *Crew) Start(cmd *exec.Cmd, caps []uintptr) error {
	done := make(chan error, 1)
	// The rights are those of a thread, and they only ever become fewer: the thread ends with this goroutine, as it is never unlocked.
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
				return fmt.Errorf("set no_new_privs: %w", err)
			}
			for i := range uintptr(64) {
				keep := false
				for _, k := range caps {
					keep = keep || k == i
				}
				if keep {
					continue
				}
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, i, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
					return fmt.Errorf("drop capability %d: %w", i, err)
				}
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if err := cmd.Start(); err != nil {
				return err
			}
			c.pids[cmd.Process.Pid] = true
			return nil
		}()
	}()
	return <-done
}

// Forget says that a command of Start was waited for.
func (c *Crew) Forget(pid int) {
	c.mu.Lock()
	delete(c.pids, pid)
	c.mu.Unlock()
}

// Once runs a program of a Spec to its end and gives what it printed to its standard output, at most 64 KiB.
func (c *Crew) Once(ctx context.Context, s Spec, stdin io.Reader) (out []byte, err error) {
	cmd := s.command()
	cmd.Stdin = stdin
	var b limited
	cmd.Stdout = &b
	if err := c.Start(cmd, s.Caps); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer c.Forget(cmd.Process.Pid)
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		return b.b, fmt.Errorf("run %s: %w", s.Name, err)
	}
	return b.b, nil
}

type limited struct{ b []byte }

func (l *limited) Write(p []byte) (int, error) {
	l.b = append(l.b, p[:min(len(p), max(0, 64<<10-len(l.b)))]...)
	return len(p), nil
}

func (s Spec) command() *exec.Cmd {
	args, env := s.Command()
	cmd := &exec.Cmd{
		Path: s.Path, Args: append([]string{s.Path}, args...), Env: env, Dir: s.Dir,
		WaitDelay: 2 * time.Second, // a grandchild may hold the pipe of the log open
		SysProcAttr: &syscall.SysProcAttr{
			Setsid: true, // a session of its own: no terminal, and one group to send signals to
		},
	}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID}
		cmd.SysProcAttr.AmbientCaps = s.Caps
	}
	if s.Log != nil {
		cmd.Stderr = s.Log
	}
	return cmd
}

// Process is one program that is kept running. Its methods are safe for concurrent use.
type Process struct {
	crew *Crew
	spec Spec

	mu       sync.Mutex
	pid      int // 0: it does not run
	started  time.Time
	starts   int
	last     string
	quick    int           // ends in a row that came soon after the start
	again    chan struct{} // a new start is wanted now
	stopping bool
}

// Process gives a program that Run will keep running.
func (c *Crew) Process(s Spec) *Process {
	if s.Grace == 0 {
		s.Grace = 10 * time.Second
	}
	if s.First == 0 {
		s.First = 500 * time.Millisecond
	}
	if s.Longest == 0 {
		s.Longest = time.Minute
	}
	return &Process{crew: c, spec: s, again: make(chan struct{}, 1)}
}

// settled is how long a program must have run for its end not to count as a failed start.
const settled = time.Minute

// Run keeps the program running until ctx ends, then stops it and returns when it is gone.
func (p *Process) Run(ctx context.Context) {
	pause := p.spec.First
	for ctx.Err() == nil {
		began := time.Now()
		how := p.once(ctx)
		ran := time.Since(began)
		p.mu.Lock()
		p.last = how
		if ran < settled && !p.stopping {
			p.quick++
		} else {
			p.quick = 0
		}
		wanted := p.stopping
		p.stopping = false
		p.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		pause = next(pause, ran, wanted, p.spec.First, p.spec.Longest)
		p.spec.Log.Printf("init: %s ended: %s; it starts again in %s", p.spec.Name, how, pause)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-p.again:
		}
		timer.Stop()
	}
}

// next is the pause before a new start.
func next(pause, ran time.Duration, wanted bool, first, longest time.Duration) time.Duration {
	switch {
	case wanted:
		return 0
	case ran >= settled:
		return first
	default:
		return min(max(first, pause*2), longest)
	}
}

// once is one life of the program; it says how it ended.
func (p *Process) once(ctx context.Context) string {
	cmd := p.spec.command()
	p.spec.Log.Printf("init: start %s", strings.Join(cmd.Args, " "))
	pid, err := p.begin(cmd)
	if err != nil {
		return "it could not be started: " + err.Error()
	}
	defer p.crew.Forget(pid)
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(p.spec.OOM)), 0); err != nil && os.Getuid() == 0 {
		p.spec.Log.Printf("init: set oom_score_adj of %s: %v", p.spec.Name, err)
	}
	ended := make(chan struct{})
	go func() { // ends with this function
		select {
		case <-ended:
		case <-ctx.Done():
			p.end(pid, ended)
		}
	}()
	err = cmd.Wait()
	close(ended)
	// What it started may still run: its session is its group.
	syscall.Kill(-pid, syscall.SIGKILL)
	p.mu.Lock()
	p.pid = 0
	p.mu.Unlock()
	if err != nil {
		return err.Error()
	}
	return "exit status 0"
}

// begin forks under the lock, so that a Restart that comes now finds either the old life or the new one.
func (p *Process) begin(cmd *exec.Cmd) (pid int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.crew.Start(cmd, p.spec.Caps); err != nil {
		return 0, err
	}
	p.pid, p.started = cmd.Process.Pid, time.Now()
	p.starts++
	return p.pid, nil
}

// end asks a process to stop, and makes it after its grace.
func (p *Process) end(pid int, ended <-chan struct{}) {
	syscall.Kill(-pid, syscall.SIGTERM)
	timer := time.NewTimer(p.spec.Grace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		p.spec.Log.Printf("init: %s did not stop within %s and is killed", p.spec.Name, p.spec.Grace)
		syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// Restart stops the program in order and starts it again, for a new configuration. It returns at once.
func (p *Process) Restart() {
	p.mu.Lock()
	pid := p.pid
	p.stopping = pid != 0
	starts := p.starts
	p.mu.Unlock()
	if pid == 0 {
		select {
		case p.again <- struct{}{}:
		default:
		}
		return
	}
	syscall.Kill(-pid, syscall.SIGTERM)
	time.AfterFunc(p.spec.Grace, func() {
		if p.running(starts) {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
	})
}

// Dump lets the program print what its goroutines do, and ends it; for one that hangs.
func (p *Process) Dump() {
	p.mu.Lock()
	pid, starts := p.pid, p.starts
	p.mu.Unlock()
	if pid == 0 {
		return
	}
	syscall.Kill(-pid, syscall.SIGQUIT)
	time.AfterFunc(p.spec.Grace, func() {
		if p.running(starts) {
			syscall.Kill(-pid, syscall.SIGKILL)
		}
	})
}

// running says whether the start with that number still runs.
func (p *Process) running(starts int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid != 0 && p.starts == starts
}

// Failing says whether the program ended soon after its start several times in a row, and how the last time.
func (p *Process) Failing() (bool, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	settledNow := p.pid != 0 && time.Since(p.started) >= settled
	return p.quick >= 3 && !settledNow, p.last
}

// Status is what the state shows of it.
func (p *Process) Status() steward.Process {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := steward.Process{Name: p.spec.Name, PID: p.pid, Restarts: max(0, p.starts-1), Last: p.last}
	if p.pid != 0 {
		s.RSS, s.Uptime = RSS(p.pid), time.Since(p.started).Seconds()
	}
	return s
}

// RSS is the resident memory of a process in bytes; 0 when it is not to be had.
func RSS(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
