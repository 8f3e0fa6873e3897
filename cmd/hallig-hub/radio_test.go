// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance"
	"hallig/appliance/admin"
	"hallig/radio/ether"
	"hallig/radio/serial"
	"hallig/sync/hub"
	"hallig/sync/hub/fleet"
	"hallig/tools/matrixclient"
)

// asBox makes the test's program a box over that directory, so that it can be killed.
const asBox = "HALLIG_TEST_BOX"

func serveBox(dir string) int {
	cfg, err := appliance.LoadConfig(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b, err := appliance.Open(context.Background(), cfg, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err == nil {
		err = errors.Join(b.Run(context.Background()), b.Close())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// between is a box that is a process of its own, has the hub on one side and a line of 9600 bit/s on the other.
type between struct {
	h    *home
	dir  string
	name string
	cmd  *exec.Cmd
	url  string
}

// newBetween makes the box, the line, and pairs the box with the hub and with the one that will be at the far end of the line.
func (h *home) newBetween() (b *between, far string, line *ether.Line) {
	h.Helper()
	ptys := [2]*serial.PTY{}
	for i := range ptys {
		var err error
		if ptys[i], err = serial.NewPTY(); err != nil {
			h.Fatal(err)
		}
	}
	line = ether.NewLine(ptys[0], ptys[1], ether.Config{BitsPerSecond: 9600, Seed: 1})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- line.Run(ctx) }() // the clean-up waits for it
	h.Cleanup(func() { stop(); <-ended })
	_, port, _ := net.SplitHostPort(h.world)
	b = &between{h: h, dir: h.TempDir(), name: "localhost:" + port}
	listen := freeAddr(h.T)
	b.url = "http://" + listen
	raw, err := json.Marshal(appliance.Config{ServerName: b.name, Listen: listen, OpenRegistration: true, P2P: appliance.P2PConfig{Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoMDNS: true},
		Hub: appliance.HubConfig{Server: "hub.test"}, Serial: []appliance.SerialConfig{{Device: ptys[0].Device, Baud: 9600, HalfDuplex: true}}})
	if err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), raw, 0o600); err != nil {
		h.Fatal(err)
	}
	b.start()
	h.Cleanup(b.kill)
	var code hub.Code
	if err := hub.Ask(h.Context(), h.hubDir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		h.Fatal(err)
	}
	if err := appliance.Ask(h.Context(), b.dir, "POST", "/pair/take", map[string]string{"Code": code.Code, "Address": h.meeting}, nil); err != nil {
		h.Fatal(err)
	}
	if err := appliance.Ask(h.Context(), b.dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		h.Fatal(err)
	}
	s, err := b.status()
	if err != nil || len(s.Addresses) == 0 {
		h.Fatal("where the box is: ", err)
	}
	if err := appliance.Ask(h.Context(), h.boxDir, "POST", "/pair/take", map[string]string{"Code": code.Code, "Address": s.Addresses[0]}, nil); err != nil {
		h.Fatal(err)
	}
	h.await("the contact", func() bool { s, err := b.status(); return err == nil && s.Hub.InReach && !s.Hub.Told.IsZero() })
	return b, ptys[1].Device, line
}

func (b *between) start() {
	b.h.Helper()
	b.cmd = exec.Command(os.Args[0])
	b.cmd.Env = append(os.Environ(), asBox+"="+b.dir)
	b.cmd.Stderr = prefixed{b.h.T, "between"}
	if err := b.cmd.Start(); err != nil {
		b.h.Fatal(err)
	}
	b.h.await("the box in between to answer", func() bool { _, err := b.status(); return err == nil })
}

// kill is kill -9.
func (b *between) kill() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait() // it was killed
}

func (b *between) status() (s admin.Status, err error) {
	err = appliance.Ask(b.h.Context(), b.dir, "GET", "/status", nil, &s)
	return s, err
}

// fleetBox is how the hub shows a box.
func (h *home) fleetBox(name string) (b fleet.Box) {
	s, err := h.hubStatus()
	if i := slices.IndexFunc(s.Boxes, func(b fleet.Box) bool { return b.Server == name }); err == nil && i >= 0 {
		b = s.Boxes[i]
	}
	return b
}

