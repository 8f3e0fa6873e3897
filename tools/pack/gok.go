// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// runGok builds the programs. It leaves gok's root file system, boot partition and boot sector as files of the job's directory. The instance
// is copied there, so that gok's -mod=mod can never change the pins; its builddir gets a link to the sources, so that the programs are built
// from the one go.mod of the whole project.
func (j *job) runGok() error {
	gok := j.path("gok")
	if err := j.tool("go", []string{"build", "-trimpath", "-o", gok, "github.com/gokrazy/tools/cmd/gok"}, filepath.Join(j.src.dir, "image/gok"), "CGO_ENABLED=0"); err != nil {
		return err
	}
	from, to := filepath.Join(j.src.dir, "image", j.board.name), j.path("instances/"+j.board.name)
	if err := os.CopyFS(filepath.Join(to, "builddir"), os.DirFS(filepath.Join(from, "builddir"))); err != nil {
		return err
	}
	if err := os.Symlink(j.src.dir, filepath.Join(to, "builddir/hallig")); err != nil {
		return err
	}
	raw, err := os.ReadFile(filepath.Join(from, "config.json"))
	if err != nil {
		return err
	}
	config, err := j.expand(string(raw))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to, "config.json"), []byte(config), 0o644); err != nil {
		return err
	}
	pins, err := j.pins(filepath.Join(to, "builddir"))
	if err != nil {
		return err
	}
	err = j.tool(gok, []string{"-i", j.board.name, "overwrite", "--root", j.path("gok.squashfs"), "--boot", j.path("gok.fat"), "--mbr", j.path("gok.mbr")}, j.dir,
		"GOKRAZY_PARENT_DIR="+j.path("instances"), "HOME="+j.dir, "GOPATH="+goEnv("GOPATH"), "GOMODCACHE="+goEnv("GOMODCACHE"), "GOCACHE="+goEnv("GOCACHE"))
	if err != nil {
		return err
	}
	after, err := j.pins(filepath.Join(to, "builddir"))
	if err == nil && !bytes.Equal(pins, after) {
		err = fmt.Errorf("go.mod or image/%s/builddir/go.mod did not pin all that the image needs; run go mod tidy in both and commit what it changes", j.board.name)
	}
	return err
}

// expand fills the words in the instance's config.json that only a build knows.
func (j *job) expand(config string) (string, error) {
	var err error
	config = os.Expand(config, func(word string) string {
		switch word {
		case "VERSION":
			return j.src.Version
		case "RELEASED":
			return j.src.Time.Format("2006-01-02T15:04:05Z")
		}
		err = fmt.Errorf("config.json: ${%s} is not known", word)
		return ""
	})
	return config, err
}

// pins are the files that say which versions go in: those of the instance and those of the project.
func (j *job) pins(builddir string) (all []byte, err error) {
	for _, dir := range []string{builddir, j.src.dir} {
		for _, name := range []string{"go.mod", "go.sum"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			all = append(all, b...)
		}
	}
	return all, nil
}

// tool runs a program with nothing of the caller's Go settings that could change what is built. What it says is shown when it fails.
func (j *job) tool(name string, args []string, dir string, env ...string) error {
	cmd := exec.CommandContext(j.ctx, name, args...)
	cmd.Dir = dir
	for _, kv := range os.Environ() {
		key, _, _ := strings.Cut(kv, "=")
		switch key {
		case "GOFLAGS", "GOOS", "GOARCH", "CGO_ENABLED", "CC", "CXX", "CGO_CFLAGS", "CGO_LDFLAGS", "GOBIN", "GOWORK", "GOEXPERIMENT", "GOAMD64", "GOARM64", "TZ", "LANG", "LC_ALL":
			continue
		}
		cmd.Env = append(cmd.Env, kv)
	}
	cmd.Env = append(cmd.Env, "GOTOOLCHAIN=local", "GOWORK=off", "LC_ALL=C", "TZ=UTC", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", j.src.Time.Unix()))
	cmd.Env = append(cmd.Env, env...)
	var words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &words, &words
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, lastLines(words.String(), 40))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// goEnv is one of the settings of the Go tool.
func goEnv(key string) string {
	out, err := exec.Command("go", "env", key).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}
