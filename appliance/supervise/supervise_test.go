// SPDX-License-Identifier: EUPL-1.2

package supervise

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lines is a log that a test can wait on.
type lines struct {
	mu   sync.Mutex
	cond *sync.Cond
	b    bytes.Buffer
}

func newLines() *lines { l := &lines{}; l.cond = sync.NewCond(&l.mu); return l }

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cond.Broadcast()
	return l.b.Write(p)
}

func (l *lines) Printf(format string, args ...any) { fmt.Fprintf(l, format+"\n", args...) }

// want waits until text is in the log n times.
func (l *lines) want(t *testing.T, text string, n int) string {
	t.Helper()
	late := time.AfterFunc(60*time.Second, l.cond.Broadcast)
	defer late.Stop()
	began := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for strings.Count(l.b.String(), text) < n {
		if time.Since(began) > 59*time.Second {
			t.Fatalf("waited for %d times %q; the log has\n%s", n, text, l.b.String())
		}
		l.cond.Wait()
	}
	return l.b.String()
}

func spec(log Log, script string) Spec {
	return Spec{
		Name: "x", Path: "/bin/sh", Log: log, First: time.Millisecond, Longest: 5 * time.Millisecond, Grace: 300 * time.Millisecond,
		Command: func() ([]string, []string) { return []string{"-c", script}, []string{"PATH=/bin:/usr/bin"} },
		UID:     uint32(os.Getuid()), GID: uint32(os.Getgid()),
	}
}

// run starts a process and gives the function that stops it and waits.
func run(t *testing.T, s Spec) (*Process, func()) {
	t.Helper()
	p := NewCrew().Process(s)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.Run(ctx) }()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return p, stop
}

func TestStartedAgainWhateverTheEnd(t *testing.T) {
	for _, end := range []string{"exit 0", "exit 3", "exit 125", "kill -9 $$"} {
		l := newLines()
		p, stop := run(t, spec(l, "echo hello >&2; "+end))
		l.want(t, "hello\n", 5)
		if failing, how := p.Failing(); !failing || how == "" {
			t.Errorf("%s: five quick ends: failing %v, %q", end, failing, how)
		}
		if s := p.Status(); s.Restarts < 4 {
			t.Errorf("%s: %d restarts", end, s.Restarts)
		}
		stop()
	}
}

func TestMissingProgram(t *testing.T) {
	l := newLines()
	s := spec(l, "")
	s.Path = "/no/such/program"
	run(t, s)
	l.want(t, "could not be started", 3)
}

func TestNext(t *testing.T) {
	const first, longest = time.Second, 10 * time.Second
	pause := first
	for _, want := range []time.Duration{2, 4, 8, 10, 10} {
		if pause = next(pause, 0, false, first, longest); pause != want*time.Second {
			t.Errorf("got %s, want %ds", pause, want)
		}
	}
	if got := next(longest, 2*time.Minute, false, first, longest); got != first {
		t.Errorf("after a long life: %s", got)
	}
	if got := next(longest, 0, true, first, longest); got != 0 {
		t.Errorf("a wanted restart: %s", got)
	}
}

func TestStopIsOrderlyThenHard(t *testing.T) {
	l := newLines()
	s := spec(l, "")
	s.Grace = time.Hour
	s.Command = func() ([]string, []string) {
		return []string{"-c", `trap 'echo bye >&2; exit 0' TERM; echo up >&2; while :; do sleep 0.01; done`}, []string{"PATH=/bin:/usr/bin"}
	}
	_, stop := run(t, s)
	l.want(t, "up\n", 1)
	stop()
	l.want(t, "bye\n", 1)

	l = newLines()
	_, stop = run(t, spec(l, `trap 'echo never >&2' TERM; sleep 1000 & echo child=$! >&2; echo up >&2; while :; do sleep 0.01; done`))
	text := l.want(t, "up\n", 1)
	stop()
	l.want(t, "is killed", 1)
	var child int
	fmt.Sscanf(text[strings.LastIndex(text, "child="):], "child=%d", &child)
	if child == 0 {
		t.Fatalf("no child in %q", text)
	}
	// SIGKILL is sent, and takes hold when the kernel next lets the child run.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("its child %d still runs: %s", child, b)
		}
	}
}

func TestRestartTakesTheNewCommand(t *testing.T) {
	l := newLines()
	s := spec(l, "")
	n := 0
	s.Command = func() ([]string, []string) {
		n++
		return []string{"-c", fmt.Sprintf("echo start-%d. >&2; exec sleep 1000", n)}, []string{"PATH=/bin:/usr/bin"}
	}
	p, _ := run(t, s)
	l.want(t, "start-1.", 1)
	p.Restart()
	l.want(t, "start-2.", 1)
	if failing, _ := p.Failing(); failing {
		t.Error("a wanted restart counts as a failure")
	}
}

func TestRights(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give rights away")
	}
	l := newLines()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	s := spec(l, `grep -E 'Uid|Gid|Groups|Cap|NoNew' /proc/self/status >&2; cat /proc/self/oom_score_adj >&2; ps -o sid= -p $$ >&2; echo end >&2; sleep 1000`)
	s.UID, s.GID, s.Caps, s.OOM = 1000, 1001, []uintptr{unix.CAP_NET_BIND_SERVICE}, 300
	run(t, s)
	text := strings.Join(strings.Fields(l.want(t, "end\n", 1)), " ")
	const bind = "0000000000000400"
	for _, want := range []string{"Uid: 1000 1000 1000 1000", "Gid: 1001 1001 1001 1001", "Groups: ", "CapPrm: " + bind, "CapEff: " + bind, "CapBnd: " + bind, "CapAmb: " + bind, "NoNewPrivs: 1"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in %s", want, text)
		}
	}
	if strings.Contains(text, "Groups: 0") {
		t.Errorf("it is still in root's group: %s", text)
	}
	// Our own threads keep their rights.
	out, err := exec.Command("grep", "-h", "CapBnd", "/proc/self/status").Output()
	if err != nil || strings.Contains(string(out), bind) {
		t.Errorf("the next child of ours: %s, %v", out, err)
	}
}

func TestOnce(t *testing.T) {
	l := newLines()
	s := spec(l, "cat; echo problem >&2; exit 4")
	out, err := NewCrew().Once(t.Context(), s, strings.NewReader("in"))
	if string(out) != "in" || err == nil || !strings.Contains(err.Error(), "exit status 4") {
		t.Errorf("%q, %v", out, err)
	}
	l.want(t, "problem", 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := NewCrew().Once(ctx, spec(l, "sleep 1000"), nil); err == nil {
		t.Error("a cancelled program ended well")
	}
}

func TestReapTakesOrphansOnly(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skip("no subreaper:", err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	crew := NewCrew()
	ours := exec.Command("/bin/sh", "-c", "exit 7")
	if err := crew.Start(ours, nil); err != nil {
		t.Fatal(err)
	}
	// sh leaves an orphan behind that ends at once.
	l := newLines()
	if _, err := crew.Once(t.Context(), spec(l, "(exit 0) & exit 0"), nil); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		crew.Reap()
	}
	if err := ours.Wait(); err == nil || ours.ProcessState.ExitCode() != 7 {
		t.Errorf("our own child was taken for an orphan: %v", err)
	}
	crew.Forget(ours.Process.Pid)
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if crew.Reap(); unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD {
			return
		}
	}
	t.Error("an orphan is left")
}
