// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"hallig/appliance/steward"
	"hallig/appliance/supervise"
)

// This file starts the programs of the image and looks whether the homeserver answers.

const serverGrace = 25 * time.Second // to close the database in order

// halligArgs is the homeserver's command line on the image.
func (b *box) halligArgs() []string {
	args := []string{"serve", "--data", filepath.Join(b.at.Perm, "hallig"), "--run", b.at.Run}
	if _, err := os.Stat(b.at.run("provision.json")); err == nil {
		args = append(args, "--provision", b.at.run("provision.json"))
	}
	if b.trial.Load() && !b.confirmed() {
		args = append(args, "--trial")
	}
	return args
}

// memoryLimits divides a machine's memory: what the Go runtime of each program treats as its end, softly. A box with 256 MB carries twenty users.
func memoryLimits(total int64) (hallig, lan int64) {
	const mib = 1 << 20
	if total <= 0 {
		total = 256 * mib
	}
	hallig = max(56*mib, total*4/10)
	return min(hallig, 1024*mib), 20 * mib
}

func (b *box) startHallig() {
	total, _ := b.memory()
	limit, _ := memoryLimits(total)
	data := filepath.Join(b.at.Perm, "hallig")
	p := b.start(supervise.Spec{
		Name: "hallig", Path: "/user/hallig", Dir: data, UID: uidHallig, GID: uidHallig, Caps: []uintptr{unix.CAP_NET_BIND_SERVICE},
		OOM: 200, Grace: serverGrace,
		Command: func() ([]string, []string) {
			return b.halligArgs(), []string{
				"HOME=" + data, "PATH=/user", "TMPDIR=/tmp", "SQLITE_TMPDIR=" + filepath.Join(data, "tmp"),
				fmt.Sprintf("GOMEMLIMIT=%d", limit),
			}
		},
	})
	b.mu.Lock()
	b.hallig, b.answered = p, time.Now()
	b.mu.Unlock()
}

func (b *box) startLAN() {
	b.mu.Lock()
	there := b.lan != nil
	b.mu.Unlock()
	if there {
		return
	}
	total, _ := b.memory()
	_, limit := memoryLimits(total)
	p := b.start(supervise.Spec{
		Name: "hallig-lan", Path: "/user/hallig-lan", Dir: "/", UID: uidLAN, GID: uidLAN,
		Caps: []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE}, OOM: -200,
		Command: func() ([]string, []string) {
			return []string{"--run", b.at.Run}, []string{"HOME=/", "PATH=/user", fmt.Sprintf("GOMEMLIMIT=%d", limit)}
		},
	})
	b.mu.Lock()
	b.lan = p
	b.mu.Unlock()
}

// startPage serves one sentence at port 80, where the homeserver would be, as a process without rights.
func (b *box) startPage(t steward.Text) {
	raw, err := json.Marshal(t)
	if err != nil {
		b.log.Printf("page: %v", err)
		return
	}
	b.start(supervise.Spec{
		Name: "page", Path: "/gokrazy/init", Dir: "/", UID: uidPage, GID: uidPage, Caps: []uintptr{unix.CAP_NET_BIND_SERVICE}, OOM: 500,
		Command: func() ([]string, []string) { return []string{"page", string(raw)}, []string{"GOMEMLIMIT=16777216"} },
	})
}

// start keeps a program running until the box ends.
func (b *box) start(s supervise.Spec) *supervise.Process {
	s.Log = b.rings.Ring(s.Name)
	p := b.crew.Process(s)
	b.mu.Lock()
	b.procs = append(b.procs, p)
	b.mu.Unlock()
	b.working.Go(func() { p.Run(b.running) })
	return p
}

// health is what init needs of the homeserver's own tree (package health).
type health struct {
	OK       bool         `json:"ok"`
	Sentence steward.Text `json:"sentence"`
	Nodes    []struct {
		ID       string       `json:"id"`
		Kind     string       `json:"kind"`
		State    string       `json:"state"`
		Sentence steward.Text `json:"sentence"`
	} `json:"nodes"`
}

// local asks the homeserver's own door.
func (b *box) local(ctx context.Context, method, path string, into any) error {
	socket := filepath.Join(b.at.Perm, "hallig", "hallig.sock")
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://hallig"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s", method, path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into)
}

const (
	lookEvery = 10 * time.Second
	// patience is how long a homeserver that has answered before may be silent. It is long: a full or dying disk makes it slow, and to end it
	// would not help.
	patience = 5 * time.Minute
)

// lookAfter asks the homeserver now and then how it is, beside the main loop, and ends one that hangs.
func (b *box) lookAfter() {
	b.mu.Lock()
	server, answered := b.hallig, b.answered
	b.mu.Unlock()
	if server == nil || !b.judging.CompareAndSwap(false, true) {
		return
	}
	b.working.Go(func() {
		defer b.judging.Store(false)
		ctx, cancel := context.WithTimeout(b.running, lookEvery)
		defer cancel()
		var h health
		err := b.local(ctx, http.MethodGet, "/health", &h)
		now := time.Now()
		switch status := server.Status(); {
		case b.running.Err() != nil:
			return
		case err == nil:
			b.mu.Lock()
			b.answered, b.deaf = now, 0
			b.mu.Unlock()
			b.say("server", steward.Text{})
			b.keepName()
			b.judge(h)
		case hung(now.Sub(answered), time.Duration(status.Uptime*float64(time.Second)), status.PID != 0):
			b.mu.Lock()
			immortal := b.deaf != 0 && b.deaf == status.PID
			b.answered, b.deaf = now, status.PID
			b.mu.Unlock()
			if immortal && uptime() > time.Hour {
				// It waits for a disk that does not come back. Only the machine's restart ends that; once an hour at most.
				b.ask(ending{kind: restart, why: "the homeserver hangs and cannot be ended"})
				return
			}
			b.log.Printf("the homeserver does not answer (%v): it is ended and starts again; what it did is in its log", err)
			server.Dump()
		default:
			if failing, how := server.Failing(); failing {
				b.say("server", steward.Text{
					De: "Der Nachrichtendienst startet nicht (" + how + "). Box neu starten; hilft es nicht, einen Stick mit einer leeren Datei hallig-logs einstecken: die Box schreibt ihre Protokolle darauf.",
					En: "The message service does not start (" + how + "). Restart the box; if that does not help, plug in a stick with an empty file hallig-logs: the box writes its logs onto it.",
				})
			}
			b.judgeSilence(status)
		}
		select {
		case <-b.running.Done():
		case <-time.After(lookEvery - min(lookEvery, time.Since(now))):
		}
	})
}

// hung says whether a homeserver that runs has been silent for too long. The first answer after a start may take long: it may copy and migrate a
// large database.
func hung(silent, uptime time.Duration, runs bool) bool {
	return runs && silent > patience && uptime > 3*patience
}
