// SPDX-License-Identifier: EUPL-1.2

// Package slowclock builds programs of this repository whose clock goes N times slower than the machine's: to such a program N seconds are one. Everything that waits, ours and the libraries', waits N times
// longer, and what has to be done costs what it costs, so that programs which speak with each other see a machine of N times as many processors. Nothing of the product is changed: Go's own time is, in copies of some files of its
// runtime that the compiler reads in place of the installed ones (go build -overlay).
//
// Dates begin to go slowly at Since. What is not Go keeps the machine's time: PostgreSQL, whose patience is replaced where it is written down (Patience), the kernel, disks.
package slowclock

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Clock says how slow.
type Clock struct {
	Times int       // seconds of the machine for one; 1 to 1000
	Since time.Time // when both clocks showed the same; to the second
	// Patience, by source file below the root of the repository, is text to be put in place of other text: waiting that others than Go do for us.
	Patience map[string]map[string]string
}

// change is text of Go's runtime and what stands in its place.
type change struct{ old, now string }

// changes are those of Go 1.26 on linux/amd64. slowTimes and slowSince are set by the linker, so that the runtime, and all that stands on it, is compiled once for every clock.
var changes = map[string][]change{
	"time_nofake.go": {{"\treturn nanotime1()\n}\n", `	return nanotime1() / slowNumber(slowTimes)
}

var slowTimes, slowSince string

//go:nosplit
func slowNumber(text string) (n int64) {
	for i := 0; i < len(text); i++ {
		n = 10*n + int64(text[i]-'0')
	}
	return n
}
`}},
	"timeasm.go": {{"//go:linkname time_now time.now\nfunc time_now() (sec int64, nsec int32, mono int64)\n", `func machineNow() (sec int64, nsec int32, mono int64)

//go:linkname time_now time.now
func time_now() (sec int64, nsec int32, mono int64) {
	sec, nsec, _ = machineNow()
	since := slowNumber(slowSince)
	t := ((sec-since)*1e9 + int64(nsec)) / slowNumber(slowTimes)
	return since + t/1e9, int32(t % 1e9), nanotime()
}
`}},
	"time_linux_amd64.s": {{"TEXT time·now<ABIInternal>(SB)", "TEXT ·machineNow<ABIInternal>(SB)"}},
	"netpoll_epoll.go":   {{"\tvar waitms int32\n\tif delay < 0 {", "\tvar waitms int32\n\tif delay > 0 && delay < 1e15 {\n\t\tdelay *= slowNumber(slowTimes)\n\t}\n\tif delay < 0 {"}},
	"os_linux.go":        {{"\tts.setNsec(ns)\n\tfutex(unsafe.Pointer(addr), _FUTEX_WAIT_PRIVATE", "\tif ns < 1e15 {\n\t\tns *= slowNumber(slowTimes)\n\t}\n\tts.setNsec(ns)\n\tfutex(unsafe.Pointer(addr), _FUTEX_WAIT_PRIVATE"}},
}

// Build compiles the main package pkg ("hallig/cmd/hallig-hub") with a slow clock to the file out. flags are further ones of go build's linker ("-X main.name=value"). The first time on a machine compiles everything, which takes minutes.
func (c Clock) Build(ctx context.Context, out, pkg string, flags ...string) error {
	if c.Times < 1 || c.Times > 1000 || c.Since.After(time.Now()) {
		return fmt.Errorf("a clock that is %d times slower, since %v: want 1 to 1000, and no time to come", c.Times, c.Since)
	}
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		return errors.New("only on linux/amd64 is it known how to slow the clock down")
	}
	dir, err := os.MkdirTemp("", "slowclock")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	overlay, err := c.overlay(ctx, dir)
	if err != nil {
		return err
	}
	flags = append(flags, "-X runtime.slowTimes="+strconv.Itoa(c.Times), "-X runtime.slowSince="+strconv.FormatInt(c.Since.Unix(), 10))
	cmd := exec.CommandContext(ctx, "go", "build", "-overlay", overlay, "-ldflags", strings.Join(flags, " "), "-o", out, pkg)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s with a slow clock: %w: %s", pkg, err, said)
	}
	return nil
}

// overlay writes the changed files and the list of them that the compiler wants, and gives its name.
func (c Clock) overlay(ctx context.Context, dir string) (string, error) {
	root, err := goSays(ctx, "env", "GOROOT")
	if err != nil {
		return "", err
	}
	module, err := goSays(ctx, "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	put := func(path string, cs []change) error {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, c := range cs {
			if n := bytes.Count(text, []byte(c.old)); n != 1 {
				return fmt.Errorf("%s has %d times %q where once was expected: it is another version than the one that is known here (tools/slowclock)", path, n, c.old)
			}
			text = bytes.Replace(text, []byte(c.old), []byte(c.now), 1)
		}
		replace[path] = filepath.Join(dir, fmt.Sprint(len(replace), "-", filepath.Base(path)))
		return os.WriteFile(replace[path], text, 0o600)
	}
	for name, cs := range changes {
		if err := put(filepath.Join(root, "src", "runtime", name), cs); err != nil {
			return "", err
		}
	}
	for name, texts := range c.Patience {
		var cs []change
		for old, now := range texts {
			cs = append(cs, change{old, now})
		}
		if err := put(filepath.Join(module, name), cs); err != nil {
			return "", err
		}
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, raw, 0o600)
}

func goSays(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", args...).Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
