// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
	"hallig/appliance/health"
)

func cableOut() health.Tree {
	return health.Judge(health.Facts{
		Up: time.Hour, Database: &health.Probe{}, Homeserver: &health.Probe{Err: "port closed"}, Network: &health.NetworkFacts{},
		Peers: []health.PeerFacts{{Server: "box2.example", Away: time.Hour, Network: true}},
		Clock: &health.ClockFacts{}, Setup: &health.SetupFacts{Admin: true},
	})
}

func TestStatusText(t *testing.T) {
	var b strings.Builder
	printHealth(&b, cableOut(), "de")
	const want = `[ !! ] Der Nachrichtendienst antwortet nicht: die Box neu starten.
      (port closed)
[ !! ] Kein Netz: das Netzwerkkabel einstecken.
    [ ?  ] Die Box kennt die Uhrzeit nicht und geht nach: auf der Verwaltungsseite die Uhr stellen.
    [ ?  ] Die Box box2.example ist außer Reichweite: dort Strom, Kabel und Antenne prüfen.
[ ok ] in Ordnung: database, setup
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
	b.Reset()
	printHealth(&b, health.Judge(health.Facts{Database: &health.Probe{}}), "en")
	if got, want := b.String(), "[ ok ] All is well.\n[ ok ] is well: database\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestStatusOnItsWay: what is still looked for is not called well.
func TestStatusOnItsWay(t *testing.T) {
	var b strings.Builder
	printHealth(&b, health.Judge(health.Facts{
		Up: time.Hour, Database: &health.Probe{}, Peers: []health.PeerFacts{{Server: "b.example", Away: time.Minute}, {Server: "c.example", InReach: true}},
		Servers: []health.ServerFacts{{Name: "s.example", Away: time.Minute}}, Lines: []health.LineFacts{{Name: "serial:x", Device: "x", Open: true, Modem: "null"}},
	}), "en")
	const want = `[ ok ] All is well.
[ .. ] The line x is ready and looks for the other box. If it does not answer: is the other box running, is the cable plugged in at both ends, is it crossed (null modem), and have both boxes the same rate (baud)?
[ .. ] Looking for the box b.example.
[ .. ] The server s.example does not answer at the moment; it is tried again.
[ ok ] is well: database, peer:c.example
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)

	}
}

// A homecoming is told room by room.
func TestStatusOfAHomecoming(t *testing.T) {
	var b strings.Builder
	printStatus(&b, admin.Status{Servers: []admin.Server{
		{Name: "central.example", Queued: 312, Coming: 480, Rooms: []admin.ServerRoom{{ID: "!a:b", Name: "Lage", Queued: 310, Coming: 471}, {ID: "!c:d", Queued: 2, Coming: 9}}, Trouble: "out of reach since 12:00"},
		{Name: "other.example"},
	}})
	const want = `  server central.example: never reached, 312 events to send, about 480 to come; out of reach since 12:00
      Lage: 310 to send, about 471 to come
      !c:d: 2 to send, about 9 to come
  server other.example: never reached, 0 events to send
`
	if !strings.HasSuffix(b.String(), want) {
		t.Errorf("got\n%s\nwant at its end\n%s", b.String(), want)
	}
}

func TestStatusCheck(t *testing.T) {
	look := health.Judge(health.Facts{Clock: &health.ClockFacts{}})
	for _, tt := range []struct {
		tree health.Tree
		exit int
		says string
	}{
		{health.Judge(health.Facts{}), 0, "All is well.\n"},
		{look, exitLook, "does not know the time"},
		{cableOut(), exitTrouble, "restart the box"},
	} {
		var b strings.Builder
		err := checked(tt.tree, "en", false, &b)
		var exit exitError
		if errors.As(err, &exit); int(exit) != tt.exit || !strings.Contains(b.String(), tt.says) || strings.Count(b.String(), "\n") != 1 {
			t.Errorf("exit %d with %q, want %d with %q", exit, b.String(), tt.exit, tt.says)
		}
		b.Reset()
		_ = checked(tt.tree, "en", true, &b)
		var back health.Tree
		if err := json.Unmarshal([]byte(b.String()), &back); err != nil || back.State != tt.tree.State {
			t.Errorf("as JSON: %v %s", err, b.String())
		}
	}
	// Without a box it is a failure of the question, never green.
	var out, errOut strings.Builder
	if code := run(t.Context(), []string{"status", "--check", "--data", t.TempDir()}, &out, &errOut); code != 1 || !strings.Contains(errOut.String(), "no box is running") {
		t.Errorf("exit %d, %q", code, errOut.String())
	}
}

func TestLanguage(t *testing.T) {
	for _, tt := range []struct{ env, want string }{
		{"", "en"}, {"LANG=de_DE.UTF-8", "de"}, {"LANG=C", "en"}, {"LANG=de_AT LC_ALL=en_GB", "en"}, {"LANG=en LC_MESSAGES=de", "de"},
	} {
		got := language(func(name string) string {
			for _, kv := range strings.Fields(tt.env) {
				if v, ok := strings.CutPrefix(kv, name+"="); ok {
					return v
				}
			}
			return ""
		})
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.env, got, tt.want)
		}
	}
}
