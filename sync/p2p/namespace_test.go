// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hallig/sync/peer"
)

// The tests of what a network does run in a network namespace of their own, with nothing in it but a loopback that can
// do multicast and can be taken away: the test binary runs itself there.
const inNamespace = "HALLIG_TEST_NAMESPACE"

// inside runs the named test in a namespace; the caller returns if it answers false.
func inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		setLoopback(t, true)
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && !strings.Contains(string(out), noRights):
		t.Errorf("in its namespace: %v\n%s", err, out)
	default:
		t.Logf("this machine gives no network namespaces, so nothing was tested here: %v", err)
	}
	return false
}

const noRights = "no rights in the namespace"

// setLoopback brings the loopback of the namespace up or down.
func setLoopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	flags := uint16(unix.IFF_LOOPBACK | unix.IFF_MULTICAST)
	if up {
		flags |= unix.IFF_UP | unix.IFF_RUNNING
	}
	ifr.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatalf("%s: %v", noRights, err)
	}
}

// TestFindByMDNS: two boxes that know nothing of each other pair by a typed code, and find each other again after a
// restart, by discovery alone; a third one comes later.
func TestFindByMDNS(t *testing.T) {
	if !inside(t) {
		return
	}
	onNet := func(c *Config) { c.NoMDNS = false }
	a, b := newHost(t, onNet), newHost(t, onNet)
	code, _, err := a.ShowCode(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), inTime)
	defer cancel()
	if p, err := b.Take(ctx, code.String(), ""); err != nil || p.ID != a.ID() {
		t.Fatalf("Take by mDNS: %s, %v", p.ID.Short(), err)
	}
	await(t, "up", a.up)
	await(t, "up", b.up)

	self, err := peer.ReadStatement(b.cfg.Statement)
	if err != nil {
		t.Fatal(err)
	}
	far, err := peer.ReadStatement(a.cfg.Statement)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	await(t, "down", a.down)
	again := newHost(t, func(c *Config) { // another port: only discovery can tell
		c.Box, c.Statement, c.Roster, c.NoMDNS = b.cfg.Box, b.cfg.Statement, peer.NewRoster(far), false
	})
	if again.ID() != self.ID {
		t.Fatal("the test mixed up its boxes")
	}
	await(t, "up", a.up)
	await(t, "up", again.up)
}

// TestNetworkGone: the network goes without a word and comes back; the boxes notice both by themselves, and are
// together again within two seconds of its return.
func TestNetworkGone(t *testing.T) {
	if !inside(t) {
		return
	}
	faster := func(h *testHost) {
		h.life, h.quiet = 200*time.Millisecond, time.Second
	}
	a, b := newHost(t, nil), newHost(t, nil)
	faster(a)
	faster(b)
	pairHosts(t, a, b)
	for range 2 {
		setLoopback(t, false)
		lost := a.send(b, 3, "into the void")
		await(t, "down", a.down)
		await(t, "down", b.down)
		if err := await(t, "done", lost); err == nil {
			t.Error("a message arrived without a network")
		}
		setLoopback(t, true)
		back := time.Now()
		await(t, "up", a.up)
		await(t, "up", b.up)
		if took := time.Since(back); took > 12*time.Second { // less than the longest pause between tries
			t.Errorf("together again %s after the network came back", took)
		}
		if err := await(t, "done", a.send(b, 3, "and back")); err != nil {
			t.Error(err)
		}
		if got := await(t, "message", b.received); got != "and back" {
			t.Errorf("received %q", got)
		}
	}
}
