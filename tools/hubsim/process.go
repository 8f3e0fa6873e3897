// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// roleEnv makes this program one of the processes of the simulation.
const roleEnv = "HUBSIM_ROLE"

var roles = map[string]func([]string) error{"boxes": boxesRole, "node": nodeRole}

// process is a child that prints lines of words.
type process struct {
	cmd  *exec.Cmd
	name string
	mu   sync.Mutex
	last map[string]int64 // counters by name, as the child printed them last
	read chan struct{}    // closed when its output is at its end
}

// startRole starts this program in a role.
func startRole(role string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role)
	return startProcess(role, cmd)
}

func startProcess(name string, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, name: name, last: make(map[string]int64), read: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() { // stop waits for it
		defer close(p.read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			word, value, _ := strings.Cut(lines.Text(), " ")
			if n, err := strconv.ParseInt(value, 10, 64); err == nil {
				p.mu.Lock()
				p.last[word] = n
				p.mu.Unlock()
			}
		}
	}()
	return p, nil
}

func (p *process) count(word string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last[word]
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.read
	_ = p.cmd.Wait() // it was killed
}

// cpu is user and system time of processes with those that they have waited for.
func cpu(pids ...int) (total time.Duration) {
	for _, pid := range pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue // it has ended, and its parent has the sum
		}
		_, rest, _ := strings.Cut(string(raw), ") ")
		f := strings.Fields(rest)
		for _, i := range []int{11, 12, 13, 14} {
			if i < len(f) {
				n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel's own numbers
				total += time.Duration(n) * (time.Second / 100)
			}
		}
	}
	return total
}

// machineCPU is what all processors have worked since the machine started.
func machineCPU() (total time.Duration) {
	raw, _ := os.ReadFile("/proc/stat") // it is there
	line, _, _ := strings.Cut(string(raw), "\n")
	for i, f := range strings.Fields(line) {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil && i != 4 && i != 5 && i < 9 { // idle, waiting for disks; guests are counted in user
			total += time.Duration(n) * (time.Second / 100)
		}
	}
	return total
}

// tree is a process and its children.
func tree(pid int) []int {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid)) // none when it has ended
	pids := []int{pid}
	for _, f := range strings.Fields(string(raw)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}

// rss is the resident memory of a process in bytes.
func rss(pid int) int64 {
	raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // none when it has ended
	for line := range strings.Lines(string(raw)) {
		if value, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// until waits for something in another process, and says how long it took.
func until(what string, most time.Duration, cond func() bool) (time.Duration, error) {
	begin := time.Now()
	for !cond() {
		if time.Since(begin) > most {
			return 0, fmt.Errorf("waited %v in vain for %s", most, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(begin), nil
}
