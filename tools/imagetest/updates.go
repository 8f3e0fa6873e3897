// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"hallig/appliance/update"
	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
)

// trialTime is how long a trial may take until it is confirmed or the box is back.
const trialTime = 6 * time.Minute

// program that ends at once, as a hallig that cannot open its database does
const failing = `package main

import "os"

func main() { println("broken on purpose"); os.Exit(1) }
`

// variants are the update files of a story.
type variants struct {
	released, good, foreign, older, deaf, headless *bundle
	altered                                        string
}

// variants makes those that are named; without names all of them, and the altered file.
func (r *run) variants(f vm.Firmware, names ...string) (v variants, err error) {
	if v.released, err = r.released(f); err != nil {
		return v, err
	}
	stranger := update.GenerateKey("stranger")
	for _, c := range []struct {
		to **bundle
		change
	}{
		{&v.good, change{name: "good", version: "good-1", step: 1}},
		{&v.foreign, change{name: "foreign", version: "foreign-1", step: 9, key: &stranger}},
		{&v.older, change{name: "older", version: "older-1", step: -1}},
		{&v.deaf, change{name: "deaf", version: "deaf-2", step: 2, root: replaceProgram(f, "user/hallig", failing)}},
		{&v.headless, change{name: "headless", version: "headless-3", step: 3, root: func(root string) error {
			return os.Remove(filepath.Join(root, "gokrazy", "init"))
		}}},
	} {
		if len(names) > 0 && !slices.Contains(names, c.name) {
			continue
		}
		if c.root == nil {
			c.root = func(root string) error { return newRelease(root, c.version, v.released.manifest.Release+c.step) }
		} else {
			inner := c.root
			c.root = func(root string) error {
				return errors.Join(newRelease(root, c.version, v.released.manifest.Release+c.step), inner(root))
			}
		}
		if *c.to, err = r.derive(v.released, c.change); err != nil {
			return v, err
		}
	}
	if len(names) > 0 {
		return v, nil
	}
	raw, err := os.ReadFile(v.good.path)
	if err != nil {
		return v, err
	}
	raw[len(raw)/2] ^= 1
	v.altered = r.path("altered.hallig-update")
	return v, os.WriteFile(v.altered, raw, 0o644)
}

var releaseFields = regexp.MustCompile(`"(version|release)"\s*:\s*("[^"]*"|\d+)`)

// newRelease makes the root say that it is another release, in every file that says so.
func newRelease(root, version string, release int64) error {
	seen := 0
	for _, name := range []string{"release.json", "manifest.json"} {
		name = filepath.Join(root, "etc", "hallig", name)
		raw, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		out := releaseFields.ReplaceAllStringFunc(string(raw), func(s string) string {
			seen++
			if strings.HasPrefix(s, `"version"`) {
				return fmt.Sprintf(`"version": %q`, version)
			}
			return fmt.Sprintf(`"release": %d`, release)
		})
		if err := os.WriteFile(name, []byte(out), 0o644); err != nil {
			return err
		}
	}
	if seen < 2 {
		return fmt.Errorf("nothing in %s names the release", root)
	}
	return nil
}

func updates(r *run) error {
	v, err := r.variants(vm.BIOS)
	if err != nil {
		return err
	}
	// What becomes of a deaf system does not depend on the firmware, so one of them is enough for it.
	if err := r.updateStory(vm.BIOS, v, "bios", r.install, v.deaf, v.headless); err != nil {
		return fmt.Errorf("%v: %w", vm.BIOS, err)
	}
	if err := r.updateStory(vm.UEFI, v, "uefi", r.installFromStick, v.headless); err != nil {
		return fmt.Errorf("%v: %w", vm.UEFI, err)
	}
	if v, err = r.variants(vm.ARM64, "good"); err != nil {
		return err
	}
	if err := r.updateStory(vm.ARM64, v, "arm64", r.install); err != nil {
		return fmt.Errorf("%v: %w", vm.ARM64, err)
	}
	return nil
}

