// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sync/errgroup"

	"hallig/appliance/clock"
	"hallig/appliance/health"
	"hallig/radio/serial"
)

// This file hands the clock its further sources: satellite receiver, time servers, the hardware's clock and users' devices; and hands the time on to the
// system and its hardware, where the box runs from the image.

const (
	rtcFile   = "rtc.json" // what the box remembers of the hardware's clock
	reopenGPS = 10 * time.Second
	handOn    = time.Minute   // how often the box looks whether the system should be told
	handAgain = 6 * time.Hour // how often it is told without a reason
	vouchPath = "/_hallig/v1/clock"
	ntpPort   = 123
)

// sources are what the box knows of its sources of time. The zero value works.
type sources struct {
	ntp      clock.NTP
	vouchers clock.Vouchers

	mu   sync.Mutex
	gps  clock.GPSState
	rtc  string // why the hardware's clock is not believed
	told struct {
		quality clock.Quality
		at      time.Duration // uptime
		once    bool
	}
}

// readHardware asks the hardware's clock, once, at the start.
func (b *Box) readHardware() {
	var m clock.RTCMark
	raw, err := os.ReadFile(filepath.Join(b.cfg.Data, rtcFile))
	if err != nil || json.Unmarshal(raw, &m) != nil {
		return // it was never set by this box
	}
	r, ok, why := clock.RTC(os.DirFS("/sys"), m, b.clock.Now())
	b.sources.rtc = why
	if ok {
		b.heardTime(r)
	}
}

// runSources asks further sources until ctx ends.
func (b *Box) runSources(ctx context.Context, g *errgroup.Group) {
	s := &b.sources
	s.ntp.Servers, s.ntp.Uptime = b.timeServers, b.clock.Uptime
	s.ntp.Set = func(r clock.Reading) { b.heardTime(r) }
	g.Go(func() error {
		s.ntp.Run(ctx)
		return nil
	})
	if b.cfg.ClockGPS.Device != "" {
		g.Go(func() error {
			b.hearGPS(ctx)
			return nil
		})
	}
	if b.steward != nil {
		g.Go(func() error {
			every(ctx, handOn, func() { b.handTimeOn(ctx) })
			return nil
		})
	}
}

// timeServers are those that were configured, here or by the policy, otherwise those that the network names. A box asks no others: where nothing is configured, nobody in
// the world hears of it.
func (b *Box) timeServers() ([]string, clock.Quality) {
	var configured, named []string
	own := slices.Concat(b.cfg.ClockNTP, b.cfg.Provisioned.Network.NTP)
	if len(own) == 0 {
		own = b.settings().ClockNTP
	}
	for _, s := range own {
		if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
			s = netip.AddrPortFrom(a, ntpPort).String()
		}
		configured = append(configured, s)
	}
	if len(configured) > 0 {
		return configured, clock.Exact
	}
	if s, ok := b.lanState(); ok {
		for _, i := range s.Interfaces {
			for _, a := range i.NTP {
				named = append(named, netip.AddrPortFrom(a, ntpPort).String())
			}
		}
	}
	return named, clock.Named
}

// hearGPS listens to the receiver until ctx ends. Receivers come and go with their plugs.
func (b *Box) hearGPS(ctx context.Context) {
	g := &clock.GPS{Released: b.released()}
	for ctx.Err() == nil {
		port, err := serial.Open(ctx, serial.Config{Device: b.cfg.ClockGPS.Device, BitsPerSecond: b.cfg.ClockGPS.Baud})
		if err == nil {
			stop := context.AfterFunc(ctx, func() { port.Close() })
			err = b.readGPS(g, port, b.clock.Uptime)
			stop()
			port.Close()
		}
		g.Lost()
		b.noteGPS(g.State())
		b.log.Debug("GPS receiver lost; it is looked for again", "device", b.cfg.ClockGPS.Device, "err", err)
		select {
		case <-time.After(reopenGPS):
		case <-ctx.Done():
		}
	}
}

// readGPS takes the receiver's lines until r ends. Noise without line ends is passed over.
func (b *Box) readGPS(g *clock.GPS, r io.Reader, uptime func() time.Duration) error {
	in := bufio.NewReaderSize(r, 512)
	for whole := true; ; {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			whole = false
			continue
		}
		if err != nil {
			return err
		}
		if whole {
			if reading, ok := g.Line(string(line), uptime()); ok {
				b.heardTime(reading)
			}
			b.noteGPS(g.State())
		}
		whole = true
	}
}

func (b *Box) noteGPS(s clock.GPSState) {
	b.sources.mu.Lock()
	b.sources.gps = s
	b.sources.mu.Unlock()
}

