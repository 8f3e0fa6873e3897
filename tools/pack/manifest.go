// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// manifest says what was built. The image carries it as etc/hallig/manifest.json, without Files and Tools, which name the image itself.
type manifest struct {
	Product  string    `json:"product"`
	Board    string    `json:"board"`
	Version  string    `json:"version"`
	Release  int64     `json:"release"`
	Commit   string    `json:"commit"`
	Released time.Time `json:"released"`
	Schema   int64     `json:"schema"`
	Keys     []string  `json:"update_keys"`
	// Development says that the key is a developer's: whoever built the image can change every box with it.
	Development bool     `json:"development,omitempty"`
	Source      file     `json:"source"`
	Programs    []file   `json:"programs"`
	Files       []file   `json:"files,omitempty"`
	Tools       []string `json:"tools,omitempty"`
}

// file is a file with what it takes to check it.
type file struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256,omitempty"`
	SHA512 string `json:"sha512"`
}

func describe(name string, body []byte) file {
	sum := sha512.Sum512(body)
	return file{Name: name, Size: int64(len(body)), SHA512: hex.EncodeToString(sum[:])}
}

func newManifest(src source, b board, keys keyRing) manifest {
	m := manifest{Product: "hallig", Board: b.name, Version: src.Version, Release: src.Release, Commit: src.Commit, Released: src.Time, Schema: src.schema, Development: keys.development}
	for _, k := range keys.trusted.Keys {
		m.Keys = append(m.Keys, k.String())
	}
	return m
}

func (m manifest) json() ([]byte, error) {
	b, err := json.MarshalIndent(m, "", "  ")
	return append(b, '\n'), err
}

// maxPacked is how much one has to fetch for a new box, at most: there are places where that is an hour.
const maxPacked = 60_000_000

// results are the ends of the names of what a build leaves.
var results = []string{".img", ".img.zst", ".hallig-update", ".cdx.json", ".manifest.json"}

// finish moves the results to where they are wanted, packs the disk, and writes the manifest beside them.
func (j *job) finish(out string) error {
	base := "hallig-" + j.board.name
	for from, to := range map[string]string{"disk.img": ".img", "update": ".hallig-update", "root/" + etc + "/sbom.cdx.json": ".cdx.json"} {
		if err := moveFile(j.path(from), filepath.Join(out, base+to)); err != nil {
			return err
		}
	}
	// A window of 128 MiB, which every unpacker takes, spans both copies of the kernel: the second one costs nothing.
	disk := filepath.Join(out, base+".img")
	if err := j.tool("zstd", []string{"-q", "-f", "-9", "-T0", "--long=27", disk, "-o", disk + ".zst"}, "."); err != nil {
		return err
	}
	for _, end := range results[:4] {
		f, err := measureFile(filepath.Join(out, base+end))
		if err != nil {
			return err
		}
		j.manifest.Files = append(j.manifest.Files, f)
		if end == ".img.zst" {
			if f.Size > maxPacked {
				return fmt.Errorf("%s has %.1f MB packed; the promise is at most %d", f.Name, float64(f.Size)/1e6, maxPacked/1000000)
			}
			fmt.Printf("pack: %s: %.1f MB packed\n", f.Name, float64(f.Size)/1e6)
		}
	}
	j.manifest.Tools = j.toolVersions()
	b, err := j.manifest.json()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, base+".manifest.json"), b, 0o644)
}

func measureFile(name string) (file, error) {
	f, err := os.Open(name)
	if err != nil {
		return file{}, err
	}
	defer f.Close() //nolint:errcheck // only read
	h, h256 := sha512.New(), sha256.New()
	n, err := io.Copy(io.MultiWriter(h, h256), f)
	return file{Name: filepath.Base(name), Size: n, SHA512: hex.EncodeToString(h.Sum(nil)), SHA256: hex.EncodeToString(h256.Sum(nil))}, err
}

// moveFile renames, or copies with holes when the target is another file system.
func moveFile(from, to string) error {
	if err := os.Rename(from, to); err == nil {
		return os.Chmod(to, 0o644)
	}
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	err = f.Truncate(st.Size())
	if err == nil {
		err = copySparse(f, from, 0)
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// toolVersions names what the builder's machine brought: who wants the same bytes needs the same.
func (j *job) toolVersions() (lines []string) {
	cc := "gcc"
	if j.board.goarch == "arm64" {
		cc = crossCompiler
	}
	for _, args := range [][]string{{"go", "version"}, {cc, "--version"}, {"ldd", "--version"}, {"mksquashfs", "-version"}, {"mkfs.fat"}, {"mtools", "--version"}, {"sfdisk", "--version"}, {"zstd", "--version"}} {
		out, _ := exec.CommandContext(j.ctx, args[0], args[1:]...).CombinedOutput() //nolint:errcheck // mkfs.fat says its version and fails
		line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
		lines = append(lines, args[0]+": "+strings.TrimSpace(string(line)))
	}
	return lines
}
