// SPDX-License-Identifier: EUPL-1.2

// Command bench measures a box as its users meet it: the real binary in a process of its own, the real disk, real
// HTTP over loopback, and the real serial link in virtual time. Each experiment is a function in a file of its own and a row of measures. It prints one line `bench NAME VALUE UNIT` for each figure,
// after a line `# ...` that says how it was measured. Nothing here passes or fails; targets stand in the README.
//
//	go run ./tools/bench -hallig bin/hallig [-only name,name] [-dir DIR]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
)

// measure is one experiment and the figures that it yields.
type measure struct {
	names []string
	run   func(context.Context, *bench) error
}

// bench is what the experiments share.
type bench struct {
	hallig string   // the binary under test
	dir    string   // where data directories are made: a real disk
	only   []string // empty: everything
}

func (b *bench) wants(name string) bool { return len(b.only) == 0 || slices.Contains(b.only, name) }

// say prints one figure, if it was asked for.
func (b *bench) say(name string, value float64, unit, how string) {
	if !b.wants(name) {
		return
	}
	number := strconv.FormatFloat(value, 'f', 3, 64)
	if value >= 100 {
		number = strconv.FormatFloat(value, 'f', 0, 64)
	}
	fmt.Printf("# %s: %s\nbench %s %s %s\n", name, how, name, number, unit)
}

// measures are in the order of the report; each stands in a file of its own.
var measures = []measure{
	{[]string{"start_to_versions_ms"}, startTime},
	{[]string{"rss_idle_bytes", "rss_idle_p2p_bytes"}, idleMemory},
	{[]string{"accept_per_cpu_s", "accept_per_s", "disk_bytes_per_message", "flushes_per_message"}, accept},
	{[]string{"accept_remote_x_floor", "accept_remote_per_cpu_s"}, remote},
	{[]string{"disk_bytes_lone_message"}, loneMessage},
	{[]string{"db_bytes_per_message_300", "db_bytes_per_message_300_e2ee"}, growth},
	{[]string{"send_to_sync_p50_ms", "send_to_sync_p99_ms"}, sendToSync},
	{[]string{"resolve_2x1000_ms", "resolve_10000_members_ms"}, resolution},
	{[]string{"state_cold_10k_ms"}, stateCold},
	{[]string{"join_big_talk_s", "join_big_resync_s", "join_big_rss_mb", "tell_big_s", "tell_big_rss_mb"}, joinBig},
	{[]string{"links_rss_bytes"}, linksMemory},
	{[]string{"lan_first_event_s"}, lanFirstEvent},
	{[]string{"wire_bytes_clear_100", "wire_bytes_e2ee_100"}, wireBytes},
	{[]string{"flash_p99_same_s", "flash_p99_same_signed_s", "flash_p99_opposite_s", "flash_p99_opposite_signed_s",
		"flash_p95_same_loss20_s", "flash_p95_same_loss20_signed_s", "flash_p95_opposite_loss20_s", "flash_p95_opposite_loss20_signed_s"}, flashLatency},
	{[]string{"recon_bytes_10000", "recon_rtt", "recon_bytes_per_difference"}, reconcile},
	{[]string{"codec_mean_percent", "codec_fallback_percent", "codec_queue_percent"}, codec},
	{[]string{"send50_bytes", "send50_whole_bytes"}, sends},
	{[]string{"courier_100k_s", "courier_bytes_per_event"}, courier},
	{[]string{"join200_9600_s", "join200_1200_s"}, joinRoom},
	{[]string{"goodput_1200_loss0", "goodput_1200_loss5", "goodput_1200_loss20"}, goodput},
	{[]string{"goodput_wire_loss0", "goodput_wire_loss5", "goodput_wire_loss20"}, goodputWire},
	{[]string{"spool_append_per_s_sqlite", "spool_bytes_written_sqlite"}, spoolSQLite},
	{[]string{"spool_append_per_s_pg", "spool_bytes_written_pg"}, spoolPostgres},
	{[]string{"eu868_share_percent", "eu868_violations"}, dutyCycle},
	{[]string{"channel_use_4_loss0", "channel_use_4_loss5", "channel_use_4_loss20", "channel_use_8_loss5", "bus_use_4_loss0", "bus_use_4_loss20",
		"cast_gain_4_loss0_polls_false", "cast_gain_4_loss5_polls_false", "cast_gain_4_loss20_polls_false", "cast_gain_4_loss0_polls_true", "cast_gain_4_loss20_polls_true"}, channelUse},
}

func main() {
	var b bench
	only := flag.String("only", "", "names, separated by commas; empty: all")
	flag.StringVar(&b.hallig, "hallig", "bin/hallig", "the binary to measure")
	flag.StringVar(&b.dir, "dir", "", "directory for data, on the disk to measure (default: the system's directory for temporary files)")
	flag.Parse()
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	failed := false
	for _, m := range measures {
		if !slices.ContainsFunc(m.names, b.wants) {
			continue
		}
		if err := m.run(ctx, &b); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", strings.Join(m.names, ", "), err)
			failed = true
		}
	}
	for _, name := range b.only {
		if !slices.ContainsFunc(measures, func(m measure) bool { return slices.Contains(m.names, name) }) {
			fmt.Fprintf(os.Stderr, "bench: no figure is called %q\n", name)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}
