// SPDX-License-Identifier: EUPL-1.2

package health

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// well is a box with everything there and in order.
func well() Facts {
	return Facts{
		Up:           time.Hour,
		Power:        &PowerFacts{Battery: -1},
		Temperature:  &TemperatureFacts{Celsius: 51},
		Memory:       &MemoryFacts{Available: 100 << 20, Total: 256 << 20},
		Disk:         &DiskFacts{Free: 5 << 30, Size: 8 << 30, Reserve: 64 << 20},
		Database:     &Probe{},
		Homeserver:   &Probe{},
		Processes:    []Process{{Name: "hallig"}, {Name: "hallig-lan", Restarts: 1}},
		Provisioning: &ProvisioningFacts{InForce: true, From: Sentence{"vom Stick KINGSTON", "from stick KINGSTON"}},
		Network:      &NetworkFacts{Mode: "guest", Interfaces: []Interface{{Name: "eth0", Up: true, Address: true}, {Name: "wlan0"}}, Uplink: true},
		Clock:        &ClockFacts{Trusted: true, Source: "NTP"},
		Links:        &Probe{},
		Lines:        []LineFacts{{Name: "serial:radio0", Device: "radio0", Open: true}},
		Peers: []PeerFacts{
			{Server: "box2.example", InReach: true, Network: true, Lines: []string{"serial:radio0"}},
			{Server: "box3.example", InReach: true, Network: true},
		},
		Servers:     []ServerFacts{{Name: "matrix.example"}},
		Certificate: &CertificateFacts{Left: 300 * 24 * time.Hour},
		Update:      &UpdateFacts{},
		Backup:      &BackupFacts{Wanted: true, Age: time.Hour, Every: 24 * time.Hour},
		Setup:       &SetupFacts{Admin: true},
	}
}

// story is what happened, and what the box says of it.
type story struct {
	name  string
	then  func(*Facts)
	state State
	says  string // in the one English sentence
	more  int
	tree  string // of what is not ok: "network(peer:box2.example server:matrix.example) clock"
}

func away(f *Facts, i int, d time.Duration) { f.Peers[i].InReach, f.Peers[i].Away = false, d }

func unplug(f *Facts) { f.Network.Interfaces[0] = Interface{Name: "eth0"}; f.Network.Uplink = false }

