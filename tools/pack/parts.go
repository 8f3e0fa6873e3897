// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// module is what the go tool says of one it has downloaded.
type module struct {
	Path, Version, Dir, Zip, Error string
}

// modules finds modules in the module cache, or fetches them.
func (j *job) modules(dir string, list []string) (mods []module, err error) {
	cmd := exec.CommandContext(j.ctx, "go", append([]string{"mod", "download", "-json"}, list...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off")
	var words bytes.Buffer
	cmd.Stderr = &words
	out, err := cmd.Output()
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var m module
		if e := dec.Decode(&m); e == io.EOF {
			break
		} else if e != nil {
			return nil, fmt.Errorf("go mod download: %w: %s", errors.Join(err, e), words.String())
		}
		if m.Error != "" {
			return nil, fmt.Errorf("module %s: %s", m.Path, m.Error)
		}
		mods = append(mods, m)
	}
	if err != nil {
		return nil, fmt.Errorf("go mod download: %w: %s", err, words.String())
	}
	return mods, nil
}

// component of a Go module: its hash is that of the zip file in which modules are handed around.
func (m module) component(l licence) (component, error) {
	zip, err := os.ReadFile(m.Zip)
	return component{kind: cdx.ComponentTypeLibrary, name: m.Path, version: m.Version, purl: modulePURL(m.Path, m.Version), sha512: hash(zip), licence: l}, err
}

const sqliteModule = "github.com/mattn/go-sqlite3"

var sqliteVersion = regexp.MustCompile(`(?m)^#define SQLITE_VERSION\s+"([0-9.]+)"`)

// sqlite is the C source that sqliteModule brings along.
func sqlite(dir string) (component, error) {
	body, err := os.ReadFile(filepath.Join(dir, "sqlite3-binding.c"))
	if err != nil {
		return component{}, err
	}
	m := sqliteVersion.FindSubmatch(body)
	if m == nil {
		return component{}, errors.New("sqlite3-binding.c does not say its version")
	}
	return component{kind: cdx.ComponentTypeLibrary, name: "sqlite", version: string(m[1]), purl: "pkg:generic/sqlite@" + string(m[1]), sha512: hash(body), licence: licence{expression: "blessing"},
		note: "sqlite3-binding.c of " + sqliteModule}, nil
}

func goRef(version string) string { return "pkg:golang/std@" + strings.TrimPrefix(version, "go") }

// systemParts lists what is in the image besides Go modules.
func (j *job) systemParts(tree string) (parts []component, err error) {
	for _, find := range []func(string) ([]component, error){j.goPart, j.cLibrary, j.rootsPart, j.bootParts, j.boardParts} {
		c, err := find(tree)
		if err != nil {
			return nil, err
		}
		parts = append(parts, c...)
	}
	return parts, nil
}

// goPart is the standard library and the runtime; the hash is that of the compiler that holds them.
func (j *job) goPart(string) ([]component, error) {
	root := goEnv("GOROOT")
	version, err := os.ReadFile(filepath.Join(root, "VERSION"))
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(string(version), "\n")
	l, err := moduleLicence(root)
	if err != nil {
		return nil, err
	}
	tool, err := os.ReadFile(filepath.Join(root, "pkg/tool", goEnv("GOHOSTOS")+"_"+goEnv("GOHOSTARCH"), "compile"))
	if err != nil {
		return nil, err
	}
	v := strings.TrimPrefix(name, "go")
	return []component{{kind: cdx.ComponentTypeLibrary, name: "std", version: v, purl: goRef(name), sha512: hash(tool), licence: l, note: "Go standard library and runtime; the hash is that of the compiler"}}, nil
}

// cLibrary is the C library that SQLite needs, linked statically.
func (j *job) cLibrary(string) ([]component, error) {
	cc := "gcc"
	if j.board.goarch == "arm64" && goEnv("GOHOSTARCH") != "arm64" {
		cc = crossCompiler
	}
	where, err := exec.CommandContext(j.ctx, cc, "-print-file-name=libc.a").Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cc, err)
	}
	body, err := os.ReadFile(strings.TrimSpace(string(where)))
	if err != nil {
		return nil, fmt.Errorf("the static C library: %w", err)
	}
	macros := exec.CommandContext(j.ctx, cc, "-E", "-dM", "-include", "features.h", "-x", "c", "/dev/null")
	out, err := macros.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cc, err)
	}
	minor := regexp.MustCompile(`(?m)^#define __GLIBC_MINOR__ (\d+)`).FindSubmatch(out)
	if minor == nil {
		return nil, errors.New("the C library is not glibc; name it in tools/pack/parts.go")
	}
	l, err := j.ownLicence("LGPL-2.1-or-later")
	return []component{{kind: cdx.ComponentTypeLibrary, name: "glibc", version: "2." + string(minor[1]), purl: "pkg:generic/glibc@2." + string(minor[1]), sha512: hash(body), licence: l,
		note: "libc.a", source: "https://www.gnu.org/software/libc/sources.html"}}, err
}

// ownLicence takes a text from image/licences, for parts that come without.
func (j *job) ownLicence(id string) (licence, error) {
	text, err := os.ReadFile(filepath.Join(j.src.dir, "image/licences", id+".txt"))
	return licence{id, []string{string(text)}}, err
}

