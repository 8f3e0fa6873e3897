// SPDX-License-Identifier: EUPL-1.2

package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAgreement(t *testing.T) {
	truth := time.Date(2026, 11, 26, 14, 0, 0, 0, time.UTC)
	off := func(offs ...time.Duration) (out []Answer) {
		for _, d := range offs {
			out = append(out, Answer{Time: truth.Add(d), Uptime: 0, Off: 50 * time.Millisecond})
		}
		return out
	}
	for _, c := range []struct {
		name    string
		answers []Answer
		want    time.Duration
		agreed  int
		ok      bool
	}{
		{"nobody", nil, 0, 0, false},
		{"one", off(0), 0, 1, true},
		{"two agree", off(0, time.Second), 0, 2, true},
		{"two differ", off(0, time.Hour), 0, 1, false},
		{"one of three is wrong", off(time.Hour, 0, -time.Second), -time.Second, 2, true},
		{"three differ", off(0, time.Hour, -time.Hour), 0, 1, false},
		{"half is no majority", off(0, 0, time.Hour, time.Hour), 0, 2, false},
		{"answers at different times", []Answer{{Time: truth, Uptime: 0}, {Time: truth.Add(10 * time.Second), Uptime: 10 * time.Second}}, 0, 2, true},
	} {
		got, agreed, ok := agree(c.answers, 0)
		if agreed != c.agreed || ok != c.ok || ok && !got.Equal(truth.Add(c.want)) {
			t.Errorf("%s: %v, %d, %v", c.name, got, agreed, ok)
		}
	}
}

// TestAsking: whom the client asks, and when, over a day of virtual time.
func TestAsking(t *testing.T) {
	type call struct {
		server string
		at     time.Duration
	}
	run := func(t *testing.T, servers func(at time.Duration) []string, answer func(server string, at time.Duration) error, hours int) (calls []call, set []Reading) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			up := func() time.Duration { return time.Since(start) }
			var n *NTP
			n = &NTP{
				Servers: func() ([]string, Quality) { return servers(up()), Exact }, Uptime: up,
				Ask: func(_ context.Context, server string, uptime func() time.Duration) (Answer, error) {
					n.mu.Lock()
					calls = append(calls, call{server, up()})
					n.mu.Unlock()
					return Answer{Time: released.Add(uptime()), Uptime: uptime()}, answer(server, up())
				},
				Set: func(r Reading) { set = append(set, r) },
			}
			ctx, stop := context.WithTimeout(t.Context(), time.Duration(hours)*time.Hour)
			defer stop()
			n.Run(ctx)
		})
		return calls, set
	}
	always := func(names ...string) func(time.Duration) []string {
		return func(time.Duration) []string { return names }
	}
	fine := func(string, time.Duration) error { return nil }

	if calls, _ := run(t, always(), fine, 24); len(calls) != 0 {
		t.Errorf("without servers %d questions were sent", len(calls))
	}
	calls, set := run(t, always("a"), fine, 24)
	if len(calls) < 80 || len(calls) > 90 || len(set) != len(calls) || set[0].Quality != Exact || !strings.Contains(set[0].Source, "a") {
		t.Errorf("%d questions in a day, %d readings", len(calls), len(set))
	}
	// Nobody answers: it gives up to 17 minutes between the questions.
	calls, set = run(t, always("a"), func(string, time.Duration) error { return errors.New("no route") }, 24)
	if len(set) != 0 || len(calls) < 80 || len(calls) > 100 || calls[1].at-calls[0].at != ntpAgain || calls[2].at-calls[1].at != 2*ntpAgain {
		t.Errorf("%d questions to a dead server in a day", len(calls))
	}
	// One wants to be left alone, until the network is another one.
	calls, _ = run(t, func(at time.Duration) []string {
		if at > 20*time.Hour {
			return []string{"a", "b"}
		}
		return []string{"a"}
	}, func(s string, _ time.Duration) error {
		if s == "a" {
			return ErrLeaveAlone
		}
		return nil
	}, 24)
	asked := 0
	for _, c := range calls {
		if c.server == "a" {
			asked++
		}
	}
	if asked != 2 {
		t.Errorf("the server that wants to be left alone was asked %d times, want once on each network", asked)
	}
	// One wants to be asked less often.
	calls, _ = run(t, always("a"), func(string, time.Duration) error { return ErrSlower }, 24)
	if len(calls) > 7 {
		t.Errorf("the server that wants to be asked less often was asked %d times in a day", len(calls))
	}
	for i := 1; i < len(calls); i++ {
		if gap := calls[i].at - calls[i-1].at; gap < 2*ntpEvery {
			t.Errorf("asked again after %v", gap)
		}
	}
}

// server is a time server on the loopback; change may spoil its answers.
func server(t *testing.T, ahead time.Duration, change func(b []byte) []byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		for {
			q := make([]byte, 512)
			n, from, err := c.ReadFrom(q)
			if err != nil {
				return
			}
			if n < 48 {
				continue
			}
			b := make([]byte, 48)
			b[0], b[1], b[2], b[3] = 4<<3|4, 2, 6, 0xec // version 4, server, stratum 2
			now := time.Now().Add(ahead)
			stamp := func(at []byte, t time.Time) {
				binary.BigEndian.PutUint32(at, uint32(t.Unix()+2_208_988_800))
				binary.BigEndian.PutUint32(at[4:], uint32(uint64(t.Nanosecond())<<32/1e9))
			}
			stamp(b[16:], now.Add(-time.Second))
			copy(b[24:32], q[40:48])
			stamp(b[32:], now)
			stamp(b[40:], now)
			if change != nil {
				b = change(b)
			}
			c.WriteTo(b, from)
		}
	}()
	return c.LocalAddr().String()
}

// TestServers: real questions to servers on the loopback.
func TestServers(t *testing.T) {
	const ahead = 1000 * time.Hour // the box's own clock lags
	kiss := func(code string) func([]byte) []byte {
		return func(b []byte) []byte {
			b[1] = 0
			copy(b[12:16], code)
			return b
		}
	}
	began := time.Now()
	a, err := askNTP(t.Context(), server(t, ahead, nil), uptime)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began) // question and answer: what the time may be off by, as nobody knows which way was the slow one
	if d := a.at(uptime()).Sub(time.Now().Add(ahead)); d.Abs() > time.Second+took {
		t.Errorf("off by %v after a round of %v", d, took)
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		want   error
	}{
		"leave me alone":   {kiss("DENY"), ErrLeaveAlone},
		"not this kind":    {kiss("RSTR"), ErrLeaveAlone},
		"slower":           {kiss("RATE"), ErrSlower},
		"another kiss":     {kiss("INIT"), nil},
		"not in step":      {func(b []byte) []byte { b[0] |= 0xc0; return b }, nil},
		"stratum 16":       {func(b []byte) []byte { b[1] = 16; return b }, nil},
		"another's answer": {func(b []byte) []byte { b[24] ^= 1; return b }, nil},
		"no answer":        {func(b []byte) []byte { return b[:20] }, nil},
		"a question":       {func(b []byte) []byte { b[0] = 4<<3 | 3; return b }, nil},
	} {
		ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
		_, err := askNTP(ctx, server(t, 0, c.change), uptime)
		stop()
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}