var stories = []story{
	{"nothing happened", func(*Facts) {}, OK, "All is well.", 0, ""},
	{"nothing is known", func(f *Facts) { *f = Facts{} }, OK, "All is well.", 0, ""},
	{"the cable is out: that explains boxes and servers", func(f *Facts) {
		unplug(f)
		away(f, 0, time.Hour)
		away(f, 1, time.Hour)
		f.Lines = nil
		f.Servers[0].Away = time.Hour
	}, Trouble, "plug in the network cable", 0, "network(peer:box2.example peer:box3.example server:matrix.example)"},
	{"the cable is out, but the radio stands: box 2 is away by itself", func(f *Facts) {
		unplug(f)
		away(f, 0, time.Hour)
		away(f, 1, time.Hour)
	}, Trouble, "plug in the network cable", 1, "network(peer:box3.example) peer:box2.example"},
	{"both ways to box 2 are down", func(f *Facts) {
		unplug(f)
		f.Lines[0].Open = false
		away(f, 0, time.Hour)
	}, Trouble, "plug in the network cable", 1, "network(peer:box2.example) link:serial:radio0"},
	{"the radio's plug is out; box 2 has no network", func(f *Facts) {
		f.Lines[0].Open = false
		f.Peers[0].Network = false
		away(f, 0, time.Hour)
	}, Look, "radio at radio0 is missing", 0, "link:serial:radio0(peer:box2.example)"},
	{"nobody at the other end of the cable: that explains the box", func(f *Facts) {
		f.Lines[0].Modem, f.Lines[0].Since = "null", time.Hour
		f.Peers[0].Network = false
		away(f, 0, time.Hour)
	}, Look, "Nobody answers on the line radio0 yet", 0, "link:serial:radio0(peer:box2.example)"},
	{"a box that is not paired at the other end", func(f *Facts) {
		f.Lines[0].Up, f.Lines[0].Since = true, time.Hour
		f.Peers[0].Network = false
		away(f, 0, time.Hour)
	}, Look, "not paired with this one", 0, "link:serial:radio0(peer:box2.example)"},
	{"no band is named: that is no reason for a box to be away", func(f *Facts) {
		f.Lines[0].Up, f.Lines[0].Boxes, f.Lines[0].NoBand = true, []string{"box3.example"}, true
		f.Peers[0].Network = false
		away(f, 0, time.Hour)
	}, Look, "no limit of air time", 1, "link:serial:radio0 peer:box2.example"},
	{"no air time before anybody was met", func(f *Facts) {
		f.Lines[0].AirWait = time.Hour
		f.Peers[0].Network = false
		away(f, 0, time.Hour)
	}, Look, "in about 60 min", 0, "link:serial:radio0(peer:box2.example)"},
	{"a server is gone for a moment", func(f *Facts) { f.Servers[0].Away = time.Minute }, OK, "All is well.", 0, ""},
	{"the other end is off", func(f *Facts) { away(f, 1, time.Hour); f.Peers[1].Queued = 3 }, Look, "box3.example is out of reach: check power, cable and antenna there. 3 messages wait", 0, "peer:box3.example"},
	{"the hub is out of reach, and so the servers behind it", func(f *Facts) {
		f.Hub = &HubFacts{Name: "hub.example", Paired: true, Away: time.Hour}
		f.Servers[0].Away = time.Hour
	}, Look, "The hub is out of reach", 0, "hub(server:matrix.example)"},
	{"the cable explains the hub", func(f *Facts) {
		unplug(f)
		f.Hub = &HubFacts{Name: "hub.example", Paired: true, Away: time.Hour}
	}, Trouble, "plug in the network cable", 0, "network(hub)"},
	{"a hub that nobody has paired", func(f *Facts) { f.Hub = &HubFacts{Name: "hub.example", Away: time.Hour} }, Look, "not paired", 0, "hub"},
	{"a hub that refuses", func(f *Facts) { f.Hub = &HubFacts{Name: "hub.example", Paired: true, Err: "400"} }, Look, "ask the hub's administrator", 0, "hub"},
	{"a hub that declines the mode", func(f *Facts) { f.Hub = &HubFacts{Name: "hub.example", Paired: true, Mode: "sealed here"} }, Look, "what is missing", 0, "hub"},
	{"a hub that is well", func(f *Facts) { f.Hub = &HubFacts{Name: "hub.example", Paired: true, Away: time.Minute} }, OK, "All is well.", 0, ""},
	{"a box is gone for a moment", func(f *Facts) { away(f, 1, time.Minute) }, OK, "All is well.", 0, ""},
	{"just started: boxes are looked for", func(f *Facts) { f.Up = 20 * time.Second; away(f, 0, time.Hour); f.Servers[0].Away = time.Hour }, OK, "All is well.", 0, ""},
	{"little power explains a radio that comes and goes", func(f *Facts) {
		f.Power.UnderVoltage = true
		f.Lines[0].Open = false
	}, Trouble, "stronger power supply", 0, "power(link:serial:radio0)"},
	{"disk, database, service: a chain with one cause", func(f *Facts) {
		f.Disk.Free = 1 << 20
		f.Database.Err = "disk I/O error"
		f.Homeserver.Err = "502"
		f.Processes[0].Restarts = 20
		f.Backup.Err = Sentence{"x", "x"}
	}, Trouble, "disk is full", 0, "disk(database(homeserver) services backup)"},
	{"the service hangs by itself", func(f *Facts) { f.Homeserver.Err = "timeout" }, Trouble, "message service does not answer", 0, "homeserver"},
	{"what a cause breaks makes the cause as bad", func(f *Facts) {
		f.Memory.Available = 1 << 20
		f.Homeserver.Err = "timeout"
	}, Trouble, "Memory is almost full", 0, "memory(homeserver)"},
	{"a card with little room", func(f *Facts) { f.Disk.Free = 300 << 20 }, Look, "Only 300 MB", 0, "disk"},
	{"a card that died", func(f *Facts) { f.Disk.ReadOnly = true }, Trouble, "spare box", 0, "disk"},
	{"woke up in 1970: nothing is said about certificates", func(f *Facts) {
		f.Clock.Trusted = false
		f.Certificate.Left = -time.Hour
		f.Servers[0].Away = time.Hour
	}, Look, "does not know the time", 0, "clock(server:matrix.example)"},
	{"no time because no network", func(f *Facts) { unplug(f); f.Clock.Trusted = false }, Trouble, "plug in the network cable", 0, "network(clock)"},
	{"a certificate ended", func(f *Facts) { f.Certificate.Left = -time.Hour }, Look, "has expired", 0, "certificate"},
	{"a certificate ends and cannot be renewed, for there is no network", func(f *Facts) {
		unplug(f)
		f.Certificate.Left, f.Certificate.Err = 50*time.Hour, "no route"
	}, Trouble, "network cable", 0, "network(certificate)"},
	{"a certificate that will be renewed in time", func(f *Facts) { f.Certificate.Left = 50 * time.Hour }, OK, "All is well.", 0, ""},
	{"the file is wrong, and so the network has no address", func(f *Facts) {
		f.Provisioning.Err = Sentence{"In hallig.json steht Unsinn.", "hallig.json holds nonsense."}
		f.Network.Interfaces[0].Address = false
	}, Look, "holds nonsense", 0, "provisioning(network)"},
	{"the file is wrong and the cable is out: two things", func(f *Facts) {
		f.Provisioning.Err = Sentence{"In hallig.json steht Unsinn.", "hallig.json holds nonsense."}
		unplug(f)
	}, Trouble, "network cable", 1, "provisioning network"},
	{"first boot with a wrong file", func(f *Facts) {
		f.Setup.Admin, f.Provisioning.InForce = false, false
		f.Provisioning.Err = Sentence{"In hallig.json steht Unsinn.", "hallig.json holds nonsense."}
	}, Look, "hallig.json holds nonsense. Make no account yet", 0, "provisioning(setup)"},
	{"first boot", func(f *Facts) { f.Setup.Admin = false; f.Backup = &BackupFacts{}; f.Clock.Trusted = false }, Look, "make the first account", 0, "setup(clock)"},
	{"an update on trial", func(f *Facts) { f.Update = &UpdateFacts{State: UpdateTrial, Version: "1.3"} }, Look, "Update 1.3 is on trial: leave the box switched on", 0, "update"},
	{"an update that was gone back from", func(f *Facts) { f.Update = &UpdateFacts{State: UpdateFailed} }, Look, "the version before goes on", 0, "update"},
	{"the old box is back", func(f *Facts) { f.Peers[0].Twin = true }, Look, "Two boxes are called box2.example: switch off the old one", 0, "peer:box2.example"},
	{"restored, and no backup yet", func(f *Facts) { f.Backup = &BackupFacts{Restored: true} }, Look, "set up backups again, and never switch on the old box", 0, "backup"},
	{"restored, with backups", func(f *Facts) { f.Backup.Restored = true }, Look, "Erase the key from the stick", 0, "backup"},
	{"the first backup is about to be made", func(f *Facts) { *f.Backup = BackupFacts{Wanted: true, ToStick: true, Starting: true} }, Look, "leave the stick plugged in", 0, "backup"},
	{"the first backup has no stick", func(f *Facts) { *f.Backup = BackupFacts{Wanted: true, ToStick: true} }, Look, "no backup yet: plug in", 0, "backup"},
	{"a file on a stick is refused", func(f *Facts) {
		f.Provisioning.File, f.Provisioning.Err = "Stick KINGSTON", Sentence{"hallig.json auf dem Stick KINGSTON: Zeile 3 ist falsch.", "hallig.json on stick KINGSTON: line 3 is wrong."}
	}, Look, "on stick KINGSTON: line 3 is wrong. The earlier one stays", 0, "provisioning"},
	{"an old backup", func(f *Facts) { f.Backup.Age = 75 * time.Hour }, Look, "3 days old: plug in the backup stick", 0, "backup"},
	{"a chip that the kernel does not know", func(f *Facts) {
		f.Lines[0].Open, f.Lines[0].Trouble = false, Sentence{"Baustein unbekannt: FTDI nehmen.", "Unknown chip: use FTDI."}
	}, Look, "use FTDI", 0, "link:serial:radio0"},
	{"a radio that hears well", func(f *Facts) {
		f.Lines[0] = LineFacts{Name: "serial:radio0", Device: "radio0", Open: true, Up: true, Modem: "rnode", Signal: true, RSSI: -97, SNR: 6, Sent: 100, Again: 29}
	}, OK, "All is well.", 0, ""},
	{"a radio on which much is lost", func(f *Facts) {
		f.Lines[0] = LineFacts{Name: "serial:radio0", Device: "radio0", Open: true, Up: true, Modem: "rnode", Signal: true, RSSI: -121, SNR: -11.75, Sent: 100, Again: 30}
	}, Look, "Much is lost on the radio line radio0 (signal -121 dBm, -12 dB against the noise, 30 % repeated): check the antennas", 0, "link:serial:radio0"},
	{"a few lost frames tell nothing", func(f *Facts) { f.Lines[0].Up, f.Lines[0].Sent, f.Lines[0].Again = true, 19, 18 }, OK, "All is well.", 0, ""},
	{"a modem waits to be called", func(f *Facts) {
		f.Lines[0] = LineFacts{Name: "serial:radio0", Device: "radio0", Modem: "at", Opening: true}
	}, OK, "All is well.", 0, ""},
	{"nobody has called for an hour", func(f *Facts) {
		f.Lines[0] = LineFacts{Name: "serial:radio0", Device: "radio0", Modem: "at", Opening: true}
		f.Peers[0].Network = false
		away(f, 0, time.Hour)
	}, Look, "box2.example is out of reach: check power", 0, "peer:box2.example"},
	{"a modem is silent", func(f *Facts) {
		f.Lines[0] = LineFacts{Name: "serial:radio0", Device: "radio0", Modem: "rnode", Opening: true, Trouble: Sentence{"Es antwortet nicht.", "It does not answer."}, Err: "timeout"}
	}, Look, "It does not answer.", 0, "link:serial:radio0"},
	{"the disk cannot be mounted", func(f *Facts) {
		f.Trouble = []Sentence{{"Platte.", "The disk cannot be mounted."}, {"y", "another"}}
		f.Database.Err = "x"
	}, Trouble, "cannot be mounted", 0, "machine(database)"},
	{"hot", func(f *Facts) { f.Temperature.Celsius = 84 }, Look, "cooler place", 0, "temperature"},
	{"too hot for this machine", func(f *Facts) { *f.Temperature = TemperatureFacts{Celsius: 101, Critical: 100} }, Trouble, "cooler place", 0, "temperature"},
	{"battery low", func(f *Facts) { *f.Power = PowerFacts{OnBattery: true, Battery: 12} }, Trouble, "12 %", 0, "power"},
	{"on battery, with plenty left", func(f *Facts) { *f.Power = PowerFacts{OnBattery: true, Battery: 88} }, OK, "All is well.", 0, ""},
}

