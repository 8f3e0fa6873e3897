// SPDX-License-Identifier: EUPL-1.2

// Package testpostgres runs a PostgreSQL server of Debian's package for tests and measurements: in a directory of its own, as a user without rights, reachable over a unix
// socket in that directory and nowhere else. It can be killed as a power cut would, and started again.
package testpostgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrMissing says that the server is not installed, and how to install it.
var ErrMissing = errors.New("PostgreSQL is missing. Install it with: sudo apt-get install -y postgresql")

const role = "hub"

// Server is a running server.
type Server struct {
	bin, dir string
	settings []string
	cmd      *exec.Cmd
	log      *os.File
	ended    chan struct{}
}

// Start makes a cluster in a new directory and runs it. settings are of postgresql.conf, "fsync=off". Stop removes everything.
func Start(settings ...string) (*Server, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return nil, ErrMissing
	}
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	s := &Server{bin: filepath.Dir(found[len(found)-1]), settings: settings}
	if s.dir, err = os.MkdirTemp("", "pg"); err != nil {
		return nil, err
	}
	if err := s.create(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	return s, nil
}

func version(path string) int {
	n, _ := strconv.Atoi(strings.Split(path, "/")[4]) // another name sorts first
	return n
}

func (s *Server) create() error {
	attr, err := unprivileged(s.dir)
	if err != nil {
		return err
	}
	initdb := exec.Command(filepath.Join(s.bin, "initdb"), "-D", filepath.Join(s.dir, "data"), "-U", role, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = attr, s.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	if s.log, err = os.Create(filepath.Join(s.dir, "log")); err != nil {
		return err
	}
	return s.Run()
}

// unprivileged gives what a process needs to run as somebody else than root, to whom it gives the directory. PostgreSQL refuses to run as root.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() != 0 {
		return attr, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.Atoi(u.Uid)
		gid, err2 := strconv.Atoi(u.Gid)
		if err := errors.Join(err1, err2, os.Chown(dir, uid, gid)); err != nil {
			return nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return attr, nil
	}
	return nil, errors.New("there is no user postgres or nobody that PostgreSQL could run as")
}

// Run starts the server after Kill, and waits until it answers.
func (s *Server) Run() error {
	attr, err := unprivileged(s.dir)
	if err != nil {
		return err
	}
	args := []string{"-D", filepath.Join(s.dir, "data"), "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=100"}
	for _, set := range s.settings {
		args = append(args, "-c", set)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		s.cmd = exec.Command(filepath.Join(s.bin, "postgres"), args...)
		s.cmd.SysProcAttr, s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = attr, s.dir, s.log, s.log
		if err := s.cmd.Start(); err != nil {
			return err
		}
		ended, cmd := make(chan struct{}), s.cmd
		s.ended = ended
		go func() { // Stop and Kill wait for it
			cmd.Wait()
			close(ended)
		}()
		if s.answers(ctx) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the server does not answer: %s", s.Log())
		}
		time.Sleep(50 * time.Millisecond) // processes of a server that was killed hold its memory for a moment
	}
}

// answers waits for the server's first answer; false: it has ended.
func (s *Server) answers(ctx context.Context) bool {
	for ctx.Err() == nil {
		if exec.Command(filepath.Join(s.bin, "pg_isready"), "-q", "-h", s.dir).Run() == nil {
			return true
		}
		select {
		case <-s.ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}

// Log is the end of what the server has said.
func (s *Server) Log() string {
	raw, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(raw[max(0, len(raw)-2000):]))
}

// URL is the address of a database. Whoever connects waits for as long as a machine may take that does much else.
func (s *Server) URL(database string) string {
	return "postgres://" + role + "@/" + database + "?connect_timeout=60&host=" + s.dir
}

// Create makes a database, with a template as a copy of that one, which nobody may be connected to.
func (s *Server) Create(database, template string) error {
	args := []string{"-h", s.dir, "-U", role, database}
	if template != "" {
		args = append(args, "-T", template)
	}
	if out, err := exec.Command(filepath.Join(s.bin, "createdb"), args...).CombinedOutput(); err != nil {
		return fmt.Errorf("createdb: %w: %s", err, out)
	}
	return nil
}

// Kill ends the server at once, as a power cut would, less what the system has not yet written to the disk. Its other processes see it and go.
func (s *Server) Kill() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.ended
	return nil
}

// KillSession ends the process that serves one session. PostgreSQL then ends all others, too, and recovers.
func (s *Server) KillSession(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

// PID is the server's first process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Written is how many bytes the server has written so far by its own count, after a checkpoint: its log, and pages of tables and indices. (The kernel's count of a process takes whole
// runs of cached pages for each flush of the log.)
func (s *Server) Written() (int64, error) {
	const count = `SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint + (buffers_checkpoint+buffers_clean+buffers_backend)*8192 FROM pg_stat_bgwriter`
	out, err := exec.Command(filepath.Join(s.bin, "psql"), "-h", s.dir, "-U", role, "-d", "postgres", "-q", "-t", "-A", "-c", "CHECKPOINT", "-c", count).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("ask what was written: %w: %s", err, out)
	}
	return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
}

// Stop ends the server and removes its directory.
func (s *Server) Stop() error {
	err := s.cmd.Process.Signal(syscall.SIGQUIT)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-s.ended
	return errors.Join(err, s.log.Close(), os.RemoveAll(s.dir))
}
