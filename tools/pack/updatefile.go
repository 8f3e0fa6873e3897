// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/sha512"
	"encoding/binary"
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
	published   string // an update file that was published: its signatures are taken, and no key is needed
}

// loadKeys reads the keys. Without a key file a key for development is made: such an image trusts nobody but the machine it was built on.
// With a key file the image trusts those in image/update.json, or else that one key. Who has neither, but a published update file, can
// still make the same bytes from the same sources: the signatures are taken over.
func loadKeys(dir, keyFile, published string) (keyRing, error) {
	trust, err := os.ReadFile(filepath.Join(dir, trustFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return keyRing{}, err
	}
	listed := err == nil
	if published != "" {
		if !listed {
			return keyRing{}, fmt.Errorf("compare with %s: these sources have no %s, which names the keys that a published image trusts", published, trustFile)
		}
		keys, err := update.ParseKeys(trust)
		return keyRing{trusted: keys, published: published}, err
	}
	var k keyRing
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
		return k, fmt.Errorf("%s: %w; a key is made with: hallig update key --out FILE", keyFile, err)
	}
	k.sign = []update.PrivateKey{key}
	k.trusted = update.Keys{Threshold: 1, Keys: []update.PublicKey{key.Public()}}
	if k.development {
		fmt.Printf("pack: signing with a key for development (%s). Boxes with this image take updates from nobody else.\n"+
			"pack: For images that you hand out make a key with `hallig update key --out FILE`, keep it safe, and build with KEY=FILE.\n", devKey)
		return k, nil
	}
	if !listed {
		return k, nil
	}
	if k.trusted, err = update.ParseKeys(trust); err != nil {
		return k, fmt.Errorf("%s: %w", trustFile, err)
	}
	for _, p := range k.trusted.Keys {
		if bytes.Equal(p.Key, key.Public().Key) {
			return k, nil
		}
	}
	return k, fmt.Errorf("the key in %s is not among those that %s names: no box would take what it signs", keyFile, trustFile)
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
	if err := out.Close(); err != nil || j.keys.published == "" {
		return err
	}
	return j.takeSignatures()
}

// takeSignatures puts the head of a published update file, signatures and all, before the parts that were built here. What is signed must be
// the same to the byte, or the build is not the published one.
func (j *job) takeSignatures() error {
	f, err := os.Open(j.keys.published)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read
	theirs, m, err := update.Head(f)
	if err != nil {
		return fmt.Errorf("%s: %w", j.keys.published, err)
	}
	ours, err := j.updateHead()
	if err != nil {
		return err
	}
	signed := 16 + 4 + int(binary.LittleEndian.Uint32(ours[16:])) // magic, length, manifest
	if len(theirs) < signed || !bytes.Equal(ours[:signed], theirs[:signed]) {
		return fmt.Errorf("what these sources give is not what was published as %s (version %s, release %d)", j.keys.published, m.Version, m.Release)
	}
	whole, err := os.ReadFile(j.path("update"))
	if err != nil {
		return err
	}
	whole = append(theirs, whole[len(ours):len(whole)-sha512.Size]...)
	sum := sha512.Sum512(whole)
	fmt.Printf("pack: these sources give kernel, command lines and root of %s as they were signed (version %s, release %d)\n", filepath.Base(j.keys.published), m.Version, m.Release)
	return os.WriteFile(j.path("update"), append(whole, sum[:]...), 0o644)
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
