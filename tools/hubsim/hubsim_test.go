// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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

// The whole story with many boxes in slow time: one node is killed, another one falls silent, nothing is lost, all comes in order.
func TestSlow(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles the hub with another clock, which takes minutes the first time")
	}
	s, err := testpostgres.Start()
	if errors.Is(err, testpostgres.ErrMissing) {
		t.Skip(err)
	}
	if err == nil {
		err = s.Stop()
	}
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = runSlowed(t.Context(), 4, []string{"-slow", "4", "-boxes", "300", "-nodes", "3", "-idle", "100ms", "-step", "2s", "-rates", "20", "-kills", "1"}, &out)
	t.Logf("%s", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^hubsim move_s `, `no more word from node \d with [1-9]`, `(?m)^hubsim: 300 boxes on 3 nodes, [1-9]\d* transactions answered, lost 0, out of order 0,`} {
		if !regexp.MustCompile(want).Match(out.Bytes()) {
			t.Errorf("it did not say %s", want)
		}
	}
}