// draw writes what is not ok as a tree.
func draw(t Tree, under string) string {
	var parts []string
	for _, n := range t.Under(under) {
		if n.State == OK {
			continue
		}
		s := n.ID
		if below := draw(t, n.ID); below != "" {
			s += "(" + below + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func TestStories(t *testing.T) {
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			f := well()
			s.then(&f)
			got := Judge(f)
			if got.State != s.state || got.OK != (s.state == OK) || !strings.Contains(got.Sentence.EN, s.says) || got.More != s.more {
				t.Errorf("got %s %v %q and %d more, want %s %q and %d more", got.State, got.OK, got.Sentence.EN, got.More, s.state, s.says, s.more)
			}
			if tree := draw(got, ""); tree != s.tree {
				t.Errorf("got the tree\n    %s\nwant\n    %s", tree, s.tree)
			}
			check(t, got)
		})
	}
}

// check holds what is true of every tree.
func check(t *testing.T, tree Tree) {
	t.Helper()
	worst, seen := OK, map[string]bool{"": true}
	for _, n := range tree.Nodes {
		if seen[n.ID] {
			t.Errorf("two nodes are called %s", n.ID)
		}
		if !seen[n.Because] {
			t.Errorf("%s is explained by %s, which does not stand before it", n.ID, n.Because)
		}
		if n.State == OK && n.Because != "" {
			t.Errorf("%s is well and explained", n.ID)
		}
		if cause, ok := tree.Node(n.Because); ok && cause.State.rank() < n.State.rank() {
			t.Errorf("%s (%s) is worse than its cause %s (%s)", n.ID, n.State, cause.ID, cause.State)
		}
		for _, s := range []string{n.Sentence.DE, n.Sentence.EN} {
			if s == "" || !utf8.ValidString(s) || n.State != OK && len(s) > 220 {
				t.Errorf("%s has the sentence %q", n.ID, s)
			}
		}
		seen[n.ID], worst = true, worse(worst, n.State)
	}
	if tree.State != worst {
		t.Errorf("the tree is %s, its worst node %s", tree.State, worst)
	}
}

