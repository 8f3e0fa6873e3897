// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hallig/sync/peer"
)

// The machines of these tests: a hub on the Internet, and two boxes, each behind a router of its own that does what routers at home do. Each is a network namespace; routers are the kernel's.
//
//	box a 10.1.0.2 -- 10.1.0.1 router a 198.51.100.2 --+
//	                                                   +-- the Internet, and the hub at 192.0.2.1
//	box b 10.2.0.2 -- 10.2.0.1 router b 198.51.100.6 --+

// natKey is the key of a machine that all know.
func natKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func natStatement(t *testing.T, name string) []byte {
	t.Helper()
	key := natKey(name)
	public := key.Public().(ed25519.PublicKey)
	b, err := peer.State(key, peer.Peer{Server: name + ".test", Serial: 1, SigningKeys: map[string]ed25519.PublicKey{"ed25519:1": public}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func natRoster(t *testing.T, names ...string) peer.Roster {
	t.Helper()
	var all []peer.Peer
	for _, n := range names {
		p, err := peer.ReadStatement(natStatement(t, n))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return peer.NewRoster(all...)
}

// natBox is set in the process that is a box: its name, and what must come of it.
const natBox, natWant = "HALLIG_TEST_BOX", "HALLIG_TEST_WANT"

// TestNATBox is the box; it does nothing unless TestPunchThroughRouters starts it.
func TestNATBox(t *testing.T) {
	name := os.Getenv(natBox)
	if name == "" {
		t.Skip("part of TestPunchThroughRouters")
	}
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil { // the network is there
		t.Fatal(err)
	}
	other := map[string]string{"a": "b", "b": "a"}[name]
	hub := natRoster(t, "hub").All()[0]
	h := newHost(t, func(c *Config) {
		c.Box, c.Statement, c.Roster = natKey(name), natStatement(t, name), natRoster(t, "hub", other)
		c.Through, c.Static, c.Listen = hub.Server, []string{"/ip4/192.0.2.1/tcp/4001/p2p/" + string(hub.ID)}, []string{"/ip4/0.0.0.0/tcp/4001"}
	})
	began := time.Now()
	far := natRoster(t, other).All()[0].ID
	state := func() (up, relayed bool) {
		for _, n := range h.Neighbours() {
			if n.Peer.ID == far {
				return n.Up, n.Relayed
			}
		}
		return false, false
	}
	say := func(what string) {
		done := make(chan error, 1)
		h.Send(string(far), 3, []byte(what), func(err error) { done <- err })
		if err := await(t, "done", done); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := await(t, "message", h.received); got != what {
			t.Errorf("received %q, want %q", got, what)
		}
		fmt.Printf("%s after %s\n", what, time.Since(began).Round(10*time.Millisecond))
	}
	if os.Getenv(natWant) == "straight" {
		eventually(t, "a straight way", func() bool { up, r := state(); return up && !r })
		say("straight")
	} else {
		eventually(t, "the other box", func() bool { up, _ := state(); return up })
		say("by the hub")
		time.Sleep(15 * time.Second) // attempts, each of which fails
		if up, r := state(); !up || !r {
			t.Errorf("up %v, relayed %v: the routers let something through", up, r)
		}
		say("still by the hub")
	}
	fmt.Println("well")
	_, _ = io.ReadAll(os.Stdin) // until the other has what it needs
}

// TestPunchThroughRouters: behind two routers that let nothing in and give a port inside one port outside, boxes become direct. Behind routers that take a new port for each far end
// they do not, and go on through the hub.
func TestPunchThroughRouters(t *testing.T) {
	if os.Getenv(inNamespace) == "" {
		for _, tool := range []string{"nft", "ip", "nsenter", "sleep"} {
			if _, err := exec.LookPath(tool); err != nil {
				t.Skipf("%v: install nftables, iproute2 and util-linux to try hole punching through routers", err)
			}
		}
	}
	if !inside(t) {
		return
	}
	for _, tt := range []struct{ want, masquerade string }{{"straight", "masquerade"}, {"relayed", "masquerade random,fully-random"}} {
		t.Run(tt.want, func(t *testing.T) { punchThrough(t, tt.want, tt.masquerade) })
	}
}

// heap is a buffer that one writes while others read.
type heap struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (h *heap) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.Write(p)
}

func (h *heap) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.b.String()
}

func punchThrough(t *testing.T, want, masquerade string) {
	do := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v %s", strings.Join(args, " "), err, out)
		}
	}
	if want == "straight" {
		do("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	hub := newHost(t, func(c *Config) {
		c.Box, c.Statement, c.Roster = natKey("hub"), natStatement(t, "hub"), natRoster(t, "a", "b")
		c.Listen, c.Meeting = []string{"/ip4/192.0.2.1/tcp/4001"}, true
	})
	newNet := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	said := map[string]*heap{}
	var ends []func()
	for i, name := range []string{"a", "b"} {
		router := exec.Command("sleep", "90")
		router.SysProcAttr = newNet
		box := exec.Command(os.Args[0], "-test.run=^TestNATBox$", "-test.v", "-test.timeout=10m")
		box.SysProcAttr = newNet
		box.Env = append(os.Environ(), natBox+"="+name, natWant+"="+want)
		out := &heap{}
		box.Stdout, box.Stderr, said[name] = out, out, out
		in, err := box.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []*exec.Cmd{router, box} {
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _, _ = router.Process.Kill(), router.Wait() })
		in4 := func(c *exec.Cmd, args ...string) {
			t.Helper()
			do(append([]string{"nsenter", "-t", fmt.Sprint(c.Process.Pid), "-n"}, args...)...)
		}
		wan, lan := fmt.Sprintf("198.51.100.%d", 4*i+2), fmt.Sprintf("10.%d.0", i+1)
		do("ip", "link", "add", "name", "w"+name, "type", "veth", "peer", "name", "wan", "netns", fmt.Sprint(router.Process.Pid))
		do("ip", "addr", "add", fmt.Sprintf("198.51.100.%d/30", 4*i+1), "dev", "w"+name)
		do("ip", "link", "set", "w"+name, "up")
		in4(router, "ip", "link", "add", "name", "lan", "type", "veth", "peer", "name", "eth", "netns", fmt.Sprint(box.Process.Pid))
		in4(router, "ip", "addr", "add", wan+"/30", "dev", "wan")
		in4(router, "ip", "addr", "add", lan+".1/24", "dev", "lan")
		for _, dev := range []string{"lo", "wan", "lan"} {
			in4(router, "ip", "link", "set", dev, "up")
		}
		in4(router, "ip", "route", "add", "default", "via", fmt.Sprintf("198.51.100.%d", 4*i+1))
		in4(router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
		in4(router, "nft", fmt.Sprintf(`add table ip r
			add chain ip r out { type nat hook postrouting priority 100; }
			add rule ip r out oifname wan %s
			add chain ip r pass { type filter hook forward priority 0; policy drop; }
			add rule ip r pass ct state established,related accept
			add rule ip r pass iifname lan accept
			add chain ip r self { type filter hook input priority 0; policy drop; }
			add rule ip r self ct state established,related accept`, masquerade))
		in4(box, "ip", "addr", "add", lan+".2/24", "dev", "eth")
		for _, dev := range []string{"lo", "eth"} {
			in4(box, "ip", "link", "set", dev, "up")
		}
		in4(box, "ip", "route", "add", "default", "via", lan+".1")
		ends = append(ends, func() {
			eventually(t, name+" to come to an end", func() bool { return strings.Contains(out.String(), "well\n") || strings.Contains(out.String(), "FAIL") })
		}, func() {
			_ = in.Close()
			if err := box.Wait(); err != nil {
				t.Errorf("box %s: %v\n%s", name, err, said[name].String())
			}
		})
		if _, err := in.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []int{0, 2, 1, 3} {
		ends[i]()
	}
	for name, out := range said {
		for line := range strings.SplitSeq(out.String(), "\n") {
			if strings.Contains(line, " after ") {
				t.Logf("box %s: %s", name, line)
			}
		}
	}
	if r := hub.Relayed(); r.Opened == 0 {
		t.Errorf("the hub has carried %+v", r)
	} else {
		t.Logf("the hub has carried %+v", r)
	}
	for _, name := range []string{"a", "b"} {
		do("ip", "link", "del", "w"+name)
	}
}
