// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/health"
	"hallig/radio/frame"
	"hallig/radio/serial"
	"hallig/radio/sham"
)

// TestModemsOfConfiguration: every kind that the radio knows can be configured and no other, and both have the same idea of a call sign.
func TestModemsOfConfiguration(t *testing.T) {
	for _, k := range serial.Kinds() {
		line := SerialConfig{Device: "/dev/x", Modem: string(k)}
		if k.LoRa() {
			line.FrequencyHz = 869_525_000
		}
		if k == serial.KISS {
			line.Band = "licensed"
		}
		if k == serial.Transparent {
			line.BitsPerSecond = 1200
		}
		if err := line.Check("serial[0]"); err != nil {
			t.Errorf("%s: %v", k, err)
		}
	}
	for _, call := range []string{"", "DL1ABC", "DL1ABC-0", "DL1ABC-15", "DL1ABC-16", "DL1ABC-", "dl1abc", "DL1ABCD", "Ä", "A-1-2", "DL1ABC-01"} {
		line := SerialConfig{Device: "/dev/x", Modem: "kiss", Band: "licensed", CallSign: call}
		if err := line.Check(""); (err == nil) != (frame.ValidCall(call) || call == "") && call != "DL1ABC-01" {
			t.Errorf("call sign %q: the configuration says %v, the radio %v", call, err, frame.ValidCall(call))
		}
	}
}

// TestAirOfLines: what the link computes with, per modem.
func TestAirOfLines(t *testing.T) {
	for _, c := range []struct {
		name string
		line SerialConfig
		want serial.Air
	}{
		{"as ever, a cable", SerialConfig{Device: "x", Baud: 19200}, serial.Air{BitsPerSecond: 19200, FullDuplex: true}},
		{"as ever, a radio", SerialConfig{Device: "x", Baud: 9600, BitsPerSecond: 1200, HalfDuplex: true, TurnDelayMS: 300}, serial.Air{BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond}},
		{"transparent", SerialConfig{Device: "x", Modem: "transparent", BitsPerSecond: 300}, serial.Air{BitsPerSecond: 300}},
		{"null", SerialConfig{Device: "x", Modem: "null"}, serial.Air{BitsPerSecond: 9600, FullDuplex: true}},
		{"rs485", SerialConfig{Device: "x", Modem: "rs485"}, serial.Air{BitsPerSecond: 9600}},
		{"at", SerialConfig{Device: "x", Modem: "at", Baud: 115200, BitsPerSecond: 2400}, serial.Air{BitsPerSecond: 2400, FullDuplex: true}},
	} {
		got := modemOf(c.line).Air()
		if got.Packet != nil {
			t.Errorf("%s: packets of their own", c.name)
		}
		if got.Packet = nil; fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		line              SerialConfig
		mtu, least, most  int // bit/s
		turn              time.Duration
		packet, tolerance time.Duration // of 200 bytes
	}{
		{SerialConfig{Device: "x", Modem: "kiss"}, 239, 1050, 1150, 552 * time.Millisecond, 1490 * time.Millisecond, 10 * time.Millisecond},
		{SerialConfig{Device: "x", Modem: "kiss", Persistence: 63, SlotTimeMS: 100, TXTailMS: 50, TurnDelayMS: 200}, 239, 1050, 1150, 750 * time.Millisecond, 1490 * time.Millisecond, 10 * time.Millisecond},
		// By hand: 255.25 symbols of 4.096 ms; 230.25 of 32.768 ms.
		{SerialConfig{Device: "x", Modem: "rnode", FrequencyHz: 869_525_000}, 237, 1500, 1700, 60 * time.Millisecond, 1045504 * time.Microsecond, 0},
		{SerialConfig{Device: "x", Modem: "meshcore", FrequencyHz: 869_525_000, SpreadingFactor: 12}, 120, 150, 260, 60 * time.Millisecond, 7544832 * time.Microsecond, 0},
	} {
		air := modemOf(c.line).Air()
		if air.MTU != c.mtu || air.BitsPerSecond < c.least || air.BitsPerSecond > c.most || (air.TurnDelay-c.turn).Abs() > time.Millisecond || (air.Packet(200)-c.packet).Abs() > c.tolerance {
			t.Errorf("%s: %+v, 200 bytes %v", c.line.Modem, air, air.Packet(200))
		}
	}
}

