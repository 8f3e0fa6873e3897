// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"hallig/appliance/health"
	"hallig/appliance/lan"
	"hallig/appliance/provision"
	"hallig/appliance/steward"
)

// TestHealthOfABox asks a running box through its local door, as init does, and breaks what it says is well.
func TestHealthOfABox(t *testing.T) {
	b := startWith(t, Config{Data: t.TempDir(), ServerName: "health.test", P2P: P2PConfig{Off: true}})
	var tree health.Tree
	for ask := 0; ; ask++ { // the link starts beside the door
		if err := Ask(t.Context(), b.cfg.Data, "GET", "/health", nil, &tree); err != nil {
			t.Fatal(err)
		}
		if n, _ := tree.Node("links"); n.State == health.OK || ask == 100 {
			break
		}
	}
	for _, id := range []string{"database", "homeserver", "links"} {
		if n, ok := tree.Node(id); !ok || n.State != health.OK {
			t.Errorf("%s: %+v, want it well", id, n)
		}
	}
	metricsOf(t, b.cfg.Data)
	wrote := b.db.Flushes()
	b.health(t.Context())
	if b.db.Flushes() != wrote {
		t.Error("looking twice wrote twice")
	}
	b.end()
	tree = b.health(t.Context())
	for _, id := range []string{"database", "homeserver", "links"} {
		if n, ok := tree.Node(id); !ok || n.State != health.Trouble {
			t.Errorf("%s of a box that was stopped: %+v, want trouble", id, n)
		}
	}
}

