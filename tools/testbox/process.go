// SPDX-License-Identifier: EUPL-1.2

package testbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a program that can be started again and again. Whatever it says goes into one log.
type process struct {
	what    string // for people
	logPath string
	log     *os.File
	cmd     *exec.Cmd // nil: it does not run
}

func (p *process) start(ctx context.Context, program string, args ...string) error {
	if p.log == nil {
		var err error
		if p.log, err = os.Create(p.logPath); err != nil {
			return err
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.what, err)
	}
	p.cmd = cmd
	return nil
}

// kill ends it as a power cut would.
func (p *process) kill() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
	return nil
}

// stop ends it as an operator would.
func (p *process) stop() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := p.cmd.Wait()
	p.cmd = nil
	if err != nil {
		return fmt.Errorf("%s ended badly (its log is %s): %w", p.what, p.logPath, err)
	}
	return nil
}

// close stops it and ends its log.
func (p *process) close() error {
	err := p.stop()
	if p.log != nil {
		p.log.Close()
	}
	return err
}