// TestBookFollowsTheLine: a line under a new name goes on with the book of air time of the one that is gone; others keep theirs or begin one.
func TestBookFollowsTheLine(t *testing.T) {
	dir := t.TempDir()
	keep := func(name, text string, age time.Duration) {
		t.Helper()
		at := time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600), os.Chtimes(filepath.Join(dir, name), at, at)); err != nil {
			t.Fatal(err)
		}
	}
	keep("airtime-ttyUSB0.json", "of the radio", time.Minute)
	keep("airtime-ttyUSB1.json", "of an older radio", time.Hour)
	keep("airtime-b.json", "its own", 2*time.Hour)
	lora := func(device string) SerialConfig {
		return SerialConfig{Device: device, Modem: "rnode", FrequencyHz: 869_525_000}
	}
	b := &Box{log: slog.New(slog.DiscardHandler), cfg: Config{Data: dir, Serial: []SerialConfig{{Device: "/dev/cable", Modem: "null"}, lora("/dev/hallig/b"), lora("/dev/hallig/radio")}}}
	for range 2 { // another start changes nothing
		if err := b.adoptBooks(); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"airtime-radio.json": "of the radio", "airtime-b.json": "its own", "airtime-ttyUSB1.json": "of an older radio", "airtime-ttyUSB0.json": "", "airtime-cable.json": ""} {
			if raw, err := os.ReadFile(filepath.Join(dir, name)); string(raw) != want || (err == nil) != (want != "") {
				t.Errorf("%s: %q, %v; want %q", name, raw, err, want)
			}
		}
	}
}

// TestLinesAreShown: two radio lines that hear each other and one whose modem will not: status, health and metrics say so.
func TestLinesAreShown(t *testing.T) {
	air := &sham.Air{}
	cfg := Config{Data: t.TempDir(), ServerName: "a.test", P2P: P2PConfig{Off: true}}
	for _, m := range []interface{ Serve(io.ReadWriter) error }{&sham.RNode{Air: air, SNR: -6}, &sham.RNode{Air: air, SNR: -6}, &sham.RNode{Air: air, MaxPower: 17}} {
		far, err := serial.NewPTY()
		if err != nil {
			t.Fatal(err)
		}
		var device sync.WaitGroup
		device.Go(func() { _ = m.Serve(far) }) // it ends with the terminal
		t.Cleanup(func() { far.Close(); device.Wait() })
		cfg.Serial = append(cfg.Serial, SerialConfig{Device: far.Device, Modem: "rnode", FrequencyHz: 869_525_000, BandwidthHz: 250_000, SpreadingFactor: 5, TXPowerDBm: 22})
	}
	b := startWith(t, cfg)
	var lines []admin.Line
	for end := time.Now().Add(inTime); ; time.Sleep(20 * time.Millisecond) { // the modems are set and find each other
		lines = b.lines()
		if lines[0].Up && lines[1].Up && !lines[2].Trouble.Empty() {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("lines: %+v", lines)
		}
	}
	if l := lines[0]; l.Modem != "rnode" || l.Band != "eu868-10" || l.Signal() != "-97 dBm, SNR -6.0 dB" || l.Note != "RNode 1.80" || l.Frames == 0 {
		t.Errorf("line: %+v", l)
	}
	if l := lines[2]; l.Open || !strings.Contains(l.Trouble.DE, "tx_power_dbm 22") || !strings.Contains(l.Trouble.EN, "it reports 17") {
		t.Errorf("line: %+v", l)
	}
	said := map[string]health.Node{}
	for _, n := range b.health(t.Context()).Nodes {
		said[n.Name] = n
	}
	if n := said[lines[2].Name]; n.State != health.Look || !strings.Contains(n.Sentence.EN, "it reports 17") {
		t.Errorf("node: %+v", n)
	}
	if n := said[lines[0].Name]; n.State != health.OK || !strings.Contains(n.Sentence.DE, "Pegel -97 dBm, Rauschabstand -6 dB") {
		t.Errorf("node: %+v", n)
	}
	var m admin.Metrics
	b.lineQuality(&m)
	w := httptest.NewRecorder()
	if err := m.Write(w); err != nil {
		t.Fatal(err)
	}
	name := strings.TrimPrefix(lines[0].Name, "serial:")
	for _, want := range []string{`hallig_line_rssi_dbm{line="` + name + `"} -97`, `hallig_line_snr_db{line="` + name + `"} -6`, `hallig_line_frames_refused_total{`, `hallig_line_modem_refused_total{`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("metrics lack %s:\n%s", want, w.Body)
		}
	}
}
