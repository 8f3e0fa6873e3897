// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/clock"
	"hallig/appliance/lan"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
)

// lost is a box on which nobody vouches for the time, and nothing runs.
func lost(t *testing.T, cfg Config) *Box {
	t.Helper()
	cfg.Data, cfg.ServerName, cfg.P2P.Off, cfg.Listen = t.TempDir(), "a.test", true, "127.0.0.1:0"
	cfg.system = func() (clock.Reading, bool) { return clock.Reading{}, false }
	return startWith(t, cfg).Box
}

// TestUsersTellTheTime: through the front door, with tokens.
func TestUsersTellTheTime(t *testing.T) {
	b := lost(t, Config{})
	tokens := map[string]string{}
	for _, u := range []account.RegisterRequest{{Username: "anna"}, {Username: "bert"}, {Username: "chief", Admin: true}} {
		s, err := b.accounts.Register(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		tokens[u.Username] = s.AccessToken
	}
	now := firstRelease.AddDate(0, 2, 0)
	say := func(who string, at time.Time) (int, vouched) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+b.clientListener.Addr().String()+vouchPath, strings.NewReader(fmt.Sprintf(`{"time":%d}`, at.UnixMilli())))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tokens[who])
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var v vouched
		if err := json.NewDecoder(resp.Body).Decode(&v); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, v
	}
	if code, _ := say("stranger", now); code != http.StatusUnauthorized {
		t.Errorf("a stranger got %d", code)
	}
	if code, v := say("anna", now); code != 200 || v.Taken || v.Trusted {
		t.Errorf("one user: %d %+v", code, v)
	}
	if code, v := say("bert", now.Add(30*time.Second)); code != 200 || !v.Taken || !v.Trusted || time.UnixMilli(v.Time).Sub(now).Abs() > 10*time.Second {
		t.Errorf("two users: %d %+v, want about %d", code, v, now.UnixMilli())
	}
	if _, v := say("chief", now.Add(time.Hour)); !v.Taken {
		t.Errorf("the administrator: %+v", v)
	}
	if _, v := say("chief", now.AddDate(0, 0, -1)); v.Taken {
		t.Error("a device turned time back")
	}
	b.heardTime(clock.Reading{Time: now, Quality: clock.Told, Source: "box b.test"})
	if _, v := say("chief", now.Add(2*time.Hour)); v.Taken {
		t.Error("a device was heard over a box")
	}
	if s := b.clockStatus(); s.Source != "box b.test" {
		t.Errorf("status %+v", s)
	}
}

// TestReceiverOnTheLine: what a real line brings before and between the sentences.
func TestReceiverOnTheLine(t *testing.T) {
	b := lost(t, Config{})
	start := firstRelease.AddDate(0, 1, 0)
	var line strings.Builder
	line.WriteString(strings.Repeat("\x00\xffnoise", 300) + "\n$GPTXT,01,01,02,u-blox*00\r\n")
	for i := range 15 {
		body := "GNRMC," + start.Add(time.Duration(i)*time.Second).Format("150405.00,A,5331.5,N,00834.9,E,0.0,,020106") + ",,,A"
		sum := byte(0)
		for j := range len(body) {
			sum ^= body[j]
		}
		fmt.Fprintf(&line, "$%s*%02X\r\n", body, sum)
	}
	up := 100 * time.Second
	g := &clock.GPS{Released: b.released()}
	lines := 0
	err := b.readGPS(g, strings.NewReader(line.String()), func() time.Duration { lines++; return up + time.Duration(lines)*time.Second })
	if s := b.clock.State(); err == nil || s.Quality != clock.Satellite || s.Source != "GPS" || s.Time.Sub(start.Add(14*time.Second)).Abs() > time.Second {
		t.Errorf("after 15 sentences: %+v, %v", s, err)
	}
	b.cfg.ClockGPS.Device = "/dev/hallig/gps"
	if n := b.clockNotes(); len(n) != 0 {
		t.Errorf("a good receiver is complained about: %v", n)
	}
	g.Lost()
	b.noteGPS(g.State())
	if n := b.clockNotes(); len(n) != 1 || !strings.Contains(n[0].DE, "/dev/hallig/gps schweigt") {
		t.Errorf("a silent receiver: %v", n)
	}
}

// TestWhomToAsk: configured servers, else those of the network, else nobody.
func TestWhomToAsk(t *testing.T) {
	run := t.TempDir()
	b := &Box{cfg: Config{Run: run}}
	if s, _ := b.timeServers(); len(s) != 0 {
		t.Errorf("with nothing configured %v are asked", s)
	}
	if err := os.Mkdir(filepath.Join(run, "lan"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(run, lan.StateFile), `{"interfaces":[{"name":"eth0","mode":"guest","addresses":[],"ntp":["192.168.7.254","fd00::1"]}]}`)
	if s, q := b.timeServers(); !slices.Equal(s, []string{"192.168.7.254:123", "[fd00::1]:123"}) || q != clock.Named {
		t.Errorf("the network names %v, %v", s, q)
	}
	b.cfg.ClockNTP, b.cfg.Provisioned.Network = []string{"ptbtime1.ptb.de"}, provision.Network{NTP: []string{"10.0.0.1"}}
	if s, q := b.timeServers(); !slices.Equal(s, []string{"ptbtime1.ptb.de", "10.0.0.1:123"}) || q != clock.Exact {
		t.Errorf("configured are %v, %v", s, q)
	}
}

// TestTimeHandedOn: the steward is told when the time is known or better known, and what the hardware said is not told back to it.
func TestTimeHandedOn(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, "steward.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var told []time.Time
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in steward.Time
		if r.Method != "PUT" || r.URL.Path != "/clock" || steward.Decode(r.Body, &in) != nil {
			t.Errorf("%s %s", r.Method, r.URL.Path)
		}
		told = append(told, in.Time)
		w.WriteHeader(http.StatusNoContent)
	})}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
	b := lost(t, Config{})
	b.steward = steward.Dial(filepath.Join(dir, "steward.sock"))
	now := firstRelease.AddDate(0, 1, 0)
	for _, step := range []struct {
		quality clock.Quality
		want    int
	}{{0, 0}, {clock.Kept, 0}, {clock.Told, 1}, {clock.Told, 1}, {clock.Exact, 2}, {clock.Exact, 2}} {
		if step.quality > 0 {
			b.heardTime(clock.Reading{Time: now, Quality: step.quality, Source: "x"})
		}
		b.handTimeOn(t.Context())
		if len(told) != step.want {
			t.Errorf("after %v the steward was told %d times, want %d", step.quality, len(told), step.want)
		}
	}
	if len(told) > 0 && told[0].Sub(now).Abs() > time.Minute {
		t.Errorf("told %v, want %v", told[0], now)
	}
	var m clock.RTCMark
	raw, err := os.ReadFile(filepath.Join(b.cfg.Data, rtcFile))
	if err != nil || json.Unmarshal(raw, &m) != nil || m.Quality != clock.Exact || time.Unix(m.Set, 0).Sub(now).Abs() > time.Minute {
		t.Errorf("noted %s, %v", raw, err)
	}
}
