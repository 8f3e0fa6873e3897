// SPDX-License-Identifier: EUPL-1.2

// Command hallig-lan gives the box its manners on local networks: guest where there is a DHCP server, host where there is none. It is a process
// of its own so that what needs rights over the network (CAP_NET_ADMIN, CAP_NET_RAW, CAP_NET_BIND_SERVICE) is small and knows nothing of rooms.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"hallig/appliance/nic"
)

var version = "unknown"

func main() {
	run := flag.String("run", "/run/hallig", "directory with network.json and box/names.json; lan/lan.json is written there")
	resolv := flag.String("resolv", "/tmp/resolv.conf", `resolver file to write, where /etc/resolv.conf points to; "": none`)
	debug := flag.Bool("debug", false, "log more")
	show := flag.Bool("version", false, "print the version")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), "hallig-lan: addresses and names on the local networks of a box.\n\nExample: hallig-lan --run /run/hallig\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	if *show {
		fmt.Println(version)
		return
	}
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "hallig-lan: unexpected argument %q; see hallig-lan -h\n", flag.Arg(0))
		os.Exit(2)
	}
	level := slog.LevelInfo
	if *debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for {
		err := nic.Run(ctx, nic.Config{Run: *run, Resolv: *resolv, Log: log})
		if errors.Is(err, nic.ErrSettings) {
			log.Info("network settings changed, beginning anew")
			continue
		}
		if err != nil {
			log.Error("hallig-lan stops", "err", err)
			os.Exit(1)
		}
		return
	}
}
