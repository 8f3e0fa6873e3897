// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// repository makes a small git repository with one commit, one later change and one file that is not source.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"}, args...)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_AUTHOR_DATE=2026-11-01T12:00:00Z", "GIT_COMMITTER_DATE=2026-11-01T12:00:00Z", "GIT_CONFIG_GLOBAL=/dev/null")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write(t, dir, "appliance/store/db.go", "package store\n\nconst (\n\tschemaVersion = 8\n)\n")
	write(t, dir, "run.sh", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, dir, ".gitignore", "/secret\n")
	git("init", "-q")
	git("add", ".")
	git("commit", "-q", "-m", "first")
	write(t, dir, "secret", "never to be published")
	return dir
}

func write(t *testing.T, dir, name, body string) {
	t.Helper()
	full := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSourceKnowsItsCommit(t *testing.T) {
	dir := repository(t)
	src, err := readSource(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if src.Release != 1 || src.schema != 8 || len(src.Commit) != 40 || !strings.HasPrefix(src.Commit, src.Version) || src.Time.Format("2006-01-02 15:04") != "2026-11-01 12:00" {
		t.Errorf("read %+v", src)
	}
	if want := []string{".gitignore", "appliance/store/db.go", "run.sh"}; !slices.Equal(src.Files, want) {
		t.Errorf("files %q, want %q", src.Files, want)
	}
	for name, body := range map[string]string{"run.sh": "#!/bin/sh\necho changed\n", "new.sh": "#!/bin/sh\n"} {
		dir := repository(t)
		write(t, dir, name, body)
		if src, err = readSource(t.Context(), dir); err != nil || !strings.HasSuffix(src.Version, "-dirty") {
			t.Errorf("with %s not committed the version is %q (%v), want one that says dirty", name, src.Version, err)
		}
	}
}

// TestArchiveIsTheWholeSource: who unpacks the archive has the facts and the files, without git, and makes the very same archive from them.
func TestArchiveIsTheWholeSource(t *testing.T) {
	src, err := readSource(t.Context(), repository(t))
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := src.archive(&first); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unpack(bytes.NewReader(first.Bytes()), dir); err != nil {
		t.Fatal(err)
	}
	again, err := readSource(t.Context(), filepath.Join(dir, "hallig-"+src.Version))
	if err != nil {
		t.Fatal(err)
	}
	if again.Commit != src.Commit || again.Release != src.Release || !again.Time.Equal(src.Time) || again.schema != src.schema {
		t.Errorf("the archive says %+v, the repository %+v", again, src)
	}
	if err := again.archive(&second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("an archive made from the unpacked archive differs from it")
	}
	st, err := os.Stat(filepath.Join(again.dir, "run.sh"))
	if err != nil || st.Mode()&0o100 == 0 {
		t.Errorf("a program in the archive cannot be run: %v %v", st, err)
	}
	if _, err := os.Stat(filepath.Join(again.dir, "secret")); err == nil {
		t.Error("the archive holds a file that git ignores")
	}
}

func TestNoRepository(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "appliance/store/db.go", "package store\n\tschemaVersion = 8\n")
	if _, err := readSource(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "git repository") {
		t.Errorf("without git: %v", err)
	}
}
