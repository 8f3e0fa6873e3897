// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"hallig/tools/imagetest/vm"
	"hallig/tools/released"
)

// upgrades takes a box of every released version to the one that is being built. The old images are built anew from their commits: what was
// published trusts only the publisher's key, which no test has, and is otherwise the same bytes (make image LIKE=FILE says so).
func upgrades(r *run) error {
	list, err := released.List(".")
	if err != nil {
		return err
	}
	if len(list) == 0 {
		r.say("no released version yet")
		return nil
	}
	next, err := r.released(vm.BIOS)
	if err != nil {
		return err
	}
	for _, v := range list {
		if err := r.upgrade(v, next); err != nil {
			return fmt.Errorf("from %s: %w", v.Name, err)
		}
	}
	return nil
}

func (r *run) upgrade(v released.Version, next *bundle) error {
	images, err := r.buildOld(v)
	if err != nil {
		return err
	}
	here := r.images
	r.images = images
	b, room, id, err := r.firstDay(vm.BIOS, v.Name, nil)
	if err != nil {
		return err
	}
	old, err := r.released(vm.BIOS)
	if err != nil {
		return err
	}
	r.images = here
	ctx, stop := r.within(3 * time.Minute)
	defer stop()
	br, err := b.browse(ctx, b.people[0].UserID)
	if err != nil {
		return err
	}
	if err := errors.Join(r.install(br, next), r.confirmed(br, next)); err != nil {
		return err
	}
	ids := []string{id}
	if err := r.writeOn(b, room, &ids); err != nil {
		return err
	}
	b, _, err = r.coldBoot(b, vm.BIOS, old, next)
	if err != nil {
		return err
	}
	defer b.Kill()
	r.say("a box of %s runs %s now, and has all its messages", old.manifest.Version, next.manifest.Version)
	return b.holds(b.people[1], room, ids...)
}

// buildOld builds the image of a released version in a work tree of its own, with the key for development that the new image trusts, too.
func (r *run) buildOld(v released.Version) (images string, err error) {
	tree := r.path("tree-" + v.Name)
	git := func(args ...string) error {
		if out, err := exec.CommandContext(r, "git", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("git %s: %w: %s", args[0], err, out)
		}
		return nil
	}
	if err := git("worktree", "add", "--detach", tree, v.Commit); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, git("worktree", "remove", "--force", tree)) }()
	key, err := os.ReadFile(filepath.Join("image", "keys", "update.key"))
	if err != nil {
		return "", fmt.Errorf("the key that make image has made: %w", err)
	}
	keys := filepath.Join(tree, "image", "keys")
	if err := errors.Join(os.MkdirAll(keys, 0o700), os.WriteFile(filepath.Join(keys, "update.key"), key, 0o600)); err != nil {
		return "", err
	}
	images = r.path("images-" + v.Name)
	began := time.Now()
	pack := exec.CommandContext(r, "go", "run", "./tools/pack", "-board", "amd64", "-out", images)
	pack.Dir = tree
	if out, err := pack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the image of %s: %w: %s", v.Name, err, out)
	}
	r.say("%s is built anew from commit %s, %.0f s", v.Name, v.Commit, time.Since(began).Seconds())
	return images, nil
}
