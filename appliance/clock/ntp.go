// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/beevik/ntp"
)

// NTP asks time servers. One that stands alone is believed; of several more than half must agree, otherwise none is. It asks nobody but the servers
// it is given, every 17 minutes, and obeys one that wants to be left alone. Run may be called once; State at any time.
type NTP struct {
	// Servers gives whom to ask now: those that were configured, or those that the network names, with the Quality that they have then.
	Servers func() ([]string, Quality)
	// Ask asks one; nil: by NTP, within 5 seconds.
	Ask func(ctx context.Context, server string, uptime func() time.Duration) (Answer, error)
	// Set takes a reading.
	Set    func(Reading)
	Uptime func() time.Duration // nil: as Linux says

	mu    sync.Mutex
	state NTPState
}

// Answer is what a server said: the time at an uptime, and how far it may be off.
type Answer struct {
	Time   time.Time
	Uptime time.Duration
	Off    time.Duration
}

// at is the time at another uptime.
func (a Answer) at(up time.Duration) time.Time { return a.Time.Add(up - a.Uptime) }

// NTPState tells how the asking goes.
type NTPState struct {
	Asked    int // servers, the last time
	Answered int
	Agreed   int
	Err      string // of one that did not answer
}

const (
	ntpEvery   = 1024 * time.Second
	ntpAgain   = 64 * time.Second // after a failure, doubled each time
	ntpAgree   = 2 * time.Second  // besides how far each may be off
	ntpServers = 8
)

// ErrLeaveAlone says that a server does not want to be asked again.
var ErrLeaveAlone = errors.New("the server wants to be left alone")

// ErrSlower says that a server wants to be asked less often.
var ErrSlower = errors.New("the server wants to be asked less often")

// State tells how the asking goes.
func (n *NTP) State() NTPState {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state
}

// Run asks until ctx ends.
func (n *NTP) Run(ctx context.Context) {
	if n.Ask == nil {
		n.Ask = askNTP
	}
	if n.Uptime == nil {
		n.Uptime = uptime
	}
	alone := map[string]bool{}
	pause := map[string]time.Duration{} // at least, by server
	next := map[string]time.Duration{}  // uptime from which a server may be asked
	again := ntpAgain
	var before []string
	for {
		servers, quality := n.Servers()
		servers = slices.Clone(servers[:min(len(servers), ntpServers)])
		if !slices.Equal(servers, before) { // another network
			before, again = slices.Clone(servers), ntpAgain
			clear(alone)
			clear(pause)
			clear(next)
		}
		up := n.Uptime()
		servers = slices.DeleteFunc(servers, func(s string) bool { return alone[s] || up < next[s] })
		wait := ntpAgain // until there are servers
		if len(servers) > 0 {
			answers, errs := n.askAll(ctx, servers)
			if ctx.Err() != nil {
				return
			}
			for i, s := range servers {
				switch {
				case errors.Is(errs[i], ErrLeaveAlone):
					alone[s] = true
				case errors.Is(errs[i], ErrSlower):
					pause[s] = min(max(2*pause[s], 2*ntpEvery), 36*time.Hour)
				}
				if pause[s] > 0 {
					next[s] = n.Uptime() + pause[s]
				}
			}
			up = n.Uptime()
			t, agreed, ok := agree(answers, up)
			n.note(len(servers), len(answers), agreed, errs)
			if wait = ntpEvery; ok {
				again = ntpAgain
				n.Set(Reading{Time: t, Quality: quality, Source: "time server " + strings.Join(servers, ", ")})
			} else {
				wait, again = again, min(2*again, ntpEvery)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (n *NTP) note(asked, answered, agreed int, errs []error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.state = NTPState{Asked: asked, Answered: answered, Agreed: agreed}
	for _, err := range errs {
		if err != nil {
			n.state.Err = err.Error()
		}
	}
}

// askAll asks all at once, and gives the answers and, for each server, the error.
func (n *NTP) askAll(ctx context.Context, servers []string) (answers []Answer, errs []error) {
	var wait sync.WaitGroup
	all := make([]Answer, len(servers))
	errs = make([]error, len(servers))
	for i, s := range servers {
		wait.Go(func() { all[i], errs[i] = n.Ask(ctx, s, n.Uptime) })
	}
	wait.Wait()
	for i, err := range errs {
		if err == nil {
			answers = append(answers, all[i])
		}
	}
	return answers, errs
}

// agree gives the time at an uptime on which more than half of the answers agree, with how many did. The earliest of them is taken: the box may
// lag, it must not lead.
func agree(answers []Answer, up time.Duration) (t time.Time, agreed int, ok bool) {
	for _, a := range answers {
		n := 0
		earliest := a.at(up)
		for _, b := range answers {
			if d := b.at(up).Sub(a.at(up)); d.Abs() <= ntpAgree+a.Off+b.Off {
				n++
				if b.at(up).Before(earliest) {
					earliest = b.at(up)
				}
			}
		}
		if n > agreed {
			t, agreed = earliest, n
		}
	}
	return t, agreed, 2*agreed > len(answers)
}

// askNTP asks one server. Time here is counted by uptime, so that a step of the system's clock meanwhile does no harm.
func askNTP(ctx context.Context, server string, uptime func() time.Duration) (Answer, error) {
	base := time.Unix(1_700_000_000, 0)
	here := func() time.Time { return base.Add(uptime()) }
	r, err := ntp.QueryWithOptions(server, ntp.QueryOptions{
		Timeout: 5 * time.Second, GetSystemTime: here,
		Dialer: func(_, remote string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "udp", remote)
		},
	})
	if err != nil {
		return Answer{}, fmt.Errorf("ask %s for the time: %w", server, err)
	}
	if r.IsKissOfDeath() {
		switch r.KissCode {
		case "DENY", "RSTR":
			return Answer{}, fmt.Errorf("%s: %w", server, ErrLeaveAlone)
		case "RATE":
			return Answer{}, fmt.Errorf("%s: %w", server, ErrSlower)
		}
	}
	if err := r.Validate(); err != nil {
		return Answer{}, fmt.Errorf("ask %s for the time: %w", server, err)
	}
	up := uptime()
	return Answer{Time: base.Add(up + r.ClockOffset), Uptime: up, Off: min(r.RootDistance, ntpAgree)}, nil
}
