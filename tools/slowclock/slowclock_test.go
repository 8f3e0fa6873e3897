// SPDX-License-Identifier: EUPL-1.2

package slowclock

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// A program with a slow clock waits longer by the machine's clock, and neither sees it by its own: not in what it measures, not in what day it has, not when the kernel waits for it.
func TestSlow(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("only on linux/amd64 is it known how to slow the clock down")
	}
	const times = 5
	since := time.Now().Add(-time.Hour).Truncate(time.Second)
	program := filepath.Join(t.TempDir(), "probe")
	if err := (Clock{Times: times, Since: since}).Build(t.Context(), program, "hallig/tools/slowclock/testdata/probe"); err != nil {
		t.Fatal(err)
	}
	raw, err := exec.Command(program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Slept, Waited, Machine time.Duration
		Now                    time.Time
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	own := got.Slept + got.Waited
	if got.Slept < 50*time.Millisecond || got.Waited < 50*time.Millisecond {
		t.Errorf("it slept for %v and waited for %v by its own clock, want 50ms each at least", got.Slept, got.Waited)
	}
	if got.Machine < times*100*time.Millisecond || got.Machine < times*own*99/100 || got.Machine > 3*times*own {
		t.Errorf("%v of its own were %v of the machine, want %d times as many", own, got.Machine, times)
	}
	want := since.Add(time.Since(since) / times)
	if off := want.Sub(got.Now); off < 0 || off > time.Minute {
		t.Errorf("it had %v, want %v", got.Now, want)
	}
}

// What cannot work is refused before anything is compiled.
func TestRefused(t *testing.T) {
	now := time.Now().Add(-time.Second)
	for name, c := range map[string]Clock{
		"stands still": {Since: now}, "much too slow": {Times: 1001, Since: now}, "a time to come": {Times: 2, Since: now.Add(time.Hour)},
		"text that is not there":   {Times: 2, Since: now, Patience: map[string]map[string]string{"tools/slowclock/slowclock.go": {"no such " + "text": ""}}},
		"a file that is not there": {Times: 2, Since: now, Patience: map[string]map[string]string{"nothing.go": {"a": "b"}}},
	} {
		if err := c.Build(t.Context(), filepath.Join(t.TempDir(), "out"), "hallig/tools/slowclock/testdata/probe"); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
