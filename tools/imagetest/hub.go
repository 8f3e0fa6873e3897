// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"hallig/appliance/provision"
	"hallig/sync/hub"
	"hallig/sync/hub/fleet"
	"hallig/tools/imagetest/vm"
	"hallig/tools/testbox"
	"hallig/tools/testpeer"
)

const (
	hostInside = "10.0.2.2" // this machine, as the emulated network shows it to boxes
	hubBox     = "box1.boxes.example.org"
	hubPace    = 512 // kB a second for the box that fetches
	hubCode    = "k7mq-2fxv-9tdp"
	nextTalk   = 12 * time.Minute // a box in reach speaks to its hub every ten
)

// post is the hub of the story, run as its operator would.
type post struct {
	*testbox.Hub
	r       *run
	program string
}

// updatesFromHub: a box that knows a hub is told of an update there, fetches it over a line that breaks, and takes it over; one that does not work is stopped for all others.
func updatesFromHub(r *run) error {
	v, err := r.variants(vm.BIOS, "good", "headless")
	if err != nil {
		return err
	}
	h, err := r.openHub()
	if err != nil {
		return err
	}
	defer h.Close()
	b, err := h.box()
	if err != nil {
		return err
	}
	room, first, err := b.converse("Pegel 340, steigend")
	if err != nil {
		return err
	}
	ids := []string{first}
	// Laid down before the first contact, as a box that is told of it later hears that at its next one, which may be ten minutes away.
	if err := h.lays(v); err != nil {
		return err
	}
	ctx, stop := r.within(3 * time.Minute)
	defer stop()
	br, err := b.browse(ctx, b.people[0].UserID)
	if err != nil {
		return err
	}
	if err := h.pair(br); err != nil {
		return err
	}
	if err := h.told(func(x fleet.Box) bool { return x.Connected && x.Said.Release == v.released.manifest.Release }, "that it runs what the image holds"); err != nil {
		return err
	}
	if err := h.fetched(br, v.good, true); err != nil {
		return err
	}
	// Now, so that the box hears of it at its first contact after the restart.
	if err := h.verb("update", "roll", v.headless.manifest.Version, "--share", "100"); err != nil {
		return err
	}
	if err := r.startTrial(r, br, v.good, time.Now()); err != nil {
		return err
	}
	if err := r.confirmed(br, v.good); err != nil {
		return err
	}
	if err := r.writeOn(b, room, &ids); err != nil {
		return fmt.Errorf("after the update: %w", err)
	}
	if err := h.told(func(x fleet.Box) bool { return x.Said.Release == v.good.manifest.Release }, "that it runs "+v.good.manifest.Version); err != nil {
		return err
	}
	return h.stops(b, br, v, room, ids)
}

// stops: the update that does not work, which the whole fleet was to have.
func (h *post) stops(b *box, br *browser, v variants, room string, ids []string) error {
	r := h.r
	if err := h.fetched(br, v.headless, false); err != nil {
		return err
	}
	if err := r.startTrial(r, br, v.headless, time.Now()); err != nil {
		return err
	}
	if err := r.wentBack(b, br, v.headless, v.good); err != nil {
		return err
	}
	if err := b.holds(b.people[1], room, ids...); err != nil {
		return fmt.Errorf("after the way back: %w", err)
	}
	ctx, stop := r.within(nextTalk)
	defer stop()
	for {
		s, err := h.Status(ctx)
		if err != nil {
			return err
		}
		for _, f := range s.Updates {
			if f.Version == v.headless.manifest.Version && f.Stopped != "" {
				r.check(f.Failed[hubBox] != "" && f.Failed[hubBox] != "?", "the hub does not say why the update failed on the box: %q", f.Failed)
				r.say("the hub tells nobody of %s any more: %s", f.Version, f.Stopped)
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("the hub goes on telling boxes of an update that did not work")
		case <-time.After(2 * time.Second):
		}
	}
}

// openHub builds the hub from the same sources and starts it on this machine.
func (r *run) openHub() (*post, error) {
	h := &post{r: r, program: r.path("hallig-hub")}
	if out, err := exec.CommandContext(r, "go", "build", "-o", h.program, "./cmd/hallig-hub").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the hub: %w: %s", err, out)
	}
	ca, err := testpeer.NewCA(r.dir)
	if err != nil {
		return nil, err
	}
	if h.Hub, err = testbox.NewHub(h.program, r.path("hub"), ca, testbox.Central{}); err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(h.Meeting)
	if err != nil {
		return nil, err
	}
	delete(h.Config, "server_addresses") // there is no central server in this story
	h.Config["names"] = []string{"*.boxes.example.org"}
	h.Config["page"] = "off"
	h.Config["updates"] = map[string]any{"kilobytes_per_second": hubPace}
	h.Config["p2p"] = map[string]any{"listen": []string{"/ip4/" + host + "/tcp/" + port}, "announce": []string{"/ip4/" + hostInside + "/tcp/" + port}}
	return h, h.Start(r)
}

// verb runs hallig-hub as an operator does.
func (h *post) verb(words ...string) error {
	out, err := exec.CommandContext(h.r, h.program, append(words, "--data", h.Dir)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("hallig-hub %s: %w: %s", strings.Join(words, " "), err, out)
	}
	return nil
}

// lays puts both updates on the shelf, and rolls the good one out to the box.
func (h *post) lays(v variants) error {
	return errors.Join(h.verb("update", "add", v.good.path), h.verb("update", "add", v.headless.path), h.verb("update", "roll", v.good.manifest.Version, "--box", hubBox))
}

