// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// channelUse runs the measurement that stands beside radio/channel: several stations that all want to send without end, in virtual time.
func channelUse(ctx context.Context, b *bench) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^(TestUse|TestBroadcast)$", "hallig/radio/channel")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, out.Bytes())
	}
	for lines := bufio.NewScanner(&out); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 3 || f[0] != "measured" {
			continue
		}
		value, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			return fmt.Errorf("read measurement: %w", err)
		}
		b.say(f[1], value, "x", strings.Join(f[3:], " "))
	}
	return nil
}
