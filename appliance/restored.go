// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"hallig/appliance/backup"
)

// This file remembers that a box came from a backup, for as long as somebody has to be told what is left to do: the backup's secret key still lies on a
// stick, the old box may still be somewhere, and nothing may be backed up any more, for the provisioning file of the box before is not that of this one.

const (
	restoredNote  = ".restored.json" // with a dot: backups leave it out
	restoredSays  = 30 * 24 * time.Hour
	restoredKnown = 24 * time.Hour // the same where backups are set up, which leaves less to do
)

// restoredMark says since when a box that came from a backup has known the time; zero: not yet. The time of the restore itself is no good, for a box that
// has just been restored mostly does not know it.
type restoredMark struct {
	Since time.Time `json:"since"`
}

// noteRestored notes a restore that has just been, and reads the note of an earlier one.
func (b *Box) noteRestored() error {
	name := filepath.Join(b.cfg.Data, restoredNote)
	if backup.JustRestored(b.cfg.Data) {
		b.keeper.restored = &restoredMark{}
		return b.keepRestored(*b.keeper.restored)
	}
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read when the box was restored: %w", err)
	}
	m := &restoredMark{}
	if json.Unmarshal(raw, m) != nil {
		m = &restoredMark{} // told for too long rather than not at all
	}
	b.keeper.restored = m
	return nil
}

func (b *Box) keepRestored(m restoredMark) error {
	raw, err := json.Marshal(m)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(b.cfg.Data, restoredNote), raw, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note the restore: %w", err)
	}
	return nil
}

// tellRestored says whether people are still to be told that this box came from a backup.
func (b *Box) tellRestored() bool {
	k := &b.keeper
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.restored == nil || !b.clock.Trusted() {
		return k.restored != nil
	}
	now, most := b.clock.Now(), restoredSays
	if b.cfg.Backup.To != "" {
		most = restoredKnown
	}
	switch {
	case k.restored.Since.IsZero():
		k.restored.Since = now
		if err := b.keepRestored(*k.restored); err != nil {
			b.log.Warn("restore not noted", "err", err)
		}
	case now.Sub(k.restored.Since) > most:
		k.restored = nil
		if err := os.Remove(filepath.Join(b.cfg.Data, restoredNote)); err != nil {
			b.log.Warn("note of the restore not removed", "err", err)
		}
	}
	return k.restored != nil
}
