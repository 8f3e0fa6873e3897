// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hallig/tools/matrixclient"
	"hallig/tools/testpeer"
)

// central is a central server.
type central interface {
	name() string       // its server name
	federation() string // URL of its Server-Server API
	authority() *testpeer.CA
	register(ctx context.Context, localpart string) (*matrixclient.Client, error)
	// backedOff tells whether it has given the box up for now; how is for people.
	backedOff(ctx context.Context, box string) (off bool, how string, err error)
	// forgets is how long it can be seen afterwards that it had given the box up.
	forgets() time.Duration
	// process is its id; 0: not known.
	process() int
	// kill ends it as a power cut would, and starts it again. false: it cannot.
	kill(ctx context.Context) (bool, error)
	// tears says that a kill parts what it should keep together: what it has of a room from what it shows, what it has done of a transaction from its number.
	tears() bool
	close() error
}

// dendrite is the central server that tools/dendrite builds.
type dendrite struct {
	*testpeer.Peer
	ca *testpeer.CA
}

// gaveUpAfter is after how many failures Dendrite is to give up: after some 14 seconds. Its own 16 take 18 hours.
const gaveUpAfter = 3

func startDendrite(ctx context.Context, dir string) (*dendrite, error) {
	ca, err := testpeer.NewCA(dir)
	if err != nil {
		return nil, err
	}
	say("starting the central server (Dendrite)")
	p, err := testpeer.Start(ctx, testpeer.Options{Dir: dir, CA: ca, Retries: gaveUpAfter})
	if err != nil {
		return nil, err
	}
	return &dendrite{Peer: p, ca: ca}, nil
}

func (d *dendrite) name() string            { return d.Name }
func (d *dendrite) federation() string      { return d.Client }
func (d *dendrite) authority() *testpeer.CA { return d.ca }
func (d *dendrite) close() error            { return d.Close() }
func (d *dendrite) process() int            { return d.PID() }
func (d *dendrite) forgets() time.Duration  { return time.Hour } // its log keeps it
func (d *dendrite) tears() bool             { return true }      // rooms, timelines and devices are databases of their own; numbers of transactions are kept in memory

func (d *dendrite) register(ctx context.Context, localpart string) (*matrixclient.Client, error) {
	c := matrixclient.New(d.Client)
	return c, c.RegisterShared(ctx, d.Secret, localpart, password, false)
}

// backedOff reads it in the log, as Dendrite tells nobody else.
func (d *dendrite) backedOff(_ context.Context, box string) (bool, string, error) {
	off := false
	for line := range strings.SplitSeq(d.LogTail(1<<30), "\n") {
		if strings.Contains(line, box) && strings.Contains(strings.ToLower(line), "blacklist") {
			off = true
		}
	}
	if off {
		return true, fmt.Sprintf("it has given the box up after %d failures, and keeps nothing for it any more", gaveUpAfter), nil
	}
	return false, "it has not given the box up", nil
}

func (d *dendrite) kill(ctx context.Context) (bool, error) {
	if err := d.Kill(); err != nil {
		return true, err
	}
	return true, d.Restart(ctx)
}

// cpuOf gives the CPU time that a process has taken, from proc(5); 0 when it is not known.
func cpuOf(pid int) time.Duration {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(raw), ") ") // the name may hold spaces
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64) // hundredths of a second, here and there
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * 10 * time.Millisecond
}
