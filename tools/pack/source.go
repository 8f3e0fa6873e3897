// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// source is what is built.
type source struct {
	dir    string
	schema int64 // of the database
	sourceFacts
}

// sourceFacts is what the repository knows and an archive of the sources must say in sourceFile, so that who unpacks the archive that a box
// serves builds the very image that the box runs.
type sourceFacts struct {
	Version string    `json:"version"`
	Release int64     `json:"release"` // rises with every commit
	Commit  string    `json:"commit"`
	Time    time.Time `json:"time"` // of the commit
	Files   []string  `json:"files"`
}

// sourceFile stands in an archive of the sources, never in the repository.
const sourceFile = "SOURCE.json"

func readSource(ctx context.Context, dir string) (source, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return source{}, err
	}
	src := source{dir: dir}
	if src.schema, err = databaseSchema(dir); err != nil {
		return source{}, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, sourceFile))
	if errors.Is(err, fs.ErrNotExist) {
		src.sourceFacts, err = askGit(ctx, dir)
		return src, err
	}
	if err != nil {
		return source{}, err
	}
	if err := json.Unmarshal(raw, &src.sourceFacts); err != nil {
		return source{}, fmt.Errorf("read %s: %w", sourceFile, err)
	}
	return src, nil
}

// databaseSchema reads from the sources which schema of the database this release keeps: a box that goes back to an older release needs to know.
func databaseSchema(dir string) (int64, error) {
	const name = "appliance/store/db.go"
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return 0, err
	}
	m := schemaLine.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("%s does not say its schemaVersion", name)
	}
	return strconv.ParseInt(string(m[1]), 10, 64)
}

var schemaLine = regexp.MustCompile(`(?m)^\s*schemaVersion\s*=\s*(\d+)$`)

func askGit(ctx context.Context, dir string) (s sourceFacts, err error) {
	git := func(args ...string) string {
		if err != nil {
			return ""
		}
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = dir
		var words bytes.Buffer
		cmd.Stderr = &words
		out, e := cmd.Output()
		if e != nil {
			err = fmt.Errorf("git %s: %w: %s; an image is built from a git repository or from the archive of the sources that a box serves", args[0], e, bytes.TrimSpace(words.Bytes()))
		}
		return strings.TrimSpace(string(out))
	}
	if git("rev-parse", "--is-shallow-repository") == "true" {
		return s, errors.New("this clone has not all commits, so the release number cannot be counted; get them with: git fetch --unshallow")
	}
	s.Version = git("describe", "--tags", "--always", "--abbrev=12")
	if git("status", "--porcelain") != "" { // also files that were never committed: they go along into the archive
		s.Version += "-dirty"
	}
	s.Commit = git("rev-parse", "HEAD")
	release, seconds := git("rev-list", "--count", "HEAD"), git("log", "-1", "--format=%ct")
	names := git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return s, err
	}
	if s.Release, err = strconv.ParseInt(release, 10, 64); err != nil {
		return s, fmt.Errorf("count the commits: %w", err)
	}
	unix, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return s, fmt.Errorf("read the commit's time: %w", err)
	}
	s.Time = time.Unix(unix, 0).UTC()
	for name := range strings.SplitSeq(strings.Trim(names, "\x00"), "\x00") {
		if st, err := os.Lstat(filepath.Join(dir, name)); err == nil && !st.IsDir() { // one that was deleted and not yet committed is no source
			s.Files = append(s.Files, name)
		}
	}
	slices.Sort(s.Files)
	s.Files = slices.Compact(s.Files)
	return s, nil
}

// archiveName is what the archive of the sources is called.
func (s source) archiveName() string { return "hallig-" + s.Version + ".tar.zst" }

// archive writes the sources as a tar file, packed with zstd, the same bytes for the same sources.
func (s source) archive(w io.Writer) error {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	facts, err := json.MarshalIndent(s.sourceFacts, "", " ")
	if err != nil {
		return err
	}
	if err := s.add(t, sourceFile, 0o644, facts); err != nil {
		return err
	}
	for _, name := range s.Files {
		full := filepath.Join(s.dir, name)
		st, err := os.Lstat(full)
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("source file %s is no regular file", name)
		}
		body, err := os.ReadFile(full)
		if err != nil {
			return err
		}
		if err := s.add(t, name, 0o644|int64(st.Mode()&0o111), body); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	return z.Close()
}

func (s source) add(t *tar.Writer, name string, mode int64, body []byte) error {
	if mode&0o111 != 0 {
		mode = 0o755
	}
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "hallig-" + s.Version + "/" + name, Mode: mode, Size: int64(len(body)), ModTime: s.Time, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	_, err = t.Write(body)
	return err
}