// TestEveryCombination: whatever goes wrong together, the tree holds, and fewer things are to be done than went wrong where one explains another.
func TestEveryCombination(t *testing.T) {
	for i, a := range stories {
		for _, b := range stories[i+1:] {
			if strings.HasPrefix(a.name, "nothing") || strings.HasPrefix(b.name, "nothing") {
				continue
			}
			t.Run(a.name+" + "+b.name, func(t *testing.T) {
				f := well()
				defer func() {
					if p := recover(); p != nil && f.Lines != nil {
						t.Errorf("panic: %v", p)
					}
				}()
				a.then(&f)
				b.then(&f)
				check(t, Judge(f))
			})
		}
	}
}

// TestWire freezes the form that scripts, init and pages read.
func TestWire(t *testing.T) {
	f := Facts{Up: time.Hour, Network: &NetworkFacts{}, Database: &Probe{Err: "secret path"}, Peers: []PeerFacts{{Server: "box2.example", Away: time.Hour, Network: true}}}
	raw, err := json.Marshal(Judge(f))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"ok":false,"state":"trouble","sentence":{"de":"Die Datenbank antwortet nicht: die Box neu starten; hilft das nicht, die letzte Sicherung auf einer Ersatzbox einspielen.","en":"The database does not answer: restart the box; if that does not help, restore the last backup on a spare box."},"more":1,"nodes":[` +
		`{"id":"database","kind":"database","state":"trouble","sentence":{"de":"Die Datenbank antwortet nicht: die Box neu starten; hilft das nicht, die letzte Sicherung auf einer Ersatzbox einspielen.","en":"The database does not answer: restart the box; if that does not help, restore the last backup on a spare box."},"detail":"secret path"},` +
		`{"id":"network","kind":"network","state":"trouble","sentence":{"de":"Kein Netz: das Netzwerkkabel einstecken.","en":"No network: plug in the network cable."}},` +
		`{"id":"peer:box2.example","kind":"peer","name":"box2.example","state":"look","sentence":{"de":"Die Box box2.example ist außer Reichweite: dort Strom, Kabel und Antenne prüfen.","en":"The box box2.example is out of reach: check power, cable and antenna there."},"because":"network"}]}`
	if string(raw) != want {
		t.Errorf("got\n%s\nwant\n%s", raw, want)
	}
	var back Tree
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(fmt.Sprint(back.Public()), "secret") {
		t.Error("the public tree tells the detail")
	}
	if n, ok := back.Node("database"); !ok || n.Detail != "secret path" {
		t.Errorf("Public changed the tree that it was asked of: %v", n)
	}
	if !reflect.DeepEqual(back.Shouting(), back.Under("")) || len(back.Shouting()) != 2 {
		t.Errorf("shouting: %v", back.Shouting())
	}
}

// TestPublic: names of servers are not told, whatever explains that they are away; the tree stays one.
func TestPublic(t *testing.T) {
	f := Facts{Up: time.Hour, Clock: &ClockFacts{Trusted: true}, Setup: &SetupFacts{Admin: true}, Servers: []ServerFacts{
		{Name: "matrix.secret.example", Away: time.Hour, Err: "secret"}, {Name: "other.secret.example", Away: time.Hour}, {Name: "third.secret.example"}}}
	for name, change := range map[string]func(){
		"by themselves": func() {}, "no time": func() { f.Clock.Trusted = false }, "no network": func() { f.Network = &NetworkFacts{} },
	} {
		change()
		tree := Judge(f)
		public := tree.Public()
		check(t, public)
		raw, err := json.Marshal(public)
		if err != nil || strings.Contains(string(raw), "secret") {
			t.Errorf("%s: %v %s", name, err, raw)
		}
		if n, ok := public.Node("server"); !ok || n.State != Look || public.State != tree.State || strings.Count(string(raw), "server outside") < 1 {
			t.Errorf("%s: that servers are away is not told: %s", name, raw)
		}
		if _, ok := tree.Node("server:matrix.secret.example"); !ok {
			t.Errorf("%s: Public changed the tree that it was asked of", name)
		}
	}
}

// TestOrder: whatever may be blamed stands before whoever blames it.
func TestOrder(t *testing.T) {
	f := well()
	f.Power.UnderVoltage, f.Database.Err, f.Homeserver.Err, f.Links.Err = true, "x", "x", "x"
	f.Lines[0].Open = false
	unplug(&f)
	away(&f, 0, time.Hour)
	f.Clock.Trusted, f.Setup.Admin = false, false
	f.Servers[0].Away, f.Backup.Err, f.Update.State = time.Hour, Sentence{"x", "x"}, UpdateFailed
	f.Processes[0].Restarts = 9
	at := func(id string) int {
		kind, _, _ := strings.Cut(id, ":")
		return slices.Index(kinds, Kind(kind))
	}
	blamed := 0
	for _, n := range Judge(f).Nodes {
		for _, id := range n.blames {
			blamed++
			if at(id) < 0 || at(id) >= at(n.ID) {
				t.Errorf("%s blames %s, which does not stand before it", n.ID, id)
			}
		}
	}
	if blamed < 20 {
		t.Errorf("only %d blames were seen", blamed)
	}
}

// TestLineSentences: what a line says, and what to check when nobody answers, for each modem.
func TestLineSentences(t *testing.T) {
	for modem, want := range map[string]string{
		"transparent": "same frequency", "null": "crossed", "rs485": "A and B swapped", "at": "other box running", "kiss": "KISS mode", "rnode": "antenna", "meshcore": "spreading factor",
	} {
		n := line(LineFacts{Name: "serial:x", Device: "x", Open: true, Modem: modem, Since: quietLine - time.Second})
		if n.State != OK || !n.Waits || !strings.Contains(n.Sentence.EN, want) || !strings.Contains(n.Sentence.EN, "looks for the other box") || n.Sentence.DE == "" {
			t.Errorf("%s: %+v", modem, n)
		}
		n = line(LineFacts{Name: "serial:x", Device: "x", Open: true, Modem: modem, Since: quietLine})
		if n.State != Look || n.Waits || !strings.Contains(n.Sentence.EN, want) || !strings.Contains(n.Sentence.EN, "Nobody answers") || !strings.Contains(n.Sentence.DE, "antwortet noch niemand") || len(n.Sentence.DE) > 220 {
			t.Errorf("%s: %+v", modem, n)
		}
	}
	stands := LineFacts{Name: "serial:x", Device: "x", Open: true, Up: true, Boxes: []string{"b.example"}, Signal: true, RSSI: -97, SNR: 6.25, Sent: 100, Again: 3}
	for _, c := range []struct {
		name   string
		change func(*LineFacts)
		state  State
		waits  bool
		de, en string
	}{
		{"it stands", func(*LineFacts) {}, OK, false, "Die Funkstrecke x steht (Pegel -97 dBm, Rauschabstand 6 dB, 3 % wiederholt).", "The radio line x stands (signal -97 dBm, 6 dB against the noise, 3 % repeated)."},
		{"much is lost on a cable", func(l *LineFacts) { l.Modem, l.Again = "null", 40 }, Look, false, "Auf der Leitung x geht viel verloren", "check plugs and cable"},
		{"it was there", func(l *LineFacts) { l.Up, l.Met, l.Since = false, true, time.Hour }, Look, false, "antwortet niemand mehr", "Nobody answers on the radio line x any more"},
		{"another rate", func(l *LineFacts) { l.Modem, l.Up, l.Garbled, l.Since = "null", false, true, time.Hour }, Look, false, "nichts Verständliches", "same rate (baud)"},
		{"a bus hears itself", func(l *LineFacts) { l.Modem, l.Up, l.Garbled, l.Since = "rs485", false, true, time.Hour }, Look, false, "A und B vertauscht", "A and B swapped"},
		{"amateur here and not there", func(l *LineFacts) { l.Up, l.Unlike = false, true }, Look, false, "anderes Band", "either both have"},
		{"who is it", func(l *LineFacts) { l.Boxes, l.BitsPerSecond = nil, 1200 }, OK, true, "machen sich bekannt", "introducing themselves"},
		{"who is it, on a slow line", func(l *LineFacts) { l.Boxes, l.BitsPerSecond, l.Since = nil, 300, 2*time.Minute }, OK, true, "machen sich bekannt", "introducing themselves"},
		{"nobody that we know", func(l *LineFacts) { l.Boxes, l.BitsPerSecond, l.Since = nil, 1200, 2*time.Minute }, Look, false, "→ „Code zeigen“", "→ “Show a code”"},
		{"the hour is used up", func(l *LineFacts) { l.AirWait = 40*time.Minute + time.Second }, OK, true, "in etwa 41 min", "in about 41 min"},
		{"the hour is used up before anybody was met", func(l *LineFacts) { l.Up, l.AirWait, l.Since = false, 40*time.Minute, time.Hour }, Look, false, "in etwa 40 min", "in about 40 min"},
		{"flow control without the wires", func(l *LineFacts) { l.Modem, l.Up, l.Stuck = "null", false, true }, Look, false, "nimmt nichts an", `leave out "rts_cts"`},
		{"the same, being opened again", func(l *LineFacts) { l.Open, l.Up, l.Stuck, l.Err = false, false, true, "deadline exceeded" }, Look, false, "nimmt nichts an", "takes nothing"},
		{"it was stuck, and is not any more", func(l *LineFacts) { l.Stuck = true }, OK, false, "steht", "stands"},
		{"no band", func(l *LineFacts) { l.Modem, l.NoBand = "transparent", true }, Look, false, "die Box kennt keine Grenze der Sendezeit", `enter "eu868-10" at 868 MHz`},
	} {
		l := stands
		c.change(&l)
		n := line(l)
		if n.State != OK && len(n.Sentence.DE) > 220 {
			t.Errorf("%s: too long for a screen: %s", c.name, n.Sentence.DE)
		}
		if n.State != c.state || n.Waits != c.waits || !strings.Contains(n.Sentence.DE, c.de) || !strings.Contains(n.Sentence.EN, c.en) {
			t.Errorf("%s: %+v", c.name, n)
		}
	}
}

// TestWithheldRoomsAreForAdministrators: which encrypted rooms wait for another way than amateur radio is nobody's business who has not signed in.
func TestWithheldRoomsAreForAdministrators(t *testing.T) {
	f := well()
	f.Peers = []PeerFacts{{Server: "b.example", InReach: true, Withheld: []string{"Krisenstab"}}}
	tree := Judge(f)
	if !strings.Contains(fmt.Sprint(tree), "Krisenstab") {
		t.Error("the administrator is not told which room waits")
	}
	if strings.Contains(fmt.Sprint(tree.Public()), "Krisenstab") {
		t.Error("everybody is told which room waits")
	}
}
