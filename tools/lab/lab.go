// SPDX-License-Identifier: EUPL-1.2

// Command lab lets five boxes with real stores, rooms, links, radios, relays and a stick live through days of partitions,
// restarts, crashes, a restore, wrong clocks, and members who come and go, in virtual time: in a row, then in a ring in which three share one
// radio channel. Its last line counts what was lost. The story itself is a test beside the link (TestLab), because only the testing package offers virtual time.
//
//	go run ./tools/lab [-seed N] [-days N]
//
// The tests in this folder try whole boxes: real `hallig serve` processes on loopback, spoken to as phones, operators and other boxes
// would, joined by networks and serial lines that can be cut, and killed while they work.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

func main() {
	seed := flag.Uint64("seed", 1, "of the story; another number, another story")
	days := flag.Int("days", 8, "virtual days in a row, and as many in a ring")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := live(ctx, *seed, *days, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v; play it again with: make lab SEED=%d\n", err, *seed)
		os.Exit(1)
	}
}

var errNoEnd = errors.New("the story has no last line")

// live runs the story, shows what it says, and says its last line last.
func live(ctx context.Context, seed uint64, days int, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", "40m", "-run", "^TestLab$", "hallig/sync/link")
	cmd.Env = append(os.Environ(), "HALLIG_LAB="+strconv.Itoa(days), "HALLIG_LAB_SEED="+strconv.FormatUint(seed, 10))
	said, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	began := time.Now()
	fmt.Fprintf(out, "five boxes, %d days in a row and %d in a ring, seed %d; this takes some minutes\n", days, days, seed)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the story: %w", err)
	}
	last := ""
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, "lab: ") {
			last = line
		} else if strings.Contains(line, "_test.go:") {
			fmt.Fprintln(out, strings.TrimSpace(line))
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("after %v: %w", time.Since(began).Round(time.Second), err)
	}
	if last == "" {
		return errNoEnd
	}
	_, err = fmt.Fprintln(out, last)
	return err
}