// rootsPart is the list of certification authorities.
func (j *job) rootsPart(string) ([]component, error) {
	out, err := j.listModule(j.src.dir, "golang.org/x/crypto/x509roots/fallback")
	if err != nil {
		return nil, err
	}
	l, err := moduleLicence(out.Dir)
	if err != nil {
		return nil, err
	}
	c, err := out.component(l)
	c.note = "etc/ssl/ca-bundle.pem: Mozilla's list of certification authorities"
	return []component{c}, err
}

// listModule asks which version of a module a go.mod pins, and finds it.
func (j *job) listModule(dir, path string) (module, error) {
	cmd := exec.CommandContext(j.ctx, "go", "list", "-m", "-f", "{{.Path}}@{{.Version}}", path)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return module{}, fmt.Errorf("go list %s: %w", path, err)
	}
	mods, err := j.modules(dir, []string{strings.TrimSpace(string(out))})
	if err != nil {
		return module{}, err
	}
	if len(mods) != 1 {
		return module{}, fmt.Errorf("go list %s: %d modules", path, len(mods))
	}
	return mods[0], nil
}

var linuxVersion = regexp.MustCompile(`\b([3-9]\.\d+\.\d+[-A-Za-z0-9+]*) \([^)]*@`)

// bootParts are the boot loaders, from gok's own modules.
func (j *job) bootParts(string) (parts []component, err error) {
	gok := filepath.Join(j.src.dir, "image/gok")
	if j.board.uefi {
		m, err := j.listModule(gok, "github.com/gokrazy/tools")
		if err != nil {
			return nil, err
		}
		loader := map[string]string{"amd64": "systemd-bootx64.efi", "arm64": "systemd-bootaa64.efi"}[j.board.goarch]
		found, err := filepath.Glob(filepath.Join(m.Dir, "third_party/systemd-*", loader))
		if err != nil || len(found) != 1 {
			return nil, fmt.Errorf("gok has %d loaders named %s", len(found), loader)
		}
		body, err := os.ReadFile(found[0])
		if err != nil {
			return nil, err
		}
		l, err := j.ownLicence("LGPL-2.1-or-later")
		if err != nil {
			return nil, err
		}
		version := strings.TrimPrefix(filepath.Base(filepath.Dir(found[0])), "systemd-")
		parts = append(parts, component{kind: cdx.ComponentTypeFirmware, name: "systemd-boot", version: version, purl: "pkg:deb/debian/systemd-boot-efi@" + version, sha512: hash(body), licence: l,
			note: "EFI boot loader, " + loader, source: "https://snapshot.debian.org/package/systemd/" + version + "/"})
	}
	if j.board.bios {
		m, err := j.listModule(gok, "github.com/gokrazy/internal")
		if err != nil {
			return nil, err
		}
		body, err := os.ReadFile(filepath.Join(m.Dir, "mbr/bootloader.img"))
		if err != nil {
			return nil, err
		}
		l, err := j.ownLicence("GPL-3.0-or-later")
		if err != nil {
			return nil, err
		}
		parts = append(parts, component{kind: cdx.ComponentTypeFirmware, name: "minimal-linux-bootloader", version: m.Version, purl: modulePURL(m.Path, m.Version) + "#mbr", sha512: hash(body), licence: l,
			note: "BIOS boot loader in sector 0; its source is on the box: " + etc + "/bootloader.asm"})
	}
	return parts, nil
}

// boardParts are the kernel and, on a Raspberry Pi, the firmware, from the instance's builddir.
func (j *job) boardParts(string) (parts []component, err error) {
	dir := filepath.Join(j.src.dir, "image", j.board.name, "builddir")
	k, err := j.listModule(dir, map[string]string{"amd64": "github.com/gokrazy/kernel.amd64", "arm64": "github.com/gokrazy/kernel.arm64", "rpi": "github.com/gokrazy/kernel.rpi"}[j.board.name])
	if err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile(filepath.Join(k.Dir, "vmlinuz"))
	if err != nil {
		return nil, err
	}
	version := linuxVersion.FindSubmatch(kernel)
	if version == nil {
		return nil, errors.New("the kernel does not say its version")
	}
	text, err := os.ReadFile(filepath.Join(k.Dir, "LICENSE.linux"))
	if err != nil {
		return nil, err
	}
	upstream, err := os.ReadFile(filepath.Join(k.Dir, "_build/upstream-url.txt"))
	if err != nil {
		return nil, err
	}
	parts = append(parts, component{kind: cdx.ComponentTypeOS, name: "linux", version: string(version[1]), purl: modulePURL(k.Path, k.Version), sha512: hash(kernel),
		licence: licence{"GPL-2.0-only WITH Linux-syscall-note", []string{string(text)}}, note: "kernel; its configuration and patches are in the module's _build", source: strings.TrimSpace(string(upstream))})
	if j.board.name != "rpi" {
		return parts, nil
	}
	f, err := j.listModule(dir, "github.com/gokrazy/firmware")
	if err != nil {
		return nil, err
	}
	text, err = os.ReadFile(filepath.Join(f.Dir, "LICENSE.broadcom"))
	if err != nil {
		return nil, err
	}
	for _, name := range piStages {
		body, err := os.ReadFile(filepath.Join(f.Dir, name))
		if err != nil {
			return nil, err
		}
		parts = append(parts, component{kind: cdx.ComponentTypeFirmware, name: name, version: f.Version, purl: modulePURL(f.Path, f.Version) + "#" + name, sha512: hash(body),
			licence: licence{"LicenseRef-Broadcom-Raspberry-Pi-firmware", []string{string(text)}}, note: "firmware of the Raspberry Pi 4, for use with its chips only"})
	}
	return parts, nil
}