// updateStory takes a box through all that can happen to it: the good update by the way that is given, then those that do not work.
func (r *run) updateStory(f vm.Firmware, v variants, name string, install func(*browser, *bundle) error, broken ...*bundle) error {
	b, room, first, err := r.firstDay(f, name, nil)
	if err != nil {
		return err
	}
	ids := []string{first}
	ctx, stop := r.within(3 * time.Minute)
	defer stop()
	br, err := b.browse(ctx, b.people[0].UserID)
	if err != nil {
		return err
	}
	if f == vm.BIOS {
		if err := r.refusals(ctx, br, v); err != nil {
			return err
		}
	}
	if err := install(br, v.good); err != nil {
		return err
	}
	if err := r.confirmed(br, v.good); err != nil {
		return err
	}
	if err := r.writeOn(b, room, &ids); err != nil {
		return fmt.Errorf("after the update: %w", err)
	}
	if b, br, err = r.coldBoot(b, f, v.released, v.good); err != nil {
		return err
	}
	if err := b.holds(b.people[1], room, ids...); err != nil {
		return fmt.Errorf("after the cold boot: %w", err)
	}
	for _, u := range broken {
		if err := r.goesBack(b, br, u, v.good); err != nil {
			return fmt.Errorf("%s: %w", u.manifest.Version, err)
		}
		if err := b.holds(b.people[1], room, ids...); err != nil {
			return fmt.Errorf("after the way back: %w", err)
		}
		if err := r.writeOn(b, room, &ids); err != nil {
			return fmt.Errorf("after the way back: %w", err)
		}
	}
	b.Kill()
	return nil
}

// refusals: nothing of these comes as far as the other slot being bootable.
func (r *run) refusals(ctx context.Context, br *browser, v variants) error {
	for _, c := range []struct{ what, file, says string }{
		{"an altered file", v.altered, "damaged|corrupt"},
		{"an older file", v.older.path, "older"},
		{"a file signed by a stranger", v.foreign.path, "sign"},
	} {
		page, err := br.upload(ctx, c.file)
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		said := bad(page)
		if !r.check(regexp.MustCompile(c.says).MatchString(said), "%s: the page says %q, want something with %q", c.what, said, c.says) {
			continue
		}
		if page, err = br.get(ctx, "/admin/update"); err != nil {
			return err
		}
		r.check(updateState(page) != "written", "%s can be started after it was refused", c.what)
		r.say("%s is refused: %s", c.what, said)
	}
	return nil
}

// install uploads a file and starts it on trial.
func (r *run) install(br *browser, u *bundle) error {
	ctx, stop := r.within(4 * time.Minute)
	defer stop()
	began := time.Now()
	page, err := br.upload(ctx, u.path)
	if err != nil {
		return err
	}
	if said := bad(page); said != "" && updateState(page) == "failed" {
		return fmt.Errorf("the box refuses %s: %s", u.manifest.Version, said)
	}
	return r.startTrial(ctx, br, u, began)
}

func (r *run) startTrial(ctx context.Context, br *browser, u *bundle, began time.Time) error {
	if _, _, err := br.settled(ctx, "written"); err != nil {
		return err
	}
	r.say("%s is written after %.0f s", u.manifest.Version, time.Since(began).Seconds())
	_, err := br.post(ctx, "/admin/update", url.Values{"do": {"start"}})
	return err
}

var stickPath = regexp.MustCompile(`name="path" value="([^"]+)"`)

// installFromStick does the same with a stick that is plugged in while the box runs.
func (r *run) installFromStick(br *browser, u *bundle) error {
	ctx, stop := r.within(4 * time.Minute)
	defer stop()
	raw, err := os.ReadFile(u.path)
	if err != nil {
		return err
	}
	stick := r.path("update.stick")
	if err := vm.NewStick(stick, 256, map[string][]byte{"hallig-" + board(br.b.Firmware) + ".hallig-update": raw}); err != nil {
		return err
	}
	if err := br.b.PlugStick("stick", stick); err != nil {
		return err
	}
	began := time.Now()
	var path string
	for path == "" {
		page, err := br.get(ctx, "/admin/update")
		if err != nil {
			return err
		}
		if g := stickPath.FindStringSubmatch(page); g != nil {
			path = g[1]
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the page never offers the update on the stick: %w", ctx.Err())
		case <-time.After(time.Second):
		}
	}
	if page, err := br.post(ctx, "/admin/update", url.Values{"do": {"stick"}, "path": {path}}); err != nil {
		return err
	} else if said := bad(page); said != "" {
		return fmt.Errorf("the box refuses the stick: %s", said)
	}
	return r.startTrial(ctx, br, u, began)
}

