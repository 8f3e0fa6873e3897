// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"hallig/appliance/update"
	"hallig/tools/imagetest/offline"
	"hallig/tools/imagetest/vm"
)

// bundle is an update file and what is in it.
type bundle struct {
	path     string
	manifest update.Manifest
}

// system is what a slot holds when the bundle is in it.
func (b *bundle) system() offline.System {
	s := offline.System{Name: b.manifest.Version}
	for _, p := range b.manifest.Parts {
		c := offline.Content{SHA512: p.SHA512, Size: p.Size}
		switch p.File {
		case update.RootPart:
			s.Root = c
		case update.KernelFile:
			s.Kernel = c
		}
	}
	return s
}

// released is the update file that make image made beside the image: what is in slot a of a new disk.
func (r *run) released(f vm.Firmware) (*bundle, error) {
	b := &bundle{path: filepath.Join(r.images, "hallig-"+board(f)+".hallig-update")}
	file, err := os.Open(b.path)
	if err != nil {
		return nil, fmt.Errorf("no update file: %w; make it with: make image BOARD=%s", err, board(f))
	}
	defer file.Close()
	b.manifest, _, err = update.Inspect(file)
	return b, err
}

// change is what a derived update has other than the one it comes from.
type change struct {
	name    string // of the file
	version string
	step    int64                    // added to the release; the boxes take only what is newer
	root    func(dir string) error   // changes the unpacked root; nil: nothing
	key     *update.PrivateKey       // who signs; nil: the key that make image used
	manif   func(*update.Manifest)   // last word
	parts   func(update.Part) []byte // replaces a part; nil answer: keeps it
}

// derive makes an update file from the released one.
func (r *run) derive(from *bundle, c change) (*bundle, error) {
	dir := r.path("derive-" + c.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	parts, err := unpack(from.path)
	if err != nil {
		return nil, fmt.Errorf("derive %s: %w", c.name, err)
	}
	m := from.manifest
	m.Version, m.Release = c.version, m.Release+c.step
	var sources []update.Source
	for i, p := range from.manifest.Parts {
		body := parts[i]
		if p.File == update.RootPart && c.root != nil {
			if body, err = rebuildRoot(dir, body, c.root); err != nil {
				return nil, fmt.Errorf("derive %s: %w", c.name, err)
			}
		}
		if c.parts != nil {
			if other := c.parts(p); other != nil {
				body = other
			}
		}
		sources = append(sources, update.Source{File: p.File, Slot: p.Slot, Data: bytes.NewReader(body), Size: int64(len(body))})
	}
	if c.manif != nil {
		c.manif(&m)
	}
	key := c.key
	if key == nil {
		raw, err := os.ReadFile(filepath.Join("image", "keys", "update.key"))
		if err != nil {
			return nil, fmt.Errorf("the key that make image has made: %w", err)
		}
		k, err := update.ParsePrivateKey(raw)
		if err != nil {
			return nil, err
		}
		key = &k
	}
	b := &bundle{path: r.path(c.name + ".hallig-update")}
	f, err := os.Create(b.path)
	if err != nil {
		return nil, err
	}
	b.manifest, err = update.Write(f, m, sources, *key)
	return b, errors.Join(err, f.Close())
}

// unpack reads the parts of an update file.
func unpack(path string) (parts [][]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m, by, err := update.Inspect(f)
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	rd, err := update.Open(f, update.Running{Board: m.Board, Release: m.Release - 1, Keys: update.Keys{Threshold: 1, Keys: by}})
	if err != nil {
		return nil, err
	}
	defer rd.Close()
	at := map[string]int{}
	for i, p := range m.Parts {
		at[p.File+p.Slot.String()] = i
		parts = append(parts, make([]byte, p.Size))
	}
	err = rd.Each(func(p update.Part, offset int64, block []byte) error {
		copy(parts[at[p.File+p.Slot.String()]][offset:], block)
		return nil
	})
	return parts, err
}

// rebuildRoot unpacks a root file system, changes it and packs it again.
func rebuildRoot(dir string, squashfs []byte, change func(string) error) ([]byte, error) {
	old, tree, packed := filepath.Join(dir, "old.squashfs"), filepath.Join(dir, "root"), filepath.Join(dir, "new.squashfs")
	if err := os.WriteFile(old, squashfs, 0o644); err != nil {
		return nil, err
	}
	if out, err := exec.Command("unsquashfs", "-q", "-no-progress", "-d", tree, old).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unsquashfs: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := change(tree); err != nil {
		return nil, err
	}
	if out, err := exec.Command("mksquashfs", tree, packed, "-noappend", "-quiet", "-no-progress", "-comp", "gzip", "-all-root", "-no-xattrs", "-no-exports").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mksquashfs: %w: %s", err, bytes.TrimSpace(out))
	}
	return os.ReadFile(packed)
}

// replaceProgram puts a program of a few lines in the place of one in the root: it is compiled for the board.
func replaceProgram(f vm.Firmware, name, source string) func(string) error {
	return func(root string) error {
		dir, err := os.MkdirTemp("", "imagetest-prog-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o644),
			os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module broken\n\ngo 1.26\n"), 0o644)); err != nil {
			return err
		}
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(root, name), ".")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off", "GOOS=linux", "GOARCH="+board(f))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
}
