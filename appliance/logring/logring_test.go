// SPDX-License-Identifier: EUPL-1.2

package logring

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type clock struct{ up time.Duration }

func (c *clock) now() time.Time        { return time.Unix(1_700_000_000, 0).Add(c.up) }
func (c *clock) uptime() time.Duration { return c.up }

func text(t *testing.T, r *Rings, name string) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Copy(&b, name); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestLinesHaveTimeAndUptime(t *testing.T) {
	c := &clock{up: 1500 * time.Millisecond}
	r := New(Limits{}, c.now, c.uptime)
	fmt.Fprint(r.Ring("hallig"), "one\ntw")
	fmt.Fprint(r.Ring("hallig"), "o \x1b[2J\xff\nunfinished")
	want := "2023-11-14T22:13:21Z +1.500 one\n2023-11-14T22:13:21Z +1.500 two .[2J?\n"
	if got := text(t, r, "hallig"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := r.Copy(&bytes.Buffer{}, "../hallig"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a name from outside: %v", err)
	}
}

func TestMemoryFirstThenDiskThenNextStart(t *testing.T) {
	c, dir := &clock{}, t.TempDir()
	r := New(Limits{}, c.now, c.uptime)
	r.Ring("a").Printf("before the disk")
	r.Attach(dir)
	r.Ring("a").Printf("on the disk")
	r.Ring("b").Printf("other")
	r.Detach()
	r.Ring("a").Printf("after it")
	if got := text(t, r, "a"); !strings.HasSuffix(got, "after it\n") || strings.Contains(got, "on the disk") {
		t.Errorf("after Detach: %q", got)
	}
	// The power goes away in the middle of a line.
	f, err := os.OpenFile(filepath.Join(dir, "a.0.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("2023 half a l")
	f.Close()
	r = New(Limits{}, c.now, c.uptime)
	r.Attach(dir)
	if got := r.Names(); len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("names %q", got)
	}
	r.Ring("a").Printf("next start")
	got := text(t, r, "a")
	lines := strings.Split(got, "\n")
	if len(lines) != 5 || !strings.HasSuffix(lines[0], "before the disk") || !strings.HasSuffix(lines[1], "on the disk") ||
		lines[2] != "2023 half a l [cut off]" || !strings.HasSuffix(lines[3], "next start") {
		t.Errorf("%q", got)
	}
}

func TestBounded(t *testing.T) {
	c, dir := &clock{}, t.TempDir()
	r := New(Limits{FileBytes: 1000, Files: 3, Burst: 1e9}, c.now, c.uptime)
	r.Attach(dir)
	for i := range 500 {
		r.Ring("x").Printf("line %d %s", i, strings.Repeat("y", 20))
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, e := range list {
		st, _ := e.Info()
		sum += st.Size()
	}
	if len(list) != 3 || sum > 3*1100 {
		t.Errorf("%d files with %d bytes; want 3 with about 3000 at most", len(list), sum)
	}
	if got := text(t, r, "x"); !strings.Contains(got, "line 499 ") || strings.Contains(got, "line 1 ") {
		t.Error("the ring keeps the wrong end")
	}
	r.Ring("x").Write(bytes.Repeat([]byte("z"), 100000))
	r.Ring("x").Write([]byte("\n"))
	got := text(t, r, "x")
	if last := got[strings.LastIndex(strings.TrimRight(got, "\n"), "\n")+1:]; len(last) > maxLine+60 || !strings.Contains(last, "[...]") {
		t.Errorf("a line of 100000 bytes became one of %d", len(last))
	}
}

func TestThrottled(t *testing.T) {
	c := &clock{}
	r := New(Limits{PerSecond: 2, Burst: 5}, c.now, c.uptime)
	for i := range 100 {
		r.Ring("x").Printf("line %d", i)
	}
	if n := strings.Count(text(t, r, "x"), "\n"); n != 5 {
		t.Errorf("%d lines of 100; want the burst of 5", n)
	}
	c.up += time.Second
	r.Ring("x").Printf("later")
	if got := text(t, r, "x"); !strings.Contains(got, "[95 lines left out") || !strings.HasSuffix(got, "later\n") {
		t.Errorf("%q", got)
	}
}

func TestFullDiskKeepsNewestInMemory(t *testing.T) {
	c, dir := &clock{}, t.TempDir()
	r := New(Limits{Burst: 1e9}, c.now, c.uptime)
	gone := filepath.Join(dir, "gone")
	r.Attach(gone) // no such folder: every write fails, as on a full disk
	for i := range 5000 {
		r.Ring("x").Printf("line %d", i)
	}
	got := text(t, r, "x")
	if len(got) > maxMemory || !strings.HasSuffix(got, "line 4999\n") {
		t.Errorf("%d bytes ending in %q", len(got), got[len(got)-20:])
	}
	if err := os.Mkdir(gone, 0o700); err != nil {
		t.Fatal(err)
	}
	r.Ring("x").Printf("space again")
	if raw, err := os.ReadFile(filepath.Join(gone, "x.0.log")); err != nil || !bytes.Contains(raw, []byte("line 4999")) || !bytes.HasSuffix(raw, []byte("space again\n")) {
		t.Errorf("%v, %d bytes on the disk", err, len(raw))
	}
}