// confirmed waits until the box has confirmed the update.
func (r *run) confirmed(br *browser, u *bundle) error {
	ctx, stop := r.within(trialTime)
	defer stop()
	began := time.Now()
	page, state, err := br.settled(ctx, "done", "failed")
	if err != nil {
		return err
	}
	if state != "done" {
		return fmt.Errorf("the update failed: %s", bad(page))
	}
	if v := runningVersion(page); v != u.manifest.Version {
		return fmt.Errorf("%s runs, want %s", v, u.manifest.Version)
	}
	if err := br.b.answersNow(ctx); err != nil {
		return err
	}
	r.add(&r.tally.updates, 1)
	r.say("%s is confirmed %.0f s after its start", u.manifest.Version, time.Since(began).Seconds())
	r.note("update %v: confirmed %.0f s after start of the trial", br.b.Firmware, time.Since(began).Seconds())
	return nil
}

func (b *box) answersNow(ctx context.Context) error {
	_, err := b.Answers(ctx, portHTTP, versions, http.StatusOK)
	return err
}

// writeOn sends one more message and checks that the others of this story are still there.
func (r *run) writeOn(b *box, room string, ids *[]string) error {
	ctx, stop := r.within(time.Minute)
	defer stop()
	id, err := b.people[1].SendText(ctx, room, fmt.Sprintf("Meldung %d", len(*ids)+1))
	if err != nil {
		return err
	}
	*ids = append(*ids, id)
	return b.holds(b.people[0], room, *ids...)
}

// coldBoot pulls the plug, looks at the disk, and switches on again.
func (r *run) coldBoot(b *box, f vm.Firmware, systems ...*bundle) (*box, *browser, error) {
	b.Kill()
	want := systems[len(systems)-1]
	d, err := offline.Open(b.Disk)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	var known []offline.System
	for _, s := range systems {
		known = append(known, s.system())
	}
	firmwares := []vm.Firmware{vm.BIOS, vm.UEFI} // a disk for amd64 serves both
	if f == vm.ARM64 {
		firmwares = []vm.Firmware{f}
	}
	for _, fw := range firmwares {
		s, slot, err := d.Boots(fw, known...)
		if err != nil {
			return nil, nil, fmt.Errorf("%v after the update: %w", fw, err)
		}
		r.check(s.Name == want.manifest.Version, "%v would boot %s from slot %c, want %s", fw, s.Name, slot, want.manifest.Version)
	}
	next, err := r.power(vm.Config{Dir: b.Dir, Firmware: f, Disk: b.Disk}, firstBoot)
	if err != nil {
		return nil, nil, err
	}
	b.moveTo(next)
	ctx, stop := r.within(time.Minute)
	defer stop()
	br, err := next.browse(ctx, next.people[0].UserID)
	if err != nil {
		return nil, nil, err
	}
	page, err := br.get(ctx, "/admin/update")
	if err != nil {
		return nil, nil, err
	}
	r.check(runningVersion(page) == want.manifest.Version, "after a cold boot %q runs, want %s", runningVersion(page), want.manifest.Version)
	return next, br, nil
}

// goesBack starts an update that does not work and waits until the box is back with the one before.
func (r *run) goesBack(b *box, br *browser, broken, before *bundle) error {
	if err := r.install(br, broken); err != nil {
		return err
	}
	return r.wentBack(b, br, broken, before)
}

// wentBack waits, after the start of a trial, until the box is back with the system before, and says why.
func (r *run) wentBack(b *box, br *browser, broken, before *bundle) error {
	ctx, stop := r.within(trialTime)
	defer stop()
	began := time.Now()
	page, state, err := br.settled(ctx, "done", "failed")
	if err != nil {
		return err
	}
	if state != "failed" {
		return fmt.Errorf("the box has taken over a broken system")
	}
	if v := runningVersion(page); v != before.manifest.Version {
		return fmt.Errorf("%s runs, want %s", v, before.manifest.Version)
	}
	if err := b.answersNow(ctx); err != nil {
		return err
	}
	r.check(bad(page) != "", "the page does not say why the update was not taken")
	r.add(&r.tally.rollbacks, 1)
	r.say("%s did not work; the box was back by itself after %.0f s and says: %s", broken.manifest.Version, time.Since(began).Seconds(), bad(page))
	r.note("rollback %v from %s: %.0f s", b.Firmware, broken.manifest.Version, time.Since(began).Seconds())
	return nil
}
