// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"hallig/sync/hub"
	"hallig/sync/hub/spool"
)

const databaseAgain = 3 * time.Second

// openSpool opens the hub's memory: the database that the configuration names, or else the file in its data directory. A database that is away is waited for: after a power cut it
// may come up later than the hub.
func openSpool(ctx context.Context, cfg hub.Config, log *slog.Logger) (spool.Spool, error) {
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	log = log.With("room", "spool")
	if cfg.Database == "" {
		return spool.Open(filepath.Join(cfg.Data, "spool.db"), spool.Limits{}, log)
	}
	for said := false; ; {
		s, err := spool.Connect(ctx, cfg.Database, spool.Limits{}, log)
		if !errors.Is(err, spool.ErrAway) {
			return s, err
		}
		if !said {
			log.Warn("the hub waits for its database before it serves", "err", err)
			said = true
		}
		select {
		case <-time.After(databaseAgain):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// restored is said after a copy of the hub's memory was put back.
func restored(ctx context.Context, args []string, out, errOut io.Writer) error {
	f, dir := flags("restored", errOut)
	if _, err := parse(f, args, 0); err != nil {
		return err
	}
	cfg, err := hub.LoadConfig(*dir)
	if err != nil {
		return err
	}
	if cfg.Database == "" { // nothing is made here
		if _, err := os.Stat(filepath.Join(*dir, "spool.db")); err != nil {
			return fmt.Errorf("there is no spool to speak of: %w; put the copy back first", err)
		}
	}
	s, err := openSpool(ctx, cfg, slog.New(slog.NewTextHandler(errOut, nil)))
	if err != nil {
		return err
	}
	err = s.Restored(ctx)
	if err := errors.Join(err, s.Close()); err != nil {
		return fmt.Errorf("take note that a copy was put back: %w", err)
	}
	fmt.Fprintln(out, "noted: nothing that was given out after the copy was made is given out again. Start the hub now; boxes that were paired after the copy have to be paired again.")
	return nil
}
