// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"strings"
	"testing"
	"time"

	"hallig/appliance/health"
	"hallig/radio/ether"
	"hallig/radio/serial"
)

// TestWhoAnswers: on a line nobody answers, then a box that is not paired, then one that is; each is told after a while, and the last at once.
func TestWhoAnswers(t *testing.T) {
	ptys := [2]*serial.PTY{}
	for i := range ptys {
		var err error
		if ptys[i], err = serial.NewPTY(); err != nil {
			t.Fatal(err)
		}
	}
	line := ether.NewLine(ptys[0], ptys[1], ether.Config{BitsPerSecond: 115200, FullDuplex: true, Seed: 1})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- line.Run(ctx) }() // the clean-up waits for it
	t.Cleanup(func() { stop(); <-ended })
	line.Cut(true)
	boxes := [2]*running{}
	for i, name := range []string{"a.test", "b.test"} {
		boxes[i] = startWith(t, Config{Data: t.TempDir(), ServerName: name, P2P: P2PConfig{Off: true}, Serial: []SerialConfig{{Device: ptys[i].Device, Modem: "null", Baud: 115200}}})
	}
	a := boxes[0]
	// says waits for a sentence; with later, the box believes that it has been so for long.
	says := func(state health.State, waits, later bool, words string) {
		t.Helper()
		var n health.Node
		for end := time.Now().Add(inTime); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if later {
				a.care.mu.Lock()
				for name, seen := range a.care.lines {
					seen.since = seen.since.Add(-time.Hour)
					a.care.lines[name] = seen
				}
				a.care.mu.Unlock()
			}
			n, _ = a.health(t.Context()).Node("link:" + a.exchange.ports[0].Name())
			if n.State == state && n.Waits == waits && strings.Contains(n.Sentence.EN, words) {
				return
			}
		}
		t.Fatalf("got %+v, want %s (waits %v) with %q", n, state, waits, words)
	}
	says(health.OK, true, false, "is ready and looks for the other box")
	says(health.Look, false, true, "Nobody answers on the line")
	line.Cut(false)
	says(health.OK, true, false, "introducing themselves")
	says(health.Look, false, true, "a box that is not paired with this one")
	if l := a.lines()[0]; !l.Up || len(l.Boxes) != 0 || !strings.Contains(l.Stand().EN, "not paired") {
		t.Errorf("line: %+v", l)
	}
	paired(t, boxes[:]...) // while they hear each other
	says(health.OK, false, false, "stands")
	if l := a.lines()[0]; l.Stand().EN != "connected to b.test" {
		t.Errorf("line: %+v", l)
	}
	line.Cut(true)
	says(health.Look, false, true, "Nobody answers on the line")
	says(health.Look, false, false, "any more")
}
