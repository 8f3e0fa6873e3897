// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hallig/tools/matrixclient"
)

// lanFirstEvent plugs a cable into two paired boxes, one of which has another address than before, and times until a message that waited is
// there. The boxes run in network namespaces of their own, joined by a virtual cable, with nothing else in them.
func lanFirstEvent(ctx context.Context, b *bench) error {
	lan, err := layLAN(ctx)
	if err != nil {
		return fmt.Errorf("%w (the measurement needs the right to make network namespaces, and `ip`)", err)
	}
	defer lan.remove()
	return b.inDir(func(dirA string) error {
		return b.inDir(func(dirB string) error {
			times, err := lan.measure(ctx, b.hallig, dirA, dirB, 7)
			if err != nil {
				return err
			}
			slices.Sort(times)
			b.say("lan_first_event_s", times[len(times)/2].Seconds(), "s", fmt.Sprintf(
				"median of %d times: from the link coming up to the first event at the other box, found anew by mDNS at another address, no Internet; worst %.1f s", len(times), times[len(times)-1].Seconds()))
			return nil
		})
	})
}

// lan is two namespaces with a cable between them.
type lan struct{ names [2]string }

func layLAN(ctx context.Context) (*lan, error) {
	l := &lan{}
	steps := []string{}
	for i := range l.names {
		l.names[i] = fmt.Sprintf("hallig-bench-%d-%d", os.Getpid(), i)
		steps = append(steps, "netns add "+l.names[i], "-n "+l.names[i]+" link set lo up")
	}
	steps = append(steps, fmt.Sprintf("link add eth0 netns %s type veth peer name eth0 netns %s", l.names[0], l.names[1]))
	for i, name := range l.names {
		steps = append(steps, fmt.Sprintf("-n %s addr add 10.99.0.%d/24 dev eth0", name, i+1), "-n "+name+" link set eth0 up")
	}
	for _, s := range steps {
		if err := ip(ctx, s); err != nil {
			l.remove()
			return nil, err
		}
	}
	return l, nil
}

func ip(ctx context.Context, args string) error {
	if out, err := exec.CommandContext(ctx, "ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}

func (l *lan) remove() {
	for _, name := range l.names {
		_ = ip(context.Background(), "netns del "+name) // the measurement is over; what could not be removed is named by `ip netns`
	}
}

// within gives an HTTP client whose connections are opened in a namespace.
func within(name string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		ns, err := os.Open(filepath.Join("/run/netns", name))
		if err != nil {
			return nil, err
		}
		defer ns.Close()
		type dialled struct {
			conn net.Conn
			err  error
		}
		done := make(chan dialled)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, so nobody else comes to run in the namespace
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				done <- dialled{nil, fmt.Errorf("enter namespace: %w", err)}
				return
			}
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			done <- dialled{conn, err}
		}()
		d := <-done
		return d.conn, d.err
	}}}
}

// startIn runs a box in a namespace.
func (l *lan) startIn(ctx context.Context, i int, hallig, dir string) (*box, *matrixclient.Client, error) {
	config := `{"p2p":{"listen":["/ip4/0.0.0.0/tcp/4001"]}}`
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		return nil, nil, err
	}
	b := &box{dir: dir, base: "http://127.0.0.1:8008"}
	b.cmd = exec.CommandContext(ctx, "ip", "netns", "exec", l.names[i], hallig, "serve", "--data", dir, "--listen", "127.0.0.1:8008", "--open-registration", "--quiet")
	b.cmd.Stderr = &b.log
	b.cmd.Cancel = func() error { return b.cmd.Process.Signal(syscall.SIGTERM) }
	if err := b.cmd.Start(); err != nil {
		return nil, nil, err
	}
	c := matrixclient.New(b.base)
	c.HTTP = within(l.names[i])
	for begin := time.Now(); time.Since(begin) < 30*time.Second; {
		resp, err := c.HTTP.Get(b.base + "/_matrix/client/versions")
		if err == nil {
			resp.Body.Close()
			return b, c, nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			break
		}
	}
	b.stop()
	return nil, nil, fmt.Errorf("the box in %s did not answer: %s", l.names[i], b.log.String())
}

func (l *lan) measure(ctx context.Context, hallig, dirA, dirB string, rounds int) ([]time.Duration, error) {
	a, anna, err := l.startIn(ctx, 0, hallig, dirA)
	if err != nil {
		return nil, err
	}
	defer a.stop()
	b, bert, err := l.startIn(ctx, 1, hallig, dirB)
	if err != nil {
		return nil, err
	}
	defer b.stop()
	if err := pairBoxes(ctx, dirA, dirB); err != nil {
		return nil, err
	}
	room, since, err := meet(ctx, anna, bert)
	if err != nil {
		return nil, err
	}
	var times []time.Duration
	for i := range rounds {
		if err := ip(ctx, "-n "+l.names[1]+" link set eth0 down"); err != nil {
			return nil, err
		}
		if err := pause(ctx, 12*time.Second); err != nil { // both know by then that the other one is gone
			return nil, err
		}
		id, err := anna.SendText(ctx, room, "wartet")
		if err != nil {
			return nil, err
		}
		for _, s := range []string{"addr flush dev eth0", fmt.Sprintf("addr add 10.99.0.%d/24 dev eth0", 50+i), "link set eth0 up"} {
			if err := ip(ctx, "-n "+l.names[1]+" "+s); err != nil {
				return nil, err
			}
		}
		begin := time.Now()
		wait, cancel := context.WithTimeout(ctx, time.Minute)
		_, since, err = bert.WaitEvent(wait, since, room, func(e matrixclient.Event) bool { return e.ID == id })
		cancel()
		if err != nil {
			return nil, fmt.Errorf("round %d: wait for the message: %w", i, err)
		}
		times = append(times, time.Since(begin))
	}
	return times, nil
}