// metricsOf reads the metrics of a running box with the parser of Prometheus.
func metricsOf(t *testing.T, dir string) {
	t.Helper()
	answer, status, err := localDoor(dir).Open(t.Context(), "GET", "/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(answer)
	if err != nil || status != 200 {
		t.Fatalf("%d: %v", status, err)
	}
	for _, name := range []string{"hallig_info", "hallig_health", "hallig_health_node", "hallig_accounts", "hallig_log_position", "hallig_disk_free_bytes", "hallig_clock_trusted", "process_resident_memory_bytes", "process_cpu_seconds_total"} {
		f := families[name]
		if f == nil || len(f.Metric) == 0 || f.GetHelp() == "" {
			t.Errorf("no metric %s", name)
		}
	}
	if v := families["process_resident_memory_bytes"].GetMetric()[0].GetGauge().GetValue(); v < 1e6 || v > 1e10 {
		t.Errorf("the process takes %v bytes", v)
	}
}

// TestClientPort: what a port answers that is no homeserver, and the closed doors of a trial.
func TestClientPort(t *testing.T) {
	for name, tt := range map[string]struct {
		answer func(http.ResponseWriter)
		trial  bool
		want   string
	}{
		"well":               {func(w http.ResponseWriter) { w.Write([]byte(`{"versions":[]}`)) }, false, ""},
		"a page":             {func(w http.ResponseWriter) { w.Write([]byte(`<html>`)) }, false, "200"},
		"broken":             {func(w http.ResponseWriter) { w.WriteHeader(500) }, false, "500"},
		"closed for a trial": {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "5"); w.WriteHeader(503) }, true, "503"},
		"closed":             {func(w http.ResponseWriter) { w.Header().Set("Retry-After", "5"); w.WriteHeader(503) }, false, "503"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/_matrix/client/versions" {
					t.Errorf("asked for %s", r.URL.Path)
				}
				tt.answer(w)
			}))
			defer srv.Close()
			b := &Box{doors: newDoors(tt.trial), clientListener: srv.Listener}
			got := b.probeHomeserver(t.Context()).Err
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	l, err := net.Listen("tcp", freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if got := (&Box{clientListener: l}).probeHomeserver(t.Context()).Err; !strings.Contains(got, "refused") {
		t.Errorf("a closed port: %q", got)
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	l, err = net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := (&Box{clientListener: l}).probeHomeserver(ctx).Err; got == "" {
		t.Error("a port that hangs is taken for well")
	}
}

func tinyFiles(m map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range m {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestMachine(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		want  machine
	}{
		"nothing there": {nil, machine{}},
		"a Raspberry Pi with little power": {map[string]string{
			"proc/meminfo":                                      "MemTotal:         949444 kB\nMemFree:  100 kB\nMemAvailable:     700000 kB\n",
			"sys/class/thermal/thermal_zone0/temp":              "48312\n",
			"sys/class/thermal/thermal_zone0/trip_point_0_type": "critical\n",
			"sys/class/thermal/thermal_zone0/trip_point_0_temp": "110000\n",
			"sys/class/hwmon/hwmon0/name":                       "cpu_thermal\n",
			"sys/class/hwmon/hwmon1/name":                       "rpi_volt\n",
			"sys/class/hwmon/hwmon1/in0_lcrit_alarm":            "1\n",
			"proc/net/route":                                    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n",
		}, machine{
			memory: &health.MemoryFacts{Total: 949444 << 10, Available: 700000 << 10}, temperature: &health.TemperatureFacts{Celsius: 48.312, Critical: 110},
			power: &health.PowerFacts{UnderVoltage: true, Battery: -1}, uplink: true,
		}},
		"a laptop off the mains; its mouse's battery is nobody's business": {map[string]string{
			"sys/class/power_supply/AC/type": "Mains", "sys/class/power_supply/AC/online": "0",
			"sys/class/power_supply/BAT0/type": "Battery", "sys/class/power_supply/BAT0/capacity": "17", "sys/class/power_supply/BAT0/status": "Discharging",
			"sys/class/power_supply/m/type": "Battery", "sys/class/power_supply/m/scope": "Device", "sys/class/power_supply/m/capacity": "3",
			"sys/class/thermal/thermal_zone0/temp": "-274000", "sys/class/thermal/thermal_zone1/temp": "61000", "sys/class/thermal/thermal_zone2/temp": "59000",
			"proc/net/route": "Iface\tDestination\neth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
		}, machine{temperature: &health.TemperatureFacts{Celsius: 61}, power: &health.PowerFacts{Battery: 17, OnBattery: true}}},
		"nonsense": {map[string]string{"proc/meminfo": "MemTotal: much kB\nx", "sys/class/thermal/thermal_zone0/temp": "warm", "proc/net/route": "\n\n"}, machine{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := readMachine(tinyFiles(tt.files)); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %+v %+v %+v %v\nwant %+v %+v %+v %v", got.memory, got.temperature, got.power, got.uplink, tt.want.memory, tt.want.temperature, tt.want.power, tt.want.uplink)
			}
		})
	}
}

// TestWhatInitKnows translates the steward's state.
func TestWhatInitKnows(t *testing.T) {
	s := steward.State{
		Provision: steward.Provision{File: "hallig.json", Error: steward.Text{De: "Falsch.", En: "Wrong."}},
		Update:    steward.Update{State: steward.UpdateTrial, Version: "9"},
		Processes: []steward.Process{{Name: "hallig", Restarts: 5, Uptime: 4}, {Name: "hallig-lan", Restarts: 5, Uptime: 9000}},
		Trouble:   []steward.Text{{De: "Platte.", En: "Disk."}},
	}
	var f health.Facts
	new(Box).stewardFacts(s, &f)
	tree := health.Judge(f)
	for id, want := range map[string]string{"machine": "Disk.", "provisioning": "Wrong.", "update": "9 is on trial", "services": "again and again"} {
		if n, _ := tree.Node(id); n.State == health.OK || !strings.Contains(n.Sentence.EN, want) {
			t.Errorf("%s: %+v, want %q", id, n, want)
		}
	}
	s.Provision = steward.Provision{Accepted: true, From: steward.Text{De: "von der Partition HALLIG", En: "from the partition HALLIG"}} // at an earlier start
	f = health.Facts{}
	new(Box).stewardFacts(s, &f)
	if n, _ := health.Judge(f).Node("provisioning"); n.State != health.OK || n.Sentence.EN != "Set up from the hallig.json from the partition HALLIG." {
		t.Errorf("a file in force: %+v", n)
	}
	f = health.Facts{}
	(&Box{cfg: Config{Trouble: provision.Error{De: "In „config“ steht Unsinn.", En: "Nonsense in config."}}}).stewardFacts(s, &f)
	if n, _ := health.Judge(f).Node("provisioning"); n.State == health.OK || n.Sentence.EN != "hallig.json from the partition HALLIG: Nonsense in config." || !strings.HasPrefix(n.Sentence.DE, "hallig.json von der Partition HALLIG: In") {
		t.Errorf("a file that the homeserver refuses: %+v", n)
	}
	s.Processes = s.Processes[1:]
	f = health.Facts{}
	new(Box).stewardFacts(s, &f)
	if n, _ := health.Judge(f).Node("services"); n.State != health.OK {
		t.Errorf("restarts long ago: %+v", n)
	}
}

// TestNetworks translates what hallig-lan says into one sentence.
func TestNetworks(t *testing.T) {
	for name, tt := range map[string]struct{ state, want string }{
		"guest":           {`{"interfaces":[{"name":"eth0","carrier":true,"mode":"guest","addresses":["192.168.1.7/24"],"gateway":"192.168.1.1"},{"name":"eth1","mode":"waiting"}]}`, "guest on this network"},
		"host":            {`{"interfaces":[{"name":"eth0","carrier":true,"mode":"host","addresses":["192.168.7.1/24"]}]}`, "runs this network itself"},
		"guest of a box":  {`{"interfaces":[{"name":"eth0","carrier":true,"mode":"guest","addresses":["192.168.7.9/24"],"gateway":"192.168.7.1","lease":{"server":"192.168.7.1","hallig":true}}]}`, "no way to the outside"},
		"cable out":       {`{"interfaces":[{"name":"eth0","mode":"waiting"}]}`, "plug in the network cable"},
		"still asking":    {`{"interfaces":[{"name":"eth0","carrier":true,"mode":"waiting"}]}`, "wait two minutes"},
		"has just got it": {`{"interfaces":[{"name":"eth5","carrier":true,"mode":"guest"}]}`, "on the network"},
		"off":             {`{"interfaces":[{"name":"eth0","carrier":true,"mode":"off"}]}`, "off, as configured"},
		"trouble":         {`{"interfaces":[{"name":"eth0","carrier":true,"mode":"guest","addresses":["192.168.1.7/24"]}],"trouble":{"de":"Zwei.","en":"Two servers."}}`, "Two servers."},
		"nothing yet":     {`{"interfaces":[]}`, "plug in the network cable"},
	} {
		t.Run(name, func(t *testing.T) {
			run := t.TempDir()
			if err := os.MkdirAll(filepath.Join(run, "lan"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(run, lan.StateFile), []byte(tt.state), 0o600); err != nil {
				t.Fatal(err)
			}
			b := &Box{cfg: Config{Run: run}}
			b.care.addressed = func(port string) bool { return port == "eth5" }
			n, _ := health.Judge(health.Facts{Network: b.networkFacts(machine{})}).Node("network")
			if !strings.Contains(n.Sentence.EN, tt.want) {
				t.Errorf("got %q, want %q", n.Sentence.EN, tt.want)
			}
		})
	}
}

// TestShow: the screen's file is written whole, only on change, and for its owner alone; the light follows, and is told again when init did not hear.
func TestShow(t *testing.T) {
	run := t.TempDir()
	if err := os.MkdirAll(filepath.Join(run, "box"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(run, "steward.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	deaf := true
	init := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if deaf {
			w.WriteHeader(500)
			return
		}
		told = append(told, r.Method+" "+r.URL.Path+" "+string(body))
	})}
	done := make(chan struct{})
	go func() { defer close(done); init.Serve(l) }()
	defer func() { init.Close(); <-done }()
	client, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	b := &Box{cfg: Config{Run: run, PublicURL: "http://hallig.local"}, log: slog.New(slog.NewTextHandler(t.Output(), nil)), clientListener: client,
		enrolCode: "geheim", steward: steward.Dial(filepath.Join(run, "steward.sock"))}
	b.id.Server, b.id.Box = "box.test", ed25519.NewKeyFromSeed(make([]byte, 32))
	name := filepath.Join(run, steward.ScreenFile)
	read := func() (s steward.Screen, at time.Time) {
		t.Helper()
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v %v, want mode 0600", info.Mode(), err)
		}
		if err := json.Unmarshal(raw, &s); err != nil {
			t.Fatal(err)
		}
		return s, info.ModTime()
	}
	fresh := health.Judge(health.Facts{Setup: &health.SetupFacts{}, Network: &health.NetworkFacts{}})
	b.show(t.Context(), b.Screen(), fresh)
	s, first := read()
	if s.ServerName != "box.test" || s.Code != "geheim" || s.URL != "http://hallig.local" || s.State != "trouble" || !strings.Contains(s.Sentence.De, "Netzwerkkabel") {
		t.Errorf("first boot: %+v", s)
	}
	deaf = false
	b.show(t.Context(), b.Screen(), fresh)
	b.show(t.Context(), b.Screen(), fresh)
	if _, at := read(); !at.Equal(first) {
		t.Error("written again without a change")
	}
	b.show(t.Context(), b.Screen(), health.Judge(health.Facts{Setup: &health.SetupFacts{Admin: true}}))
	if s, _ := read(); s.Code != "" || s.State != "ok" {
		t.Errorf("with an administrator: %+v, want no code", s)
	}
	if got, want := strings.Join(told, "; "), `PUT /led {"state":"trouble"}; PUT /led {"state":"ok"}`; got != want {
		t.Errorf("the light was told %s, want %s", got, want)
	}
}
