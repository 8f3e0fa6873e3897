// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hallig/appliance/update"
)

// Names in image/: whom every box trusts, and what a developer has instead.
const (
	trustFile = "image/update.json"     // committed by who publishes images: public keys and threshold
	devKey    = "image/keys/update.key" // made on the spot, never committed
)

// keyRing is who signs the update file and whom the image trusts.
type keyRing struct {
	sign        []update.PrivateKey
	trusted     update.Keys
	development bool
}

// loadKeys reads the keys. With neither image/update.json nor a key file, a key for development is made: such an image trusts nobody but
// the machine it was built on.
func loadKeys(dir, keyFile string) (keyRing, error) {
	var k keyRing
	trust, err := os.ReadFile(filepath.Join(dir, trustFile))
	published := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if keyFile == "" {
		keyFile = filepath.Join(dir, devKey)
		if err := makeDevKey(keyFile); err != nil {
			return k, fmt.Errorf("make a key for development: %w", err)
		}
		k.development = true
	}
	raw, err := os.ReadFile(keyFile)
	if err != nil {
		return k, err
	}
	key, err := update.ParsePrivateKey(raw)
	if err != nil {
		return k, fmt.Errorf("%s: %w", keyFile, err)
	}
	k.sign = []update.PrivateKey{key}
	k.trusted = update.Keys{Threshold: 1, Keys: []update.PublicKey{key.Public()}}
	if published {
		if k.trusted, err = update.ParseKeys(trust); err != nil {
			return k, fmt.Errorf("%s: %w", trustFile, err)
		}
	}
	if k.development {
		fmt.Printf("pack: signing with a key for development (%s). Boxes with this image take updates from nobody else;\n"+
			"pack: for images that you hand out, make a key, keep it safe and build with KEY=FILE.\n", devKey)
	}
	return k, nil
}

func makeDevKey(name string) error {
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	return os.WriteFile(name, update.GenerateKey("development").File(), 0o600)
}

// makeUpdate writes the update file from the root and the boot files.
func (j *job) makeUpdate() error {
	root, err := os.Open(j.path("root.squashfs"))
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // only read
	st, err := root.Stat()
	if err != nil {
		return err
	}
	sources := []update.Source{{File: update.RootPart, Data: root, Size: st.Size()}}
	files, err := j.slotFiles()
	if err != nil {
		return err
	}
	for _, f := range files {
		if !f.text {
			sources = append(sources, update.Source{File: f.name, Data: bytes.NewReader(f.body), Size: int64(len(f.body))})
			continue
		}
		for _, s := range []update.Slot{update.SlotA, update.SlotB} {
			body := update.ForSlot(f.body, s)
			sources = append(sources, update.Source{File: f.name, Slot: s, Data: bytes.NewReader(body), Size: int64(len(body))})
		}
	}
	out, err := os.Create(j.path("update"))
	if err != nil {
		return err
	}
	m := update.Manifest{Product: update.Product, Board: j.board.name, Version: j.src.Version, Release: j.src.Release, Schema: j.src.schema, Commit: j.src.Commit}
	if _, err := update.Write(out, m, sources, j.keys.sign...); err != nil {
		out.Close() //nolint:errcheck // the other error is told
		return err
	}
	return out.Close()
}

// updateHead is the beginning of the update file: a slot keeps it as the description of what it holds.
func (j *job) updateHead() ([]byte, error) {
	f, err := os.Open(j.path("update"))
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	head, _, err := update.Head(f)
	return head, err
}
