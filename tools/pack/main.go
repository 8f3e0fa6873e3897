// SPDX-License-Identifier: EUPL-1.2

// Command pack builds the image of a box: a disk that boots, and the update file that renews one.
//
//	go run ./tools/pack -board amd64 -out bin/image
//
// It lets gok build the programs and gather kernel, boot loaders and firmware from the pinned modules in image/, and then lays everything
// out anew, because gok's own disks differ from build to build and cannot be updated in place:
//
//	source.go     what is built: commit, version, release number, and the archive of the sources that goes into the image
//	gok.go        a run of gok in a directory of its own
//	root.go       the root file system: gok's, plus what Hallig adds, minus what the builder's machine would leave in it
//	sbom.go       the bill of materials, licences.go the texts of the licences
//	boot.go       the boot partition: every file in one piece, at a place that never changes
//	disk.go       the partitions and the whole image
//	updatefile.go the signed update file and the keys
//	repro.go      the proof that all this can be done again
//
// The same commit gives the same bytes: no clock, no random number and no path of the builder's machine goes in. What is not pinned by a
// checksum are the C compiler with its static library and the tools for file systems; manifest.json names their versions.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "pack:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("pack", flag.ContinueOnError)
	boardName := f.String("board", "", "board to build for: "+strings.Join(boardNames(), ", ")+"; all of them when empty")
	out := f.String("out", "bin/image", "directory for the results")
	root := f.String("root", ".", "directory of the sources")
	keyFile := f.String("key", "", "file with the private key that signs the update; without it a key for development is made in image/keys")
	version := f.String("version", "", "call the result this version instead of the commit's (for tests)")
	release := f.Int64("release", 0, "give the result this release number instead of the commit's (for tests)")
	like := f.String("like", "", "published update file to compare with: its signatures are taken over, so that the image becomes the same to the byte")
	repro := f.Bool("repro", false, "build everything twice in different places and compare, instead of keeping the results")
	keep := f.Bool("keep", false, "keep the directory of the build, to look into it")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *like != "" && (*boardName == "" || *keyFile != "") {
		return errors.New("-like is for one -board and needs no -key")
	}
	wanted := boardNames()
	if *boardName != "" {
		wanted = []string{*boardName}
		if !slices.Contains(boardNames(), *boardName) {
			return fmt.Errorf("there is no board %q; there are %s", *boardName, strings.Join(boardNames(), ", "))
		}
	}
	if err := checkTools(wanted); err != nil {
		return err
	}
	src, err := readSource(ctx, *root)
	if err != nil {
		return err
	}
	if *version != "" {
		src.Version = *version
	}
	if *release != 0 {
		src.Release = *release
	}
	keys, err := loadKeys(src.dir, *keyFile, *like)
	if err != nil {
		return err
	}
	if *repro {
		return reproduce(ctx, src, keys, wanted)
	}
	for _, name := range wanted {
		began := time.Now()
		if err := build(ctx, src, boards[name], keys, *out, *keep); err != nil {
			return fmt.Errorf("build the image for %s: %w", name, err)
		}
		fmt.Printf("pack: %s took %.1f s\n", name, time.Since(began).Seconds())
	}
	return nil
}

// job is the build of one image.
type job struct {
	ctx      context.Context //nolint:containedctx // a job is one call of build
	src      source
	board    board
	keys     keyRing
	dir      string // scratch
	manifest manifest
	cmdline  []string // kernel arguments without root=
	boot     []bootFile
}

func build(ctx context.Context, src source, b board, keys keyRing, out string, keep bool) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hallig-pack-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Println("pack: working in", dir)
	} else {
		defer os.RemoveAll(dir) //nolint:errcheck // scratch
	}
	j := &job{ctx: ctx, src: src, board: b, keys: keys, dir: dir, manifest: newManifest(src, b, keys)}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"build the programs", j.runGok},
		{"make the root file system", j.makeRoot},
		{"gather the boot files", j.gatherBoot},
		{"make the update file", j.makeUpdate},
		{"make the boot partition", j.makeBoot},
		{"make the disk", j.makeDisk},
		{"write the results", func() error { return j.finish(out) }},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		fmt.Printf("pack: %s: %s, %.1f s\n", b.name, step.what, time.Since(began).Seconds())
	}
	return nil
}

func (j *job) path(name string) string { return filepath.Join(j.dir, name) }
