// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// wireBytes runs the measurement that stands beside the link: two boxes with real stores and links over a simulated line in
// virtual time, which only the testing package offers.
func wireBytes(ctx context.Context, b *bench) error {
	return b.measured(ctx, "hallig/sync/link", "^TestWireBytes$", "B")
}

// measured runs tests that measure and prints what they say in lines "measured NAME VALUE how", with a unit of "" in lines "measured NAME VALUE UNIT how". env is added to the environment.
func (b *bench) measured(ctx context.Context, pkg, tests, unit string, env ...string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", tests, pkg)
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	found := false
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[0] != "measured" {
			continue
		}
		value, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return fmt.Errorf("read measurement: %w", err)
		}
		found = true
		if unit == "" {
			b.say(f[1], value, f[3], strings.Join(f[4:], " "))
			continue
		}
		b.say(f[1], value, unit, strings.Join(f[3:], " "))
	}
	if !found {
		return fmt.Errorf("the measurement printed no figure:\n%s", out.Bytes())
	}
	return nil
}