// TestRelayedRadio: a box has lost its network; only a line to another box is left, which has the hub. What the central server sends to its name reaches it over that line, of rooms in which the other box is
// and of rooms that it has never heard of, whatever is killed meanwhile: in order, all of it, once. What its people write reaches the central server by the same way.
func TestRelayedRadio(t *testing.T) {
	h := newHome(t, dendrite(t), "sealed")
	b, device, line := h.newBetween()
	ctx := t.Context()
	bert := matrixclient.New(b.url)
	if err := bert.Register(ctx, "bert", "a long enough password", ""); err != nil {
		t.Fatal(err)
	}
	shared := must(t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Lage"}))
	own := must(t)(h.carl.CreateRoom(ctx, matrixclient.CreateRoom{Version: "10", Preset: "public_chat", Name: "Deich"}))
	for room, people := range map[string][]*matrixclient.Client{shared: {h.anna, bert}, own: {h.anna}} {
		for _, p := range people {
			if _, err := p.Join(ctx, room, h.name); err != nil {
				t.Fatal(err)
			}
		}
	}
	anna, carl := h.reader(h.anna), h.reader(h.carl)
	for _, room := range []string{shared, own} {
		carl.sees("talk", h.say(h.anna, room, 1, "noch im Netz")...)
		anna.sees("talk", h.say(h.carl, room, 1, "hier auch")...)
	}

	h.stopBox()
	h.await("the hub to notice", func() bool { b := h.fleetBox(h.world); return b.Server != "" && !b.Connected })
	var said [2][]string
	say := func(n int, what string) {
		for i := range n {
			for j, room := range []string{shared, own} {
				said[j] = append(said[j], h.say(h.carl, room, 1, fmt.Sprintf("%s %d", what, i))...)
			}
		}
	}
	say(15, "nur noch Funk")
	for i := range 3 {
		h.whisper(fmt.Sprint(i))
	}
	receipt := matrixclient.Path("rooms", own, "receipt", "m.read", said[1][0])
	if err := h.carl.Do(ctx, "POST", receipt, struct{}{}, nil); err != nil {
		t.Fatal(err)
	}
	waits := func() bool { return len(h.fleetBox(h.world).Waiting) > 0 }
	h.await("what is for the box to wait at the hub", waits)
	h.change = func(c *appliance.Config) {
		c.P2P = appliance.P2PConfig{Off: true}
		c.Serial = []appliance.SerialConfig{{Device: device, Baud: 9600, HalfDuplex: true}}
	}
	h.startBox()
	h.await("the first of it", func() bool { anna.look(); return anna.seen[said[1][0]]+anna.seen[said[0][0]] > 0 })

	// In the middle of it everything is killed, and the line breaks.
	b.kill()
	b.start()
	h.await("something more", func() bool { n := len(anna.seen); anna.look(); return len(anna.seen) > n || anna.seen[said[1][14]] > 0 })
	h.killHub()
	say(2, "Hub ist tot")
	h.startHub()
	line.Cut(true)
	time.Sleep(2 * time.Second) // of a broken line
	line.Cut(false)
	say(3, "zum Schluss")
	for _, ids := range said {
		anna.sees("over the radio", ids...)
		if !slices.IsSortedFunc(ids, func(a, b string) int { return anna.order[a] - anna.order[b] }) {
			t.Error("it was not shown in the order in which it was said")
		}
	}
	h.await("the messages between devices", func() bool { anna.look(); return len(anna.whispers) == 3 })
	h.await("the hub to have nothing left", func() bool { return !waits() })
	for what, n := range anna.whispers {
		if n != 1 {
			t.Errorf("%s came %d times", what, n)
		}
	}

	// And back.
	for j, room := range []string{shared, own} {
		ids := h.say(h.anna, room, 5, "über Funk")
		carl.sees("from the box on the radio", ids...)
		if !slices.IsSortedFunc(ids, func(a, b string) int { return carl.order[a] - carl.order[b] }) {
			t.Errorf("room %d: it arrived in another order", j)
		}
	}
	path := matrixclient.Path("sendToDevice", "org.hallig.test", "back")
	if err := h.anna.Do(ctx, "PUT", path, map[string]any{"messages": map[string]any{h.carl.UserID: map[string]any{h.carl.DeviceID: map[string]string{"n": "zurück"}}}}, nil); err != nil {
		t.Fatal(err)
	}
	h.await("a message between devices to come back", func() bool { carl.look(); return len(carl.whispers) == 1 })

	// Those who look after the two are shown how it goes.
	if f := h.fleetBox(h.world); f.Connected || f.Way != "radio:"+b.name || f.Through != f.Way {
		t.Errorf("at the hub: connected %v, last contact by %q, now through %q", f.Connected, f.Way, f.Through)
	}
	var out strings.Builder
	if code := run(ctx, []string{"boxes", "--data", h.hubDir}, &out, io.Discard); code != 0 || !strings.Contains(out.String(), h.world+"  reached by radio through "+b.name) || !strings.Contains(out.String(), " by radio through "+b.name+", version") {
		t.Errorf("boxes: %d %s", code, out.String())
	}
	if s := h.boxStatus(); s.Hub == nil || s.Hub.InReach || s.Hub.Through != b.name || time.Since(s.Hub.ThroughAt) > time.Hour {
		t.Errorf("the box says of its hub: %+v", s.Hub)
	}
}
