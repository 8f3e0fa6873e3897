// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"hallig/appliance"
)

func serve(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("serve", errOut)
	name := f.String("name", "", "server name; fixed with the first account")
	open := f.Bool("open-registration", false, "everybody may register, without limits (test beds)")
	listen := f.String("listen", "", "ADDR:PORT of the Client-Server API, plain HTTP (default 127.0.0.1:8008)")
	tlsListen := f.String("tls-listen", "", "ADDR:PORT of the same over TLS, or off (default off, with --run :443)")
	runDir := f.String("run", "", "directory of the running image (/run/hallig): serve as an appliance, on ports 80 and 443")
	provision := f.String("provision", "", "provisioning file (hallig.json) below config.json and flags")
	trial := f.Bool("trial", false, "an update is tried out: keep the doors closed until it is confirmed")
	federation := f.String("federation", "", "ADDR:PORT of the Server-Server API, TLS")
	restored := f.Bool("restored", false, "the data directory was restored from a backup; once, at the first start after it")
	trustClock := f.Bool("trust-clock", false, "the system's clock is right, though the kernel does not know it")
	quiet := f.Bool("quiet", false, "log warnings and errors only")
	verbose := f.Bool("verbose", false, "log everything")
	words, err := parse(f, args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return fmt.Errorf("%w: %q is not expected; hallig help shows an example", errUsage, words[0])
	}
	level := slog.LevelInfo
	if *quiet {
		level = slog.LevelWarn
	}
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}))
	slog.SetLogLoggerLevel(slog.LevelDebug) // what libraries print is for those who ask for everything
	slog.SetDefault(log)
	takeOver := *provision
	if *trial {
		takeOver = "" // an update is no first start, and opens the database only once
	}
	trouble, err := appliance.TakeOver(ctx, *dir, takeOver, *runDir, log)
	if err != nil {
		return err
	}
	cfg, err := appliance.LoadProvisioned(*dir, *provision)
	if err != nil {
		return err
	}
	if trouble.En != "" {
		cfg.Trouble = trouble
	}
	cfg.Version, cfg.Released, cfg.Restored = version, released(), *restored
	if *name != "" {
		cfg.ServerName = *name
	}
	if *listen != "" {
		cfg.Listen = *listen
	}
	if *tlsListen != "" {
		cfg.TLSListen = *tlsListen
	}
	cfg.Run, cfg.Trial = *runDir, *trial
	if *federation != "" {
		cfg.Federation = *federation
	}
	cfg.OpenRegistration = cfg.OpenRegistration || *open
	if *trustClock {
		cfg.Clock = "system"
	}
	for {
		err := serveOnce(ctx, cfg, log, out)
		if !errors.Is(err, appliance.ErrRotate) {
			return err
		}
		if _, err := appliance.RotateKey(ctx, cfg, log); err != nil {
			return err
		}
		cfg.Restored = false
	}
}

// serveOnce is the box from its start to its end.
func serveOnce(ctx context.Context, cfg appliance.Config, log *slog.Logger, out io.Writer) error {
	box, err := appliance.Open(ctx, cfg, log)
	if err != nil {
		return err
	}
	box.Screen().Print(out)
	runErr := box.Run(ctx)
	if err := box.Close(); err != nil && (runErr == nil || errors.Is(runErr, appliance.ErrRotate)) {
		return err
	}
	return runErr
}

// released is when the program's sources were last changed; zero when the build does not say. A build of the image says it itself, as it
// must not depend on there being a repository; otherwise the go tool has noted it.
func released() time.Time {
	if t, err := time.Parse(time.RFC3339, releasedAt); err == nil {
		return t
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			t, _ := time.Parse(time.RFC3339, s.Value) // zero when it cannot be read
			return t
		}
	}
	return time.Time{}
}