// handTimeOn sets the system's clock, and the hardware's, when the box knows the time better than before, and now and then. What the hardware itself
// has said is not told back to it.
func (b *Box) handTimeOn(ctx context.Context) {
	c, up := b.clock.State(), b.clock.Uptime()
	told := &b.sources.told
	b.sources.mu.Lock()
	due := c.Quality > clock.Untrusted && c.Quality != clock.Kept && (!told.once || c.Quality > told.quality || up-told.at > handAgain)
	b.sources.mu.Unlock()
	if !due {
		return
	}
	now := b.clock.Now()
	if err := b.steward.SetClock(ctx, now); err != nil {
		b.log.Warn("the system's clock is not set", "err", err)
		return
	}
	b.sources.mu.Lock()
	told.quality, told.at, told.once = c.Quality, up, true
	b.sources.mu.Unlock()
	raw, err := json.Marshal(clock.RTCMark{Set: now.Unix(), Quality: c.Quality, Machine: clock.Machine(os.DirFS("/sys"))})
	if err == nil {
		err = renameio.WriteFile(filepath.Join(b.cfg.Data, rtcFile), raw, 0o600)
	}
	if err != nil {
		b.log.Warn("that the hardware's clock was set is not noted", "err", err)
	}
}

// vouching adds the way for users' devices to tell the time: POST {"time": MILLISECONDS} with an access token. The lowest rank: an
// administrator's device alone, or those of two users that agree.
func (b *Box) vouching(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != vouchPath {
			next.ServeHTTP(w, r)
			return
		}
		code, answer := b.vouch(r)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			b.log.Debug("answer a device that told the time", "err", err)
		}
	})
}

// vouched is the answer: whether the clock took it, and how it stands.
type vouched struct {
	Taken   bool   `json:"taken"`
	Trusted bool   `json:"trusted"`
	Time    int64  `json:"time"`
	Quality string `json:"quality"`
}

func (b *Box) vouch(r *http.Request) (int, any) {
	type refusal struct {
		Code string `json:"errcode"`
		Text string `json:"error"`
	}
	if r.Method != http.MethodPost {
		return http.StatusMethodNotAllowed, refusal{"M_UNRECOGNIZED", "POST the time here"}
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s, err := b.accounts.Auth(r.Context(), token)
	if err != nil || s.Guest {
		return http.StatusUnauthorized, refusal{"M_UNKNOWN_TOKEN", "only users of this box may tell it the time"}
	}
	var in struct {
		Time int64 `json:"time"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1024)).Decode(&in); err != nil || in.Time <= 0 {
		return http.StatusBadRequest, refusal{"M_BAD_JSON", `want {"time": milliseconds since 1970}`}
	}
	taken := false
	if reading, ok := b.sources.vouchers.Say(string(s.User), s.Admin, time.UnixMilli(in.Time), b.clock.Uptime()); ok {
		taken = b.heardTime(reading)
	}
	c := b.clock.State()
	return http.StatusOK, vouched{taken, c.Quality > clock.Untrusted, c.Time.UnixMilli(), c.Quality.String()}
}

// clockNotes say what is wrong with sources that should tell the time.
func (b *Box) clockNotes() (notes []health.Sentence) {
	s := &b.sources
	s.mu.Lock()
	gps, rtc := s.gps, s.rtc
	s.mu.Unlock()
	if dev := b.cfg.ClockGPS.Device; dev != "" {
		switch gps {
		case clock.GPSSilent:
			notes = append(notes, health.Sentence{DE: fmt.Sprintf("Der GPS-Empfänger an %s schweigt: Stecker und Bitrate prüfen.", dev), EN: fmt.Sprintf("The GPS receiver at %s is silent: check plug and bit rate.", dev)})
		case clock.GPSNoFix:
			notes = append(notes, health.Sentence{DE: "Der GPS-Empfänger sieht zu wenige Satelliten: Antenne ans Fenster oder ins Freie.", EN: "The GPS receiver sees too few satellites: move its antenna to a window or outside."})
		case clock.GPSOldDate:
			notes = append(notes, health.Sentence{DE: "Der GPS-Empfänger nennt ein unmögliches Datum (Wochenzähler übergelaufen): einen neueren Empfänger nehmen.", EN: "The GPS receiver tells an impossible date (its count of weeks has overflowed): take a newer receiver."})
		}
	}
	if n := s.ntp.State(); n.Asked > 0 && n.Answered == 0 {
		notes = append(notes, health.Sentence{DE: "Kein Zeitserver antwortet: Netz und Namen der Zeitserver prüfen (" + n.Err + ").", EN: "No time server answers: check the network and the servers' names (" + n.Err + ")."})
	} else if n.Answered > 0 && 2*n.Agreed <= n.Answered {
		notes = append(notes, health.Sentence{DE: "Die Zeitserver widersprechen einander; keinem wird geglaubt.", EN: "The time servers contradict each other; none is believed."})
	}
	if rtc != "" {
		notes = append(notes, health.Sentence{DE: "Die Uhr der Hardware ist inzwischen stehen geblieben: ihre Batterie ist leer.", EN: "The hardware's clock has stopped meanwhile: its battery is empty."})
	}
	return notes
}
