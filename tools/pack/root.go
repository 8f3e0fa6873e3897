// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"hallig/appliance/update"
)

// etc is where the image keeps what it says about itself, as seen from the root.
const etc = "etc/hallig"

// zone is the time zone of the log lines and of the screen. Clients use their own.
const zone = "Europe/Berlin"

// users are the names of those who are not root, for the programs that ask who they are.
const (
	users  = "root:x:0:0:root:/perm:/\nhallig:x:1000:1000:homeserver:/perm/hallig:/\nhallig-lan:x:1001:1001:network:/run/hallig/lan:/\nhallig-page:x:1002:1002:page without data:/:/\nnobody:x:65534:65534:nobody:/:/\n"
	groups = "root:x:0:\nhallig:x:1000:\nhallig-lan:x:1001:\nhallig-page:x:1002:\nnogroup:x:65534:\n"
)

// needless is what gok puts into every root and nothing in ours reads: settings of gokrazy's own web page, and modules of the kernel for
// hardware that a box does not have or, as Wi-Fi, whose firmware the image does not bring.
var needless = []string{"etc/gokrazy", "etc/http-port.txt", "etc/https-port.txt", "lib/modules"}

// makeRoot turns gok's root file system into the image's: what came from the builder's machine (certificates, time zone, paths) is replaced,
// what the image says about itself is added, and all of it is packed with the commit's time.
func (j *job) makeRoot() error {
	tree := j.path("root")
	if err := j.tool("unsquashfs", []string{"-quiet", "-no-progress", "-dest", tree, j.path("gok.squashfs")}, j.dir); err != nil {
		return err
	}
	for _, name := range needless {
		if err := os.RemoveAll(filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(tree, etc), 0o755); err != nil {
		return err
	}
	if err := j.addSource(tree); err != nil {
		return err
	}
	if err := j.addLoaderSource(tree); err != nil {
		return err
	}
	bom, licences, err := j.makeBOM(tree)
	if err != nil {
		return err
	}
	local, err := timeZone()
	if err != nil {
		return err
	}
	keys, err := json.Marshal(j.keys.trusted)
	if err != nil {
		return err
	}
	if _, err := update.ParseKeys(keys); err != nil {
		return err
	}
	about, err := j.manifest.json()
	if err != nil {
		return err
	}
	for name, body := range map[string][]byte{
		"etc/ssl/ca-bundle.pem": authorities(),
		"etc/localtime":         local,
		"etc/passwd":            []byte(users),
		"etc/group":             []byte(groups),
		update.KeysFile[1:]:     append(keys, '\n'),
		etc + "/manifest.json":  about,
		etc + "/sbom.cdx.json":  bom,
		etc + "/licences.txt":   licences,
	} {
		if err := replace(filepath.Join(tree, name), body); err != nil {
			return err
		}
	}
	if err := settle(tree); err != nil {
		return err
	}
	when := fmt.Sprint(j.src.Time.Unix())
	err = j.tool("env", []string{"-u", "SOURCE_DATE_EPOCH", "mksquashfs", tree, j.path("root.squashfs"), "-noappend", "-quiet", "-no-progress", "-comp", "gzip", "-b", "131072",
		"-all-root", "-no-xattrs", "-no-exports", "-mkfs-time", when, "-all-time", when}, j.dir)
	if err != nil {
		return err
	}
	st, err := os.Stat(j.path("root.squashfs"))
	if err == nil && st.Size() > rootSize {
		err = fmt.Errorf("it has %d MiB, a root partition %d MiB", st.Size()>>20, rootSize>>20)
	}
	return err
}

// addSource puts the archive of the sources into the root, for /source.
func (j *job) addSource(tree string) error {
	var b bytes.Buffer
	if err := j.src.archive(&b); err != nil {
		return fmt.Errorf("pack the sources: %w", err)
	}
	name := j.src.archiveName()
	j.manifest.Source = describe(name, b.Bytes())
	return replace(filepath.Join(tree, etc, name), b.Bytes())
}

// addLoaderSource puts the source of the BIOS loader beside its bytes, as its licence wants.
func (j *job) addLoaderSource(tree string) error {
	if !j.board.bios {
		return nil
	}
	m, err := j.listModule(filepath.Join(j.src.dir, "image/gok"), "github.com/gokrazy/internal")
	if err != nil {
		return err
	}
	body, err := os.ReadFile(filepath.Join(m.Dir, "mbr/bootloader.asm"))
	if err != nil {
		return err
	}
	return replace(filepath.Join(tree, etc, "bootloader.asm"), body)
}

// replace writes a file in place of what is there, be it a link.
func replace(name string, body []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(name); err != nil {
		return err
	}
	return os.WriteFile(name, body, 0o644)
}

// settle gives every file of the tree the rights it has on the box, whatever the builder's umask: nothing is writable, programs can be run.
func settle(tree string) error {
	return filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		if d.IsDir() {
			return os.Chmod(name, 0o755)
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o444)
		if info.Mode()&0o111 != 0 {
			mode = 0o555
		}
		return os.Chmod(name, mode)
	})
}

// authorities are the certificates that public servers are checked with, from the pinned module instead of the builder's machine.
func authorities() []byte {
	var b bytes.Buffer
	for c := range bundle.Roots() {
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate}) //nolint:errcheck // memory
	}
	return b.Bytes()
}

// timeZone is the zone's file from the Go distribution.
func timeZone() ([]byte, error) {
	name := filepath.Join(goEnv("GOROOT"), "lib/time/zoneinfo.zip")
	z, err := zip.OpenReader(name)
	if err != nil {
		return nil, fmt.Errorf("read time zones: %w; the Go distribution brings this file", err)
	}
	defer z.Close() //nolint:errcheck // only read
	f, err := z.Open(zone)
	if err != nil {
		return nil, fmt.Errorf("read time zones: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	return io.ReadAll(f)
}
