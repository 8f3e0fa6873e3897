// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// reproduce builds the images twice: from the repository, and from the archive of the sources that a box would serve, unpacked elsewhere.
// Every result must be the same to the byte. It proves both that builds can be compared and that the archive is the whole source.
func reproduce(ctx context.Context, src source, keys keyRing, wanted []string) error {
	dir, err := os.MkdirTemp("", "hallig-repro-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // scratch
	var archive bytes.Buffer
	if err := src.archive(&archive); err != nil {
		return err
	}
	if err := unpack(&archive, filepath.Join(dir, "elsewhere")); err != nil {
		return fmt.Errorf("unpack the sources: %w", err)
	}
	again, err := readSource(ctx, filepath.Join(dir, "elsewhere", "hallig-"+src.Version))
	if err != nil {
		return err
	}
	differ := 0
	for _, name := range wanted {
		first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
		for out, s := range map[string]source{first: src, second: again} {
			if err := build(ctx, s, boards[name], keys, out, false); err != nil {
				return fmt.Errorf("build the image for %s: %w", name, err)
			}
		}
		for _, end := range results {
			a, errA := measureFile(filepath.Join(first, "hallig-"+name+end))
			b, errB := measureFile(filepath.Join(second, "hallig-"+name+end))
			if err := errors.Join(errA, errB); err != nil {
				return err
			}
			if a.SHA256 == b.SHA256 {
				fmt.Printf("image-repro: same   %s  %s\n", a.SHA256, a.Name)
				continue
			}
			differ++
			fmt.Printf("image-repro: DIFFER %s  %s\nimage-repro:        %s\n", a.SHA256, a.Name, b.SHA256)
		}
	}
	if differ > 0 {
		return fmt.Errorf("%d results differ between two builds of the same sources", differ)
	}
	return nil
}

// unpack takes an archive of the sources apart.
func unpack(r io.Reader, dir string) error {
	z, err := zstd.NewReader(r)
	if err != nil {
		return err
	}
	defer z.Close()
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if !filepath.IsLocal(h.Name) || strings.Contains(h.Name, "\x00") {
			return fmt.Errorf("%q is no name in an archive of sources", h.Name)
		}
		body, err := io.ReadAll(t)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, body, os.FileMode(h.Mode)); err != nil {
			return err
		}
	}
}
