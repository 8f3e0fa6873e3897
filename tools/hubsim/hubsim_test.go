// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hallig/tools/testpostgres"
)

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Both stories in small: they end only when nothing is lost, and a killed node's boxes are with the others.
func TestStories(t *testing.T) {
	o := options{nodes: 3, boxes: 30, idle: 100 * time.Millisecond, step: 2 * time.Second, rates: "20", kills: 3, wave: 1000, dir: t.TempDir()}
	err := spoolAlone(t.Context(), &o)
	if errors.Is(err, testpostgres.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	o.dir = t.TempDir()
	o.hub = filepath.Join(o.dir, "hallig-hub")
	if out, err := exec.Command("go", "build", "-o", o.hub, "hallig/cmd/hallig-hub").CombinedOutput(); err != nil {
		t.Fatalf("build the hub: %v: %s", err, out)
	}
	if err := wholeHub(t.Context(), &o); err != nil {
		t.Fatal(err)
	}
}
