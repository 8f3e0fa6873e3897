// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hallig/tools/imagetest/blocklog"
)

// TestDue: a disk must hold what was acknowledged after a flush that it has done, and no more can be asked of it.
func TestDue(t *testing.T) {
	w, f := blocklog.Entry{}, blocklog.Entry{Flags: blocklog.Flush}
	l := &life{record: &blocklog.Record{Entries: []blocklog.Entry{w, w, f, w, w, f, w}}, acks: []ack{
		{"early", 3}, {"while writing", 5}, {"after the second flush", 6}, {"at the end", 7},
	}}
	for durable, want := range map[int][]string{
		0: nil, 2: nil, 3: {"early", "while writing"}, 5: {"early", "while writing"},
		6: {"early", "while writing", "after the second flush", "at the end"},
	} {
		if got := l.due(blocklog.Cut{Durable: durable}); !slices.Equal(got, want) {
			t.Errorf("durable up to %d: due %q, want %q", durable, got, want)
		}
	}
}

func TestChoose(t *testing.T) {
	var entries []blocklog.Entry
	for i := range 300 {
		entries = append(entries, blocklog.Entry{Flags: uint64(i%3) / 2 * blocklog.Flush})
	}
	l := &life{record: &blocklog.Record{Entries: entries}, phases: []phase{{"first boot", 0, 20}, {"messages", 20, 260}, {"update", 260, 300}}}
	cuts := l.choose(7, 100)
	if len(cuts) != 100 {
		t.Fatalf("%d cuts", len(cuts))
	}
	count, boots, seen := map[string]int{}, 0, map[int]bool{}
	for _, c := range cuts {
		p := l.phases[slices.IndexFunc(l.phases, func(p phase) bool { return p.name == c.phase })]
		if c.Durable < p.from || c.Issued > p.to {
			t.Errorf("%v lies outside of %v", c, p)
		}
		count[c.phase]++
		seen[c.Durable] = true
		if c.boot {
			boots++
		}
	}
	for _, p := range l.phases {
		if count[p.name] < 33 {
			t.Errorf("%d cuts in %s", count[p.name], p.name)
		}
	}
	if boots != restarted || len(seen) < 40 {
		t.Errorf("%d to be booted, %d different flushes", boots, len(seen))
	}
	again := l.choose(7, 100)
	for i := range cuts {
		if cuts[i] != again[i] {
			t.Fatal("one seed, two choices")
		}
	}
}

func TestUpdatePage(t *testing.T) {
	page := `<p>Running: <strong>v1.2 &amp; more</strong></p><p class="note bad" role="alert">This update file
	is <b>older</b> than the running system.</p><form><input type="hidden" name="csrf" value="abc"></form>`
	if got := runningVersion(page); got != "v1.2 & more" {
		t.Errorf("running: %q", got)
	}
	if got := updateState(page); got != "failed" {
		t.Errorf("state: %q", got)
	}
	if got := updateState(`<section class="note"><p>Update <strong>x</strong> is verified and ready. While`); got != "written" {
		t.Errorf("state: %q", got)
	}
	if got := updateState("<p>nothing</p>"); got != "none" {
		t.Errorf("state: %q", got)
	}
	if got := bad(page); !strings.HasPrefix(got, "This update file is") {
		t.Errorf("bad: %q", got)
	}
	if got := bad("<p>all well</p>"); got != "" {
		t.Errorf("bad: %q", got)
	}
}

func TestNewRelease(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc", "hallig"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := newRelease(root, "x", 9); err == nil {
		t.Error("a root that does not name its release passes")
	}
	name := filepath.Join(root, "etc", "hallig", "release.json")
	if err := os.WriteFile(name, []byte(`{"version":"v1","release": 12,"board":"amd64","released":"2026"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := newRelease(root, "v2", 13); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(name); string(got) != `{"version": "v2","release": 13,"board":"amd64","released":"2026"}` {
		t.Errorf("%s", got)
	}
}

func TestProcessMemory(t *testing.T) {
	rss, err := processMemory(strings.NewReader("# HELP x\nhallig_process_resident_bytes{process=\"init\"} 1.2e+07\nhallig_other{process=\"init\"} 7\nhallig_process_resident_bytes{process=\"hallig\"} 40000000\n"))
	if err != nil || len(rss) != 2 || rss["init"] != 12e6 || rss["hallig"] != 40e6 {
		t.Errorf("%v, %v", rss, err)
	}
}

func TestChosen(t *testing.T) {
	names := func(o options) (out []string) {
		list, err := chosen(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range list {
			out = append(out, s.name)
		}
		return out
	}
	if got := names(options{}); slices.Contains(got, "smoke") || len(got) != len(scenarios)-1 {
		t.Errorf("all: %q", got)
	}
	if got := names(options{only: "cuts, boots"}); !slices.Equal(got, []string{"cuts", "boots"}) {
		t.Errorf("two: %q", got)
	}
	if got := names(options{smoke: true}); !slices.Equal(got, []string{"smoke"}) {
		t.Errorf("smoke: %q", got)
	}
	if _, err := chosen(options{only: "nonsense"}); err == nil {
		t.Error("an unknown name is taken")
	}
}