// box prepares a box that knows where the hub is, as doc/hub.md says, and switches it on.
func (h *post) box() (*box, error) {
	s, err := h.Status(h.r)
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(map[string]any{"hub": map[string]any{"server": h.Name, "peers": s.Hub.Addresses}})
	if err != nil {
		return nil, err
	}
	disk, err := h.r.preparedDisk(vm.BIOS, "box", provision.File{Label: "Box 1", ServerName: hubBox, AdminCode: hubCode, Config: config})
	if err != nil {
		return nil, err
	}
	b, err := h.r.power(vm.Config{Dir: h.r.path("box"), Disk: disk, Open: true}, firstBoot)
	if err != nil {
		return nil, err
	}
	h.r.say("%v answers clients %.1f s after its first power on", b.Firmware, b.took.Seconds())
	ctx, stop := h.r.within(3 * time.Minute)
	defer stop()
	antje, err := b.register(ctx, "antje", hubCode)
	if err != nil {
		return nil, err
	}
	token, err := b.inviteCode(ctx, antje, 1)
	if err != nil {
		return nil, err
	}
	_, err = b.register(ctx, "boy", token)
	return b, err
}

// pair shows a code at the hub, and takes it on the box's page.
func (h *post) pair(br *browser) error {
	ctx, stop := h.r.within(2 * time.Minute)
	defer stop()
	var code hub.Code
	if err := hub.Ask(ctx, h.Dir, "POST", "/pair/show", struct{}{}, &code); err != nil {
		return err
	}
	s, err := h.Status(ctx)
	if err != nil {
		return err
	}
	page, err := br.post(ctx, "/admin/boxes", url.Values{"do": {"take"}, "code": {code.Code}, "address": {s.Hub.Addresses[0]}})
	if err != nil {
		return err
	}
	if said := bad(page); said != "" {
		return fmt.Errorf("the box does not take the hub's code: %s", said)
	}
	return nil
}

// told waits until the box has told the hub something.
func (h *post) told(is func(fleet.Box) bool, what string) error {
	ctx, stop := h.r.within(nextTalk)
	defer stop()
	began := time.Now()
	for {
		s, err := h.Status(ctx)
		if err != nil {
			return err
		}
		for _, x := range s.Boxes {
			if x.Server == hubBox && is(x) {
				h.r.say("the hub knows after %.0f s %s", time.Since(began).Seconds(), what)
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the box has not told the hub %s: %+v", what, s.Boxes)
		case <-time.After(time.Second):
		}
	}
}

var (
	shownProgress = regexp.MustCompile(`<progress max="1" value="([0-9.e-]+)"`)
	askedRange    = regexp.MustCompile(`a box fetches an update.*range="?bytes=(\d+)-`)
)

// fetched has somebody press the button on the box's page, and waits until the update is written. With cut the hub dies in the middle and comes back.
func (h *post) fetched(br *browser, u *bundle, cut bool) error {
	r := h.r
	ctx, stop := r.within(nextTalk + 10*time.Minute)
	defer stop()
	if err := h.offered(ctx, br, u); err != nil {
		return err
	}
	began := time.Now()
	page, err := br.post(ctx, "/admin/update", url.Values{"do": {"box"}, "box": {h.Name}})
	if err != nil {
		return err
	}
	if said := bad(page); said != "" && updateState(page) != "failed" {
		return fmt.Errorf("the box does not fetch from the hub: %s", said)
	}
	if cut {
		if err := h.dies(ctx, br); err != nil {
			return err
		}
	}
	if _, _, err := br.settled(ctx, "written"); err != nil {
		return err
	}
	info, err := os.Stat(u.path)
	if err != nil {
		return err
	}
	took := time.Since(began)
	least := time.Duration(info.Size()) * time.Second / (hubPace << 10)
	r.check(took > least*9/10, "%d bytes came in %v, faster than the hub may give them (%v)", info.Size(), took, least)
	r.say("%s is fetched and written after %.0f s, of which its bytes take %.0f s at %d kB/s", u.manifest.Version, took.Seconds(), least.Seconds(), hubPace)
	return nil
}

// offered waits until the box's page offers the update of the hub.
func (h *post) offered(ctx context.Context, br *browser, u *bundle) error {
	for {
		page, err := br.get(ctx, "/admin/update?offers=1")
		if errors.Is(err, errNotIn) {
			err = br.login(ctx)
		} else if err == nil && strings.Contains(page, "<strong>"+u.manifest.Version+"</strong> from "+h.Name) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the box's page does not offer %s: %w", u.manifest.Version, errors.Join(ctx.Err(), err))
		case <-time.After(3 * time.Second):
		}
	}
}

// dies kills the hub when a part of the update is through, and starts it again; the box must ask for the rest alone.
func (h *post) dies(ctx context.Context, br *browser) error {
	for done := 0.0; done < 0.2; {
		page, state, err := br.settled(ctx, "writing", "written", "failed")
		if err != nil {
			return err
		}
		if state != "writing" {
			return fmt.Errorf("the update is %s before a fifth of it was shown: %s", state, bad(page))
		}
		if g := shownProgress.FindStringSubmatch(page); g != nil {
			if done, err = strconv.ParseFloat(g[1], 64); err != nil {
				return err
			}
		}
	}
	if err := h.Kill(); err != nil {
		return err
	}
	before, err := os.ReadFile(h.Dir + ".log")
	if err != nil {
		return err
	}
	if err := h.Start(h.r); err != nil {
		return err
	}
	h.r.say("the hub has died in the middle and is back")
	for {
		raw, err := os.ReadFile(h.Dir + ".log")
		if err != nil {
			return err
		}
		if g := askedRange.FindSubmatch(raw[len(before):]); g != nil {
			h.r.say("the box asks for the rest from byte %s on", g[1])
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("the box does not ask for the rest of the update")
		case <-time.After(time.Second):
		}
	}
}
